"""Assets of the models of defects."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.defect_finder import DefectFinderParameters
from atomvision_ml.settings import cores, settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint


class DefectFinderConfig(dg.Config, DefectFinderParameters):
    """Parameters of the defect finder."""

    size: Size = Field(default=settings().size, description="Size of the graph.")


def _make_defect_finder(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """A method without training: its checkpoint holds parameters and a card."""
    from atomvision_ml.evaluation.splits import split_counts
    from atomvision_ml.models.checkpoint import classical_checkpoint, update_card

    folder = work.scratch() / "checkpoint"
    checkpoint = classical_checkpoint("defect_finder", DefectFinderParameters(**parameters), folder)
    return update_card(checkpoint, data_versions=work.inputs, splits=split_counts(training_set.to_dicts()))


def _predict_defects(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    from atomvision_ml.evaluation.tasks.defects import predict_defects
    from atomvision_ml.models.checkpoint import load_checkpoint

    return predict_defects(
        holdout,
        training_set,
        work.lake.blob,
        model_id=model_id,
        parameters=load_checkpoint(checkpoint).parameters,
        processes=cores(),
        progress=work.progress,
    )


defect_finder, predictions_defect_finder = model_assets(
    ModelAssets(
        name="defect_finder",
        config=DefectFinderConfig,
        train=_make_defect_finder,
        predict=_predict_defects,
        code_version="1",
        prediction_code_version="2",
        kinds={"scipy", "parquet"},
    )
)
