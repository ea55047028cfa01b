"""Assets of the models of the Bravais lattice."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Work
from atomvision_ml.models.lattice_cnn import LatticeCnnParameters
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.models.lattice_fusion import LatticeFusionParameters
from atomvision_ml.settings import cores, settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint


_LATTICE_CNN = "models/lattice_cnn"


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
        processes=cores(),
        progress=work.progress,
    )


class LatticeCnnConfig(dg.Config, LatticeCnnParameters):  # type: ignore[misc]
    """Parameters of the lattice network and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


def _train_lattice_cnn(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    from atomvision_ml.models.lattice_cnn_training import train_lattice_cnn

    return train_lattice_cnn(
        training_set,
        work.lake.blob,
        LatticeCnnParameters(**parameters),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


class LatticeFusionConfig(dg.Config, LatticeFusionParameters):  # type: ignore[misc]
    """Parameters of the fused lattice model and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


def _train_lattice_fusion(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """The head on top of the published lattice network, whose weights become part of the checkpoint."""
    from atomvision_ml.experiments.micrograph_store import read_image
    from atomvision_ml.models.lattice_fusion_training import train_lattice_fusion

    (network,) = work.scan(_LATTICE_CNN).filter("is_checkpoint").collect().to_dicts()
    return train_lattice_fusion(
        training_set,
        work.lake.blob,
        LatticeFusionParameters(**parameters),
        cnn=work.lake.blob(network["blob"]),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
        processes=cores(),
        load_image=read_image,
    )


def predict_by_network(
    work: Work, holdout: "pl.DataFrame", training_set: "pl.DataFrame", model_id: str, checkpoint: Path
) -> "pa.Table":
    """What a network of the task ``lattice`` says of the hold-out; its baselines are those of the lattice finder."""
    from atomvision_ml.evaluation.tasks import lattice

    return lattice.predict_by_network(
        holdout,
        work.lake.blob,
        checkpoint=checkpoint,
        model_id=model_id,
        processes=cores(),
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

lattice_cnn, predictions_lattice_cnn = model_assets(
    ModelAssets(
        name="lattice_cnn",
        config=LatticeCnnConfig,
        train=_train_lattice_cnn,
        predict=predict_by_network,
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={"epochs": 10, "scenes_per_epoch": 1600, "validation_images": 400, "pseudo_centred_fraction": 0.4},
    )
)

lattice_fusion, predictions_lattice_fusion = model_assets(
    ModelAssets(
        name="lattice_fusion",
        config=LatticeFusionConfig,
        train=_train_lattice_fusion,
        predict=predict_by_network,
        code_version="2",
        prediction_code_version="1",
        kinds={"pytorch", "scipy", "parquet"},
        is_gpu=True,
        full={"scenes": 4000, "validation_images": 400},
        train_deps=(_LATTICE_CNN,),
        uses_experiments=True,
    )
)
