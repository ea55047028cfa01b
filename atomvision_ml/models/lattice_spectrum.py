"""Power spectra for the lattice finder: noise floor, significant peaks, power at given frequencies.

Belongs here: everything that looks at Fourier space without knowing a lattice yet. Frequencies are in cycles per
pixel, as rows (kx, ky); images are [y, x].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MEDIAN_OF_EXPONENTIAL = float(np.log(2.0))
"""Median of the power of white noise over its mean (power is exponentially distributed)."""

_QUARTILE_OF_EXPONENTIAL = float(-np.log(0.75))
"""Lower quartile of the power of white noise over its mean."""


@dataclass(frozen=True)
class Spectrum:
    """Half-plane power spectrum with its noise floor.

    Attributes:
        power: (ny, nx // 2 + 1) power, as ``scipy.fft.rfft2`` orders it.
        floor: Noise power at radii ``radii``.
        radii: Radii in cycles per pixel.
        shape: Shape of the transform.
        field: (height, width) of the image in pixels; 1/field is the resolution.
    """

    power: Array
    floor: Array
    radii: Array
    shape: tuple[int, int]
    field: tuple[int, int]

    def noise_at(self, frequencies: Array) -> Array:
        """Noise power at frequencies (n, 2)."""
        return np.interp(np.hypot(frequencies[:, 0], frequencies[:, 1]), self.radii, self.floor)

    def with_white_floor(self) -> Spectrum:
        """The same with the noise of the quietest ring everywhere."""
        return replace(self, floor=np.full_like(self.floor, self.floor.min()))

    def power_at(self, frequencies: Array) -> Array:
        """Power at the nearest sample of each frequency (..., 2)."""
        column = np.rint(frequencies[..., 0] * self.shape[1]).astype(int)
        row = np.rint(frequencies[..., 1] * self.shape[0]).astype(int)
        row, column = np.where(column < 0, -row, row), np.abs(column)
        return self.power[row % self.shape[0], np.minimum(column, self.power.shape[1] - 1)]


@dataclass(frozen=True)
class Peaks:
    """Significant maxima of a spectrum, strongest first: frequencies (n, 2), power and power over noise (n,)."""

    frequencies: Array
    power: Array
    snr: Array

    def __len__(self) -> int:
        return len(self.power)

    def where(self, keep: NDArray[np.bool_]) -> Peaks:
        """The peaks that ``keep`` marks."""
        return Peaks(self.frequencies[keep], self.power[keep], self.snr[keep])

    def strongest(self, most: int) -> Peaks:
        """The first ``most`` peaks."""
        return Peaks(self.frequencies[:most], self.power[:most], self.snr[:most])


def power_spectrum(image: Array, *, is_windowed: bool, padding: int = 1) -> Spectrum:
    """Power of an image of zero mean, with a noise floor from the radial median.

    Bragg peaks fill few samples of a ring, so the median of the ring is the noise's (times ln 2), also for noise that
    is not white.

    Args:
        image: Shape (ny, nx).
        is_windowed: Multiply by a Hann window, which keeps strong peaks from leaking over weak ones.
        padding: Zero-padding factor.
    """
    from scipy import fft

    ny, nx = image.shape
    if is_windowed:
        image = image * np.outer(np.hanning(ny + 2)[1:-1], np.hanning(nx + 2)[1:-1])
    shape = (fft.next_fast_len(ny * padding, real=True), fft.next_fast_len(nx * padding, real=True))
    transform = fft.rfft2(image, s=shape)
    power = transform.real**2 + transform.imag**2
    radii, floor = _radial_floor(power, shape)
    return Spectrum(power, floor, radii, shape, (ny, nx))


def _radial_floor(power: Array, shape: tuple[int, int], rings: int = 24) -> tuple[Array, Array]:
    """Centres of the rings and noise power in them, from the median over a subsample of each ring."""
    step = max(1, shape[0] // 192)
    ky = np.fft.fftfreq(shape[0])[::step, None]
    kx = np.fft.rfftfreq(shape[1])[None, ::step]
    radius = np.hypot(kx, ky).ravel()
    values = power[::step, ::step].ravel()
    ring = np.minimum((radius / 0.5 * rings).astype(int), rings)
    order = np.argsort(ring, kind="stable")
    groups = np.split(values[order], np.cumsum(np.bincount(ring, minlength=rings + 1))[:-1])
    medians = np.array([np.median(group) if len(group) else np.nan for group in groups])
    centres = (np.arange(rings + 1) + 0.5) / rings * 0.5
    known = np.isfinite(medians)
    return centres[known], medians[known] / _MEDIAN_OF_EXPONENTIAL


def significant_peaks(spectrum: Spectrum, *, threshold: float, most: int) -> Peaks:
    """The strongest local maxima above the noise, with positions interpolated between samples.

    Args:
        spectrum: A windowed spectrum.
        threshold: Least power over noise.
        most: Largest number of peaks returned.
    """
    power = spectrum.power
    ny, nx = spectrum.shape
    padded = np.pad(np.vstack((power[-1:], power, power[:1])), ((0, 0), (1, 1)), mode="constant")
    padded[1:-1, 0] = power[(-np.arange(ny)) % ny, 1]
    is_peak = np.ones(power.shape, dtype=bool)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            if (dy, dx) != (1, 1):
                is_peak &= power >= padded[dy : dy + ny, dx : dx + power.shape[1]]
    is_peak[ny // 2 + 1 :, 0] = False
    is_peak[0, 0] = False
    rows, columns = np.nonzero(is_peak)
    frequencies = np.column_stack((columns / nx, np.where(rows > ny // 2, rows - ny, rows) / ny))
    snr = power[rows, columns] / np.maximum(spectrum.noise_at(frequencies), 1e-300)
    keep = np.flatnonzero(snr > threshold)
    keep = keep[np.argsort(-power[rows[keep], columns[keep]])][: 4 * most]
    shift = _sub_sample_shift(padded, rows[keep] + 1, columns[keep] + 1)
    peaks = Peaks(frequencies[keep] + shift / (nx, ny), power[rows[keep], columns[keep]], snr[keep])
    return peaks.where(~_is_side_lobe(peaks, spectrum.field)).strongest(most)


def without_streaks(spectrum: Spectrum, peaks: Peaks, threshold: float) -> Peaks:
    """The peaks that also stand out of the row and the column of samples around them.

    Scan lines that jitter smear each reflection into a streak along the slow axis, whose speckle looks like peaks.
    Peaks are left alone if most of their power would go: then the rows hold reflections, not streaks.

    Args:
        spectrum: A windowed spectrum.
        peaks: Its significant peaks.
        threshold: Least power over the noise of the row and of the column.
    """
    if not len(peaks):
        return peaks
    steps = np.concatenate((np.arange(-10, -2), np.arange(3, 11))).astype(np.float64)
    row = np.column_stack((steps / spectrum.field[1], np.zeros(len(steps))))
    column = np.column_stack((np.zeros(len(steps)), steps / spectrum.field[0]))
    near_row, near_column = (spectrum.power_at(peaks.frequencies[:, None, :] + line) for line in (row, column))
    quiet = np.maximum(np.percentile(near_row, 25, axis=1), np.percentile(near_column, 25, axis=1))
    kept = peaks.where(peaks.power > threshold * quiet / _QUARTILE_OF_EXPONENTIAL)
    return kept if kept.power.sum() > 0.5 * peaks.power.sum() else peaks


def _is_side_lobe(peaks: Peaks, field: tuple[int, int]) -> NDArray[np.bool_]:
    """Which peaks are no higher than four times the Hann side lobe of a stronger one (or of its mirror image)."""
    centres = np.vstack((peaks.frequencies, -peaks.frequencies))
    distance = np.abs(peaks.frequencies[:, None, :] - centres[None, :, :]) * (field[1], field[0])
    far = np.maximum(distance, 1.0 + 1e-9)
    lobes = np.where(distance < 1.5, 1.0, 1.0 / (np.pi * far * (far**2 - 1.0)) ** 2).prod(axis=2)
    strength = np.concatenate((peaks.power, peaks.power))
    is_stronger = strength[None, :] > peaks.power[:, None]
    return np.any(is_stronger & (peaks.power[:, None] < 4.0 * lobes * strength), axis=1)


def _sub_sample_shift(padded: Array, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
    """Offset (x, y) in samples of each maximum by the ratio rule of the Hann window.

    For amplitudes m0 at the maximum and m1 at the larger neighbour, offset = (2 m1 − m0) / (m1 + m0) (Grandke, 1983).
    """
    shifts = []
    for dy, dx in ((0, 1), (1, 0)):
        here = np.sqrt(padded[rows, columns])
        before, after = np.sqrt(padded[rows - dy, columns - dx]), np.sqrt(padded[rows + dy, columns + dx])
        larger = np.maximum(before, after)
        offset = np.clip((2 * larger - here) / np.maximum(larger + here, 1e-300), 0.0, 0.6)
        shifts.append(np.where(after >= before, offset, -offset))
    return np.column_stack(shifts)
