"""Atom positions from images, probability maps and masks, to a fraction of a pixel.

Belongs here: classical finding of atoms. Positions are image coordinates: Å from the centre of pixel [0, 0], x along
columns, y along rows. Arrays are [y, x].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def find_atoms(
    probability: ArrayLike,
    image: ArrayLike,
    pixel_size_angstrom: float,
    *,
    threshold: float = 0.5,
    distance_angstrom: float = 0.6,
) -> list[dict[str, float]]:
    """Atoms in a map of the probability that a pixel belongs to an atom.

    Local maxima of the lightly smoothed map (σ = 0.15 Å) are the atoms; a watershed from them divides the pixels above
    the threshold; each atom lies at the centre of mass of its region, weighted by what exceeds half the threshold.

    Args:
        probability: [y, x], between 0 and 1.
        image: [y, x], of the same shape; for the intensities.
        pixel_size_angstrom: edge of a pixel in Å.
        threshold: least probability of an atom's pixel.
        distance_angstrom: smallest distance of two atoms in Å.

    Returns:
        One dictionary per atom with ``x_angstrom``, ``y_angstrom`` and ``intensity`` (mean of the image over the
        atom's pixels), ordered by y, then x.

    Raises:
        ValueError: shapes that differ or are not two-dimensional.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.segmentation import watershed

    chance, values = np.asarray(probability, float), np.asarray(image, float)
    if chance.ndim != 2 or chance.shape != values.shape:
        raise ValueError(f"probability {chance.shape} and image {values.shape} must be [y, x] of one shape")
    smooth = gaussian_filter(chance, 0.15 / pixel_size_angstrom, mode="nearest")
    inside = chance >= threshold
    peaks = local_maxima(np.where(inside, smooth, 0.0), distance_angstrom / pixel_size_angstrom, 0.0)
    if not len(peaks):
        return []
    seeds = np.zeros(chance.shape, np.int32)
    seeds[peaks[:, 0], peaks[:, 1]] = np.arange(1, len(peaks) + 1)
    regions = watershed(-smooth, seeds, mask=inside)
    centres, _ = _centres_of_mass(regions, np.clip(chance - threshold / 2, 0, None), len(peaks))
    counts = np.bincount(regions.ravel(), minlength=len(peaks) + 1)[1:]
    intensities = np.bincount(regions.ravel(), values.ravel(), len(peaks) + 1)[1:] / np.maximum(counts, 1)
    order = np.lexsort((centres[:, 1], centres[:, 0]))
    return [
        {
            "x_angstrom": float(centres[n, 1] * pixel_size_angstrom),
            "y_angstrom": float(centres[n, 0] * pixel_size_angstrom),
            "intensity": float(intensities[n]),
        }
        for n in order
    ]


def laplacian_of_gaussian_atoms(
    image: ArrayLike,
    pixel_size_angstrom: float,
    *,
    sigma_angstrom: float = 0.5,
    relative_threshold: float = 0.1,
    distance_angstrom: float = 0.6,
) -> Floats:
    """Bright blobs by the Laplacian of Gaussian at one scale, refined to sub-pixel positions.

    The classical detector (Lindeberg, Int. J. Comput. Vis. 30, 79, 1998) at the scale of the probe: local maxima of
    −σ²∇²(G_σ * image) above a share of the largest one, each moved to the vertex of the parabola through its three
    neighbours along x and along y.

    Args:
        image: [y, x].
        pixel_size_angstrom: edge of a pixel in Å.
        sigma_angstrom: scale in Å.
        relative_threshold: least response, as a share of the largest.
        distance_angstrom: smallest distance of two blobs in Å.

    Returns:
        (n, 3): x and y in Å, response.
    """
    from scipy.ndimage import gaussian_laplace

    sigma = sigma_angstrom / pixel_size_angstrom
    response = -(sigma**2) * gaussian_laplace(np.asarray(image, float), sigma, mode="nearest")
    top = float(response.max(initial=0.0))
    if not top > 0:
        return np.zeros((0, 3))
    peaks = local_maxima(response, distance_angstrom / pixel_size_angstrom, relative_threshold * top)
    y, x = _parabola_vertices(response, peaks).T
    return np.stack([x * pixel_size_angstrom, y * pixel_size_angstrom, response[peaks[:, 0], peaks[:, 1]]], axis=1)


def local_maxima(values: Floats, distance_px: float, threshold: float) -> NDArray[np.int64]:
    """Local maxima above the threshold, no two closer than the distance; (n, 2) rows and columns, brightest first."""
    from skimage.feature import peak_local_max

    return peak_local_max(
        values, min_distance=max(1, int(np.floor(distance_px))), threshold_abs=threshold, exclude_border=False
    )


def as_rows(positions_angstrom: Floats, intensities: ArrayLike) -> list[dict[str, Any]]:
    """Positions (n, 2) and intensities (n,) as dictionaries with x_angstrom, y_angstrom, intensity."""
    return [
        {"x_angstrom": float(x), "y_angstrom": float(y), "intensity": float(value)}
        for (x, y), value in zip(positions_angstrom, np.asarray(intensities, float), strict=True)
    ]


def _centres_of_mass(regions: NDArray[Any], weights: Floats, count: int) -> tuple[Floats, Floats]:
    """Centres (count, 2) as row and column, and total weights (count,), of regions 1 to count."""
    rows, columns = np.indices(regions.shape)
    flat, mass = regions.ravel(), weights.ravel()
    total = np.bincount(flat, mass, count + 1)[1:].astype(float)
    safe = np.where(total > 0, total, 1.0)
    y = np.bincount(flat, mass * rows.ravel(), count + 1)[1:] / safe
    x = np.bincount(flat, mass * columns.ravel(), count + 1)[1:] / safe
    return np.stack([y, x], axis=1), total


def _parabola_vertices(values: Floats, peaks: NDArray[np.int64]) -> Floats:
    """Peaks (n, 2) moved, along each axis, to the vertex of the parabola through three pixels; none at the border."""
    refined = peaks.astype(float)
    for axis in (0, 1):
        place = peaks[:, axis]
        inner = (place > 0) & (place < values.shape[axis] - 1)
        at = peaks[inner]
        before, after = at.copy(), at.copy()
        before[:, axis] -= 1
        after[:, axis] += 1
        low, middle, high = (values[index[:, 0], index[:, 1]] for index in (before, at, after))
        bend = low - 2 * middle + high
        step = np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, 1.0), 0.0)
        refined[inner, axis] += np.clip(step, -0.5, 0.5)
    return refined
