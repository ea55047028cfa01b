"""Lattice reduction and the distance to the Bravais classes, as properties."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains, classify_cell, reduce_cell, symmetrise_cell

lengths = st.floats(1.5, 40.0)
angles_deg = st.floats(5.0, 175.0)
small = st.integers(-4, 4)


def cell(a: float, b: float, gamma_deg: float, turn_deg: float = 0.0) -> np.ndarray:
    gamma, turn = np.radians([gamma_deg, turn_deg])
    return np.array(
        [[a * np.cos(turn), a * np.sin(turn)], [b * np.cos(turn + gamma), b * np.sin(turn + gamma)]],
    )


def strain_of(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(np.linalg.svd(np.linalg.solve(first, second), compute_uv=False) - 1).max())


@given(lengths, lengths, angles_deg, st.floats(0, 360), st.booleans())
@example(3.0, 3.0, 60.0, 0.0, False)
@example(3.0, 3.0, 120.0, 17.0, True)
@example(3.0, 300.0, 90.0, 90.0, True)
@example(3.0, 3.0 * math.sqrt(2), 45.0, 0.0, False)
@settings(max_examples=300, deadline=None)
def test_reduced_cell_is_a_short_right_handed_basis_of_the_same_lattice(a, b, gamma, turn, is_left_handed):
    given_cell = cell(a, b, gamma, turn)[:: -1 if is_left_handed else 1]
    reduced = reduce_cell(given_cell)
    change = np.linalg.solve(given_cell.T, reduced.T).T
    assert np.allclose(change, np.round(change), atol=1e-6)
    assert round(abs(np.linalg.det(change))) == 1
    assert np.linalg.det(reduced) > 0
    norm_a, norm_b = np.linalg.norm(reduced, axis=1)
    assert norm_a <= norm_b
    assert abs(reduced[0] @ reduced[1]) <= 0.5 * norm_a**2 * (1 + 1e-8)
    for m in range(-3, 4):
        for n in range(-3, 4):
            if n:
                assert np.linalg.norm(m * reduced[0] + n * reduced[1]) >= norm_b * (1 - 1e-8)


def test_a_hexagonal_cell_is_given_with_the_obtuse_angle():
    for gamma in (60.0, 120.0):
        a, b = reduce_cell(cell(2.46, 2.46, gamma))
        assert np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) == pytest.approx(120)


@given(lengths, lengths, angles_deg, st.floats(0, 360), st.floats(0.1, 10), small, small, small, st.booleans())
@settings(max_examples=200, deadline=None)
def test_strains_do_not_depend_on_size_rotation_mirror_or_basis(a, b, gamma, turn, scale, k, m, n, is_mirrored):
    original = cell(a, b, gamma)
    basis = np.array([[1, k], [0, 1]]) @ np.array([[1, 0], [m, 1]]) @ np.array([[1, n], [0, 1]])
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array([[c, s], [-s, c]]) @ np.diag([1, -1 if is_mirrored else 1])
    other = basis @ original @ rotation * scale
    first, second = class_strains(original), class_strains(other)
    for name in BRAVAIS_LATTICES:
        assert second[name] == pytest.approx(first[name], abs=1e-7)


@pytest.mark.parametrize(
    ("exact", "name"),
    [
        (cell(2.46, 2.46, 60), "hexagonal"),
        (cell(2.46, 2.46, 120), "hexagonal"),
        (cell(3.8, 3.8, 90), "square"),
        (cell(3.8, 3.8 * math.sqrt(2), 45), "square"),
        (cell(3.1, 4.4, 90), "rectangular"),
        (cell(1.0, 500.0, 90), "rectangular"),
        (cell(4.0, 4.0, 75), "rhombic"),
        (cell(4.0, 4.0, 30), "rhombic"),
        (cell(3.0, math.hypot(1.5, 5.0), np.degrees(np.arctan2(5.0, 1.5))), "rhombic"),
        (cell(3.0, 4.2, 77), "oblique"),
    ],
)
def test_exact_cells_have_no_strain_to_their_class(exact, name):
    found = classify_cell(exact)
    assert found.name == name
    assert found.strain == pytest.approx(0, abs=1e-9)


@given(st.floats(1.0, 30.0), st.floats(0.0, 0.5))
def test_rectangle_to_square_is_half_the_excess(a, excess):
    assert class_strains(cell(a, a * (1 + excess), 90))["square"] == pytest.approx(excess / (2 + excess), abs=1e-9)


@given(st.floats(0.0, 10.0))
def test_rhombus_to_square_is_the_shear_of_its_angle(delta_deg):
    # Diagonals of a rhombus have the ratio tan(γ/2); the strain makes them equal.
    ratio = math.tan(math.radians(90 + delta_deg) / 2)
    expected = (ratio - 1) / (ratio + 1)
    strains = class_strains(cell(5.0, 5.0, 90 + delta_deg))
    assert strains["square"] == pytest.approx(expected, abs=1e-9)
    assert strains["square"] == pytest.approx(math.tan(math.radians(delta_deg) / 2), abs=1e-9)


@given(st.floats(0.0, 0.3))
def test_stretched_hexagonal_cell_is_half_the_excess_from_hexagonal(excess):
    stretched = cell(3.0, 3.0, 120) @ np.diag([1 + excess, 1])
    strains = class_strains(stretched)
    assert strains["hexagonal"] == pytest.approx(excess / (2 + excess), abs=1e-9)
    assert strains["rhombic"] == pytest.approx(0, abs=1e-9)


@given(lengths, lengths, angles_deg, st.sampled_from(BRAVAIS_LATTICES))
@settings(max_examples=200, deadline=None)
def test_symmetrised_cell_is_exact_and_costs_the_reported_strain(a, b, gamma, name):
    original = cell(a, b, gamma, 12.0)
    ideal = symmetrise_cell(original, name)
    strains = class_strains(original)
    assert class_strains(ideal)[name] == pytest.approx(0, abs=1e-7)
    assert strain_of(reduce_cell(original), ideal) == pytest.approx(strains[name], abs=1e-7)
    distortion = np.linalg.solve(reduce_cell(original), ideal)
    assert np.allclose(distortion, distortion.T, atol=1e-9)


@given(st.floats(2.0, 9.0), st.floats(1.0, 2.5), st.floats(60, 90), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_other_cell_of_the_class_is_nearer(a, ratio, gamma, seed):
    rng = np.random.default_rng(seed)
    original = cell(a, a * ratio, gamma)
    strains = class_strains(original)
    for _ in range(10):
        upper, lower = rng.integers(-2, 3, size=2)
        basis = np.array([[1, upper], [0, 1]]) @ np.array([[1, 0], [lower, 1]])
        distorted = original @ (np.eye(2) + rng.normal(0, 0.2, (2, 2)))
        if abs(np.linalg.det(distorted)) < 0.2 * abs(np.linalg.det(original)):
            continue
        for name in ("hexagonal", "square", "rectangular", "rhombic"):
            ideal = symmetrise_cell(distorted, name)
            for change in (basis, np.eye(2), np.array([[0, 1], [-1, 0]]), np.array([[1, 1], [0, 1]])):
                assert strain_of(original, change @ ideal) >= strains[name] - 1e-9


def test_highest_class_within_the_tolerance_wins_and_the_next_is_nearest():
    nearly_square = classify_cell(cell(4.0, 4.0 * 1.004, 90))
    assert (nearly_square.name, nearly_square.next_class, nearly_square.next_strain) == ("square", None, None)
    assert nearly_square.strain == pytest.approx(0.002, abs=1e-5)
    rectangle = classify_cell(cell(4.0, 4.0 * 1.02, 90))
    assert (rectangle.name, rectangle.next_class) == ("rectangular", "square")
    assert rectangle.next_strain == pytest.approx(0.02 / 2.02)
    oblique = classify_cell(cell(4.0, 5.0, 91))
    assert (oblique.name, oblique.next_class) == ("oblique", "rectangular")
    assert oblique.strain == 0
    assert classify_cell(cell(4.0, 4.08, 90), tolerance=0.02).name == "square"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([[1.0, 2.0], [2.0, 4.0]], "no area"),
        ([[0.0, 0.0], [0.0, 0.0]], "no area"),
        ([[0.0, 0.0], [2.0, 4.0]], "differ too much"),
        ([[np.nan, 0.0], [2.0, 4.0]], "not finite"),
        ([[1e-200, 0.0], [0.3, 1e200]], "differ too much"),
        ([1.0, 2.0], "shape"),
    ],
)
def test_a_cell_that_is_none_is_refused_with_a_reason(bad, words):
    with pytest.raises(ValueError, match=words):
        classify_cell(bad)


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="rectangle"):
        symmetrise_cell(cell(3, 4, 90), "rectangle")
