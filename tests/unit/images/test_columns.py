"""Atoms, columns and masks in a field of view."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import mx2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist

from atomvision_ml.images.columns import atoms_in_view, column_mask, columns_in_view, columns_of, merge_columns
from atomvision_ml.images.stem import Projection, View, project_atoms


def test_the_two_sulphurs_of_mos2_are_one_column_between_its_molybdenums() -> None:
    atoms = mx2("MoS2", a=3.18, thickness=3.19, vacuum=8)
    atoms.pbc = True
    columns = columns_of(project_atoms(atoms))
    assert columns.n_atoms.tolist() == [1, 2]
    assert columns.relative_intensities.tolist() == pytest.approx([1.0, 2 * 16**1.7 / 42**1.7])


def test_columns_closer_than_the_distance_meet_at_their_intensity_weighted_centre() -> None:
    columns = merge_columns([0.0, 0.8, 3.0], [0.0, 0.0, 0.0], [3.0, 1.0, 5.0])
    assert columns.positions_angstrom.tolist() == [[pytest.approx(0.2), 0.0], [3.0, 0.0]]
    assert columns.weights.tolist() == [4.0, 5.0]
    assert columns.n_atoms.tolist() == [2, 1]


def test_a_chain_is_not_swallowed_whole() -> None:
    """Closest pairs first: four atoms 0.9 Å apart in a row are two columns, not one of 2.7 Å."""
    columns = merge_columns([0.0, 0.9, 1.8, 2.7], [0.0] * 4, [1.0] * 4)
    assert columns.n_atoms.tolist() == [2, 2]


def test_atoms_merge_across_the_edge_of_the_cell() -> None:
    cell = Projection(np.array([[0.1, 1.0], [3.9, 1.0]]), np.array([1.0, 1.0]), np.diag([4.0, 3.0]))
    columns = columns_of(cell)
    assert columns.n_atoms.tolist() == [2]
    assert (columns.positions_angstrom[0, 0] + 1.0) % 4.0 == pytest.approx(1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    xy=arrays(float, st.tuples(st.integers(0, 120), st.just(2)), elements=st.floats(0, 12)),
    distance=st.floats(0.2, 1.5),
)
def test_merging_keeps_atoms_intensity_and_centre_and_leaves_none_too_close(xy: np.ndarray, distance: float) -> None:
    weights = 1.0 + np.arange(len(xy)) % 5
    columns = merge_columns(xy[:, 0], xy[:, 1], weights, distance)
    assert columns.n_atoms.sum() == len(xy)
    assert columns.weights.sum() == pytest.approx(weights.sum())
    assert np.allclose(columns.weights @ columns.positions_angstrom, weights @ xy)
    if len(columns.weights) > 1:
        assert pdist(columns.positions_angstrom).min() >= distance - 1e-8


def test_atoms_exactly_at_the_distance_stay_apart() -> None:
    columns = merge_columns([0.0, 1.0 - 1e-12, 2.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0])
    assert columns.n_atoms.tolist() == [1, 1, 1]


def test_weights_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        merge_columns([0.0], [0.0], [0.0])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(angle=st.floats(0, 360), shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)), gamma=st.floats(40, 140))
def test_atoms_in_view_are_those_of_a_large_enough_patch(
    angle: float, shift: tuple[float, float], gamma: float
) -> None:
    periods = np.array([[3.0, 0.0], [5 * np.cos(np.deg2rad(gamma)), 5 * np.sin(np.deg2rad(gamma))]])
    atoms = np.array([[0.3, 0.4], [1.7, -8.0]])
    view = View(0.2, 60, angle, shift)
    xy, index = atoms_in_view(atoms, periods, view)
    h, k = np.meshgrid(np.arange(-40, 41), np.arange(-40, 41))
    cells = np.stack([h.ravel(), k.ravel()], 1) @ periods
    for n, atom in enumerate(atoms):
        everywhere = view.place(cells + atom)
        inside = everywhere[np.all((everywhere >= -0.1) & (everywhere <= 11.9), axis=1)]
        mine = xy[index == n]
        assert len(mine) == len(inside)
        assert np.allclose(np.sort(mine @ [1.0, 1e3]), np.sort(inside @ [1.0, 1e3]))


def test_columns_repeat_like_their_lattice() -> None:
    atoms = mx2("MoS2", a=3.18, thickness=3.19, vacuum=8)
    atoms.pbc = True
    projection = project_atoms(atoms)
    view = View(0.1, 256, 23.0, (0.2, 0.1))
    columns = columns_in_view(columns_of(projection), projection.periods_angstrom, view)
    xy, _ = atoms_in_view(projection.positions_angstrom, projection.periods_angstrom, view)
    assert columns.n_atoms.sum() == len(xy)
    assert set(columns.n_atoms.tolist()) == {1, 2}


def test_a_mask_is_the_disk_of_pixel_centres_and_is_indexed_y_x() -> None:
    mask = column_mask(np.array([[3.0, 1.0]]), 50, 0.1)
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == (10.0, 30.0)
    y, x = np.mgrid[:50, :50] * 0.1
    assert np.array_equal(mask, np.hypot(y - 1.0, x - 3.0) <= 0.5 + 1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    xy=arrays(float, st.tuples(st.integers(0, 20), st.just(2)), elements=st.floats(-1, 13)),
    pixel=st.floats(0.05, 0.7),
)
def test_masks_agree_with_distances(xy: np.ndarray, pixel: float) -> None:
    y, x = np.mgrid[:30, :30] * pixel
    apart = np.hypot(y[..., None] - xy[:, 1], x[..., None] - xy[:, 0]).min(axis=-1, initial=np.inf)
    clear = np.abs(apart - 0.5) > 1e-9
    assert np.array_equal(column_mask(xy, 30, pixel)[clear], (apart < 0.5)[clear])
