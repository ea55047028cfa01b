"""Which items are looked at together: slices of the hold-out, fixed in advance and the same for every model.

Belongs here: conditions and edges. A slice is named ``<which>|<dose>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from atomvision_ml.evaluation.protocol import AS_TAKEN
from atomvision_ml.evaluation.tasks import TASKS, Task
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.training_run import experimental_items, simulated_items

CLEAR_OWN_STRAIN_PERCENT = 0.2
CLEAR_NEXT_STRAIN_PERCENT = 3.0
VISIBLE_CONTRAST = 5.0
RESOLVABLE_ANGSTROM = 1.0

BINS: dict[str, tuple[str, tuple[float, ...]]] = {
    "strain": ("next_class_strain_percent", (0.0, 1.0, 3.0, 10.0)),
    "contrast": ("superlattice_contrast", (0.0, 0.05, 0.2)),
    "periods": ("periods_in_view", (0.0, 6.0, 7.0, 9.0)),
    "pixel": ("pixel_size_angstrom", (0.0, 0.11, 0.16)),
}
"""Column and lower edges of the bins, the last one open: ``strain_1_to_3``, ``strain_from_10``. Items without a value
are in no bin."""


@dataclass(frozen=True)
class Slice:
    """Some of the answers of one model.

    Attributes:
        name: ``<which>|<dose>``.
        answers: predictions joined with their items.
        is_compared: whether models are compared on it pair by pair.
        is_bin: whether only the figures that the task shows are wanted of it.
    """

    name: str
    answers: pl.DataFrame
    is_compared: bool
    is_bin: bool


def slices_of(answers: pl.DataFrame) -> list[Slice]:
    """The slices of one model's answers that hold an item, ordered by name.

    Args:
        answers: predictions of one task joined with their items; columns that a slice asks for may be absent.
    """
    task, taken, simulated = TASKS[answers["task"][0]], experimental_items(answers), simulated_items(answers)
    conditions = _conditions(simulated, task)
    found = [Slice(AS_TAKEN, taken, True, False)] if taken.height else []
    for (dose,), part in simulated.group_by(["mean_detected_e_per_a2"]):
        for which, (condition, is_compared, is_bin) in conditions.items():
            kept = part.filter(condition)
            if kept.height:
                found.append(Slice(f"{which}|{dose_name(dose)}", kept, is_compared, is_bin))
    return sorted(found, key=lambda slice_: slice_.name)


def _conditions(answers: pl.DataFrame, task: Task) -> dict[str, tuple[pl.Expr, bool, bool]]:
    own = {name: (condition, True, False) for name, condition in task.slices.items()}
    if not task.has_common_slices:
        return own
    unambiguous = ~pl.col("is_ambiguous")
    common = {"all": (pl.lit(True), True, False), "unambiguous": (unambiguous, True, False)}
    common["clear"] = (_is_clear(), True, False)
    if "nearest_columns_angstrom" in answers.columns:
        common["resolvable"] = (is_resolvable(), True, False)
    sources = sorted(answers["source"].unique())
    by_source = {source: (pl.col("source") == source, False, False) for source in sources}
    bins = {name: (condition, False, True) for name, condition in _bins(answers).items()}
    return common | by_source | bins | own


def _bins(answers: pl.DataFrame) -> dict[str, pl.Expr]:
    bins = {}
    for name, (column, edges) in BINS.items():
        if column in answers.columns:
            value = pl.col(column)
            for low, high in pairwise(edges):
                bins[f"{name}_{low:g}_to_{high:g}"] = (value >= low) & (value < high)
            bins[f"{name}_from_{edges[-1]:g}"] = value >= edges[-1]
    return bins


def is_resolvable() -> pl.Expr:
    """Unambiguous structures whose columns all lie at least 1 Å apart."""
    return ~pl.col("is_ambiguous") & (pl.col("nearest_columns_angstrom") >= RESOLVABLE_ANGSTROM)


def _is_clear() -> pl.Expr:
    """Unmistakable lattices; without dose any contrast is visible."""
    electrons = pl.col("mean_detected_e_per_a2") * pl.col("field_angstrom") ** 2
    visible = pl.col("superlattice_contrast") * electrons.sqrt() > VISIBLE_CONTRAST
    return (
        (pl.col("class_strain_percent").fill_null(0.0) <= CLEAR_OWN_STRAIN_PERCENT)
        & (pl.col("next_class_strain_percent").fill_null(np.inf) >= CLEAR_NEXT_STRAIN_PERCENT)
        & visible.fill_null(True)
    )
