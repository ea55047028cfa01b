import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.images.atom_fit import (
    AtomFitParameters,
    fit_atoms,
    fit_intensities,
    inverse_diagonal,
    looks_like_counts,
    normal_matrix,
)
from atomvision_ml.images.detector import poisson_counts

GRAPHENE_ANGSTROM = 2.46


def honeycomb(size, pixel, shift=(0.0, 0.0), margin=1.5):
    """Positions (n, 2) of graphene in and around the field, at an odd angle."""
    a = GRAPHENE_ANGSTROM
    cell = np.array([[a, 0], [a / 2, a * np.sqrt(0.75)]])
    n = np.stack(np.meshgrid(np.arange(-40, 40), np.arange(-40, 40)), -1).reshape(-1, 2)
    sites = (n[:, None] @ cell + np.array([[0, 0], [a / 2, a / np.sqrt(12)]])).reshape(-1, 2)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    sites = sites @ turn.T + np.array([0.3, 0.7]) + shift
    return sites[((sites > -margin) & (sites < (size - 1) * pixel + margin)).all(axis=1)]


def image_of(positions, intensities, size, pixel, sigma=0.5):
    along = np.arange(size) * pixel
    x, y = (np.exp(-0.5 * ((along - positions[:, axis, None]) / sigma) ** 2) for axis in (0, 1))
    return (y * np.asarray(intensities)[:, None] / (2 * np.pi * sigma**2)).T @ x


def inner(positions, size, pixel):
    return ((positions > 1) & (positions < (size - 1) * pixel - 1)).all(axis=1)


@pytest.fixture(scope="module")
def sheet():
    """Graphene with intensities that vary from atom to atom: positions, intensities, image, start."""
    random = np.random.default_rng(0)
    positions = honeycomb(96, 0.15)
    intensities = random.uniform(15, 25, len(positions))
    start = positions + random.normal(0, 0.1, positions.shape)
    return positions, intensities, image_of(positions, intensities, 96, 0.15), start


def test_noiseless_overlapping_atoms_are_found_exactly(sheet):
    positions, intensities, image, start = sheet
    fit = fit_atoms(image, 0.15, start)
    is_inner = inner(positions, 96, 0.15)
    assert fit.is_converged
    assert np.abs(fit.positions_angstrom - positions)[is_inner].max() < 0.004
    assert np.abs(fit.intensities / intensities - 1)[is_inner].max() < 0.01
    assert np.abs(fit.model - image)[10:-10, 10:-10].max() < 1e-3 * image.max()


@pytest.mark.parametrize("dose", [1000, 100])
def test_fit_of_counts_reaches_the_bound_without_bias(dose):
    pixel, size = 0.15, 128
    positions = honeycomb(size, pixel)
    image = image_of(positions, np.full(len(positions), 20.0), size, pixel)
    scale = dose * pixel**2 / image.mean()
    matrix = normal_matrix(positions, np.full(len(positions), 20 * scale), 0.5, 1 / (image * scale), pixel)
    is_inner = np.flatnonzero(inner(positions, size, pixel))
    bound = inverse_diagonal(matrix, (3 * is_inner[:, None] + [1, 2]).ravel()).mean() ** 0.5
    errors = []
    for seed in range(3):
        start = positions + np.random.default_rng(seed).normal(0, 0.1, positions.shape)
        fit = fit_atoms(poisson_counts(image, pixel, dose, seed), pixel, start)
        errors.append((fit.positions_angstrom - positions)[is_inner])
    rmse = np.sqrt(np.mean(np.square(errors)))
    assert bound == pytest.approx({1000: 0.0200, 100: 0.0633}[dose], rel=0.05)  # about 2 and 6 pm
    assert 0.85 * bound < rmse < 1.15 * bound
    assert np.abs(np.mean(errors, axis=(0, 1))).max() < 4 * bound / np.sqrt(3 * len(is_inner))
    stated = fit.deviations(is_inner)[:, 1:]
    assert np.sqrt((stated**2).mean()) == pytest.approx(bound, rel=0.1)


@given(x=st.integers(-4, 4), y=st.integers(-4, 4), scale=st.floats(0.1, 1e3), offset=st.floats(0, 5))
@settings(max_examples=8, deadline=None)
def test_shifted_and_scaled_image_gives_shifted_and_scaled_atoms(x, y, scale, offset):
    pixel, size = 0.2, 48
    random = np.random.default_rng(1)
    positions = random.uniform(2.5, 7, (6, 2))
    start = positions + random.normal(0, 0.05, positions.shape)
    image = image_of(positions, np.arange(1, 7), size, pixel)
    moved = scale * (image_of(positions + np.array([x, y]) * pixel, np.arange(1, 7), size, pixel) + offset)
    first, second = (
        fit_atoms(data, pixel, at, AtomFitParameters(iterations=60))
        for data, at in ((image, start), (moved, start + np.array([x, y]) * pixel))
    )
    assert np.abs(second.positions_angstrom - first.positions_angstrom - np.array([x, y]) * pixel).max() < 2e-3
    assert np.allclose(second.intensities, scale * first.intensities, rtol=0.02)


def test_probe_and_background_are_fitted_too(sheet):
    positions, intensities, image, start = sheet
    y, x = np.indices(image.shape) / 96
    parameters = AtomFitParameters(sigma_angstrom=None, background_degree=1)
    wider = image_of(positions, intensities, 96, 0.15, sigma=0.56)
    fit = fit_atoms(wider + 20 + 10 * x - 5 * y, 0.15, start, parameters)
    assert fit.sigma_angstrom == pytest.approx(0.56, abs=0.002)
    assert np.abs(fit.background - (20 + 10 * x - 5 * y)).max() < 0.5
    assert np.abs(fit.positions_angstrom - positions)[inner(positions, 96, 0.15)].max() < 0.005


def test_known_positions_need_one_linear_fit(sheet):
    positions, intensities, _, _ = sheet
    intensities = intensities.copy()
    intensities[::7] = 0
    counts = poisson_counts(image_of(positions, intensities, 96, 0.15), 0.15, 1000, 2)
    fit = fit_intensities(counts, 0.15, positions)
    is_inner = inner(positions, 96, 0.15)
    relative = fit.intensities[is_inner] / np.median(fit.intensities[is_inner])
    assert np.array_equal(relative < 0.4, intensities[is_inner] == 0)
    with pytest.raises(ValueError, match="known sigma"):
        fit_intensities(counts, 0.15, positions, AtomFitParameters(sigma_angstrom=None))


def test_nothing_to_fit_is_no_error():
    fit = fit_atoms(np.full((20, 20), 3.0), 0.1, [])
    assert fit.is_converged
    assert np.allclose(fit.background, 3)
    assert fit.deviations().shape == (0, 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="finite numbers"):
        fit_atoms(np.full((4, 4), np.nan), 0.1, [])
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        fit_atoms(np.zeros((9, 9)), 0.1, [1.0, 2.0, 3.0])


def test_counts_are_recognised():
    assert looks_like_counts(np.arange(4.0).reshape(2, 2))
    assert not looks_like_counts(np.arange(4.0).reshape(2, 2) + 0.5)
    assert not looks_like_counts(np.zeros((2, 2)))
    assert not looks_like_counts(np.arange(-1.0, 3.0).reshape(2, 2))
