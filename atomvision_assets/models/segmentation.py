"""Assets of the models of segmentation."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.refined_segmenter import RefinedSegmenterParameters
from atomvision_ml.models.segmenter import GaussianSegmenterParameters, SegmenterParameters
from atomvision_ml.settings import cores, settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint


_SEGMENTER, _SEGMENTED = "models/segmenter", "predictions/segmenter"


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
        processes=cores(),
        progress=work.progress,
    )


class RefinedSegmenterConfig(dg.Config, RefinedSegmenterParameters):
    """Parameters of the refined segmenter."""

    size: Size = Field(default=settings().size, description="Size of the graph.")


def _make_refined_segmenter(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """A method without weights of its own: its checkpoint holds parameters and a card."""
    from atomvision_ml.evaluation.splits import split_counts
    from atomvision_ml.models.checkpoint import classical_checkpoint, update_card

    folder = work.scratch() / "checkpoint"
    checkpoint = classical_checkpoint("refined_segmenter", RefinedSegmenterParameters(**parameters), folder)
    return update_card(checkpoint, data_versions=work.inputs, splits=split_counts(training_set.to_dicts()))


def _predict_refined(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    """It starts from what the published segmenter said of the same items."""
    import polars as pl

    from atomvision_ml.evaluation.tasks.segmentation import predict_refined
    from atomvision_ml.models.checkpoint import load_checkpoint

    (segmenter,) = work.scan(_SEGMENTER).filter("is_checkpoint").collect()["model_id"]
    return predict_refined(
        holdout,
        work.scan(_SEGMENTED).filter(pl.col("model_id") == segmenter).collect(),
        work.lake.blob,
        model_id=model_id,
        parameters=load_checkpoint(checkpoint).parameters,
        processes=cores(),
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

refined_segmenter, predictions_refined_segmenter = model_assets(
    ModelAssets(
        name="refined_segmenter",
        config=RefinedSegmenterConfig,
        train=_make_refined_segmenter,
        predict=_predict_refined,
        code_version="2",
        prediction_code_version="2",
        kinds={"scipy", "parquet"},
        predict_deps=(_SEGMENTER, _SEGMENTED),
    )
)
