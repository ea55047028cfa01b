"""The lattice of a diffractogram's spots: indices, primitive vectors and how far real scans let them be known.

Belongs here: the fit of one lattice to measured spots. Unlike :func:`atomvision_ml.models.lattice_finder.find_lattice`,
which fits every harmonic to the pixels and takes the scan for perfect, the spots tell by their scatter how well one
lattice fits a drifting scan, and the uncertainties follow from that; weak superlattices are not looked for.

Lengths are in Å where the pixel size is known, else in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.experiments.diffraction_spots import Spots
from atomvision_ml.models.lattice_classes import class_probabilities, strain_sigmas
from atomvision_ml.models.lattice_peaks import candidate_lattices
from atomvision_ml.structures.lattice import CLASS_TOLERANCE, reduce_cell

Array = NDArray[np.float64]

_STRONG_SHARES = (0.02, 0.0)
"""Spots above this share of the strongest one's power over noise are asked first."""

_NEAR_BINS = 0.75
"""Farthest a spot may lie from its lattice point, in 1/field."""

_PRIOR_SCATTER_BINS, _PRIOR_COUNT = 0.05, 2.0
"""Scatter of spots expected before any is seen, and how many squared residuals that is worth."""

_FEWEST_INDEXED = 3
_LARGEST_MISS = 0.5
"""Share of the power that may lie in spots off the lattice."""


@dataclass(frozen=True)
class SpotLattice:
    """A lattice and the spots that it explains.

    Attributes:
        cell: (2, 2) rows (x, y): reduced primitive vectors of the lattice, |a| ≤ |b|, in the unit of the pixel size.
        covariance: (4, 4) of its components, row by row, scatter of the spots included.
        reciprocal: (2, 2) rows a*, b*, without 2π.
        indices: (n, 2) h, k of each spot; (0, 0) where it is off the lattice.
        scatter_bins: standard deviation of the spots about the lattice along one axis, in 1/field, beyond noise.
        lattice: the most probable Bravais class.
        probabilities: of the classes; they count the uncertainty of the cell and the distortion that the scan may add.
    """

    cell: Array
    covariance: Array
    reciprocal: Array
    indices: NDArray[np.int64]
    scatter_bins: float
    lattice: str
    probabilities: dict[str, float]

    @property
    def uncertainties(self) -> Array:
        """(2, 2) standard uncertainties of the cell's components."""
        return np.sqrt(np.diag(self.covariance)).reshape(2, 2)

    @property
    def parameters(self) -> tuple[Array, Array]:
        """a, b and γ (°), and their standard uncertainties; each (3,)."""
        return propagated(_lengths_and_angle, self.cell.ravel(), self.covariance)


def lattice_of_spots(
    spots: Spots, pixel_size_xy: tuple[float, float] = (1.0, 1.0), scan_distortion_percent: float = 0.0
) -> SpotLattice | None:
    """The lattice that explains the strong spots; None where none does.

    Args:
        spots: of a diffractogram, strongest first.
        pixel_size_xy: edges of a pixel along x and y; the unit of all lengths.
        scan_distortion_percent: standard deviation of the strain that the scan may add, for the class alone.
    """
    size = np.array([spots.region.width_px, spots.region.height_px])
    bins = spots.frequencies * size
    for share in _STRONG_SHARES:
        strong = bins[spots.snr >= share * spots.snr.max(initial=0.0)]
        for candidate in candidate_lattices(strong) if len(strong) >= _FEWEST_INDEXED else ():
            found = _fitted(candidate.basis, bins, spots, np.asarray(pixel_size_xy) * size, scan_distortion_percent)
            if found is not None:
                return found
    return None


def _fitted(
    basis: Array, bins: Array, spots: Spots, field: Array, scan_distortion_percent: float
) -> SpotLattice | None:
    """The lattice by weighted least squares; None if too many spots or too much power are left out."""
    size = np.array([spots.region.width_px, spots.region.height_px])
    noise = np.einsum("nii->n", spots.covariances * np.outer(size, size)) / 2
    scatter = _PRIOR_SCATTER_BINS**2
    for _ in range(6):
        indices = np.rint(bins @ np.linalg.inv(basis)).astype(np.int64)
        use = (np.linalg.norm(bins - indices @ basis, axis=1) < _NEAR_BINS) & indices.any(axis=1)
        if np.linalg.matrix_rank(indices[use]) < 2 or use.sum() < _FEWEST_INDEXED:
            return None
        weights = 1 / (noise[use] + scatter)
        normal = (indices[use].T * weights) @ indices[use]
        basis = np.linalg.solve(normal, (indices[use].T * weights) @ bins[use])
        squares = ((bins[use] - indices[use] @ basis) ** 2).sum(axis=1) - 2 * noise[use]
        total = max(float(squares.sum()), 0.0) + _PRIOR_COUNT * _PRIOR_SCATTER_BINS**2
        scatter = total / (2 * int(use.sum()) - 4 + _PRIOR_COUNT)
    if spots.snr[use].sum() < _LARGEST_MISS * spots.snr.sum():
        return None
    covariance = np.asarray(np.kron(np.linalg.inv(normal), np.diag(field**-2.0)), np.float64)
    return _described(basis / field, covariance, indices * use[:, None], scatter, scan_distortion_percent)


def _described(
    reciprocal: Array,
    covariance: Array,
    indices: NDArray[np.int64],
    scatter: float,
    scan_distortion_percent: float,
) -> SpotLattice:
    """The lattice in its reduced basis, with all that follows from it."""
    raw = np.linalg.inv(reciprocal).T
    change = np.rint(reduce_cell(raw) @ reciprocal.T)
    values, spread = propagated(
        lambda each: (change @ np.linalg.inv(each.reshape(2, 2)).T).ravel(),
        reciprocal.ravel(),
        covariance,
        is_full=True,
    )
    cell = values.reshape(2, 2)
    sigmas = strain_sigmas(cell, spread, scan_distortion_percent)
    probabilities = class_probabilities(cell, sigmas, CLASS_TOLERANCE)
    return SpotLattice(
        cell=cell,
        covariance=spread,
        reciprocal=np.asarray(np.linalg.inv(cell).T),
        indices=np.rint(indices @ change.T).astype(np.int64),
        scatter_bins=float(np.sqrt(scatter)),
        lattice=max(probabilities, key=probabilities.__getitem__),
        probabilities=probabilities,
    )


def propagated(
    function: Callable[[Array], Array], values: Array, covariance: Array, *, is_full: bool = False
) -> tuple[Array, Array]:
    """A function's value, and its standard uncertainties or, if asked, its covariance, to first order.

    Args:
        function: from (n,) to (m,).
        values: (n,).
        covariance: (n, n).
        is_full: return the (m, m) covariance.
    """
    middle = np.asarray(function(values), np.float64)
    step = 1e-6 * max(float(np.abs(values).max()), 1e-300)
    slopes = np.stack(
        [(function(values + step * e) - function(values - step * e)) / (2 * step) for e in np.eye(len(values))], axis=1
    )
    spread = slopes @ covariance @ slopes.T
    return middle, spread if is_full else np.sqrt(np.maximum(np.diag(spread), 0.0))


def _lengths_and_angle(components: Array) -> Array:
    a, b = components.reshape(2, 2)
    lengths = np.hypot(*a), np.hypot(*b)
    return np.array([*lengths, np.degrees(np.arccos(np.clip(a @ b / (lengths[0] * lengths[1]), -1, 1)))])
