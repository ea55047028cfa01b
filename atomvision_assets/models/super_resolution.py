"""Assets of the models of super-resolution."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.super_resolution.resolver import SuperResolverParameters
from atomvision_ml.models.super_resolution.srgan import SrganParameters
from atomvision_ml.settings import cores, settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint

_SUPER_RESOLVER = "models/super_resolver"
_SIZE = "Size of the graph; full trains longer where the defaults are left."


class SuperResolverConfig(dg.Config, SuperResolverParameters):
    """Parameters of the super-resolver and of its training."""

    size: Size = Field(default=settings().size, description=_SIZE)


class SrganConfig(dg.Config, SrganParameters):
    """Parameters of the SRGAN and of its training."""

    size: Size = Field(default=settings().size, description=_SIZE)


def _train_super_resolver(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    from atomvision_ml.models.super_resolution.training import train_super_resolver

    return train_super_resolver(
        training_set,
        work.lake.blob,
        SuperResolverParameters(**parameters),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


def _train_srgan(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """The generator starts from the published super-resolver, if that has the same form."""
    from atomvision_ml.models.super_resolution.srgan import train_srgan

    (resolver,) = work.scan(_SUPER_RESOLVER).filter("is_checkpoint").collect().to_dicts()
    return train_srgan(
        training_set,
        work.lake.blob,
        SrganParameters(**parameters),
        scratch=work.scratch(),
        start=work.lake.blob(resolver["blob"]),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


def _predict(
    work: Work,
    holdout: "pl.DataFrame",
    training_set: "pl.DataFrame",
    model_id: str,
    checkpoint: Path,
    *,
    has_baselines: bool,
) -> "pa.Table":
    from atomvision_ml.evaluation.tasks.super_resolution import predict_super_resolution

    return predict_super_resolution(
        holdout,
        training_set,
        work.lake.blob,
        checkpoint=checkpoint,
        model_id=model_id,
        has_baselines=has_baselines,
        processes=cores(),
        progress=work.progress,
    )


super_resolver, predictions_super_resolver = model_assets(
    ModelAssets(
        name="super_resolver",
        config=SuperResolverConfig,
        train=_train_super_resolver,
        predict=partial(_predict, has_baselines=True),
        predict_further=partial(_predict, has_baselines=False),
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={"epochs": 12, "crops_per_epoch": 640, "aliased_fraction": 0.6},
    )
)

srgan, predictions_srgan = model_assets(
    ModelAssets(
        name="srgan",
        config=SrganConfig,
        train=_train_srgan,
        predict=partial(_predict, has_baselines=False),
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={"epochs": 6, "crops_per_epoch": 320, "aliased_fraction": 0.6},
        train_deps=(_SUPER_RESOLVER,),
    )
)
