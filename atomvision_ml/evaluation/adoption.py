"""When labelled micrographs enter the training set, and into which split: the written rule of the retraining loop.

Belongs here: pure functions of tables and a date. A micrograph that is in the training set is *adopted*; a labelled one
that is not yet waits. Nothing else than new images makes a training set change: neither duplicates nor rejected files
(they are no micrographs), nor images without label, nor another sidecar of an image that was adopted already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.models.training_run import experimental_items
from atomvision_ml.schemas.tables.evaluation import EXPERIMENTAL_HOLDOUT
from atomvision_ml.schemas.vocabulary import EXPERIMENTS

Row = dict[str, Any]

TASK = "lattice"
"""The task whose labels people give."""

TEST_SHARE, VAL_SHARE = 0.3, 0.1
"""Shares of the samples in the hold-out and in the validation split. Constants: a change would move samples between
the splits, and the hold-out would be frozen no longer."""

SMALLEST_SIDE_PX = 48
MOST_DIFFERENT_PIXEL_SIZES = 0.005
"""How far the pixel's edges may differ, as a share; a larger difference would turn a square lattice rectangular."""


class AdoptionParameters(BaseModel):
    """When waiting images are adopted; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new_images: int = Field(default=50, ge=1, description="So many waiting labelled images are adopted at once.")
    waiting_days: int = Field(default=7, ge=0, description="Fewer are adopted when one has waited for so many days.")


@dataclass(frozen=True)
class Adoption:
    """What the rule says.

    Attributes:
        is_due: whether the waiting images are adopted now.
        n_waiting: labelled images that can be trained on and are not in the training set.
        reason: the rule's verdict in words.
    """

    is_due: bool
    n_waiting: int
    reason: str


def decide_adoption(
    adopted: Collection[str],
    usable: Mapping[str, date],
    today: date,
    parameters: AdoptionParameters | None = None,
) -> Adoption:
    """Whether the training set is made anew: enough images wait, or one has waited long enough.

    Args:
        adopted: record ids of the micrographs in the training set.
        usable: day of receipt (UTC) of each micrograph that can be trained on, by record id.
        today: the present day (UTC).
        parameters: of the rule.
    """
    chosen = parameters or AdoptionParameters()
    waiting = {record: day for record, day in usable.items() if record not in set(adopted)}
    if not waiting:
        return Adoption(False, 0, f"no new labelled image; {len(adopted)} in the training set")
    days = max((today - day).days for day in waiting.values())
    said = f"{len(waiting)} new labelled image{'s' * (len(waiting) > 1)}, the oldest waiting for {max(days, 0)} days"
    if len(waiting) >= chosen.new_images:
        return Adoption(True, len(waiting), f"{said}: adopted, as {chosen.new_images} are enough")
    if days >= chosen.waiting_days:
        return Adoption(True, len(waiting), f"{said}: adopted, as {chosen.waiting_days} days are enough")
    rule = f"{chosen.new_images} images or {chosen.waiting_days} days are asked for"
    return Adoption(False, len(waiting), f"{said}: not adopted yet, {rule}")


def usable_micrographs(micrographs: pl.DataFrame) -> pl.DataFrame:
    """The rows of ``experiments/micrographs`` that can be trained on.

    They have a label and a sample (without it no split is safe), are calibrated in Å with square pixels, and are not
    smaller than 48 px.
    """
    return micrographs.filter(pl.col("label_lattice").is_not_null() & _obstacle().is_null())


def not_trained_on(micrographs: pl.DataFrame) -> dict[str, int]:
    """How many labelled rows of ``experiments/micrographs`` cannot be trained on, by the first reason that holds."""
    labelled = micrographs.filter(pl.col("label_lattice").is_not_null())
    reasons = labelled.select(reason=_obstacle()).drop_nulls()["reason"]
    return dict(sorted(reasons.value_counts().iter_rows()))


def _obstacle() -> pl.Expr:
    """What speaks against training on a micrograph; null where nothing does."""
    y, x = pl.col("pixel_size_y_nm"), pl.col("pixel_size_x_nm")
    is_square = ((y / x - 1).abs() <= MOST_DIFFERENT_PIXEL_SIZES).fill_null(False)
    return (
        pl.when(pl.col("sample_id").is_null())
        .then(pl.lit("no sample_id"))
        .when(~pl.col("is_calibrated"))
        .then(pl.lit("not calibrated"))
        .when(~is_square)
        .then(pl.lit("pixels not square"))
        .when(pl.min_horizontal("shape_y", "shape_x") < SMALLEST_SIDE_PX)
        .then(pl.lit(f"smaller than {SMALLEST_SIDE_PX} px"))
    )


def split_of(sample_id: str) -> str:
    """``train``, ``val`` or ``test`` of all images of a sample: a hash of its name, so that it never changes."""
    digest = hashlib.sha256(f"experiment\x1f{sample_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < TEST_SHARE else "val" if share < TEST_SHARE + VAL_SHARE else "train"


def experimental_rows(usable: pl.DataFrame) -> list[Row]:
    """Rows of ``models/training_sets`` for :func:`usable_micrographs`, ordered by image."""
    return [_training_row(row) for row in usable.sort("record_id").iter_rows(named=True)]


def _training_row(row: Mapping[str, Any]) -> Row:
    return {
        "item_id": f"{TASK}:{row['record_id']}",
        "task": TASK,
        "image_id": row["record_id"],
        "source": EXPERIMENTS,
        "split": split_of(row["sample_id"]),
        "split_group": f"sample:{row['sample_id']}",
        "blob": row["blob"],
        "index": 0,
        "pixel_size_angstrom": 10 * (row["pixel_size_y_nm"] * row["pixel_size_x_nm"]) ** 0.5,
        "bravais_lattice": row["label_lattice"],
        "is_ambiguous": False,
        "original_filename": row.get("original_filename"),
    }


def adopt(
    former: pl.DataFrame | None, micrographs: pl.DataFrame, today: date, parameters: AdoptionParameters | None = None
) -> tuple[Adoption, list[Row]]:
    """The rule applied: its verdict, and the experimental rows of the training set.

    Args:
        former: the present rows of ``models/training_sets`` of the task, or None.
        micrographs: rows of ``experiments/micrographs``.
        today: the present day (UTC).
        parameters: of the rule.

    Returns:
        If it is due, all usable micrographs as they are now; otherwise the former experimental rows unchanged.
    """
    kept = experimental_items(former).to_dicts() if former is not None else []
    usable = usable_micrographs(micrographs)
    days = {record: date.fromisoformat(day) for record, day in usable.select("record_id", "day").iter_rows()}
    adoption = decide_adoption({row["image_id"] for row in kept}, days, today, parameters)
    return adoption, experimental_rows(usable) if adoption.is_due else kept


def holdout_rows(training_set: pl.DataFrame) -> Sequence[Row]:
    """Rows of ``evaluation/experimental_holdout``: the experimental images of the test split, each as it was taken."""
    test = experimental_items(training_set).filter(pl.col("split") == "test").sort("item_id")
    return test.select([column.name for column in EXPERIMENTAL_HOLDOUT.columns]).to_dicts()
