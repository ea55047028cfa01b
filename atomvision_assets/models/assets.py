"""Assets of the models domain: training sets, the champions."""

from typing import TYPE_CHECKING

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.models import checks
from atomvision_assets.store import Product, Store
from atomvision_ml.evaluation.splits import SplitParameters
from atomvision_ml.models.registry import model_names
from atomvision_ml.storage.keys import (
    EVALUATION_METRICS,
    IMAGES_STEM,
    MODELS_CHAMPIONS,
    MODELS_TRAINING_SETS,
    STRUCTURES_MATERIALS,
)

if TYPE_CHECKING:
    pass


class TrainingSetConfig(dg.Config, SplitParameters):
    """What makes another training set."""


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


@table_asset(
    MODELS_CHAMPIONS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[EVALUATION_METRICS, *(f"models/{name}" for name in model_names())],
    automation_condition=when_inputs_change(),
)
def champions(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Judge the newest model of each task by the promotion rule; the former champion stays unless it is beaten."""
    from atomvision_ml.evaluation.promotion import champion_rows

    work = store.begin(context)
    figures = work.scan(EVALUATION_METRICS)
    candidates = {name: work.scan(f"models/{name}") for name in model_names()}

    def make() -> Product:
        former = work.former()
        in_office = {row["task"]: row for row in former.to_dicts()} if former is not None else {}
        rows = champion_rows(
            [row for table in candidates.values() for row in table.filter("is_checkpoint").collect().to_dicts()],
            figures.collect(),
            in_office,
        )
        return Product(rows, metadata={row["task"]: row["reason"] for row in rows})

    return work.publish(make)
