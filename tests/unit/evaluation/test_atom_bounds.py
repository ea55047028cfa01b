import numpy as np
import pytest

from atomvision_ml.evaluation.atom_bounds import position_bounds
from atomvision_ml.images.columns import columns_in_view, columns_of
from atomvision_ml.images.stem import Projection, View, render_batch


def graphene():
    a = 2.46
    periods = np.array([[a, 0], [a / 2, a * np.sqrt(0.75)]])
    return Projection(np.array([[0, 0], [a / 2, a / np.sqrt(12)]]), np.full(2, 6**1.7), periods)


def bounds(projection, view, **changes):
    image = render_batch([projection], [view], precision="float64")[0]
    columns = columns_in_view(columns_of(projection), projection.periods_angstrom, view).positions_angstrom
    middle = columns[np.argsort(np.abs(columns - view.field_angstrom / 2).max(axis=1))[:3]]
    return position_bounds(image, projection, view, middle, **{"mean_detected_e_per_a2": 1000.0, **changes})


def test_graphene_is_as_known():
    view = View(0.15, 96, 20.0, (0.3, 0.1))
    assert bounds(graphene(), view) == pytest.approx(np.full((3, 2), 0.020), rel=0.02)
    assert bounds(graphene(), view, mean_detected_e_per_a2=100.0) == pytest.approx(np.full((3, 2), 0.063), rel=0.02)


def test_lonely_atoms_are_known_to_sigma_over_the_root_of_their_counts():
    cell = Projection(np.zeros((1, 2)), np.ones(1), 6 * np.eye(2))
    assert bounds(cell, View(0.2, 60, 0.0, (2.9, 2.9))) == pytest.approx(
        np.full((3, 2), 0.5 / np.sqrt(1000 * 36)), rel=0.02
    )


def test_pixels_hardly_matter():
    fine, coarse = (bounds(graphene(), View(pixel, round(14 / pixel), 20.0, (0.3, 0.1))) for pixel in (0.1, 0.25))
    assert coarse == pytest.approx(fine, rel=0.03)


def test_atoms_of_one_column_move_together():
    """Two atoms at one place, or one of their sum: the same image, the same bound."""
    one = Projection(np.array([[0.0, 0.0], [1.6, 1.6]]), np.array([2.0, 1.0]), 3.2 * np.eye(2))
    two = Projection(np.array([[0.0, 0.0], [1.6, 1.6], [0, 0]]), np.array([1.5, 1.0, 0.5]), 3.2 * np.eye(2))
    view = View(0.2, 64)
    assert bounds(two, view) == pytest.approx(bounds(one, view), rel=1e-6)


def test_no_dose_is_an_error():
    with pytest.raises(ValueError, match="positive dose"):
        bounds(graphene(), View(0.2, 64), mean_detected_e_per_a2=0.0)
