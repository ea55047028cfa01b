"""Files that are whole or not there: written aside, flushed to the disk, and put in place in one act."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def fsync_path(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(aside: Path, path: Path) -> None:
    """Make a written file, of the same file system, ``path``; a former one goes. Both survive a loss of power."""
    fsync_path(aside)
    os.replace(aside, path)
    fsync_path(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free name beside ``path``; the file written there replaces ``path`` when the block ends without error.

    A process that dies in the block leaves ``.<random>.part``, which nothing takes for a file of the folder. Several
    writers of one path do not meet: the last one stays.
    """
    aside = path.with_name(f".{uuid4().hex}.part")
    try:
        yield aside
        put_in_place(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there with all these bytes or, until then and after a crash, as it was before."""
    with replacing(path) as aside:
        aside.write_bytes(content)
