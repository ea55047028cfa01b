"""Rules on the graph of the found atoms, on sheets whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.images.atom_graphs import GraphParameters, build_graphs
from atomvision_ml.images.defects import DefectParameters, damaged_sheet
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.images.stem import View, project_atoms, render_batch, with_patches
from atomvision_ml.models.graphs.defect_rules import GraphRuleParameters, bonded_atoms, graph_defects, shortages

PIXEL = 0.15
VIEW = View(PIXEL, 160, 11.0, (0.4, 1.3))
STRUCTURES = {"graphene": graphene(vacuum=5), "MoS2": mx2("MoS2", vacuum=5)}


def sheet_of(name, seed, **parameters):
    atoms = STRUCTURES[name]
    chosen = DefectParameters(**{"strain_share": 0.0, "minimum_defects": 1, "maximum_defects": 1, **parameters})
    return damaged_sheet(project_atoms(atoms), atoms.numbers, VIEW, np.random.default_rng(seed), chosen)


def bonded_of(image):
    graph = build_graphs(image, PIXEL, GraphParameters(n_repeats=0))
    return bonded_atoms(graph, (np.array(image.shape[::-1]) - 1) * PIXEL, GraphRuleParameters())


def test_a_vacancy_in_graphene_gives_three_atoms_with_two_neighbours():
    sheet = sheet_of("graphene", 3, vacancy_share=1.0)
    bonded = bonded_of(sheet.image())
    missing = shortages(bonded, GraphRuleParameters())[:, 0]
    assert set(bonded.coordination()[bonded.depth_angstrom > 2, 0]) == {2, 3}
    assert missing.sum() == 3
    (vacancy,) = sheet.defects
    away = np.hypot(*(bonded.positions_angstrom[missing > 0] - (vacancy.x_angstrom, vacancy.y_angstrom)).T)
    assert away == pytest.approx(np.full(3, 1.42), abs=0.1)
    (found,) = graph_defects(sheet.image(), PIXEL)
    assert found.kind == "vacancy"
    assert (found.x_angstrom, found.y_angstrom) == pytest.approx((vacancy.x_angstrom, vacancy.y_angstrom), abs=0.15)


def hits(found, truth):
    """For each true defect whether one of its kind was found within 0.5 Å."""
    return [
        any(
            one.kind == true.kind and np.hypot(one.x_angstrom - true.x_angstrom, one.y_angstrom - true.y_angstrom) < 0.5
            for one in found
        )
        for true in truth
    ]


@pytest.mark.parametrize("dose", [None, 1000.0])
def test_vacancies_and_foreign_atoms_of_two_species(dose):
    sheet = sheet_of("MoS2", 5, maximum_defects=6, strain_share=0.5)
    image = sheet.image() if dose is None else poisson_counts(sheet.image(), PIXEL, dose, 1)
    found = [one for one in graph_defects(image, PIXEL) if one.kind != "strain"]
    assert hits(found, sheet.defects) == [True] * 6
    assert len(found) == 6


def test_a_foreign_atom_as_bright_as_another_species_is_told_by_its_neighbours():
    """What has 0.4 of the intensity of Mo is as bright as two S, but has the neighbours of Mo."""
    perfect = sheet_of("MoS2", 5, minimum_defects=0, maximum_defects=0).perfect
    places, weights = perfect.positions_angstrom, perfect.weights
    metals = np.flatnonzero(weights > 0.9 * weights.max())
    middle = metals[np.hypot(*(places[metals] - 12.0).T).argmin()]
    damaged = with_patches(perfect, places[[middle]], -0.6 * weights[[middle]])
    image = render_batch([damaged], [View(PIXEL, 160)], sigma_angstrom=0.5)[0]
    (found,) = graph_defects(np.clip(image, 0, None), PIXEL)
    assert found.kind == "substitution"
    assert found.change == pytest.approx(-0.6, abs=0.03)
    assert (found.x_angstrom, found.y_angstrom) == pytest.approx(tuple(places[middle]), abs=0.05)


def test_a_perfect_sheet_has_no_defects():
    for name in STRUCTURES:
        image = sheet_of(name, 1, minimum_defects=0, maximum_defects=0).image()
        bonded = bonded_of(image)
        assert len(bonded.levels) == (1 if name == "graphene" else 2)
        assert not shortages(bonded, GraphRuleParameters()).any()
        assert graph_defects(image, PIXEL) == []


def test_strain_is_told_from_bond_lengths():
    sheet = sheet_of("graphene", 8, strain_share=1.0, minimum_defects=0, maximum_defects=0, minimum_strain=0.06)
    (region,) = sheet.defects
    (found,) = graph_defects(sheet.image(), PIXEL)
    assert found.kind == "strain"
    assert np.hypot(found.x_angstrom - region.x_angstrom, found.y_angstrom - region.y_angstrom) < region.radius_angstrom
    assert 0.3 * abs(region.strain) < found.strain < 1.2 * abs(region.strain)


@pytest.mark.parametrize("seed", [1, 2])
def test_noise_alone_is_answered(seed):
    noise = np.random.default_rng(seed).poisson(1.0, (96, 64))
    assert all(np.isfinite(one.significance) for one in graph_defects(noise, PIXEL))
    assert graph_defects(np.ones((64, 64)), PIXEL) == []
    with pytest.raises(ValueError, match="not finite"):
        graph_defects(np.full((64, 64), np.nan), PIXEL)
