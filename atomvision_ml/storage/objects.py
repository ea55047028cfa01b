"""Where published bytes live: a folder of this machine or an S3 bucket, behind the same few acts."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from filelock import FileLock, Timeout

from atomvision_ml.storage.blobs import check_sha256, is_sha256, manifest, settle_tree, tree_sha256
from atomvision_ml.storage.errors import BlobMissingError, NotPublishedError, PublicationRefusedError
from atomvision_ml.storage.files import fsync_path, put_in_place

LOCK_TIMEOUT_S = 60.0
"""How long a publisher waits for another one to finish its last act, in seconds."""


class Objects(Protocol):
    """Heads (small files that are replaced) and trees (immutable folders named by their content)."""

    local: Path
    """Folder of this machine for scratch files and for the DuckDB catalogue."""

    is_live: bool
    """Whether :meth:`fetch` gives the head itself, at a path that stays, rather than a copy."""

    def etag(self, path: str) -> str | None:
        """What changes whenever the head is replaced; None if there is no head."""

    def fetch(self, path: str) -> Path:
        """A local file with the head's present bytes; raises NotPublishedError."""

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, sorted; empty if there is none."""

    def replace(self, path: str, file: Path, *, expected: str | None, may_publish: Callable[[], bool]) -> None:
        """Make the scratch file the head in one act, if the head still has the expected tag.

        Raises PublicationRefusedError, leaving the head as it was.
        """

    def heads(self) -> list[str]:
        """Paths of every published head, sorted."""

    def write_small(self, path: str, text: str) -> None:
        """Write a small text in one act."""

    def read_small(self, path: str) -> str:
        """Read it; raises FileNotFoundError."""

    def remove_small(self, path: str) -> None:
        """Remove it; no error if it is not there."""

    def put_tree(self, folder: Path) -> str:
        """Take over a folder and return the name of its content."""

    def fetch_tree(self, sha: str) -> Path:
        """A local folder with the blob's content; raises BlobMissingError."""

    def touch_tree(self, sha: str) -> None:
        """Renew the age of a blob that is about to be named; raises BlobMissingError."""

    def trees(self) -> dict[str, float]:
        """Every blob with its age in seconds."""

    def remove_tree(self, sha: str, older_than_s: float) -> bool:
        """Remove a blob unless it became younger meanwhile; tells whether it is gone."""


class FolderObjects:
    """Objects in a folder of a POSIX file system."""

    is_live = True

    def __init__(self, root: Path) -> None:
        self.local = root

    def etag(self, path: str) -> str | None:
        """Inode, time and length of the head."""
        try:
            status = (self.local / path).stat()
        except FileNotFoundError:
            return None
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"

    def fetch(self, path: str) -> Path:
        """The head itself."""
        file = self.local / path
        if not file.is_file():
            raise NotPublishedError(f"{file} does not exist")
        return file

    def names(self, folder: str) -> list[str]:
        """Names in the folder."""
        try:
            return sorted(os.listdir(self.local / folder))
        except FileNotFoundError:
            return []

    def replace(self, path: str, file: Path, *, expected: str | None, may_publish: Callable[[], bool]) -> None:
        """``os.replace`` and fsync of the folder, under the lock of this head."""
        target = self.local / path
        lock = self.local / "locks" / f"{path}.lock"
        for folder in (target.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=LOCK_TIMEOUT_S):
                if not may_publish():
                    raise PublicationRefusedError(f"{path}: this run may no longer publish; the former value stays")
                if self.etag(path) != expected:
                    raise PublicationRefusedError(
                        f"{path}: another publisher replaced it meanwhile; its value stays. Run again if needed"
                    )
                os.replace(file, target)
                fsync_path(target.parent)
        except Timeout as error:
            raise PublicationRefusedError(f"{path}: another publisher held its lock for {LOCK_TIMEOUT_S} s") from error

    def heads(self) -> list[str]:
        """Every ``data.parquet``."""
        return sorted(
            file.relative_to(self.local).as_posix() for file in (self.local / "published").rglob("data.parquet")
        )

    def write_small(self, path: str, text: str) -> None:
        """Write in ``scratch``, flush, ``os.replace``."""
        part = self._aside("small")
        part.write_text(text, encoding="utf-8")
        target = self.local / path
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(part, target)

    def read_small(self, path: str) -> str:
        """Read the file."""
        return (self.local / path).read_text(encoding="utf-8")

    def remove_small(self, path: str) -> None:
        """Unlink."""
        (self.local / path).unlink(missing_ok=True)

    def put_tree(self, folder: Path) -> str:
        """Move the folder to ``blobs/<sha>``; a blob that is there already is kept, its age renewed."""
        sha = tree_sha256(manifest(folder))
        target = self._tree(sha)
        target.parent.mkdir(parents=True, exist_ok=True)
        settle_tree(folder, target, self._aside("blob"))
        os.utime(target)
        return sha

    def fetch_tree(self, sha: str) -> Path:
        """The folder itself."""
        folder = self._tree(sha)
        if not folder.is_dir():
            raise BlobMissingError(f"blob {sha} is not in {self.local}")
        return folder

    def touch_tree(self, sha: str) -> None:
        """Set the folder's time to now."""
        os.utime(self.fetch_tree(sha))

    def trees(self) -> dict[str, float]:
        """Age by the folder's time."""
        now = time.time()
        return {sha: now - self._tree(sha).stat().st_mtime for sha in self.names("blobs") if is_sha256(sha)}

    def remove_tree(self, sha: str, older_than_s: float) -> bool:
        """Rename aside, look at the age once more, then delete: a publisher either renewed it or misses it."""
        aside = self._aside("swept")
        self._tree(sha).rename(aside)
        if time.time() - aside.stat().st_mtime < older_than_s:
            aside.rename(self._tree(sha))
            return False
        shutil.rmtree(aside)
        return True

    def _tree(self, sha: str) -> Path:
        return self.local / "blobs" / check_sha256(sha)

    def _aside(self, what: str) -> Path:
        folder = self.local / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{what}-{uuid4().hex}"
