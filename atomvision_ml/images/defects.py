"""Defective sheets with their truth: missing and foreign atoms, strained regions.

Belongs here: the structure of a sheet and what is wrong with it. Coordinates are image coordinates (Å from the centre
of pixel [0, 0], x along columns, y along rows). A sheet is a finite piece of the layer, the field of view and what
reaches into it, so its image is a plain sum over atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.columns import Columns, atoms_in_view, columns_in_view, columns_of
from atomvision_ml.images.stem import Projection, View, render_batch, with_patches

Floats = NDArray[np.float64]

KINDS = ("vacancy", "substitution", "strain")
"""What can be wrong with a sheet."""

_NO_PERIODS = np.zeros((0, 2))
_MARGIN_ANGSTROM = 4.5
_DOPANTS = (5, 6, 7, 8, 14, 16, 22, 24, 26, 34, 42, 46, 52, 74)
_TRIALS = 40


class DefectParameters(BaseModel):
    """How sheets are damaged; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_defects: int = Field(default=1, ge=0, description="Fewest vacancies and substitutions in a sheet.")
    maximum_defects: int = Field(default=6, ge=0, description="Most vacancies and substitutions in a sheet.")
    vacancy_share: float = Field(default=0.5, ge=0, le=1, description="Share of vacancies; the rest is substituted.")
    strain_share: float = Field(default=0.5, ge=0, le=1, description="Share of sheets with a strained region.")
    minimum_strain: float = Field(default=0.03, gt=0, lt=0.2, description="Least peak strain of a region.")
    maximum_strain: float = Field(default=0.08, gt=0, lt=0.2, description="Highest peak strain of a region.")
    minimum_radius_angstrom: float = Field(default=3.0, gt=0, description="Least decay length of a region, Å.")
    maximum_radius_angstrom: float = Field(default=5.0, gt=0, description="Greatest decay length of a region, Å.")
    border_angstrom: float = Field(default=2.0, ge=0, description="No defect lies closer to the field's edge, Å.")
    minimum_change: float = Field(
        default=0.05, gt=0, description="Least change of a column's intensity, as a share of the brightest column's."
    )
    minimum_relative_change: float = Field(
        default=0.2, ge=0, description="Least change of a column's intensity, as a share of its own."
    )
    maximum_relative_change: float = Field(
        default=4.0,
        gt=0,
        description="Highest change of a column's intensity, as a share of its own (Si in graphene: 3).",
    )
    minimum_left: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Least share of a column's intensity after a substitution; with less it looks like a vacancy.",
    )
    column_distance_angstrom: float = Field(default=1.0, gt=0, description="Atoms closer than this share a column, Å.")
    z_exponent: float = Field(default=1.7, ge=0, description="Exponent p of Z by which atoms scatter.")


@dataclass(frozen=True)
class Defect:
    """One defect.

    Attributes:
        kind: one of :data:`KINDS`.
        x_angstrom, y_angstrom: centre of the damaged column, as it would be in the perfect sheet, or of the region.
        n_atoms: atoms missing, replaced, or (strain) within the region's radius.
        change: of the column's intensity over that of the perfect column (−1: nothing is left); 0 for strain.
        strain: peak strain of a region (largest principal value by modulus); 0 otherwise.
        radius_angstrom: decay length of a region; 0 otherwise.
    """

    kind: str
    x_angstrom: float
    y_angstrom: float
    n_atoms: int
    change: float = 0.0
    strain: float = 0.0
    radius_angstrom: float = 0.0


@dataclass(frozen=True)
class Sheet:
    """A damaged piece of a layer, and the same piece undamaged.

    Attributes:
        view: of the field; its rotation and shift are zero, for positions are image coordinates.
        perfect: the undamaged atoms, without periods.
        patches: what point defects add, without periods: weight −Z^p removes an atom.
        displacements_angstrom: (n, 2) of the perfect atoms by the strained region; patches are displaced already.
        defects: the truth.
    """

    view: View
    perfect: Projection
    patches: Projection
    displacements_angstrom: Floats
    defects: tuple[Defect, ...]

    @property
    def strained(self) -> Projection:
        """The atoms displaced, none missing or foreign."""
        moved = self.perfect.positions_angstrom + self.displacements_angstrom
        return Projection(moved, self.perfect.weights, _NO_PERIODS)

    @property
    def projection(self) -> Projection:
        """The damaged atoms; a missing one is an atom and a patch of opposite weight."""
        return with_patches(self.strained, self.patches.positions_angstrom, self.patches.weights)

    def image(self, sigma_angstrom: float = 0.5) -> NDArray[np.float32]:
        """float32 [y, x] in 1/Å², noiseless; rounding below zero is cut off."""
        return np.clip(render_batch([self.projection], [self.view], sigma_angstrom=sigma_angstrom)[0], 0, None)


def damaged_sheet(
    projection: Projection,
    numbers: NDArray[np.int64],
    view: View,
    random: np.random.Generator,
    parameters: DefectParameters | None = None,
) -> Sheet:
    """Damage the piece of a layer that a view shows.

    Point defects lie in different columns. A strained region is ``u(r) = ε (r − c) exp(−|r − c|²/2R²)`` with a
    symmetric tensor ε (uniaxial, shear or isotropic), which is the strain at its centre c; the sheet's other defects
    move along with it.

    Args:
        projection: one cell with two periods.
        numbers: (n,) atomic numbers of its atoms.
        view: the field.
        random: the only source of randomness.
        parameters: how to damage.

    Returns:
        The sheet. It has fewer defects than drawn where no further column allows one that can be seen.

    Raises:
        ValueError: numbers do not fit the projection, or it has no two periods.
    """
    chosen = parameters or DefectParameters()
    if len(numbers) != len(projection.weights) or len(projection.periods_angstrom) != 2:
        raise ValueError("a sheet needs a layer with two periods, and the atomic number of each of its atoms")
    atoms, index = atoms_in_view(projection.positions_angstrom, projection.periods_angstrom, view, _MARGIN_ANGSTROM)
    field = View(view.pixel_size_angstrom, view.size_px)
    perfect = Projection(atoms, projection.weights[index], _NO_PERIODS)
    region, displacements = _strained_region(perfect, field, random, chosen)
    cell = columns_of(projection, chosen.column_distance_angstrom)
    columns = columns_in_view(cell, projection.periods_angstrom, view, _MARGIN_ANGSTROM)
    moved = Projection(atoms + displacements, perfect.weights, _NO_PERIODS)
    patches, points = _point_defects(moved, atoms, np.asarray(numbers)[index], columns, field, random, chosen)
    return Sheet(field, perfect, patches, displacements, (*points, *region))


def detectability(sheet: Sheet, mean_detected_e_per_a2: float | None, sigma_angstrom: float = 0.5) -> Floats:
    """Change of each defect's column over its least possible standard error at a dose, all else known (Cramér–Rao).

    The expected counts are λ = (dose/mean) Σ_j w_j G_j; the Fisher information of one weight is
    (dose/mean) ∫ G²/Σ_j w_j G_j. No method finds point defects reliably whose value is below about 4.

    Args:
        sheet: with its defects.
        mean_detected_e_per_a2: mean detected dose; None for a noiseless image.
        sigma_angstrom: standard deviation of the probe.

    Returns:
        (n defects,) ratios; infinite without noise, and for strain, which is not a matter of one column.
    """
    ratios = np.full(len(sheet.defects), np.inf)
    if mean_detected_e_per_a2 is None:
        return ratios
    whole = np.clip(render_batch([sheet.strained], [sheet.view], sigma_angstrom=sigma_angstrom)[0], 0, None)
    mean, pixel = float(whole.mean(dtype=float)), sheet.view.pixel_size_angstrom
    along = np.arange(sheet.view.size_px) * pixel
    for number, defect in enumerate(sheet.defects):
        if defect.kind == "strain":
            continue
        place = np.array([defect.x_angstrom, defect.y_angstrom])
        probe_x, probe_y = np.exp(-((along - place[:, None]) ** 2) / (2 * sigma_angstrom**2))
        square = (probe_y[:, None] * probe_x / (2 * np.pi * sigma_angstrom**2)) ** 2
        near = np.hypot(*(sheet.patches.positions_angstrom - place).T) < 1.0
        information = mean_detected_e_per_a2 / mean * (square / np.maximum(whole, 1e-6 * mean)).sum() * pixel**2
        ratios[number] = abs(float(sheet.patches.weights[near].sum())) * np.sqrt(information)
    return ratios


def _strained_region(
    perfect: Projection, view: View, random: np.random.Generator, chosen: DefectParameters
) -> tuple[tuple[Defect, ...], Floats]:
    atoms = perfect.positions_angstrom
    if random.random() >= chosen.strain_share:
        return (), np.zeros_like(atoms)
    radius = float(random.uniform(chosen.minimum_radius_angstrom, chosen.maximum_radius_angstrom))
    peak = float(random.uniform(chosen.minimum_strain, chosen.maximum_strain)) * random.choice((-1.0, 1.0))
    border = min(chosen.border_angstrom + radius, 0.4 * view.field_angstrom)
    centre = random.uniform(border, view.field_angstrom - border, 2)
    axes = _rotation(float(random.uniform(0, np.pi)))
    principal = np.diag([(1.0, 0.0), (1.0, -1.0), (1.0, 1.0)][int(random.integers(3))])
    tensor = peak * axes @ principal @ axes.T
    offset = atoms - centre
    square = (offset**2).sum(axis=1)
    moved = offset @ tensor.T * np.exp(-square / (2 * radius**2))[:, None]
    count, (x, y) = int((square <= radius**2).sum()), centre.tolist()
    return (Defect("strain", x, y, count, strain=peak, radius_angstrom=radius),), moved


def _rotation(angle: float) -> Floats:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _point_defects(
    atoms: Projection,
    ideal_angstrom: Floats,
    numbers: NDArray[np.int64],
    columns: Columns,
    view: View,
    random: np.random.Generator,
    chosen: DefectParameters,
) -> tuple[Projection, tuple[Defect, ...]]:
    """Patches and truth; an atom belongs to the column whose ideal centre is nearest."""
    from scipy.spatial import cKDTree

    column_of = cKDTree(columns.positions_angstrom).query(ideal_angstrom)[1]
    edge = view.field_angstrom - view.pixel_size_angstrom
    inside = (atoms.positions_angstrom - chosen.border_angstrom >= 0).all(axis=1) & (
        atoms.positions_angstrom <= edge - chosen.border_angstrom
    ).all(axis=1)
    pool = random.permutation(np.flatnonzero(inside))
    wanted = int(random.integers(chosen.minimum_defects, chosen.maximum_defects + 1))
    places, weights, used = [], [], set()
    defects: list[Defect] = []
    for atom in pool[: _TRIALS * max(wanted, 1)]:
        if len(defects) == wanted:
            break
        mates = np.flatnonzero(column_of == column_of[atom])
        whole = atoms.weights[mates].sum()
        hit, change = _damage(atoms, numbers, int(atom), mates, random, chosen)
        kind = "vacancy" if np.array_equal(change, -atoms.weights[hit]) else "substitution"
        is_visible = abs(change.sum()) >= max(
            chosen.minimum_change * columns.weights.max(), chosen.minimum_relative_change * whole
        )
        most = chosen.maximum_relative_change * whole
        is_told_apart = kind == "vacancy" or (chosen.minimum_left - 1) * whole <= change.sum() <= most
        if column_of[atom] in used or not (is_visible and is_told_apart):
            continue
        used.add(column_of[atom])
        places.append(atoms.positions_angstrom[hit])
        weights.append(change)
        x, y = np.average(atoms.positions_angstrom[mates], axis=0, weights=atoms.weights[mates])
        defects.append(Defect(kind, float(x), float(y), len(hit), float(change.sum() / whole)))
    if not defects:
        return Projection(np.zeros((0, 2)), np.zeros(0), _NO_PERIODS), ()
    return Projection(np.concatenate(places), np.concatenate(weights), _NO_PERIODS), tuple(defects)


def _damage(
    atoms: Projection,
    numbers: NDArray[np.int64],
    atom: int,
    mates: NDArray[np.int64],
    random: np.random.Generator,
    chosen: DefectParameters,
) -> tuple[NDArray[np.int64], Floats]:
    """Atoms of one column that are hit, and the change of the weight of each."""
    if random.random() < chosen.vacancy_share:
        others = random.permutation(mates[mates != atom])
        hit = np.concatenate([[atom], others[: int(random.integers(len(mates)))]]).astype(np.int64)
        return hit, -atoms.weights[hit]
    other = int(random.choice([z for z in _DOPANTS if z != numbers[atom]]))
    ratio = (other / float(numbers[atom])) ** chosen.z_exponent
    return np.array([atom]), atoms.weights[[atom]] * (ratio - 1)
