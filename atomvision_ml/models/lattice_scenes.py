"""Training scenes of the lattice networks: all five classes equally often, whatever the structures at hand.

Belongs here: structures with their lattice, and new lattices for them. A motif keeps its fractional coordinates when it
is put into another lattice, so the class of the new cell is the exact label; few structures thus show any number of
lattices, near misses and pseudo-centred ones among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, Scenes, draw_scenes
from atomvision_ml.images.stem import Projection, StemParameters
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains, classify_cell, reduce_cell

Array = NDArray[np.float64]
Random = np.random.Generator

SCENE_PX = 128
"""Edge of a training scene. Those of ``images/stem`` have twice as many pixels in the same field."""

_STRETCH = (0.95, 1.4)
"""Least and most that a scene's pixel is longer than twice that of ``images/stem``."""

PIXEL_SIZES_ANGSTROM = (
    StemParameters().minimum_pixel_size_angstrom,
    2 * _STRETCH[1] * StemParameters().maximum_pixel_size_angstrom,
)
"""From the pixels of ``images/stem``, which networks are validated on, to the largest ones of the training scenes."""

_CLEAR_STRAIN = 0.006
"""New lattices are at least so far (fraction) from every class above their own."""

_HERMITE_FORMS = tuple(
    ((a, b), (0, index // a)) for index in (2, 3, 4) for a in range(1, index + 1) if index % a == 0 for b in range(a)
)


class LatticeSceneParameters(BaseModel):
    """What is drawn; flat and frozen, a base for the parameters of each network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    natural_fraction: float = Field(
        default=0.4, ge=0, le=1, description="Share of scenes of a structure in its own lattice."
    )
    pseudo_centred_fraction: float = Field(
        default=0.25, ge=0, le=1, description="Share of the other scenes that are a superlattice broken by one atom."
    )
    minimum_e_per_a2: float = Field(default=60.0, gt=0, description="Least dose of the training scenes, e/Å².")
    maximum_e_per_a2: float = Field(default=1e4, gt=0, description="Highest dose of the training scenes, e/Å².")
    clean_fraction: float = Field(default=0.2, ge=0, le=1, description="Share of training scenes without noise.")


@dataclass(frozen=True)
class LatticeStructure:
    """A primitive projection, and the class of its lattice.

    Attributes:
        projection: its periods are the reduced primitive vectors.
        species: (n,) int, equal for atoms of one element.
        lattice: Bravais class.
    """

    projection: Projection
    species: NDArray[np.int64]
    lattice: str


class LatticeLibrary:
    """The structures behind rows of a training set, by class; ambiguous ones are left out.

    Args:
        library: over rows of ``models/training_sets``.

    Raises:
        ValueError: no row is unambiguous.
    """

    def __init__(self, library: SceneLibrary) -> None:
        self._library = library
        self._known: dict[int, LatticeStructure] = {}
        self._by_class: dict[str, list[int]] = {}
        for number, row in enumerate(library.rows):
            if not row["is_ambiguous"]:
                self._by_class.setdefault(row["bravais_lattice"], []).append(number)
        self._all = [number for numbers in self._by_class.values() for number in numbers]
        if not self._all:
            raise ValueError("no structure with an unambiguous lattice to train on")

    def draw(self, lattice: str, parameters: LatticeSceneParameters, random: Random) -> LatticeStructure:
        """A structure of that class: as it is, in a new lattice, or as a superlattice that one atom breaks."""
        own = self._by_class.get(lattice, [])
        if own and random.random() < parameters.natural_fraction:
            return _recast(self._structure(int(random.choice(own))), random)
        drawn = _recast(self._structure(int(random.choice(self._all))), random)
        if random.random() < parameters.pseudo_centred_fraction:
            drawn = pseudo_centred(drawn, random)
        return in_lattice(drawn, lattice, random)

    def _structure(self, number: int) -> LatticeStructure:
        if number not in self._known:
            row = self._library.rows[number]
            stored = self._library.stem_set(row["blob"])
            self._known[number] = lattice_structure(
                stored.numbers(row["index"]), self._library.projection(number), row["bravais_lattice"]
            )
        return self._known[number]


def lattice_structure(numbers: NDArray[np.int64], projection: Projection, lattice: str) -> LatticeStructure:
    """The primitive cell of a projection whose class is known.

    Args:
        numbers: (n,) atomic numbers.
        projection: n atoms with two periods.
        lattice: Bravais class.
    """
    from atomvision_ml.structures.projection import primitive_projection

    smallest = primitive_projection(numbers, projection.positions_angstrom, projection.periods_angstrom)
    weight = dict(zip(numbers.tolist(), projection.weights.tolist(), strict=True))
    weights = np.array([weight[int(number)] for number in smallest.numbers])
    own = Projection(smallest.positions_angstrom, weights, smallest.cell_angstrom)
    return LatticeStructure(own, smallest.numbers.astype(np.int64), lattice)


def in_lattice(structure: LatticeStructure, lattice: str, random: Random) -> LatticeStructure:
    """The same motif, in fractional coordinates, in a random lattice of that class and about the same area."""
    periods = structure.projection.periods_angstrom
    shape = random_cell(lattice, random)
    scale = random.uniform(0.95, 1.08) * math.sqrt(structure.projection.area_angstrom2 / abs(np.linalg.det(shape)))
    new = shape * scale
    positions = structure.projection.positions_angstrom @ np.linalg.solve(periods, new)
    return LatticeStructure(Projection(positions, structure.projection.weights, new), structure.species, lattice)


def random_cell(lattice: str, random: Random) -> Array:
    """A reduced cell (2, 2) of a class, its shorter vector of length 1, that no strain below 0.6 % brings higher.

    Half of the oblique cells, and a third of the rectangular and rhombic ones, lie within 5 % of a higher class.
    """
    while True:
        cell = reduce_cell(_cell(lattice, random))
        strains = class_strains(cell)
        if classify_cell(cell, _CLEAR_STRAIN).name == lattice and strains[lattice] < 1e-6:
            return cell


def _cell(lattice: str, random: Random) -> Array:
    if lattice == "hexagonal":
        return np.array([[1.0, 0.0], [-0.5, math.sqrt(0.75)]])
    if lattice == "square":
        return np.eye(2)
    near, far = random.uniform(0.01, 0.1), random.uniform(0.1, 1.5)
    ratio = 1 + (near if random.random() < 1 / 3 else far)
    if lattice == "rectangular":
        return np.diag([1.0, ratio])
    if lattice == "rhombic":
        # Half the diagonals of a rhombus; sqrt(3) is the hexagonal lattice, 1 the square one.
        return _rhombus(random.choice([1, math.sqrt(3)]) * ratio ** random.choice([-1, 1]))
    if random.random() < 0.5:
        return np.array([[1.0, 0.0], [random.uniform(0.02, 0.48), random.uniform(0.9, 2.2)]])
    parent = _cell(str(random.choice(BRAVAIS_LATTICES[:4])), random)
    return np.asarray(parent @ (np.eye(2) + random.uniform(-0.05, 0.05, (2, 2))))


def _rhombus(ratio: float) -> Array:
    return np.array([[0.5, -0.5 * ratio], [0.5, 0.5 * ratio]])


def pseudo_centred(structure: LatticeStructure, random: Random) -> LatticeStructure:
    """A supercell of two to four cells in which one atom differs, by 2 to 30 % of the whole weight of a cell.

    Its class is not known before it is put into a lattice (:func:`in_lattice`).
    """
    old = structure.projection
    matrix = np.array(_HERMITE_FORMS[int(random.integers(len(_HERMITE_FORMS)))], dtype=float)
    copies = round(abs(np.linalg.det(matrix)))
    steps = _cosets(matrix)
    positions = (old.positions_angstrom[None] + (steps @ old.periods_angstrom)[:, None]).reshape(-1, 2)
    weights = np.tile(old.weights, copies)
    atom = int(random.integers(len(weights)))
    change = math.exp(random.uniform(math.log(0.02), math.log(0.3))) * float(weights.sum())
    weights[atom] += change if weights[atom] < change or random.random() < 0.5 else -change
    species = np.tile(structure.species, copies)
    return LatticeStructure(Projection(positions, weights, matrix @ old.periods_angstrom), species, structure.lattice)


def _cosets(matrix: Array) -> Array:
    """The points of the integer lattice inside a supercell of Hermite normal form, (index, 2)."""
    (a, _), (_, d) = matrix.astype(int).tolist()
    return np.array([(i, j) for i in range(a) for j in range(d)], dtype=float)


def _recast(structure: LatticeStructure, random: Random) -> LatticeStructure:
    """Other intensities for the species, in half of the cases; equal atoms stay equal, so the lattice stays."""
    if random.random() < 0.5:
        return structure
    old = structure.projection
    kinds, index = np.unique(structure.species, return_inverse=True)
    weights = old.weights * np.exp(random.normal(0, 0.7, len(kinds)))[index]
    return LatticeStructure(
        Projection(old.positions_angstrom, weights, old.periods_angstrom), structure.species, structure.lattice
    )


def draw_lattice_scenes(
    library: LatticeLibrary, lattices: Sequence[str], parameters: LatticeSceneParameters, random: Random
) -> tuple[list[Scenes], list[LatticeStructure]]:
    """One scene of 128 pixels for each class asked for, in the field of ``images/stem`` or a larger one.

    Args:
        library: the structures.
        lattices: n Bravais classes.
        parameters: the ranges.
        random: the only source of randomness.
    """
    scenes, structures = [], []
    for lattice in lattices:
        structure = library.draw(lattice, parameters, random)
        scenes.append(_scene(structure, parameters, random))
        structures.append(structure)
    return scenes, structures


def _scene(structure: LatticeStructure, parameters: LatticeSceneParameters, random: Random) -> Scenes:
    rule = StemParameters()
    longer = float(np.linalg.norm(structure.projection.periods_angstrom, axis=1).max())
    pixel = 2 * rule.pixel_size_angstrom(longer) * random.uniform(*_STRETCH)
    ranges = SceneParameters(
        size_px=SCENE_PX,
        minimum_pixel_size_angstrom=pixel,
        maximum_pixel_size_angstrom=pixel,
        minimum_sigma_angstrom=0.48,
        maximum_sigma_angstrom=0.58,
        minimum_e_per_a2=parameters.minimum_e_per_a2,
        maximum_e_per_a2=parameters.maximum_e_per_a2,
        clean_fraction=parameters.clean_fraction,
    )
    return draw_scenes([structure.projection], ranges, random)
