"""Displacement and strain maps by geometric phase analysis, and what they say of drift within the frame.

Method: Hÿtch, Snoeck and Kilaas, Ultramicroscopy 74, 131 (1998). Each of two reflections g is moved to the centre of
reciprocal space and all others are filtered away; the phase of what remains is −2π g·u. Everything is relative to the
mean lattice of the image, so a homogeneous strain, and steady drift, are not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.preprocess import detrend

Array = NDArray[np.float64]

_FILTER_PERIODS = 0.8
"""Standard deviation of the Gaussian filter, in periods of the widest planes: neighbouring reflections fall to 3e-6."""

_WEAKEST = 0.3
"""Amplitude over its median below which the phase means nothing."""

_FINEST_FREQUENCY = 0.2
"""Cycles per binned pixel up to which an image is binned."""

_FEWEST_POINTS = 4


@dataclass(frozen=True)
class StrainMap:
    """Maps on a grid; NaN where the lattice is too weak or the edge too near.

    Attributes:
        x, y: (nx,) and (ny,) places of the grid, in pixels of the image.
        displacement: (2, ny, nx) u_x and u_y in pixels, about its mean.
        strain: (3, ny, nx) ε_xx, ε_yy, ε_xy (fractions).
        rotation_deg: (ny, nx) of the lattice, counter-clockwise in (x, y).
        resolution_px: standard deviation of the filter.
        displacement_sigma, strain_sigma: of one point from the image's noise.
        row_displacement: (2, ny) mean u_x and u_y of each row of the grid; what is not straight in it is drift or a
            bent crystal.
    """

    x: Array
    y: Array
    displacement: Array
    strain: Array
    rotation_deg: Array
    resolution_px: float
    displacement_sigma: float
    strain_sigma: float
    row_displacement: Array

    def spread(self) -> tuple[float, float, float]:
        """Robust standard deviations of ε_xx, ε_yy, ε_xy over the map, without the part that noise explains."""
        spreads = []
        for part in self.strain:
            known = part[np.isfinite(part)]
            robust = 1.4826 * np.median(np.abs(known - np.median(known))) if known.size else 0.0
            spreads.append(float(np.sqrt(max(robust**2 - self.strain_sigma**2, 0.0))))
        return spreads[0], spreads[1], spreads[2]


def strain_map(image: ArrayLike, reflections: ArrayLike, noise: float = 0.0) -> StrainMap | None:
    """Displacement and strain of a crystal against its mean lattice.

    Args:
        image: [y, x], finite.
        reflections: (2, 2) rows (kx, ky) in cycles per pixel, not collinear: lattice points with strong spots.
        noise: standard deviation of the image's noise per pixel, for the uncertainties.

    Returns:
        The maps; None where the image has too few periods for any point of them.

    Raises:
        ValueError: the reflections are collinear.
    """
    both = np.asarray(reflections, np.float64).reshape(2, 2)
    if abs(np.linalg.det(both)) < 1e-12:
        raise ValueError("two reflections that are not collinear are wanted")
    values, factor = _binned(np.asarray(image), both)
    waves = both * factor
    sigma = _FILTER_PERIODS / _shortest(waves)
    step, margin = max(1, round(sigma / 2)), round(1.5 * sigma)
    rows, columns = (np.arange(margin, edge - margin, step) for edge in values.shape)
    if min(len(rows), len(columns)) < _FEWEST_POINTS:
        return None
    flat = detrend(values).astype(np.float32)
    parts = [_demodulated(flat, wave, sigma, rows, columns) for wave in waves]
    inverse = np.linalg.inv(waves)
    weak = np.any([np.abs(part) < _WEAKEST * np.median(np.abs(part)) for part, _, _ in parts], axis=0)
    slopes = np.stack([[-np.imag(along / part) / (2 * np.pi) for along in (by_x, by_y)] for part, by_x, by_y in parts])
    gradient = np.einsum("ij,jkyx->ikyx", inverse, slopes)  # of u_i along k
    gradient -= np.median(gradient[:, :, ~weak], axis=-1)[..., None, None] if (~weak).any() else 0
    gradient[:, :, weak] = np.nan
    displacement = np.einsum("ij,jyx->iyx", inverse, np.stack([_unwrapped(part) for part, _, _ in parts]))
    displacement -= displacement.mean(axis=(1, 2), keepdims=True)
    lines = np.stack([-np.unwrap(np.angle(part.sum(axis=1))) / (2 * np.pi) for part, _, _ in parts])
    phase = _phase_sigma(parts, noise / factor, sigma)
    displacement_sigma = float(phase * np.linalg.norm(inverse) / np.sqrt(2) / (2 * np.pi)) * factor
    return StrainMap(
        x=(columns + 0.5) * factor - 0.5,
        y=(rows + 0.5) * factor - 0.5,
        displacement=np.where(weak, np.nan, displacement) * factor,
        strain=np.stack([gradient[0, 0], gradient[1, 1], (gradient[0, 1] + gradient[1, 0]) / 2]),
        rotation_deg=np.degrees((gradient[1, 0] - gradient[0, 1]) / 2),
        resolution_px=sigma * factor,
        displacement_sigma=displacement_sigma,
        strain_sigma=displacement_sigma / (np.sqrt(2) * sigma * factor),
        row_displacement=_centred(inverse @ lines) * factor,
    )


def bend_of_rows(row_displacement: ArrayLike) -> Array:
    """(2, n) what is left of rows' displacements when the straight part, which is affine, is taken off."""
    values = np.asarray(row_displacement, np.float64)
    place = np.linspace(-1, 1, values.shape[1])
    return np.stack([line - np.polyval(np.polyfit(place, line, 1), place) for line in values])


def _shortest(waves: Array) -> float:
    """Length of the shortest vector of the lattice that two reflections span."""
    from atomvision_ml.structures.lattice import reduce_cell

    return float(np.linalg.norm(reduce_cell(waves)[0]))


def _binned(values: NDArray, waves: Array) -> tuple[NDArray, int]:  # type: ignore[type-arg]
    """The image binned while its reflections stay below a fifth of a cycle per pixel; the factor."""
    factor = max(1, int(_FINEST_FREQUENCY / np.abs(waves).max()))
    ny, nx = (edge // factor for edge in values.shape)
    if factor == 1 or min(ny, nx) < 4:
        return values, 1
    blocks = values[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float64), factor


def _demodulated(
    flat: NDArray[np.float32], wave: Array, sigma: float, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]:
    """The reflection's complex amplitude on the grid, and its derivatives along x and y; two small matrix products."""
    along_y, slope_y = _filters(flat.shape[0], wave[1], sigma, rows)
    along_x, slope_x = _filters(flat.shape[1], wave[0], sigma, columns)
    half = flat @ along_x.T
    return along_y @ half, along_y @ (flat @ slope_x.T), slope_y @ half


def _filters(
    n_px: int, frequency: float, sigma: float, places: NDArray[np.int64]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """(m, n) Gaussians about the places times exp(−2πi f x), and their derivatives by the place."""
    x = np.arange(n_px)
    away = (x[None, :] - places[:, None]) / sigma
    bell = np.exp(-0.5 * away**2)
    bell /= bell.sum(axis=1, keepdims=True)
    wave = np.exp(-2j * np.pi * frequency * x)[None, :]
    slope = bell * away / sigma
    slope -= bell * (slope.sum(axis=1, keepdims=True))
    return (bell * wave).astype(np.complex64), (slope * wave).astype(np.complex64)


def _unwrapped(part: NDArray[np.complex128]) -> Array:
    from skimage.restoration import unwrap_phase

    return np.asarray(-unwrap_phase(np.angle(part), rng=0) / (2 * np.pi), np.float64)


def _phase_sigma(parts: list, noise: float, sigma: float) -> float:  # type: ignore[type-arg]
    """Standard deviation of a phase from white noise, the larger of the two reflections."""
    weakest = min(float(np.median(np.abs(part))) for part, _, _ in parts)
    return float(noise / np.sqrt(8 * np.pi * sigma**2) / max(weakest, 1e-300))


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(axis=1, keepdims=True))
