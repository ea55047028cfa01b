"""Class probabilities of a measured cell.

Belongs here: what the strain, its uncertainty and the lattices that could not be excluded say about the five classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains

Array = NDArray[np.float64]

_SPECIAL = ("hexagonal", "square", "rectangular", "rhombic")

_LABEL_SIGMA = 2e-4
"""Scatter of the strain at which a label changes, in parts of one: rounding of the databases."""

_SPIKE_SIGMAS = 2.5
"""Measured strains within this many standard uncertainties of the tolerance count as inside: most crystals that are
near a class are in it exactly. With the distortion of a scan it is Occam's factor: a class is a point or a line in the
plane of shapes, so its crystals are found within some sigmas of it, while the less symmetric ones spread over a tenth
of strain and more and are rarer; both together outweigh the Gaussian's fall up to about here."""

SCAN_DISTORTION_PERCENT = 1.0
"""What an ordinary scan's drift and calibration do to the shape of a cell: standard deviation of each of the two
components of the strain. A drift of 0.8 Å over a field of 25 to 38 Å strains by 1.0 to 1.6 % in all, 0.9 % a component;
a genuine scan of SrTiO3 [001] by 1.15 % (``docs/results/experiments.md``)."""


def strain_sigmas(cell: Array, covariance: Array, scan_distortion_percent: float = 0.0) -> dict[str, float]:
    """Standard uncertainty of the strain to each special class, by steps along the principal axes of the covariance.

    Args:
        cell: (2, 2) reduced cell, rows.
        covariance: (4, 4) of its components, row by row.
        scan_distortion_percent: standard deviation of the strain that the scan adds, on top of the covariance.
    """
    strains = class_strains(cell)
    variances = dict.fromkeys(_SPECIAL, (scan_distortion_percent / 100) ** 2)
    values, axes = np.linalg.eigh(covariance)
    for value, axis in zip(values, axes.T, strict=True):
        step = math.sqrt(max(float(value), 0.0)) * axis.reshape(2, 2)
        ends = class_strains(cell + step), class_strains(cell - step)
        for name in _SPECIAL:
            variances[name] += max(abs(end[name] - strains[name]) for end in ends) ** 2
    return {name: math.sqrt(variance) for name, variance in variances.items()}


def strains_percent(cell: ArrayLike | None) -> dict[str, float] | None:
    """Strain in percent that makes a (2, 2) cell each class, by class; None where no cell is known."""
    return None if cell is None else {name: 100 * strain for name, strain in class_strains(cell).items()}


def class_probabilities(cell: Array, sigmas: dict[str, float], tolerance: float) -> dict[str, float]:
    """Probability of each Bravais class for one measured cell.

    Args:
        cell: (2, 2) cell, rows.
        sigmas: Standard uncertainty of the strain to each special class.
        tolerance: Largest symmetrising strain (fraction) of a class.

    Returns:
        Class name to probability, in the order of the published class numbers, summing to 1.
    """
    strains = class_strains(cell)
    inside = {name: _inside(strains[name], sigmas[name], tolerance) for name in _SPECIAL}
    neither = (1 - inside["hexagonal"]) * (1 - inside["square"])
    rectangular, rhombic = inside["rectangular"], inside["rhombic"]
    scatter = math.hypot(sigmas["rectangular"], sigmas["rhombic"], _LABEL_SIGMA)
    nearer = 0.5 * math.erfc((strains["rectangular"] - strains["rhombic"]) / (math.sqrt(2) * scatter))
    weights = {
        "hexagonal": inside["hexagonal"] * (1 - 0.5 * inside["square"]),
        "square": inside["square"] * (1 - 0.5 * inside["hexagonal"]),
        "rectangular": neither * rectangular * (1 - (1 - nearer) * rhombic),
        "rhombic": neither * rhombic * (1 - nearer * rectangular),
        "oblique": neither * (1 - rectangular) * (1 - rhombic),
    }
    total = sum(weights.values())
    return {name: weights[name] / total for name in BRAVAIS_LATTICES}


def mix(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Mixture of class probabilities, weights first; the weights need not sum to 1."""
    total = sum(weight for weight, _ in parts)
    return {name: sum(weight * each[name] for weight, each in parts) / total for name in BRAVAIS_LATTICES}


def _inside(strain: float, sigma: float, tolerance: float) -> float:
    bound = math.hypot(tolerance, _SPIKE_SIGMAS * sigma)
    return 0.5 * math.erfc((strain - bound) / (math.sqrt(2) * math.hypot(sigma, _LABEL_SIGMA)))
