"""What spots of a diffractogram may be: hypotheses of lattice planes, each with its evidence.

A hypothesis says which planes two of the spots are; the scale of the image is common to both and known within limits
only, so it is integrated over. With xᵢ = ln(measured/expected length) and θ the angle between the spots,

    p(spots | planes) = N(x₁ − x₂; σ_ratio) · N(θ − θ_planes; σ_angle) · ∫ N(x̄ − s; σ) dU(s),

U being uniform within the calibration's limits. Before anything is measured a plane counts in proportion to a power of
its |F|², equivalent planes each for themselves. Against all of them stands the hypothesis that the spots are no planes
of the phases at all. Further spots count by how near they lie to a plane of the zone that the two span, or as
strangers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.diffraction_spots import Spots
from atomvision_ml.experiments.reference_phases import Crystal, Reflections, reflections

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Plane = tuple[int, int, int]

UNKNOWN_PIXEL_ANGSTROM, _UNKNOWN_HALF_WIDTH = 0.3, 2.0
"""Middle (Å) and half width (in ln) of the range of pixel sizes where there is no calibration."""

_PARALLEL_DEG = 3.0
"""Spots (half a plane) whose directions differ by less lie on one row."""

_SMALLEST_ODDS = 1e-4
"""Hypotheses this much less probable than the best one are dropped before further spots are asked."""

_MOST_HYPOTHESES = 200

_FINEST_ANGSTROM = 0.6
"""Smallest spacing of a plane that is looked for at all."""

_STRONGEST = 8
"""Spots from which pairs are taken."""

_FIELD = 1.2
"""Radius of the part of the diffractogram in which spots could lie, over the distance of the farthest one."""


class FacetParameters(BaseModel):
    """What is believed of spots before they are measured, and when a plane is decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration_limit_percent: float = Field(
        default=4.0, gt=0, le=50, description="The pixel size is true within these limits, ±, each value alike."
    )
    ratio_uncertainty_percent: float = Field(
        default=0.4, gt=0, description="Standard uncertainty of the ratio of two spacings that scan and lens leave."
    )
    angle_uncertainty_deg: float = Field(
        default=0.4, gt=0, description="Standard uncertainty of the angle of two spots that scan and lens leave, °."
    )
    smallest_d_angstrom: float = Field(default=1.1, gt=0.3, description="Smallest spacing of a plane, Å.")
    least_intensity: float = Field(
        default=0.001, gt=0, lt=1, description="Least |F|² of a plane over that of the strongest."
    )
    intensity_exponent: float = Field(
        default=0.5, ge=0, le=1, description="A plane counts beforehand as its |F|² to this power; 0: all alike."
    )
    stranger_probability: float = Field(
        default=0.02, gt=0, lt=1, description="Probability beforehand that a spot is none of the phases' planes."
    )
    decision_probability: float = Field(
        default=0.88, gt=0.5, lt=1, description="Least probability at which a plane is decided."
    )
    most_bases: int = Field(default=4, ge=1, description="Pairs of spots that are tried as the two of a hypothesis.")


@dataclass(frozen=True)
class Hypothesis:
    """Planes (n, 3) of all spots, zero where a spot is a stranger, the log of the evidence, and the weight."""

    planes: Reflections | None
    hkl: Integers
    log_evidence: float
    weight: float = 0.0

    @property
    def phase(self) -> str | None:
        """Name of the phase; None if the spots are no planes."""
        return self.planes.crystal.phase.name if self.planes else None

    def family(self, spot: int) -> tuple[str, Plane] | None:
        """Phase and family {hkl} of a spot; None for a stranger."""
        if self.planes is None or not self.hkl[spot].any():
            return None
        return self.planes.crystal.phase.name, self.planes.crystal.family(self.hkl[spot])

    def zone(self) -> Plane | None:
        """[uvw] that all planes contain; None for fewer than two independent planes."""
        known = self.hkl[np.any(self.hkl != 0, axis=1)]
        if not len(known):
            return None
        h, k, l = known[0]  # noqa: E741
        crosses = known[1:] @ np.array([[0, l, -k], [-l, 0, h], [k, -h, 0]])
        crosses = crosses[np.any(crosses != 0, axis=1)]
        if not len(crosses):
            return None
        u, v, w = (int(index) for index in crosses[0] // np.gcd.reduce(crosses[0]))
        return (u, v, w) if (u, v, w) > (0, 0, 0) else (-u, -v, -w)


@dataclass(frozen=True)
class MeasuredSpots:
    """Spots (n, 2) in 1/Å, or per pixel of 0.3 Å, and what is believed of their errors.

    Attributes:
        vectors: (n, 2).
        relative: (n,) relative standard uncertainty along either axis, of noise.
        half_width: half the width of the scale's range, in ln.
        ratio_sigma: of the ratio of two lengths, relative, besides noise.
        angle_sigma: of the angle of two spots, in radians, besides noise.
        stranger: probability beforehand of a spot that is no plane.
        smallest_d_angstrom: of planes that are expected; a finer spot can only be found as a further one.
    """

    vectors: Array
    relative: Array
    half_width: float
    ratio_sigma: float
    angle_sigma: float
    stranger: float
    smallest_d_angstrom: float

    def further(self, planes: Reflections) -> Reflections:
        """All planes that the crystal allows, however weak, as far out as there are spots."""
        finest = min(self.smallest_d_angstrom, math.exp(-self.half_width) / (_FIELD * float(self.lengths.max())))
        return reflections(planes.crystal.phase, max(_FINEST_ANGSTROM, math.floor(finest / 0.05) * 0.05), 0.0)

    @property
    def is_coarse(self) -> NDArray[np.bool_]:
        """(n,) which spots can be planes that are expected."""
        return self.lengths < math.exp(self.half_width) / self.smallest_d_angstrom

    @property
    def lengths(self) -> Array:
        """(n,) distances from the origin."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1), dtype=np.float64)

    @property
    def sigmas(self) -> Array:
        """(n,) standard uncertainty of a spot along either axis, noise and distortion together."""
        distortion = (self.ratio_sigma**2 + self.angle_sigma**2) / 4
        return np.asarray(self.lengths * np.sqrt(distortion + self.relative**2), dtype=np.float64)

    @property
    def log_stranger(self) -> float:
        """Log density of a stranger, which lies anywhere in half a plane."""
        area = 0.5 * math.pi * (_FIELD * float(self.lengths.max())) ** 2
        return math.log(self.stranger / area)


def measure(spots: Spots, pixel_size_angstrom: float | None, parameters: FacetParameters) -> MeasuredSpots:
    """Spots in 1/Å; without calibration as if pixels had a size in the middle of all that is thought possible."""
    lengths = np.linalg.norm(spots.frequencies, axis=1)
    known = pixel_size_angstrom is not None
    limit = parameters.calibration_limit_percent / 100
    return MeasuredSpots(
        vectors=spots.frequencies / (pixel_size_angstrom or UNKNOWN_PIXEL_ANGSTROM),
        relative=np.sqrt(np.trace(spots.covariances, axis1=1, axis2=2) / 2) / lengths,
        half_width=-math.log1p(-limit) if known else _UNKNOWN_HALF_WIDTH,
        ratio_sigma=parameters.ratio_uncertainty_percent / 100,
        angle_sigma=math.radians(parameters.angle_uncertainty_deg),
        stranger=parameters.stranger_probability,
        smallest_d_angstrom=parameters.smallest_d_angstrom,
    )


def weighed_hypotheses(
    measured: MeasuredSpots, crystals: Sequence[Reflections], parameters: FacetParameters
) -> list[Hypothesis]:
    """Hypotheses with their probabilities: no planes at all, planes of one row, and planes of one zone.

    Of the pairs of spots that may span the zone the one that explains most is taken.
    """
    count = len(measured.vectors)
    nothing = Hypothesis(None, np.zeros((count, 3), dtype=np.int64), count * measured.log_stranger)
    zones = [
        [each for planes in crystals for each in _of_zone(measured, planes, pair, len(crystals), parameters)]
        for pair in _pairs(measured, parameters.most_bases)
    ]
    rows = [each for planes in crystals for each in _of_row(measured, planes, len(crystals), parameters)]
    spanned = max(zones, key=lambda found: _log_sum([each.log_evidence for each in found]), default=[])
    hypotheses = [nothing, *rows, *spanned]
    total = _log_sum([each.log_evidence for each in hypotheses])
    return [replace(each, weight=math.exp(each.log_evidence - total)) for each in hypotheses]


def _log_sum(values: Sequence[float]) -> float:
    finite = [value for value in values if value > -math.inf]
    return float(np.logaddexp.reduce(finite)) if finite else -math.inf


def _pairs(measured: MeasuredSpots, most: int) -> list[tuple[int, int]]:
    """Pairs of strong spots on different rows, the most nearly square ones first: these tell zones apart best."""
    strong = np.flatnonzero(measured.is_coarse)[:_STRONGEST]
    first, second = (strong[index] for index in np.triu_indices(len(strong), 1))
    a, b = measured.vectors[first], measured.vectors[second]
    lengths = measured.lengths
    sines = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / (lengths[first] * lengths[second])
    shortest = np.minimum(lengths[first], lengths[second]) / np.maximum(lengths[first], lengths[second])
    order = np.argsort(-sines * shortest, kind="stable")
    order = order[sines[order] > math.sin(math.radians(_PARALLEL_DEG))][:most]
    return [(int(first[index]), int(second[index])) for index in order]


def _plane_weights(planes: Reflections, parameters: FacetParameters) -> Array:
    """(n,) probability beforehand of each plane."""
    weights = planes.relative_intensities**parameters.intensity_exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _of_zone(
    measured: MeasuredSpots, planes: Reflections, pair: tuple[int, int], n_phases: int, parameters: FacetParameters
) -> Iterator[Hypothesis]:
    """Hypotheses of two spots on different rows, and of all others given the two."""
    weights = _plane_weights(planes, parameters)
    representatives = np.unique(planes.family_of, return_index=True)[1]
    share = np.bincount(planes.family_of, weights)[planes.family_of[representatives]]
    logs = np.log(share)[:, None] + np.log(weights)[None, :] + _log_pair(measured, planes, pair, representatives)
    logs += 2 * math.log1p(-measured.stranger) - math.log(n_phases)
    for row, second in _likeliest(logs):
        first = representatives[row]
        yield _with_others(measured, planes, pair, (int(first), second), float(logs[row, second]))


def _likeliest(logs: Array) -> Iterator[tuple[int, int]]:
    flat = logs.ravel()
    probable = np.flatnonzero(flat > flat.max() + math.log(_SMALLEST_ODDS))
    for index in probable[np.argsort(-flat[probable], kind="stable")][:_MOST_HYPOTHESES]:
        yield int(index // logs.shape[1]), int(index % logs.shape[1])


def _log_pair(measured: MeasuredSpots, planes: Reflections, pair: tuple[int, int], representatives: Integers) -> Array:
    """(families, planes) log density of the two spots in the plane of the diffractogram."""
    one, two = (measured.vectors[index] for index in pair)
    (length_1, length_2), (noise_1, noise_2) = measured.lengths[list(pair)], measured.relative[list(pair)]
    expected = np.log(planes.lengths)
    excess_1 = (math.log(length_1) - expected[representatives])[:, None]
    excess_2 = (math.log(length_2) - expected)[None, :]
    units = planes.vectors / planes.lengths[:, None]
    angles = np.arccos(np.clip(units[representatives] @ units.T, -1, 1))
    angle = math.acos(float(np.clip(one @ two / (length_1 * length_2), -1, 1)))
    noise = noise_1**2 + noise_2**2
    ratio_sigma, angle_sigma = math.sqrt(measured.ratio_sigma**2 + noise), math.sqrt(measured.angle_sigma**2 + noise)
    logs = _log_normal(excess_1 - excess_2, ratio_sigma) + _log_normal(angles - angle, angle_sigma)
    logs = logs + _log_scale((excess_1 + excess_2) / 2, ratio_sigma / 2, measured.half_width)
    is_row = np.sin(angles) < math.sin(math.radians(_PARALLEL_DEG))
    return np.asarray(np.where(is_row, -np.inf, logs - math.log(math.pi * length_1**2 * length_2**2)))


def _log_normal(deviation: Array, sigma: float) -> Array:
    return -0.5 * (deviation / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def _log_scale(excess: Array, sigma: float, half_width: float) -> Array:
    """Log of the density of a log length whose scale is uniform within ± half a width."""
    from scipy.special import log_ndtr, ndtr

    beyond = (np.abs(excess) - half_width) / sigma
    inside = np.maximum(ndtr(-beyond) - ndtr(-beyond - 2 * half_width / sigma), 1e-300)
    # Far outside the difference of two tails is that of the nearer one.
    return np.asarray(np.where(beyond > 5, log_ndtr(-beyond), np.log(inside)) - math.log(2 * half_width))


def _with_others(
    measured: MeasuredSpots,
    planes: Reflections,
    pair: tuple[int, int],
    members: tuple[int, int],
    log_evidence: float,
) -> Hypothesis:
    """The hypothesis with the planes of the other spots: combinations of the two that are planes of the zone."""
    hkl = np.zeros((len(measured.vectors), 3), dtype=np.int64)
    hkl[list(pair)] = planes.hkl[list(members)]
    others = np.setdiff1d(np.arange(len(hkl)), pair)
    if not len(others):
        return Hypothesis(planes, hkl, log_evidence)
    shares = measured.vectors[others] @ np.linalg.inv(measured.vectors[list(pair)])
    zone = np.cross(*planes.hkl[list(members)])
    further = measured.further(planes)
    in_zone = further.hkl[further.hkl @ zone == 0]
    found, logs = _explained(measured, planes.crystal, in_zone, (pair, hkl[list(pair)]), (others, shares))
    hkl[others] = found
    return Hypothesis(planes, hkl, log_evidence + float(logs.sum()))


def _explained(
    measured: MeasuredSpots,
    crystal: Crystal,
    possible: Integers,
    base: tuple[Sequence[int], Integers],
    others: tuple[Integers, Array],
) -> tuple[Integers, Array]:
    """Planes (m, 3) of further spots, zero for strangers, and the log density (m,) of each spot.

    Planes within the field count alike: how strong a spot is says less, of many beams, than where it lies.

    Args:
        measured: all spots.
        crystal: whose planes they are.
        possible: planes (n, 3) that zone or row holds.
        base: the spots that span zone or row, and their planes.
        others: the further spots, and their coordinates in terms of the base.
    """
    spots, members = base
    numbers, shares = others
    vectors = possible @ crystal.reciprocal
    lengths = np.linalg.norm(members @ crystal.reciprocal, axis=1)
    scale = float(np.mean(measured.lengths[list(spots)] / lengths))
    is_seen = scale * np.linalg.norm(vectors, axis=1) < _FIELD * measured.lengths.max()
    possible, vectors = possible[is_seen], vectors[is_seen]
    distance = np.linalg.norm(vectors[None] - (shares @ members @ crystal.reciprocal)[:, None], axis=2)
    nearest = distance.argmin(axis=1)
    sigmas = measured.sigmas
    variance = sigmas[numbers] ** 2 + shares**2 @ sigmas[list(spots)] ** 2
    miss = (scale * distance[np.arange(len(numbers)), nearest]) ** 2
    # −g is the same spot as g, so half of the planes are spots.
    log_each = math.log1p(-measured.stranger) - math.log(len(possible) / 2)
    log_plane = log_each - miss / (2 * variance) - np.log(2 * np.pi * variance)
    is_plane = log_plane > measured.log_stranger
    return np.where(is_plane[:, None], possible[nearest], 0), np.logaddexp(log_plane, measured.log_stranger)


def _of_row(
    measured: MeasuredSpots, planes: Reflections, n_phases: int, parameters: FacetParameters
) -> Iterator[Hypothesis]:
    """Hypotheses of the strongest spot alone: spots on its row are its orders or strangers, all others strangers."""
    weights = _plane_weights(planes, parameters)
    length, noise = float(measured.lengths[0]), float(measured.relative[0])
    excess = math.log(length) - np.log(planes.lengths)
    sigma = math.sqrt(measured.ratio_sigma**2 / 2 + noise**2)
    logs = _log_scale(excess, sigma, measured.half_width) - math.log(math.pi * length**2)
    representatives = np.unique(planes.family_of, return_index=True)[1]
    share = np.bincount(planes.family_of, weights)
    unit = measured.vectors[0] / length
    along, across = measured.vectors[1:] @ unit, measured.vectors[1:] @ np.array([-unit[1], unit[0]])
    is_on_row = np.abs(across) < math.sin(math.radians(_PARALLEL_DEG)) * np.abs(along)
    numbers = 1 + np.flatnonzero(is_on_row)
    further = measured.further(planes)
    common = math.log1p(-measured.stranger) - math.log(n_phases) + (~is_on_row).sum() * measured.log_stranger
    for first in representatives:
        hkl = np.zeros((len(measured.vectors), 3), dtype=np.int64)
        hkl[0] = planes.hkl[first]
        log_evidence = common + math.log(share[planes.family_of[first]]) + float(logs[first])
        if len(numbers):
            orders = further.hkl[~np.any(np.cross(further.hkl, hkl[0]), axis=1)]
            others = (numbers, along[is_on_row][:, None] / length)
            hkl[numbers], logs_of_orders = _explained(measured, planes.crystal, orders, ([0], hkl[:1]), others)
            log_evidence += float(logs_of_orders.sum())
        yield Hypothesis(planes, hkl, log_evidence)


def scale_of(hypothesis: Hypothesis, measured: MeasuredSpots) -> float:
    """Measured over expected lengths, on average; 1 where nothing is explained."""
    known = np.any(hypothesis.hkl != 0, axis=1)
    if hypothesis.planes is None or not known.any():
        return 1.0
    expected = np.linalg.norm(hypothesis.hkl[known] @ hypothesis.planes.crystal.reciprocal, axis=1)
    return float(np.mean(measured.lengths[known] / expected))


def is_scale_allowed(hypothesis: Hypothesis, measured: MeasuredSpots) -> bool:
    """Whether the scale is within the limits, or beyond them by no more than three times what distortion allows."""
    return abs(math.log(scale_of(hypothesis, measured))) < measured.half_width + 3 * measured.ratio_sigma
