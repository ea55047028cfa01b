"""The lattice finder on crystals of all classes, on images that are not crystals, and its physics as properties."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from atomvision_ml.images.stem import render
from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

Image = NDArray[np.float64]
PIXEL = 0.2

CELLS = {
    "hexagonal": [[3.1, 0.0], [-1.55, 3.1 * np.sqrt(0.75)]],
    "square": [[3.8, 0.0], [0.0, 3.8]],
    "rectangular": [[3.3, 0.0], [0.0, 4.5]],
    "rhombic": [[3.6, 0.0], [3.6 * np.cos(1.3), 3.6 * np.sin(1.3)]],
    "oblique": [[3.4, 0.0], [0.9, 5.1]],
}


def crystal(cell: object, second: int = 16, fraction: tuple[float, float] = (0.37, 0.21)) -> Atoms:
    """Mo at the origin and a second atom at a place without symmetry."""
    vectors = np.zeros((3, 3))
    vectors[:2, :2] = np.asarray(cell)
    vectors[2, 2] = 20.0
    return Atoms([42, second], scaled_positions=[(0, 0, 0.5), (*fraction, 0.5)], cell=vectors, pbc=(True, True, False))


def image_of(atoms: Atoms, size: int = 160, dose: float | None = None, **options: object) -> Image:
    return render(atoms, pixel_size_angstrom=PIXEL, size=size, mean_detected_e_per_a2=dose, **options)


def same_lattice(found: Image, true: Image, tolerance: float = 0.01) -> bool:
    change = found @ np.linalg.inv(true)
    is_whole = np.abs(change - np.rint(change)).max() * np.linalg.norm(true, axis=1).max() < tolerance
    return bool(is_whole and abs(abs(np.linalg.det(np.rint(change))) - 1) < 1e-9)


def turned(cell: object, angle_deg: float) -> Image:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.asarray(cell, float) @ np.array([[c, s], [-s, c]])


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(BRAVAIS_LATTICES),
    angle_deg=st.floats(0, 360),
    shift=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    dose=st.sampled_from([None, 1e3, 1e2]),
)
def test_every_class_at_any_rotation_shift_and_dose(
    name: str, angle_deg: float, shift: tuple[float, float], dose: float | None
) -> None:
    image = image_of(crystal(CELLS[name]), rotation_deg=angle_deg, shift_angstrom=shift, dose=dose, seed=3)
    result = find_lattice(image, PIXEL)
    vectors = result.lattice_vectors_angstrom
    assert result.lattice == name == max(result.probabilities, key=lambda each: result.probabilities[each])
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert tuple(result.probabilities) == BRAVAIS_LATTICES
    assert same_lattice(vectors, turned(CELLS[name], angle_deg))
    assert np.linalg.det(vectors) > 0
    assert np.linalg.norm(vectors[0]) <= np.linalg.norm(vectors[1]) * (1 + 1e-9)
    assert abs(vectors[0] @ vectors[1]) <= vectors[0] @ vectors[0] * (0.5 + 1e-3)


def test_uncertainties_are_the_spread_over_repetitions() -> None:
    atoms = crystal(CELLS["oblique"])
    results = [find_lattice(image_of(atoms, size=128, dose=1e2, seed=seed), PIXEL) for seed in range(40)]
    true = np.asarray(CELLS["oblique"])
    deviations = []
    for result in results:
        change = np.rint(result.lattice_vectors_angstrom @ np.linalg.inv(true))
        deviations.append((result.lattice_vectors_angstrom - change @ true) / result.uncertainties_angstrom)
    assert np.sqrt(np.mean(np.square(deviations))) == pytest.approx(1.0, abs=0.25)


def test_vectors_scale_with_the_pixel_size() -> None:
    image = image_of(crystal(CELLS["rhombic"]), rotation_deg=20)
    one, two = find_lattice(image, PIXEL), find_lattice(image, 2 * PIXEL)
    np.testing.assert_allclose(two.lattice_vectors_angstrom, 2 * one.lattice_vectors_angstrom, rtol=1e-12)
    np.testing.assert_allclose(two.uncertainties_angstrom, 2 * one.uncertainties_angstrom, rtol=1e-9)


def test_transposed_image_has_the_mirrored_lattice() -> None:
    image = image_of(crystal(CELLS["oblique"]), rotation_deg=31)
    vectors = find_lattice(image.T, PIXEL).lattice_vectors_angstrom
    assert same_lattice(vectors[:, ::-1], turned(CELLS["oblique"], 31))
    assert np.linalg.det(vectors) > 0


def centred(light: int) -> Atoms:
    """A rectangular lattice of Mo with a centred one's positions; a light atom in one half only breaks the centring."""
    cell = np.diag([3.4, 5.8, 20.0])
    places = [(0, 0, 0.5), (0.5, 0.5, 0.5), (0.5, 0.08, 0.5)]
    return Atoms([42, 42, light], scaled_positions=places, cell=cell, pbc=(True, True, False))


@pytest.mark.parametrize("light", [8, 16])
def test_weak_superlattice_reflections_break_the_centring(light: int) -> None:
    result = find_lattice(image_of(centred(light), size=200, dose=3e2, rotation_deg=17), PIXEL)
    assert result.lattice == "rectangular"
    assert same_lattice(result.lattice_vectors_angstrom, turned(np.diag([3.4, 5.8]), 17))


def test_true_centring_is_not_broken_by_noise() -> None:
    atoms = centred(8)[:2]
    for seed in range(8):
        image = image_of(atoms, size=128, dose=1e2, rotation_deg=17 + 11 * seed, seed=seed)
        result = find_lattice(image, PIXEL)
        assert result.lattice == "rhombic"
        assert np.linalg.det(result.lattice_vectors_angstrom) == pytest.approx(3.4 * 5.8 / 2, rel=1e-3)


def test_supercell_of_the_structure_is_seen_through() -> None:
    layer = mx2("MoS2", vacuum=8.0)
    layer.pbc = (True, True, False)
    result = find_lattice(image_of(layer.repeat((2, 3, 1)), size=200), PIXEL)
    assert result.lattice == "hexagonal"
    np.testing.assert_allclose(np.linalg.norm(result.lattice_vectors_angstrom, axis=1), 3.18, atol=1e-3)


def test_background_vignetting_and_offset_change_nothing() -> None:
    plain = image_of(crystal(CELLS["rectangular"]), size=256, dose=1e3, rotation_deg=40)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    spoilt = plain * (1 - 0.25 * (x**2 + y**2)) + plain.mean() * (30 + 8 * x - 5 * y)
    one, two = find_lattice(plain, PIXEL), find_lattice(spoilt, PIXEL)
    assert one.lattice == two.lattice == "rectangular"
    np.testing.assert_allclose(two.lattice_vectors_angstrom, one.lattice_vectors_angstrom, atol=2e-3)


def test_hot_pixels_and_dead_lines_change_nothing() -> None:
    image = image_of(crystal(CELLS["hexagonal"]), size=256)
    image[100, 17] = 1e6 * image.max()
    image[200:202] = 0
    assert find_lattice(image, PIXEL).lattice == "hexagonal"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
def test_any_number_type_and_shape(dtype: str) -> None:
    image = image_of(graphene(vacuum=8.0), size=256)[:130, :]
    result = find_lattice((image / image.max() * 255).astype(dtype), PIXEL)
    assert result.lattice == "hexagonal"


def test_fine_sampling_of_a_large_image() -> None:
    image = render(crystal(CELLS["oblique"]), pixel_size_angstrom=0.05, size=768)
    assert same_lattice(find_lattice(image, 0.05).lattice_vectors_angstrom, np.asarray(CELLS["oblique"]))


def random_blobs() -> Image:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(0).normal(size=(200, 200)), 3)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.ones((64, 64)), "constant"),
        (np.add.outer(np.arange(64.0), 3 * np.arange(64.0)), "constant up to"),
        (np.zeros((8, 8)), "too small"),
        (np.random.default_rng(0).normal(size=(200, 200)), "significant reflections"),
        (np.tile(np.sin(np.arange(200) * 0.7), (200, 1)), "lattice needs two|one line"),
        (random_blobs(), "do not form one lattice"),
    ],
)
def test_images_without_a_lattice_say_why(image: Image, reason: str) -> None:
    with pytest.raises(NoLatticeError, match=reason):
        find_lattice(image, PIXEL)


@pytest.mark.parametrize(
    ("image", "pixel_size", "reason"),
    [
        (np.ones((64, 64, 3)), PIXEL, "shape"),
        (np.ones(64), PIXEL, "shape"),
        (np.full((64, 64), np.nan), PIXEL, "not finite"),
        (np.where(np.eye(64) > 0, np.inf, 1.0), PIXEL, "64 of 4096"),
        (np.ones((64, 64)) * 1j, PIXEL, "real numbers"),
        (np.ones((64, 64)), 0.0, "pixel_size_angstrom"),
        (np.ones((64, 64)), float("nan"), "pixel_size_angstrom"),
    ],
)
def test_bad_input_is_refused(image: Image, pixel_size: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        find_lattice(image, pixel_size)
    assert not isinstance(refusal.value, NoLatticeError)


def test_too_few_periods_are_admitted() -> None:
    cell = np.diag([14.0, 15.0])
    image = image_of(crystal(cell), size=140, dose=1e3, rotation_deg=10)
    try:
        result = find_lattice(image, PIXEL)
    except NoLatticeError:
        return
    assert max(result.probabilities.values()) < 0.7


def test_a_cell_between_two_classes_is_not_certain() -> None:
    strain = 0.003
    cell = np.array([[3.8 * (1 + strain), 0.0], [0.0, 3.8 * (1 - strain)]])
    sure = find_lattice(image_of(crystal(CELLS["square"]), dose=1e3), PIXEL).probabilities["square"]
    unsure = find_lattice(image_of(crystal(cell), dose=1e3), PIXEL).probabilities
    assert sure > 0.95
    assert 0.1 < unsure["square"] < 0.9
    assert unsure["square"] + unsure["rectangular"] > 0.9


def test_a_wavy_scan_shows_no_superlattice_to_who_allows_for_it() -> None:
    """Rows slip to and fro by 0.08 Å with a period of three cells, and drift by 1 %."""
    rows = np.arange(160) * PIXEL
    slips = 0.08 * np.sin(2 * np.pi * rows / (3 * 3.8)) + 0.02 * rows
    image = np.array([np.interp(rows - slip, rows, row) for slip, row in zip(slips, scanned(), strict=True)])
    image = np.random.default_rng(0).poisson(image[:, 10:-10] * 40)
    assert find_lattice(image, PIXEL).lattice != "square"
    allowed = find_lattice(image, PIXEL, LatticeFinderParameters(scan_distortion_percent=1.0))
    assert allowed.lattice == "square"
    assert np.linalg.norm(allowed.lattice_vectors_angstrom, axis=1) == pytest.approx([3.8, 3.8], rel=0.02)


def scanned() -> Image:
    return image_of(crystal(CELLS["square"]))


def test_parameters_are_frozen_and_checked() -> None:
    with pytest.raises(ValidationError):
        LatticeFinderParameters(class_tolerance=-1)
    with pytest.raises(ValidationError):
        LatticeFinderParameters(unknown=1)


def test_the_class_tolerance_is_the_callers() -> None:
    cell = np.array([[3.8, 0.0], [0.0, 3.8 * 1.02]])
    image = image_of(crystal(cell), dose=1e3)
    assert find_lattice(image, PIXEL).lattice == "rectangular"
    assert find_lattice(image, PIXEL, LatticeFinderParameters(class_tolerance=0.02)).lattice == "square"


def test_import_needs_no_torch() -> None:
    heavy = "{'torch', 'skimage', 'matplotlib'}"
    code = f"import sys, atomvision_ml.models.lattice_finder; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
