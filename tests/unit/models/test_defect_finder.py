"""The defect finder on sheets whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.images.defects import DefectParameters, damaged_sheet
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.images.stem import View, project_atoms, render_batch
from atomvision_ml.models.defect_finder import explained_share, find_defects, local_strain
from atomvision_ml.models.defect_sites import measure_sites, smaller_cell
from atomvision_ml.models.lattice_finder import NoLatticeError
from atomvision_ml.structures.lattice import reduce_cell

VIEW = View(0.15, 160, 11.0, (0.4, 1.3))
STRUCTURES = {"graphene": graphene(vacuum=5), "MoS2": mx2("MoS2", vacuum=5)}


def sheet_of(name, seed, **parameters):
    atoms = STRUCTURES[name]
    return damaged_sheet(
        project_atoms(atoms), atoms.numbers, VIEW, np.random.default_rng(seed), DefectParameters(**parameters)
    )


def pairs(found, truth, tolerance):
    """For each true defect the found one of its kind within the tolerance, or None."""
    result = []
    for defect in truth:
        near = [
            other
            for other in found
            if other.kind == defect.kind
            and np.hypot(other.x_angstrom - defect.x_angstrom, other.y_angstrom - defect.y_angstrom) <= tolerance
        ]
        result.append(near[0] if near else None)
    return result


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("dose", [None, 1000.0])
def test_missing_atoms_are_found_and_nothing_else(name, dose):
    sheet = sheet_of(name, 3, strain_share=0.0, vacancy_share=1.0, minimum_defects=3, maximum_defects=6)
    image = sheet.image()
    seen = image if dose is None else poisson_counts(image, 0.15, dose, 1)
    found = find_defects(seen, 0.15)
    matched = pairs(found.defects, sheet.defects, 0.3)
    assert None not in matched
    assert len(found.defects) == len(sheet.defects)
    for one, truth in zip(matched, sheet.defects, strict=True):
        assert one.change == pytest.approx(truth.change, abs=0.05 if dose is None else 0.2)
        assert one.significance > 4


def test_foreign_atoms_change_the_intensity_by_what_they_are():
    sheet = sheet_of("MoS2", 5, strain_share=0.0, vacancy_share=0.0, minimum_defects=3, maximum_defects=3)
    found = find_defects(1000 * sheet.image() + 3, 0.15).defects
    changes = {
        round(one.x_angstrom): (one.change, truth.change)
        for truth in sheet.defects
        for one in found
        if np.hypot(one.x_angstrom - truth.x_angstrom, one.y_angstrom - truth.y_angstrom) < 0.3
    }
    assert len(changes) == 3 == len(found)
    for measured, true in changes.values():
        assert measured == pytest.approx(true, abs=0.05)


@pytest.mark.parametrize("name", STRUCTURES)
def test_strained_region_is_found_in_its_place(name):
    sheet = sheet_of(name, 8, strain_share=1.0, minimum_defects=0, maximum_defects=0, minimum_strain=0.06)
    (region,) = sheet.defects
    found = find_defects(poisson_counts(sheet.image(), 0.15, 1000.0, 2), 0.15)
    (match,) = pairs(found.defects, [region], region.radius_angstrom)
    assert match is not None
    assert 0.4 * abs(region.strain) < match.strain < 1.3 * abs(region.strain)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("dose", [None, 300.0, 100.0])
def test_a_perfect_sheet_has_no_defects(name, dose):
    image = render_batch([project_atoms(STRUCTURES[name])], [VIEW])[0]
    found = find_defects(image if dose is None else poisson_counts(image, 0.15, dose, 4), 0.15)
    assert found.defects == ()
    assert found.n_sites > 50
    assert 0.15 <= found.smallest_change < (0.16 if dose is None else 10 / dose**0.5)


def test_sites_are_the_columns_of_the_crystal():
    image = render_batch([project_atoms(STRUCTURES["MoS2"])], [VIEW])[0]
    sites = measure_sites(image, 0.15)
    weights = np.sort(sites.typical_intensities)
    assert weights[0] / weights[1] == pytest.approx(2 * 16**1.7 / 42**1.7, rel=0.01)
    assert np.abs(sites.displacements_angstrom[sites.depth_angstrom() > 1]).max() < 0.005
    angle = np.radians(11.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    periods = project_atoms(STRUCTURES["MoS2"]).periods_angstrom @ turn.T
    origin = sites.positions_angstrom[sites.kinds == 0]
    whole = (origin - origin[0]) @ np.linalg.inv(periods)
    np.testing.assert_allclose(whole, np.rint(whole), atol=0.02)


def test_local_strain_of_an_even_strain():
    image = render_batch([project_atoms(STRUCTURES["graphene"])], [VIEW])[0]
    sites = measure_sites(image, 0.15)
    tensor = np.array([[0.03, 0.01], [0.01, -0.02]])
    object.__setattr__(sites, "displacements_angstrom", sites.positions_angstrom @ tensor)
    strain, _ = local_strain(sites, np.ones(len(sites.kinds)), 2.5)
    np.testing.assert_allclose(strain, np.abs(np.linalg.eigvalsh(tensor)).max(), rtol=1e-9)


def test_a_region_moves_its_columns_together():
    """Of the model's own form nearly all is explained, of columns that each move for themselves little."""
    image = render_batch([project_atoms(STRUCTURES["graphene"])], [VIEW])[0]
    sites = measure_sites(image, 0.15)
    centre, even = np.array([9.0, 9.0]), np.full(len(sites.kinds), 1e4)
    away = sites.positions_angstrom - centre
    fading = away @ np.array([[0.05, 0.01], [0.01, -0.02]]) * np.exp(-0.5 * (away**2).sum(axis=1) / 3.5**2)[:, None]
    alone = np.random.default_rng(0).normal(scale=0.05, size=away.shape)
    for moved, low, high in ((fading, 0.9, 1.3), (alone, 0.0, 0.3)):
        object.__setattr__(sites, "displacements_angstrom", moved)
        assert low <= explained_share(sites, even, centre, 4.0) <= high
    assert explained_share(sites, np.zeros(len(sites.kinds)), centre, 4.0) == 0.0


def test_a_cell_that_is_too_large_is_seen_through():
    small = np.array([[3.0, 0.0], [0.3, 4.0]])
    motif = np.array([[0.1, 0.2], [1.5, 2.1]])
    for matrix in ([[2, 0], [0, 1]], [[2, 1], [0, 3]], [[1, 2], [0, 5]], [[2, 0], [0, 2]]):
        large = reduce_cell(np.array(matrix) @ small)
        count = round(float(np.linalg.det(matrix)))
        steps = np.stack(np.meshgrid(range(8), range(8)), axis=-1).reshape(-1, 2)
        inside = {}
        for step in steps:
            fraction = np.round((step @ small) @ np.linalg.inv(large) % 1, 6) % 1
            inside.setdefault(tuple(fraction), step @ small)
        places = np.concatenate([motif + shift for shift in inside.values()])
        assert len(places) == 2 * count
        found = smaller_cell(places, np.tile([1.0, 0.6], count), large)
        assert np.linalg.det(found) == pytest.approx(12.0)
        steps = found @ np.linalg.inv(small)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert smaller_cell(motif, np.array([1.0, 0.6]), small) is None


def test_no_crystal_is_an_error():
    with pytest.raises(NoLatticeError):
        find_defects(np.random.default_rng(0).normal(size=(96, 96)), 0.2)
