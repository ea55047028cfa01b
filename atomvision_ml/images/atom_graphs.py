"""From images to graphs: atoms, the bonds between them, and the repeats of each atom's surroundings.

Belongs here: finding atoms in batches of images, and joining them, with arrays only. A graph has

* atoms: maxima of the Laplacian of Gaussian, with the maximum, minimum and mean intensity of their blob, as in the
  AtomVision paper (Choudhary et al., 2023, section 3.5);
* bonds: all pairs of atoms at most 4 Å apart, in both directions;
* repeats: from each atom to the nearest ones whose surroundings look the same in the same orientation. Where a crystal
  is seen, these are its lattice translations, which bonds of 4 Å do not show of larger cells.

Atoms whose 4 Å surroundings are cut by the edge of the field are marked: they are neighbours of others, but say nothing
of their own. Positions are image coordinates: Å from the centre of pixel [0, 0], x along columns, y along rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_GRID_ANGSTROM = 0.2
"""Grid on which the response is taken; with the probe and the filter it is smooth on this scale."""
_TRUNCATE_SIGMAS = 4.0
_SMOOTH_ANGSTROM = 0.2
_BLOB_ANGSTROM = 0.5
_PATCH_STEP_ANGSTROM = 0.8
_CLASH_ANGSTROM = 0.7


class GraphParameters(BaseModel):
    """How graphs are made; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma_angstrom: float = Field(default=0.25, gt=0, description="Scale of the atom finder in clear images, Å.")
    noisy_sigma_angstrom: float = Field(default=0.45, gt=0, description="Its scale in noisy images, Å.")
    noisy_share: float = Field(
        default=0.02, gt=0, description="Noise of the response, as a share of its maximum, above which it is noisy."
    )
    relative_threshold: float = Field(default=0.02, ge=0, description="Least response, as a share of the largest.")
    noise_threshold: float = Field(
        default=4.5, ge=0, description="Least response over the standard deviation of noise."
    )
    cutoff_angstrom: float = Field(default=4.0, gt=0, description="Longest bond, and width of the masked edge, Å.")
    n_repeats: int = Field(default=8, ge=0, description="Most repeats of each atom; 0 = none.")
    patch_angstrom: float = Field(default=3.6, gt=0, description="Radius of the surroundings that are compared, Å.")
    repeat_reach_angstrom: float = Field(default=24.0, gt=0, description="Longest repeat, Å.")


@dataclass(frozen=True)
class AtomGraphs:
    """Graphs of n images as flat arrays; image i has atoms ``atom_offsets[i]`` to ``atom_offsets[i + 1]``, and so on.

    Attributes:
        atom_offsets: (n + 1,) int64.
        positions_angstrom: (a, 2) float32, x and y.
        intensities: (a, 3) float32, maximum, minimum and mean over the disk of 0.5 Å; 0 is the darkest place of the
            image (1 % quantile), 1 its brightest atoms (98 % quantile of their maxima).
        is_inside: (a,) bool, whether the atom's 4 Å surroundings lie in the field.
        bond_offsets: (n + 1,) int64.
        bonds: (b, 2) int32, source and target, counted from the image's first atom; both directions, ordered.
        repeat_offsets: (n + 1,) int64.
        repeats: (r, 2) int32, source and target.
        differences: (r,) float32, by how much the two surroundings differ, as a share of their contrast.
    """

    atom_offsets: Integers
    positions_angstrom: Floats
    intensities: Floats
    is_inside: NDArray[np.bool_]
    bond_offsets: Integers
    bonds: NDArray[np.int32]
    repeat_offsets: Integers
    repeats: NDArray[np.int32]
    differences: Floats

    def __len__(self) -> int:
        return len(self.atom_offsets) - 1

    def __getitem__(self, index: int) -> AtomGraphs:
        """The graph of one image alone; raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"graph {index} of {len(self)}")
        atoms, bonds, repeats = (
            slice(*offsets[index : index + 2].tolist())
            for offsets in (self.atom_offsets, self.bond_offsets, self.repeat_offsets)
        )
        return AtomGraphs(
            self.atom_offsets[index : index + 2] - atoms.start,
            self.positions_angstrom[atoms],
            self.intensities[atoms],
            self.is_inside[atoms],
            self.bond_offsets[index : index + 2] - bonds.start,
            self.bonds[bonds],
            self.repeat_offsets[index : index + 2] - repeats.start,
            self.repeats[repeats],
            self.differences[repeats],
        )

    def steps_angstrom(self) -> Floats:
        """Vectors (b, 2) of the bonds from source to target, in Å."""
        return _steps(self, self.bonds, self.bond_offsets)

    def repeat_steps_angstrom(self) -> Floats:
        """Vectors (r, 2) of the repeats from source to target, in Å."""
        return _steps(self, self.repeats, self.repeat_offsets)

    @staticmethod
    def join(parts: Sequence[AtomGraphs]) -> AtomGraphs:
        """The graphs of several parts, in their order."""
        joined: dict[str, Any] = {}
        for field in fields(AtomGraphs):
            values = [getattr(part, field.name) for part in parts]
            if field.name.endswith("_offsets"):
                counts = np.concatenate([np.diff(value) for value in values])
                joined[field.name] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            else:
                joined[field.name] = np.concatenate(values)
        return AtomGraphs(**joined)


def build_graphs(
    images: ArrayLike, pixel_size_angstrom: float, parameters: GraphParameters | None = None
) -> AtomGraphs:
    """Graphs of a batch of images of one pixel size.

    Args:
        images: (n, y, x) or [y, x], finite, any unit.
        pixel_size_angstrom: edge of a pixel in Å.
        parameters: how.

    Returns:
        One graph per image; a constant image has no atoms.

    Raises:
        ValueError: the images are not of this form, or the pixel size is not positive.
    """
    import torch

    chosen = parameters or GraphParameters()
    stack = torch.from_numpy(_checked(images, pixel_size_angstrom))
    low = stack.amin(dim=(1, 2), keepdim=True)
    stack = (stack - low) / (stack.amax(dim=(1, 2), keepdim=True) - low).clamp_min(1e-30)
    filters = [
        _filters(tuple(stack.shape[1:]), pixel_size_angstrom, sigma)
        for sigma in (chosen.sigma_angstrom, chosen.noisy_sigma_angstrom)
    ]
    noise = _noise(stack)
    response = filters[0].response(stack)
    top = response.amax(dim=(1, 2))
    is_noisy = noise * filters[0].gain > chosen.noisy_share * top
    if is_noisy.any():
        response[is_noisy] = filters[1].response(stack[is_noisy])
        top[is_noisy] = response[is_noisy].amax(dim=(1, 2))
    gain = torch.where(is_noisy, filters[1].gain, filters[0].gain)
    threshold = torch.maximum(chosen.relative_threshold * top, chosen.noise_threshold * noise * gain)
    image, row, column = _maxima(response, threshold.clamp_min(1e-6))
    smooth = _filters(tuple(stack.shape[1:]), pixel_size_angstrom, _SMOOTH_ANGSTROM).smoothed(stack).numpy()
    place, image = _without_clashes(*_refined(response.numpy(), image, row, column))
    counts = np.bincount(image, minlength=len(stack))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    positions = place[:, ::-1] * _GRID_ANGSTROM
    edge = (np.array(stack.shape[:0:-1]) - 1) * pixel_size_angstrom
    inside = np.all((positions >= chosen.cutoff_angstrom) & (positions <= edge - chosen.cutoff_angstrom), axis=1)
    inside = np.asarray(inside, bool)
    bonds, bond_offsets = _bonds(positions, image, offsets, chosen.cutoff_angstrom)
    repeats, differences, repeat_offsets = _repeats(smooth, place, image, offsets, inside, chosen)
    return AtomGraphs(
        offsets,
        positions.astype(np.float32),
        _intensities(smooth, place, image, len(stack)),
        inside,
        bond_offsets,
        bonds,
        repeat_offsets,
        repeats,
        differences,
    )


def line_graph(edges: NDArray[np.int32], n_nodes: int) -> tuple[Integers, Integers]:
    """Pairs of edges (u → v), (v → w), w ≠ u: the edges of the line graph.

    Args:
        edges: (e, 2) source and target.
        n_nodes: number of nodes.

    Returns:
        Index of the first and of the second edge of each pair, (t,) int64 each.
    """
    source, target = edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64)
    order = np.argsort(source, kind="stable")
    out = np.bincount(source, minlength=n_nodes)
    start = np.concatenate([[0], np.cumsum(out)])[:-1]
    many = out[target]
    first = np.repeat(np.arange(len(edges)), many)
    within = np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
    second = order[start[target[first]] + within]
    goes_on = target[second] != source[first]
    return first[goes_on], second[goes_on]


def angle_cosines(steps: ArrayLike, first: Integers, second: Integers) -> Floats:
    """Cosine of the angle at the shared node of each pair of edges: 1 straight back, -1 straight on.

    Args:
        steps: (e, 2) vectors of the edges.
        first, second: as of :func:`line_graph`.
    """
    vectors = np.asarray(steps, np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.clip(-(unit[first] * unit[second]).sum(axis=1), -1, 1).astype(np.float32)


def angle_histogram(graph: AtomGraphs, bins: int = 200) -> Integers:
    """Histogram (bins,) of the cosines of all bond angles at atoms inside the field, from -1 to 1."""
    first, second = line_graph(graph.bonds, len(graph.positions_angstrom))
    inner = graph.is_inside[graph.bonds[first, 1]]
    cosines = angle_cosines(graph.steps_angstrom(), first[inner], second[inner])
    place = np.minimum(((cosines.astype(float) + 1) * bins / 2).astype(np.int64), bins - 1)
    return np.bincount(place, minlength=bins)


@dataclass(frozen=True)
class _Filters:
    """Matrices (grid, pixels) of the smoothing G and the second derivative L along y and x."""

    along_y: tuple[torch.Tensor, torch.Tensor]
    along_x: tuple[torch.Tensor, torch.Tensor]
    gain: float

    def response(self, images: torch.Tensor) -> torch.Tensor:
        """−σ²∇²(G * image) on the grid; σ² is in L."""
        (gy, ly), (gx, lx) = self.along_y, self.along_x
        return (ly @ images @ gx.T).add_(gy @ images @ lx.T).neg_()

    def smoothed(self, images: torch.Tensor) -> torch.Tensor:
        """G * image on the grid."""
        return self.along_y[0] @ images @ self.along_x[0].T


@lru_cache(maxsize=64)
def _filters(shape: tuple[int, int], pixel_size_angstrom: float, sigma_angstrom: float) -> _Filters:
    import torch

    pairs = [_line_filters(length, pixel_size_angstrom, sigma_angstrom) for length in shape]
    g, second = pairs[0][0][len(pairs[0][0]) // 2], pairs[0][1][len(pairs[0][1]) // 2]
    gain = float(np.sqrt(2 * (g**2).sum() * (second**2).sum() + 2 * (g @ second) ** 2))
    y, x = (tuple(torch.from_numpy(matrix.astype(np.float32)) for matrix in pair) for pair in pairs)
    return _Filters((y[0], y[1]), (x[0], x[1]), gain)


def _line_filters(length: int, pixel: float, sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G and σ²∂² (grid, length); beyond its ends the line goes on as it ended."""
    grid = np.arange(0, (length - 1) * pixel + 1e-9, _GRID_ANGSTROM)
    reach = int(np.ceil(_TRUNCATE_SIGMAS * sigma / pixel)) + 1
    place = np.arange(-reach, length + reach)
    distance = (place * pixel - grid[:, None]) / sigma
    gauss = np.exp(-0.5 * distance**2)
    gauss /= gauss.sum(axis=1, keepdims=True)
    second = (distance**2 - 1) * gauss
    second -= gauss * second.sum(axis=1, keepdims=True)
    clipped = np.clip(place, 0, length - 1)
    fold = np.zeros((len(place), length))
    fold[np.arange(len(place)), clipped] = 1
    return gauss @ fold, second @ fold


def _checked(images: ArrayLike, pixel_size_angstrom: float) -> Floats:
    values = np.asarray(images, np.float32)
    stack = values[None] if values.ndim == 2 else values
    if stack.ndim != 3 or min(stack.shape[1:]) < 8:
        raise ValueError(f"images are (n, y, x) with sides of at least 8 pixels, not {values.shape}")
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if not np.isfinite(stack).all():
        raise ValueError(f"{int((~np.isfinite(stack)).sum())} pixels are not finite; fill or crop them first")
    return np.ascontiguousarray(stack)


def _noise(stack: torch.Tensor) -> torch.Tensor:
    """Standard deviation (n,) of the noise of a pixel, robust (J. Immerkær, Comput. Vis. Image Underst. 64, 300)."""
    bend = stack[:, 2:] - 2 * stack[:, 1:-1] + stack[:, :-2]
    bend = bend[:, :, 2:] - 2 * bend[:, :, 1:-1] + bend[:, :, :-2]
    return bend.flatten(1)[:, ::3].abs().median(dim=1).values / (6 * 0.6745)


def _maxima(response: torch.Tensor, threshold: torch.Tensor) -> tuple[Integers, Integers, Integers]:
    """Image, row and column of the maxima over 3 x 3 grid points above the threshold of their image."""
    import torch

    best = torch.nn.functional.max_pool2d(response[:, None], 3, stride=1, padding=1)[:, 0]
    image, row, column = torch.nonzero((response == best) & (response > threshold[:, None, None]), as_tuple=True)
    return image.numpy(), row.numpy(), column.numpy()


def _refined(
    response: Floats, image: Integers, row: Integers, column: Integers
) -> tuple[NDArray[np.float64], Floats, Integers]:
    """Places (a, 2) as row and column at the vertex of the parabolas through three points each; heights; images."""
    place = np.stack([row, column], axis=1).astype(float)
    height = response[image, row, column]
    for axis, (at, length) in enumerate(((row, response.shape[1]), (column, response.shape[2]))):
        inner = np.flatnonzero((at > 0) & (at < length - 1))
        step = (1, 0) if axis == 0 else (0, 1)
        low = response[image[inner], row[inner] - step[0], column[inner] - step[1]].astype(float)
        high = response[image[inner], row[inner] + step[0], column[inner] + step[1]].astype(float)
        bend = low - 2 * height[inner] + high
        place[inner, axis] += np.clip(0.5 * (low - high) / np.where(bend < 0, bend, -1.0), -0.5, 0.5)
    return place, height, image


def _without_clashes(
    place: NDArray[np.float64], height: Floats, image: Integers
) -> tuple[NDArray[np.float64], Integers]:
    """Of two maxima closer than 0.7 Å the weaker one goes."""
    from scipy.spatial import cKDTree

    if not len(place):
        return place, image
    apart = np.column_stack([place * _GRID_ANGSTROM, image * 1e3])
    pairs = cKDTree(apart).query_pairs(_CLASH_ANGSTROM, output_type="ndarray")
    weaker = np.where(height[pairs[:, 0]] < height[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    keep = np.ones(len(place), bool)
    keep[weaker] = False
    return place[keep], image[keep]


def _intensities(smooth: Floats, place: NDArray[np.float64], image: Integers, n_images: int) -> Floats:
    """Maximum, minimum and mean (a, 3) of the smoothed image over the disk of 0.5 Å, on the image's own scale."""
    values = _sampled(smooth, place, image, _disk(_BLOB_ANGSTROM, _GRID_ANGSTROM))
    low = np.quantile(smooth.reshape(len(smooth), -1)[:, ::5], 0.01, axis=1)
    found = np.stack([values.max(axis=1), values.min(axis=1), values.mean(axis=1)], axis=1)
    high = low + 1.0
    for number, rows in enumerate(np.split(found[:, 0], np.cumsum(np.bincount(image, minlength=n_images))[:-1])):
        if len(rows):
            high[number] = np.quantile(rows, 0.98)
    scale = np.maximum(high - low, 1e-12)
    return ((found - low[image, None]) / scale[image, None]).astype(np.float32)


def _disk(radius: float, step: float) -> NDArray[np.float64]:
    """Offsets (k, 2) in grid points, a square grid of that step (Å) within the radius (Å)."""
    most = int(np.floor(radius / step + 1e-9))
    along = np.arange(-most, most + 1) * step
    offsets = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    return offsets[(offsets**2).sum(axis=1) <= radius**2 + 1e-9] / _GRID_ANGSTROM


def _sampled(smooth: Floats, place: NDArray[np.float64], image: Integers, offsets: NDArray[np.float64]) -> Floats:
    """Bilinear samples (a, k) of the smoothed images at places + offsets, clipped to the field."""
    _, height, width = smooth.shape
    at = place[:, None, :] + offsets
    y, x = np.clip(at[..., 0], 0, height - 1 - 1e-6), np.clip(at[..., 1], 0, width - 1 - 1e-6)
    row, column = y.astype(np.int64), x.astype(np.int64)
    dy, dx = (y - row).astype(np.float32), (x - column).astype(np.float32)
    flat, start = smooth.ravel(), (image[:, None] * height + row) * width + column
    upper = flat[start] * (1 - dx) + flat[start + 1] * dx
    lower = flat[start + width] * (1 - dx) + flat[start + width + 1] * dx
    return upper * (1 - dy) + lower * dy


def _bonds(
    positions: NDArray[np.float64], image: Integers, offsets: Integers, cutoff: float
) -> tuple[NDArray[np.int32], Integers]:
    """Bonds in both directions, ordered by image, source and target; one search tree for the whole batch."""
    from scipy.spatial import cKDTree

    if not len(positions):
        return np.zeros((0, 2), np.int32), np.zeros(len(offsets), np.int64)
    apart = np.column_stack([positions, image * (cutoff + 1e3)])
    pairs = cKDTree(apart).query_pairs(cutoff, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    of = image[both[:, 0]]
    counts = np.bincount(of, minlength=len(offsets) - 1)
    return (both - offsets[of, None]).astype(np.int32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _repeats(
    smooth: Floats,
    place: NDArray[np.float64],
    image: Integers,
    offsets: Integers,
    inside: NDArray[np.bool_],
    parameters: GraphParameters,
) -> tuple[NDArray[np.int32], Floats, Integers]:
    """Repeats of the atoms inside the field; see :class:`AtomGraphs`."""
    chosen = np.flatnonzero(inside)
    patches = _sampled(smooth, place[chosen], image[chosen], _disk(parameters.patch_angstrom, _PATCH_STEP_ANGSTROM))
    bounds = np.searchsorted(image[chosen], np.arange(len(offsets)))
    edges, differences, counts = [], [], []
    for number in range(len(offsets) - 1):
        part = slice(bounds[number], bounds[number + 1])
        found, how = _repeats_of_one(patches[part], place[chosen[part]] * _GRID_ANGSTROM, parameters)
        edges.append((chosen[part][found] - offsets[number]).astype(np.int32).reshape(-1, 2))
        differences.append(how)
        counts.append(len(how))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.concatenate(edges), np.concatenate(differences), ends


_REPEAT_FLOOR = 0.02
_REPEAT_FACTOR = 1.6


def _repeats_of_one(
    patches: Floats, positions: NDArray[np.float64], parameters: GraphParameters
) -> tuple[Integers, Floats]:
    """Source and target (r, 2) among these atoms, and differences (r,).

    Two surroundings are the same if they differ by at most 1.6 times what the most alike ones do (median over the
    atoms), which noise and interpolation make, or by 2 % of the contrast.
    """
    n, wanted = len(patches), min(parameters.n_repeats, len(patches) - 1)
    if wanted < 1:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    contrast = max(float(patches.std()), 1e-12)
    square = (patches**2).sum(axis=1)
    differ = square[:, None] + square[None] - 2 * patches @ patches.T
    differ = np.sqrt(np.maximum(differ, 0) / patches.shape[1]) / contrast
    apart = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1)).astype(np.float32)
    np.fill_diagonal(differ, np.inf)
    differ[apart > parameters.repeat_reach_angstrom] = np.inf
    limit = max(_REPEAT_FLOOR, _REPEAT_FACTOR * float(np.median(differ.min(axis=1))))
    far = np.where(differ <= limit, apart, np.inf)
    nearest = np.argpartition(far, wanted - 1, axis=1)[:, :wanted]
    source = np.repeat(np.arange(n), wanted)
    target = nearest.ravel()
    is_one = np.isfinite(far[source, target])
    source, target = source[is_one], target[is_one]
    return np.stack([source, target], axis=1), differ[source, target].astype(np.float32)


def _steps(graphs: AtomGraphs, edges: NDArray[np.int32], edge_offsets: Integers) -> Floats:
    start = np.repeat(graphs.atom_offsets[:-1], np.diff(edge_offsets))
    where = graphs.positions_angstrom
    return where[edges[:, 1] + start] - where[edges[:, 0] + start]
