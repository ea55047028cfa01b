"""From files in a folder to rows and stored pixels: everything once, with the truth of an authored drop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from experiment_files import micrograph, write_emi, write_hspy, write_ser

from atomvision_assets.experiments import checks
from atomvision_ml.experiments.double import DropParameters, Truth, drop
from atomvision_ml.experiments.ingest import Intake, days_to_take, inbox_rows, lattice_label, record_rows
from atomvision_ml.experiments.ledger import InboxRules
from atomvision_ml.experiments.ledger_store import LedgerStore
from atomvision_ml.experiments.micrograph_store import read_image, read_pixels
from atomvision_ml.experiments.micrographs import MicrographWriter
from atomvision_ml.experiments.places import FolderPlaces
from atomvision_ml.experiments.record import Record, sidecar_path, unit_of, write_sidecar
from atomvision_ml.experiments.worker import FileReader
from atomvision_ml.schemas.tables.experiments import INBOX, MICROGRAPHS, RECORDS
from atomvision_ml.storage.lake import Lake

SMALL = DropParameters(images_per_sample=1, size_px=64)
AT_ONCE = InboxRules(minimum_age_s=0.0)
DECIDED = ("accepted", "duplicate", "rejected")


class Bench:
    """An inbox with everything that reads it."""

    def __init__(self, folder: Path, reader: FileReader, files: Path | None = None):
        self.files = folder / "files"
        if files is not None:
            shutil.copytree(files, self.files)
        self.lake = Lake(folder / "root")
        self.store = LedgerStore(folder / "ledger.sqlite")
        self.places = FolderPlaces(self.files)
        self.intake = Intake(self.store, self.places, reader, self.lake.put_blob, folder / "scratch")
        self.writer = MicrographWriter(reader, self.lake.blob, self.lake.put_blob, folder / "scratch")

    def take(self) -> int:
        return self.intake.take_all(AT_ONCE)

    def rows(self) -> list[dict[str, Any]]:
        return [row for day in self.store.days() for row in record_rows(self.store.rows(day))]


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    folder = tmp_path_factory.mktemp("drop")
    return folder, drop(folder, SMALL)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, reader: FileReader, dropped: tuple[Path, list[Truth]]) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("taken"), reader, dropped[0])
    assert bench.take() == len(dropped[1])
    return bench


def test_drop_is_the_same_again_and_leaves_files_that_are_there(
    dropped: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    (tmp_path / "results.tif").write_bytes(b"somebody's own")
    assert drop(tmp_path, SMALL) == dropped[1]
    assert (tmp_path / "results.tif").read_bytes() == b"somebody's own"
    for path in dropped[0].iterdir():
        if path.name != "results.tif":
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_file_gets_the_verdict_that_is_true(taken: Bench, dropped: tuple[Path, list[Truth]]) -> None:
    rows = {row["place"]: row for row in taken.rows()}
    assert {place: row["state"] for place, row in rows.items()} == {t.name: t.verdict for t in dropped[1]}
    assert {place: row["label_lattice"] or "" for place, row in rows.items() if row["state"] == "accepted"} == {
        t.name: t.lattice for t in dropped[1] if t.verdict == "accepted"
    }
    by_record = {row["record_id"]: row["sample_id"] for row in rows.values() if row["state"] == "accepted"}
    for truth in dropped[1]:
        if truth.verdict == "duplicate":
            assert by_record[rows[truth.name]["duplicate_of"]] == truth.sample
    assert "pickle" in rows["results.tif"]["reason"]


def test_rows_keep_the_contract_and_pass_the_audits(taken: Bench) -> None:
    rows = taken.rows()
    assert RECORDS.from_rows(rows).num_rows == len(rows)
    assert INBOX.from_rows(inbox_rows(taken.store.entries())).num_rows == len(rows)
    assert [audit.name for audit in checks.audit_records(rows, []) if not audit.passed] == []


def test_original_bytes_are_kept_and_the_inbox_is_left_alone(taken: Bench, dropped: tuple[Path, list[Truth]]) -> None:
    for row in taken.rows():
        path = dropped[0] / row["place"]
        assert (taken.files / row["place"]).read_bytes() == path.read_bytes()
        if row["state"] == "accepted":
            folder = taken.lake.blob(row["blob"])
            assert (folder / row["file"]).read_bytes() == path.read_bytes()
            assert sidecar_path(folder / row["file"]).read_text() == sidecar_path(path).read_text()


def test_what_was_taken_is_not_taken_again(taken: Bench) -> None:
    before = taken.rows()
    assert taken.take() == 0
    assert taken.rows() == before
    assert days_to_take(taken.store, taken.places, datetime(2031, 1, 1, tzinfo=UTC)) == list(taken.store.days())


def test_unread_files_make_the_present_day_due(tmp_path: Path, reader: FileReader) -> None:
    bench = Bench(tmp_path, reader)
    now = datetime(2031, 1, 1, 23, 59, tzinfo=UTC)
    assert days_to_take(bench.store, bench.places, now) == []
    bench.files.mkdir()
    (bench.files / "notes.tif").symlink_to("notes.txt")
    assert days_to_take(bench.store, bench.places, now) == ["2031-01-01"]
    bench.take()
    assert days_to_take(bench.store, bench.places, now) == list(bench.store.days())
    (bench.files / "notes.txt").write_text("no image")
    assert days_to_take(bench.store, bench.places, now) == [*bench.store.days(), "2031-01-01"]


def test_a_sidecar_whose_values_contradict_each_other_is_told_and_stops_nobody(
    tmp_path: Path, reader: FileReader
) -> None:
    bench = Bench(tmp_path, reader)
    bench.files.mkdir()
    for number, name in enumerate(("a.ser", "b.ser")):
        write_ser(bench.files / name, micrograph() + number)
    angles = {"collection_inner_mrad": 200.0, "collection_outer_mrad": 60.0}
    sidecar_path(bench.files / "a.ser").write_text("\n".join(f"{name}: {value}" for name, value in angles.items()))
    bench.take()
    states = {row["place"]: (row["state"], row["reason"]) for row in bench.rows()}
    assert states["b.ser"] == ("accepted", None)
    assert states["a.ser"][0] == "rejected"
    assert "collection_inner_mrad must be below" in states["a.ser"][1]


@pytest.mark.parametrize("spoilt", ["emi", "ser", "sidecar"])
def test_a_good_series_is_taken_without_its_damaged_header(tmp_path: Path, reader: FileReader, spoilt: str) -> None:
    """One of two series is damaged, or the header; a spoilt sidecar alone keeps all of them waiting."""
    bench = Bench(tmp_path, reader)
    bench.files.mkdir()
    write_emi(bench.files / "a.emi", micrograph())
    write_ser(bench.files / "a_02.ser", micrograph() + 1)
    rejected = {"emi": {"a.emi"}, "ser": {"a.emi", "a_02.ser"}, "sidecar": {"a.emi"}}[spoilt]
    damaged = bench.files / {"emi": "a.emi", "ser": "a_02.ser", "sidecar": "a.emi.meta.yaml"}[spoilt]
    damaged.write_bytes(damaged.read_bytes()[:100] if damaged.exists() else b"colour: blue")
    bench.take()
    rows = {row["place"]: row for row in bench.rows()}
    taken = set() if spoilt == "sidecar" else {"a_1.ser", "a_02.ser"} - rejected
    assert {place for place, row in rows.items() if row["state"] == "accepted"} == taken
    assert {place for place, row in rows.items() if row["state"] == "rejected" and row["reason"]} == rejected
    assert bench.take() == 0
    assert len(bench.rows()) == len(rows)
    damaged.unlink()
    bench.take()
    assert sum(row["state"] == "accepted" for row in bench.rows()) == (1 if spoilt == "ser" else 2)


def test_every_series_of_an_emi_is_taken_with_it(tmp_path: Path, reader: FileReader) -> None:
    """Whatever their numbers are; a copy of the same header with another series loses none."""
    bench = Bench(tmp_path, reader)
    (bench.files / "copy").mkdir(parents=True)
    write_emi(bench.files / "a.EMI", micrograph())
    write_ser(bench.files / "a_02.ser", micrograph() + 1)
    write_ser(bench.files / "a_113.SER", micrograph() + 2)
    shutil.copy(bench.files / "a.EMI", bench.files / "copy" / "a.emi")
    write_ser(bench.files / "copy" / "a_1.ser", micrograph() + 3)
    bench.take()
    assert [(row["place"], row["state"], row["signal_name"]) for row in bench.rows()] == [
        ("a.EMI", "accepted", "a_1"), ("a.EMI", "accepted", "a_02"), ("a.EMI", "accepted", "a_113"),
        ("copy/a.emi", "duplicate", None), ("copy/a_1.ser", "accepted", "a_1"),
    ]  # fmt: skip
    assert days_to_take(bench.store, bench.places, datetime(2031, 1, 1, tzinfo=UTC)) == list(bench.store.days())


def test_micrographs_hold_the_pixels_and_the_calibration_exactly(
    taken: Bench, reader: FileReader, tmp_path: Path
) -> None:
    records = taken.rows()
    stored = taken.writer.write(records)
    assert stored.not_stored == {}
    day = records[0]["day"]
    assert MICROGRAPHS.from_rows(stored.rows).num_rows == sum(row["state"] == "accepted" for row in records)
    assert all(audit.passed for audit in checks.audit_micrographs(stored.rows, records, stored.not_stored))
    for number, row in enumerate(stored.rows):
        assert row["day"] == day
        assert row["is_calibrated"]
        folder = tmp_path / str(number)
        folder.mkdir()
        original = reader.read(taken.files / row["original_filename"], folder).pictures[0].pixels
        blob = taken.lake.blob(row["blob"])
        assert np.array_equal(read_pixels(blob), original)
        assert read_pixels(blob).dtype == original.dtype
        scale = _multiscale(blob)["datasets"][0]["coordinateTransformations"][0]["scale"]
        assert scale == [row["pixel_size_y_nm"], row["pixel_size_x_nm"]]
        assert read_image(blob).mean() == pytest.approx(original.mean(), rel=1e-6)


def _multiscale(blob: Path) -> Any:
    return json.loads((blob / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]


def test_stored_micrographs_are_carried_over(taken: Bench, tmp_path: Path) -> None:
    records = taken.rows()
    rows = taken.writer.write(records).rows

    def never(sha: str) -> Path:
        raise AssertionError("opened")

    writer = MicrographWriter(taken.writer.reader, never, taken.lake.put_blob, tmp_path)
    assert writer.write(records, rows).rows == rows
    assert writer.write([row | {"state": "superseded"} for row in records], rows).rows == []


def test_pixels_that_read_otherwise_are_refused(taken: Bench) -> None:
    record = next(row for row in taken.rows() if row["state"] == "accepted")
    with pytest.raises(ValueError, match="not those that were received"):
        taken.writer.write([record | {"pixel_sha256": "0" * 64}])


def test_label_that_is_added_later_replaces_the_row(
    tmp_path: Path, reader: FileReader, dropped: tuple[Path, list[Truth]]
) -> None:
    bench = Bench(tmp_path, reader)
    name = next(t.name for t in dropped[1] if t.verdict == "accepted" and not t.lattice)
    bench.files.mkdir()
    for source in (dropped[0] / name, sidecar_path(dropped[0] / name)):
        shutil.copy(source, bench.files)
    bench.take()
    (first,) = bench.rows()
    told = {"sample_id": "GS-01", "labels": {"lattice": "rhombic"}}
    write_sidecar(sidecar_path(bench.files / name), told, {})
    bench.take()
    former, latter = bench.rows()
    assert (former["state"], latter["state"]) == ("superseded", "accepted")
    assert (first["label_lattice"], latter["label_lattice"]) == (None, "rhombic")
    assert former["receipt_id"] == first["receipt_id"]
    assert latter["record_id"] == first["record_id"]
    shutil.copy(bench.files / name, bench.files / f"copy_of_{name}")
    write_sidecar(sidecar_path(bench.files / f"copy_of_{name}"), {"labels": {"lattice": "square"}}, {})
    bench.take()
    *_, copy = bench.rows()
    assert (copy["state"], copy["label_lattice"], copy["duplicate_of"]) == ("duplicate", None, latter["record_id"])
    assert bench.rows()[1]["label_lattice"] == "rhombic"


def test_unknown_lattice_is_a_warning_and_no_label() -> None:
    assert lattice_label(None) == (None, "")
    assert lattice_label({"lattice": "oblique"}) == ("oblique", "")
    label, why = lattice_label({"lattice": "cubic"})
    assert label is None
    assert "cubic" in why


def test_images_that_are_refused_are_rows_beside_those_that_are_taken(tmp_path: Path, reader: FileReader) -> None:
    bench = Bench(tmp_path, reader)
    bench.files.mkdir()
    path = bench.files / "a.hspy"
    write_hspy(path, micrograph("f4"))
    with h5py.File(path, "a") as file:
        for name, pixels in (("flat", np.zeros((40, 48))), ("wave", micrograph("f4") * 1j)):
            group = file["Experiments"].create_group(name)
            group.attrs.update(file["Experiments/image"].attrs)
            for axis in ("axis-0", "axis-1"):
                file.copy(file[f"Experiments/image/{axis}"], group)
            group["data"] = pixels
    bench.take()
    rows = bench.rows()
    told = {row["signal_index"]: (row["state"], row["signal_name"], row["reason"]) for row in rows}
    assert told == {
        0: ("rejected", "flat", "flat: all pixels have the value 0"), 1: ("accepted", "image", None),
        2: ("rejected", None, "wave: complex values: a Fourier transform or a phase field, not an image"),
    }  # fmt: skip
    assert {(row["file_sha256"], row["source_format"], row["place"]) for row in rows} == {
        (rows[0]["file_sha256"], "hspy", "a.hspy")
    }
    assert len({row["receipt_id"] for row in rows}) == RECORDS.from_rows(rows).num_rows == 3
    assert [audit.name for audit in checks.audit_records(rows, []) if not audit.passed and not audit.is_warning] == []
    for change in ("uploaded again", "a copy"):
        shutil.copy(path, bench.files / f"{change}.hspy") if change == "a copy" else os.utime(path, (1, 1))
        bench.take()
    assert bench.rows()[:3] == rows
    assert [row["state"] for row in bench.rows()[3:]] == ["duplicate"]


def test_broken_sidecar_rejects_the_file_until_it_is_mended(
    tmp_path: Path, reader: FileReader, dropped: tuple[Path, list[Truth]]
) -> None:
    bench = Bench(tmp_path, reader)
    bench.files.mkdir()
    name = dropped[1][0].name
    shutil.copy(dropped[0] / name, bench.files)
    sidecar_path(bench.files / name).write_text("colour: blue\n")
    bench.take()
    assert [(row["state"], row["reason"].split(":")[0]) for row in bench.rows()] == [("rejected", "sidecar")]
    sidecar_path(bench.files / name).write_text("sample_id: A\n")
    bench.take()
    assert bench.rows()[-1]["state"] == "accepted"
    assert bench.rows()[-1]["sample_id"] == "A"


def test_lost_receipts_and_unexplained_verdicts_are_seen(taken: Bench) -> None:
    rows = taken.rows()

    def failed(changed: list[dict[str, Any]], former: list[str]) -> set[str]:
        return {audit.name for audit in checks.audit_records(changed, former) if not audit.passed}

    accepted = next(row for row in rows if row["state"] == "accepted")
    assert failed(rows, ["gone"]) == {"no_receipt_is_lost"}
    assert failed([accepted, accepted], []) == {"images_are_accepted_once"}
    assert failed([accepted | {"blob": None}], []) == {"verdicts_are_explained"}
    assert failed([accepted | {"missing_fields": ["licence"]}], []) == {"records_are_complete"}
    stored = [{"record_id": "a"}]
    judged = checks.audit_micrographs(stored, [{"record_id": "b", "state": "accepted"}], {"x": "too slow"})
    assert [audit.passed for audit in judged] == [False, False]


def test_table_has_every_field_of_the_record_with_its_unit() -> None:
    for name in Record.model_fields:
        column = RECORDS.column(name)
        assert (column.unit or "") == unit_of(name), name


@pytest.mark.real_data
def test_genuine_files_become_rows_and_stored_pixels(tmp_path: Path, reader: FileReader) -> None:
    folder = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/micrographs"), None)
    if folder is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with micrographs")
    bench = Bench(tmp_path, reader)
    bench.intake.places = FolderPlaces(folder)
    n_files = bench.intake.take_all(AT_ONCE.model_copy(update={"partner_wait_s": 0.0}))
    records = bench.rows()
    assert len({row["place"] for row in records}) == n_files >= 140
    assert [a.name for a in checks.audit_records(records, []) if not a.passed and not a.is_warning] == []
    stored = bench.writer.write(records)
    assert stored.not_stored == {}
    assert len(stored.rows) == sum(row["state"] == "accepted" for row in records) >= 50
    assert MICROGRAPHS.from_rows(stored.rows).num_rows == len(stored.rows)


TAKER = """
import sys
from pathlib import Path
from atomvision_ml.experiments.ingest import Intake
from atomvision_ml.experiments.ledger import InboxRules
from atomvision_ml.experiments.ledger_store import LedgerStore
from atomvision_ml.experiments.places import FolderPlaces
from atomvision_ml.experiments.worker import FileReader
from atomvision_ml.storage.lake import Lake

if __name__ == "__main__":
    folder, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    store, places = LedgerStore(folder / "ledger.sqlite"), FolderPlaces(folder / "files")
    with FileReader() as reader:
        intake = Intake(store, places, reader, Lake(folder / "root").put_blob, scratch)
        print("begins", flush=True)
        for key in sys.argv[3:]:
            intake.take(store.batch(key))
"""


@pytest.mark.slow
def test_two_processes_on_the_same_files_and_killed_ones_settle_everything_once(
    tmp_path: Path, reader: FileReader, dropped: tuple[Path, list[Truth]]
) -> None:
    bench = Bench(tmp_path, reader, dropped[0])
    (tmp_path / "taker.py").write_text(TAKER)
    random = np.random.default_rng(3)
    rules = InboxRules(minimum_age_s=0.0, claim_s=1.0, maximum_attempts=50)
    now_s, n_killed = 1_800_000_000.0, 0
    while not bench.store.entries() or any(entry.state not in DECIDED for entry in bench.store.entries().values()):
        now_s += 1e5
        keys = [batch.key for batch in bench.store.tick(bench.places.listing(), now_s, rules=rules).batches]
        command = [sys.executable, str(tmp_path / "taker.py"), str(tmp_path)]
        takers = [
            subprocess.Popen([*command, str(tmp_path / f"scratch{n}"), *keys], stdout=subprocess.PIPE) for n in range(2)
        ]
        for taker in takers:
            assert taker.stdout is not None
            taker.stdout.readline()
            if n_killed < 4:
                time.sleep(float(random.uniform(0.0, 0.5)))
                n_killed += taker.poll() is None
                taker.kill()
            taker.communicate(timeout=120)
    assert n_killed >= 2
    rows = bench.rows()
    assert {row["place"]: row["state"] for row in rows} == {t.name: t.verdict for t in dropped[1]}
    assert len(rows) == len(dropped[1])
