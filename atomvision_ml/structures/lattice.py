"""Two-dimensional lattices: reduction, distance to each of the five Bravais classes, nearest cell of a class.

Belongs here: everything that needs the cell vectors alone. What the atoms say is in
:mod:`atomvision_ml.structures.projection`.

The shape of a lattice is one point τ = b/a of the upper half plane (vectors as complex numbers). The linear map that
takes one shape to another has principal stretches of ratio exp(d), d being the hyperbolic distance of the two points;
with the size left free, its largest principal strain is least when the two strains are opposite, and is then
tanh(d/2). Changes of basis act on τ as the reflection group GL(2, Z), whose fundamental triangle

    0 ≤ Re τ ≤ 1/2,  |τ| ≥ 1

has the square lattice (τ = i) and the hexagonal lattice (τ = exp(iπ/3)) as corners, the rectangular lattices (Re τ = 0)
as one side and the rhombic lattices (Re τ = 1/2 and |τ| = 1) as the two others. In a reflection group no image of a
point is nearer than the one in the same fundamental domain, so the distances below are minima over all bases, in
closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLASS_TOLERANCE = 0.003
"""Largest symmetrising strain (fraction) at which a cell belongs to a class."""

SYMMETRY_ORDER = {"hexagonal": 12, "square": 8, "rectangular": 4, "rhombic": 4, "oblique": 2}
"""Order of the lattice point group of each class."""

_TIE = 1e-9
"""Relative size below which two lengths, or a projection and one half, count as equal (rounding only)."""

_FLAT = 1e-9
"""Smallest sine of the cell angle, and smallest ratio of the two lengths, of a cell that can be reduced safely."""

_HEXAGONAL = complex(0.5, math.sqrt(0.75))
_SQUARE = 1j


@dataclass(frozen=True)
class CellClass:
    """The class of a cell, and the nearest class of higher symmetry.

    Attributes:
        name: Bravais class.
        strain: Largest principal strain (fraction) that makes the cell exactly that class.
        next_class: Nearest class of higher symmetry; None for hexagonal and square.
        next_strain: Largest principal strain (fraction) to it; None for hexagonal and square.
    """

    name: str
    strain: float
    next_class: str | None
    next_strain: float | None


def as_cell(cell: ArrayLike) -> NDArray[np.float64]:
    """A (2, 2) float64 cell, rows as vectors; raises ValueError if it is not finite or too flat."""
    vectors = np.asarray(cell, dtype=np.float64)
    if vectors.shape != (2, 2):
        raise ValueError(f"a 2D cell has shape (2, 2), rows as vectors; got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"the cell {vectors.tolist()} has values that are not finite")
    lengths = np.hypot(vectors[:, 0], vectors[:, 1])
    if lengths.min() < _FLAT * lengths.max():
        raise ValueError(f"the vectors of the cell {vectors.tolist()} differ too much in length for float64 arithmetic")
    if lengths.min() == 0 or abs(np.linalg.det(vectors / lengths[:, None])) < _FLAT:
        raise ValueError(f"the cell {vectors.tolist()} has no area; give two vectors that are not parallel")
    return vectors


def reduce_cell(cell: ArrayLike) -> NDArray[np.float64]:
    """Lagrange-Gauss reduced basis of the same lattice, in the same orientation in space.

    Args:
        cell: Shape (2, 2), rows as vectors, any length unit, either handedness.

    Returns:
        Shape (2, 2), rows a and b with |a| ≤ |b|, right-handed, angle between 60° and 120°; a points into the
        half plane x > 0. Where b + a or b - a is as short as b, the obtuse angle is taken.

    Raises:
        ValueError: the cell is not finite or has no area.
    """
    a, b = as_cell(cell)
    while True:
        if b @ b < a @ a:
            a, b = b, a
        steps = _nearest_integer((a @ b) / (a @ a))
        if steps == 0:
            break
        b = b - steps * a
    first, second, *others = sorted((a, b, b - a, b + a), key=lambda vector: vector @ vector)
    if tuple(first) < (0.0, 0.0):
        first = -first
    as_short = [second, *(other for other in others if other @ other <= (1 + _TIE) * (second @ second))]
    right_handed = [other if first[0] * other[1] > first[1] * other[0] else -other for other in as_short]
    return np.array([first, min(right_handed, key=lambda vector: first @ vector)])


def _nearest_integer(value: float) -> int:
    """Nearest integer, with ±1/2 (up to rounding) counted as reduced already."""
    return 0 if abs(value) <= 0.5 + _TIE else round(value)


def shape_point(cell: ArrayLike) -> complex:
    """The point of the fundamental triangle (0 ≤ Re ≤ 1/2, modulus ≥ 1) that stands for the lattice's shape."""
    a, b = reduce_cell(cell)
    tau = complex(*b) / complex(*a)
    return complex(min(abs(tau.real), 0.5), tau.imag)


def _nearest_shapes(tau: complex) -> dict[str, complex]:
    """Nearest shape of each class, for a point of the fundamental triangle."""
    rhombi = (complex(0.5, abs(tau - 0.5)), _on_unit_circle(tau))
    return {
        "hexagonal": _HEXAGONAL,
        "square": _SQUARE,
        "rectangular": complex(0, abs(tau)),
        "rhombic": min(rhombi, key=lambda rhombus: _shape_strain(tau, rhombus)),
        "oblique": tau,
    }


def _on_unit_circle(tau: complex) -> complex:
    """Foot of the perpendicular from τ on the geodesic |τ| = 1."""
    real = 2 * tau.real / (1 + abs(tau) ** 2)
    return complex(real, math.sqrt(1 - real**2))


def _shape_strain(tau: complex, other: complex) -> float:
    """Least largest principal strain between two shapes: tanh(d/2), with d their hyperbolic distance."""
    return abs(tau - other) / abs(tau - other.conjugate())


def class_strains(cell: ArrayLike) -> dict[str, float]:
    """Smallest strain that makes the lattice exactly each class, as the larger principal strain (fraction).

    The strain is the minimum over all bases of the lattice, all lattices of the class and all sizes. For a rectangle
    a × a(1 + e) and the square it is e/(2 + e).

    Args:
        cell: Shape (2, 2), rows as vectors.

    Returns:
        Class name to strain, in the order of the published class numbers; oblique is 0.

    Raises:
        ValueError: the cell is not finite or has no area.
    """
    tau = shape_point(cell)
    return {name: _shape_strain(tau, shape) for name, shape in _nearest_shapes(tau).items()}


def classify_cell(cell: ArrayLike, tolerance: float = CLASS_TOLERANCE) -> CellClass:
    """The highest class that a strain of at most ``tolerance`` (fraction) reaches; of two equally high, the nearer.

    Raises:
        ValueError: the cell is not finite or has no area.
    """
    strains = class_strains(cell)
    reached = [name for name, strain in strains.items() if strain <= tolerance]
    name = max(reached, key=lambda each: (SYMMETRY_ORDER[each], -strains[each]))
    if name in ("hexagonal", "square"):
        return CellClass(name, strains[name], None, None)
    higher = [each for each in strains if SYMMETRY_ORDER[each] > SYMMETRY_ORDER[name]]
    nearest = min(higher, key=lambda each: strains[each])
    return CellClass(name, strains[name], nearest, strains[nearest])


def symmetrise_cell(cell: ArrayLike, name: str) -> NDArray[np.float64]:
    """The reduced cell strained, without rotation, to exactly the class ``name``.

    Args:
        cell: Shape (2, 2), rows as vectors.
        name: Bravais class.

    Returns:
        Shape (2, 2), rows as vectors. Its largest principal strain against the reduced cell is
        ``class_strains(cell)[name]``.

    Raises:
        ValueError: the cell is not finite or has no area, or the class is unknown.
    """
    reduced = reduce_cell(cell)
    tau = shape_point(reduced)
    shapes = _nearest_shapes(tau)
    if name not in shapes:
        raise ValueError(f"unknown Bravais class {name!r}; use one of {list(shapes)}")
    target = shapes[name]
    sign = 1.0 if reduced[0] @ reduced[1] >= 0 else -1.0
    ideal = np.array([[1.0, 0.0], [sign * target.real, target.imag]])
    left, stretches, _ = np.linalg.svd(np.linalg.solve(reduced, ideal))
    return reduced @ (left * (2 * stretches / stretches.sum())) @ left.T
