"""From peak positions to candidate reciprocal lattices.

Belongs here: the combinatorial step. Positions come in, a short list of lattices goes out, best first; which of them
the image supports is for the least-squares fit to say. Frequencies are rows (kx, ky) in units of 1/field ("bins").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.structures.lattice import reduce_cell

Array = NDArray[np.float64]

_POSITION_SIGMA_BINS = 0.12
"""Uncertainty of a peak's position where neighbours overlap; lone peaks are far better."""

_OUTLIER = math.log(0.02)
"""Log odds of a peak that the lattice does not explain."""

_LARGEST_FRACTION = 8
"""Largest denominator at which an unexplained peak may refine a lattice."""

_SMALLEST_AREA_BINS2 = 1.6
"""Reciprocal cells below this area cannot be told from a continuum."""


@dataclass(frozen=True)
class Candidate:
    """A reciprocal lattice: reduced basis (2, 2) in bins, and its log odds against peaks scattered at random."""

    basis: Array
    log_odds: float

    @property
    def agreement(self) -> float:
        """Log odds without the two peaks that any lattice through them explains."""
        return self.log_odds - 2 * self.best_odds

    @property
    def best_odds(self) -> float:
        """Log odds of a peak that is exactly in its place."""
        return math.log(abs(np.linalg.det(self.basis)) / (2 * math.pi * _POSITION_SIGMA_BINS**2))


def candidate_lattices(
    frequencies: Array, *, strongest: int = 14, most: int = 4, margin: float = 12.0
) -> list[Candidate]:
    """Lattices that explain the peaks, best first.

    Each pair of strong peaks spans a lattice; peaks that it leaves out may refine it by a simple fraction. A peak at
    distance d from the nearest point of a lattice with cell area A counts log(A / 2πσ²) − d²/2σ², so that a finer
    lattice must earn its closeness.

    Args:
        frequencies: (n, 2) peak positions in bins, strongest first.
        strongest: Number of peaks from which pairs are taken.
        most: Most candidates returned.
        margin: Candidates this much below the best in log odds are dropped.

    Returns:
        At least one candidate, or an empty list if all peaks lie on one line.
    """
    rough = _pairs(frequencies, strongest)
    found = [_grown(_refitted(candidate, frequencies), frequencies) for candidate in _distinct(rough[:24], 3)]
    if not found:
        return []
    found.sort(key=lambda candidate: -candidate.log_odds)
    return [each for each in _distinct(found, most) if each.log_odds > found[0].log_odds - margin]


def _pairs(frequencies: Array, strongest: int) -> list[Candidate]:
    """Lattices spanned by two peaks, best first, scored all at once and loosely, since two peaks fix far points
    badly."""
    first, second = np.triu_indices(min(strongest, len(frequencies)), 1)
    bases = np.stack((frequencies[first], frequencies[second]), axis=1)
    areas = np.abs(np.linalg.det(bases))
    good = (areas > _SMALLEST_AREA_BINS2) & (areas > 0.2 * np.linalg.norm(bases, axis=2).prod(axis=1))
    bases, areas = bases[good], areas[good]
    whole = np.rint(frequencies @ np.linalg.inv(bases))
    odds = _log_odds(whole, frequencies - whole @ bases, areas[:, None], 0.04).sum(axis=-1)
    return [Candidate(reduce_cell(bases[i]), float(odds[i])) for i in np.argsort(-odds)[:24]]


def _log_odds(whole: Array, miss: Array, area: Array | float, per_order: float) -> Array:
    """Log odds (..., n) of each peak under a lattice, from its integers and misses (..., n, 2)."""
    variance = (_POSITION_SIGMA_BINS + per_order * np.abs(whole).sum(axis=-1)) ** 2
    odds = np.log(area / (2 * np.pi * variance)) - (miss**2).sum(axis=-1) / (2 * variance)
    return np.maximum(np.where(np.any(whole != 0, axis=-1), odds, -np.inf), _OUTLIER)


def _spans(pair: Array) -> bool:
    lengths = np.linalg.norm(pair, axis=1)
    area = abs(np.linalg.det(pair))
    return bool(area > _SMALLEST_AREA_BINS2 and area > 0.05 * lengths.prod())


def _misses(basis: Array, frequencies: Array) -> tuple[Array, Array]:
    """Nearest lattice points as integers (n, 2), and the vectors from them to the peaks (n, 2)."""
    whole = np.rint(frequencies @ np.linalg.inv(basis))
    return whole, frequencies - whole @ basis


def _scored(basis: Array, frequencies: Array) -> Candidate:
    whole, miss = _misses(basis, frequencies)
    return Candidate(basis, float(_log_odds(whole, miss, abs(np.linalg.det(basis)), 0.0).sum()))


def _refitted(candidate: Candidate, frequencies: Array) -> Candidate:
    """The lattice after a least-squares fit to the peaks that it explains."""
    basis = candidate.basis
    for tolerance in (0.5, 0.4, 0.35):
        whole, miss = _misses(basis, frequencies)
        use = (np.linalg.norm(miss, axis=1) < tolerance) & np.any(whole != 0, axis=1)
        gram = whole[use].T @ whole[use]
        if np.linalg.det(gram) < 0.5:
            break
        basis = np.linalg.solve(gram, whole[use].T @ frequencies[use])
    return _scored(basis, frequencies) if _spans(basis) else candidate


def _grown(candidate: Candidate, frequencies: Array) -> Candidate:
    """The lattice refined by fractions of unexplained peaks for as long as that pays."""
    for _ in range(4):
        _, miss = _misses(candidate.basis, frequencies)
        unexplained = np.flatnonzero(np.linalg.norm(miss, axis=1) > 0.4)[:4]
        finer = [
            _with_point(candidate.basis, frequencies[i], m)
            for i in unexplained
            for m in range(2, _LARGEST_FRACTION + 1)
        ]
        options = [_scored(reduce_cell(basis), frequencies) for basis in finer if basis is not None]
        best = _refitted(max(options, key=lambda option: option.log_odds, default=candidate), frequencies)
        # The peak that the finer lattice was made for proves nothing; others must follow.
        if best.log_odds - best.best_odds + _OUTLIER <= candidate.log_odds:
            break
        candidate = best
    return candidate


def _with_point(basis: Array, point: Array, denominator: int) -> Array | None:
    """Basis of the lattice generated by ``basis`` and the multiple of 1/denominator nearest to ``point``; None if not
    new."""
    parts = np.rint(denominator * (point @ np.linalg.inv(basis))).astype(int)
    miss = np.linalg.norm(parts / denominator @ basis - point)
    if miss > 0.4 or math.gcd(math.gcd(int(parts[0]), int(parts[1])), denominator) != 1:
        return None
    generators = np.vstack((denominator * np.eye(2, dtype=int), parts))
    finer = _integer_basis(generators) / denominator @ basis
    return finer if abs(np.linalg.det(finer)) > _SMALLEST_AREA_BINS2 else None


def _integer_basis(generators: NDArray[np.int64]) -> Array:
    """Basis (2, 2) of the integer lattice that three generators (3, 2) span, by Euclid's algorithm on columns."""
    rows = [tuple(int(value) for value in row) for row in generators]
    basis = []
    for column in (0, 1):
        while sum(1 for row in rows if row[column]) > 1:
            pivot = min((row for row in rows if row[column]), key=lambda row: abs(row[column]))
            rows = [pivot] + [_minus(row, pivot, column) for row in rows if row is not pivot]
        pivot = next(row for row in rows if row[column])
        basis.append(pivot)
        rows = [row for row in rows if row is not pivot]
    return np.array(basis, dtype=np.float64)


def _minus(row: tuple[int, ...], pivot: tuple[int, ...], column: int) -> tuple[int, ...]:
    times = row[column] // pivot[column]
    return tuple(a - times * b for a, b in zip(row, pivot, strict=True))


def _distinct(candidates: list[Candidate], most: int) -> list[Candidate]:
    """The first ``most`` candidates that are different lattices."""
    kept: list[Candidate] = []
    for candidate in candidates:
        if not any(_same_lattice(candidate.basis, other.basis) for other in kept):
            kept.append(candidate)
        if len(kept) == most:
            break
    return kept


def _same_lattice(first: Array, second: Array) -> bool:
    _, miss = _misses(first, second)
    ratio = abs(np.linalg.det(first) / np.linalg.det(second))
    return bool(0.95 < ratio < 1.05 and np.linalg.norm(miss, axis=1).max() < 0.3)
