"""Assets of the evaluation domain: the frozen hold-out, figures with intervals, pictures."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import on_partition, table_asset
from atomvision_assets.models.factory import Size
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.evaluation.adoption import TASK as ADOPTING_TASK
from atomvision_ml.evaluation.answers import FURTHER_TABLES
from atomvision_ml.evaluation.gallery.build import GalleryParameters
from atomvision_ml.evaluation.holdout import HoldoutParameters
from atomvision_ml.evaluation.metrics import MetricParameters
from atomvision_ml.models.registry import model_names
from atomvision_ml.settings import cores, settings
from atomvision_ml.storage.keys import (
    EVALUATION_COMPARISONS,
    EVALUATION_EXPERIMENTAL_ANSWERS,
    EVALUATION_EXPERIMENTAL_HOLDOUT,
    EVALUATION_GALLERY,
    EVALUATION_HOLDOUT,
    EVALUATION_METRICS,
    EXPERIMENTS_MICROGRAPHS,
    IMAGES_STEM,
    MODELS_CHAMPIONS,
    MODELS_TRAINING_SETS,
    MODELS_VERDICTS,
)

if TYPE_CHECKING:
    import polars as pl

MODELS = [f"models/{name}" for name in model_names()]
HOLDOUTS = (EVALUATION_HOLDOUT, EVALUATION_EXPERIMENTAL_HOLDOUT)
ANSWERS = [*(f"predictions/{name}" for name in model_names()), *FURTHER_TABLES]


def _scan_answers(work: Work) -> "dict[str, pl.LazyFrame]":
    """Tables of answers by name of the model, further ones by their key."""
    answers = {name: work.scan(f"predictions/{name}") for name in model_names()}
    return answers | {key: work.scan(key) for key in FURTHER_TABLES}


def _scan_models(work: Work) -> "dict[str, pl.LazyFrame]":
    return {name: work.scan(f"models/{name}") for name in model_names()}


MOST_TEST_IMAGES = {"demo": 16, "full": 400}
"""Test images per task where the run config does not say otherwise: predictions are most of the demo's time."""


class HoldoutConfig(dg.Config):
    """How much is judged."""

    size: Size = Field(default=settings().size, description="Size of the graph; says how many images are judged.")
    maximum_images: int | None = Field(
        default=None, ge=0, description="Most test images per task, spread evenly over the classes; 0 = all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the noise.")

    def parameters(self) -> HoldoutParameters:
        """What the library is asked for."""
        most = MOST_TEST_IMAGES[self.size] if self.maximum_images is None else self.maximum_images
        return HoldoutParameters(maximum_images=most, seed=self.seed)


class GalleryConfig(dg.Config, GalleryParameters):
    """How much is shown."""


class MetricConfig(dg.Config, MetricParameters):
    """How the intervals are made."""


def _further_seeds(models: "dict[str, pl.LazyFrame]") -> list[str]:
    """Ids of the trainings that are not the model's checkpoint."""
    import polars as pl

    return pl.concat(
        [model.filter(~pl.col("is_checkpoint")).select("model_id").collect() for model in models.values()]
    )["model_id"].to_list()


@table_asset(
    EVALUATION_HOLDOUT,
    code_version="2",
    kinds={"polars", "parquet"},
    deps=[MODELS_TRAINING_SETS, IMAGES_STEM],
    automation_condition=when_inputs_change("each"),
)
def holdout(context: dg.AssetExecutionContext, store: Store, config: HoldoutConfig) -> dg.MaterializeResult:
    """Freeze the test items of every task and dose."""
    from atomvision_ml.evaluation.holdout import holdout_rows
    from atomvision_ml.models.training_run import simulated_items

    work = store.begin(context)
    manifests = work.scan(MODELS_TRAINING_SETS, apart_from=EXPERIMENTS_MICROGRAPHS)
    images = work.scan(IMAGES_STEM).drop("atoms", "columns")
    parameters = config.parameters()
    return work.publish(
        lambda: Product(
            holdout_rows(simulated_items(manifests.collect()), images.collect(), work.lake.blob, parameters)
        ),
        parameters=parameters.model_dump(),
    )


@table_asset(
    EVALUATION_EXPERIMENTAL_HOLDOUT,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[on_partition(MODELS_TRAINING_SETS, ADOPTING_TASK)],
    automation_condition=when_inputs_change(),
)
def experimental_holdout(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Freeze the labelled micrographs of the test samples."""
    from atomvision_ml.evaluation.adoption import holdout_rows

    work = store.begin(context)
    manifest = work.scan(MODELS_TRAINING_SETS, ADOPTING_TASK)
    return work.publish(lambda: Product(holdout_rows(manifest.collect())))


@table_asset(
    EVALUATION_EXPERIMENTAL_ANSWERS,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[
        EVALUATION_EXPERIMENTAL_HOLDOUT,
        on_partition(MODELS_TRAINING_SETS, ADOPTING_TASK),
        *(f"models/{name}" for name in model_names(ADOPTING_TASK)),
    ],
    automation_condition=when_inputs_change(),
)
def experimental_answers(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Ask every model of the lattice what it says of the experimental hold-out; what it has said is kept."""
    import polars as pl

    from atomvision_ml.evaluation.tasks.lattice import experimental_answers as answers_to

    work = store.begin(context)
    items, manifest = work.scan(EVALUATION_EXPERIMENTAL_HOLDOUT), work.scan(MODELS_TRAINING_SETS, ADOPTING_TASK)
    models = [work.scan(f"models/{name}").filter("is_checkpoint") for name in model_names(ADOPTING_TASK)]

    def make() -> Product:
        return Product(
            answers_to(
                pl.concat([model.collect() for model in models]).to_dicts(),
                items.collect(),
                manifest.collect(),
                work.lake.blob,
                former=work.reusable(),
                processes=cores(),
                progress=work.progress,
            )
        )

    return work.publish(make)


@table_asset(
    EVALUATION_METRICS,
    code_version="4",
    kinds={"polars", "parquet"},
    deps=[*ANSWERS, *MODELS, *HOLDOUTS],
    automation_condition=when_inputs_change(),
)
def metrics(context: dg.AssetExecutionContext, store: Store, config: MetricConfig) -> dg.MaterializeResult:
    """Score models and baselines alike, with intervals."""
    import polars as pl

    from atomvision_ml.evaluation.answers import by_task
    from atomvision_ml.evaluation.literature import literature_metric_rows
    from atomvision_ml.evaluation.metrics import metric_rows
    from atomvision_ml.evaluation.vacancies import vacancy_metric_rows

    work = store.begin(context)
    items = [work.scan(key) for key in HOLDOUTS]
    answers, models = _scan_answers(work), _scan_models(work)
    parameters = MetricParameters(**config.model_dump())

    def make() -> Product:
        made = pl.concat([model.select("model_id", "size", "seed").collect() for model in models.values()])
        seeds = dict(made.select("model_id", "seed").iter_rows())
        given = by_task({name: table.collect() for name, table in answers.items()})
        size, judged = _size_of(made), _together(items)
        rows = [
            row
            for table in given.values()
            for row in metric_rows(table, judged, size=size, seeds=seeds, parameters=parameters)
        ]
        return Product(rows + vacancy_metric_rows(size) + literature_metric_rows(size))

    return work.publish(make, parameters=parameters.model_dump())


@table_asset(
    EVALUATION_COMPARISONS,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[*ANSWERS, *MODELS, *HOLDOUTS],
    automation_condition=when_inputs_change(),
)
def comparisons(context: dg.AssetExecutionContext, store: Store, config: MetricConfig) -> dg.MaterializeResult:
    """Compare every model with every other method of its task."""
    import polars as pl

    from atomvision_ml.evaluation.answers import by_task
    from atomvision_ml.evaluation.comparisons import comparison_rows

    work = store.begin(context)
    items = [work.scan(key) for key in HOLDOUTS]
    answers, models = _scan_answers(work), _scan_models(work)
    parameters = MetricParameters(**config.model_dump())

    def make() -> Product:
        made = pl.concat([model.select("size").collect() for model in models.values()])
        repeats = _further_seeds(models)
        given = by_task({name: table.collect() for name, table in answers.items()})
        size, judged = _size_of(made), _together(items)
        return Product(
            [
                row
                for table in given.values()
                for row in comparison_rows(table, judged, size=size, leave_out=repeats, parameters=parameters)
            ]
        )

    return work.publish(make, parameters=parameters.model_dump())


def _together(items: "list[pl.LazyFrame]") -> "pl.DataFrame":
    """Simulated and experimental items in one table; what only one of them has is null in the other."""
    import polars as pl

    return pl.concat([table.collect() for table in items], how="diagonal_relaxed")


def _size_of(models: "pl.DataFrame") -> str:
    """The size of the graph; raises ValueError where models were made at different ones."""
    sizes = models["size"].unique().sort().to_list()
    if len(sizes) != 1:
        raise ValueError(f"the models were made at the sizes {', '.join(sizes)}: materialise all of them at one size")
    return str(sizes[0])


@table_asset(
    EVALUATION_GALLERY,
    code_version="1",
    kinds={"html", "matplotlib"},
    deps=[*ANSWERS, *MODELS, EVALUATION_HOLDOUT, EVALUATION_METRICS, IMAGES_STEM, MODELS_CHAMPIONS, MODELS_VERDICTS],
    automation_condition=when_inputs_change("each"),
    description="Open index.html in the blob; `make demo` prints where it is.",
)
def gallery(context: dg.AssetExecutionContext, store: Store, config: GalleryConfig) -> dg.MaterializeResult:
    """Draw pages for people."""
    import polars as pl

    from atomvision_ml.evaluation.answers import by_task
    from atomvision_ml.evaluation.gallery.build import build_gallery

    work = store.begin(context)
    items = work.scan(EVALUATION_HOLDOUT)
    images = work.scan(IMAGES_STEM).select("image_id", "slab_id", "atoms")
    figures, champions, book = (work.scan(key) for key in (EVALUATION_METRICS, MODELS_CHAMPIONS, MODELS_VERDICTS))
    answers, models = _scan_answers(work), _scan_models(work)
    parameters = GalleryParameters(**config.model_dump())

    def make() -> Product:
        folder, judged = work.scratch() / "gallery", items.collect()
        made = {name: model.filter("is_checkpoint").collect() for name, model in models.items()}
        is_shown = ~pl.col("model_id").is_in(_further_seeds(models))
        rows = build_gallery(
            folder,
            holdout=judged,
            images=images.filter(pl.col("image_id").is_in(judged["image_id"].implode())).collect(),
            predictions=by_task({name: table.filter(is_shown).collect() for name, table in answers.items()}),
            metrics=figures.collect(),
            open_blob=work.lake.blob,
            checkpoints={name: work.lake.blob(model["blob"][0]) for name, model in made.items()},
            champions=champions.collect(),
            book=book.sort("number").collect().to_dicts(),
            parameters=parameters,
            progress=work.progress,
        )
        blob = work.lake.put_blob(folder)
        pages = {"pages": work.lake.blob(blob) / "index.html"}
        return Product([{**row, "blob": blob} for row in rows], metadata=pages)

    return work.publish(make, parameters=parameters.model_dump())
