"""The lake in a bucket: a real S3 server (moto) on loopback, real requests through obstore."""

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from atomvision_ml.catalog.warehouse import ask, build_warehouse, open_warehouse
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import (
    BlobMissingError,
    DamagedDataError,
    Lake,
    NotPublishedError,
    PublicationRefusedError,
    Version,
)

GALLERY = "evaluation/gallery"
RECORDS = "structures/records"
FIRST = Version(code_version="1")
SECRET = "loopback-secret-key"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def lake(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "loopback")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = tmp_path.name.replace("_", "-").lower()[:60].strip("-") + "-0"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return Lake(f"s3://{bucket}/some/prefix", s3_endpoint_url=endpoint, cache=tmp_path / "cache")


def elsewhere(lake: Lake, endpoint: str, tmp_path: Path) -> Lake:
    """The same bucket from another machine."""
    return Lake(lake.root, s3_endpoint_url=endpoint, cache=tmp_path / "other-cache")


def put(lake: Lake, text: str) -> str:
    folder = lake.scratch("work")
    (folder / "c").mkdir()
    (folder / "c" / "0").write_text(text)
    return lake.put_blob(folder)


def gallery(*blobs: str) -> pa.Table:
    return table(GALLERY).from_rows(
        [{"page": f"{number}.html", "title": "t", "blob": blob, "n_items": 1} for number, blob in enumerate(blobs)]
    )


def record(source: str) -> pa.Table:
    row = {
        "record_id": f"{source}:1",
        "source": source,
        "native_id": "1",
        "status": "rejected",
        "reason": "no atoms",
        "provenance": "rule",
        "reference": "a rule",
        "is_hypothetical": True,
        "licence": "MIT",
        "origin": "generated",
        "sha256": "0",
    }
    return table(RECORDS).from_rows([row])


def test_what_is_published_is_read_elsewhere(lake: Lake, endpoint: str, tmp_path: Path) -> None:
    other = elsewhere(lake, endpoint, tmp_path)
    with pytest.raises(NotPublishedError, match="s3://"):
        other.scan(GALLERY)
    sha = put(lake, "hello")
    facts = lake.publish(GALLERY, gallery(sha), version=FIRST)
    assert other.exists(GALLERY)
    assert other.facts(GALLERY) == facts == other.verify(GALLERY)
    assert other.scan(GALLERY).collect()["blob"].to_list() == [sha]
    assert (other.blob(sha) / "c" / "0").read_text() == "hello"
    assert other.blob(sha).is_relative_to(tmp_path / "other-cache")


def test_the_same_rows_have_the_same_hash_in_a_folder_and_in_a_bucket(lake: Lake, tmp_path: Path) -> None:
    there = lake.publish(RECORDS, record("c2db"), version=FIRST, partition="c2db")
    here = Lake(tmp_path / "folder").publish(RECORDS, record("c2db"), version=FIRST, partition="c2db")
    assert there == here


def test_partitions_are_listed(lake: Lake) -> None:
    for source in ("prototypes", "c2db"):
        lake.publish(RECORDS, record(source), version=FIRST, partition=source)
    assert lake.partitions(RECORDS) == ["c2db", "prototypes"]
    assert lake.scan(RECORDS).collect().height == 2
    assert lake.scan(RECORDS, "c2db").collect()["source"].to_list() == ["c2db"]


@pytest.mark.parametrize("has_former", [False, True])
def test_a_lost_race_is_refused(lake: Lake, endpoint: str, tmp_path: Path, has_former: bool) -> None:
    first, second = put(lake, "first"), put(lake, "second")
    if has_former:
        lake.publish(GALLERY, gallery(put(lake, "former")), version=FIRST)

    def another_is_faster() -> bool:
        elsewhere(lake, endpoint, tmp_path).publish(GALLERY, gallery(second), version=FIRST)
        return True

    with pytest.raises(PublicationRefusedError, match="another publisher"):
        lake.publish(GALLERY, gallery(first), version=FIRST, may_publish=another_is_faster)
    assert lake.verify(GALLERY).blobs == (second,)
    assert lake.publish(GALLERY, gallery(first), version=FIRST).blobs == (first,)


def test_may_publish_is_obeyed(lake: Lake) -> None:
    with pytest.raises(PublicationRefusedError, match="may no longer"):
        lake.publish(GALLERY, gallery(put(lake, "x")), version=FIRST, may_publish=lambda: False)
    assert not lake.exists(GALLERY)


def test_a_reader_keeps_what_it_opened(lake: Lake) -> None:
    lake.publish(GALLERY, gallery(put(lake, "x")), version=FIRST)
    before = lake.scan(GALLERY)
    lake.publish(GALLERY, gallery(put(lake, "x"), put(lake, "y")), version=FIRST)
    assert before.collect().height == 1
    assert lake.scan(GALLERY).collect().height == 2


def test_a_blob_without_its_manifest_does_not_exist(lake: Lake, endpoint: str, tmp_path: Path) -> None:
    """What an upload that was killed leaves behind."""
    sha = put(lake, "x")
    lake.objects.remove_small(f"blobs/{sha}.json")
    other = elsewhere(lake, endpoint, tmp_path)
    with pytest.raises(BlobMissingError):
        other.blob(sha)
    with pytest.raises(BlobMissingError):
        other.publish(GALLERY, gallery(sha), version=FIRST)
    assert put(lake, "x") == sha
    assert other.blob(sha).is_dir()


def test_a_damaged_download_is_refused(lake: Lake, endpoint: str, tmp_path: Path) -> None:
    sha = put(lake, "x")
    lake.objects.write_small(f"blobs/{sha}/c/0", "y")
    other = elsewhere(lake, endpoint, tmp_path)
    with pytest.raises(DamagedDataError):
        other.blob(sha)
    assert not (other.local / "blobs" / sha).exists()


def test_sweep_spares_what_is_named(lake: Lake, endpoint: str, tmp_path: Path) -> None:
    named, pinned, loose = put(lake, "a"), put(lake, "b"), put(lake, "c")
    lake.publish(GALLERY, gallery(named), version=FIRST)
    lake.pin("paper", [pinned])
    assert lake.pins() == {"paper": (pinned,)}
    assert lake.sweep(is_dry_run=False).blobs == ()
    assert lake.sweep(grace=timedelta(0), is_dry_run=False).blobs == (loose,)
    assert set(lake.objects.trees()) == {named, pinned}
    with pytest.raises(BlobMissingError):
        elsewhere(lake, endpoint, tmp_path).blob(loose)
    lake.unpin("paper")
    assert lake.sweep(grace=timedelta(0), is_dry_run=False).blobs == (pinned,)


def test_sql_works_over_the_bucket(lake: Lake) -> None:
    lake.publish(GALLERY, gallery(put(lake, "x")), version=FIRST)
    query = "SELECT count(*) AS n FROM evaluation.gallery"
    with ask(lake, query) as result:
        assert result.read_all().to_pylist() == [{"n": 1}]
    build_warehouse(lake)
    with open_warehouse(lake) as connection:
        assert connection.execute(query).fetchone() == (1,)
    lake.publish(GALLERY, gallery(put(lake, "x"), put(lake, "y")), version=FIRST)
    with open_warehouse(lake) as connection:
        assert connection.execute(query).fetchone() == (2,)


def test_no_credentials_is_said_plainly(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionError, match="no AWS credentials"):
        Lake("s3://bucket/prefix", s3_endpoint_url=endpoint, cache=tmp_path)


def test_the_secret_is_written_nowhere(lake: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lake.publish(GALLERY, gallery(put(lake, "x")), version=FIRST)
    build_warehouse(lake)
    assert SECRET not in repr(lake) + repr(vars(lake)) + repr(vars(lake.objects))
    assert SECRET not in "".join(capfd.readouterr())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    shutil.rmtree(tmp_path / "cache")
    assert lake.scan(GALLERY).collect().height == 1
