"""From spots of a diffractogram to lattice planes of a known phase, with a probability and an "undecided".

Belongs here: the decision. Spots come from :mod:`atomvision_ml.experiments.diffraction_spots`, what they may be from
:mod:`atomvision_ml.experiments.facet_hypotheses`. A plane's probability is the sum over the hypotheses that agree on
its family {hkl}.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from atomvision_ml.experiments.diffraction_spots import Spots
from atomvision_ml.experiments.facet_hypotheses import (
    UNKNOWN_PIXEL_ANGSTROM,
    FacetParameters,
    Hypothesis,
    MeasuredSpots,
    Plane,
    is_scale_allowed,
    measure,
    scale_of,
    weighed_hypotheses,
)
from atomvision_ml.experiments.reference_phases import ReferencePhase, reflections

State = Literal["decided", "undecided", "unexplained"]


@dataclass(frozen=True)
class SpotPlane:
    """What a spot is.

    Attributes:
        state: decided, undecided, or unexplained: no plane of the phases.
        phase: the most probable phase for it; None if unexplained.
        hkl: its indices, consistent with those of the other spots; None if unexplained.
        family: name of the most probable family {hkl}; None if unexplained.
        probability: of that family (with its phase), or of being none.
        candidates: families by probability, most probable first, as (phase, family, probability); at most five.
        d_angstrom: measured spacing by the image's calibration, Å; in pixels where there is none.
        d_uncertainty: its standard uncertainty from noise alone, in the same unit.
    """

    state: State
    phase: str | None
    hkl: Plane | None
    family: Plane | None
    probability: float
    candidates: tuple[tuple[str, Plane, float], ...]
    d_angstrom: float
    d_uncertainty: float


@dataclass(frozen=True)
class FacetAssignment:
    """Planes of all spots of a region.

    Attributes:
        planes: one for each spot, in their order.
        phase: the phase whose planes explain them best; None if none does.
        phase_probability: of it, or that none does.
        zone_axis: direction [uvw] along which the crystal is seen, consistent with the indices; None without two
            independent spots.
        zone_family: its family's name.
        zone_probability: of that family.
        scale: measured over expected lengths in reciprocal space, so that the true pixel size is the given one times
            the scale; without calibration the pixel size itself, in Å; None if nothing is explained.
    """

    planes: tuple[SpotPlane, ...]
    phase: str | None
    phase_probability: float
    zone_axis: Plane | None
    zone_family: Plane | None
    zone_probability: float
    scale: float | None

    @property
    def is_decided(self) -> bool:
        """Whether any spot's plane is decided."""
        return any(plane.state == "decided" for plane in self.planes)


def assign_facets(
    spots: Spots,
    pixel_size_angstrom: float | None,
    phases: Iterable[ReferencePhase],
    parameters: FacetParameters | None = None,
) -> FacetAssignment:
    """Lattice planes of the spots of one crystal.

    Args:
        spots: n spots, strongest first.
        pixel_size_angstrom: edge of a pixel in Å; None if the image is not calibrated.
        phases: what the crystal may be: one phase if it is declared, else several.
        parameters: beliefs and decision; None for the defaults.

    Returns:
        The assignment; without spots an empty one.

    Raises:
        ValueError: no phase, or a pixel size that is not positive.
    """
    chosen = parameters or FacetParameters()
    crystals = [reflections(phase, chosen.smallest_d_angstrom, chosen.least_intensity) for phase in phases]
    if not crystals:
        raise ValueError("planes need at least one reference phase")
    if pixel_size_angstrom is not None and not (math.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be a positive number or None; got {pixel_size_angstrom}")
    if not len(spots):
        return FacetAssignment((), None, 1.0, None, None, 1.0, None)
    measured = measure(spots, pixel_size_angstrom, chosen)
    hypotheses = weighed_hypotheses(measured, crystals, chosen)
    spacings, uncertainties = spots.d_spacings(pixel_size_angstrom or 1.0)
    best = max(hypotheses, key=lambda each: each.weight)
    # A crystal that fits at a scale which the calibration excludes may be another one of the same shape.
    threshold = chosen.decision_probability if is_scale_allowed(best, measured) else math.inf
    planes = tuple(
        _spot_plane(number, best, hypotheses, threshold, float(d), float(sigma))
        for number, (d, sigma) in enumerate(zip(spacings, uncertainties, strict=True))
    )
    return _assignment(planes, best, hypotheses, measured, pixel_size_angstrom)


def _spot_plane(
    number: int, best: Hypothesis, hypotheses: Sequence[Hypothesis], threshold: float, d: float, sigma: float
) -> SpotPlane:
    shares: dict[tuple[str, Plane] | None, float] = defaultdict(float)
    for each in hypotheses:
        if each.weight > 1e-9:
            shares[each.family(number)] += each.weight
    own = best.family(number)
    probability = min(shares[own], 1.0)
    ranked = sorted(((name, share) for name, share in shares.items() if name), key=lambda item: -item[1])
    candidates = tuple((name[0], name[1], min(share, 1.0)) for name, share in ranked[:5])
    if own is None:
        state: State = "unexplained" if probability >= threshold else "undecided"
        return SpotPlane(state, None, None, None, probability, candidates, d, sigma)
    h, k, l = (int(index) for index in best.hkl[number])  # noqa: E741
    state = "decided" if probability >= threshold else "undecided"
    return SpotPlane(state, own[0], (h, k, l), own[1], probability, candidates, d, sigma)


def _assignment(
    planes: tuple[SpotPlane, ...],
    best: Hypothesis,
    hypotheses: Sequence[Hypothesis],
    measured: MeasuredSpots,
    pixel_size_angstrom: float | None,
) -> FacetAssignment:
    phase_probability = min(1.0, sum(each.weight for each in hypotheses if each.phase == best.phase))
    if best.planes is None:
        return FacetAssignment(planes, None, phase_probability, None, None, phase_probability, None)
    zone = best.zone()
    name = _zone_family(best)
    zone_probability = min(
        1.0, sum(each.weight for each in hypotheses if each.phase == best.phase and _zone_family(each) == name)
    )
    scale = scale_of(best, measured)
    if pixel_size_angstrom is None:
        scale *= UNKNOWN_PIXEL_ANGSTROM
    return FacetAssignment(planes, best.phase, phase_probability, zone, name, zone_probability, scale)


def _zone_family(hypothesis: Hypothesis) -> Plane | None:
    zone = hypothesis.zone()
    return hypothesis.planes.crystal.zone_family(zone) if zone and hypothesis.planes else None
