"""Mark and sweep."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import BlobMissingError, DamagedDataError, Lake, Version

GALLERY = "evaluation/gallery"
AT_ONCE = timedelta(0)
WEEK_S = 8 * 24 * 3600


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def put(lake: Lake, text: str, age_s: float = WEEK_S) -> str:
    (lake.scratch("work") / "file").write_text(text)
    sha = lake.put_blob(lake.scratch("work"))
    make_old(lake.blob(sha), age_s)
    return sha


def make_old(path: Path, age_s: float) -> None:
    moment = time.time() - age_s
    os.utime(path, (moment, moment))


def gallery(*blobs: str) -> pa.Table:
    return table(GALLERY).from_rows(
        [{"page": f"{number}.html", "title": "t", "blob": blob, "n_items": 1} for number, blob in enumerate(blobs)]
    )


def test_only_old_unreferenced_blobs_go(lake: Lake) -> None:
    named, pinned, loose, young = put(lake, "a"), put(lake, "b"), put(lake, "c"), put(lake, "d", age_s=60)
    lake.publish(GALLERY, gallery(named), version=Version(code_version="1"))
    lake.pin("paper-2026", [pinned])
    for sha in (named, pinned):
        make_old(lake.blob(sha), WEEK_S)
    plan = lake.sweep()
    assert plan.is_dry_run
    assert plan.blobs == (loose,)
    assert (plan.n_referenced, plan.n_too_young) == (2, 1)
    assert lake.blob(loose).is_dir()
    assert lake.sweep(is_dry_run=False).blobs == (loose,)
    for sha in (named, pinned, young):
        assert lake.blob(sha).is_dir()
    with pytest.raises(BlobMissingError):
        lake.blob(loose)


def test_a_replaced_head_gives_its_blob_up_and_a_pin_keeps_it(lake: Lake) -> None:
    first, second = put(lake, "a"), put(lake, "b")
    lake.publish(GALLERY, gallery(first), version=Version(code_version="1"))
    lake.pin("p", [first])
    lake.publish(GALLERY, gallery(second), version=Version(code_version="1"))
    assert lake.sweep(grace=AT_ONCE, is_dry_run=False).blobs == ()
    assert lake.pins() == {"p": (first,)}
    lake.unpin("p")
    lake.unpin("p")
    assert lake.sweep(grace=AT_ONCE, is_dry_run=False).blobs == (first,)
    assert list(lake.objects.trees()) == [second]


def test_a_head_of_an_unknown_table_still_counts(lake: Lake) -> None:
    sha = put(lake, "a")
    lake.publish(GALLERY, gallery(sha), version=Version(code_version="1"))
    (lake.local / "published/evaluation/gallery").rename(lake.local / "published/evaluation/retired")
    make_old(lake.blob(sha), WEEK_S)
    assert lake.sweep(grace=AT_ONCE, is_dry_run=False).blobs == ()


def test_an_unreadable_head_stops_the_sweep(lake: Lake) -> None:
    sha = put(lake, "a")
    lake.publish(GALLERY, gallery(sha), version=Version(code_version="1"))
    pq.write_table(gallery(sha), lake.heads(GALLERY)[0])
    with pytest.raises(DamagedDataError):
        lake.sweep(grace=AT_ONCE, is_dry_run=False)
    assert lake.blob(sha).is_dir()


def test_publishing_renews_a_blob_so_that_a_running_sweep_spares_it(lake: Lake) -> None:
    sha = put(lake, "a")
    lake.publish(GALLERY, gallery(sha), version=Version(code_version="1"))
    assert lake.objects.trees()[sha] < 60
    assert not lake.objects.remove_tree(sha, older_than_s=3600)
    assert (lake.blob(sha) / "file").read_text() == "a"


def test_pinning_needs_the_blob(lake: Lake) -> None:
    with pytest.raises(BlobMissingError):
        lake.pin("p", ["0" * 64])
    with pytest.raises(ValueError, match="must match"):
        lake.pin("../p", [])
    assert lake.pins() == {}


def test_stale_scratch_goes_and_work_in_progress_stays(lake: Lake) -> None:
    stale, fresh = lake.scratch("stale"), lake.scratch("fresh")
    (stale / "part").write_text("x")
    make_old(stale / "part", WEEK_S)
    make_old(stale, WEEK_S)
    (fresh / "part").write_text("x")
    make_old(fresh, WEEK_S)
    left = lake.scratch("publish") / "killed.parquet"
    left.write_text("x")
    make_old(left, WEEK_S)
    assert lake.sweep(is_dry_run=False).scratch == ("publish/killed.parquet", "stale")
    assert not stale.exists()
    assert not left.exists()
    assert (fresh / "part").exists()
