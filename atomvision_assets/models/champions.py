"""Assets of the champions: the book of verdicts, what people decided, who is in office."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import external_table, table_asset
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.models.registry import model_names
from atomvision_ml.settings import cores
from atomvision_ml.storage.keys import (
    EVALUATION_EXPERIMENTAL_ANSWERS,
    EVALUATION_EXPERIMENTAL_HOLDOUT,
    EVALUATION_HOLDOUT,
    MODELS_CHAMPIONS,
    MODELS_DECISIONS,
    MODELS_VERDICTS,
)

if TYPE_CHECKING:
    import polars as pl

    from atomvision_ml.evaluation.promotion import Court

HOLDOUTS = (EVALUATION_HOLDOUT, EVALUATION_EXPERIMENTAL_HOLDOUT)

decisions = external_table(
    MODELS_DECISIONS,
    kinds={"parquet"},
    deps=[],
    description="Written by `atomvision champion approve` and `reject`; the sensor `decisions` reports each change.",
)


@table_asset(
    MODELS_VERDICTS,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[
        *HOLDOUTS,
        *(f"models/{name}" for name in model_names()),
        *(f"predictions/{name}" for name in model_names()),
        EVALUATION_EXPERIMENTAL_ANSWERS,
        MODELS_DECISIONS,
    ],
    automation_condition=when_inputs_change(not_needed=[MODELS_DECISIONS]),
    pool="verdicts",
    description="The rule is in docs/retraining.md. A row is never changed; the former value is continued.",
)
def verdicts(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Judge every new model that has answered the hold-outs, and apply what people decided."""
    from atomvision_ml.evaluation.promotion import verdict_rows

    work = store.begin(context)
    models = {name: work.scan(f"models/{name}") for name in model_names()}
    court = _court(work)
    decided = work.scan(MODELS_DECISIONS).collect().to_dicts() if work.is_published(MODELS_DECISIONS) else []

    def make() -> Product:
        former = work.former()
        book = [] if former is None else former.sort("number").to_dicts()
        candidates = [row for table in models.values() for row in table.filter("is_checkpoint").collect().to_dicts()]
        added = verdict_rows(candidates, book, decided, court())
        return Product([*book, *added], metadata={f"{row['number']}: {row['verdict']}": row["reason"] for row in added})

    return work.publish(make)


def _court(work: Work) -> "Callable[[], Court]":
    """Read now what the verdicts are reached with; put together when they are."""
    items = {key: work.scan(key) for key in HOLDOUTS}
    answers = {name: work.scan(f"predictions/{name}") for name in model_names()}
    answers[EVALUATION_EXPERIMENTAL_ANSWERS] = work.scan(EVALUATION_EXPERIMENTAL_ANSWERS)
    versions = {key: work.inputs[key] for key in HOLDOUTS}

    def made() -> "Court":
        import polars as pl

        from atomvision_ml.evaluation.answers import by_task
        from atomvision_ml.evaluation.kept_answers import answers_of, keep_answers
        from atomvision_ml.evaluation.promotion import Court

        holdout = pl.concat([table.collect() for table in items.values()], how="diagonal_relaxed")
        folder = work.scratch()

        def incumbent_answers(seat: dict[str, Any]) -> "pl.DataFrame":
            return answers_of(seat, holdout, work.lake.blob, processes=cores(), progress=work.progress)

        return Court(
            answers=by_task({name: table.collect() for name, table in answers.items()}),
            holdout=holdout,
            at=datetime.now(UTC),
            incumbent_answers=incumbent_answers,
            keep_answers=lambda task, own: work.lake.put_blob(keep_answers(folder / "answers", task, own, holdout)),
            inputs=versions,
        )

    return made


@table_asset(
    MODELS_CHAMPIONS,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[MODELS_VERDICTS],
    automation_condition=when_inputs_change(),
)
def champions(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Read who is in office from the book of verdicts."""
    from atomvision_ml.evaluation.promotion import champion_rows

    work = store.begin(context)
    book = work.scan(MODELS_VERDICTS)

    def make() -> Product:
        rows = champion_rows(book.sort("number").collect().to_dicts())
        return Product(rows, metadata={row["task"]: row["reason"] for row in rows})

    return work.publish(make)
