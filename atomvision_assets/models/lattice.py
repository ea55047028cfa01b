"""Assets of the models of the Bravais lattice."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets, processes
from atomvision_assets.store import Work
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.settings import settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint


class LatticeFinderConfig(dg.Config, LatticeFinderParameters):
    """Parameters of the lattice finder."""

    size: Size = Field(default=settings().size, description="Size of the graph.")


def _make_lattice_finder(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """A method without training: its checkpoint holds parameters and a card."""
    from atomvision_ml.evaluation.splits import split_counts
    from atomvision_ml.models.checkpoint import classical_checkpoint, update_card

    folder = work.scratch() / "checkpoint"
    checkpoint = classical_checkpoint("lattice_finder", LatticeFinderParameters(**parameters), folder)
    return update_card(checkpoint, data_versions=work.inputs, splits=split_counts(training_set.to_dicts()))


def _predict_lattice(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    from atomvision_ml.evaluation.tasks.lattice import predict_lattice
    from atomvision_ml.models.checkpoint import load_checkpoint

    return predict_lattice(
        holdout,
        training_set,
        work.lake.blob,
        model_id=model_id,
        parameters=load_checkpoint(checkpoint).parameters,
        processes=processes(),
        progress=work.progress,
    )


lattice_finder, predictions_lattice_finder = model_assets(
    ModelAssets(
        name="lattice_finder",
        config=LatticeFinderConfig,
        train=_make_lattice_finder,
        predict=_predict_lattice,
        code_version="1",
        prediction_code_version="1",
        kinds={"scipy", "parquet"},
    )
)
