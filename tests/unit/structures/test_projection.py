"""The projected crystal: primitive cell, columns, plane group, superlattice contrast."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.structures import symmetry
from atomvision_ml.structures.lattice import class_strains, classify_cell
from atomvision_ml.structures.projection import (
    PrimitiveProjection,
    columns,
    nearest_superlattice,
    primitive_projection,
    structure_factors,
)

CELLS = {
    "oblique": [[4.1, 0.0], [1.3, 5.2]],
    "rectangular": [[4.1, 0.0], [0.0, 5.6]],
    "square": [[4.7, 0.0], [0.0, 4.7]],
    "hexagonal": [[5.0, 0.0], [-2.5, 2.5 * np.sqrt(3)]],
}

P3 = "x,y;-y,x-y;y-x,-x"
P3M1 = "-y,-x;y-x,y;x,x-y"
P31M = "y,x;x-y,-y;-x,y-x"
P6 = P3 + ";-x,-y;y,y-x;x-y,x"
GENERAL_POSITIONS = {
    "p1": ("oblique", "x,y"),
    "p2": ("oblique", "x,y;-x,-y"),
    "pm": ("rectangular", "x,y;-x,y"),
    "pg": ("rectangular", "x,y;-x,y+.5"),
    "cm": ("rectangular", "x,y;-x,y;x+.5,y+.5;.5-x,y+.5"),
    "pmm": ("rectangular", "x,y;-x,-y;-x,y;x,-y"),
    "pmg": ("rectangular", "x,y;-x,-y;.5-x,y;x+.5,-y"),
    "pgg": ("rectangular", "x,y;-x,-y;.5-x,y+.5;x+.5,.5-y"),
    "cmm": ("rectangular", "x,y;-x,-y;-x,y;x,-y;x+.5,y+.5;.5-x,.5-y;.5-x,y+.5;x+.5,.5-y"),
    "p4": ("square", "x,y;-x,-y;-y,x;y,-x"),
    "p4m": ("square", "x,y;-x,-y;-y,x;y,-x;-x,y;x,-y;y,x;-y,-x"),
    "p4g": ("square", "x,y;-x,-y;-y,x;y,-x;.5-x,y+.5;x+.5,.5-y;y+.5,x+.5;.5-y,.5-x"),
    "p3": ("hexagonal", P3),
    "p3m1": ("hexagonal", f"{P3};{P3M1}"),
    "p31m": ("hexagonal", f"{P3};{P31M}"),
    "p6": ("hexagonal", P6),
    "p6m": ("hexagonal", f"{P6};{P3M1};{P31M}"),
}
FAMILIES = {
    "oblique": "monoclinic",
    "rectangular": "orthorhombic",
    "square": "tetragonal",
    "hexagonal": "hexagonal",
}


def orbit(operations: str, x: float, y: float) -> list[list[float]]:
    return [[eval(term, {"x": x, "y": y}) for term in operation.split(",")] for operation in operations.split(";")]


def pattern(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cell_name, operations = GENERAL_POSITIONS[name]
    first, second = orbit(operations, 0.131, 0.297), orbit(operations, 0.423, 0.068)
    cell = np.array(CELLS[cell_name])
    return np.repeat([6, 16], len(first)), np.array(first + second) @ cell, cell


def turned(positions: np.ndarray, cell: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return positions @ rotation, cell @ rotation


def supercell(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crystal in the cell ``shape @ cell``: all lattice points of a large patch that lie in the new cell."""
    count = round(abs(np.linalg.det(shape)))
    points = np.array(list(itertools.product(range(-12, 13), repeat=2)))
    inside = points @ np.linalg.inv(shape)
    points = points[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]
    assert len(points) == count
    shifted = [positions + point @ cell for point in points]
    return np.tile(numbers, count), np.concatenate(shifted), shape @ cell


@pytest.mark.parametrize("name", GENERAL_POSITIONS)
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_plane_group_and_family_of_its_general_positions(name, turn):
    numbers, positions, cell = pattern(name)
    positions, cell = turned(positions + np.array([0.31, -1.7]), cell, turn)
    projection = primitive_projection(numbers, positions, cell)
    found = symmetry.plane_group(projection)
    assert found == name
    assert symmetry.crystal_family(found) == FAMILIES[GENERAL_POSITIONS[name][0]]


def test_the_plane_group_tells_compositions_of_columns_apart():
    cell = np.array(CELLS["hexagonal"])
    centres = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3], [2 / 3, 1 / 3]]) @ cell
    assert symmetry.plane_group(primitive_projection([6, 6], centres[:2], cell)) == "p6m"
    assert symmetry.plane_group(primitive_projection([16, 16, 16], centres, cell)) == "p3m1"


@given(
    st.sampled_from(["p1", "pg", "cm", "pmg", "p4g", "p3m1"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(-3, 3),
    st.floats(0, 6.28),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_supercell_has_the_same_primitive_projection(name, rows, columns_, shear, turn, is_left_handed):
    numbers, positions, cell = pattern(name)
    reference = primitive_projection(numbers, positions, cell)
    shape = np.array([[rows, shear], [0, columns_]])[:: -1 if is_left_handed else 1]
    many, spread, large = supercell(numbers, positions, cell, shape)
    spread, large = turned(spread, large, turn)
    noise = np.random.default_rng(5).uniform(-0.002, 0.002, spread.shape)
    found = primitive_projection(many, spread + noise, large)
    assert sorted(found.numbers.tolist()) == sorted(reference.numbers.tolist())
    assert abs(np.linalg.det(found.cell_angstrom)) == pytest.approx(abs(np.linalg.det(reference.cell_angstrom)))
    strains, expected = class_strains(found.cell_angstrom), class_strains(reference.cell_angstrom)
    assert strains == pytest.approx(expected, abs=1e-6)
    wide = [[h, k] for h in range(-3, 4) for k in range(-3, 4) if (h, k) != (0, 0)]
    strongest = np.sort(structure_factors(found, wide))[-6:]
    assert strongest == pytest.approx(np.sort(structure_factors(reference, wide))[-6:], abs=5e-3)


def test_coincident_atoms_count_as_many():
    cell = [[4.0, 0.0], [0.0, 5.0]]
    three_and_one = [[0.0, 0.0]] * 3 + [[2.0, 0.0]]
    assert len(primitive_projection([16] * 4, three_and_one, cell).numbers) == 4
    two_and_two = [[0.0, 0.0], [0.004, 0.0], [2.0, 0.0], [2.001, 0.003]]
    found = primitive_projection([16] * 4, two_and_two, cell)
    assert found.numbers.tolist() == [16, 16]
    assert np.linalg.norm(found.cell_angstrom, axis=1) == pytest.approx([2.0, 5.0])


def test_columns_of_another_element_are_no_partners():
    cell = [[4.0, 0.0], [0.0, 5.0]]
    square = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.5], [2.0, 2.5]]
    found = primitive_projection([5, 7, 7, 5], square, cell)
    assert sorted(found.numbers.tolist()) == [5, 7]
    assert classify_cell(found.cell_angstrom).name == "rhombic"


def test_close_columns_are_matched_one_to_one():
    # Nearest neighbours are not one-to-one here: both atoms of the left pair are nearest to the same atom of the right.
    cell = [[6.0, 0.0], [0.0, 5.0]]
    pairs = [[0.0, 0.0], [0.012, 0.0], [3.007, 0.0], [3.026, 0.0]]
    found = primitive_projection([8] * 4, pairs, cell)
    assert len(found.numbers) == 2
    assert np.linalg.norm(found.cell_angstrom, axis=1) == pytest.approx([3.0, 5.0])


@pytest.mark.parametrize(("shift", "n_atoms"), [(0.0, 1), (0.0149, 1), (0.0151, 2)])
def test_the_matching_tolerance_is_a_distance(shift, n_atoms):
    positions = [[0.0, 0.0], [2.0 + 0.6 * shift, 0.8 * shift]]
    assert len(primitive_projection([26, 26], positions, [[4.0, 0.0], [0.0, 5.0]]).numbers) == n_atoms


@pytest.mark.parametrize("repeats", [7, 97])
def test_prime_supercells_are_folded(repeats):
    positions = np.array([[0.0, 3.0 * step] for step in range(repeats)])
    found = primitive_projection([6] * repeats, positions, [[2.0, 0.0], [0.0, 3.0 * repeats]])
    assert len(found.numbers) == 1
    assert np.linalg.norm(found.cell_angstrom, axis=1) == pytest.approx([2.0, 3.0])


def test_columns_have_centres_and_compositions():
    projection = PrimitiveProjection(
        np.array([[4.0, 0.0], [0.0, 5.0]]),
        np.array([[3.998, 0.0], [0.004, 0.0], [2.0, 2.5], [1.0, 1.0]]),
        np.array([16, 42, 42, 42], np.int32),
    )
    centres, types = columns(projection)
    assert len(centres) == 3
    assert sorted(np.bincount(types).tolist()) == [1, 2]
    shared = centres[types == np.bincount(types).argmin()][0] * [4.0, 5.0]
    assert shared == pytest.approx([0.001, 0.0])


@given(st.integers(1, 60), st.floats(3.0, 4.5), st.floats(1.1, 1.6))
@settings(deadline=None)
def test_light_atom_that_breaks_a_centring_has_the_contrast_of_its_weight(light, a, ratio):
    b = a * ratio
    cell = [[a, 0.0], [0.0, b]]
    projection = primitive_projection([74, 74, light], [[0.0, 0.0], [a / 2, b / 2], [a / 2, 0.0]], cell)
    found = nearest_superlattice(projection, "rectangular")
    weights = np.array([74.0, 74.0, light]) ** 1.7
    # The longest wave that the centred lattice lacks is (01); there the two heavy atoms cancel.
    expected = weights[2] / weights.sum() * np.exp(-2 * np.pi**2 * 0.25 / b**2)
    assert found is not None
    assert found.parent == "rhombic"
    assert found.contrast == pytest.approx(expected, rel=1e-6)


def test_no_parent_of_another_class_no_contrast():
    oblique = PrimitiveProjection(
        np.array([[3.0, 0.0], [0.4432, 3.8421]]), np.array([[0.0, 0.0], [0.7, 1.1]]), np.array([6, 7], np.int32)
    )
    assert nearest_superlattice(oblique, "oblique") is None


def test_structure_factor_of_one_atom_is_the_probe_alone():
    cell = np.array([[3.0, 0.0], [0.5, 4.0]])
    projection = PrimitiveProjection(cell, np.array([[0.3, 0.9]]), np.array([79], np.int32))
    g = np.array([1, -2]) @ np.linalg.inv(cell).T
    found = structure_factors(projection, [[1, -2]], sigma_angstrom=0.4)
    assert found == pytest.approx(np.exp(-2 * np.pi**2 * 0.16 * (g @ g)))


@pytest.mark.parametrize(
    ("numbers", "positions", "words"),
    [
        ([], np.zeros((0, 2)), "0 atomic numbers"),
        ([6], [[0, 0], [1, 1]], "2 positions"),
        ([6], [[np.nan, 0]], "finite"),
    ],
)
def test_bad_input_is_refused_with_a_reason(numbers, positions, words):
    with pytest.raises(ValueError, match=words):
        primitive_projection(numbers, positions, [[4.0, 0.0], [0.0, 5.0]])
