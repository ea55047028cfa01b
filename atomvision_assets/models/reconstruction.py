"""Assets of the models of reconstruction."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Predict, Size, Train, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.autoencoder import AutoencoderParameters, ConvAutoencoderParameters
from atomvision_ml.settings import settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint

FULL = {"latent_size": 1120, "component_images": 11200, "epochs": 8, "images_per_epoch": 1536}


class AutoencoderConfig(dg.Config, AutoencoderParameters):
    """Parameters of the dense autoencoder and of its training."""

    size: Size = Field(default=settings().size, description="Size of the graph; full has the latent of the paper.")


class ConvAutoencoderConfig(dg.Config, ConvAutoencoderParameters):
    """Parameters of the convolutional autoencoder and of its training."""

    size: Size = Field(default=settings().size, description="Size of the graph; full has the latent of the paper.")


def _train(parameters_class: type[AutoencoderParameters]) -> Train:
    def train(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
        from atomvision_ml.models.autoencoder_training import train_autoencoder

        return train_autoencoder(
            training_set,
            work.lake.blob,
            parameters_class(**parameters),
            scratch=work.scratch(),
            progress=work.progress,
            device=settings().device,
            data_versions=work.inputs,
        )

    return train


def _predict(*, baselines: bool) -> Predict:
    """The convolutional autoencoder's predictions hold the baselines of both."""

    def predict(
        work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
    ) -> "pa.Table":
        from atomvision_ml.evaluation.tasks.reconstruction import predict_reconstruction

        return predict_reconstruction(
            holdout,
            training_set,
            work.lake.blob,
            checkpoint=checkpoint,
            model_id=model_id,
            baselines=baselines,
            progress=work.progress,
        )

    return predict


autoencoder, predictions_autoencoder = model_assets(
    ModelAssets(
        name="autoencoder",
        config=AutoencoderConfig,
        train=_train(AutoencoderParameters),
        predict=_predict(baselines=False),
        code_version="2",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full=FULL,
    )
)

conv_autoencoder, predictions_conv_autoencoder = model_assets(
    ModelAssets(
        name="conv_autoencoder",
        config=ConvAutoencoderConfig,
        train=_train(ConvAutoencoderParameters),
        predict=_predict(baselines=True),
        predict_further=_predict(baselines=False),
        code_version="2",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={**FULL, "width": 64},
    )
)
