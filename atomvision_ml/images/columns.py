"""Atoms and atomic columns in a field of view, and the masks made of them.

Belongs here: the geometry of what an image shows. Coordinates are image coordinates: Å from the centre of pixel
[0, 0], x along columns, y along rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atomvision_ml.images.stem import Projection, View, images_of_atoms, inverse_periods

_NO_PERIODS = np.zeros((0, 2))

_DENSE = 64
"""Up to so many points all pairs are compared; above, only near ones."""


@dataclass(frozen=True)
class Columns:
    """Atomic columns: intensity-weighted centres (k, 2) in Å, weights ΣZ^p (k,), numbers of atoms (k,) int."""

    positions_angstrom: np.ndarray
    weights: np.ndarray
    n_atoms: np.ndarray

    @property
    def relative_intensities(self) -> np.ndarray:
        """Weights relative to the heaviest column, (k,)."""
        return self.weights / self.weights.max() if len(self.weights) else self.weights

    def take(self, index: np.ndarray, positions_angstrom: np.ndarray) -> Columns:
        """The columns of that index at new positions."""
        return Columns(positions_angstrom, self.weights[index], self.n_atoms[index])


def field_corners(view: View, margin_angstrom: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (2,) of the field, from pixel edge to pixel edge, widened by a margin, in Å."""
    low = -view.pixel_size_angstrom / 2
    return np.full(2, low - margin_angstrom), np.full(2, low + view.field_angstrom + margin_angstrom)


def atoms_in_view(
    positions_angstrom: np.ndarray, periods_angstrom: np.ndarray, view: View, margin_angstrom: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Every atom, with all periodic images, inside the field.

    Args:
        positions_angstrom: (n, 2) in the structure's coordinates, Å.
        periods_angstrom: (k, 2) lattice vectors in the structure's coordinates, Å.
        view: the field and how the structure lies under it.
        margin_angstrom: how far outside the pixels' edges still counts.

    Returns:
        Image coordinates (m, 2) in Å, and the index (m,) of the atom that each is an image of.
    """
    low, high = field_corners(view, margin_angstrom)
    return images_of_atoms(view.place(positions_angstrom), periods_angstrom @ view.rotation.T, low, high)


def columns_in_view(
    columns: Columns, periods_angstrom: np.ndarray, view: View, margin_angstrom: float = 0.0
) -> Columns:
    """The same for columns of one cell."""
    xy, index = atoms_in_view(columns.positions_angstrom, periods_angstrom, view, margin_angstrom)
    return columns.take(index, xy)


def columns_of(projection: Projection, distance_angstrom: float = 1.0) -> Columns:
    """Columns of one cell of a structure: :func:`merge_columns` under its periods."""
    x, y = projection.positions_angstrom.T
    return merge_columns(x, y, projection.weights, distance_angstrom, projection.periods_angstrom)


def nearest_columns_angstrom(projection: Projection, coincident_angstrom: float = 0.1) -> float:
    """Smallest distance of two columns of a layer, in Å, its periodic images included.

    Args:
        projection: a layer, two periods.
        coincident_angstrom: atoms closer than this are one column.
    """
    from scipy.spatial import cKDTree

    xy = columns_of(projection, coincident_angstrom).positions_angstrom
    periods = projection.periods_angstrom
    xy = xy - np.floor(xy @ inverse_periods(periods)) @ periods
    reach = float(np.linalg.norm(periods, axis=1).min()) * (1 + 1e-9)
    around, _ = images_of_atoms(xy, periods, xy.min(axis=0) - reach, xy.max(axis=0) + reach)
    return float(cKDTree(around).query(xy, k=2)[0][:, 1].min())


def merge_columns(
    x_angstrom: np.ndarray,
    y_angstrom: np.ndarray,
    z_weight: np.ndarray,
    distance_angstrom: float = 1.0,
    periods_angstrom: np.ndarray = _NO_PERIODS,
) -> Columns:
    """Merge atoms to columns: the closest two become one at their intensity-weighted centre, until none is closer.

    Args:
        x_angstrom, y_angstrom: positions (n,) in Å.
        z_weight: intensities Z^p (n,), positive.
        distance_angstrom: two columns closer than this are merged.
        periods_angstrom: (k, 2) lattice vectors; atoms are then merged across the cell's edges too.

    Returns:
        Columns, ordered by their first atom.

    Raises:
        ValueError: weights that are not positive.
    """
    weights = np.asarray(z_weight, float).copy()
    if len(weights) and weights.min() <= 0:
        raise ValueError("intensities of atoms must be positive to find their centre")
    columns = Columns(
        np.stack([np.asarray(x_angstrom, float), np.asarray(y_angstrom, float)], axis=1),
        weights,
        np.ones(len(weights), np.int64),
    )
    while True:
        groups = connected_points(columns.positions_angstrom, periods_angstrom, distance_angstrom)
        merged = [_merge_group(columns, group, periods_angstrom, distance_angstrom) for group in groups]
        parts = sorted((part for group in merged for part in group), key=lambda part: part[0])
        if len(parts) == len(columns.weights):
            return columns
        columns = Columns(
            np.array([xy for _, xy, _, _ in parts]),
            np.array([weight for _, _, weight, _ in parts]),
            np.array([count for _, _, _, count in parts]),
        )


def connected_points(xy: np.ndarray, periods: np.ndarray, distance: float) -> list[np.ndarray]:
    """Sets of points (n, 2) connected by steps shorter than the distance; a list with one index array for each set.

    Under periods (2, 2) or (0, 2), steps to the points' images count too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if len(xy) == 0:
        return []
    if len(xy) <= _DENSE:
        steps = _nearest_image(xy[None, :, :] - xy[:, None, :], periods)
        i, j = np.nonzero(np.triu(np.einsum("ijk,ijk->ij", steps, steps) < distance**2, 1))
    else:
        if len(periods):
            xy = xy - np.floor(xy @ inverse_periods(periods)) @ periods
        around, index = images_of_atoms(xy, periods, xy.min(axis=0) - distance, xy.max(axis=0) + distance)
        near = cKDTree(xy).sparse_distance_matrix(cKDTree(around), distance, output_type="ndarray")
        i, j = near["i"], index[near["j"]]
        i, j = i[is_step := (near["v"] < distance) & (i != j)], j[is_step]
    if len(i) == 0:
        return list(np.arange(len(xy))[:, None])
    links = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(len(xy), len(xy)))
    count, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1])


def _merge_group(
    columns: Columns, group: np.ndarray, periods: np.ndarray, distance: float
) -> list[tuple[int, np.ndarray, float, int]]:
    """Merge closest pairs inside one group; returns (first atom, position, weight, number of atoms) of each column."""
    if len(group) == 1:
        n = int(group[0])
        return [(n, columns.positions_angstrom[n], float(columns.weights[n]), int(columns.n_atoms[n]))]
    first = [int(n) for n in group]
    xy, weights, counts = (
        columns.positions_angstrom[group],
        columns.weights[group].copy(),
        columns.n_atoms[group].copy(),
    )
    while len(first) > 1:
        step = _nearest_image(xy[None, :, :] - xy[:, None, :], periods)
        apart = np.round(np.hypot(step[..., 0], step[..., 1]), 9)
        np.fill_diagonal(apart, np.inf)
        i, j = divmod(int(np.argmin(apart)), len(first))
        if apart[i, j] >= distance:
            break
        total = weights[i] + weights[j]
        xy[i] = xy[i] + step[i, j] * (weights[j] / total)
        weights[i], counts[i] = total, counts[i] + counts[j]
        keep = np.arange(len(first)) != j
        xy, weights, counts = xy[keep], weights[keep], counts[keep]
        del first[j]
    return [(first[n], xy[n], float(weights[n]), int(counts[n])) for n in range(len(first))]


def _nearest_image(step: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Shortest of all periodic images of each step (…, 2).

    Exact for reduced cells and steps that are shorter than half of the shortest period, which is what is merged.
    """
    if len(periods) == 0:
        return step
    return step - np.round(step @ inverse_periods(periods)) @ periods


def column_mask(
    columns_xy_angstrom: np.ndarray, size_px: int, pixel_size_angstrom: float, radius_angstrom: float = 0.5
) -> np.ndarray:
    """Pixels whose centre lies within the radius of a column.

    Args:
        columns_xy_angstrom: (k, 2) image coordinates in Å; columns outside the field may reach into it.
        size_px: edge of the mask in px.
        pixel_size_angstrom: edge of a pixel in Å.
        radius_angstrom: the radius in Å; its edge belongs to it.

    Returns:
        bool (size, size) array [y, x].
    """
    radius = radius_angstrom / pixel_size_angstrom
    mask = np.zeros((size_px, size_px), bool)
    xy = np.asarray(columns_xy_angstrom, float).reshape(-1, 2) / pixel_size_angstrom
    nearest = np.rint(xy).astype(np.int64)
    rest = nearest - xy
    offset = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    dx2, dy2 = ((rest[:, axis, None] + offset) ** 2 for axis in (0, 1))
    k, row, column = np.nonzero(dy2[:, :, None] + dx2[:, None, :] <= radius**2 * (1 + 1e-12))
    y, x = nearest[k, 1] + offset[row], nearest[k, 0] + offset[column]
    inside = (x >= 0) & (x < size_px) & (y >= 0) & (y < size_px)
    mask[y[inside], x[inside]] = True
    return mask
