"""The steps of the lattice finder: spectrum, candidate lattices, least squares, evidence, class probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.models.lattice_classes import class_probabilities, mix, strain_sigmas
from atomvision_ml.models.lattice_evidence import finer_lattices, log_bayes_factor, off_lattice, sublattice_matrices
from atomvision_ml.models.lattice_harmonics import fit_harmonics, harmonic_indices, refine_basis
from atomvision_ml.models.lattice_peaks import candidate_lattices
from atomvision_ml.models.lattice_spectrum import power_spectrum, significant_peaks
from atomvision_ml.structures.lattice import reduce_cell

BASIS = np.array([[0.061, 0.013], [-0.02, 0.083]])
SIGMAS = dict.fromkeys(("hexagonal", "square", "rectangular", "rhombic"), 1e-4)


def waves(shape: tuple[int, int], basis: np.ndarray, amplitudes: dict[tuple[int, int], complex]) -> np.ndarray:
    y = np.arange(shape[0])[:, None] - (shape[0] - 1) / 2
    x = np.arange(shape[1])[None, :] - (shape[1] - 1) / 2
    image = np.zeros(shape)
    for pair, amplitude in amplitudes.items():
        kx, ky = np.array(pair) @ basis
        image += 2 * (amplitude * np.exp(2j * np.pi * (kx * x + ky * y))).real
    return image


AMPLITUDES = {(1, 0): 1.0 + 0.5j, (0, 1): -0.7 + 0.1j, (1, 1): 0.3j, (2, -1): 0.2}


@pytest.mark.parametrize("shape", [(96, 96), (81, 130)])
def test_harmonics_are_recovered_exactly_on_any_rectangle(shape: tuple[int, int]) -> None:
    indices = np.array(list(AMPLITUDES))
    fit = fit_harmonics(waves(shape, BASIS, AMPLITUDES) + 4.0, BASIS, indices)
    np.testing.assert_allclose(fit.amplitudes, list(AMPLITUDES.values()), atol=1e-4)
    assert np.abs(fit.residual).max() < 1e-3
    np.testing.assert_allclose(fit.model + fit.residual, waves(shape, BASIS, AMPLITUDES) + 4.0)


def test_refinement_finds_the_basis_from_a_tenth_of_a_bin_away() -> None:
    image = waves((128, 128), BASIS, AMPLITUDES)
    start = BASIS + np.array([[1, -1], [0.5, 1]]) * 0.1 / 128
    refined = refine_basis(image, start, np.array(list(AMPLITUDES)), steps=6)
    np.testing.assert_allclose(refined.fit.basis, BASIS, atol=1e-7)


def test_amplitude_variances_are_those_of_white_noise() -> None:
    indices = np.array(list(AMPLITUDES))
    random = np.random.default_rng(0)
    fits = [fit_harmonics(random.normal(size=(48, 48)), BASIS, indices) for _ in range(300)]
    spread = np.mean([np.abs(fit.amplitudes) ** 2 for fit in fits], axis=0)
    np.testing.assert_allclose(spread, fits[0].variances, rtol=0.25)


def test_harmonic_indices_are_half_a_disk() -> None:
    indices = harmonic_indices(BASIS, 0.3)
    both = {tuple(pair) for pair in indices} | {tuple(-pair) for pair in indices}
    grid = [(h, k) for h in range(-9, 10) for k in range(-9, 10) if (h, k) != (0, 0)]
    assert both == {pair for pair in grid if np.linalg.norm(np.array(pair) @ BASIS) <= 0.3}
    assert len(both) == 2 * len(indices)


def test_peaks_lie_between_samples_and_side_lobes_are_none() -> None:
    image = waves((200, 200), BASIS, AMPLITUDES) + np.random.default_rng(0).normal(size=(200, 200)) * 0.01
    peaks = significant_peaks(power_spectrum(image, is_windowed=True), threshold=20.0, most=64)
    assert len(peaks) == len(AMPLITUDES)
    coordinates = peaks.frequencies @ np.linalg.inv(BASIS)
    np.testing.assert_allclose(coordinates, np.rint(coordinates), atol=0.03 / 200 / 0.06)


def test_noise_floor_is_the_mean_power_of_noise() -> None:
    spectrum = power_spectrum(np.random.default_rng(1).normal(size=(256, 256)) * 3, is_windowed=False)
    frequencies = np.array([[0.1, 0.1], [0.3, -0.2]])
    np.testing.assert_allclose(spectrum.noise_at(frequencies), 9 * 256**2, rtol=0.1)
    many = np.random.default_rng(2).uniform(-0.45, 0.45, (4000, 2))
    assert spectrum.power_at(many).mean() == pytest.approx(9 * 256**2, rel=0.1)


@settings(max_examples=50, deadline=None)
@given(angle=st.floats(20, 160), ratio=st.floats(1, 3), turn=st.floats(0, 6.28), drop=st.integers(0, 2**16))
def test_candidates_contain_the_lattice_of_the_peaks(angle: float, ratio: float, turn: float, drop: int) -> None:
    second = ratio * np.exp(1j * np.radians(angle))
    basis = reduce_cell(10 * np.array([[1, 0], [second.real, second.imag]]))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    indices = harmonic_indices(basis @ rotation, 35.0)
    indices = indices[np.random.default_rng(drop).permutation(len(indices))[: max(8, len(indices) // 2)]]
    frequencies = indices @ basis @ rotation + np.random.default_rng(drop).normal(0, 0.03, (len(indices), 2))
    # What the peaks generate may be a sublattice of the basis.
    found = candidate_lattices(frequencies)
    ratios = [abs(np.linalg.det(each.basis) / np.linalg.det(basis)) for each in found]
    assert found[0].agreement > 3
    assert any(abs(each - round(each)) < 0.05 and round(each) >= 1 for each in ratios)


def test_peaks_on_a_line_have_no_lattice() -> None:
    assert candidate_lattices(np.arange(1, 6)[:, None] * np.array([[7.0, 3.0]])) == []


@pytest.mark.parametrize(("index", "count"), [(2, 3), (3, 4), (4, 7), (5, 6), (6, 12)])
def test_sublattices_are_all_different(index: int, count: int) -> None:
    points = np.array([(h, k) for h in range(-12, 13) for k in range(-12, 13)])
    members = {tuple(~off_lattice(points, matrix)) for matrix in sublattice_matrices(index)}
    assert len(members) == len(sublattice_matrices(index)) == count
    for matrix in sublattice_matrices(index):
        expected = points @ np.linalg.inv(matrix)
        np.testing.assert_array_equal(off_lattice(points, matrix), np.abs(expected - np.rint(expected)).max(1) > 1e-9)


def test_finer_lattices_contain_the_basis_and_differ() -> None:
    seen = []
    for index, finer in finer_lattices(BASIS, 4):
        change = BASIS @ np.linalg.inv(finer)
        np.testing.assert_allclose(change, np.rint(change), atol=1e-9)
        assert abs(np.linalg.det(change)) == pytest.approx(index)
        for other in seen:
            swap = finer @ np.linalg.inv(other)
            assert np.abs(swap - np.rint(swap)).max() > 1e-6 or abs(abs(np.linalg.det(swap)) - 1) > 1e-6
        seen.append(finer)


def test_evidence_grows_with_one_strong_reflection_and_is_calm_under_noise() -> None:
    envelope = np.full(60, 1e4)
    random = np.random.default_rng(0)
    noise = [log_bayes_factor(random.exponential(size=60), envelope) for _ in range(500)]
    assert max(noise) < 7
    quiet = np.full(60, 0.7)
    factors = [log_bayes_factor(np.where(np.arange(60) == 0, z, quiet), envelope) for z in (10, 20, 40)]
    assert factors == sorted(factors)
    assert factors[-1] > 15
    assert log_bayes_factor(np.empty(0), np.empty(0)) == 0.0


def test_many_weak_reflections_count_together() -> None:
    random = np.random.default_rng(1)
    assert log_bayes_factor(3.0 * random.exponential(size=100), np.full(100, 1e3)) > 10


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ([[3, 0], [-1.5, 3 * np.sqrt(0.75)]], "hexagonal"),
        ([[3, 0], [0, 3.001]], "square"),
        ([[3, 0], [0, 4]], "rectangular"),
        ([[3, 0], [3 * np.cos(1.3), 3 * np.sin(1.3)]], "rhombic"),
        ([[3, 0], [-0.7, 4]], "oblique"),
    ],
)
def test_class_probabilities_of_clear_cells(cell: list[list[float]], name: str) -> None:
    probabilities = class_probabilities(np.array(cell, float), SIGMAS, 0.003)
    assert probabilities[name] > 0.99
    assert sum(probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("cell", "plain", "name"),
    [
        ([[3, 0], [0, 3.075]], "rectangular", "square"),
        ([[3.04, 0], [-1.55, 2.59]], "oblique", "hexagonal"),
        ([[3, 0.05], [0, 4.2]], "oblique", "rectangular"),
        ([[3, 0], [0, 3.3]], "rectangular", "rectangular"),
        ([[3, 0], [-0.35, 4.2]], "oblique", "oblique"),
    ],
)
def test_of_classes_within_the_distortion_of_a_scan_the_most_symmetric_is_named(
    cell: list[list[float]], plain: str, name: str
) -> None:
    values, covariance = np.array(cell, float), 1e-10 * np.eye(4)
    perfect, distorted = (strain_sigmas(values, covariance, percent) for percent in (0.0, 1.0))
    assert perfect == strain_sigmas(values, covariance)
    for each in perfect:
        assert distorted[each] == pytest.approx(np.hypot(perfect[each], 0.01))
    for sigmas, said in ((perfect, plain), (distorted, name)):
        probabilities = class_probabilities(values, sigmas, 0.003)
        assert max(probabilities, key=lambda each: probabilities[each]) == said


def test_mixture_weighs_the_parts() -> None:
    square = class_probabilities(np.eye(2) * 3, SIGMAS, 0.003)
    oblique = class_probabilities(np.array([[3.0, 0], [-0.7, 4]]), SIGMAS, 0.003)
    mixed = mix([(3.0, square), (1.0, oblique)])
    assert mixed["square"] == pytest.approx(0.75, abs=0.01)
    assert mixed["oblique"] == pytest.approx(0.25, abs=0.01)


def test_strain_sigma_is_the_relative_length_error_over_root_two() -> None:
    cell = np.array([[3.0, 0], [0, 4.5]])
    covariance = np.diag([1e-6, 0, 0, 0])
    # |Δ ln(b/a)| = 1e-3/3, and the strain of a rectangle to the square is tanh of half of ln(b/a).
    derivative = 0.5 * (1 - np.tanh(0.5 * np.log(1.5)) ** 2)
    assert strain_sigmas(cell, covariance)["square"] == pytest.approx(derivative * 1e-3 / 3, rel=0.01)
