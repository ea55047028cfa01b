"""Slab normalisation is a rigid motion that finds the vacuum wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from atomvision_ml.schemas.tables.structures import SLABS
from atomvision_ml.structures import slabs
from atomvision_ml.structures.prototypes import prototype, prototype_rows
from atomvision_ml.structures.record import Row, crystal_columns, make_crystal
from atomvision_ml.structures.slabs import (
    MINIMUM_GAP_ANGSTROM,
    VACUUM_ANGSTROM,
    NotASlabError,
    Slab,
    atoms_from_row,
    normalise_slab,
    slab_columns,
    slab_from_row,
    slab_row,
    slab_rows,
)

RANDOM_SEEDS = st.integers(0, 2**32 - 1)


def random_layer(rng: np.random.Generator) -> Atoms:
    """A random layer with vacuum along c, which may lean, and with atoms anywhere along c."""
    a, b = rng.uniform(2.5, 12, 2)
    gamma = np.radians(rng.uniform(35, 145))
    cell = np.array([[a, 0, 0], [b * np.cos(gamma), b * np.sin(gamma), 0], [*rng.uniform(-6, 6, 2), 0]])
    thickness = rng.uniform(0, 6)
    cell[2, 2] = thickness + rng.uniform(7, 25)
    n = int(rng.integers(1, 9))
    fractional = rng.uniform(-1, 2, (n, 3))
    fractional[:, 2] = 0
    positions = fractional @ cell
    positions[:, 2] += rng.uniform(0, thickness, n)
    positions += rng.uniform(0, 1) * cell[2]
    return Atoms(rng.integers(1, 90, n), positions=positions, cell=cell, pbc=True)


def environments(numbers: NDArray, positions: NDArray, cell: NDArray, reach: float = 5.0) -> list[list[float]]:
    """Per atom, the sorted distances to all images of all atoms within the reach, Z of the neighbour included."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    repeats = np.ceil(reach / heights).astype(int) + 1
    wrapped = (positions @ np.linalg.inv(cell)) % 1.0 @ cell
    grid = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in repeats], indexing="ij"), -1).reshape(-1, 3) @ cell
    result = []
    for position in wrapped:
        distances = np.linalg.norm(wrapped[:, None] + grid[None] - position, axis=-1)
        inside = np.argwhere((distances > 1e-6) & (distances < reach))
        result.append(sorted((int(numbers[i]), round(float(distances[i, j]), 4)) for i, j in inside))
    return result


def same_environments(first: list, second: list) -> bool:
    """Equal up to atoms that sit on the rim of the reach."""
    for one, two in zip(first, second, strict=True):
        near_one = np.array([distance for _, distance in one if distance < 4.9])
        near_two = np.array([distance for _, distance in two if distance < 4.9])
        if len(near_one) != len(near_two) or not np.allclose(np.sort(near_one), np.sort(near_two), atol=2e-4):
            return False
    return True


def normalised(atoms: Atoms) -> Slab:
    return normalise_slab(atoms.numbers, atoms.positions, atoms.cell.array)


def pair_set(slab: Slab) -> NDArray:
    """In-plane pair vectors in fractional coordinates and z, relative to the first atom: the slab up to a shift."""
    fractional = slab.positions_angstrom[:, :2] @ np.linalg.inv(slab.cell_angstrom[:2, :2])
    relative = (fractional - fractional[0] + 1e-6) % 1.0
    return np.column_stack([relative, slab.positions_angstrom[:, 2]])


@given(RANDOM_SEEDS)
@settings(max_examples=60, deadline=None)
def test_conventions(seed: int) -> None:
    slab = normalised(random_layer(np.random.default_rng(seed)))
    cell, z = slab.cell_angstrom, slab.positions_angstrom[:, 2]
    assert cell[0, 0] > 0
    assert cell[1, 1] > 0
    assert np.all(cell[[0, 0, 1, 2, 2], [1, 2, 2, 0, 1]] == 0)
    assert cell[2, 2] == pytest.approx(slab.thickness_angstrom + VACUUM_ANGSTROM)
    assert np.ptp(z) == pytest.approx(slab.thickness_angstrom, abs=1e-9)
    assert (z.min() + z.max()) / 2 == pytest.approx(cell[2, 2] / 2)


@given(RANDOM_SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_atom_moves_relative_to_another(seed: int) -> None:
    atoms = random_layer(np.random.default_rng(seed))
    slab = normalised(atoms)
    before = environments(atoms.numbers, atoms.positions, atoms.cell.array)
    after = environments(slab.numbers, slab.positions_angstrom, slab.cell_angstrom)
    assert same_environments(before, after)
    assert np.array_equal(slab.numbers, atoms.numbers)


@given(RANDOM_SEEDS, st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_rotation_and_cyclic_renaming_change_nothing(seed: int, roll: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = random_layer(rng)
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    assume(heights[:2].max() < 6.5)  # else an in-plane gap could rival the vacuum
    turn = Rotation.random(rng=rng).as_matrix()
    turned = normalise_slab(atoms.numbers, atoms.positions @ turn, np.roll(atoms.cell.array @ turn, roll, axis=0))
    plain = normalised(atoms)
    assert plain.vacuum_axis == "c"
    assert turned.vacuum_axis == "cab"[roll]
    assert np.allclose(turned.cell_angstrom, plain.cell_angstrom, atol=1e-8)
    assert np.allclose(pair_set(turned), pair_set(plain), atol=1e-6)


@given(RANDOM_SEEDS)
@settings(max_examples=60, deadline=None)
def test_normalising_twice_is_normalising_once(seed: int) -> None:
    once = normalised(random_layer(np.random.default_rng(seed)))
    twice = normalise_slab(once.numbers, once.positions_angstrom, once.cell_angstrom)
    assume(once.vacuum_axis == "c")
    assert np.allclose(twice.cell_angstrom, once.cell_angstrom, atol=1e-9)
    assert np.allclose(pair_set(twice), pair_set(once), atol=1e-6)


def test_a_left_handed_cell_is_turned_over_and_not_mirrored() -> None:
    chiral = Atoms("HLiBe", positions=[[0, 0, 0], [1.4, 0.3, 0.9], [0.4, 1.9, 2.2]], cell=[4, 5, 20], pbc=True)
    left = np.diag([4.0, 5.0, -20.0])
    slab = normalise_slab(chiral.numbers, chiral.positions, left)
    assert np.linalg.det(slab.cell_angstrom) > 0
    before, after = chiral.positions, slab.positions_angstrom
    volume = np.linalg.det([before[1] - before[0], before[2] - before[0], [0, 0, 1]])
    assert np.linalg.det([after[1] - after[0], after[2] - after[0], [0, 0, 1]]) == pytest.approx(volume)


def test_a_layer_across_the_boundary_is_put_together() -> None:
    atoms = mx2("MoS2", "2H", a=3.18, thickness=3.19, vacuum=10)
    atoms.pbc = True
    atoms.positions[:, 2] -= atoms.positions[0, 2]
    atoms.wrap()
    assert np.ptp(atoms.positions[:, 2]) > 10
    assert normalised(atoms).thickness_angstrom == pytest.approx(3.19)


def test_in_plane_positions_follow_a_leaning_c() -> None:
    cell = np.array([[3.0, 0, 0], [0, 4.0, 0], [1.0, 0.5, 20.0]])
    positions = np.array([[0.1, 0.1, 0.2], [0.1, 0.1, -0.8]])
    wrapped = (positions @ np.linalg.inv(cell)) % 1.0 @ cell
    slab = normalise_slab([6, 8], wrapped, cell)
    assert slab.thickness_angstrom == pytest.approx(1.0)
    difference = slab.positions_angstrom[0] - slab.positions_angstrom[1]
    difference[:2] -= np.round(difference[:2] / [3, 4]) * [3, 4]
    assert difference == pytest.approx([0, 0, 1])


def test_vacuum_across_the_given_axes_is_found() -> None:
    layer = mx2("MoS2", "2H", a=3.18, thickness=3.19, vacuum=6)
    layer.pbc = True
    cell = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 2]]) @ layer.cell.array
    assert slabs._vacuum(layer.positions, cell)[1] < MINIMUM_GAP_ANGSTROM
    slab = normalise_slab(layer.numbers, layer.positions, cell)
    assert slab.thickness_angstrom == pytest.approx(3.19)
    area = np.linalg.det(slab.cell_angstrom[:2, :2])
    assert area == pytest.approx(3.18**2 * np.sqrt(3) / 2)


def bulk_structures() -> Iterator[Atoms]:
    yield bulk("Si")
    yield bulk("Cu", cubic=True)
    graphite = graphene(a=2.46, vacuum=3.35 / 2)
    graphite.pbc = True
    yield graphite


@pytest.mark.parametrize("atoms", list(bulk_structures()), ids=["Si", "Cu", "graphite"])
def test_bulk_is_no_slab(atoms: Atoms) -> None:
    with pytest.raises(NotASlabError, match="no vacuum"):
        normalised(atoms)


@pytest.mark.parametrize(
    ("numbers", "positions", "cell", "message"),
    [
        ([6], [[0, 0, 0]], np.diag([2.5, 2.5, 0.0]), "length 0"),
        ([6], [[0, 0, 0]], [[2.5, 0, 0], [2.5, 0, 0], [0, 0, 20]], "no volume"),
        ([6], [[np.nan, 0, 0]], np.diag([2.5, 2.5, 20]), "not finite"),
        ([6, 6], [[0, 0, 0]], np.diag([2.5, 2.5, 20]), "2 atomic numbers"),
        ([], np.empty((0, 3)), np.diag([2.5, 2.5, 20]), "0 atomic numbers"),
    ],
)
def test_degenerate_input_is_refused(numbers: list, positions: list, cell: list, message: str) -> None:
    with pytest.raises(NotASlabError, match=message):
        normalise_slab(numbers, positions, cell)


def test_flat_layers_have_no_thickness() -> None:
    assert normalised(prototype("C-graphene")).thickness_angstrom == 0.0


def record(atoms: Atoms, native_id: str = "x") -> Row:
    crystal = make_crystal(atoms.numbers.tolist(), atoms.positions, atoms.cell.array, are_fractional=False)
    row: Row = {"record_id": f"c2db:{native_id}", "source": "c2db", "status": "accepted", "reason": None}
    return row | crystal_columns(crystal)


def test_every_record_gets_one_row_in_order() -> None:
    rejected = {"record_id": "c2db:bad", "source": "c2db", "status": "rejected", "reason": "no atoms"}
    records = pl.DataFrame([record(prototype("MoS2-2H"), "good"), rejected, record(bulk("Si"), "bulk")])
    seen: list[tuple[int, int | None]] = []
    rows = slab_rows(records, progress=lambda done, total: seen.append((done, total)))
    assert SLABS.from_rows(rows).num_rows == 3
    assert [(row["slab_id"], row["status"]) for row in rows] == [
        ("c2db:good", "accepted"),
        ("c2db:bad", "rejected"),
        ("c2db:bulk", "rejected"),
    ]
    assert rows[1]["reason"] == "no atoms"
    assert rows[2]["reason"].startswith("not a slab: no vacuum")
    assert rows[0]["reduced_formula"] == "MoS2"
    assert seen == [(3, 3)]


def test_rows_give_back_their_slab() -> None:
    slab = normalised(prototype("SnS"))
    row = {"slab_id": "c2db:SnS", "status": "accepted", "reason": None} | slab_columns(slab)
    again = slab_from_row(row)
    assert np.array_equal(again.positions_angstrom, slab.positions_angstrom)
    assert np.array_equal(again.cell_angstrom, slab.cell_angstrom)
    atoms = atoms_from_row(row)
    assert atoms.pbc.tolist() == [True, True, False]
    assert atoms.info["slab_id"] == "c2db:SnS"
    with pytest.raises(ValueError, match="no vacuum"):
        slab_from_row({"slab_id": "c2db:x", "status": "rejected", "reason": "no vacuum"})


def test_two_processes_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    records = pl.DataFrame(prototype_rows()).head(140)
    expected = [slab_row(row) for row in records.to_dicts()]
    monkeypatch.setattr(slabs, "PARALLEL_FROM", 100)
    assert SLABS.from_rows(slab_rows(records)).equals(SLABS.from_rows(expected))
