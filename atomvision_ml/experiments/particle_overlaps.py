"""Particles that lie upon one another, told apart by what they absorb: where two overlap, the image is darker still.

Belongs here: from blobs, and how many particles each pixel seems to lie under, to masks of whole particles, covered
parts included. Blobs without such a part are left to the shape of their outline
(:mod:`atomvision_ml.experiments.particles`).

Two convex outlines that cross do so on the border of the blob. So the part under both, taken out, parts the rest into
pieces, and each particle is a piece with the parts under it and another. Where one particle crosses a second, the
second's two pieces belong together: pieces are joined while they are convex and every part under two keeps two owners.
A dark place that parts nothing, such as the thick middle of a sphere, is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]

_CUTS_PX = (3, 5, 7, 9)
"""How far beyond a part under two particles the blob is cut: blur takes the tips of the part, more of pointed ones."""

_FAINT = 0.8
"""Around pixels above the threshold those count too that exceed one particle by this share of what it asks for."""

_REACH_PX = 3
"""A piece this near to a part under two, along at least three times as many pixels, lies under it."""

_LEAST_PART_PX = 12
_LEAST_PIECE = 0.25
"""Least area of a piece over that of the smallest particle."""

_CONVEX, _CONVEX_CROSSED = 0.93, 0.87
"""Share of its hull that a particle fills at least which another one cuts in two, and where four pieces meet."""


def overlapping_particles(
    mask: Mask, layers: Array, threshold: float, smallest_px: float
) -> list[tuple[Window, list[Mask]]]:
    """Particles of every blob in which some overlap visibly.

    Args:
        mask: [y, x] particles.
        layers: [y, x] what a pixel absorbs, over what one particle absorbs.
        threshold: of ``layers`` above which a pixel lies under two.
        smallest_px: diameter of the smallest particle, px.

    Returns:
        For each such blob its window in the image, with a margin, and there a mask [y, x] of each particle.
    """
    from scipy.ndimage import binary_opening, binary_propagation, find_objects
    from skimage.measure import label

    surely = binary_opening(mask & (layers > threshold))
    under_two = binary_propagation(surely, mask=surely | (mask & (layers > 1 + _FAINT * (threshold - 1))))
    blobs = label(mask)
    found = []
    for number, window in enumerate(find_objects(blobs), start=1):
        around = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in window)
        blob = blobs[around] == number
        particles = _of_blob(blob, blob & under_two[around], math.pi / 4 * smallest_px**2)
        if len(particles) > 1:
            found.append(((around[0], around[1]), particles))
    return found


def _of_blob(blob: Mask, under_two: Mask, least_area: float) -> list[Mask]:
    """Masks of the particles of one blob; fewer than two if nothing shows that they overlap."""
    from skimage.measure import label
    from skimage.morphology import remove_small_objects

    parts = label(remove_small_objects(under_two, max_size=_LEAST_PART_PX))
    pieces = _cut(blob, parts > 0, least_area)
    if pieces.max() < 2:
        return []
    owners = {part: _touching(parts == part, pieces) for part in range(1, parts.max() + 1)}
    joined = _joined(pieces, parts, owners)
    return [_with_parts(pieces, parts, group, owners) for group in sorted(map(sorted, joined))]


def _cut(blob: Mask, under_two: Mask, least_area: float) -> NDArray[np.int32]:
    """Pieces that are left of a blob, numbered from 1; what lies between them belongs to the nearest."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label
    from skimage.morphology import remove_small_objects

    if not under_two.any():
        return blob.astype(np.int32)
    away = distance_transform_edt(~under_two)
    tried = [
        label(remove_small_objects(blob & (away > cut), max_size=int(_LEAST_PIECE * least_area))) for cut in _CUTS_PX
    ]
    cores = max(tried, key=lambda each: int(each.max()))
    if not cores.any():
        return np.zeros(blob.shape, np.int32)
    nearest = distance_transform_edt(cores == 0, return_distances=False, return_indices=True)
    return np.where(blob & ~under_two, cores[tuple(nearest)], 0).astype(np.int32)


def _touching(part: Mask, pieces: NDArray[np.int32]) -> set[int]:
    from scipy.ndimage import binary_dilation

    counts = np.bincount(pieces[binary_dilation(part, iterations=_REACH_PX)], minlength=1)
    return {int(piece) for piece in np.flatnonzero(counts > _REACH_PX**2) if piece > 0}


def _joined(pieces: NDArray[np.int32], parts: NDArray[np.int32], owners: dict[int, set[int]]) -> list[set[int]]:
    """Groups of pieces that are one particle each; what is most convex together is joined first."""
    groups: list[set[int]] = [{piece} for piece in range(1, int(pieces.max()) + 1)]
    while True:
        unions = []
        for one, other in combinations(groups, 2):
            both = one | other
            meeting = [touching for touching in owners.values() if touching & one and touching & other]
            if meeting and all(touching - both for touching in meeting):
                is_crossing = all(len(touching) > 3 for touching in meeting)
                spare = solidity(_with_parts(pieces, parts, both, owners)) - (
                    _CONVEX_CROSSED if is_crossing else _CONVEX
                )
                unions.append((spare, sorted(both)))
        spare, union = max(unions, default=(-1.0, []))
        if spare < 0:
            return groups
        groups = [group for group in groups if not group & set(union)] + [set(union)]


def _with_parts(
    pieces: NDArray[np.int32], parts: NDArray[np.int32], group: Iterable[int], owners: dict[int, set[int]]
) -> Mask:
    """Pixels of some pieces and of all parts under them and others."""
    own = set(group)
    shared = [part for part, touching in owners.items() if touching & own]
    return np.asarray(np.isin(pieces, list(own)) | np.isin(parts, shared), dtype=bool)


def solidity(mask: Mask) -> float:
    """Share of its convex hull that a mask fills."""
    from skimage.morphology import convex_hull_image

    return float(mask.sum() / convex_hull_image(mask).sum())
