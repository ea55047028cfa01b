"""Nanoparticles of a micrograph: outlines, sizes and shapes, overlapping ones told apart.

Belongs here: from pixels to measured particles. Classes of shapes are in
:mod:`atomvision_ml.experiments.particle_shapes`.

1. A smooth background is removed; a Gaussian of the noise's own width removes noise; Otsu's threshold between
   particles and support, dark on bright or bright on dark.
2. Blobs in which particles visibly lie upon one another are taken apart by
   :mod:`atomvision_ml.experiments.particle_overlaps`. Each other blob is cut at every waist: a watershed of the
   distance to the border, from every maximum. Pieces are joined again where the waist is nearly as wide as the thinner
   of the two and both together are convex, as along a rod or where an outline is rough.
3. A particle that others cover is more than the piece left of it: an ellipse is fitted to that part of its outline
   which is the blob's own, and taken if it fits; so areas are those of whole particles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.particle_overlaps import overlapping_particles, solidity
from atomvision_ml.images.preprocess import smooth_part

Array = NDArray[np.float64]
Labels = NDArray[np.int32]

_SMALLEST_SIDE_PX = 16
_CUT_PX = 2.0
"""A point of an outline nearer to another particle's pixels lies on the cut between the two."""

_RIDGE = 0.99
"""Waists wider than this are steps along the ridge of one particle, such as that to a polygon's corner."""

_CORNER_SHARE = 0.2
"""A piece with less of the other's area is a corner of it, where the waist is wide."""

_TOUCHING_SOLIDITY = 0.9
"""Particles that lie upon another one and fill more of their hull are one each; two discs that touch fill 0.88."""

_TOUCHING_WAIST = 0.5
"""Waist, over the thinner part, at which two of them touch; nothing else than the waist counts."""

_TOUCHING_SHARE = 0.35
"""Area of the smaller of them over that of the larger, at least."""

_NOTCH_PX, _NOTCH = 1.5, 0.1
"""A notch in the outline of a single particle is at most so many pixels deep, and this share of half its width."""

_SECTOR_DEG = 10.0
_MOST_COMPLETED = 2.5
"""A completed particle is at most so many times the piece that is left of it."""

_MOST_WORKED_PX = 1024
"""Larger images are binned, which bounds time and memory; lengths are given in pixels of the image."""


class Polarity(Enum):
    """Whether particles are darker or brighter than the support."""

    DARK = "dark"
    BRIGHT = "bright"


class ParticleParameters(BaseModel):
    """What is a particle, and when two are one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    polarity: Polarity | None = Field(
        default=None, description="Particles are darker or brighter than the support; None: whichever covers less."
    )
    smoothing_px: float = Field(default=1.5, ge=0, description="Standard deviation of the Gaussian filter, px.")
    smallest_diameter_px: float = Field(default=8.0, ge=3, description="Least diameter of a disc of equal area, px.")
    waist_ratio: float = Field(
        default=0.92, gt=0, lt=1, description="Width of a waist over that of the thinner part, at most, where two meet."
    )
    least_solidity: float = Field(
        default=0.955, gt=0, lt=1, description="Area over that of the convex hull below which a shape is more than one."
    )
    largest_misfit: float = Field(
        default=0.03, gt=0, description="Root mean square distance of outline and ellipse over its diameter, at most."
    )
    least_arc: float = Field(
        default=0.35, gt=0, lt=1, description="Share of the ellipse's turn that the particle's own outline must span."
    )
    least_contrast: float = Field(
        default=3.0, ge=0, description="Difference of particles and support over the spread within them, at least."
    )


@dataclass(frozen=True)
class Particle:
    """One particle; lengths in pixels.

    Attributes:
        number: from 1, its value in the label image.
        centre_px: (y, x) of its centre.
        area_px: of the whole particle, in px².
        major_px: major axis of the ellipse of equal second moments (or of the fitted one).
        minor_px: its minor axis.
        orientation_deg: of the major axis, counter-clockwise from x with y downwards.
        circularity: 4π·area/perimeter²; 1 for a disc.
        solidity: area over that of the convex hull.
        extent: area over that of the smallest rectangle around it, at any angle; π/4 for ellipses, ½ for triangles.
        touches_border: whether the image cuts it.
        is_overlapped: whether it was cut from others.
        is_completed: whether its area is that of an ellipse fitted to its free outline.
    """

    number: int
    centre_px: tuple[float, float]
    area_px: float
    major_px: float
    minor_px: float
    orientation_deg: float
    circularity: float
    solidity: float
    extent: float
    touches_border: bool
    is_overlapped: bool
    is_completed: bool

    @property
    def aspect_ratio(self) -> float:
        """Major over minor axis."""
        return self.major_px / self.minor_px

    @property
    def equivalent_diameter_px(self) -> float:
        """Diameter of the disc of equal area."""
        return 2 * math.sqrt(self.area_px / math.pi)


@dataclass(frozen=True)
class ParticleField:
    """Particles of one image.

    Attributes:
        particles: in the order of their numbers.
        labels: [y, x] number of the particle that each pixel was given, 0 for the support; as worked on, so its edge is
            that of the image over ``binning``.
        binning: pixels of the image along the edge of one of ``labels``.
        polarity: whether particles are darker or brighter than the support.
        contrast: difference of particles and support over the spread within them; below the limit there are no
            particles.
    """

    particles: tuple[Particle, ...]
    labels: Labels
    binning: int
    polarity: Polarity
    contrast: float


def find_particles(image: ArrayLike, parameters: ParticleParameters | None = None) -> ParticleField:
    """Particles of an image.

    Args:
        image: [y, x], finite, sides of at least 16 pixels.
        parameters: what is a particle; None for the defaults.

    Raises:
        ValueError: the image is not [y, x], too small or not finite.
    """
    chosen = parameters or ParticleParameters()
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < _SMALLEST_SIDE_PX or not np.isfinite(values).all():
        raise ValueError(
            f"particles need a finite image [y, x] with sides of {_SMALLEST_SIDE_PX} pixels or more; got {values.shape}"
        )
    binned, binning = _binned(values)
    seen = _contrasted(binned, chosen)
    if seen.contrast < chosen.least_contrast:
        return ParticleField((), np.zeros(binned.shape, np.int32), binning, seen.polarity, seen.contrast)
    mask = _mask(seen.excess > 0, chosen.smallest_diameter_px / binning)
    labels, particles = _measured(seen.excess, _regions(mask, seen, binning, chosen), binning, chosen)
    return ParticleField(particles, labels, binning, seen.polarity, seen.contrast)


def _binned(values: Array) -> tuple[Array, int]:
    factor = max(1, math.ceil(max(values.shape) / _MOST_WORKED_PX))
    height, width = (edge // factor for edge in values.shape)
    blocks = values[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return np.asarray(blocks.mean(axis=(1, 3))), factor


@dataclass(frozen=True)
class _Contrast:
    """What of an image is particles.

    Attributes:
        excess: [y, x] smoothed image, particles bright, over the threshold.
        layers: [y, x] what a pixel differs from the support, over what one particle does.
        midway: value of ``layers`` between one particle and two that lie upon one another.
        polarity: whether particles are darker or brighter than the support.
        contrast: as in :class:`ParticleField`.
    """

    excess: Array
    layers: Array
    midway: float
    polarity: Polarity
    contrast: float


def _contrasted(values: Array, parameters: ParticleParameters) -> _Contrast:
    """The smoothed image against its support.

    The background is fitted twice, the second time to the support alone, so that particles do not bend it.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    smooth = gaussian_filter(values, parameters.smoothing_px, mode="reflect")
    if np.ptp(smooth) <= 1e-9 * np.abs(smooth).max():
        return _Contrast(smooth, smooth, math.inf, parameters.polarity or Polarity.DARK, 0.0)
    flat = smooth - smooth_part(smooth)
    for _ in range(2):
        above = flat > threshold_otsu(flat)
        is_bright = parameters.polarity is Polarity.BRIGHT or (parameters.polarity is None and above.mean() < 0.5)
        support = ~above if is_bright else above
        filled = np.where(support, smooth, np.nan)
        flat = smooth - _background(filled)
    signed = flat if is_bright else -flat
    threshold = float(threshold_otsu(signed))
    inside = signed > threshold
    spread = math.hypot(float(signed[inside].std()), float(signed[~inside].std()))
    contrast = float(signed[inside].mean() - signed[~inside].mean()) / max(spread, np.finfo(float).tiny)
    level = 0.5 * float(np.median(signed[inside]) + np.median(signed[~inside]))
    # Two dark particles let through the product of what each lets through; two bright ones add up.
    share = signed / np.maximum(smooth - flat, 1e-3 * float(np.abs(smooth).max())) if not is_bright else signed
    one = float(np.median(share[inside]))
    midway = 1.5 if is_bright else 1.5 - min(one, 1.0) / 2
    return _Contrast(signed - level, share / one, midway, Polarity.BRIGHT if is_bright else Polarity.DARK, contrast)


def _background(support: Array) -> Array:
    """The smooth part of the support's values (NaN elsewhere), by filling the gaps with it until it rests."""
    holes = ~np.isfinite(support)
    filled = np.where(holes, np.nanmean(support), support)
    for _ in range(8):
        smooth = smooth_part(filled)
        filled = np.where(holes, smooth, support)
    return smooth_part(filled)


def _mask(inside: NDArray[np.bool_], smallest_diameter: float) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes
    from skimage.morphology import remove_small_objects

    smallest = math.pi / 4 * smallest_diameter**2
    return np.asarray(binary_fill_holes(remove_small_objects(inside, max_size=int(smallest))), dtype=bool)


def _regions(
    mask: NDArray[np.bool_], seen: _Contrast, binning: int, parameters: ParticleParameters
) -> Iterator[_Region]:
    """Pieces by the shape of their outline, then whole particles of blobs in which overlaps are seen."""
    from scipy.ndimage import find_objects

    separated = overlapping_particles(mask, seen.layers, seen.midway, parameters.smallest_diameter_px / binning)
    rest = mask.copy()
    for window, particles in separated:
        rest[window] &= ~np.any(particles, axis=0)
    pieces = _pieces(rest, parameters)
    for value, place in enumerate(find_objects(pieces), start=1):
        if place is not None:
            around = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in place)
            here = pieces[around]
            yield _Region((around[0], around[1]), here == value, (here != value) & (here > 0), is_whole=False)
    for window, particles in separated:
        union = np.any(particles, axis=0)
        for particle in particles:
            for own in _side_by_side(particle, parameters):
                yield _Region(window, own, union & ~own, is_whole=True)


def _pieces(mask: NDArray[np.bool_], parameters: ParticleParameters) -> Labels:
    """Blobs cut at their waists: watershed basins of the distance map, joined again where the waist is wide."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter
    from skimage.feature import peak_local_max
    from skimage.measure import label
    from skimage.segmentation import watershed

    distance = distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    distance = np.where(mask, gaussian_filter(distance, 1.0), 0.0)
    blobs = label(mask)
    peaks = peak_local_max(distance, min_distance=1, labels=blobs, exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    basins = watershed(-distance, markers, mask=mask)
    heights = np.concatenate(([0.0], distance[tuple(peaks.T)]))
    basins = np.where(_is_single(blobs, distance), len(peaks) + blobs, basins).astype(np.int32)
    heights = np.concatenate((heights, np.zeros(int(blobs.max()) + 1)))
    return _joined(basins, heights, _saddles(basins, distance), parameters)


def _side_by_side(particle: NDArray[np.bool_], parameters: ParticleParameters) -> list[NDArray[np.bool_]]:
    """A particle, or several that touch without lying upon one another, so that nothing between them is darker."""
    if solidity(particle) > _TOUCHING_SOLIDITY:
        return [particle]
    by_waist = parameters.model_copy(update={"least_solidity": 0.01, "waist_ratio": _TOUCHING_WAIST})
    touching = _pieces(particle, by_waist)
    areas = np.bincount(touching[touching > 0])[1:]
    if areas.min() < _TOUCHING_SHARE * areas.max():  # slivers that noise has left
        return [particle]
    return [touching == value for value in range(1, len(areas) + 1)]


def _is_single(blobs: Labels, distance: Array) -> NDArray[np.bool_]:
    """Which pixels are of blobs without a notch deeper than roughness."""
    from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects
    from skimage.morphology import convex_hull_image

    single = np.zeros(blobs.shape, bool)
    for number, window in enumerate(find_objects(blobs), start=1):
        blob = np.pad(blobs[window] == number, 1)
        border = blob & ~binary_erosion(blob)
        depth = float(distance_transform_edt(np.pad(convex_hull_image(blob), 1))[1:-1, 1:-1][border].max()) - 1
        if depth < _NOTCH_PX + _NOTCH * float(distance[window][blob[1:-1, 1:-1]].max()):
            single[window] |= blob[1:-1, 1:-1]
    return single


def _saddles(basins: Labels, distance: Array) -> dict[tuple[int, int], float]:
    """Height of the highest pass between each pair of neighbouring basins."""
    passes: dict[tuple[int, int], float] = {}
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = basins[here], basins[there]
        height = np.minimum(distance[here], distance[there])
        meets = (a != b) & (a > 0) & (b > 0)
        for one, other, level in zip(a[meets].tolist(), b[meets].tolist(), height[meets].tolist(), strict=True):
            pair = (min(one, other), max(one, other))
            passes[pair] = max(passes.get(pair, 0.0), level)
    return passes


def _joined(
    basins: Labels, heights: Array, passes: dict[tuple[int, int], float], parameters: ParticleParameters
) -> Labels:
    """Basins joined, widest waist first, while the waist is wide beside the thinner of the two and both are convex."""
    parent = list(range(len(heights)))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            basin = parent[basin]
        return basin

    tallest, hulls, areas = heights.copy(), _hulls(basins, len(heights)), np.bincount(basins.ravel())
    for (one, other), level in sorted(passes.items(), key=lambda item: -item[1]):
        a, b = root(one), root(other)
        waist = level / min(tallest[a], tallest[b])
        if a == b or waist <= parameters.waist_ratio:
            continue
        corners, filled = _hull(np.vstack((hulls[a], hulls[b])))
        is_convex = areas[a] + areas[b] > parameters.least_solidity * filled
        is_corner = min(areas[a], areas[b]) < _CORNER_SHARE * max(areas[a], areas[b])
        if is_convex or is_corner or waist > _RIDGE:
            parent[b] = a
            hulls[a], areas[a], tallest[a] = corners, areas[a] + areas[b], max(tallest[a], tallest[b])
    roots = np.array([root(basin) for basin in range(len(heights))])
    return np.asarray(np.unique(roots, return_inverse=True)[1].astype(np.int32)[basins], dtype=np.int32)


def _hulls(basins: Labels, count: int) -> list[Array]:
    """Corners (n, 2) of the convex hull of each basin's pixels, none of basin 0."""
    from scipy.ndimage import find_objects

    hulls: list[Array] = [np.empty((0, 2))] * count
    for value, window in enumerate(find_objects(basins), start=1):
        if window is not None:
            corner = np.array([window[0].start, window[1].start])
            hulls[value] = _hull((np.argwhere(basins[window] == value) + corner).astype(np.float64))[0]
    return hulls


def _hull(points: Array) -> tuple[Array, float]:
    """Corners of the convex hull of pixels' centres, and the number of pixels that fill it."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = ConvexHull(points)
    except QhullError:  # pixels on one line
        return points, float(len(points))
    # Pick's theorem: pixels = area + half of those on the border + 1.
    return points[hull.vertices], float(hull.volume + 0.45 * hull.area + 1)


@dataclass(frozen=True)
class _Region:
    """Pixels taken for one particle, in a window of the image that leaves a margin, and those of its neighbours.

    ``is_whole``: whether pixels under other particles are among them.
    """

    window: tuple[slice, slice]
    own: NDArray[np.bool_]
    others: NDArray[np.bool_]
    is_whole: bool

    @property
    def corner(self) -> Array:
        return np.array([side.start for side in self.window], dtype=float)


def _measured(
    excess: Array, regions: Iterable[_Region], binning: int, parameters: ParticleParameters
) -> tuple[Labels, tuple[Particle, ...]]:
    """Every region as a particle, numbered from 1; those below the smallest size are left out."""
    found: list[Particle] = []
    labels = np.zeros(excess.shape, np.int32)
    smallest = math.pi / 4 * (parameters.smallest_diameter_px / binning) ** 2
    for region in regions:
        outline = _outline(excess[region.window], region.own, region.others)
        if outline is None or outline.area < smallest:
            continue
        found.append(_particle(len(found) + 1, outline, region, binning, parameters))
        labels[region.window][region.own] = len(found)
    return labels, tuple(found)


@dataclass(frozen=True)
class _Outline:
    """A closed polygon (n, 2) of (y, x), and which of its points are the blob's own, not a cut's."""

    points: Array
    is_free: NDArray[np.bool_]

    @property
    def edges(self) -> Array:
        return np.asarray(np.roll(self.points, -1, axis=0) - self.points, dtype=np.float64)

    @property
    def crosses(self) -> Array:
        after = np.roll(self.points, -1, axis=0)
        return np.asarray(self.points[:, 1] * after[:, 0] - after[:, 1] * self.points[:, 0], dtype=np.float64)

    @property
    def area(self) -> float:
        return abs(float(self.crosses.sum())) / 2

    @property
    def perimeter(self) -> float:
        return float(np.linalg.norm(self.edges, axis=1).sum())

    def moments(self) -> tuple[Array, Array]:
        """Centre (2,) and covariance (2, 2) of the area inside, by Green's theorem."""
        points, after = self.points, np.roll(self.points, -1, axis=0)
        crosses = self.crosses
        total = crosses.sum()
        centre = ((points + after) * crosses[:, None]).sum(axis=0) / (3 * total)
        p, q = points - centre, after - centre
        crosses = p[:, 1] * q[:, 0] - q[:, 1] * p[:, 0]
        products = 2 * (p[:, :, None] * p[:, None] + q[:, :, None] * q[:, None])
        products = products + p[:, :, None] * q[:, None] + q[:, :, None] * p[:, None]
        return centre, (products * crosses[:, None, None]).sum(axis=0) / (12 * crosses.sum())


def _outline(excess: Array, own: NDArray[np.bool_], other: NDArray[np.bool_]) -> _Outline | None:
    """Where the image passes the threshold around a piece, to a fraction of a pixel; None for specks."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import find_contours

    inside = np.where(own, np.maximum(excess, 1e-9), -np.abs(excess) - 1e-9)
    contours = find_contours(np.pad(inside, 1, constant_values=-float(np.abs(excess).max())), 0.0)
    longest = max(contours, key=len, default=None)
    if longest is None or len(longest) < 8:
        return None
    points = longest[:-1] - 1.0
    if not other.any():
        return _Outline(points, np.ones(len(points), dtype=bool))
    away = distance_transform_edt(~other)
    nearest = np.clip(np.rint(points).astype(int), 0, np.array(own.shape) - 1)
    return _Outline(points, away[tuple(nearest.T)] > _CUT_PX)


def _particle(
    number: int, outline: _Outline, region: _Region, binning: int, parameters: ParticleParameters
) -> Particle:
    """The measured particle; an ellipse stands for what others cover, if it fits."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(outline.points)
    centre, covariance = outline.moments()
    spread, axes = np.linalg.eigh(covariance)
    major, minor = 4 * math.sqrt(spread[1]), 4 * math.sqrt(spread[0])
    angle = math.degrees(math.atan2(-axes[0, 1], axes[1, 1])) % 180
    area, perimeter = outline.area, outline.perimeter
    figures = {
        "circularity": min(1.0, 4 * math.pi * area / perimeter**2),
        "solidity": min(1.0, area / float(hull.volume)),
        "extent": min(1.0, area / _smallest_rectangle(outline.points[hull.vertices])),
    }
    touches = bool(region.own[[0, -1]].any() or region.own[:, [0, -1]].any())  # all else has a margin
    is_overlapped = not outline.is_free.all()
    is_part = is_overlapped and not touches and not region.is_whole
    whole = _completed(outline, parameters) if is_part else None
    if whole is not None:
        centre, (major, minor), angle = whole
        area = math.pi / 4 * major * minor
        figures = {"circularity": _ellipse_circularity(major, minor), "solidity": 1.0, "extent": math.pi / 4}
    # Pixel (0, 0) of the binned image has its centre at (binning − 1) / 2.
    y, x = (centre + region.corner) * binning + (binning - 1) / 2
    return Particle(
        number=number,
        centre_px=(float(y), float(x)),
        area_px=area * binning**2,
        major_px=major * binning,
        minor_px=minor * binning,
        orientation_deg=angle,
        touches_border=touches,
        is_overlapped=is_overlapped,
        is_completed=whole is not None,
        **figures,
    )


def _completed(outline: _Outline, parameters: ParticleParameters) -> tuple[Array, tuple[float, float], float] | None:
    """Centre (y, x), major and minor axis and orientation of an ellipse through the free outline; None if none fits."""
    from skimage.measure import EllipseModel

    points = outline.points[outline.is_free]
    if len(points) < 12:
        return None
    fitted = EllipseModel.from_estimate(points[:, ::-1])
    if not fitted:
        return None
    (x, y), (a, b), turn = fitted.center, fitted.axis_lengths, float(fitted.theta)
    centre, diameter = np.array([y, x]), 2 * math.sqrt(a * b)
    misfit = float(np.sqrt(np.mean(fitted.residuals(points[:, ::-1]) ** 2))) / diameter
    turned = np.degrees(np.arctan2(*(points - centre).T))
    spanned = len(np.unique((turned // _SECTOR_DEG).astype(int))) * _SECTOR_DEG / 360
    is_larger = outline.area <= 1.02 * math.pi * a * b < _MOST_COMPLETED * outline.area
    if misfit > parameters.largest_misfit or spanned < parameters.least_arc or not is_larger:
        return None
    if a < b:
        a, b, turn = b, a, turn + math.pi / 2
    return centre, (2 * a, 2 * b), -math.degrees(turn) % 180


def _smallest_rectangle(hull: Array) -> float:
    """Area of the smallest rectangle around a convex polygon (n, 2): one side lies on one of its edges."""
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1)[:, None]
    across = np.column_stack((-along[:, 1], along[:, 0]))
    return float((np.ptp(hull @ along.T, axis=0) * np.ptp(hull @ across.T, axis=0)).min())


def _ellipse_circularity(major: float, minor: float) -> float:
    """4π·area/perimeter² of an ellipse, the perimeter by Ramanujan's second formula."""
    h = ((major - minor) / (major + minor)) ** 2
    perimeter = math.pi * (major + minor) / 2 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    return math.pi**2 * major * minor / perimeter**2
