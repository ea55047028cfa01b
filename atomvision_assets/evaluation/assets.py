"""Assets of the evaluation domain: the frozen hold-out, figures with intervals, pictures."""

import json

import dagster as dg
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.store import Product, Store
from atomvision_ml.evaluation.gallery.build import GalleryParameters
from atomvision_ml.evaluation.holdout import HoldoutParameters
from atomvision_ml.evaluation.metrics import MetricParameters
from atomvision_ml.models.registry import model_names
from atomvision_ml.storage.keys import (
    EVALUATION_GALLERY,
    EVALUATION_HOLDOUT,
    EVALUATION_METRICS,
    IMAGES_STEM,
    MODELS_CHAMPIONS,
    MODELS_TRAINING_SETS,
)

MODELS = [f"models/{name}" for name in model_names()]
PREDICTIONS = [f"predictions/{name}" for name in model_names()]


class HoldoutConfig(dg.Config, HoldoutParameters):
    """How much is judged: at most 400 test images per task unless the run config says otherwise."""

    maximum_images: int = Field(
        default=400, ge=0, description="Most test images per task, spread evenly over the classes; 0 = all."
    )


class GalleryConfig(dg.Config, GalleryParameters):
    """How much is shown."""


class MetricConfig(dg.Config, MetricParameters):
    """How the intervals are made."""


@table_asset(
    EVALUATION_HOLDOUT,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[MODELS_TRAINING_SETS, IMAGES_STEM],
    automation_condition=when_inputs_change("each"),
)
def holdout(context: dg.AssetExecutionContext, store: Store, config: HoldoutConfig) -> dg.MaterializeResult:
    """Freeze the test items of every task and dose."""
    from atomvision_ml.evaluation.holdout import holdout_rows

    work = store.begin(context)
    manifests = work.scan(MODELS_TRAINING_SETS)
    images = work.scan(IMAGES_STEM).drop("atoms", "columns")
    parameters = HoldoutParameters(**config.model_dump())
    return work.publish(
        lambda: Product(holdout_rows(manifests.collect(), images.collect(), parameters)),
        parameters=parameters.model_dump(),
    )


@table_asset(
    EVALUATION_METRICS,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[*PREDICTIONS, *MODELS, EVALUATION_HOLDOUT],
    automation_condition=when_inputs_change(),
)
def metrics(context: dg.AssetExecutionContext, store: Store, config: MetricConfig) -> dg.MaterializeResult:
    """Score models and baselines alike, with intervals."""
    from atomvision_ml.evaluation.metrics import metric_rows

    work = store.begin(context)
    items = work.scan(EVALUATION_HOLDOUT)
    predictions = {name: work.scan(f"predictions/{name}") for name in model_names()}
    models = {name: work.scan(f"models/{name}") for name in model_names()}
    parameters = MetricParameters(**config.model_dump())

    def make() -> Product:
        rows = []
        for name, answers in predictions.items():
            (model,) = models[name].collect().to_dicts()
            seed = json.loads(model["parameters_json"]).get("seed", 0)
            rows += metric_rows(
                answers.collect(), items.collect(), size=model["size"], seed=seed, parameters=parameters
            )
        return Product(rows)

    return work.publish(make, parameters=parameters.model_dump())


@table_asset(
    EVALUATION_GALLERY,
    code_version="1",
    kinds={"html", "matplotlib"},
    deps=[*PREDICTIONS, *MODELS, EVALUATION_HOLDOUT, EVALUATION_METRICS, IMAGES_STEM, MODELS_CHAMPIONS],
    automation_condition=when_inputs_change("each"),
    description="Open index.html in the blob; `make demo` prints where it is.",
)
def gallery(context: dg.AssetExecutionContext, store: Store, config: GalleryConfig) -> dg.MaterializeResult:
    """Draw pages for people."""
    import polars as pl

    from atomvision_ml.evaluation.gallery.build import build_gallery, by_task

    work = store.begin(context)
    items = work.scan(EVALUATION_HOLDOUT)
    images = work.scan(IMAGES_STEM).select("image_id", "slab_id", "atoms")
    figures, champions = work.scan(EVALUATION_METRICS), work.scan(MODELS_CHAMPIONS)
    models = {name: work.scan(f"models/{name}") for name in model_names()}
    answers = {name: work.scan(f"predictions/{name}") for name in model_names()}
    parameters = GalleryParameters(**config.model_dump())

    def make() -> Product:
        folder, judged = work.scratch() / "gallery", items.collect()
        rows = build_gallery(
            folder,
            holdout=judged,
            images=images.filter(pl.col("image_id").is_in(judged["image_id"].implode())).collect(),
            predictions=by_task({name: table.collect() for name, table in answers.items()}),
            metrics=figures.collect(),
            open_blob=work.lake.blob,
            checkpoints={name: work.lake.blob(model.collect()["blob"][0]) for name, model in models.items()},
            champions=champions.collect(),
            parameters=parameters,
            progress=work.progress,
        )
        blob = work.lake.put_blob(folder)
        pages = {"pages": work.lake.blob(blob) / "index.html"}
        return Product([{**row, "blob": blob} for row in rows], metadata=pages)

    return work.publish(make, parameters=parameters.model_dump())
