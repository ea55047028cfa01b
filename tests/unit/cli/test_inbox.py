"""The commands of the inbox on a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.experiments.ledger import InboxRules, Outcome
from atomvision_ml.experiments.ledger_store import LedgerStore
from atomvision_ml.experiments.places import FolderPlaces
from atomvision_ml.schemas.tables import table
from atomvision_ml.settings import Settings, settings
from atomvision_ml.storage.lake import Lake, Version


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ATOMVISION_ROOT", str(tmp_path / "root"))
    settings.cache_clear()
    yield tmp_path / "root"
    settings.cache_clear()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["inbox", *arguments])
    return result.exit_code, result.output


def test_files_are_added_with_their_sidecars(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.mrc"
    image.write_bytes(b"pixels")
    code, said = run("add", str(image), "--set", "sample_id=A", "--set", "labels={lattice: square}", "--folder", "mine")
    placed = root / "inbox" / "files" / "mine" / "image.mrc"
    assert (code, said.split()) == (0, [str(placed)])
    assert placed.read_bytes() == b"pixels"
    told = yaml.safe_load(placed.with_name("image.mrc.meta.yaml").read_text())
    assert told == {"sample_id": "A", "labels": {"lattice": "square"}}
    assert {path.name for path in placed.parent.iterdir()} == {"image.mrc", "image.mrc.meta.yaml"}


def test_another_file_of_the_same_name_is_not_replaced(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.mrc"
    image.write_bytes(b"first")
    assert run("add", str(image))[0] == 0
    assert run("add", str(image), "--set", "sample_id=B")[0] == 0
    image.write_bytes(b"other")
    code, said = run("add", str(image))
    assert code == 1
    assert "another file of this name" in said
    assert (root / "inbox" / "files" / "image.mrc").read_bytes() == b"first"


def test_files_of_one_name_and_folders_outside_the_inbox_are_refused(root: Path, tmp_path: Path) -> None:
    images = [tmp_path / name / "image.mrc" for name in "ab"]
    for image in images:
        image.parent.mkdir()
        image.write_bytes(image.parent.name.encode())
    code, said = run("add", *map(str, images))
    assert code == 1
    assert "several files of the name image.mrc" in said
    assert run("add", str(images[0]), "--folder", "../elsewhere")[0] == 2
    assert not (root / "inbox").exists()


def test_a_sidecar_that_is_given_too_goes_with_its_file(root: Path, tmp_path: Path) -> None:
    image, sidecar = tmp_path / "image.mrc", tmp_path / "image.mrc.meta.yaml"
    image.write_bytes(b"pixels")
    sidecar.write_text("sample_id: A")
    assert run("add", str(sidecar), str(image), "--set", "operator=B")[0] == 0
    (told,) = (root / "inbox" / "files").glob("*.yaml")
    assert yaml.safe_load(told.read_text()) == {"sample_id": "A", "operator": "B"}


def test_a_field_that_the_record_lacks_copies_nothing(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.mrc"
    image.write_bytes(b"pixels")
    code, said = run("add", str(image), "--set", "colour=blue")
    assert code == 1
    assert "colour" in said
    assert not (root / "inbox" / "files").exists()


def test_states_and_reasons_are_told_and_rejected_files_offered_again(root: Path) -> None:
    assert run("status") == (0, "no file was seen yet\n")
    assert run("status", "--state", "lost")[0] == 2
    files = root / "inbox" / "files"
    files.mkdir(parents=True)
    for name in ("bad.tif", "good.tif"):
        (files / name).write_text(name)
    store, rules = LedgerStore(settings().inbox_ledger_path()), InboxRules(minimum_age_s=0)
    store.tick(FolderPlaces(files).listing(), 1e9, rules=rules)
    (batch,) = store.tick(FolderPlaces(files).listing(), 1e9 + 1, rules=rules).batches
    for place, stamp in batch.files:
        rows = ({"record_id": "r-0", "pixel_sha256": "p", "signal_index": 0},)
        bad = Outcome(place, stamp, "a", "damaged")
        store.begin(batch.key, place, stamp)
        store.settle(batch.key, bad if place == "bad.tif" else Outcome(place, stamp, "b", rows=rows))
    code, said = run("status")
    assert code == 0
    assert said.startswith("1 accepted, 1 rejected")
    assert "bad.tif" in said
    assert "damaged" in said
    assert "good.tif" in run("status", "--state", "accepted")[1]
    assert run("reconsider", "good.tif")[0] == 1
    assert run("reconsider") == (0, "1 files are offered again\n")
    assert run("status")[1].startswith("1 accepted, 1 ready")


def test_labelled_images_that_train_nothing_are_told_with_the_reason(root: Path, tmp_path: Path) -> None:
    lake, blob = Lake(root), tmp_path / "blob"
    blob.mkdir()
    (blob / "pixels").write_bytes(b"pixels")
    image = {
        "day": "2026-11-20", "blob": lake.put_blob(blob), "shape_y": 64, "shape_x": 64, "n_frames": 1, "dtype": "uint8",
        "is_calibrated": True, "pixel_size_y_nm": 0.01, "pixel_size_x_nm": 0.01, "sample_id": "A",
        "label_lattice": "square", "original_filename": "a.tif",
        **dict.fromkeys(("noise", "snr", "focus", "astigmatism", "astigmatism_angle_deg", "clipped_share"), 1.0),
    }  # fmt: skip
    changes = (
        {},
        {"sample_id": None},
        {"sample_id": None},
        {"shape_y": 40},
        {"label_lattice": None, "sample_id": None},
    )
    rows = [image | {"record_id": f"r{n}", "receipt_id": f"{n}"} | change for n, change in enumerate(changes)]
    micrographs = table("experiments/micrographs").from_rows(rows)
    lake.publish("experiments/micrographs", micrographs, version=Version(code_version="1"), partition="2026-11-20")
    code, said = run("status")
    assert code == 0
    assert said.splitlines()[-2:] == [
        "labelled, but not trained on: 2 of the accepted images, no sample_id",
        "labelled, but not trained on: 1 of the accepted images, smaller than 48 px",
    ]


def test_a_damaged_ledger_is_named(root: Path) -> None:
    ledger = settings().inbox_ledger_path()
    ledger.parent.mkdir(parents=True)
    ledger.write_text("no database at all")
    for command in ("status", "reconsider"):
        code, said = run(command)
        assert code == 1
        assert said.startswith(f"Error: {ledger} cannot be used")


def test_an_inbox_in_a_bucket_is_not_a_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMVISION_INBOX", "s3://bucket/prefix")
    settings.cache_clear()
    (tmp_path / "image.mrc").write_bytes(b"pixels")
    code, said = run("add", str(tmp_path / "image.mrc"))
    assert code == 1
    assert "s3://bucket/prefix" in said


def test_places_follow_the_root(tmp_path: Path) -> None:
    here = Settings(root=str(tmp_path))
    assert (here.inbox_url(), here.inbox_ledger_path()) == (
        str(tmp_path / "inbox" / "files"), tmp_path / "inbox" / "ledger.sqlite",
    )  # fmt: skip
    one, other = (Settings(root=f"s3://bucket/{name}", state=tmp_path) for name in "ab")
    assert one.inbox_ledger_path().is_relative_to(tmp_path)
    assert one.inbox_ledger_path() != other.inbox_ledger_path()
    assert Settings(inbox="s3://drop/here").inbox_url() == "s3://drop/here"
