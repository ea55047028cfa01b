"""The projection of a slab along z as a two-dimensional crystal: primitive cell, columns, structure factors.

Belongs here: what the atoms of the projection say, in exact geometry. The lattice vectors alone are the business of
:mod:`atomvision_ml.structures.lattice`; thresholds and labels that follow from both are in
:mod:`atomvision_ml.structures.labels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.structures.lattice import classify_cell, reduce_cell

MATCHING_TOLERANCE_ANGSTROM = 0.015
"""Largest distance at which a translated atom counts as lying on another, and two atoms as one column."""

SIGMA_ANGSTROM = 0.5
"""Standard deviation of the probe in the structure factors."""

Z_EXPONENT = 1.7
"""Exponent of the atomic number in the projected density (AtomVision, eq. 1)."""

MAXIMUM_INDEX = 3
"""Largest |h| and |k| of the reflections that tell a lattice from its pseudo-symmetric parents."""

MAXIMUM_PARENT_INDEX = 4
"""Parents have a primitive cell smaller by 2 up to this."""


@dataclass(frozen=True)
class PrimitiveProjection:
    """The smallest repeating unit of a projection.

    Shapes: cell_angstrom (2, 2), reduced, right-handed, vectors as rows; positions_angstrom (m, 2), inside the cell;
    numbers (m,), one entry for each atom, so that coincident atoms count as many.
    """

    cell_angstrom: NDArray[np.float64]
    positions_angstrom: NDArray[np.float64]
    numbers: NDArray[np.int32]


def primitive_projection(
    numbers: ArrayLike,
    positions_xy: ArrayLike,
    cell_xy: ArrayLike,
    tolerance_angstrom: float = MATCHING_TOLERANCE_ANGSTROM,
) -> PrimitiveProjection:
    """Smallest cell that repeats the projected atoms, each element one-to-one within the tolerance.

    A translation of prime order p in the given cell is a vector (i a + j b)/p, and p divides the number of atoms of
    every element: these few candidates are all there are. The best is accepted, the atoms that it joins are averaged,
    and the search goes on in the smaller cell until no translation is left. All multiples of a translation must
    match. Averaging over the translations loses no more than the tolerance.

    Args:
        numbers: (n,) atomic numbers.
        positions_xy: (n, 2) Cartesian, Å.
        cell_xy: (2, 2) in-plane cell, vectors as rows, Å.
        tolerance_angstrom: Largest distance of a translated atom from the one it is matched with.

    Raises:
        ValueError: no atoms, wrong shapes, values that are not finite, or a cell without area.
    """
    return PrimitiveProjection(*_primitive(numbers, positions_xy, cell_xy, tolerance_angstrom))


def primitive_slab(
    numbers: ArrayLike, positions_angstrom: ArrayLike, cell_angstrom: ArrayLike, tolerance_angstrom: float
) -> PrimitiveProjection:
    """The same for the slab itself: an atom is matched with one at the same height only.

    Args:
        numbers: (n,) atomic numbers.
        positions_angstrom: (n, 3) Cartesian, Å.
        cell_angstrom: (3, 3), a and b in the (x, y) plane, c along z, Å.
        tolerance_angstrom: Largest distance in space of a translated atom from the one it is matched with.

    Returns:
        As for the projection, but with positions (m, 3) and a cell (3, 3).
    """
    return PrimitiveProjection(*_primitive(numbers, positions_angstrom, cell_angstrom, tolerance_angstrom))


def _primitive(
    numbers: ArrayLike, positions_angstrom: ArrayLike, cell_angstrom: ArrayLike, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Cell, positions and numbers of the smallest repeating unit, in two or three dimensions."""
    cell = _in_plane_reduced(np.array(cell_angstrom, np.float64))
    z = np.array(numbers, np.int32).reshape(-1)
    positions = np.array(positions_angstrom, np.float64).reshape(-1, len(cell))
    if len(z) == 0 or len(z) != len(positions):
        raise ValueError(f"{len(z)} atomic numbers and {len(positions)} positions; give one of each per atom")
    if not np.isfinite(positions).all():
        raise ValueError("positions are not finite")
    fractional = _wrapped(positions @ np.linalg.inv(cell))
    while (found := _best_translation(z, fractional, cell, tolerance)) is not None:
        order, translation, partners = found
        z, folded = _folded(z, fractional, translation, partners, order)
        positions = folded @ cell
        cell = _finer_cell(cell, translation, order)
        fractional = _wrapped(positions @ np.linalg.inv(cell))
    return cell, fractional @ cell, z


def _in_plane_reduced(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cell with its first two vectors reduced in the (x, y) plane."""
    reduced = cell.copy()
    reduced[:2, :2] = reduce_cell(cell[:2, :2])
    return reduced


def _wrapped(fractional: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional coordinates in [0, 1); the second modulus catches values that round to 1."""
    return np.asarray(fractional % 1.0 % 1.0)


def _reach(cell: NDArray[np.float64], tolerance: float) -> float:
    """Largest difference of a fractional coordinate between two points closer than the tolerance (Å)."""
    return min(0.499, (1 + 1e-9) * tolerance * float(np.linalg.norm(np.linalg.inv(cell), axis=0).max()))


def _prime_factors(number: int) -> Iterator[int]:
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            yield divisor
            while number % divisor == 0:
                number //= divisor
        divisor += 1
    if number > 1:
        yield number


def _candidates(order: int, dimensions: int) -> NDArray[np.float64]:
    """One in-plane generator for each of the order + 1 subgroups of that prime order, shape (order + 1, dimensions)."""
    candidates = np.zeros((order + 1, dimensions))
    candidates[0, 1] = 1
    candidates[1:, 0] = 1
    candidates[1:, 1] = np.arange(order)
    return candidates / order


def _best_translation(
    numbers: NDArray[np.int32], fractional: NDArray[np.float64], cell: NDArray[np.float64], tolerance: float
) -> tuple[int, NDArray[np.float64], NDArray[np.int64]] | None:
    """Order, fractional translation and partner of each atom, of the translation with the least misfit."""
    counts = np.unique(numbers, return_counts=True)[1]
    divisor = math.gcd(*counts.tolist())
    if divisor == 1:
        return None
    matcher = _Matcher(numbers, fractional, cell, tolerance)
    best: tuple[float, int, NDArray[np.float64], NDArray[np.int64]] | None = None
    for order in _prime_factors(divisor):
        for translation in matcher.plausible(order):
            match = matcher.match(translation, order)
            if match is not None and (best is None or match[0] < best[0]):
                best = (match[0], order, translation, match[1])
    return None if best is None else best[1:]


class _Matcher:
    """Finds for each atom the one that lies at its translated place."""

    def __init__(
        self, numbers: NDArray[np.int32], fractional: NDArray[np.float64], cell: NDArray[np.float64], tolerance: float
    ) -> None:
        from scipy.spatial import cKDTree

        self._numbers = numbers
        self._fractional = fractional
        self._cell = cell
        self._tolerance = tolerance
        self._reach = _reach(cell, tolerance)
        self._tree = cKDTree(fractional, boxsize=1.0)

    def plausible(self, order: int) -> NDArray[np.float64]:
        """Those candidates of which a few multiples carry one atom of the rarest element near another of it."""
        from scipy.spatial import cKDTree

        elements, counts = np.unique(self._numbers, return_counts=True)
        rare = self._fractional[self._numbers == elements[counts.argmin()]]
        tree = cKDTree(rare, boxsize=1.0)
        candidates = _candidates(order, len(self._cell))
        for multiple in sorted({1, 2, 3, order // 3, order // 2} - {0}):
            misses = tree.query(_wrapped(rare[0] + multiple * candidates), p=np.inf)[0]
            candidates = candidates[misses <= self._reach]
        return candidates

    def match(self, translation: NDArray[np.float64], order: int) -> tuple[float, NDArray[np.int64]] | None:
        """Largest misfit (Å) over the multiples of the translation, and the partners (n,); None if one has none."""
        partners = self._partners(translation)
        if partners is None:
            return None
        image, misfit = np.arange(len(partners)), 0.0
        for multiple in range(1, max(1, order // 2) + 1):
            image = partners[image]
            misfit = max(misfit, float(self._misses(image, multiple * translation).max()))
            if misfit > self._tolerance:
                return None
        return misfit, partners

    def _misses(self, image: NDArray[np.int64], translation: NDArray[np.float64]) -> NDArray[np.float64]:
        miss = self._fractional[image] - self._fractional - translation
        return np.asarray(np.linalg.norm((miss - np.round(miss)) @ self._cell, axis=1))

    def _partners(self, translation: NDArray[np.float64]) -> NDArray[np.int64] | None:
        moved = _wrapped(self._fractional + translation)
        nearest = self._tree.query(moved, p=np.inf, distance_upper_bound=self._reach)[1]
        if (nearest == len(moved)).any():
            return None
        is_simple = len(np.unique(nearest)) == len(nearest) and (self._numbers[nearest] == self._numbers).all()
        if is_simple and self._misses(nearest, translation).max() <= self._tolerance:
            return np.asarray(nearest, np.int64)
        return self._assigned(moved)

    def _assigned(self, moved: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """A perfect matching where columns coincide or nearly do: nearest neighbours are then not one-to-one."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import maximum_bipartite_matching

        hits = self._tree.query_ball_point(moved, self._reach, p=np.inf)
        source = np.repeat(np.arange(len(moved)), [len(hit) for hit in hits])
        target = np.array([index for hit in hits for index in hit], np.int64)
        miss = moved[source] - self._fractional[target]
        is_near = np.linalg.norm((miss - np.round(miss)) @ self._cell, axis=1) <= self._tolerance
        is_near &= self._numbers[source] == self._numbers[target]
        edges = coo_matrix((np.ones(is_near.sum(), np.int8), (source[is_near], target[is_near])), (len(moved),) * 2)
        partners = maximum_bipartite_matching(edges.tocsr(), perm_type="column")
        return None if (partners < 0).any() else partners.astype(np.int64)


def _folded(
    numbers: NDArray[np.int32],
    fractional: NDArray[np.float64],
    translation: NDArray[np.float64],
    partners: NDArray[np.int64],
    order: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """One averaged atom for each ``order`` atoms that the translation joins; fractional in the old cell.

    A chain of partners may pass through coincident atoms before it closes; its length is then a multiple of the order.
    """
    is_free = np.ones(len(numbers), bool)
    members: list[int] = []
    for start in range(len(numbers)):
        atom = start
        while is_free[atom]:
            is_free[atom] = False
            members.append(atom)
            atom = int(partners[atom])
    orbits = np.array(members).reshape(-1, order)
    first = fractional[orbits[:, :1]]
    offsets = fractional[orbits] - first - np.arange(order)[:, None] * translation
    return numbers[orbits[:, 0]], first[:, 0] + (offsets - np.round(offsets)).mean(axis=1)


def _finer_cell(cell: NDArray[np.float64], translation: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Reduced cell of the lattice with the translation added."""
    i, j = np.round(translation[:2] * order).astype(int)
    basis = np.eye(len(cell))
    basis[0, :2] = i / order, j / order
    basis[1, :2] = (1, 0) if i == 0 else (0, 1)
    return _in_plane_reduced(basis @ cell)


def columns(projection: PrimitiveProjection) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Atomic columns: fractional positions (k, 2) of their centres, and a type (k,) for each composition.

    Atoms that a chain of distances below the matching tolerance joins are one column.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    inverse = np.linalg.inv(projection.cell_angstrom)
    fractional = _wrapped(projection.positions_angstrom @ inverse)
    reach = _reach(projection.cell_angstrom, MATCHING_TOLERANCE_ANGSTROM)
    pairs = cKDTree(fractional, boxsize=1.0).query_pairs(reach, p=np.inf, output_type="ndarray")
    miss = fractional[pairs[:, 0]] - fractional[pairs[:, 1]]
    near = np.linalg.norm((miss - np.round(miss)) @ projection.cell_angstrom, axis=1) <= MATCHING_TOLERANCE_ANGSTROM
    count = len(fractional)
    links = csr_matrix((np.ones(near.sum(), np.int8), pairs[near].T), (count, count))
    n_columns, member_of = connected_components(links, directed=False)
    first = np.unique(member_of, return_index=True)[1]
    offsets = fractional - fractional[first[member_of]]
    offsets -= np.round(offsets)
    sums = np.array([np.bincount(member_of, offsets[:, axis], n_columns) for axis in (0, 1)]).T
    centres = fractional[first] + sums / np.bincount(member_of)[:, None]
    compositions = [tuple(sorted(projection.numbers[member_of == column].tolist())) for column in range(n_columns)]
    known = {composition: index for index, composition in enumerate(sorted(set(compositions)))}
    return _wrapped(centres), np.array([known[composition] for composition in compositions])


@dataclass(frozen=True)
class Superlattice:
    """The nearest pseudo-symmetric parent: its Bravais class, and max |F_g|/F_0 of the reflections it lacks."""

    parent: str
    contrast: float


def structure_factors(
    projection: PrimitiveProjection,
    indices: ArrayLike,
    *,
    sigma_angstrom: float = SIGMA_ANGSTROM,
    z_exponent: float = Z_EXPONENT,
) -> NDArray[np.float64]:
    """|F_g|/F_0 of the projected density Σ Z^p · Gaussian(σ) for reflections g = h a* + k b*.

    Args:
        projection: the primitive projection.
        indices: (r, 2) integers h, k.
        sigma_angstrom: standard deviation of the probe, Å.
        z_exponent: p.

    Returns:
        Shape (r,), F_g = Σ Z^p exp(-2πi g·r) · exp(-2π²σ²g²), divided by F_0.
    """
    reciprocal = np.linalg.inv(projection.cell_angstrom).T
    g = np.asarray(indices, np.float64) @ reciprocal
    weights = projection.numbers.astype(np.float64) ** z_exponent
    amplitudes = np.exp(-2j * np.pi * (g @ projection.positions_angstrom.T)) @ (weights / weights.sum())
    probe = np.exp(-2 * (np.pi * sigma_angstrom) ** 2 * (g**2).sum(axis=1))
    return np.asarray(np.abs(amplitudes) * probe)


def _half_plane_indices() -> NDArray[np.int64]:
    """All h, k up to the maximum index, one of each pair ±g, without 0."""
    span = range(-MAXIMUM_INDEX, MAXIMUM_INDEX + 1)
    return np.array([(h, k) for h in span for k in span if (h, k) > (0, 0)])


def _parent_bases() -> tuple[NDArray[np.float64], ...]:
    """Bases, in units of the cell vectors, of all lattices finer by an index of 2 to the maximum.

    A lattice P finer by index m contains L and is contained in L/m; mP is one of the sublattices of index m of L, whose
    Hermite normal forms are listed.
    """
    return tuple(
        np.array([[a, b], [0, index // a]]) / index
        for index in range(2, MAXIMUM_PARENT_INDEX + 1)
        for a in range(1, index + 1)
        if index % a == 0
        for b in range(index // a)
    )


_INDICES = _half_plane_indices()
_PARENTS = _parent_bases()


def nearest_superlattice(projection: PrimitiveProjection, own_class: str) -> Superlattice | None:
    """The finer lattice of another class to which the density comes nearest, or None if all are of the own class.

    Candidates are all lattices finer by an index of 2, 3 or 4. The contrast of one is the largest |F_g|/F_0, probe
    included, over the reflections with |h|, |k| ≤ 3 in the reduced primitive basis that it lacks; the nearest is the
    one of least contrast.
    """
    factors = structure_factors(projection, _INDICES)
    found: Superlattice | None = None
    for basis in _PARENTS:
        phases = _INDICES @ basis.T
        is_absent = (np.abs(phases - np.round(phases)) > 1e-6).any(axis=1)
        contrast = float(factors[is_absent].max())
        if found is not None and contrast >= found.contrast:
            continue
        name = classify_cell(basis @ projection.cell_angstrom).name
        if name != own_class:
            found = Superlattice(name, contrast)
    return found
