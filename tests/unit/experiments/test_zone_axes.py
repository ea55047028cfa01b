"""Zone axes named from rendered crystals in known directions, with the faults of real scans."""

import numpy as np
import pytest

from atomvision_ml.experiments.diffraction_spots import find_spots
from atomvision_ml.experiments.reference_phases import crystal_of, reference_phases
from atomvision_ml.experiments.spot_lattice import SpotLattice, lattice_of_spots
from atomvision_ml.experiments.zone_axes import ZoneAxisParameters, is_decided, name_zone_axis, projected_lattices
from atomvision_ml.images.stem import Projection, View, render_batch

PIXEL = 0.18
PHASES = reference_phases()


def seen_along(phase: str, uvw: tuple[int, int, int], distortion: np.ndarray, rotation_deg: float) -> np.ndarray:
    """One repeat of a crystal along a direction, atom by atom: no lattice of the projection is assumed."""
    crystal = crystal_of(PHASES[phase])
    cell = np.linalg.inv(crystal.reciprocal).T
    reach = int(60 / np.linalg.norm(cell, axis=1).min()) + 1
    whole = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    axis = np.array(uvw) @ cell
    period = np.linalg.norm(axis)
    axis = axis / period
    first = np.cross(axis, [0.3, 0.5, 0.81])
    first /= np.linalg.norm(first)
    plane = np.stack([first, np.cross(axis, first)], axis=1)
    points, weights = [], []
    for number, place in zip(crystal.numbers, crystal.positions, strict=True):
        atoms = (whole + place) @ cell
        height = atoms @ axis / period
        atoms = atoms[(height > -0.501) & (height < 0.499)]
        points.append(atoms @ plane)
        weights.append(np.full(len(atoms), float(number) ** 1.7))
    angle = np.radians(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = np.concatenate(points) @ (distortion @ turn).T
    near = np.all(np.abs(flat) < 30, axis=1)
    moved = flat[near] + 128 * PIXEL
    image = render_batch([Projection(moved, np.concatenate(weights)[near], np.zeros((0, 2)))], [View(PIXEL, 256)])[0]
    random = np.random.default_rng(int(rotation_deg))
    return random.poisson(200 * image / image.mean()).astype(float)


def lattice_in(image: np.ndarray, pixel: float = PIXEL) -> SpotLattice:
    found = lattice_of_spots(find_spots(image), (pixel, pixel))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("uvw", "cell"), [((0, 0, 1), (3.905, 3.905)), ((1, 1, 0), (2.761, 3.905)), ((1, 1, 1), (3.189, 3.189))]
)
def test_strontium_titanate_in_a_distorted_scan(uvw: tuple[int, int, int], cell: tuple[float, float]) -> None:
    distortion = np.array([[1.01, 0.012], [0.0, 0.99]])
    found = lattice_in(seen_along("SrTiO3", uvw, distortion, 17.0))
    axes = name_zone_axis(found, [PHASES["SrTiO3"]])
    assert is_decided(axes)
    assert axes[0].uvw == uvw
    assert np.hypot(*axes[0].reference.T) == pytest.approx(cell, abs=2e-3)
    assert np.allclose(axes[0].distortion.matrix, distortion, atol=3e-3)


def test_without_calibration_the_shape_names_the_axis() -> None:
    found = lattice_in(seen_along("SrTiO3", (1, 1, 0), np.eye(2), 31.0), 1.0)
    axes = name_zone_axis(found, [PHASES["SrTiO3"]], is_calibrated=False)
    assert axes[0].uvw == (1, 1, 0)
    assert axes[0].distortion.scale == pytest.approx(1)


def test_other_phases_of_the_same_cell_leave_it_open() -> None:
    found = lattice_in(seen_along("Pt", (0, 0, 1), np.eye(2), 8.0))
    alone, among = (name_zone_axis(found, [PHASES[name] for name in names]) for names in (["Pt"], ["Pt", "Pd"]))
    assert is_decided(alone)
    assert not is_decided(among)
    assert sum(axis.probability for axis in among) == pytest.approx(1)
    assert not name_zone_axis(found, [PHASES["SnS"]], ZoneAxisParameters(largest_deviation=1.0))


@pytest.mark.parametrize("name", ["Au", "Fe3O4", "Fe2O3", "SnS"])
def test_projected_cells_generate_every_reflection_of_their_zone(name: str) -> None:
    from atomvision_ml.experiments.reference_phases import reflections

    parameters = ZoneAxisParameters(largest_index=2)
    planes = reflections(PHASES[name], parameters.smallest_d_angstrom, parameters.least_intensity)
    for uvw, cell in projected_lattices(PHASES[name], parameters):
        lengths = np.linalg.norm(planes.vectors[planes.hkl @ np.array(uvw) == 0], axis=1)
        reach = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 2), axis=-1).reshape(-1, 2)
        known = np.linalg.norm(reach @ np.linalg.inv(cell).T, axis=1)
        assert np.abs(lengths[:, None] - known[None]).min(axis=1).max() < 1e-6
