"""Defective sheets: their images are linear in their defects, and the truth says what was done."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.images.defects import DefectParameters, damaged_sheet, detectability
from atomvision_ml.images.stem import Projection, View, project_atoms, render_batch

VIEW = View(0.2, 96, 17.0, (0.7, 1.9))
POINTS = DefectParameters(strain_share=0.0, minimum_defects=3, maximum_defects=6)


def sheet_of(atoms, parameters, seed=0, view=VIEW):
    return damaged_sheet(project_atoms(atoms), atoms.numbers, view, np.random.default_rng(seed), parameters)


def rendered(projection):
    return render_batch([projection], [View(0.2, 96)], precision="float64")[0]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_is_perfect_plus_patches(seed):
    sheet = sheet_of(mx2("MoS2", vacuum=5), POINTS, seed)
    perfect = render_batch([project_atoms(mx2("MoS2", vacuum=5))], [VIEW], precision="float64")[0]
    np.testing.assert_allclose(rendered(sheet.perfect), perfect, atol=2e-6 * perfect.max())
    np.testing.assert_allclose(
        rendered(sheet.projection), rendered(sheet.perfect) + rendered(sheet.patches), atol=1e-9 * perfect.max()
    )


@pytest.mark.parametrize("seed", range(6))
def test_truth_says_what_was_done(seed):
    sheet = sheet_of(mx2("MoS2", vacuum=5), POINTS, seed)
    assert 3 <= len(sheet.defects) <= 6
    assert sum(defect.n_atoms for defect in sheet.defects) == len(sheet.patches.weights)
    edge = 95 * 0.2
    for defect in sheet.defects:
        place = np.array([defect.x_angstrom, defect.y_angstrom])
        assert (place >= 2 - 1e-9).all()
        assert (place <= edge - 2 + 1e-9).all()
        here = np.hypot(*(sheet.patches.positions_angstrom - place).T) < 0.1
        column = np.hypot(*(sheet.perfect.positions_angstrom - place).T) < 0.1
        assert here.sum() == defect.n_atoms
        assert sheet.patches.weights[here].sum() == pytest.approx(
            defect.change * sheet.perfect.weights[column].sum(), rel=1e-9
        )
        if defect.kind == "vacancy":
            left = rendered(sheet.projection)[tuple(np.rint(place[::-1] / 0.2).astype(int))]
            whole = rendered(sheet.perfect)[tuple(np.rint(place[::-1] / 0.2).astype(int))]
            assert left < whole
            assert defect.change in (pytest.approx(-1), pytest.approx(-0.5))


def test_one_of_two_coincident_atoms_can_be_missing():
    sheets = [sheet_of(mx2("MoS2", vacuum=5), POINTS, seed) for seed in range(12)]
    changes = [defect.change for sheet in sheets for defect in sheet.defects if defect.kind == "vacancy"]
    assert any(change == pytest.approx(-0.5) for change in changes)
    assert any(change == pytest.approx(-1) for change in changes)


def test_strain_at_the_centre_is_the_stated_one():
    parameters = DefectParameters(strain_share=1.0, maximum_defects=0, minimum_defects=0)
    for seed in range(8):
        sheet = sheet_of(graphene(vacuum=5), parameters, seed)
        (region,) = sheet.defects
        offset = sheet.perfect.positions_angstrom - [region.x_angstrom, region.y_angstrom]
        weight = np.exp((offset**2).sum(axis=1) / (2 * region.radius_angstrom**2))
        near = (offset**2).sum(axis=1) < 9
        gradient = np.linalg.lstsq(offset[near], (sheet.displacements_angstrom * weight[:, None])[near], rcond=None)[0]
        np.testing.assert_allclose(gradient, gradient.T, atol=1e-9)
        assert np.abs(np.linalg.eigvalsh(gradient)).max() == pytest.approx(abs(region.strain), rel=1e-6)
        far = (offset**2).sum(axis=1) > (4 * region.radius_angstrom) ** 2
        assert np.abs(sheet.displacements_angstrom[far]).max(initial=0) < 0.02


def test_same_seed_same_sheet_and_nothing_where_nothing_is_asked():
    one, two = (sheet_of(graphene(vacuum=5), None, 5) for _ in range(2))
    assert one.defects == two.defects
    assert np.array_equal(one.image(), two.image())
    none = sheet_of(graphene(vacuum=5), DefectParameters(maximum_defects=0, minimum_defects=0, strain_share=0))
    assert none.defects == ()
    assert np.array_equal(none.image(), np.clip(render_batch([none.perfect], [none.view])[0], 0, None))


def test_detectability_is_the_standard_error_of_a_single_weight():
    sheet = sheet_of(graphene(vacuum=5), POINTS, 1)
    bounds = detectability(sheet, 400.0)
    np.testing.assert_allclose(detectability(sheet, 1600.0), 2 * bounds)
    assert np.isinf(detectability(sheet, None)).all()
    clean = rendered(sheet.perfect)
    scale = 400.0 * 0.04 / clean.mean()
    defect = sheet.defects[0]
    probe = rendered(Projection(np.array([[defect.x_angstrom, defect.y_angstrom]]), np.ones(1), np.zeros((0, 2))))
    best = probe / clean
    random = np.random.default_rng(0)
    estimates = [
        (best * (random.poisson(clean * scale) / scale - clean)).sum() / (best * probe).sum() for _ in range(300)
    ]
    change = abs(defect.change) * 6**1.7
    assert change / np.std(estimates) == pytest.approx(bounds[0], rel=0.1)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="atomic number"):
        damaged_sheet(project_atoms(graphene()), np.array([6]), VIEW, np.random.default_rng(0))
