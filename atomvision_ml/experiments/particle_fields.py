"""Images of nanoparticles whose outlines are known, as bright-field TEM shows them.

Belongs here: drawing. Particles absorb, so where two overlap the image is darker still, unless they hide each other;
support, uneven illumination, blur and counting noise are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.detector import DetectorParameters, detect

Array = NDArray[np.float64]
Shape = Literal["disc", "ellipse", "rod", "square", "triangle"]

_SUPERSAMPLING = 4
_TRIES = 300
_GAP_PX = 3


class ParticleFieldParameters(BaseModel):
    """A field of particles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=512, ge=32, description="Edge of the square image, px.")
    count: int = Field(default=40, ge=0, description="Particles.")
    shapes: tuple[Shape, ...] = Field(default=("disc", "ellipse"), description="Shapes, drawn alike.")
    diameter_px: float = Field(default=44.0, gt=2, description="Mean diameter of a disc of equal area, px.")
    spread: float = Field(default=0.12, ge=0, le=0.5, description="Standard deviation of the diameter over its mean.")
    overlapping_fraction: float = Field(
        default=0.4, ge=0, le=1, description="Share of the particles that are laid upon another one."
    )
    largest_overlap: float = Field(
        default=0.3, ge=0, lt=1, description="Largest share of a particle that others cover."
    )
    is_hiding: bool = Field(
        default=False, description="Whether a particle hides what lies under it, instead of absorbing on top of it."
    )
    absorption: float = Field(default=0.35, gt=0, lt=1, description="Share of the intensity that a particle takes.")
    unevenness: float = Field(default=0.2, ge=0, lt=1, description="Fall of the illumination towards the corners.")
    granularity: float = Field(default=0.05, ge=0, description="Standard deviation of the support's contrast.")
    blur_px: float = Field(default=1.0, ge=0, description="Standard deviation of the blur, px.")
    electrons_per_px: float = Field(default=200.0, gt=0, description="Mean counts in a pixel.")


@dataclass(frozen=True)
class KnownParticle:
    """A particle as drawn: shape, centre (y, x), polygon (n, 2) of (y, x) in px, and its area in px²."""

    shape: Shape
    centre_px: tuple[float, float]
    polygon: Array
    area_px: float


def draw_field(parameters: ParticleFieldParameters, seed: int) -> tuple[Array, list[KnownParticle]]:
    """An image [y, x] of counts, and its particles; none touches the border.

    Particles that overlap cover at most ``largest_overlap`` of each other, and at least a third of that; all others
    stay three pixels apart. Fewer particles than asked for are drawn where there is no more room.
    """
    random = np.random.default_rng(seed)
    placed: list[KnownParticle] = []
    for _ in range(parameters.count):
        is_laid = bool(placed) and random.random() < parameters.overlapping_fraction
        for _ in range(_TRIES):
            near = placed[int(random.integers(len(placed)))] if is_laid else None
            candidate = _draw(parameters, near, random)
            if _fits(candidate, placed, parameters, is_laid=is_laid):
                placed.append(candidate)
                break
    return _image(placed, parameters, random), placed


def _draw(
    parameters: ParticleFieldParameters, near: KnownParticle | None, random: np.random.Generator
) -> KnownParticle:
    shape = parameters.shapes[int(random.integers(len(parameters.shapes)))]
    diameter = parameters.diameter_px * max(0.4, 1 + parameters.spread * random.normal())
    polygon = _polygon(shape, random)
    polygon = polygon * diameter / (2 * math.sqrt(_area(polygon) / math.pi))
    turn = random.uniform(0, 2 * math.pi)
    polygon = polygon @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    reach = float(np.abs(polygon).max()) + 3
    if near is None:
        centre = random.uniform(reach, parameters.size_px - reach, 2)
    else:
        angle = random.uniform(0, 2 * math.pi)
        distance = random.uniform(0.5, 1.3) * diameter
        centre = np.array(near.centre_px) + distance * np.array([math.sin(angle), math.cos(angle)])
    return KnownParticle(shape, (float(centre[0]), float(centre[1])), polygon + centre, _area(polygon))


def _polygon(shape: Shape, random: np.random.Generator) -> Array:
    angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    if shape == "disc":
        return np.column_stack((np.sin(angles), np.cos(angles)))
    if shape == "ellipse":
        return np.column_stack((np.sin(angles), random.uniform(1.3, 1.8) * np.cos(angles)))
    if shape == "rod":
        straight = random.uniform(1.5, 3.0) * np.sign(np.cos(angles))
        return np.column_stack((np.sin(angles), np.cos(angles) + straight))
    corners = 4 if shape == "square" else 3
    around = 2 * math.pi * np.arange(corners) / corners
    return np.column_stack((np.sin(around), np.cos(around)))


def _area(polygon: Array) -> float:
    after = np.roll(polygon, -1, axis=0)
    return abs(float((polygon[:, 0] * after[:, 1] - after[:, 0] * polygon[:, 1]).sum())) / 2


def _covered(polygon: Array, size_px: int) -> NDArray[np.bool_]:
    from skimage.draw import polygon2mask

    return np.asarray(polygon2mask((size_px, size_px), polygon), dtype=bool)


def _fits(
    candidate: KnownParticle, placed: list[KnownParticle], parameters: ParticleFieldParameters, *, is_laid: bool
) -> bool:
    low, high = candidate.polygon.min(), candidate.polygon.max()
    if low < 3 or high > parameters.size_px - 4:
        return False
    shares = [share for other in placed if (share := _overlap(candidate, other)) is not None]
    if not is_laid:
        return not shares
    largest = parameters.largest_overlap
    return len(shares) == 1 and largest / 3 <= shares[0] <= largest


def _overlap(one: KnownParticle, other: KnownParticle) -> float | None:
    """Share of the smaller one that both cover; None if they are at least three pixels apart."""
    from scipy.ndimage import binary_dilation

    reaches = [float(np.linalg.norm(each.polygon - each.centre_px, axis=1).max()) for each in (one, other)]
    if math.dist(one.centre_px, other.centre_px) > sum(reaches) + _GAP_PX:
        return None
    corner = np.minimum(one.polygon.min(axis=0), other.polygon.min(axis=0)) - _GAP_PX - 1
    size = int(np.ceil(max(np.ptp(np.vstack((one.polygon, other.polygon)), axis=0)))) + 2 * _GAP_PX + 3
    first, second = (_covered(each.polygon - corner, size) for each in (one, other))
    if not (binary_dilation(first, iterations=_GAP_PX) & second).any():
        return None
    return float((first & second).sum()) / min(int(first.sum()), int(second.sum()))


def _image(placed: list[KnownParticle], parameters: ParticleFieldParameters, random: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    size = parameters.size_px
    through = np.ones((size, size))
    for particle in placed:
        fine = _covered(particle.polygon * _SUPERSAMPLING + (_SUPERSAMPLING - 1) / 2, size * _SUPERSAMPLING)
        share = fine.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean(axis=(1, 3))
        own = 1 - parameters.absorption * share
        through = np.minimum(through, own) if parameters.is_hiding else through * own
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    light = 1 - parameters.unevenness * (x**2 + y**2) / 2 + 0.3 * parameters.unevenness * x
    grain = gaussian_filter(random.normal(0, 1, (size, size)), 1.5)
    seen = through * light * np.clip(1 + parameters.granularity * grain / grain.std(), 0, None)
    blurred = gaussian_filter(seen, parameters.blur_px) if parameters.blur_px else seen
    detector = DetectorParameters(mean_detected_e_per_a2=parameters.electrons_per_px)
    return detect(blurred, 1.0, detector, seed=int(random.integers(2**31))).astype(np.float64)
