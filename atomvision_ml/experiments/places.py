"""Where files are dropped: a folder or a prefix of an S3 bucket, behind the same two acts.

Belongs here: listing without reading, and a private copy of a file as it was listed. Names are strangers' texts: a
place is one line of printable text, odd characters written as in a URL, and never taken for a path of this machine.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from posixpath import basename
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

from atomvision_ml.experiments.ledger import NOT_PLAIN, Stamp, is_beside, with_companions
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.record import SIDECAR_SUFFIX
from atomvision_ml.experiments.worker import RejectedError, special_kind

_ODD = re.compile("[%\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]")
_LONGEST_KEY_BYTES = 200
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

_log = logging.getLogger(__name__)


class ChangedError(ValueError):
    """A file is gone, or no longer what was listed; it will be listed again."""


class Places(Protocol):
    """An inbox."""

    def listing(self) -> dict[str, Stamp]:
        """Everything that is there, by place, without reading any of it."""

    def fetch(self, place: str, stamp: Stamp, folder: Path) -> Path:
        """Copy a file and what is read with it: its sidecar and its partners.

        Args:
            place: of the file.
            stamp: that it must have, before and after.
            folder: an empty folder of the caller, who removes it.

        Returns:
            The copy; what belongs to it lies beside it.

        Raises:
            ChangedError: it is gone or has another stamp.
            RejectedError: it is too large, has too long a name, or may not be read.
        """


class FolderPlaces:
    """What lies below a folder, hidden folders left out. Links and devices are listed, but neither opened nor followed.

    Args:
        root: the folder; one that does not exist is empty.
        limits: of a file's size.
    """

    def __init__(self, root: str | Path, limits: ReadLimits | None = None) -> None:
        self.root = Path(root)
        self._limits = limits or ReadLimits()

    def listing(self) -> dict[str, Stamp]:
        """Plain files with size, inode and time of change in ns; anything else with its kind and inode."""
        found: dict[str, Stamp] = {}
        folders = [(str(self.root), "")]
        while folders:
            folder, prefix = folders.pop()
            for entry in _scanned(folder):
                place = f"{prefix}{place_of(entry.name)}"
                if entry.is_dir(follow_symlinks=False):
                    folders += [] if entry.name.startswith(".") else [(entry.path, f"{place}/")]
                elif (told := _stamped(Path(entry.path))) is not None:
                    found[place] = told
        return found

    def fetch(self, place: str, stamp: Stamp, folder: Path) -> Path:
        """Copy each file through a descriptor that no replaced name can redirect."""
        source = self.root / name_of(place)
        _check_size(stamp, self._limits)
        beside = self._beside(place, source)
        _check_stamp(place, stamp, beside)
        for one, told in beside.items():
            _copy(source.parent / basename(name_of(one)), told, folder)
        _check_stamp(place, stamp, self._beside(place, source))
        return folder / source.name

    def _beside(self, place: str, source: Path) -> dict[str, Stamp]:
        """The file and its companions, as they are now."""
        head = place[: -len(basename(place))]
        if source.suffix.lower() == ".emi":
            names: Iterable[str] = (entry.name for entry in _scanned(str(source.parent)))
        else:
            names = (source.name, f"{source.name}{SIDECAR_SUFFIX}")
        near = {f"{head}{place_of(name)}": source.parent / name for name in names}
        told = {one: _stamped(path) for one, path in near.items() if is_beside(one, place)}
        return {one: stamp for one, stamp in told.items() if stamp is not None and stamp.is_plain}


class BucketPlaces:
    """The objects below a prefix of a bucket; hidden folders are left out.

    Args:
        client: of boto3, for S3.
        bucket: its name.
        prefix: of the keys, without slashes at its ends; empty for the whole bucket.
        limits: of a file's size.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "", limits: ReadLimits | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._limits = limits or ReadLimits()

    def listing(self) -> dict[str, Stamp]:
        """Objects with size and ETag; an upload in parts is not listed before it is complete."""
        return {place: stamp for place, stamp in self._listed("") if "/." not in f"/{place}"}

    def fetch(self, place: str, stamp: Stamp, folder: Path) -> Path:
        """Download each object on the condition that it has the listed ETag."""
        _check_size(stamp, self._limits)
        if len(basename(place).encode()) > _LONGEST_KEY_BYTES:
            raise RejectedError("not_a_file", f"its name is longer than {_LONGEST_KEY_BYTES} bytes")
        beside = self._beside(place)
        _check_stamp(place, stamp, beside)
        for one, told in beside.items():
            self._download(one, told, folder / basename(one))
        _check_stamp(place, stamp, self._beside(place))
        return folder / basename(place)

    def _beside(self, place: str) -> dict[str, Stamp]:
        start = place[:-4] if place.lower().endswith(".emi") else place
        return {one: told for one, told in self._listed(start) if is_beside(one, place)}

    def _listed(self, start: str) -> Iterator[tuple[str, Stamp]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + name_of(start)
        )
        for page in pages:
            for item in page.get("Contents", ()):
                place = place_of(item["Key"][len(self._prefix) :])
                yield place, Stamp(item["Size"], item["ETag"].strip('"'))

    def _download(self, place: str, stamp: Stamp, target: Path) -> None:
        from botocore.exceptions import ClientError

        key = self._prefix + name_of(place)
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, IfMatch=f'"{stamp.mark}"')
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise ChangedError(f"{place} is gone or was replaced") from error
            raise
        with answer["Body"] as body, target.open("wb") as file:
            shutil.copyfileobj(body, file)


def place_of(name: str) -> str:
    """A file's name or path as a place: control characters, percent signs and bytes that are no text are quoted."""
    return _ODD.sub(lambda odd: quote(os.fsencode(odd[0]), safe=""), name)


def name_of(place: str) -> str:
    """The inverse of :func:`place_of`."""
    return os.fsdecode(unquote_to_bytes(place))


def _scanned(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError:
        _log.warning("the inbox's folder %s may not be read: its files are not seen", place_of(folder))
        return []
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _stamped(path: Path) -> Stamp | None:
    """The stamp of what is there now; None if nothing is."""
    try:
        status = path.lstat()
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    return _stamp(status)


def _stamp(status: os.stat_result) -> Stamp:
    """Size and time of a pipe or a device are those of its use, and tell nothing."""
    if kind := special_kind(status.st_mode):
        return Stamp(0, f"{NOT_PLAIN}{kind},{status.st_ino}")
    return Stamp(status.st_size, f"{status.st_ino}-{status.st_mtime_ns}")


def _check_size(stamp: Stamp, limits: ReadLimits) -> None:
    if stamp.size_bytes > limits.maximum_file_bytes:
        raise RejectedError("unreadable", f"{stamp.size_bytes} bytes; at most {limits.maximum_file_bytes} are read")


def _check_stamp(place: str, stamp: Stamp, beside: Mapping[str, Stamp]) -> None:
    if with_companions(beside).get(place) != stamp:
        raise ChangedError(f"{place} is gone or has changed since it was listed")


def _copy(source: Path, stamp: Stamp, folder: Path) -> None:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError as error:
        raise RejectedError("not_a_file", "it may not be read: its permissions forbid it") from error
    except OSError as error:
        if error.errno in _GONE:
            raise ChangedError(f"{place_of(source.name)} is gone") from error
        raise
    with open(descriptor, "rb") as file, (folder / source.name).open("wb") as target:
        if _stamp(os.fstat(descriptor)) != stamp:
            raise ChangedError(f"{place_of(source.name)} was replaced")
        shutil.copyfileobj(file, target)
        if _stamp(os.fstat(descriptor)) != stamp or target.tell() != stamp.size_bytes:
            raise ChangedError(f"{place_of(source.name)} changed while it was copied")
