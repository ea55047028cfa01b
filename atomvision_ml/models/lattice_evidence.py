"""Evidence for and against weak superlattice reflections.

Belongs here: which finer or coarser reciprocal lattices are possible, and the Bayes factor of each from the power at its
reflections over the noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_OCCUPATION = np.array([0.04, 0.15, 0.5, 1.0])
"""Fractions of a superlattice's reflections that are visibly occupied; a crystal may light up one or all."""

_SCALE = 10.0 ** np.arange(-5.0, 0.51, 0.5)
"""Mean power of superlattice reflections over that of the main ones at the same radius."""


@cache
def sublattice_matrices(index: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """All 2D sublattices of an index, as Hermite normal forms ((a, b), (0, d)) with a·d = index."""
    divisors = [a for a in range(1, index + 1) if index % a == 0]
    return tuple(((a, b), (0, index // a)) for a in divisors for b in range(index // a))


def off_lattice(indices: Indices, matrix: Indices) -> NDArray[np.bool_]:
    """Which integer pairs of a lattice are not points of its sublattice with rows ``matrix`` (Hermite normal form)."""
    (a, b), (_, d) = matrix
    first, remainder = np.divmod(indices[:, 0], a)
    return (remainder != 0) | ((indices[:, 1] - first * b) % d != 0)


def log_bayes_factor(snr: Array, envelope: Array) -> float:
    """Log evidence ratio of 'some of these reflections are occupied' against 'all are noise'.

    Under noise the power over the noise power, z, is exponential with mean 1. An occupied reflection with expected strength λ
    (complex Gaussian amplitude) makes it exponential with mean 1 + λ. Each is occupied with probability π; λ is s times the
    envelope of the main reflections; π and s are marginalised over a fixed grid.

    Args:
        snr: (M,) power over noise at the reflections.
        envelope: (M,) power of main reflections over noise at the same radii.
    """
    if len(snr) == 0:
        return 0.0
    strength = _SCALE[:, None] * envelope[None, :]
    log_ratio = snr * strength / (1 + strength) - np.log1p(strength)
    with np.errstate(divide="ignore"):
        empty, occupied = np.log1p(-_OCCUPATION), np.log(_OCCUPATION)
    terms = np.logaddexp(empty[:, None, None], occupied[:, None, None] + log_ratio[None])
    totals = terms.sum(axis=2).ravel()
    return float(logsumexp(totals) - np.log(len(totals)))
