"""A reference crystal as it looks along a zone axis, for images with a known truth.

Belongs here: from a phase and a direction to what :mod:`atomvision_ml.images.stem` renders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.experiments.reference_phases import ReferencePhase, Reflections, crystal_of
from atomvision_ml.images.stem import Projection
from atomvision_ml.structures.lattice import reduce_cell

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def zone_basis(uvw: Sequence[int]) -> Integers:
    """Two planes (2, 3) whose whole combinations are all planes (h, k, l) with hu + kv + lw = 0.

    Raises:
        ValueError: the direction is zero or a multiple of another.
    """
    direction = np.asarray(uvw, dtype=np.int64)
    if np.gcd.reduce(direction) != 1:
        raise ValueError(f"a zone axis has whole indices without a common factor; got {list(uvw)}")
    # Elementary steps that turn the direction into (0, 0, ±1); the rows above then span the zone.
    left, rest = np.eye(3, dtype=np.int64), direction.copy()
    while np.count_nonzero(rest) > 1:
        small, large = np.argsort(np.where(rest == 0, np.iinfo(np.int64).max, np.abs(rest)))[:2]
        times = rest[large] // rest[small]
        rest[large] -= times * rest[small]
        left[large] -= times * left[small]
    return np.asarray(left[rest == 0], dtype=np.int64)


def plane_coordinates(vectors: Array) -> Array:
    """(n, 2) coordinates of coplanar vectors (n, 3), the first one along x."""
    first = vectors[0] / np.linalg.norm(vectors[0])
    normal = np.cross(first, vectors[np.argmax(np.linalg.norm(np.cross(first, vectors), axis=1))])
    second = np.cross(normal / np.linalg.norm(normal), first)
    return np.column_stack((vectors @ first, vectors @ second))


def zone_projection(phase: ReferencePhase, uvw: Sequence[int], z_exponent: float = 1.7) -> Projection:
    """The crystal seen along [uvw], as columns in the plane across it.

    The planes of a zone are the reciprocal lattice of the projected crystal, so a column's place in fractions of the
    projected cell is the product of its atoms' fractions with the two planes that span the zone.

    Args:
        phase: the crystal.
        uvw: direction of view in the conventional cell.
        z_exponent: p in the columns' weight Z^p.

    Raises:
        ValueError: the direction is zero or a multiple of another.
    """
    crystal = crystal_of(phase)
    basis = zone_basis(uvw)
    reciprocal = plane_coordinates(basis @ crystal.reciprocal)
    periods = np.linalg.inv(reciprocal).T
    fractions = crystal.positions @ basis.T
    return Projection((fractions % 1.0) @ periods, crystal.numbers.astype(float) ** z_exponent, reduce_cell(periods))


def visible_zones(planes: Reflections, largest_index: int) -> list[tuple[int, int, int]]:
    """Names of the families of directions with indices up to the given one that hold two independent planes or more."""
    axes = np.arange(-largest_index, largest_index + 1)
    directions = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    directions = directions[np.gcd.reduce(directions, axis=1) == 1]
    names = dict.fromkeys(planes.crystal.zone_family(direction) for direction in directions)
    return [
        name for name in names if np.linalg.matrix_rank(planes.hkl[planes.hkl @ np.array(name) == 0], tol=1e-6) == 2
    ]
