"""Reference crystals and their reflections: what lattice planes of a known phase can be seen, and how strongly.

Belongs here: everything about a phase that does not depend on an image. Directions in reciprocal space are rows
(h, k, l); Cartesian vectors are in 1/Å without 2π, so that a plane's spacing is the inverse of its vector's length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_BOHR_ANGSTROM = 0.529177
_WHOLE = 1e-6
"""Distance from a whole number within which a phase (in turns) counts as whole."""


class Site(BaseModel):
    """One atom of an orbit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    element: str = Field(description="Chemical symbol.")
    position: tuple[float, float, float] = Field(description="Position in fractions of the cell.")


class ReferencePhase(BaseModel):
    """A crystal by space group, cell and one atom of each orbit; the conventional cell and its Miller indices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Formula by which records declare it, e.g. `Fe3O4`.")
    mineral: str | None = Field(default=None, description="Mineral name.")
    space_group: int = Field(ge=1, le=230, description="Number of the space group.")
    setting: int = Field(default=1, ge=1, le=2, description="Setting as ASE counts it.")
    cell: tuple[float, float, float, float, float, float] = Field(description="a, b, c in Å and α, β, γ in °.")
    sites: tuple[Site, ...] = Field(min_length=1, description="One atom of each orbit.")
    source: str = Field(min_length=1, description="Where cell and positions are published.")

    @model_validator(mode="after")
    def _cell_is_a_cell(self) -> ReferencePhase:
        from ase.data import atomic_numbers

        if min(self.cell) <= 0 or max(self.cell[3:]) >= 180:
            raise ValueError(f"the cell {self.cell} of {self.name} is none: lengths and angles must be positive")
        unknown = [site.element for site in self.sites if site.element not in atomic_numbers]
        if unknown:
            raise ValueError(f"{unknown[0]} in {self.name} is no element")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


@dataclass(frozen=True)
class Crystal:
    """A phase with its symmetry and its atoms.

    Attributes:
        phase: what it was made of.
        reciprocal: (3, 3) reciprocal vectors as rows, 1/Å; ``hkl @ reciprocal`` is a plane's vector.
        rotations: (m, 3, 3) rotations of the space group, on column vectors of fractions; centrings repeat them.
        translations: (m, 3) their translations in fractions.
        numbers: (n,) atomic numbers in the conventional cell.
        positions: (n, 3) their positions in fractions.
    """

    phase: ReferencePhase
    reciprocal: Array
    rotations: Integers
    translations: Array
    numbers: Integers
    positions: Array

    @cached_property
    def laue_operations(self) -> Integers:
        """(p, 3, 3) operations that act on rows (h, k, l) from the right and leave intensities as they are."""
        rotations = np.unique(self.rotations, axis=0)
        return np.asarray(np.unique(np.concatenate((rotations, -rotations)), axis=0), dtype=np.int64)

    def family(self, hkl: Sequence[int] | Integers) -> tuple[int, int, int]:
        """The member of a plane's family {hkl} that names it: most indices not negative, then the largest."""
        members = np.asarray(hkl, dtype=np.int64) @ self.laue_operations
        return _named(members)

    def zone_family(self, uvw: Sequence[int] | Integers) -> tuple[int, int, int]:
        """The member of a direction's family <uvw> that names it."""
        return _named(self.laue_operations @ np.asarray(uvw, dtype=np.int64))

    def is_extinct(self, hkl: Integers) -> NDArray[np.bool_]:
        """Which planes (n, 3) the space group forbids: an operation maps the plane on itself with another phase.

        An operation (R, t) multiplies the structure factor of hR by exp(−2πi h·t); where hR = h and h·t is not whole,
        the factor must be zero, whatever the atoms (International Tables, vol. A, section 1.6.3).
        """
        planes = np.asarray(hkl, dtype=np.int64)
        extinct = np.zeros(len(planes), dtype=bool)
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            turns = planes @ translation
            is_self = np.all(planes @ rotation == planes, axis=1)
            extinct |= is_self & (np.abs(turns - np.rint(turns)) > _WHOLE)
        return extinct

    def intensities(self, hkl: Integers) -> Array:
        """|F|² (n,) of planes (n, 3) by the kinematic sum over the cell, in Å².

        Scattering factors of electrons are those of Wentzel's atom, f ∝ Z / (q² + 1/R²) with q = 2π/d and
        R = a_H Z^(−1/3) (Reimer and Kohl, Transmission Electron Microscopy, 5th ed., section 5.1.3); the relativistic
        factor, which is common, is left out.
        """
        planes = np.asarray(hkl, dtype=np.int64)
        wave = 2 * np.pi * np.linalg.norm(planes @ self.reciprocal, axis=1)
        factors = (
            2 * self.numbers / _BOHR_ANGSTROM / (wave[:, None] ** 2 + (self.numbers ** (1 / 3) / _BOHR_ANGSTROM) ** 2)
        )
        turns = planes @ self.positions.T
        return np.asarray(np.abs((factors * np.exp(-2j * np.pi * turns)).sum(axis=1)) ** 2, dtype=np.float64)


@dataclass(frozen=True)
class Reflections:
    """The planes of a crystal that can be seen, widest spacing first.

    Attributes:
        crystal: whose they are.
        hkl: (n, 3), both signs of each.
        vectors: (n, 3) in 1/Å.
        relative_intensities: (n,) |F|² over that of the strongest.
        family_of: (n,) row of ``families``.
        families: names of the families.
    """

    crystal: Crystal
    hkl: Integers
    vectors: Array
    relative_intensities: Array
    family_of: Integers
    families: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.hkl)

    @property
    def lengths(self) -> Array:
        """(n,) 1/d in 1/Å."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1), dtype=np.float64)


def reference_phases(path: Path | None = None) -> dict[str, ReferencePhase]:
    """Phases of a YAML file by name; None for those that come with the package.

    Raises:
        ValueError: the file is not a list of phases, or two have one name.
    """
    import yaml

    name = str(path) if path else "reference_phases.yaml"
    text = path.read_text() if path else (resources.files(__package__) / "reference_phases.yaml").read_text()
    try:
        phases = TypeAdapter(list[ReferencePhase]).validate_python(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{name} is no list of reference phases: {error}") from error
    named = {phase.name: phase for phase in phases}
    if len(named) < len(phases):
        raise ValueError(f"{name} names a phase twice")
    return named


def named_phases(record: Mapping[str, Any], phases: Mapping[str, ReferencePhase]) -> tuple[ReferencePhase, ...]:
    """The phases that a record's ``phase`` or ``material_formula`` names by formula or mineral; none if it names none.

    ``phase`` may hold more than the name, such as the space group.
    """
    told = (str(record[field]) for field in ("phase", "material_formula") if record.get(field))
    words = {word for text in told for word in re.split(r"[\s,;()]+", text)}
    return tuple(phase for phase in phases.values() if {phase.name, phase.mineral} & words)


@lru_cache(maxsize=64)
def crystal_of(phase: ReferencePhase) -> Crystal:
    """The crystal of a phase, by ASE's space groups."""
    from ase.spacegroup import Spacegroup, crystal

    group = Spacegroup(phase.space_group, setting=phase.setting)
    operations = group.get_op()
    atoms = crystal(
        [site.element for site in phase.sites],
        [site.position for site in phase.sites],
        spacegroup=group,
        cellpar=phase.cell,
    )
    return Crystal(
        phase,
        np.asarray(atoms.cell.reciprocal(), dtype=np.float64),
        np.asarray(operations[0], dtype=np.int64),
        np.asarray(operations[1], dtype=np.float64),
        np.asarray(atoms.numbers, dtype=np.int64),
        np.asarray(atoms.get_scaled_positions(), dtype=np.float64),
    )


@lru_cache(maxsize=256)
def reflections(phase: ReferencePhase, smallest_d_angstrom: float, least_intensity: float) -> Reflections:
    """Planes with at least this spacing and this |F|² relative to the strongest of them.

    Raises:
        ValueError: no plane is as wide.
    """
    crystal = crystal_of(phase)
    hkl = _planes(crystal, smallest_d_angstrom)
    hkl = hkl[~crystal.is_extinct(hkl)]
    intensities = crystal.intensities(hkl)
    hkl = hkl[intensities >= least_intensity * intensities.max(initial=0.0)]
    if not len(hkl):
        raise ValueError(f"{phase.name} has no plane with a spacing of {smallest_d_angstrom} Å or more")
    vectors = hkl @ crystal.reciprocal
    order = np.lexsort((*-hkl.T, np.round(np.linalg.norm(vectors, axis=1), 9)))
    hkl, vectors = hkl[order], vectors[order]
    relative = crystal.intensities(hkl)
    names = [crystal.family(plane) for plane in hkl]
    families = tuple(dict.fromkeys(names))
    number = {name: index for index, name in enumerate(families)}
    family_of = np.array([number[name] for name in names], dtype=np.int64)
    return Reflections(crystal, hkl, vectors, relative / relative.max(), family_of, families)


def _planes(crystal: Crystal, smallest_d_angstrom: float) -> Integers:
    """Every (h, k, l) but zero whose spacing is no smaller."""
    # |h| = |g · a| ≤ |g| |a|
    edges = np.linalg.norm(np.linalg.inv(crystal.reciprocal), axis=0)
    most = np.floor(edges / smallest_d_angstrom + _WHOLE).astype(int)
    axes = [np.arange(-n, n + 1) for n in most]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(hkl @ crystal.reciprocal, axis=1)
    return np.asarray(hkl[(lengths > 0) & (lengths <= (1 + _WHOLE) / smallest_d_angstrom)], dtype=np.int64)


def _named(members: Integers) -> tuple[int, int, int]:
    rows = [tuple(int(index) for index in member) for member in members]
    h, k, l = max(rows, key=lambda row: (sum(index >= 0 for index in row), row))  # noqa: E741
    return h, k, l
