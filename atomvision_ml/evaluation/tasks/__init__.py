"""The code of each learning task: how answers become figures, and how an item is drawn.

Belongs here: one module a task. What a task is judged by (doses, metric, rule) is in
:mod:`atomvision_ml.evaluation.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from atomvision_ml.evaluation.gallery.entries import GalleryContext
from atomvision_ml.evaluation.judging import Row
from atomvision_ml.evaluation.sums import Evaluate, Figures
from atomvision_ml.evaluation.tasks import (
    atoms,
    defects,
    embedding,
    lattice,
    reconstruction,
    segmentation,
    super_resolution,
)


@dataclass(frozen=True)
class Task:
    """Code of one task.

    Attributes:
        sums: from predictions of one model, joined with their items, to sums per item by name, (n, ...), and the
            function that makes figures of total sums.
        draw: from an item to its entry in the gallery.
        slices: further slices of the task, conditions on predictions joined with their items, by name.
        has_common_slices: whether the slices that all tasks share mean something here.
        answer_again: asks a registered model of the task what it says of items, as :func:`lattice.answer_again`; None
            where no champion of it can be asked again.
        medians: figures without interval: column of the predictions whose median it is, by name.
    """

    sums: Callable[[pl.DataFrame], tuple[Figures, Evaluate]]
    draw: Callable[[Row, GalleryContext], Row]
    slices: Mapping[str, pl.Expr] = field(default_factory=dict)
    has_common_slices: bool = True
    medians: Mapping[str, str] = field(default_factory=dict)
    answer_again: Callable[..., pa.Table] | None = None


TASKS = {
    "lattice": Task(
        lattice.sums,
        lattice.draw,
        medians={"vector_error_median_angstrom": "vector_error_angstrom"},
        answer_again=lattice.answer_again,
    ),
    "segmentation": Task(segmentation.sums, segmentation.draw),
    "atoms": Task(atoms.sums, atoms.draw),
    "super_resolution": Task(
        super_resolution.sums, super_resolution.draw, slices=super_resolution.SLICES, has_common_slices=False
    ),
    "reconstruction": Task(reconstruction.sums, reconstruction.draw),
    "embedding": Task(embedding.sums, embedding.draw),
    "defects": Task(defects.sums, defects.draw),
}
