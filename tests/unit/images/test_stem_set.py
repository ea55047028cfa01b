"""Writing a set: contents, conventions, and interruption at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from ase import Atoms
from ase.build import graphene, mx2

from atomvision_ml.images.columns import column_mask
from atomvision_ml.images.stem import StemParameters, render
from atomvision_ml.images.stem_set import SHARD_IMAGES, StemSet, subjects, with_blob, write_stem_set
from atomvision_ml.schemas.tables.images import STEM
from atomvision_ml.structures.lattice import reduce_cell

SMALL = StemParameters(size_px=64, minimum_pixel_size_angstrom=0.2)


def slab_table(count: int, seed: int = 0) -> pl.DataFrame:
    """Accepted slabs with atoms at random places, and one rejected row."""
    random = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        cell = np.diag([*random.uniform(2.5, 6.0, 2), 15.0])
        cell[1, 0] = random.uniform(-1, 1)
        atoms = int(random.integers(1, 6))
        rows.append(
            {
                "slab_id": f"prototypes:{n:04d}",
                "status": "accepted",
                "numbers": random.integers(1, 80, atoms).tolist(),
                "positions_angstrom": (random.uniform(0, 1, (atoms, 3)) @ cell).ravel().tolist(),
                "cell_angstrom": cell.ravel().tolist(),
                "primitive_cell_angstrom": reduce_cell(cell[:2, :2]).ravel().tolist(),
                "bravais_lattice": "oblique",
                "class_strain_percent": 0.0,
                "next_class_strain_percent": 4.0,
                "superlattice_contrast": None,
                "is_ambiguous": False,
            }
        )
    rejected = {**rows[0], "slab_id": "prototypes:rejected", "status": "rejected", "numbers": None}
    return pl.DataFrame([*rows, rejected], infer_schema_length=None)


def atoms_of(slab: dict) -> Atoms:
    return Atoms(
        slab["numbers"],
        np.reshape(slab["positions_angstrom"], (-1, 3)),
        cell=np.reshape(slab["cell_angstrom"], (3, 3)),
        pbc=(True, True, False),
    )


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Path, pa.Table]:
    slabs = slab_table(SHARD_IMAGES + 6)
    folder = tmp_path_factory.mktemp("set") / "stem"
    return slabs, folder, write_stem_set(slabs, folder, SMALL, source="prototypes")


def test_rows_fulfil_the_contract_and_only_accepted_slabs_are_imaged(written: tuple) -> None:
    _, folder, rows = written
    table = STEM.conform(with_blob(rows, "sha"))
    assert table.num_rows == SHARD_IMAGES + 6 == len(StemSet.open(folder))
    assert table.column("index").to_pylist() == list(range(table.num_rows))
    assert "prototypes:rejected#0" not in table.column("image_id").to_pylist()
    assert set(table.column("blob").to_pylist()) == {"sha"}


def test_pixels_masks_and_tables_belong_together(written: tuple) -> None:
    slabs, folder, rows = written
    stem_set = StemSet.open(folder)
    by_id = {slab["slab_id"]: slab for slab in slabs.iter_rows(named=True)}
    for row in rows.slice(SHARD_IMAGES - 2, 4).to_pylist():
        expected = render(
            atoms_of(by_id[row["slab_id"]]),
            pixel_size_angstrom=row["pixel_size_angstrom"],
            size=row["size_px"],
            rotation_deg=row["rotation_deg"],
            shift_angstrom=(row["shift_x_angstrom"], row["shift_y_angstrom"]),
        )
        image, mask = stem_set.image(row["index"]), stem_set.mask(row["index"])
        assert (image.dtype, mask.dtype) == (np.float32, bool)
        assert np.abs(image - expected).max() <= 1e-5 * expected.max()
        assert row["mean_intensity"] == pytest.approx(expected.mean(), rel=1e-5)
        assert row["mask_fraction"] == pytest.approx(mask.mean())
        columns = np.array([[c["x_angstrom"], c["y_angstrom"]] for c in row["columns"]])
        again = column_mask(columns, row["size_px"], row["pixel_size_angstrom"])
        assert np.array_equal(mask[4:-4, 4:-4], again[4:-4, 4:-4])
        assert sum(c["n_atoms"] for c in row["columns"]) == pytest.approx(len(row["atoms"]), abs=12)
        assert max(c["relative_intensity"] for c in row["columns"]) == 1.0
        assert row["n_columns_in_view"] == len(row["columns"])
        assert row["n_atoms_in_view"] == len(row["atoms"])
        assert (stem_set.view(row["index"]).rotation_deg, stem_set.image_ids[row["index"]]) == (
            row["rotation_deg"],
            row["image_id"],
        )


def test_lattice_vectors_as_imaged_are_translations_of_the_image(written: tuple) -> None:
    """The golden test of vectors and axes: atoms moved by a lattice vector are atoms again."""
    _, _, rows = written
    for row in rows.slice(0, 5).to_pylist():
        atoms = np.array([[a["x_angstrom"], a["y_angstrom"], a["atomic_number"]] for a in row["atoms"]])
        vectors = np.reshape(row["lattice_vectors_angstrom"], (2, 2))
        assert row["periods_in_view"] == pytest.approx(row["field_angstrom"] / np.linalg.norm(vectors, axis=1).max())
        for vector in vectors:
            moved = atoms + np.array([*vector, 0])
            inside = np.all((moved[:, :2] > 0) & (moved[:, :2] < row["field_angstrom"] - 0.2), axis=1)
            apart = np.abs(moved[inside][:, None] - atoms[None]).max(axis=-1).min(axis=1)
            assert inside.any()
            assert apart.max() < 1e-6


def test_batches_come_in_the_order_asked_for(written: tuple) -> None:
    _, folder, _ = written
    stem_set = StemSet.open(folder)
    batch = stem_set.batch([SHARD_IMAGES + 1, 3])
    assert np.array_equal(batch, np.stack([stem_set.image(SHARD_IMAGES + 1), stem_set.image(3)]))
    assert sum(len(indices) for indices, _, _ in stem_set.batches(32)) == len(stem_set)
    with pytest.raises(IndexError, match="image 999"):
        stem_set.image(999)


def test_the_group_describes_itself(written: tuple) -> None:
    _, folder, _ = written
    attributes = json.loads((folder / "zarr.json").read_text())["attributes"]
    assert attributes["parameters"]["sigma_angstrom"] == 0.5
    assert attributes["axes"] == ["image", "y", "x"]
    array = json.loads((folder / "images" / "zarr.json").read_text())
    assert array["zarr_format"] == 3
    assert array["codecs"][0]["name"] == "sharding_indexed"
    with pytest.raises(ValueError, match="no Zarr group"):
        StemSet.open(folder.parent / "nowhere")


def test_poses_depend_on_seed_and_id_alone() -> None:
    slabs = slab_table(4)
    poses = {s.image_id: s.view for s in subjects(slabs, SMALL)}
    assert {s.image_id: s.view for s in subjects(slabs[::-1].head(4), SMALL)}.items() <= poses.items()
    other = {s.image_id: s.view for s in subjects(slabs, SMALL.model_copy(update={"seed": 1}))}
    assert all(other[key] != pose for key, pose in poses.items())
    still = SMALL.model_copy(update={"is_randomly_posed": False})
    assert {(s.view.rotation_deg, s.view.shift_angstrom) for s in subjects(slabs, still)} == {(0.0, (0.0, 0.0))}


def test_several_images_a_slab_have_their_own_poses(tmp_path: Path) -> None:
    twice = SMALL.model_copy(update={"images_per_slab": 2})
    rows = write_stem_set(slab_table(3), tmp_path / "stem", twice, source="prototypes")
    assert rows.column("image_id").to_pylist()[:2] == ["prototypes:0000#0", "prototypes:0000#1"]
    assert len(set(rows.column("rotation_deg").to_pylist())) == 6


def test_the_field_has_six_periods_where_the_pixel_allows(tmp_path: Path) -> None:
    rows = write_stem_set(
        slab_table(5), tmp_path / "stem", StemParameters(size_px=128, maximum_pixel_size_angstrom=0.5), source="c2db"
    )
    for row in rows.to_pylist():
        assert row["field_angstrom"] >= 25.0
        assert row["periods_in_view"] >= 6.0


def test_a_set_without_accepted_slabs_is_empty(tmp_path: Path) -> None:
    slabs = slab_table(1).filter(pl.col("status") == "rejected")
    rows = write_stem_set(slabs, tmp_path / "stem", SMALL, source="prototypes")
    assert rows.num_rows == 0
    assert len(StemSet.open(tmp_path / "stem")) == 0
    assert STEM.conform(with_blob(rows, "sha")).num_rows == 0


def test_a_slab_that_cannot_be_projected_is_named(tmp_path: Path) -> None:
    slabs = slab_table(2).with_columns(cell_angstrom=pl.lit([0.0] * 9))
    with pytest.raises(ValueError, match=r"slab prototypes:0000: .*span no area"):
        write_stem_set(slabs, tmp_path / "stem", SMALL, source="prototypes")


def test_finished_work_is_taken_up_and_other_parameters_start_anew(tmp_path: Path) -> None:
    slabs, calls = slab_table(5), []
    first = write_stem_set(slabs, tmp_path / "stem", SMALL, source="c2db")
    before = fingerprint(tmp_path / "stem")
    again = write_stem_set(slabs, tmp_path / "stem", SMALL, source="c2db", progress=lambda *done: calls.append(done))
    assert again.equals(first)
    assert calls == []
    assert fingerprint(tmp_path / "stem") == before
    wider = SMALL.model_copy(update={"sigma_angstrom": 0.6})
    other = write_stem_set(slabs, tmp_path / "stem", wider, source="c2db", progress=lambda *done: calls.append(done))
    assert calls == [(5, 5)]
    assert set(other.column("sigma_angstrom").to_pylist()) == {0.6}


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    slabs = slab_table(5)
    write_stem_set(slabs, tmp_path / "stem", SMALL, source="c2db")
    before = fingerprint(tmp_path / "stem")
    shard = tmp_path / "stem" / "images" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    write_stem_set(slabs, tmp_path / "stem", SMALL, source="c2db")
    assert fingerprint(tmp_path / "stem") == before


CHILD = """
import sys
from pathlib import Path
import polars as pl
from atomvision_ml.images.stem import StemParameters
from atomvision_ml.images.stem_set import write_stem_set

slabs, folder, parameters = pl.read_parquet(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
write_stem_set(slabs, folder, StemParameters.model_validate_json(parameters), source="c2db",
               progress=lambda done, total: print(done, flush=True))
"""


def test_killed_at_any_moment_the_set_is_the_same_after_all(tmp_path: Path) -> None:
    """A child process is killed (SIGKILL) at several moments; nothing partial is visible, and the rest follows."""
    slabs = slab_table(10 * SHARD_IMAGES, seed=2)
    slabs.write_parquet(tmp_path / "slabs.parquet")
    whole = write_stem_set(slabs, tmp_path / "whole", SMALL, source="c2db")
    target = tmp_path / "killed"
    kept = set()
    for after_lines in (0, 2):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "slabs.parquet"), str(target), SMALL.model_dump_json()]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        if after_lines == 0:
            manifest = tmp_path / "killed.unfinished" / "manifest.json"
            deadline = time.monotonic() + 60
            while not manifest.is_file() and time.monotonic() < deadline:
                time.sleep(0.005)
        for _ in range(after_lines):
            assert child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not target.exists()
        kept.add(len(list((tmp_path / "killed.unfinished" / "shards").glob("*.json"))))
    assert max(kept) >= 2
    made: list[int] = []
    rows = write_stem_set(slabs, target, SMALL, source="c2db", progress=lambda done, _: made.append(done))
    assert len(made) < 10
    assert rows.equals(whole)
    assert fingerprint(target) == fingerprint(tmp_path / "whole")


def test_known_layers_can_be_told_from_the_tables(tmp_path: Path) -> None:
    """MoS2 from above: every S column holds two atoms and has 0.388 of the molybdenum's intensity."""
    rows = []
    for name, atoms in {"MoS2": mx2(a=3.18, thickness=3.19, vacuum=8), "C2": graphene(vacuum=8)}.items():
        cell = atoms.cell.array + np.diag([0, 0, 20.0]) * (atoms.cell.array[2, 2] == 0)
        rows.append(
            {
                **slab_table(1).row(0, named=True),
                "slab_id": f"prototypes:{name}",
                "numbers": atoms.numbers.tolist(),
                "positions_angstrom": atoms.positions.ravel().tolist(),
                "cell_angstrom": cell.ravel().tolist(),
                "primitive_cell_angstrom": reduce_cell(cell[:2, :2]).ravel().tolist(),
            }
        )
    table = write_stem_set(pl.DataFrame(rows, infer_schema_length=None), tmp_path / "s", SMALL, source="prototypes")
    carbon, mos2 = table.column("columns").to_pylist()
    assert {c["n_atoms"] for c in carbon} == {1}
    assert {(c["n_atoms"], round(c["relative_intensity"], 3)) for c in mos2} == {(1, 1.0), (2, 0.388)}
