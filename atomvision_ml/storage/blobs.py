"""Content-addressed folders: what names them and how their bytes reach the disk for good."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

from atomvision_ml.storage.errors import BlobMissingError, DamagedDataError
from atomvision_ml.storage.files import fsync_path

_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def is_sha256(name: str) -> bool:
    """Whether the name can be that of a blob."""
    return _SHA256.match(name) is not None


def check_sha256(sha: str) -> str:
    """The name if it can be that of a blob; raises BlobMissingError otherwise."""
    if not is_sha256(sha):
        raise BlobMissingError(f"{sha!r} is not the name of a blob (64 hexadecimal digits)")
    return sha


def manifest(folder: Path) -> dict[str, str]:
    """Relative path (forward slashes) to SHA-256 of every file below the folder, sorted by path.

    Raises:
        ValueError: the folder is missing or empty, or something in it is neither a file nor a folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is neither a file nor a folder; a blob holds plain files only")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = file_sha256(path)
    if not files:
        raise ValueError(f"{folder} holds no file; an empty blob says nothing")
    return files


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_sha256(files: dict[str, str]) -> str:
    """Name of the blob with these files: SHA-256 of the sorted pairs of path and file hash."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def verify_tree(folder: Path, sha: str) -> None:
    """Raise DamagedDataError unless the folder's content has that name."""
    found = tree_sha256(manifest(folder))
    if found != sha:
        raise DamagedDataError(f"{folder} has the content of blob {found}, not of {sha}")


def settle_tree(source: Path, target: Path, staging: Path) -> None:
    """Move a folder to its final place in one act, with its bytes on the disk before.

    ``staging`` is a free path on the target's file system, used when the source lies on another one. A target
    that is there already is kept and the source removed.
    """
    if source.stat().st_dev != target.parent.stat().st_dev:
        shutil.copytree(source, staging)
        shutil.rmtree(source)
        source = staging
    for path in sorted(source.rglob("*")):
        if path.is_file():
            path.chmod(0o444)
        fsync_path(path)
    fsync_path(source)
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(source)
    fsync_path(target.parent)
