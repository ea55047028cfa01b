"""Found atoms against true columns: which count, which belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.columns import Columns

MATCH_ANGSTROM = 0.5
BORDER_ANGSTROM = 1.0
LEAST_INTENSITY = 0.05


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
    from scipy.spatial.distance import cdist

    found = np.asarray(found_angstrom, float).reshape(-1, 2)
    columns = np.asarray(columns_angstrom, float).reshape(-1, 2)
    wanted = np.asarray(counts, bool)
    matched = pair_atoms(found, columns, wanted)
    near_uncounted = (cdist(found, columns[~wanted]) <= MATCH_ANGSTROM).any(axis=1)
    near_border = ~inside_field(found, field_angstrom)
    is_excused = (near_uncounted | near_border) & ~np.isin(np.arange(len(found)), matched[:, 0])
    return Match(
        n_columns=int(wanted.sum()),
        n_found=int(len(found) - is_excused.sum()),
        n_matched=len(matched),
        squared_error_angstrom2=float(((found[matched[:, 0]] - columns[matched[:, 1]]) ** 2).sum()),
    )


def pair_atoms(found_angstrom: ArrayLike, columns_angstrom: ArrayLike, counts: ArrayLike) -> NDArray[np.int64]:
    """Pairs (k, 2) of a found atom and a counting column, as :func:`match_atoms` makes them."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    found = np.asarray(found_angstrom, float).reshape(-1, 2)
    columns = np.asarray(columns_angstrom, float).reshape(-1, 2)
    distance = cdist(found, columns)
    cost = np.where(distance <= MATCH_ANGSTROM, distance**2, 1e3)
    pairs = np.stack(linear_sum_assignment(cost), axis=1) if cost.size else np.zeros((0, 2), int)
    good = distance[pairs[:, 0], pairs[:, 1]] <= MATCH_ANGSTROM
    return np.asarray(pairs[good & np.asarray(counts, bool)[pairs[:, 1]]])


def inside_field(positions_angstrom: NDArray[np.float64], field_angstrom: tuple[float, float]) -> NDArray[np.bool_]:
    """Which positions (n, 2) lie at least 1 Å inside the border."""
    x, y = positions_angstrom.T
    return (
        (x >= BORDER_ANGSTROM)
        & (x <= field_angstrom[0] - BORDER_ANGSTROM)
        & (y >= BORDER_ANGSTROM)
        & (y <= field_angstrom[1] - BORDER_ANGSTROM)
    )


def columns_that_count(columns: Columns, field_angstrom: tuple[float, float]) -> NDArray[np.bool_]:
    """Which columns are to be found: at least 5 % of the brightest one in view, and 1 Å inside the border."""
    if not len(columns.weights):
        return np.zeros(0, bool)
    is_bright = columns.relative_intensities >= LEAST_INTENSITY
    return is_bright & inside_field(columns.positions_angstrom, field_angstrom)
