"""How good a micrograph is: noise, sharpness, anisotropy, saturation, from its pixels alone.

Belongs here: figures that need neither calibration nor crystal. All but the saturation come from the power spectrum of
the detrended image under a Hann window; of a larger image than 2048 pixels the middle is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.preprocess import detrend
from atomvision_ml.models.lattice_spectrum import Spectrum, power_spectrum

Array = NDArray[np.float64]

_LARGEST_PX = 2048
_HIGHEST_SNR = 1e6
_NOISE_FROM = 0.4
"""Cycles per pixel beyond which the image is taken for noise: microscopes resolve less than their pixels."""

_ABOVE_NOISE = 14.0
"""Power over noise above which a sample counts as signal; noise passes with probability exp(-14)."""

_PILED_UP = 2
_FEWEST_CLIPPED = 4


@dataclass(frozen=True)
class Quality:
    """Quality of an image.

    Attributes:
        noise: standard deviation of the noise, in values of the image: what is left beyond 0.4 cycles per pixel, taken
            as white. Interpolated or filtered images hide theirs, under-sampled ones show signal there.
        snr: standard deviation of the detrended image without the noise, over that of the noise; at most 1e6.
        focus: root mean square frequency of the signal, in cycles per pixel; higher is sharper. Comparable between
            images of one pixel size and specimen.
        astigmatism: (λ₁ − λ₂)/(λ₁ + λ₂) of the second moments of the signal's power, 0 to 1. Astigmatism and drift
            raise it, and so does a crystal of low symmetry.
        astigmatism_angle_deg: direction of the sharper axis, from x towards y (downwards), −90 to 90.
        clipped_share: share of pixels that pile up at the lowest or the highest value.
    """

    noise: float
    snr: float
    focus: float
    astigmatism: float
    astigmatism_angle_deg: float
    clipped_share: float


def image_quality(image: ArrayLike) -> Quality:
    """Quality figures of an image; a constant one has zeros.

    Args:
        image: [y, x], finite, sides of at least 8 pixels.

    Raises:
        ValueError: the image is not [y, x], too small or not finite.
    """
    values = np.asarray(image)
    if values.ndim != 2 or min(values.shape) < 8:
        raise ValueError(f"an image is [y, x] with sides of at least 8 pixels; got shape {values.shape}")
    flat = detrend(_middle(values))
    variance = float(flat.var())
    if variance <= 1e-18 * float(np.abs(values).max()) ** 2:
        return Quality(0.0, 0.0, 0.0, 0.0, 0.0, clipped_share(values))
    spectrum = power_spectrum(flat, is_windowed=True)
    noise_power = _noise_power(spectrum)
    noise = float(np.sqrt(noise_power / _window_power(flat.shape)))
    snr = min(np.sqrt(max(variance - noise**2, 0.0)) / max(noise, 1e-300), _HIGHEST_SNR)
    focus, astigmatism, angle = _moments(spectrum, noise_power)
    return Quality(noise, float(snr), focus, astigmatism, angle, clipped_share(values))


def clipped_share(image: ArrayLike) -> float:
    """Share of pixels at the lowest or highest value, where these pile up: more than twice as many as at the next.

    A few electrons a pixel pile up at none: an end that is also the median is not counted.
    """
    values = np.asarray(image)
    middle, clipped = float(np.median(values)), 0
    for end, inner in ((values.min(), values > values.min()), (values.max(), values < values.max())):
        count = values.size - int(inner.sum())
        if count < _FEWEST_CLIPPED or float(end) == middle:
            continue
        following = values.min(where=inner, initial=values.max()) if end < middle else None
        following = values.max(where=inner, initial=values.min()) if following is None else following
        if count > _PILED_UP * int((values == following).sum()):
            clipped += count
    return clipped / values.size


def _middle(values: NDArray) -> NDArray:  # type: ignore[type-arg]
    top, left = (max(0, (edge - _LARGEST_PX) // 2) for edge in values.shape)
    return values[top : top + _LARGEST_PX, left : left + _LARGEST_PX]


def _window_power(shape: tuple[int, ...]) -> float:
    return float(np.prod([(np.hanning(edge + 2)[1:-1] ** 2).sum() for edge in shape]))


def _noise_power(spectrum: Spectrum) -> float:
    outer = spectrum.floor[(spectrum.radii > _NOISE_FROM) & (spectrum.radii < 0.5)]
    return float(np.median(outer)) if len(outer) else float(spectrum.floor.min())


def _moments(spectrum: Spectrum, noise_power: float) -> tuple[float, float, float]:
    """RMS frequency, anisotropy and direction (°) of the power above the noise, within half a cycle per pixel."""
    ky = np.fft.fftfreq(spectrum.shape[0])[:, None]
    kx = np.fft.rfftfreq(spectrum.shape[1])[None, :]
    weight = np.where(spectrum.power > _ABOVE_NOISE * noise_power, spectrum.power - noise_power, 0.0)
    weight[:, 1:] *= 2
    weight[np.hypot(ky, kx) > 0.5] = 0.0
    total = float(weight.sum())
    if total <= 0:
        return 0.0, 0.0, 0.0
    xx, yy = float((weight * kx**2).sum()) / total, float((weight * ky**2).sum()) / total
    xy = float((weight * kx * ky)[:, 1:].sum()) / total
    spread = np.hypot(xx - yy, 2 * xy)
    angle = 0.5 * np.degrees(np.arctan2(2 * xy, xx - yy))
    return float(np.sqrt(xx + yy)), float(min(spread / (xx + yy), 1.0)), float(angle)
