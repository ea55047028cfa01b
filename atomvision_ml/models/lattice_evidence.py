"""Evidence for and against weak superlattice reflections.

Belongs here: which finer or coarser reciprocal lattices are possible, and the Bayes factor of each from what a fit of
the coarser one leaves over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.models.lattice_harmonics import HarmonicFit, harmonic_indices
from atomvision_ml.models.lattice_spectrum import Spectrum, power_spectrum
from atomvision_ml.structures.lattice import reduce_cell

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Matrix = tuple[tuple[int, int], tuple[int, int]]

_OCCUPATION = np.array([0.04, 0.2, 1.0])
"""Fractions of a superlattice's reflections that are visibly occupied; a crystal may light up one or all."""

_SCALE = 10.0 ** np.arange(-5.0, 0.1)
"""Mean power of superlattice reflections over that of the main ones at the same radius."""

_INTENSITY_GROUPS = 24
"""Groups of equal size by model intensity in which the noise variance is measured."""

_RING_BINS = 2.0 * np.column_stack((np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)))
"""Offsets, in resolution elements, at which the neighbourhood of a reflection is looked at."""

_STREAK_BINS = np.array([-4.0, -3.0, -2.0, -1.5, 1.5, 2.0, 3.0, 4.0])
"""Offsets, in resolution elements, at which streaks are looked for."""


@cache
def sublattice_matrices(index: int) -> tuple[Matrix, ...]:
    """All 2D sublattices of an index, as Hermite normal forms ((a, b), (0, d)) with a·d = index."""
    divisors = [a for a in range(1, index + 1) if index % a == 0]
    return tuple(((a, b), (0, index // a)) for a in divisors for b in range(index // a))


def finer_lattices(basis: Array, largest_index: int) -> Iterator[tuple[int, Array]]:
    """Index and reduced reciprocal basis of every lattice that contains ``basis`` as a sublattice, by index from
    2."""
    for index in range(2, largest_index + 1):
        for matrix in sublattice_matrices(index):
            yield index, reduce_cell(np.linalg.inv(np.array(matrix).T) @ basis)


def off_lattice(indices: Indices, matrix: Matrix) -> NDArray[np.bool_]:
    """Which integer pairs of a lattice are not points of its sublattice with rows ``matrix`` (Hermite normal
    form)."""
    (a, b), (_, d) = matrix
    first, remainder = np.divmod(indices[:, 0], a)
    return (remainder != 0) | ((indices[:, 1] - first * b) % d != 0)


def log_bayes_factor(snr: Array, envelope: Array) -> float:
    """Log evidence ratio of 'some of these reflections are occupied' against 'all are noise'.

    Under noise the power over the noise power, z, is exponential with mean 1. An occupied reflection with expected
    strength λ (complex Gaussian amplitude) makes it exponential with mean 1 + λ. Each is occupied with probability π;
    λ is s times the envelope of the main reflections; π and s are marginalised over a fixed grid.

    Args:
        snr: (M,) power over noise at the reflections.
        envelope: (M,) power of main reflections over noise at the same radii.

    Returns:
        The log ratio; 0.0 without a calculation where neither one reflection nor the sum stands out of the noise.
    """
    n = len(snr)
    if n == 0 or (snr.max() < 6.0 and snr.sum() < n + 2.5 * math.sqrt(n)):
        return 0.0
    strength = _SCALE[:, None] * envelope[None, :]
    log_ratio = snr * strength / (1 + strength) - np.log1p(strength)
    with np.errstate(divide="ignore"):
        empty, occupied = np.log1p(-_OCCUPATION), np.log(_OCCUPATION)
    totals = np.logaddexp(empty[:, None, None], occupied[:, None, None] + log_ratio[None]).sum(axis=2)
    return float(np.logaddexp.reduce(totals, axis=None) - math.log(totals.size))


@dataclass(frozen=True)
class ResidualTest:
    """Looks for superlattice reflections in the residual of a fit.

    Poisson noise sits where the atoms are, so it is periodic in strength and its Fourier coefficients one main
    reflection apart are all but equal: one lucky draw would light up a whole superlattice. The residual is therefore
    divided by its standard deviation at the same model intensity, which makes the coefficients independent.

    Attributes:
        spectrum: Of the whitened residual, zero-padded twofold.
        fit: The fit.
        reach: Largest frequency of the fit's harmonics, cycles per pixel.
        level: Log power over noise of main reflections at frequency 0 ...
        slope: ... and its slope against frequency squared.
        smear: Noise right beside strong main reflections over that elsewhere: 1 for a perfect scan, far more with
            drift, jitter or distortion. All noise is multiplied by it.
    """

    spectrum: Spectrum
    fit: HarmonicFit
    reach: float
    level: float
    slope: float
    smear: float

    @classmethod
    def of(cls, fit: HarmonicFit, reach: float, relative_floor: float) -> ResidualTest:
        """Prepare the test of one fit.

        Args:
            fit: Harmonics of the lattice that is to be doubted.
            reach: Largest frequency to look at, cycles per pixel.
            relative_floor: Amplitude over that of the strongest reflection that counts as noise in any case.
        """
        n = fit.residual.size
        floor = n * (relative_floor * float(np.abs(fit.amplitudes).max())) ** 2
        residual = fit.residual / np.sqrt(_noise_variance(fit) + floor)
        snr = n * np.abs(fit.amplitudes) ** 2 / (fit.pixel_variance + floor)
        level, slope = _envelope(snr, (fit.frequencies**2).sum(axis=1))
        spectrum = power_spectrum(residual, is_windowed=False, padding=2)
        return cls(spectrum, fit, reach, level, slope, _smear(spectrum, fit))

    def log_bayes_factor(self, basis: Array) -> float:
        """Evidence for the finer reciprocal lattice ``basis`` (2, 2), cycles per pixel."""
        frequencies = harmonic_indices(basis, self.reach) @ basis
        coordinates = frequencies @ np.linalg.inv(self.fit.basis)
        frequencies = frequencies[np.abs(coordinates - np.rint(coordinates)).max(axis=1) > 1e-6]
        power = self.spectrum.power_at(frequencies)
        noise = np.maximum(self.spectrum.noise_at(frequencies), float(self.fit.residual.size)) * self.smear
        if np.any(power > 5 * noise):
            noise = np.maximum(noise, self._noise_nearby(frequencies))
        return log_bayes_factor(power / noise, np.exp(self.level + self.slope * (frequencies**2).sum(axis=1)))

    def _noise_nearby(self, frequencies: Array) -> Array:
        """What drift, jitter and distortion smear around main reflections: a ring, and streaks along both scan axes."""
        line = np.column_stack((_STREAK_BINS, np.zeros(len(_STREAK_BINS))))
        near, row, column = (
            self.spectrum.power_at(frequencies[:, None, :] + offsets / min(self.spectrum.field))
            for offsets in (_RING_BINS, line, line[:, ::-1])
        )
        streak = np.maximum(row.mean(axis=1), column.mean(axis=1))
        return np.maximum(np.median(near, axis=1) / math.log(2), streak)


def _smear(spectrum: Spectrum, fit: HarmonicFit) -> float:
    """Upper decile of the residual power around the 12 strongest reflections, over that of noise; the median."""
    strongest = fit.frequencies[np.argsort(-np.abs(fit.amplitudes))[:12]]
    around = spectrum.power_at(strongest[:, None, :] + _RING_BINS / min(spectrum.field))
    noise = np.maximum(spectrum.noise_at(strongest), float(fit.residual.size))
    ratio = np.percentile(around, 90, axis=1) / (math.log(10) * noise)
    return max(1.0, float(np.median(ratio)) / 1.5)


def _noise_variance(fit: HarmonicFit) -> Array:
    """[y, x] variance of the residual as a function of the model's intensity."""
    model = fit.model.ravel()
    groups = np.array_split(np.argsort(model), _INTENSITY_GROUPS)
    square = fit.residual.ravel() ** 2
    levels = np.array([model[group].mean() for group in groups])
    variances = np.array([square[group].mean() for group in groups])
    return np.interp(fit.model, levels, variances)


def _envelope(snr: Array, frequency_squared: Array) -> tuple[float, float]:
    """Level and slope of log mean power against frequency squared, as a Gaussian probe gives; the slope is never
    positive."""
    seen = snr > 1e-6 * snr.max()
    power, squared = snr[seen], frequency_squared[seen]
    slope = 0.0
    if len(power) >= 4:
        design = np.column_stack((np.ones(len(power)), squared))
        slope = min(0.0, float(np.linalg.lstsq(design, np.log(power), rcond=None)[0][1]))
    return float(np.log(np.mean(power * np.exp(-slope * squared)))), slope
