"""Assets of the graph models."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.models.lattice import predict_by_network
from atomvision_assets.store import Work
from atomvision_ml.models.lattice_graph import LatticeGraphParameters
from atomvision_ml.settings import settings

if TYPE_CHECKING:
    import polars as pl

    from atomvision_ml.models.checkpoint import Checkpoint


class LatticeGraphConfig(dg.Config, LatticeGraphParameters):
    """Parameters of the graph classifier and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


def _train_lattice_graph(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    from atomvision_ml.models.lattice_graph_training import train_lattice_graph

    return train_lattice_graph(
        training_set,
        work.lake.blob,
        LatticeGraphParameters(**parameters),
        scratch=work.scratch(),
        progress=work.progress,
        device=settings().device,
        data_versions=work.inputs,
    )


lattice_graph, predictions_lattice_graph = model_assets(
    ModelAssets(
        name="lattice_graph",
        config=LatticeGraphConfig,
        train=_train_lattice_graph,
        predict=predict_by_network,
        code_version="1",
        prediction_code_version="1",
        kinds={"pytorch", "parquet"},
        is_gpu=True,
        full={"epochs": 16, "scenes_per_epoch": 1024},
    )
)
