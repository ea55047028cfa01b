"""Preparation of micrographs before they are analysed: smooth background, vignetting, local contrast."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_DEGREE = 2
_LEAST_GAIN = 0.2
_LEAST_CONTRAST = 1e-12


def detrend(image: ArrayLike) -> Array:
    """Remove a smooth background (offset, slope and curvature of brightness) and tame single wild pixels.

    Args:
        image: [y, x], finite, sides of at least 4 pixels.

    Returns:
        [y, x] float64, the image less its least-squares polynomial of total degree 2 in x and y; its mean is zero.
        Values farther outside the range of the inner 99.8 % of pixels than that range is wide (hot pixels, X-ray hits)
        are clipped before.

    Raises:
        ValueError: the image is not two-dimensional, has a side below 4, or has values that are not real or
            not finite.
    """
    values = np.asarray(image)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"an image holds real numbers; got values of type {values.dtype}")
    values = values.astype(np.float64)
    if values.ndim != 2 or min(values.shape) < 4:
        raise ValueError(f"an image is [y, x] with sides of at least 4 pixels; got shape {values.shape}")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    values = _without_spikes(values)
    return values - smooth_part(values)


def _without_spikes(values: Array) -> Array:
    low, high = np.percentile(values, (0.1, 99.9))
    span = high - low
    return np.clip(values, low - span, high + span) if span > 0 else values


def smooth_part(values: Array) -> Array:
    """Least-squares polynomial of total degree 2 in x and y, which :func:`detrend` calls background.

    Args:
        values: [y, x], finite, sides of at least 4 pixels.
    """
    along_y, along_x = (_orthonormal(n) for n in values.shape)
    coefficients = along_y.T @ values @ along_x
    order = np.arange(_DEGREE + 1)
    coefficients[order[:, None] + order[None, :] > _DEGREE] = 0.0
    return np.asarray(along_y @ coefficients @ along_x.T, dtype=np.float64)


def gain_against(image: Array, model: Array) -> Array:
    """Smooth gain of an image against a model of what an evenly lit field would show (vignetting, thickness).

    The gain is 1 + a polynomial of total degree 2 without a constant, by least squares of image ≈ gain · model.

    Args:
        image: [y, x], background removed.
        model: [y, x], as the image.

    Returns:
        [y, x] gain, at least 0.2; 1 everywhere if the model is constant.
    """
    along_y, along_x = (_orthonormal(n) for n in image.shape)
    orders = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    columns = np.stack([(model * np.outer(along_y[:, i], along_x[:, j])).ravel() for i, j in orders])
    coefficients = np.linalg.lstsq(columns @ columns.T, columns @ image.ravel(), rcond=1e-9)[0]
    gain = sum(c * np.outer(along_y[:, i], along_x[:, j]) for c, (i, j) in zip(coefficients, orders, strict=True))
    mean = float(np.mean(gain))
    return np.maximum(gain / mean, _LEAST_GAIN) if mean > 0 else np.ones_like(image)


def local_normalisation(
    images: ArrayLike,
    pixel_size_angstrom: float,
    *,
    decay_angstrom: float = 12.0,
    is_factor_as_printed: bool = False,
) -> Array:
    """Even out brightness and contrast that vary over the field (Madsen et al., arXiv:1802.03008, eqs. 2 and 3).

    With a Gaussian window w of unit sum, over N_f frames of one place:
    G = I − (1/N_f) Σ_k w * I_k (eq. 2), and H = G / √((1/N_f) Σ_k w * G_k²) (eq. 3).

    Eq. 3 as printed divides by (1/N_f) √(Σ_k w * G_k²), which makes the result √N_f times larger; for a single image
    both are the same. The field is mirrored at its border.

    Args:
        images: [y, x], or frames of one place [frame, y, x]; finite, real.
        pixel_size_angstrom: edge of a pixel in Å.
        decay_angstrom: standard deviation of the window in Å; must be much longer than what is to be seen.
        is_factor_as_printed: divide by what eq. 3 prints, so that values depend on the number of frames.

    Returns:
        float64 of the same shape, of local mean about 0 and local mean square 1 over the frames; 0 where the window
        holds no contrast.

    Raises:
        ValueError: another number of axes, values that are not finite, or a length that is not positive.
    """
    from scipy.ndimage import gaussian_filter

    values = np.asarray(images, np.float64)
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"images are [y, x] or [frame, y, x]; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} pixels are not finite")
    if not (pixel_size_angstrom > 0 and decay_angstrom > 0):
        raise ValueError("pixel_size_angstrom and decay_angstrom must be positive")
    frames = values.reshape(-1, *values.shape[-2:])
    sigma = decay_angstrom / pixel_size_angstrom
    centred = frames - gaussian_filter(frames.mean(axis=0), sigma, mode="reflect")
    spread = np.sqrt(gaussian_filter((centred**2).mean(axis=0), sigma, mode="reflect"))
    if is_factor_as_printed:
        spread = spread / np.sqrt(len(frames))
    has_contrast = spread > _LEAST_CONTRAST * max(float(np.abs(values).max()), np.finfo(float).tiny)
    return np.where(has_contrast, centred / np.where(has_contrast, spread, 1.0), 0.0).reshape(values.shape)


def _orthonormal(n: int) -> Array:
    """(n, degree + 1) orthonormal polynomials on n equidistant points."""
    powers = np.vander(np.linspace(-1.0, 1.0, n), _DEGREE + 1, increasing=True)
    return np.asarray(np.linalg.qr(powers)[0], dtype=np.float64)
