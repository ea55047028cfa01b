"""Which zone axis of a known crystal shows a measured lattice.

Belongs here: projected lattices of reference phases, and how probable each is. A lattice alone cannot tell a phase:
other crystals may have the same cell; the answer holds given that the crystal is one of the phases asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.distortion import Affine, affine_distortion
from atomvision_ml.experiments.reference_phases import ReferencePhase, crystal_of, reflections
from atomvision_ml.experiments.spot_lattice import SpotLattice
from atomvision_ml.images.stem import Projection
from atomvision_ml.structures.lattice import reduce_cell

Array = NDArray[np.float64]
Axis = tuple[int, int, int]

_UPRIGHT = (0, 0, 1)
_SHORTEST = 1e-6
_Z_EXPONENT = 1.7


class ZoneAxisParameters(BaseModel):
    """What is expected of a microscope, and which axes are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale_sigma: float = Field(default=0.03, gt=0, description="Standard deviation of a stated pixel size (fraction).")
    anisotropy_sigma: float = Field(default=0.015, gt=0, description="Distortion of a scan: stretch along one axis.")
    largest_index: int = Field(default=3, ge=1, le=6, description="Largest index of a zone axis.")
    least_intensity: float = Field(default=1e-3, ge=0, lt=1, description="|F|² over the strongest of a seen plane.")
    smallest_d_angstrom: float = Field(default=0.9, gt=0, description="Narrowest planes that are asked, Å.")
    largest_deviation: float = Field(default=4.0, gt=0, description="Standard deviations beyond which an axis is out.")
    least_probability: float = Field(default=0.9, gt=0.5, lt=1, description="Probability that decides.")


@dataclass(frozen=True)
class ZoneAxis:
    """A zone axis that may be seen.

    Attributes:
        phase: name of the reference phase.
        uvw: one axis of its family; [001] where the family has it.
        reference: (2, 2) rows, reduced projected cell in Å.
        distortion: what takes it to the measured lattice.
        deviation: distance from what is expected of a microscope, in standard deviations.
        probability: among all axes of all phases asked for.
    """

    phase: str
    uvw: Axis
    reference: Array
    distortion: Affine
    deviation: float
    probability: float

    @property
    def name(self) -> str:
        """As in `SrTiO3 [001]`."""
        return f"{self.phase} [{_joined(self.uvw)}]"


def name_zone_axis(
    lattice: SpotLattice,
    phases: Iterable[ReferencePhase],
    parameters: ZoneAxisParameters | None = None,
    *,
    is_calibrated: bool = True,
) -> tuple[ZoneAxis, ...]:
    """Zone axes whose projected lattice is the measured one, most probable first.

    Scale and anisotropy of the map are compared with what is expected of scans; axes of low index are more probable
    beforehand, as 1/(u² + v² + w²), because people tilt to them and because others show little.

    Args:
        lattice: measured, in Å; in pixels where it is not calibrated.
        phases: reference phases asked for.
        parameters: what is expected.
        is_calibrated: whether the lengths are Å; else only shape counts.

    Returns:
        Axes within the largest deviation; none if the lattice belongs to none of the phases.
    """
    chosen = parameters or ZoneAxisParameters()
    found: list[tuple[float, ZoneAxis]] = []
    for phase in phases:
        for uvw, reference in projected_lattices(phase, chosen):
            distortion = affine_distortion(lattice.cell, reference, lattice.covariance)
            if not is_calibrated:
                distortion = affine_distortion(lattice.cell / distortion.scale, reference)
            scale = math.log(distortion.scale) / chosen.scale_sigma if is_calibrated else 0.0
            deviation = math.hypot(scale, math.log1p(distortion.anisotropy) / chosen.anisotropy_sigma)
            if deviation <= chosen.largest_deviation:
                weight = -0.5 * deviation**2 - math.log(sum(index**2 for index in uvw))
                found.append((weight, ZoneAxis(phase.name, uvw, reference, distortion, deviation, 0.0)))
    if not found:
        return ()
    found.sort(key=lambda each: -each[0])
    shares = [math.exp(weight - found[0][0]) for weight, _ in found]
    return tuple(replace(axis, probability=share / sum(shares)) for share, (_, axis) in zip(shares, found, strict=True))


def is_decided(axes: tuple[ZoneAxis, ...], parameters: ZoneAxisParameters | None = None) -> bool:
    """Whether the first axis is probable enough to be named."""
    return bool(axes) and axes[0].probability >= (parameters or ZoneAxisParameters()).least_probability


@lru_cache(maxsize=64)
def projected_lattices(phase: ReferencePhase, parameters: ZoneAxisParameters) -> tuple[tuple[Axis, Array], ...]:
    """Zone axes of a phase, one of each family, with the reduced cell (2, 2) in Å of what is seen along it.

    The cell is the dual of the lattice that the zone's reflections generate, extinctions of the space group left out.
    """
    crystal = crystal_of(phase)
    planes = reflections(phase, parameters.smallest_d_angstrom, parameters.least_intensity)
    reach = range(-parameters.largest_index, parameters.largest_index + 1)
    axes = {crystal.zone_family(uvw) for uvw in itertools.product(reach, repeat=3) if math.gcd(*uvw) == 1}
    found = []
    for uvw in sorted(axes, key=lambda axis: (sum(index**2 for index in axis), axis)):
        in_zone = planes.hkl @ np.array(uvw) == 0
        basis = _generated(planes.hkl[in_zone], crystal.reciprocal)
        if basis is not None:
            name = _UPRIGHT if crystal.zone_family(_UPRIGHT) == uvw else uvw
            found.append((name, reduce_cell(np.linalg.inv(basis).T)))
    return tuple(found)


def projected_phase(phase: ReferencePhase, uvw: Axis, parameters: ZoneAxisParameters | None = None) -> Projection:
    """A phase seen along an axis: its atoms in the projected cell, with weights Z^1.7, and that reduced cell.

    Raises:
        ValueError: the zone shows fewer than two rows of planes.
    """
    chosen = parameters or ZoneAxisParameters()
    crystal = crystal_of(phase)
    planes = reflections(phase, chosen.smallest_d_angstrom, chosen.least_intensity)
    in_zone = planes.hkl[planes.hkl @ np.array(uvw) == 0]
    plane, basis = _plane(in_zone, crystal.reciprocal), _generated(in_zone, crystal.reciprocal)
    if plane is None or basis is None:
        raise ValueError(
            f"{phase.name} shows no lattice along {uvw} in planes of {chosen.smallest_d_angstrom} Å or more"
        )
    cell = reduce_cell(np.linalg.inv(basis).T)
    flat = crystal.positions @ np.linalg.inv(crystal.reciprocal).T @ plane
    inside = (flat @ np.linalg.inv(cell)) % 1.0 @ cell
    return Projection(inside, crystal.numbers.astype(float) ** _Z_EXPONENT, cell)


def _plane(hkl: NDArray[np.int64], reciprocal: Array) -> Array | None:
    """(3, 2) two orthonormal directions in the plane of a zone's reflections (n, 3); None for fewer than two rows."""
    if not len(hkl) or np.linalg.matrix_rank(hkl) < 2:
        return None
    vectors = hkl @ reciprocal
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")]
    first = vectors[0] / np.linalg.norm(vectors[0])
    normal = next(n for each in vectors if np.linalg.norm(n := np.cross(first, each)) > _SHORTEST)
    return np.stack([first, np.cross(normal / np.linalg.norm(normal), first)], axis=1)


def _generated(hkl: NDArray[np.int64], reciprocal: Array) -> Array | None:
    """Basis (2, 2), in the directions of :func:`_plane`, of the lattice that a zone's planes (n, 3) generate."""
    plane = _plane(hkl, reciprocal)
    if plane is None:
        return None
    basis, flat = np.zeros((0, 2)), hkl @ reciprocal @ plane
    for each in flat[np.argsort(np.linalg.norm(flat, axis=1), kind="stable")]:
        basis = _with(basis, each)
    return basis


def _with(basis: Array, vector: Array) -> Array:
    """Basis of the lattice generated by a basis of rank 0, 1 or 2 and a vector, by Euclid's algorithm."""
    rows = [*basis, vector]
    while True:
        rows = sorted((row for row in rows if np.linalg.norm(row) > _SHORTEST), key=np.linalg.norm)
        for number in range(len(rows) - 1, 0, -1):
            steps = _steps(rows[number], rows[:number])
            if np.linalg.norm(rows[number] - steps) < np.linalg.norm(rows[number]) - 1e-9:
                rows[number] = rows[number] - steps
                break
        else:
            return np.array(rows)


def _steps(vector: Array, shorter: list[Array]) -> Array:
    """The lattice vector of the shorter ones that is nearest to a vector."""
    generators = np.array(shorter)
    if len(generators) > 1 and abs(np.linalg.det(generators[:2])) > 1e-9:
        parts = vector @ np.linalg.inv(generators[:2])
        return np.asarray(np.rint(parts) @ generators[:2])
    return np.asarray(np.rint(vector @ generators[0] / (generators[0] @ generators[0])) * generators[0])


def _joined(uvw: Axis) -> str:
    return "".join(str(index) if index >= 0 else f"{-index}\u0304" for index in uvw)
