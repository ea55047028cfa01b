"""Lattice, distortion, strain and columns measured in rendered images whose truth is known."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atomvision_ml.experiments.diffraction_spots import find_spots
from atomvision_ml.experiments.distortion import affine_distortion, frame_drift_px, line_jitter_px
from atomvision_ml.experiments.spot_columns import find_columns, intensity_classes
from atomvision_ml.experiments.spot_lattice import lattice_of_spots
from atomvision_ml.experiments.strain import bend_of_rows, strain_map
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch

PIXEL = 0.2
CUBE = 3.905


def render(projection: Projection, view: View) -> np.ndarray:
    return render_batch([projection], [view])[0].astype(float)


def affine(scale_x: float, scale_y: float, shear_deg: float) -> np.ndarray:
    return np.array([[scale_x, np.tan(np.radians(shear_deg)) * scale_y], [0, scale_y]])


def perovskite(distortion: np.ndarray, rotation_deg: float = 0.0) -> Projection:
    """Two columns of a square cell, turned, then distorted."""
    angle = np.radians(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    whole = (distortion @ turn).T
    return Projection(np.array([[0, 0], [CUBE / 2, CUBE / 2]]) @ whole, np.array([400.0, 220.0]), CUBE * whole)


def noisy(image: np.ndarray, dose: float, seed: int = 0, **scan: float) -> np.ndarray:
    parameters = DetectorParameters(mean_detected_e_per_a2=dose, **scan)
    return detect(image, PIXEL, parameters, seed=seed).astype(float)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scale_x=st.floats(0.96, 1.04),
    scale_y=st.floats(0.96, 1.04),
    shear=st.floats(-2, 2),
    rotation=st.floats(-40, 40),
    seed=st.integers(0, 1000),
)
def test_affine_distortion_is_measured_within_its_uncertainty(
    scale_x: float, scale_y: float, shear: float, rotation: float, seed: int
) -> None:
    truth = affine(scale_x, scale_y, shear)
    image = noisy(render(perovskite(truth, rotation), View(PIXEL, 256)), 300.0, seed)
    found = lattice_of_spots(find_spots(image), (PIXEL, PIXEL))
    assert found is not None
    measured = affine_distortion(found.cell, CUBE * np.eye(2), found.covariance)
    assert np.allclose(measured.matrix, truth, atol=2e-3)
    told = np.array([measured.scale_x - scale_x, measured.scale_y - scale_y, measured.shear_deg - shear])
    assert np.all(np.abs(told) < 5 * np.array(measured.sigmas))
    assert measured.rotation_deg == pytest.approx(rotation, abs=0.1)


def test_anisotropic_pixels_give_the_same_cell() -> None:
    image = render(perovskite(np.eye(2), 20.0), View(PIXEL, 256))
    wide = image.reshape(256, 128, 2).mean(axis=2)
    square = lattice_of_spots(find_spots(image), (PIXEL, PIXEL))
    other = lattice_of_spots(find_spots(wide), (2 * PIXEL, PIXEL))
    assert square is not None
    assert other is not None
    assert np.allclose(square.cell, other.cell, atol=5e-3)
    assert square.lattice == "square"


def test_noise_and_one_set_of_fringes_have_no_lattice() -> None:
    noise = np.random.default_rng(5).normal(size=(128, 128))
    fringes = noise + 3 * np.sin(np.arange(128) * 0.6)[None, :]
    for image in (noise, fringes):
        assert lattice_of_spots(find_spots(image)) is None


def test_jitter_of_lines() -> None:
    clean = render(perovskite(np.eye(2), 10.0), View(PIXEL, 256))
    for jitter in (0.0, 0.1, 0.3):
        found = [line_jitter_px(noisy(clean, 3e3, seed, line_jitter_angstrom=jitter)) for seed in range(3)]
        assert np.mean(found) == pytest.approx(jitter / PIXEL, abs=0.15)


def test_drift_between_frames() -> None:
    path = np.array([[0.0, 0.0], [0.7, -0.3], [1.6, -0.9], [2.0, -1.7]])
    crystal = perovskite(np.eye(2))
    views = [View(PIXEL, 192, 0.0, (float(x * PIXEL), float(y * PIXEL))) for x, y in path]
    frames = [noisy(render(crystal, view), 1e3, seed) for seed, view in enumerate(views)]
    assert np.allclose(frame_drift_px(frames), path, atol=0.21)
    assert frame_drift_px([]).shape == (0, 2)
    with pytest.raises(ValueError, match="one shape"):
        frame_drift_px([np.zeros((8, 8)), np.zeros((8, 9))])


def displaced(field: np.ndarray, size: int) -> np.ndarray:
    """Atoms of a square lattice moved by u_x(y) = field[0](y), u_y = field[1](y), rendered one by one."""
    steps = np.arange(-3, size * PIXEL / CUBE + 3) * CUBE
    x, y = (axis.ravel() for axis in np.meshgrid(steps, steps))
    rows = np.arange(size) * PIXEL
    moved = np.column_stack([x + np.interp(y, rows, field[0]), y + np.interp(y, rows, field[1])])
    return render(Projection(moved, np.full(len(moved), 100.0), np.zeros((0, 2))), View(PIXEL, size))


def test_strain_and_drift_within_the_frame() -> None:
    size = 320
    place = np.linspace(-1, 1, size)
    field = np.array([0.5 * place**2, 0.3 * np.sin(2 * place)])
    image = noisy(displaced(field, size), 2e3)
    waves = PIXEL / CUBE * np.eye(2)
    found = strain_map(image, waves, noise=float(np.sqrt(image.mean())))
    assert found is not None
    at = np.interp(found.y, np.arange(size), np.arange(size)).astype(int)
    slope = np.gradient(field, axis=1)[:, at] / PIXEL
    slope -= np.median(slope, axis=1, keepdims=True)
    inner = slice(2, -2)
    assert np.allclose(np.nanmedian(found.strain[1], axis=1)[inner], slope[1][inner], atol=3e-3)
    assert np.allclose(2 * np.nanmedian(found.strain[2], axis=1)[inner], slope[0][inner], atol=3e-3)
    assert np.nanstd(found.strain[0]) < 4 * found.strain_sigma + 1e-3
    bend = bend_of_rows(found.row_displacement)
    assert np.allclose(bend[:, inner] * PIXEL, bend_of_rows(field[:, at])[:, inner], atol=0.03)


def test_a_perfect_crystal_has_no_strain_beyond_the_noise() -> None:
    image = noisy(render(perovskite(np.eye(2), 15.0), View(PIXEL, 256)), 500.0)
    spots = find_spots(image)
    found = strain_map(image, spots.frequencies[:2], noise=float(np.sqrt(image.mean())))
    assert found is not None
    spread = 1.4826 * np.nanmedian(np.abs(found.strain[0]))
    assert 0.3 * found.strain_sigma < spread < 3 * found.strain_sigma
    assert max(found.spread()) < 3 * found.strain_sigma


def test_too_few_periods_have_no_map_and_one_direction_is_refused() -> None:
    assert strain_map(np.random.default_rng(0).normal(size=(32, 32)), 0.05 * np.eye(2)) is None
    with pytest.raises(ValueError, match="collinear"):
        strain_map(np.zeros((64, 64)), [[0.1, 0.0], [0.2, 0.0]])


def test_columns_lie_where_they_were_drawn() -> None:
    crystal = perovskite(np.eye(2), 5.0)
    image = noisy(render(crystal, View(PIXEL, 256)), 2e4)
    found = find_columns(image, 0.5 / PIXEL)
    inverse = np.linalg.inv(crystal.periods_angstrom)
    inner = np.all((found.positions > 8) & (found.positions < 247), axis=1)
    atoms = found.positions[inner] * PIXEL
    steps = (atoms[:, None, :] - crystal.positions_angstrom[None]) @ inverse
    away = np.linalg.norm((steps - np.rint(steps)) @ crystal.periods_angstrom, axis=2)
    assert away.min(axis=1).max() < 0.06
    assert np.median(away.min(axis=1)) < 3 * np.median(found.position_sigmas) * PIXEL
    assert len(found.class_intensities) == 2
    assert np.array_equal(found.classes[inner], away.argmin(axis=1))
    assert found.sigma * PIXEL == pytest.approx(0.5, rel=0.05)
    assert found.elongation < 0.03
    cells = (246 * PIXEL / CUBE) ** 2
    assert len(found) == pytest.approx(2 * cells, rel=0.05)


def test_groups_of_intensity() -> None:
    random = np.random.default_rng(4)
    two = np.concatenate([random.normal(10, 0.5, 100), random.normal(5, 0.5, 60)])
    classes, levels = intensity_classes(two)
    assert levels == pytest.approx((10, 5), rel=0.03)
    assert np.bincount(classes).tolist() == [100, 60]
    assert len(intensity_classes(random.normal(10, 3, 200))[1]) == 1
    assert intensity_classes([])[1] == ()


def test_a_field_without_columns() -> None:
    assert len(find_columns(np.ones((40, 40)), 2.0)) == 0
    with pytest.raises(ValueError, match="sigma_px"):
        find_columns(np.ones((40, 40)), 0.0)
