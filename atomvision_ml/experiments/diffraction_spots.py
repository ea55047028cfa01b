"""Spots in the diffractogram of a micrograph: positions to a fraction of a sample, with their uncertainties.

Belongs here: what can be said of fringes without knowing any crystal. Peaks and noise floor are those of
:mod:`atomvision_ml.models.lattice_spectrum`; here each is moved to the maximum of the continuous power spectrum, which
is the maximum-likelihood frequency of a fringe under any even envelope, such as a small grain.

Frequencies are rows (kx, ky) in cycles per pixel, images are [y, x]. A real image has a spot at −k for each at k; only
one of the two is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.preprocess import detrend
from atomvision_ml.models.lattice_spectrum import (
    Peaks,
    Spectrum,
    power_spectrum,
    significant_peaks,
    without_streaks,
)

Array = NDArray[np.float64]

_SMALLEST_SIDE_PX = 32
_STENCIL_BINS = 0.25
"""Step in 1/field of the stencil from which slope and curvature of the spectrum are taken."""

_STEPS = 4
"""Newton steps; from a sample's maximum two suffice."""

_HIGHEST_FREQUENCY = 0.47
"""Cycles per pixel; beyond, resampled and low-passed images have no noise floor to speak of."""


class SpotParameters(BaseModel):
    """Which maxima of the power spectrum are spots."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(default=25.0, gt=1, description="Least power over noise; exp(-25) for a sample of noise.")
    relative_floor: float = Field(default=1e-4, ge=0, lt=1, description="Least power over that of the strongest spot.")
    fewest_periods: float = Field(default=4.0, ge=1, description="Periods of a fringe wanted in the field.")
    most_spots: int = Field(default=24, ge=1, le=256, description="Most spots, the strongest.")
    smallest_region_px: int = Field(
        default=192, ge=_SMALLEST_SIDE_PX, description="Smallest edge of a searched region."
    )


@dataclass(frozen=True)
class Region:
    """A part of an image: first row and column, height and width in pixels."""

    y_px: int
    x_px: int
    height_px: int
    width_px: int

    def of(self, image: NDArray) -> NDArray:  # type: ignore[type-arg]
        """The pixels of the region."""
        return image[self.y_px : self.y_px + self.height_px, self.x_px : self.x_px + self.width_px]


@dataclass(frozen=True)
class Spots:
    """Spots of one region, strongest first.

    Attributes:
        frequencies: (n, 2) rows (kx, ky) in cycles per pixel, kx ≥ 0.
        covariances: (n, 2, 2) of noise alone, in (cycles per pixel)².
        snr: (n,) power over noise.
        region: of which image part.
    """

    frequencies: Array
    covariances: Array
    snr: Array
    region: Region

    def __len__(self) -> int:
        return len(self.snr)

    def d_spacings(self, pixel_size: float) -> tuple[Array, Array]:
        """Spacings (n,) and their standard uncertainties (n,) from noise alone, in the unit of the pixel size."""
        lengths = np.linalg.norm(self.frequencies, axis=1)
        along = self.frequencies / lengths[:, None]
        sigma = np.sqrt(np.einsum("ni,nij,nj->n", along, self.covariances, along))
        return pixel_size / lengths, pixel_size * sigma / lengths**2


def find_spots(image: ArrayLike, parameters: SpotParameters | None = None, region: Region | None = None) -> Spots:
    """Spots of an image or of a part of it.

    A smooth background is removed and the region multiplied by a Hann window. Maxima of the power spectrum above the
    radial median's noise are kept if they also stand out of their row and column; spots of fewer periods than wanted
    are left out.

    Args:
        image: [y, x], finite.
        parameters: which maxima are spots; None for the defaults.
        region: part of the image; None for the whole.

    Returns:
        The spots; none if there are none.

    Raises:
        ValueError: the image is not [y, x] or not finite, or the region is smaller than 32 pixels or not in the image.
    """
    chosen = parameters or SpotParameters()
    values = np.asarray(image)
    part = region or Region(0, 0, *values.shape[:2])
    pixels = part.of(values)
    if values.ndim != 2 or pixels.shape != (part.height_px, part.width_px) or min(pixels.shape) < _SMALLEST_SIDE_PX:
        raise ValueError(
            f"spots need a region of [y, x] with sides of {_SMALLEST_SIDE_PX} pixels or more inside the image; "
            f"got {part} of shape {values.shape}"
        )
    flat = detrend(pixels)
    scale = float(flat.std())
    if scale <= 1e-9 * float(np.abs(pixels).max(initial=0)):
        return Spots(np.empty((0, 2)), np.empty((0, 2, 2)), np.empty(0), part)
    spectrum = power_spectrum(flat / scale, is_windowed=True)
    peaks = _peaks(spectrum, chosen)
    return _refined(flat / scale, spectrum, peaks, part)


def find_crystalline_region(image: ArrayLike, parameters: SpotParameters | None = None) -> Spots:
    """Spots of the part of an image whose fringes stand out most: the whole, or a half or a quarter of its edge.

    Noise falls and a crystal's share grows when the region closes in on it; the highest power over noise of the two
    strongest spots tells which region fits best.

    Args:
        image: [y, x], finite, at least 32 pixels along each side.
        parameters: which maxima are spots, and the smallest region; None for the defaults.

    Raises:
        ValueError: as :func:`find_spots`.
    """
    chosen = parameters or SpotParameters()
    values = np.asarray(image)
    whole = find_spots(values, chosen)
    found = [whole, *(find_spots(values, chosen, region) for region in _tiles(values.shape, chosen.smallest_region_px))]
    return max(found, key=lambda spots: float(spots.snr[:2].sum()) * _gain(spots.region, whole.region))


def _gain(part: Region, whole: Region) -> float:
    """What a part must gain: its spots hold a part of the power only, yet it wins by chance among many."""
    return 1.0 if part == whole else 0.8


def _tiles(shape: tuple[int, ...], smallest_px: int) -> Iterator[Region]:
    """Half-overlapping tiles of a half and a quarter of the edges."""
    for divisor in (2, 4):
        height, width = shape[0] // divisor, shape[1] // divisor
        if min(height, width) < smallest_px:
            return
        for row in range(2 * divisor - 1):
            for column in range(2 * divisor - 1):
                yield Region(row * height // 2, column * width // 2, height, width)


def _peaks(spectrum: Spectrum, parameters: SpotParameters) -> Peaks:
    peaks = significant_peaks(spectrum, threshold=parameters.threshold, most=4 * parameters.most_spots)
    peaks = without_streaks(spectrum, peaks, parameters.threshold)
    height, width = spectrum.field
    periods = np.hypot(peaks.frequencies[:, 0] * width, peaks.frequencies[:, 1] * height)
    is_low = np.linalg.norm(peaks.frequencies, axis=1) < _HIGHEST_FREQUENCY
    is_kept = is_low & (periods >= parameters.fewest_periods)
    if is_kept.any():
        is_kept &= peaks.power >= parameters.relative_floor * peaks.power[is_kept].max()
    return peaks.where(is_kept).strongest(parameters.most_spots)


def _refined(values: Array, spectrum: Spectrum, peaks: Peaks, region: Region) -> Spots:
    """Each peak at the maximum of the continuous spectrum, with its covariance."""
    height, width = values.shape
    window = np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]
    windowed = values * np.outer(*window)
    step = _STENCIL_BINS / np.array([width, height])
    found, covariances = [], []
    for start, noise in zip(peaks.frequencies, spectrum.noise_at(peaks.frequencies), strict=True):
        frequency, amplitudes = start, _amplitudes(windowed, start, step)
        for _ in range(_STEPS):
            gradient, hessian = _derivatives(np.abs(amplitudes) ** 2, step)
            if np.linalg.eigvalsh(hessian).max() >= 0:
                break
            frequency = frequency + np.clip(-np.linalg.solve(hessian, gradient), -2 * step, 2 * step)
            amplitudes = _amplitudes(windowed, frequency, step)
        found.append(frequency)
        covariances.append(_covariance(amplitudes, step, noise, window))
    frequencies = np.reshape(found, (-1, 2))
    sign = np.where((frequencies[:, 0] < 0) | ((frequencies[:, 0] == 0) & (frequencies[:, 1] < 0)), -1.0, 1.0)
    return Spots(frequencies * sign[:, None], np.reshape(covariances, (-1, 2, 2)), peaks.snr, region)


def _covariance(amplitudes: NDArray[np.complex128], step: Array, noise: float, window: tuple[Array, Array]) -> Array:
    """(2, 2) covariance of the frequency of a power's maximum from white noise in the pixels.

    Noise turns the gradient of the power P by a random amount of covariance 2 P S (2π)² T, with S the noise power and T
    the second moments of the squared window about the fringe's centre; the Hessian tells how far that moves the
    maximum. Where the power has no maximum, half a sample is the standard uncertainty.
    """
    powers = np.abs(amplitudes) ** 2
    hessian = _derivatives(powers, step)[1]
    if np.linalg.eigvalsh(hessian).max() >= 0:
        return np.asarray(np.diag((0.5 / _STENCIL_BINS * step) ** 2), dtype=np.float64)
    slopes = amplitudes[1, 2] - amplitudes[1, 0], amplitudes[2, 1] - amplitudes[0, 1]
    centre = [float(np.real(0.5j * s / (2 * np.pi * h * amplitudes[1, 1]))) for s, h in zip(slopes, step, strict=True)]
    along_y, along_x = (np.arange(len(w)) for w in window)
    weight_y, weight_x = (w**2 / np.sum(w**2) for w in window)
    x, y = along_x - centre[0], along_y - centre[1]
    mixed = (weight_x @ x) * (weight_y @ y)
    moments = np.array([[weight_x @ x**2, mixed], [mixed, weight_y @ y**2]])
    inverse = np.linalg.inv(hessian)
    return np.asarray(inverse @ (8 * np.pi**2 * noise * powers[1, 1] * moments) @ inverse, dtype=np.float64)


def _amplitudes(windowed: Array, frequency: Array, step: Array) -> NDArray[np.complex128]:
    """(3, 3) Fourier amplitudes [ky, kx] at the frequency and one step to either side."""
    offsets = np.array([-1.0, 0.0, 1.0])
    x, y = np.arange(windowed.shape[1]), np.arange(windowed.shape[0])
    along_x = np.exp(-2j * np.pi * np.outer(x, frequency[0] + offsets * step[0]))
    along_y = np.exp(-2j * np.pi * np.outer(frequency[1] + offsets * step[1], y))
    return np.asarray(along_y @ (windowed @ along_x), dtype=np.complex128)


def _derivatives(powers: Array, step: Array) -> tuple[Array, Array]:
    """Gradient (2,) and Hessian (2, 2) in (kx, ky) by central differences."""
    by_x = (powers[1, 2] - powers[1, 0]) / (2 * step[0])
    by_y = (powers[2, 1] - powers[0, 1]) / (2 * step[1])
    by_xx = (powers[1, 2] - 2 * powers[1, 1] + powers[1, 0]) / step[0] ** 2
    by_yy = (powers[2, 1] - 2 * powers[1, 1] + powers[0, 1]) / step[1] ** 2
    by_xy = (powers[2, 2] - powers[2, 0] - powers[0, 2] + powers[0, 0]) / (4 * step[0] * step[1])
    return np.array([by_x, by_y]), np.array([[by_xx, by_xy], [by_xy, by_yy]])
