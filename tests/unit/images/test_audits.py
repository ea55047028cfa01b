"""Every audit sees the fault that it is there for, and passes where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import zarr
from ase import Atoms
from ase.build import mx2

from atomvision_ml.images.audits import (
    AuditResult,
    Specimen,
    audit_stem_set,
    direct_sum,
    intensity_sum_deviation,
    plane_operations,
    symmetry_deviation,
)
from atomvision_ml.images.stem import Projection, StemParameters, View, render_batch
from atomvision_ml.images.stem_set import StemSet, with_blob, write_stem_set
from atomvision_ml.structures.lattice import reduce_cell

PARAMETERS = StemParameters(size_px=128, minimum_pixel_size_angstrom=0.2)


def low_symmetry() -> Atoms:
    """Two kinds of atoms without any symmetry, in an oblique cell; no atom above another."""
    cell = [[4.0, 0, 0], [0.9, 5.2, 0], [0, 0, 20]]
    return Atoms("MoSSe", scaled_positions=[[0, 0, 0.5], [0.3, 0.4, 0.6], [0.7, 0.55, 0.4]], cell=cell, pbc=True)


def mos2() -> Atoms:
    atoms = mx2("MoS2", a=3.18, thickness=3.19, vacuum=8)
    atoms.cell[2, 2] = 20.0
    return atoms


@pytest.fixture
def made(tmp_path: Path, slab_row: Callable[..., dict]) -> tuple[Path, pa.Table, pl.DataFrame]:
    labels = {"bravais_lattice": "oblique", "next_class_strain_percent": 4.0}
    layers = {"mos2": mos2(), "other": low_symmetry()}
    slabs = pl.DataFrame([slab_row(name, atoms, **labels) for name, atoms in layers.items()], infer_schema_length=None)
    rows = write_stem_set(slabs, tmp_path / "stem", PARAMETERS, source="prototypes")
    return tmp_path / "stem", rows, slabs


def outcomes(results: list[AuditResult]) -> dict[str, bool | None]:
    return {result.name: result.passed for result in results}


ALL = {
    "rows_match_the_arrays",
    "images_agree_with_direct_sum",
    "coincident_atoms_add",
    "intensity_sum_is_conserved",
    "images_have_the_plane_group_symmetry",
    "masks_match_columns",
    "atoms_match_the_slab",
}


def test_a_sound_set_passes_every_audit(made: tuple) -> None:
    results = audit_stem_set(*made)
    assert outcomes(results) == dict.fromkeys(ALL, True)
    assert all((result.description and "judged" in result.details) or "rows" in result.details for result in results)


def test_a_published_table_with_its_blob_column_is_audited_as_well(made: tuple) -> None:
    folder, rows, slabs = made
    assert outcomes(audit_stem_set(folder, with_blob(rows, "sha"), slabs)) == dict.fromkeys(ALL, True)


def rendered(row: dict, atoms: Atoms, weights: np.ndarray | None = None) -> np.ndarray:
    """An image of that row, of other atoms or weights."""
    projection = Projection(
        atoms.positions[:, :2],
        atoms.numbers**1.7 if weights is None else weights,
        reduce_cell(atoms.cell.array[:2, :2]),
    )
    shift = (row["shift_x_angstrom"], row["shift_y_angstrom"])
    return render_batch([projection], [View(row["pixel_size_angstrom"], 128, row["rotation_deg"], shift)])[0]


def lost_coincident_atom(row: dict, _: np.ndarray) -> np.ndarray:
    atoms = mos2()
    return rendered(row, atoms, np.where(np.arange(3) == 2, 0.0, atoms.numbers**1.7))


def missing_atom(row: dict, _: np.ndarray) -> np.ndarray:
    return rendered(row, mos2()[[1, 2]])


def swapped_axes(_: dict, image: np.ndarray) -> np.ndarray:
    return image.T


def wrong_scale(_: dict, image: np.ndarray) -> np.ndarray:
    return 1.01 * image


def displaced_atom(row: dict, _: np.ndarray) -> np.ndarray:
    atoms = mos2()
    atoms.positions[1:, 0] += 0.2
    return rendered(row, atoms)


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        (lost_coincident_atom, {"coincident_atoms_add", "intensity_sum_is_conserved", "images_agree_with_direct_sum"}),
        (missing_atom, {"intensity_sum_is_conserved", "images_agree_with_direct_sum"}),
        (swapped_axes, {"images_agree_with_direct_sum", "images_have_the_plane_group_symmetry"}),
        (wrong_scale, {"images_agree_with_direct_sum", "intensity_sum_is_conserved", "coincident_atoms_add"}),
        (displaced_atom, {"images_agree_with_direct_sum", "images_have_the_plane_group_symmetry"}),
    ],
)
def test_a_planted_fault_is_seen(made: tuple, fault: Callable, seen_by: set[str]) -> None:
    folder, rows, slabs = made
    images = zarr.open_group(str(folder), mode="r+")["images"]
    images[0] = fault(rows.to_pylist()[0], images[0])
    failed = {name for name, passed in outcomes(audit_stem_set(folder, rows, slabs)).items() if passed is False}
    assert seen_by <= failed
    assert not failed & {"rows_match_the_arrays", "masks_match_columns", "atoms_match_the_slab"}


def test_the_description_names_the_image_and_the_kind_of_loss(made: tuple) -> None:
    folder, rows, slabs = made
    images = zarr.open_group(str(folder), mode="r+")["images"]
    images[0] = lost_coincident_atom(rows.to_pylist()[0], images[0])
    result = next(r for r in audit_stem_set(folder, rows, slabs) if r.name == "coincident_atoms_add")
    assert "prototypes:mos2#0 (counted once)" in result.description
    assert result.line().startswith("FAIL")


def test_a_mask_that_is_not_that_of_the_columns_is_seen(made: tuple) -> None:
    folder, rows, slabs = made
    masks = zarr.open_group(str(folder), mode="r+")["masks"]
    masks[1] = np.asarray(masks[1]).T
    failed = {name for name, passed in outcomes(audit_stem_set(folder, rows, slabs)).items() if passed is False}
    assert failed == {"masks_match_columns"}


def edited(rows: pa.Table, column: str, change: Callable[[list], list]) -> pa.Table:
    index = rows.column_names.index(column)
    return rows.set_column(index, column, pa.array(change(rows.column(column).to_pylist()), rows.column(column).type))


def without_one_atom(atoms: list) -> list:
    return [atoms[0], [atom for n, atom in enumerate(atoms[1]) if n != len(atoms[1]) // 2]]


def with_one_twice(atoms: list) -> list:
    return [[*atoms[0], atoms[0][len(atoms[0]) // 2]], atoms[1]]


def with_another_element(atoms: list) -> list:
    return [[{**atom, "atomic_number": 17 if atom["atomic_number"] == 16 else 42} for atom in atoms[0]], atoms[1]]


def x_and_y_swapped(atoms: list) -> list:
    return [[{**a, "x_angstrom": a["y_angstrom"], "y_angstrom": a["x_angstrom"]} for a in many] for many in atoms]


@pytest.mark.parametrize("fault", [without_one_atom, with_one_twice, with_another_element, x_and_y_swapped])
def test_a_wrong_atom_table_is_seen(made: tuple, fault: Callable) -> None:
    folder, rows, slabs = made
    failed = {
        name
        for name, passed in outcomes(audit_stem_set(folder, edited(rows, "atoms", fault), slabs)).items()
        if passed is False
    }
    assert failed == {"atoms_match_the_slab"}


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("index", lambda values: values[::-1]),
        ("image_id", lambda values: values[::-1]),
        ("rotation_deg", lambda values: [values[0] + 1, *values[1:]]),
    ],
)
def test_rows_that_are_not_those_of_the_arrays_are_seen(made: tuple, column: str, change: Callable) -> None:
    folder, rows, slabs = made
    assert outcomes(audit_stem_set(folder, edited(rows, column, change), slabs)) == {"rows_match_the_arrays": False}


def test_slabs_that_are_not_given_are_named(made: tuple) -> None:
    folder, rows, slabs = made
    with pytest.raises(ValueError, match="prototypes:other"):
        audit_stem_set(folder, rows, slabs.head(1))


def test_the_reference_sum_is_that_of_single_atoms() -> None:
    specimen = Specimen("x", np.array([6, 6]), np.array([[0.1, 0.2], [0.1, 0.2]]), 40 * np.eye(2), View(0.1, 32))
    points = np.array([[0.1, 0.2], [0.6, 0.2], [39.9, 0.2]])
    peak = 2 * 6**1.7 / (2 * np.pi * 0.25)
    assert direct_sum(specimen, points) == pytest.approx(peak * np.exp(-np.array([0, 0.25, 0.04]) / 0.5), rel=1e-12)


def test_the_hexagonal_layer_has_six_operations_and_the_oblique_one_one() -> None:
    counts = []
    for atoms in (mos2(), low_symmetry()):
        cell = atoms.cell.array[:2, :2]
        specimen = Specimen("x", atoms.numbers, atoms.positions[:, :2], cell, View(0.1, 256))
        counts.append(len(plane_operations(specimen)))
    # p3m1 from above: three rotations, three mirrors.
    assert counts == [6, 1]


def test_intensity_over_any_cell_and_pose_is_the_sum_of_the_weights() -> None:
    random = np.random.default_rng(0)
    for atoms in (mos2(), low_symmetry()):
        cell = atoms.cell.array[:2, :2]
        for _ in range(5):
            view = View(0.15, 256, random.uniform(0, 360), tuple(random.uniform(-9, 9, 2)))
            specimen = Specimen("x", atoms.numbers, atoms.positions[:, :2], cell, view)
            projection = Projection(specimen.positions_angstrom, specimen.weights, reduce_cell(cell))
            image = render_batch([projection], [view], precision="float64")[0]
            deviation = intensity_sum_deviation(specimen, image)
            assert deviation == pytest.approx(0, abs=1e-4)
            assert symmetry_deviation(specimen, image) == pytest.approx(0, abs=1e-3)
            double = replace(specimen, cell_angstrom=cell * 8)
            assert intensity_sum_deviation(double, image) is None


def test_an_empty_set_passes(tmp_path: Path, slab_row: Callable[..., dict]) -> None:
    slabs = pl.DataFrame([slab_row("none", mos2(), status="rejected")], infer_schema_length=None)
    rows = write_stem_set(slabs, tmp_path / "stem", PARAMETERS, source="c2db")
    assert outcomes(audit_stem_set(tmp_path / "stem", rows, slabs)) == {"rows_match_the_arrays": True}
    assert len(StemSet.open(tmp_path / "stem")) == 0
