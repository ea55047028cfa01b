"""Assets of the models of segmentation."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets, processes
from atomvision_assets.store import Work
from atomvision_ml.models.segmenter import SegmenterParameters
from atomvision_ml.settings import settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint


class SegmenterConfig(dg.Config, SegmenterParameters):
    """Parameters of the segmenter and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


def _train_segmenter(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    from atomvision_ml.models.segmenter_training import train_segmenter

    return train_segmenter(
        training_set,
        work.lake.blob,
        SegmenterParameters(**parameters),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


def _predict_segmentation(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    from atomvision_ml.evaluation.tasks.segmentation import predict_segmentation

    return predict_segmentation(
        holdout,
        training_set,
        work.lake.blob,
        checkpoint=checkpoint,
        model_id=model_id,
        processes=processes(),
        progress=work.progress,
    )


segmenter, predictions_segmenter = model_assets(
    ModelAssets(
        name="segmenter",
        config=SegmenterConfig,
        train=_train_segmenter,
        predict=_predict_segmentation,
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={"epochs": 24, "crops_per_epoch": 960, "patience": 12},
    )
)
