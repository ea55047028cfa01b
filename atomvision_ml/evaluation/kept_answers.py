"""What models said when they were judged, kept beside their checkpoints, so that they can be judged again.

Belongs here: writing and reading such a folder, and asking a model again what it has not been asked yet. An answer
counts only if its item is still the same image with the same noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.evaluation.holdout import OpenBlob
from atomvision_ml.evaluation.judging import Progress
from atomvision_ml.evaluation.tasks import TASKS

ANSWERS, ITEMS = "answers.parquet", "items.parquet"
IDENTITY = ("item_id", "blob", "index", "noise_seed")
"""Columns of a hold-out that say which image with which noise an item is."""


def keep_answers(folder: Path, task: str, answers: pl.DataFrame, holdout: pl.DataFrame) -> Path:
    """Write a model's answers and the identity of the items; the folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    answers.sort("item_id").write_parquet(folder / ANSWERS)
    holdout.filter(pl.col("task") == task).select(IDENTITY).sort("item_id").write_parquet(folder / ITEMS)
    return folder


def answers_of(
    seat: Mapping[str, Any],
    holdout: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    processes: int = 1,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """What the model of a verdict says of the present items.

    Kept answers are taken where the item is the same as then. For the others the checkpoint is loaded and asked, where
    the task knows how (:attr:`Task.answer_again`); elsewhere they are missing.

    Args:
        seat: row of ``models/verdicts``.
        holdout: rows of ``evaluation/holdout`` and ``evaluation/experimental_holdout``.
        open_blob: local folder of a blob.
        processes, progress: of the asking.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    folder = open_blob(seat["answers_blob"])
    items = holdout.filter(pl.col("task") == seat["task"])
    same = items.join(pl.read_parquet(folder / ITEMS), on=IDENTITY, how="semi", nulls_equal=True)["item_id"]
    kept = pl.read_parquet(folder / ANSWERS).filter(pl.col("item_id").is_in(same.implode()))
    asked = items.filter(~pl.col("item_id").is_in(kept["item_id"].implode()))
    ask = TASKS[seat["task"]].answer_again
    if asked.is_empty() or ask is None:
        return kept
    answers = ask(
        asked,
        open_blob,
        checkpoint=open_blob(seat["blob"]),
        model_id=seat["model_id"],
        processes=processes,
        progress=progress,
    )
    return pl.concat([kept, pl.DataFrame(answers)], how="diagonal_relaxed")
