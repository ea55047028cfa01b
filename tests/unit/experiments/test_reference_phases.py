"""Reflections of reference phases: extinctions, structure factors, families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.experiments.crystal_views import plane_coordinates, zone_basis, zone_projection
from atomvision_ml.experiments.reference_phases import crystal_of, reference_phases, reflections

PHASES = reference_phases()
INDEX = st.integers(-6, 6)
HKL = st.tuples(INDEX, INDEX, INDEX).filter(any)


@pytest.mark.parametrize("name", sorted(PHASES))
def test_atoms_and_symmetry_agree(name: str) -> None:
    """|F|² of what the space group forbids is zero, of equivalent planes equal."""
    crystal = crystal_of(PHASES[name])
    axes = np.arange(-4, 5)
    hkl = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[np.any(hkl != 0, axis=1)]
    assert crystal.intensities(hkl[crystal.is_extinct(hkl)]).max(initial=0.0) < 1e-20
    own = crystal.intensities(hkl)
    for operation in crystal.laue_operations:
        np.testing.assert_allclose(crystal.intensities(hkl @ operation), own, rtol=1e-8, atol=1e-9 * own.max())


@given(HKL)
@settings(max_examples=60, deadline=None)
def test_reflection_conditions_of_the_international_tables(hkl: tuple[int, int, int]) -> None:
    h, k, l = hkl  # noqa: E741
    one = np.array([hkl])
    centred = len({h % 2, k % 2, l % 2}) == 1
    assert crystal_of(PHASES["Au"]).is_extinct(one)[0] != centred
    pnma = (h != 0 or (k + l) % 2 == 0) and (l != 0 or h % 2 == 0)
    pnma = pnma and (h or k or l % 2 == 0) and (h or l or k % 2 == 0) and (k or l or h % 2 == 0)
    assert crystal_of(PHASES["SnS"]).is_extinct(one)[0] != bool(pnma)
    if h == 0:
        assert crystal_of(PHASES["Fe3O4"]).is_extinct(one)[0] == (not centred or (k + l) % 4 != 0)


def test_spacings_and_strong_lines_are_the_known_ones() -> None:
    for name, plane, d in (("Fe3O4", (3, 1, 1), 2.531), ("Rh", (1, 1, 1), 2.196), ("SnS", (4, 0, 0), 2.800)):
        planes = reflections(PHASES[name], 1.1, 0.001)
        index = planes.families.index(plane)
        assert 1 / planes.lengths[planes.family_of == index][0] == pytest.approx(d, abs=0.001)
    magnetite = reflections(PHASES["Fe3O4"], 1.1, 0.0)
    strength = {
        magnetite.families[index]: magnetite.relative_intensities[magnetite.family_of == index].sum()
        for index in range(len(magnetite.families))
    }
    assert max(("111", "220", "311", "222"), key=lambda name: strength[tuple(int(i) for i in name)]) == "311"


@given(st.sampled_from(sorted(PHASES)), HKL)
@settings(max_examples=40, deadline=None)
def test_family_has_one_name(name: str, hkl: tuple[int, int, int]) -> None:
    crystal = crystal_of(PHASES[name])
    names = {crystal.family(member) for member in np.array(hkl) @ crystal.laue_operations}
    assert len(names) == 1
    assert names.pop() in {tuple(member) for member in (np.array(hkl) @ crystal.laue_operations).tolist()}


@given(st.tuples(INDEX, INDEX, INDEX).filter(lambda uvw: np.gcd.reduce(uvw) == 1))
@settings(max_examples=60, deadline=None)
def test_zone_basis_spans_all_planes_of_the_zone(uvw: tuple[int, int, int]) -> None:
    basis = zone_basis(uvw)
    assert not (basis @ np.array(uvw)).any()
    assert np.abs(np.cross(*basis)).tolist() == np.abs(uvw).tolist()


def test_projected_crystal_has_the_known_periods() -> None:
    projection = zone_projection(PHASES["SrTiO3"], (1, 1, 0))
    lengths = np.sort(np.linalg.norm(projection.periods_angstrom, axis=1))
    np.testing.assert_allclose(lengths, [3.905268 / np.sqrt(2), 3.905268], rtol=1e-9)
    flat = plane_coordinates(np.array([[1.0, 0, 0], [0, 2.0, 0], [1.0, 2.0, 0]]))
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), [1, 2, np.sqrt(5)])


@pytest.mark.parametrize("text", ["- {name: A}", "a: [", "[]\n---\n[]"], ids=["incomplete", "no yaml", "two"])
def test_bad_references_say_where(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml is no list of reference phases"):
        reference_phases(path)
