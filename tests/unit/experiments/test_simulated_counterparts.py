"""Simulated counterparts: the pose that made an image is found again, and another crystal resembles it less."""

import numpy as np
import pytest

from atomvision_ml.experiments.matching import matching_cells, simulate_match
from atomvision_ml.experiments.reference_phases import reference_phases
from atomvision_ml.experiments.zone_axes import projected_phase
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.structures.lattice import reduce_cell

PIXEL = 0.2
POLAR = Projection(np.array([[0, 0], [1.0, 0.7]]), np.array([300.0, 120.0]), np.array([[3.2, 0], [0, 4.1]]))
"""A rectangular cell whose motif has no symmetry: only one of its four poses is right."""


def posed(crystal: Projection, map_: np.ndarray, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The image of a mapped crystal, and its reduced cell."""
    moved = Projection(crystal.positions_angstrom @ map_.T, crystal.weights, crystal.periods_angstrom @ map_.T)
    clean = render_batch([moved], [View(PIXEL, 256, 0.0, shift)])[0]
    counts = detect(clean, PIXEL, DetectorParameters(mean_detected_e_per_a2=2e3), seed=3)
    return counts.astype(float), reduce_cell(moved.periods_angstrom)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["as-is", "mirrored"])
@pytest.mark.parametrize("angle_deg", [0, 130, 200])
def test_the_pose_is_found(angle_deg: float, is_mirrored: bool) -> None:
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    map_ = np.array([[1.02, 0.01], [0, 0.985]]) @ turn @ np.diag([1.0, -1.0 if is_mirrored else 1.0])
    image, cell = posed(POLAR, map_, (1.3, -0.4))
    found = simulate_match(image, PIXEL, cell, POLAR, sigma=0.5)
    assert found is not None
    assert found.similarity > 0.95
    assert np.allclose(found.distortion, map_, atol=1e-6)


def test_another_motif_resembles_it_less_and_another_lattice_is_refused() -> None:
    image, cell = posed(POLAR, np.eye(2), (0.5, 0.5))
    centred = Projection(np.array([[0, 0], [1.6, 2.05]]), np.array([300.0, 300.0]), POLAR.periods_angstrom)
    right, wrong = (simulate_match(image, PIXEL, cell, crystal, sigma=0.5) for crystal in (POLAR, centred))
    assert right is not None
    assert wrong is not None
    assert wrong.similarity < right.similarity - 0.2
    square = Projection(np.zeros((1, 2)), np.ones(1), 3.2 * np.eye(2))
    assert simulate_match(image, PIXEL, cell, square, sigma=0.5) is None


def test_dark_columns_match_the_negative() -> None:
    image, cell = posed(POLAR, np.eye(2), (0.5, 0.5))
    found = simulate_match(-image, PIXEL, cell, POLAR, sigma=0.5, is_dark=True)
    assert found is not None
    assert found.similarity > 0.95


def test_phases_are_projected_with_all_their_atoms() -> None:
    crystal = projected_phase(reference_phases()["SrTiO3"], (1, 1, 0))
    assert np.hypot(*crystal.periods_angstrom.T) == pytest.approx((2.761, 3.905), abs=1e-3)
    image, cell = posed(crystal, np.eye(2), (0.0, 0.0))
    found = simulate_match(image, PIXEL, cell, crystal, sigma=0.5)
    assert found is not None
    assert found.similarity > 0.95


def test_rows_of_the_same_cell() -> None:
    rows = [
        {"slab_id": name, "primitive_cell_angstrom": cell}
        for name, cell in (
            ("same", [3.2, 0, 0, 4.1]),
            ("turned", [0, -3.23, 4.15, 0]),
            ("larger", [3.6, 0, 0, 4.6]),
            ("square", [3.6, 0, 0, 3.6]),
            ("unknown", None),
        )
    ]
    found = matching_cells([[3.2, 0.0], [0.0, 4.1]], rows)
    assert [each.row["slab_id"] for each in found] == ["same", "turned"]
    assert found[1].scale == pytest.approx(3.2 / 3.23, rel=5e-3)
