"""Predictions: what each model and each of its baselines says of every hold-out item.

Belongs here: applying models to items and comparing one answer with its truth. Figures over many items are
:mod:`atomvision_ml.evaluation.metrics`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.evaluation.baselines import (
    LatticeBaselines,
    SegmentationBaselines,
    disks,
    log_atoms,
    mask_iou,
    otsu_mask,
    read_lattice,
    tune_lattice,
    tune_segmentation,
)
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob, open_all
from atomvision_ml.images.atoms import as_rows, find_atoms, mask_columns
from atomvision_ml.schemas.tables.predictions import LATTICE_FINDER, SEGMENTER
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.workers import end_with_parent

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]
Row = dict[str, Any]

MATCH_ANGSTROM = 0.5
BORDER_ANGSTROM = 1.0
LEAST_INTENSITY = 0.05
_CHUNK = 16


def predict_lattice(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    model_id: str = "lattice_finder",
    parameters: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The lattice finder and its baselines on every lattice item.

    The classical baseline is the plain autocorrelation reader, tuned on the train split for each dose; the trivial one
    answers the train split's most frequent class, with its class shares as probabilities.

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        training_set: rows of ``models/training_sets`` of the task ``lattice``.
        open_blob: local folder of a blob.
        model_id: name and version for the model's rows.
        parameters: fields of the lattice finder's parameters that differ from the defaults.
        processes: more than one divides the items among so many processes.
        progress: called with (items done, items in all).

    Returns:
        ``predictions/lattice_finder``: three rows per item. An image without a lattice has a null class and counts as
        wrong.

    Raises:
        ValueError: no lattice items, or an empty train split.
    """
    rows = _items(holdout, "lattice")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    baselines = tune_lattice(training_set, open_blob, doses=doses)
    judge = partial(_judge_lattice, baselines=baselines, model_id=model_id, parameters=dict(parameters or {}))
    return _table(LATTICE_FINDER, judge, rows, open_blob, processes, progress)


def predict_segmentation(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str = "segmenter",
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The segmenter and its baselines on every segmentation item.

    Baselines: ``all_background`` (trivial), ``otsu`` and ``laplacian_of_gaussian`` (disks of 0.5 Å around sub-pixel
    maxima), the latter two tuned on the train split for each dose.

    Args and errors as :func:`predict_lattice`, and
        checkpoint: folder of the segmenter to judge; CheckpointError if it is damaged.

    Returns:
        ``predictions/segmenter``: four rows per item.
    """
    rows = _items(holdout, "segmentation")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    baselines = tune_segmentation(training_set, open_blob, doses=doses)
    judge = partial(_judge_segmentation, baselines=baselines, model_id=model_id, checkpoint=checkpoint)
    return _table(SEGMENTER, judge, rows, open_blob, processes, progress)


@dataclass(frozen=True)
class Match:
    """Found atoms against true columns: how many of each count, pairs within 0.5 Å, their squared distances (Å²)."""

    n_columns: int
    n_found: int
    n_matched: int
    squared_error_angstrom2: float


def match_atoms(
    found_angstrom: ArrayLike, columns_angstrom: ArrayLike, counts: ArrayLike, field_angstrom: tuple[float, float]
) -> Match:
    """Pair found atoms and true columns, each at most once, by the least total distance (Hungarian), within 0.5 Å.

    A found atom is a false one unless it is paired, lies within 0.5 Å of a column that does not count (too weak or
    too near to the border), or lies less than 1 Å inside the border itself.

    Args:
        found_angstrom: (n, 2) found positions, x and y in Å.
        columns_angstrom: (m, 2) true positions.
        counts: (m,) which columns are to be found.
        field_angstrom: largest x and y of the field, pixel [0, 0] having its centre at 0.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    found = np.asarray(found_angstrom, float).reshape(-1, 2)
    columns = np.asarray(columns_angstrom, float).reshape(-1, 2)
    wanted = np.asarray(counts, bool)
    distance = cdist(found, columns)
    cost = np.where(distance <= MATCH_ANGSTROM, distance**2, 1e3)
    pairs = np.stack(linear_sum_assignment(cost), axis=1) if cost.size else np.zeros((0, 2), int)
    good = distance[pairs[:, 0], pairs[:, 1]] <= MATCH_ANGSTROM
    matched = pairs[good & wanted[pairs[:, 1]]]
    near_uncounted = (distance[:, ~wanted] <= MATCH_ANGSTROM).any(axis=1)
    near_border = ~inside_field(found, field_angstrom)
    is_excused = (near_uncounted | near_border) & ~np.isin(np.arange(len(found)), matched[:, 0])
    return Match(
        n_columns=int(wanted.sum()),
        n_found=int(len(found) - is_excused.sum()),
        n_matched=len(matched),
        squared_error_angstrom2=float((distance[matched[:, 0], matched[:, 1]] ** 2).sum()),
    )


def inside_field(positions_angstrom: NDArray[np.float64], field_angstrom: tuple[float, float]) -> NDArray[np.bool_]:
    """Which positions (n, 2) lie at least 1 Å inside the border."""
    x, y = positions_angstrom.T
    return (
        (x >= BORDER_ANGSTROM)
        & (x <= field_angstrom[0] - BORDER_ANGSTROM)
        & (y >= BORDER_ANGSTROM)
        & (y <= field_angstrom[1] - BORDER_ANGSTROM)
    )


def true_columns(
    mask: NDArray[np.bool_], clean: NDArray[Any], pixel_size_angstrom: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """True columns of an image and which of them count: whole, 1 Å inside the border, at least 5 % of the brightest.

    Positions are the centres of the mask's disks; the intensity of a column is the noiseless image at its centre.
    """
    columns, _ = mask_columns(mask, pixel_size_angstrom)
    if not len(columns):
        return columns, np.zeros(0, bool)
    x, y = np.clip(np.rint(columns / pixel_size_angstrom).astype(int), 0, np.array(mask.shape)[::-1] - 1).T
    intensity = np.asarray(clean, float)[y, x]
    field = ((mask.shape[1] - 1) * pixel_size_angstrom, (mask.shape[0] - 1) * pixel_size_angstrom)
    return columns, (intensity >= LEAST_INTENSITY * intensity.max()) & inside_field(columns, field)


def vector_error(found_angstrom: ArrayLike, true_angstrom: ArrayLike) -> float:
    """Largest distance, in Å, of a found vector to the true lattice's nearest vector; both (2, 2) rows."""
    found, true = np.reshape(found_angstrom, (2, 2)), np.reshape(true_angstrom, (2, 2))
    base = np.rint(found @ np.linalg.inv(true))
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    near = (base[:, None, :] + around) @ true
    return float(np.linalg.norm(found[:, None, :] - near, axis=2).min(axis=1).max())


def _judge_lattice(
    row: Row, reader: ItemReader, baselines: LatticeBaselines, model_id: str, parameters: Mapping[str, Any]
) -> list[Row]:
    image, pixel = reader.image(row), row["pixel_size_angstrom"]
    plain = read_lattice(image, pixel, *baselines.reader[row["mean_detected_e_per_a2"]])
    simple = _lattice_row(row, "autocorrelation", "classical", *(plain or (None, None)))
    trivial = _lattice_row(row, "majority_class", "trivial", baselines.majority_class, None)
    trivial["probabilities"] = [baselines.class_shares[name] for name in BRAVAIS_LATTICES]
    return [_found_lattice(row, image, model_id, parameters), simple, trivial]


def _found_lattice(row: Row, image: NDArray[Any], model_id: str, parameters: Mapping[str, Any]) -> Row:
    from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice

    try:
        result = find_lattice(image, row["pixel_size_angstrom"], LatticeFinderParameters(**parameters))
    except NoLatticeError as error:
        log.info("%s: %s", row["item_id"], error)
        return _lattice_row(row, model_id, "model", None, None)
    answer = _lattice_row(row, model_id, "model", result.lattice, result.lattice_vectors_angstrom)
    answer["probabilities"] = [float(result.probabilities[name]) for name in BRAVAIS_LATTICES]
    answer["uncertainties_angstrom"] = _finite(result.uncertainties_angstrom)
    return answer


def _lattice_row(row: Row, model_id: str, role: str, lattice: str | None, vectors: ArrayLike | None) -> Row:
    return {
        "item_id": row["item_id"],
        "model_id": model_id,
        "role": role,
        "lattice": lattice,
        "lattice_vectors_angstrom": None if vectors is None else _finite(vectors),
        "is_correct": lattice == row["bravais_lattice"],
        "vector_error_angstrom": None if vectors is None else vector_error(vectors, row["lattice_vectors_angstrom"]),
    }


def _finite(values: ArrayLike) -> list[float] | None:
    flat = np.asarray(values, float).ravel()
    return flat.tolist() if np.isfinite(flat).all() else None


def _judge_segmentation(
    row: Row, reader: ItemReader, baselines: SegmentationBaselines, model_id: str, checkpoint: Path
) -> list[Row]:
    from atomvision_ml.models.segmenter import segment

    image, truth, pixel = reader.image(row), reader.mask(row), row["pixel_size_angstrom"]
    columns, counts = true_columns(truth, reader.clean(row), pixel)
    dose = row["mean_detected_e_per_a2"]

    def judged(name: str, role: str, mask: NDArray[np.bool_], atoms: list[dict[str, float]]) -> Row:
        positions = [(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms]
        field = ((truth.shape[1] - 1) * pixel, (truth.shape[0] - 1) * pixel)
        match = match_atoms(positions, columns, counts, field)
        return {
            "item_id": row["item_id"],
            "model_id": name,
            "role": role,
            "n_true_positive": int(np.count_nonzero(mask & truth)),
            "n_false_positive": int(np.count_nonzero(mask & ~truth)),
            "n_false_negative": int(np.count_nonzero(~mask & truth)),
            "n_true_negative": int(np.count_nonzero(~mask & ~truth)),
            "iou": mask_iou(mask, truth),
            "atoms": atoms,
            **vars(match),
        }

    answer = segment(image, pixel, checkpoint)
    by_otsu = otsu_mask(image, pixel, *baselines.otsu[dose])
    by_log = log_atoms(image, pixel, *baselines.laplacian_of_gaussian[dose])
    return [
        judged(model_id, "model", answer.mask, answer.atoms),
        judged("otsu", "classical", by_otsu, find_atoms(by_otsu, image, pixel)),
        judged(
            "laplacian_of_gaussian",
            "classical",
            disks(by_log[:, :2], truth.shape, pixel),
            as_rows(by_log[:, :2], by_log[:, 2]),
        ),
        judged("all_background", "trivial", np.zeros_like(truth), []),
    ]


def _items(holdout: pl.DataFrame, task: str) -> list[Row]:
    rows = holdout.filter(pl.col("task") == task).sort("blob", "index", "item_id").to_dicts()
    if not rows:
        raise ValueError(f"the hold-out has no items of the task {task!r}")
    return rows


def _table(
    table: Any,
    judge: Callable[..., list[Row]],
    rows: Sequence[Row],
    open_blob: OpenBlob,
    processes: int,
    progress: Progress | None,
) -> pa.Table:
    """Judge chunk by chunk; what is done is kept as Arrow, a tenth of the size of dictionaries."""
    folders = open_all(rows, open_blob)
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    parts, done = [], 0
    work = partial(_judge_chunk, judge, folders)
    for chunk, judged in zip(chunks, _mapped(work, chunks, processes), strict=True):
        parts.append(table.from_rows(judged))
        done += len(chunk)
        if progress is not None:
            progress(done, len(rows))
    return pa.concat_tables(parts)


def _mapped(work: Callable[[Any], list[Row]], chunks: Sequence[Any], processes: int) -> Iterator[list[Row]]:
    if processes <= 1 or len(chunks) == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_compute_alone) as pool:
        yield from pool.map(work, chunks)


def _compute_alone() -> None:
    """One thread in each worker: the items are divided already."""
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def _judge_chunk(judge: Callable[..., list[Row]], folders: Mapping[str, Path], rows: Sequence[Row]) -> list[Row]:
    reader = ItemReader(folders.__getitem__)

    return [answer for row in rows for answer in judge(row, reader)]
