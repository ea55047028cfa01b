"""Mark and sweep: what no head and no pin names is removed once it is old enough."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.storage.objects import Objects
from atomvision_ml.storage.versions import Facts


class SweepReport(BaseModel):
    """What a sweep removed, or would remove."""

    model_config = ConfigDict(frozen=True)

    is_dry_run: bool
    n_referenced: int = Field(description="Blobs that a head or a pin names.")
    n_too_young: int = Field(description="Unreferenced blobs within the grace period, kept.")
    blobs: tuple[str, ...] = Field(description="Unreferenced blobs past the grace period.")
    scratch: tuple[str, ...] = Field(description="Unfinished work that nobody touched for as long.")


def sweep(objects: Objects, pinned: set[str], *, grace: timedelta, is_dry_run: bool) -> SweepReport:
    """Remove unreferenced blobs and stale scratch older than the grace period.

    Every head counts, also one of a table that the dictionary no longer knows. Publishing renews the age of the
    blobs it names, so a grace period longer than the last act of a publication (seconds) is safe.

    Raises:
        DamagedDataError: a head's facts are unreadable; nothing is removed then.
    """
    grace_s = grace.total_seconds()
    marked = pinned | _named_by_heads(objects)
    loose = {sha: age_s for sha, age_s in objects.trees().items() if sha not in marked}
    old = sorted(sha for sha, age_s in loose.items() if age_s >= grace_s)
    stale = list(_stale(objects.local / "scratch", grace_s))
    if not is_dry_run:
        old = [sha for sha in old if objects.remove_tree(sha, grace_s)]
        for path in stale:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return SweepReport(
        is_dry_run=is_dry_run,
        n_referenced=len(marked),
        n_too_young=len(loose) - len(old),
        blobs=tuple(old),
        scratch=tuple(path.relative_to(objects.local / "scratch").as_posix() for path in stale),
    )


def _named_by_heads(objects: Objects) -> set[str]:
    named: set[str] = set()
    for path in objects.heads():
        named.update(Facts.read(pq.read_schema(objects.fetch(path)), path).blobs)
    return named


def _stale(scratch: Path, grace_s: float) -> Iterator[Path]:
    """Entries of the scratch folder in which nothing was written for that long."""
    if not scratch.is_dir():
        return
    oldest = time.time() - grace_s
    publications = scratch / "publish"
    entries = [path for path in scratch.iterdir() if path != publications]
    entries += publications.iterdir() if publications.is_dir() else []
    for entry in sorted(entries):
        if max(path.lstat().st_mtime for path in (entry, *entry.rglob("*"))) <= oldest:
            yield entry
