"""Preparation of micrographs before they are analysed: background and vignetting."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DEGREE = 2
_VIGNETTING = 0.10
"""Relative spread of the smooth contrast below which it is left alone (it is then the lattice cut by the frame)."""


def detrend(image: ArrayLike) -> NDArray[np.float64]:
    """Remove a smooth background and, where the contrast itself varies over the field, that variation.

    The background is a polynomial of degree 2 in x and y by least squares. What remains is divided by the square root
    of a degree-2 polynomial fit to its local mean square (vignetting, thickness) if that fit varies by more than 10 %
    (rms).

    Args:
        image: [y, x], finite.

    Returns:
        [y, x] float64 with zero mean, in the image's units (contrast scaled to its mean where vignetting was
        removed).

    Raises:
        ValueError: the image is not two-dimensional, has a side below 4, or has values that are not finite.
    """
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 4:
        raise ValueError(f"an image is [y, x] with sides of at least 4 pixels; got shape {values.shape}")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    flat = values - smooth_part(values)
    contrast = smooth_part(flat**2)
    mean = float(contrast.mean())
    contrast = np.maximum(contrast, 0.05 * mean)
    if mean > 0 and np.std(contrast) > 2 * _VIGNETTING * mean:
        flat = flat * np.sqrt(mean / contrast)
        flat -= smooth_part(flat)
    return flat


def smooth_part(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares polynomial of total degree 2 in x and y: the part of an image that :func:`detrend` calls
    background.

    Args:
        values: [y, x], finite, sides of at least 4.
    """
    along_y, along_x = (_orthonormal(n) for n in values.shape)
    coefficients = along_y.T @ values @ along_x
    order = np.arange(_DEGREE + 1)
    coefficients[order[:, None] + order[None, :] > _DEGREE] = 0.0
    return along_y @ coefficients @ along_x.T


def _orthonormal(n: int) -> NDArray[np.float64]:
    """(n, degree + 1) orthonormal polynomials on n equidistant points."""
    powers = np.vander(np.linspace(-1.0, 1.0, n), _DEGREE + 1, increasing=True)
    return np.linalg.qr(powers)[0]
