"""From delivered cells to slabs: ``structures/records`` to ``structures/slabs``.

Belongs here: finding the vacuum and giving each layer one orientation. What the layer is (lattice, symmetry) belongs
to :mod:`atomvision_ml.structures.labels`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from ase import Atoms
from ase.geometry import minkowski_reduce
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.structures.record import BadRecordError, Progress, Row, check_cell, hill_formula, reduced_formula
from atomvision_ml.workers import end_with_parent

MINIMUM_GAP_ANGSTROM = 5.0
"""Empty gap between nuclei that counts as vacuum; the van der Waals gaps of layered bulk crystals are 2.5 to 4 Å."""

VACUUM_ANGSTROM = 20.0
"""Vacuum of every normalised slab, both sides together."""

PARALLEL_FROM = 500
WORKERS = 2
_CHUNK = 64


class NotASlabError(ValueError):
    """The structure is no slab: bulk, or a degenerate cell; the message is the reason."""


@dataclass(frozen=True)
class Slab:
    """A layer in the (x, y) plane: a along +x, b in the upper half-plane, c along +z, centred at half of c.

    Shapes: numbers (n,), positions_angstrom (n, 3), cell_angstrom (3, 3) with vectors as rows. ``vacuum_axis`` names
    the axis of the delivered cell along which the vacuum lay; ``thickness_angstrom`` is the z extent of the nuclei.
    """

    numbers: NDArray[np.int32]
    positions_angstrom: NDArray[np.float64]
    cell_angstrom: NDArray[np.float64]
    vacuum_axis: str
    thickness_angstrom: float


def normalise_slab(numbers: ArrayLike, positions_angstrom: ArrayLike, cell_angstrom: ArrayLike) -> Slab:
    """The slab in its standard orientation; no atom moves relative to another, and nothing is mirrored.

    The vacuum axis is the one along whose reciprocal vector the largest empty gap lies. The axes are renamed
    cyclically so that it becomes c, the layer is unwrapped over the periodic boundary and turned rigidly, and c is
    replaced by a vector along +z, the normal a x b. A cell of negative determinant is therefore seen from the side
    on which a to b is counter-clockwise. In-plane, atoms are wrapped into the cell by lattice vectors.

    Args:
        numbers: (n,) atomic numbers.
        positions_angstrom: (n, 3) Cartesian, Å.
        cell_angstrom: (3, 3), vectors as rows, Å, of either handedness.

    Raises:
        NotASlabError: no gap of at least :data:`MINIMUM_GAP_ANGSTROM`, or a degenerate cell.
    """
    charges = np.array(numbers, np.int32)
    positions = np.array(positions_angstrom, np.float64).reshape(-1, 3)
    cell = np.array(cell_angstrom, np.float64).reshape(3, 3)
    if len(charges) == 0 or len(charges) != len(positions):
        raise NotASlabError(f"{len(charges)} atomic numbers and {len(positions)} positions")
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise NotASlabError("positions or cell are not finite")
    try:
        check_cell(cell)
    except BadRecordError as error:
        raise NotASlabError(str(error)) from error
    axis, gap, start = _vacuum(positions, cell)
    name = "abc"[axis]
    if gap < MINIMUM_GAP_ANGSTROM:
        # The layer may lie across the given axes (a + c instead of a): the shortest vectors show it.
        cell, _ = minkowski_reduce(cell)
        axis, reduced_gap, start = _vacuum(positions, cell)
        if reduced_gap < MINIMUM_GAP_ANGSTROM:
            raise NotASlabError(f"no vacuum: the largest empty gap is {max(gap, reduced_gap):.2f} Å")
        name = _delivered_axis(np.array(cell_angstrom, np.float64).reshape(3, 3), cell, axis)
    return _oriented(charges, positions, np.roll(cell, 2 - axis, axis=0), start, name)


def _vacuum(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> tuple[int, float, float]:
    """Axis of the largest gap, the gap in Å, and the fractional coordinate at which the layer begins above it."""
    inverse = np.linalg.inv(cell)
    fractional = np.sort((positions @ inverse) % 1.0, axis=0)
    gaps = np.diff(fractional, axis=0, append=fractional[:1] + 1.0)
    spacings = 1.0 / np.linalg.norm(inverse, axis=0)
    widest = gaps.argmax(axis=0)
    sizes = gaps[widest, np.arange(3)] * spacings
    axis = int(sizes.argmax())
    return axis, float(sizes[axis]), float(fractional[(widest[axis] + 1) % len(fractional), axis])


def _delivered_axis(delivered: NDArray[np.float64], cell: NDArray[np.float64], axis: int) -> str:
    normal = np.cross(cell[axis - 2], cell[axis - 1])
    return "abc"[int(np.abs(delivered @ normal).argmax())]


def _oriented(
    numbers: NDArray[np.int32],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    start: float,
    vacuum_axis: str,
) -> Slab:
    """Unwrap along c (the vacuum axis by now), turn a to +x and a x b to +z, and set the vacuum."""
    fractional = positions @ np.linalg.inv(cell)
    # A hair below the start, so that rounding cannot carry the lowest atom over the vacuum.
    fractional[:, 2] = (fractional[:, 2] - start + 1e-6) % 1.0
    fractional[:, :2] %= 1.0
    x = cell[0] / np.linalg.norm(cell[0])
    normal = np.cross(cell[0], cell[1])
    z = normal / np.linalg.norm(normal)
    turn = np.array([x, np.cross(z, x), z]).T
    turned = fractional @ cell @ turn
    thickness = float(np.ptp(turned[:, 2]))
    height = thickness + VACUUM_ANGSTROM
    turned[:, 2] += height / 2 - (turned[:, 2].min() + turned[:, 2].max()) / 2
    in_plane = cell[:2] @ turn
    slab_cell = np.array(
        [[in_plane[0, 0], 0.0, 0.0], [in_plane[1, 0], in_plane[1, 1], 0.0], [0.0, 0.0, height]], np.float64
    )
    return Slab(numbers, turned, slab_cell, vacuum_axis, thickness)


def slab_from_row(row: dict[str, Any]) -> Slab:
    """The slab of an accepted row of ``structures/slabs``; raises ValueError for a rejected one."""
    if row["status"] != "accepted":
        raise ValueError(f"{row['slab_id']} was rejected: {row['reason']}")
    return Slab(
        np.array(row["numbers"], np.int32),
        np.array(row["positions_angstrom"], np.float64).reshape(-1, 3),
        np.array(row["cell_angstrom"], np.float64).reshape(3, 3),
        row["vacuum_axis"],
        row["thickness_angstrom"],
    )


def atoms_from_row(row: dict[str, Any]) -> Atoms:
    """The same as ASE atoms, periodic in the plane only."""
    slab = slab_from_row(row)
    return Atoms(
        numbers=slab.numbers,
        positions=slab.positions_angstrom,
        cell=slab.cell_angstrom,
        pbc=(True, True, False),
        info={"slab_id": row["slab_id"]},
    )


def slab_rows(records: pl.DataFrame, progress: Progress | None = None) -> list[Row]:
    """Rows of ``structures/slabs``, one for each record and in its order.

    Rejected records keep their reason; a record that is no slab, or that cannot be labelled, is rejected here. Sets
    of at least :data:`PARALLEL_FROM` records are shared between two processes.

    Args:
        records: rows of ``structures/records``.
        progress: called with (done, total) now and then.
    """
    needed = records.select("record_id", "source", "status", "reason", "numbers", "positions_angstrom", "cell_angstrom")
    rows: list[Row] = []
    for chunk in _mapped(_slab_rows, _chunks(needed), is_parallel=len(needed) >= PARALLEL_FROM):
        rows += chunk
        if progress is not None:
            progress(len(rows), len(needed))
    return rows


def _chunks(records: pl.DataFrame) -> Iterator[list[Row]]:
    return (part.to_dicts() for part in records.iter_slices(_CHUNK))


def _mapped(
    function: Callable[[list[Row]], list[Row]], chunks: Iterator[list[Row]], *, is_parallel: bool
) -> Iterator[list[Row]]:
    if not is_parallel or multiprocessing.current_process().daemon:
        yield from map(function, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=end_with_parent) as pool:
        waiting: list[tuple[list[Row], Future[list[Row]] | None]] = [
            (chunk, _submitted(pool, function, chunk)) for chunk in islice(chunks, 2 * WORKERS)
        ]
        while waiting:
            chunk, future = waiting.pop(0)
            yield _result(function, chunk, future)
            waiting += [(chunk, _submitted(pool, function, chunk)) for chunk in islice(chunks, 1)]


def _submitted(
    pool: ProcessPoolExecutor, function: Callable[[list[Row]], list[Row]], chunk: list[Row]
) -> Future[list[Row]] | None:
    try:
        return pool.submit(function, chunk)
    except BrokenProcessPool:
        return None


def _result(
    function: Callable[[list[Row]], list[Row]], chunk: list[Row], future: Future[list[Row]] | None
) -> list[Row]:
    """A pool that cannot start (a script without a main guard, a killed worker) costs time, not the result."""
    if future is None:
        return function(chunk)
    try:
        return future.result()
    except BrokenProcessPool:
        return function(chunk)


def _slab_rows(records: list[Row]) -> list[Row]:
    return [slab_row(record) for record in records]


def slab_row(record: Row) -> Row:
    """One row of ``structures/slabs`` from one row of ``structures/records``."""
    from atomvision_ml.structures.labels import label_slab

    row: Row = {"slab_id": record["record_id"], "source": record["source"], "status": "rejected"}
    if record["status"] != "accepted":
        return row | {"reason": record["reason"]}
    raw_cell = np.array(record["cell_angstrom"], np.float64).reshape(3, 3)
    try:
        slab = normalise_slab(record["numbers"], record["positions_angstrom"], raw_cell)
    except NotASlabError as error:
        return row | {"reason": f"not a slab: {error}"}
    try:
        labels = label_slab(slab, raw_cell)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return row | {"reason": f"no label: {error}"}
    return row | slab_columns(slab) | labels | {"status": "accepted", "reason": None}


def slab_columns(slab: Slab) -> Row:
    """The columns of ``structures/slabs`` that describe the geometry."""
    numbers = slab.numbers.tolist()
    return {
        "formula": hill_formula(numbers),
        "reduced_formula": reduced_formula(numbers),
        "n_atoms": len(numbers),
        "numbers": numbers,
        "positions_angstrom": slab.positions_angstrom.ravel().tolist(),
        "cell_angstrom": slab.cell_angstrom.ravel().tolist(),
        "thickness_angstrom": slab.thickness_angstrom,
        "vacuum_axis": slab.vacuum_axis,
    }
