"""Assets of the models domain: training sets, the registered models, champions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.models import checks
from atomvision_assets.models.factory import ModelAssets, model_assets
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.evaluation.release import RELEASE_PARAMETERS
from atomvision_ml.evaluation.splits import SplitParameters
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.models.registry import model_names
from atomvision_ml.models.segmenter import SegmenterParameters
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import (
    EVALUATION_METRICS,
    IMAGES_STEM,
    MODELS_CHAMPIONS,
    MODELS_TRAINING_SETS,
    STRUCTURES_MATERIALS,
)

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint

Size = Literal["demo", "full"]


class TrainingSetConfig(dg.Config, SplitParameters):
    """What makes another training set."""


class LatticeFinderConfig(dg.Config, LatticeFinderParameters):
    """Parameters of the lattice finder."""

    size: Size = Field(default=settings().size, description="Size of the graph.")


class SegmenterConfig(dg.Config, SegmenterParameters):
    """Parameters of the segmenter and of its training."""

    size: Size = Field(
        default=settings().size, description="Size of the graph; full trains longer where the defaults are left."
    )


@table_asset(
    MODELS_TRAINING_SETS,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[IMAGES_STEM, STRUCTURES_MATERIALS],
    checks=checks.TRAINING_SETS,
    automation_condition=when_inputs_change("each"),
)
def training_sets(context: dg.AssetExecutionContext, store: Store, config: TrainingSetConfig) -> dg.MaterializeResult:
    """Freeze which image belongs to which split."""
    from atomvision_ml.evaluation.splits import split_counts, training_set_rows

    work = store.begin(context)
    images = work.scan(IMAGES_STEM).drop("atoms", "columns")
    materials = work.scan(STRUCTURES_MATERIALS)
    parameters = SplitParameters(**config.model_dump())

    def make() -> Product:
        rows = training_set_rows(context.partition_key, images.collect(), materials.collect(), parameters)
        return Product(rows, audits=checks.audit_training_set(rows), metadata={"splits": split_counts(rows)})

    return work.publish(make, parameters=parameters.model_dump())


def _processes() -> int:
    return settings().threads or os.cpu_count() or 1


def _make_lattice_finder(work: Work, training_set: "pl.DataFrame", parameters: dict[str, Any]) -> "Checkpoint":
    """A method without training: its checkpoint holds parameters and a card."""
    from atomvision_ml.evaluation.splits import split_counts
    from atomvision_ml.models.checkpoint import classical_checkpoint, update_card

    folder = work.scratch() / "checkpoint"
    checkpoint = classical_checkpoint("lattice_finder", LatticeFinderParameters(**parameters), folder)
    return update_card(checkpoint, data_versions=work.inputs, splits=split_counts(training_set.to_dicts()))


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
        processes=_processes(),
        progress=work.progress,
    )


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
        processes=_processes(),
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
        full=RELEASE_PARAMETERS.model_dump(exclude_unset=True),
    )
)


@table_asset(
    MODELS_CHAMPIONS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[EVALUATION_METRICS, *(f"models/{name}" for name in model_names())],
    automation_condition=when_inputs_change(),
)
def champions(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Judge the newest model of each task by the promotion rule; the former champion stays unless it is beaten."""
    from atomvision_ml.evaluation.promotion import champion_row

    work = store.begin(context)
    figures = work.scan(EVALUATION_METRICS)
    candidates = {name: work.scan(f"models/{name}") for name in model_names()}

    def make() -> Product:
        former = work.former()
        in_office = {row["task"]: row for row in former.to_dicts()} if former is not None else {}
        rows = []
        for candidate in candidates.values():
            (row,) = candidate.collect().to_dicts()
            rows.append(champion_row(row["task"], row, figures.collect(), in_office.get(row["task"])))
        return Product(rows, metadata={row["task"]: row["reason"] for row in rows})

    return work.publish(make)
