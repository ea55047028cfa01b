"""The embedded monolayers: enough of every class, sensible as matter, honest about where they come from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from atomvision_ml.schemas.tables.structures import RECORDS, SLABS
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.prototypes import prototype, prototype_rows
from atomvision_ml.structures.record import Row, reduced_formula
from atomvision_ml.structures.slabs import slab_rows


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return prototype_rows()


@pytest.fixture(scope="module")
def lattices(rows: list[Row]) -> dict[str, str]:
    """Class of each by its native id."""
    labelled = slab_rows(pl.DataFrame(rows, infer_schema_length=None))
    assert SLABS.from_rows(labelled).num_rows == len(rows)
    assert [row["slab_id"] for row in labelled if row["status"] != "accepted"] == []
    return {row["slab_id"].removeprefix("prototypes:"): row["bravais_lattice"] for row in labelled}


def atoms_of(row: Row) -> Atoms:
    return Atoms(
        row["numbers"],
        positions=np.reshape(row["positions_angstrom"], (-1, 3)),
        cell=np.reshape(row["cell_angstrom"], (3, 3)),
        pbc=(True, True, False),
    )


def bonds_per_radius(atoms: Atoms) -> np.ndarray:
    """For each atom the shortest distance to a neighbour over the sum of their covalent radii."""
    first, second, distance = neighbor_list("ijd", atoms, 5.2)
    ratio = distance / (covalent_radii[atoms.numbers[first]] + covalent_radii[atoms.numbers[second]])
    return np.array([ratio[first == index].min() for index in range(len(atoms))])


def test_at_least_150_that_fulfil_the_contract(rows: list[Row]) -> None:
    assert RECORDS.from_rows(rows).num_rows >= 150
    assert {row["status"] for row in rows} == {"accepted"}


def test_at_least_12_of_every_class(lattices: dict[str, str]) -> None:
    counts = Counter(lattices.values())
    assert set(counts) == set(BRAVAIS_LATTICES)
    assert min(counts.values()) >= 12, counts


@pytest.mark.parametrize(
    ("native_id", "lattice"),
    [
        ("C-graphene", "hexagonal"),
        ("BN-hexagonal", "hexagonal"),
        ("MoS2-2H", "hexagonal"),
        ("WSe2-2H", "hexagonal"),
        ("TiS2-1T", "hexagonal"),
        ("CdI2-1T", "hexagonal"),
        ("WTe2-1T'", "rectangular"),
        ("FeSe", "square"),
        ("FeTe", "square"),
        ("PbO-litharge", "square"),
        ("Cu-fcc100", "square"),
        ("Cu-fcc110", "rectangular"),
        ("P-black", "rhombic"),
        ("GeS", "rhombic"),
        ("GeSe", "rhombic"),
        ("SnS", "rhombic"),
        ("SnSe", "rhombic"),
        ("Fe-bcc110", "rhombic"),
        ("ReS2-diamond-chains", "oblique"),
        ("ReSe2-diamond-chains", "oblique"),
    ],
)
def test_the_known_ones_have_their_class(lattices: dict[str, str], native_id: str, lattice: str) -> None:
    assert lattices[native_id] == lattice


def test_atoms_neither_overlap_nor_float(rows: list[Row]) -> None:
    for row in rows:
        ratios = bonds_per_radius(atoms_of(row))
        assert ratios.min() > 0.78, row["native_id"]
        assert ratios.max() < 1.35, row["native_id"]


def test_every_row_names_a_source_or_a_rule(rows: list[Row]) -> None:
    ids = {row["record_id"] for row in rows}
    for row in rows:
        if row["provenance"] == "cited":
            assert row["parent_id"] is None
            assert row["reference"].startswith(("ASE ", "AFLOW prototype ", "pybinding,")), row["reference"]
        else:
            assert row["provenance"] == "rule"
            assert row["is_hypothetical"]
            assert row["parent_id"] in ids
            assert row["reference"].startswith("rule: ")


def test_free_standing_sheets_of_metals_are_not_claimed_to_exist(rows: list[Row]) -> None:
    sheets = [row for row in rows if any(face in row["native_id"] for face in ("fcc1", "bcc1", "hcp"))]
    assert len(sheets) > 50
    assert all(row["is_hypothetical"] for row in sheets)


def test_split_groups_are_many_and_small(rows: list[Row]) -> None:
    group = {row["record_id"]: row["record_id"] for row in rows}

    def root(record_id: str) -> str:
        while group[record_id] != record_id:
            record_id = group[record_id]
        return record_id

    first: dict[str, str] = {}
    for row in rows:
        partner = first.setdefault(reduced_formula(row["numbers"]), row["record_id"])
        group[root(row["record_id"])] = root(partner)
        if row["parent_id"]:
            group[root(row["record_id"])] = root(row["parent_id"])
    sizes = Counter(root(record_id) for record_id in group)
    assert len(sizes) >= 40
    assert max(sizes.values()) <= 0.1 * len(rows), sizes.most_common(3)


def test_generation_is_reproducible(rows: list[Row]) -> None:
    assert prototype_rows() == rows
    assert len({row["sha256"] for row in rows}) == len(rows)


def test_rules_are_what_they_say() -> None:
    iron_selenide = prototype("FeSe")
    bond = covalent_radii[26] + covalent_radii[34]
    first, distance = neighbor_list("id", iron_selenide, {("Fe", "Se"): bond + 0.01})
    assert Counter(first.tolist()) == dict.fromkeys(range(4), 4)
    assert distance == pytest.approx(bond)

    boron_phosphide = prototype("BP-honeycomb")
    assert boron_phosphide.cell.lengths()[0] == pytest.approx(np.sqrt(3) * (covalent_radii[5] + covalent_radii[15]))

    octahedra = prototype("TiS2-1T")
    first, distance = neighbor_list("id", octahedra, {("Ti", "S"): 2.6})
    assert Counter(first.tolist())[0] == 6
    assert distance == pytest.approx(0.745 + 1.70)

    prisms = prototype("NbS2-2H")
    first, distance = neighbor_list("id", prisms, {("Nb", "S"): 2.7})
    assert Counter(first.tolist())[0] == 6
    assert distance == pytest.approx(0.82 + 1.70)
    assert np.ptp(prisms.positions[:, 2]) == pytest.approx(prisms.cell.lengths()[0])

    salt = prototype("MgO-100")
    assert neighbor_list("d", salt, 2.3) == pytest.approx(np.full(8, 0.86 + 1.26))

    tin, lead = prototype("SnO"), prototype("PbO-litharge")
    ratio = (covalent_radii[50] + covalent_radii[8]) / (covalent_radii[82] + covalent_radii[8])
    assert tin.cell.lengths()[:2] == pytest.approx(ratio * lead.cell.lengths()[:2])


def test_strain_is_the_stated_one() -> None:
    parent, strained = prototype("P-black"), prototype("P-black-oblique")
    deformation = np.linalg.inv(parent.cell.array[:2, :2]) @ strained.cell.array[:2, :2]
    assert deformation == pytest.approx(np.array([[1, 0.05], [0.05, 1]]), abs=1e-6)
    assert strained.cell.lengths()[2] == pytest.approx(parent.cell.lengths()[2])
    fractional = parent.get_scaled_positions()[:, :2] - strained.get_scaled_positions()[:, :2]
    assert fractional == pytest.approx(np.round(fractional), abs=1e-6)


def test_phosphorene_bonds_all_have_the_cited_length() -> None:
    first, distance = neighbor_list("id", prototype("P-phosphorene"), 2.5)
    assert Counter(first.tolist()) == dict.fromkeys(range(4), 3)
    assert distance == pytest.approx(2.22, abs=0.01)


def test_dimers_of_the_distorted_phase_are_closer_than_its_lattice() -> None:
    flat, dimerised = prototype("MoS2-2H"), prototype("MoS2-1T'")
    metal = neighbor_list("d", dimerised[dimerised.numbers == 42], 4.0)
    assert metal.min() < 0.95 * flat.cell.lengths()[0]


@pytest.mark.parametrize(
    ("native_id", "area_in_a_squared", "a"),
    [
        ("Cu-fcc100", 1 / 2, 3.61),
        ("Cu-fcc110", 1 / np.sqrt(2), 3.61),
        ("Ag-fcc111", np.sqrt(3) / 4, 4.09),
        ("Fe-bcc110", 1 / np.sqrt(2), 2.87),
        ("Fe-bcc100", 1.0, 2.87),
    ],
)
def test_metal_sheets_have_the_area_of_their_crystal_plane(native_id: str, area_in_a_squared: float, a: float) -> None:
    sheet = prototype(native_id)
    assert len(sheet) == 1
    assert np.linalg.det(sheet.cell.array[:2, :2]) == pytest.approx(area_in_a_squared * a**2, rel=1e-6)


def test_unknown_prototypes_are_named() -> None:
    with pytest.raises(KeyError, match="unobtainium"):
        prototype("unobtainium")
