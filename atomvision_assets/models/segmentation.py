"""Assets of the models of segmentation."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets, processes
from atomvision_assets.store import Work
from atomvision_ml.models.segmenter import GaussianSegmenterParameters, SegmenterParameters
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


class GaussianSegmenterConfig(dg.Config, GaussianSegmenterParameters):
    """Parameters of the segmenter with Gaussian target and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


def _train_segmenter(
    work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any], *, chosen: type[SegmenterParameters]
) -> "Checkpoint":
    from atomvision_ml.models.segmenter_training import train_segmenter

    return train_segmenter(
        training_set,
        work.lake.blob,
        chosen(**parameters),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


def _predict_segmentation(
    work: Work,
    holdout: "pl.DataFrame",
    training_set: "pl.DataFrame",
    model_id: str,
    checkpoint: Path,
    *,
    has_baselines: bool,
) -> "pa.Table":
    from atomvision_ml.evaluation.tasks.segmentation import predict_segmentation

    return predict_segmentation(
        holdout,
        training_set,
        work.lake.blob,
        checkpoint=checkpoint,
        model_id=model_id,
        has_baselines=has_baselines,
        processes=processes(),
        progress=work.progress,
    )


_FULL = {"epochs": 24, "crops_per_epoch": 960, "patience": 12}

segmenter, predictions_segmenter = model_assets(
    ModelAssets(
        name="segmenter",
        config=SegmenterConfig,
        train=partial(_train_segmenter, chosen=SegmenterParameters),
        predict=partial(_predict_segmentation, has_baselines=True),
        predict_further=partial(_predict_segmentation, has_baselines=False),
        code_version="1",
        prediction_code_version="2",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full=_FULL,
    )
)

gaussian_segmenter, predictions_gaussian_segmenter = model_assets(
    ModelAssets(
        name="gaussian_segmenter",
        config=GaussianSegmenterConfig,
        train=partial(_train_segmenter, chosen=GaussianSegmenterParameters),
        predict=partial(_predict_segmentation, has_baselines=False),
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full=_FULL,
    )
)
