"""Where files are dropped: a folder, and a bucket of a real S3 server on loopback."""

import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from atomvision_ml.experiments.ledger import Stamp, with_companions
from atomvision_ml.experiments.places import BucketPlaces, ChangedError, FolderPlaces, name_of, place_of
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.worker import RejectedError

PREFIX = "some/inbox"


class FolderDrop:
    def __init__(self, folder: Path):
        self.root = folder / "files"
        self.root.mkdir()
        self.places = FolderPlaces(self.root, ReadLimits(maximum_file_bytes=100))

    def put(self, name: str, content: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()


class BucketDrop:
    def __init__(self, client: object, bucket: str):
        self.client, self.bucket = client, bucket
        client.create_bucket(Bucket=bucket)
        self.places = BucketPlaces(client, bucket, f"/{PREFIX}/", ReadLimits(maximum_file_bytes=100))
        self.client.put_object(Bucket=bucket, Key="elsewhere.tif", Body=b"not of the inbox")
        self.client.put_object(Bucket=bucket, Key="some/inbox2/x.tif", Body=b"not of the inbox")

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}", Body=content)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket_drop(endpoint: str, request: pytest.FixtureRequest) -> BucketDrop:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    return BucketDrop(client, f"drop-{abs(hash(request.node.name)):x}")


@pytest.fixture
def folder_drop(tmp_path: Path) -> FolderDrop:
    return FolderDrop(tmp_path)


@pytest.fixture(params=["folder", "bucket"])
def drop(request: pytest.FixtureRequest) -> FolderDrop | BucketDrop:
    return request.getfixturevalue(f"{request.param}_drop")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def stamp_of(drop, place: str) -> Stamp:
    return with_companions(drop.places.listing())[place]


def test_files_are_listed_by_place_with_their_size(drop) -> None:
    assert drop.places.listing() == {}
    for name in ("a.tif", "sub/b b.dm3", "sub/ü%\t.mrc", "a.tif.meta.yaml", ".hidden/c.tif"):
        drop.put(name, name.encode())
    found = drop.places.listing()
    assert {place: stamp.size_bytes for place, stamp in found.items()} == {
        "a.tif": 5, "a.tif.meta.yaml": 15, "sub/b b.dm3": 11, "sub/ü%25%09.mrc": 12,
    }  # fmt: skip
    assert drop.places.listing() == found


def test_a_file_is_fetched_with_its_sidecar_and_nothing_else(drop, here: Path) -> None:
    for name in ("sub/a.tif", "sub/a.tif.meta.yaml", "sub/a.tif2", "a.tif", "sub/b.tif"):
        drop.put(name, name.encode())
    path = drop.places.fetch("sub/a.tif", stamp_of(drop, "sub/a.tif"), here)
    assert path == here / "a.tif"
    assert {file.name: file.read_bytes() for file in here.iterdir()} == {
        "a.tif": b"sub/a.tif", "a.tif.meta.yaml": b"sub/a.tif.meta.yaml",
    }  # fmt: skip


def test_an_emi_is_fetched_with_its_series(drop, here: Path) -> None:
    for name in ("scan.emi", "scan_1.ser", "scan_2.ser", "scanner_1.ser", "scan_x.ser"):
        drop.put(name, b"x")
    drop.places.fetch("scan.emi", stamp_of(drop, "scan.emi"), here)
    assert {file.name for file in here.iterdir()} == {"scan.emi", "scan_1.ser", "scan_2.ser"}


@pytest.mark.parametrize("change", ["replaced", "removed", "sidecar added", "sidecar mended", "sidecar removed"])
def test_what_changed_since_it_was_listed_is_not_fetched(drop, here: Path, change: str) -> None:
    drop.put("a.tif", b"old")
    if change in ("sidecar mended", "sidecar removed"):
        drop.put("a.tif.meta.yaml", b"old")
    stamp = stamp_of(drop, "a.tif")
    match change:
        case "replaced":
            drop.put("a.tif", b"new")
        case "removed":
            drop.remove("a.tif")
        case "sidecar removed":
            drop.remove("a.tif.meta.yaml")
        case _:
            drop.put("a.tif.meta.yaml", b"new")
    assert drop.places.listing() == {} or stamp_of(drop, "a.tif") != stamp
    with pytest.raises(ChangedError, match=r"a\.tif"):
        drop.places.fetch("a.tif", stamp, here)


def test_too_large_a_file_is_not_copied(drop, here: Path) -> None:
    drop.put("a.tif", b"x" * 101)
    with pytest.raises(RejectedError, match="101 bytes; at most 100"):
        drop.places.fetch("a.tif", stamp_of(drop, "a.tif"), here)
    assert list(here.iterdir()) == []


def test_the_same_bytes_again_are_no_change_in_a_bucket(bucket_drop: BucketDrop) -> None:
    bucket_drop.put("a.tif", b"x")
    before = bucket_drop.places.listing()
    bucket_drop.put("a.tif", b"x")
    assert bucket_drop.places.listing() == before


def test_an_upload_in_parts_is_seen_when_it_is_whole(bucket_drop: BucketDrop, here: Path) -> None:
    client, key = bucket_drop.client, f"{PREFIX}/large.tif"
    upload = client.create_multipart_upload(Bucket=bucket_drop.bucket, Key=key)["UploadId"]
    told = {"Bucket": bucket_drop.bucket, "Key": key, "UploadId": upload}
    part = client.upload_part(**told, PartNumber=1, Body=b"all of it")
    assert bucket_drop.places.listing() == {}
    client.complete_multipart_upload(**told, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    path = bucket_drop.places.fetch("large.tif", stamp_of(bucket_drop, "large.tif"), here)
    assert path.read_bytes() == b"all of it"


def test_more_objects_than_a_page_of_the_listing(bucket_drop: BucketDrop) -> None:
    def ask_for_few(params: dict, **_: object) -> None:
        params["MaxKeys"] = 10

    bucket_drop.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", ask_for_few)
    for number in range(25):
        bucket_drop.put(f"{number}.tif", b"x")
    assert len(bucket_drop.places.listing()) == 25


def test_odd_keys_of_a_bucket_stay_in_the_folder(bucket_drop: BucketDrop, here: Path) -> None:
    for key in ("a/../../x.tif", "/x.tif", "a//b.tif", "..", "long" * 60 + ".tif"):
        bucket_drop.put(key, b"x")
    found = with_companions(bucket_drop.places.listing())
    (long,) = [place for place in found if len(place) > 200]
    with pytest.raises(RejectedError, match="longer than 200 bytes"):
        bucket_drop.places.fetch(long, found.pop(long), here)
    assert {"/x.tif", "a//b.tif"} <= set(found)
    assert {bucket_drop.places.fetch(place, stamp, here).parent for place, stamp in found.items()} == {here}


def test_links_devices_and_pipes_are_listed_as_such_and_never_read(folder_drop: FolderDrop, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tif"
    secret.write_bytes(b"secret")
    (folder_drop.root / "link.tif").symlink_to(secret)
    (folder_drop.root / "folder").symlink_to(tmp_path)
    os.mkfifo(folder_drop.root / "pipe.tif")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder_drop.root / "socket.tif"))
    found = folder_drop.places.listing()
    assert {place: (stamp.is_plain, stamp.mark.split(",")[0]) for place, stamp in found.items()} == {
        "link.tif": (False, "not a plain file: a symbolic link"),
        "folder": (False, "not a plain file: a symbolic link"),
        "pipe.tif": (False, "not a plain file: a named pipe"),
        "socket.tif": (False, "not a plain file: a socket"),
    }
    os.utime(folder_drop.root / "pipe.tif", (1, 1))
    secret.write_bytes(b"another secret")
    assert folder_drop.places.listing() == found
    for place, stamp in found.items():
        with pytest.raises(ChangedError):
            folder_drop.places.fetch(place, stamp, tmp_path)


def test_a_sidecar_that_is_a_link_is_not_followed(folder_drop: FolderDrop, tmp_path: Path, here: Path) -> None:
    folder_drop.put("a.tif", b"x")
    alone = stamp_of(folder_drop, "a.tif")
    (tmp_path / "secret.yaml").write_text("operator: somebody")
    (folder_drop.root / "a.tif.meta.yaml").symlink_to(tmp_path / "secret.yaml")
    assert stamp_of(folder_drop, "a.tif") == alone
    folder_drop.places.fetch("a.tif", alone, here)
    assert [file.name for file in here.iterdir()] == ["a.tif"]
    assert not stamp_of(folder_drop, "a.tif.meta.yaml").is_plain


def test_a_file_that_becomes_a_link_is_not_followed(folder_drop: FolderDrop, tmp_path: Path, here: Path) -> None:
    folder_drop.put("a.tif", b"x")
    stamp = stamp_of(folder_drop, "a.tif")
    (folder_drop.root / "a.tif").rename(tmp_path / "moved.tif")
    (folder_drop.root / "a.tif").symlink_to(tmp_path / "moved.tif")
    with pytest.raises(ChangedError):
        folder_drop.places.fetch("a.tif", stamp, here)


def test_names_that_are_no_text(folder_drop: FolderDrop, here: Path) -> None:
    name = os.fsdecode(b"\xff\xfe%.tif")
    folder_drop.put(name, b"x")
    (place,) = folder_drop.places.listing()
    assert place == "%FF%FE%25.tif"
    assert folder_drop.places.fetch(place, stamp_of(folder_drop, place), here).name == name


@pytest.mark.parametrize(
    "name", ["a b.tif", "50%.tif", "tab\t.tif", "ü/µ.tif", "\x7f\x9b.tif", "\u2028.tif"], ids=ascii
)
def test_a_place_is_one_printable_line_that_leads_back(name: str) -> None:
    assert place_of(name).isprintable()
    assert name_of(place_of(name)) == name


def test_a_very_deep_folder_is_listed(folder_drop: FolderDrop) -> None:
    """Deeper than Python's recursion; what makes and removes it is not Python."""
    folder = "d/" * 1100
    subprocess.run(["mkdir", "-p", folder], cwd=folder_drop.root, check=True)
    (folder_drop.root / f"{folder}a.tif").write_bytes(b"x")
    assert list(folder_drop.places.listing()) == [f"{folder}a.tif"]
    subprocess.run(["rm", "-r", "d"], cwd=folder_drop.root, check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_left_out(folder_drop: FolderDrop, caplog: pytest.LogCaptureFixture) -> None:
    folder_drop.put("shut/a.tif", b"x")
    folder_drop.put("b.tif", b"x")
    (folder_drop.root / "shut").chmod(0)
    with caplog.at_level(logging.WARNING):
        assert list(folder_drop.places.listing()) == ["b.tif"]
    (folder_drop.root / "shut").chmod(0o700)
    assert "may not be read" in caplog.text
