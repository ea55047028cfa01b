"""Assets of the models of atom finding."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.atom_finder import AtomFinderParameters
from atomvision_ml.settings import cores, settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint

_SEGMENTER = "models/segmenter"


class AtomFinderConfig(dg.Config, AtomFinderParameters):
    """Parameters of the atom finder."""

    size: Size = Field(default=settings().size, description="Size of the graph.")


def _make_atom_finder(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """A method without training of its own: its checkpoint holds parameters and a card."""
    from atomvision_ml.evaluation.splits import split_counts
    from atomvision_ml.models.checkpoint import classical_checkpoint, update_card

    folder = work.scratch() / "checkpoint"
    checkpoint = classical_checkpoint("atom_finder", AtomFinderParameters(**parameters), folder)
    return update_card(checkpoint, data_versions=work.inputs, splits=split_counts(training_set.to_dicts()))


def _predict_atoms(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    """It starts from the map of the published segmenter."""
    from atomvision_ml.evaluation.tasks.atoms import predict_atoms
    from atomvision_ml.models.checkpoint import load_checkpoint

    (segmenter,) = work.scan(_SEGMENTER).filter("is_checkpoint").collect().to_dicts()
    return predict_atoms(
        holdout,
        training_set,
        work.lake.blob,
        segmenter=work.lake.blob(segmenter["blob"]),
        model_id=model_id,
        parameters=load_checkpoint(checkpoint).parameters,
        processes=cores(),
        progress=work.progress,
    )


atom_finder, predictions_atom_finder = model_assets(
    ModelAssets(
        name="atom_finder",
        config=AtomFinderConfig,
        train=_make_atom_finder,
        predict=_predict_atoms,
        code_version="2",
        prediction_code_version="4",
        kinds={"scipy", "parquet"},
        predict_deps=(_SEGMENTER,),
    )
)
