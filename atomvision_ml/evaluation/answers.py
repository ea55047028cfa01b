"""What models and baselines said of the hold-out's items, put together task by task."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.schemas.vocabulary import MODELS

CLASSICAL_MODELS = frozenset(name for name in model_names() if model_spec(name).kind == "classical")
"""Registered methods without training: for every network of their task they are baselines."""

FURTHER_TABLES = tuple(key for protocol in PROTOCOLS.values() for key in protocol.answers)
"""Tables of answers that are no predictions of a registered model."""


def by_task(answers: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Tables of answers put together task by task.

    Args:
        answers: by name of the model, or by key for :data:`FURTHER_TABLES`.

    Returns:
        Rows by task; what several tables say of a method and an item is taken from the first of them.
    """
    tasks = {**MODELS, **{key: task for task, protocol in PROTOCOLS.items() for key in protocol.answers}}
    found: dict[str, list[pl.DataFrame]] = {}
    for name, table in answers.items():
        parts = found.setdefault(tasks[name], [])
        for known in list(parts):
            table = table.join(known.select("model_id", "item_id").unique(), on=["model_id", "item_id"], how="anti")
        parts.append(table)
    return {task: pl.concat(parts, how="diagonal_relaxed") for task, parts in found.items()}


def with_items(answers: pl.DataFrame, holdout: pl.DataFrame) -> pl.DataFrame:
    """Answers joined with their items.

    Raises:
        ValueError: there is no answer, or one is of an item that the hold-out does not have.
    """
    joined = answers.join(holdout, on="item_id", how="left")
    unknown = joined.filter(pl.col("task").is_null())["item_id"]
    if joined.is_empty() or len(unknown):
        example = f"; the first of {len(unknown)} unknown items is {unknown[0]!r}" if len(unknown) else ""
        raise ValueError(f"predictions must be of items of evaluation/holdout{example}")
    return joined


def name_of(model_id: object) -> str:
    """Registered name of a model, or the baseline's name."""
    return str(model_id).partition("@")[0]


def role_of(model_id: object, role: str) -> str:
    """The role among all methods of the task: a registered classical model is a baseline of the networks."""
    return "classical" if role == "model" and name_of(model_id) in CLASSICAL_MODELS else role
