"""Resampling of images as products with small matrices: exact area averages and cubic interpolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_average_matrix(n_px: int, pixel_size_angstrom: float, new_pixel_size_angstrom: float) -> NDArray[np.float64]:
    """Matrix (m, n) that averages n pixels over m new ones, edges aligned at the first pixel's outer edge.

    For finer new pixels it interpolates (Keys' cubic) instead. The last new pixel may reach beyond the field; it is
    then the average over its part inside.
    """
    count = max(1, int(np.ceil(n_px * pixel_size_angstrom / new_pixel_size_angstrom - 1e-6)))
    if new_pixel_size_angstrom < pixel_size_angstrom:
        place = (np.arange(count) + 0.5) * new_pixel_size_angstrom / pixel_size_angstrom - 0.5
        return cubic_matrix(n_px, np.clip(place, 0, n_px - 1))
    edges = np.arange(count + 1) * new_pixel_size_angstrom
    low, high = np.arange(n_px) * pixel_size_angstrom, np.arange(1, n_px + 1) * pixel_size_angstrom
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    weights = np.clip(overlap, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def cubic_matrix(n_px: int, places_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix (m, n) of cubic convolution (Keys, IEEE Trans. ASSP 29, 1153, 1981; a = −1/2) at fractional pixels.

    Pixels beyond the border equal the one at the border.
    """
    first = np.floor(places_px).astype(int)
    matrix = np.zeros((len(places_px), n_px))
    rows = np.arange(len(places_px))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(places_px - first - offset)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (rows, np.clip(first + offset, 0, n_px - 1)), weight)
    return matrix
