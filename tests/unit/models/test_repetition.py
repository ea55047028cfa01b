import numpy as np
import pytest
from scipy.spatial import cKDTree

from atomvision_ml.images.atom_fit import AtomFitParameters, fit_atoms
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.models.atom_finder import AtomFinderParameters, complete_fit
from atomvision_ml.models.repetition import drawn_to_sites

PIXEL, SIZE, SIGMA = 0.15, 120, 0.5
VECTORS = np.array([[2.9, 1.1], [-1.1, 2.9]])
CENTRE = np.full(2, SIZE * PIXEL / 2)


def crystal(moved=lambda sites: np.zeros_like(sites)):
    """Two atoms a cell, in and around the field, and how far they are moved."""
    cells = np.stack(np.meshgrid(np.arange(-12, 13), np.arange(-12, 13)), -1).reshape(-1, 2) @ VECTORS
    sites = (cells[:, None] + np.array([[0.2, 0.1], [1.1, 2.2]])).reshape(-1, 2) + CENTRE
    intensities = np.tile([20.0, 12.0], len(cells))
    seen = ((sites > -1) & (sites < SIZE * PIXEL + 1)).all(axis=1)
    return sites[seen] + moved(sites[seen]), intensities[seen]


def counts(positions, intensities, dose, seed=0):
    along = np.arange(SIZE) * PIXEL
    x, y = (np.exp(-0.5 * ((along - positions[:, axis, None]) / SIGMA) ** 2) for axis in (0, 1))
    return poisson_counts((y * intensities[:, None]).T @ x, PIXEL, dose, seed).astype(float)


def both(image, start):
    fit = fit_atoms(image, PIXEL, start, AtomFitParameters(background_degree=-1))
    return fit, drawn_to_sites(fit, image, np.ones(len(start), bool))


def rmse(fit, positions):
    return float(np.sqrt(np.mean((fit.positions_angstrom - positions)[inner(positions)] ** 2)))


def inner(positions):
    return ((positions > 1) & (positions < SIZE * PIXEL - 1)).all(axis=1)


def test_a_perfect_crystal_is_averaged_over_its_cells():
    positions, intensities = crystal()
    fit, drawn = both(counts(positions, intensities, 300), positions)
    assert rmse(drawn, positions) < 0.35 * rmse(fit, positions)
    stated = np.sqrt((fit.deviations()[:, 1:] ** 2).mean(axis=1)) * drawn.noise_left
    assert rmse(drawn, positions) == pytest.approx(np.sqrt(np.mean(stated[inner(positions)] ** 2)), rel=0.5)


def test_a_bent_sheet_stays_bent():
    positions, intensities = crystal(lambda sites: 0.15 * np.sin(sites[:, ::-1] / 2.5))
    fit, drawn = both(counts(positions, intensities, 1000), positions)
    assert rmse(drawn, positions) < 1.05 * rmse(fit, positions)


def test_a_displaced_atom_and_a_vacancy_stay():
    positions, intensities = crystal()
    order = np.argsort(np.hypot(*(positions - CENTRE).T))
    gone, displaced = order[0], order[9]
    vacancy, site = positions[gone].copy(), positions[displaced].copy()
    positions[displaced] += [0.2, 0.1]
    left = np.delete(np.arange(len(positions)), gone)
    image = counts(positions[left], intensities[left], 1000)
    fit = complete_fit(image, PIXEL, positions[left], AtomFinderParameters())
    nearest = cKDTree(fit.positions_angstrom)
    assert nearest.query(vacancy)[0] > 1
    assert nearest.query(positions[displaced])[0] < 0.08
    assert nearest.query(site)[0] > 0.14


def test_what_does_not_repeat_stays_as_it_was():
    random = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.arange(1.0, 17, 3), np.arange(1.0, 17, 3)), -1).reshape(-1, 2)
    positions = grid + random.uniform(-0.7, 0.7, grid.shape)
    fit, drawn = both(counts(positions, np.full(len(positions), 20.0), 1000), positions)
    assert np.abs(fit.positions_angstrom - drawn.positions_angstrom).max() < 0.003
    assert drawn.noise_left.min() > 0.99
