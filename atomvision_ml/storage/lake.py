"""The one primitive: publish a table atomically, read what is published, keep blobs by content.

Layout below the root::

    published/<domain>/<noun>/[<dimension>=<key>/]data.parquet    the head, replaced atomically
    blobs/<sha256>/...                                            immutable, named by its content
    pins/<name>.json                                              blobs kept although no head names them
    scratch/, locks/, catalog/atomvision.duckdb
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from atomvision_ml.schemas.core import ContractError
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.errors import (
    BlobMissingError,
    DamagedDataError,
    NotPublishedError,
    PublicationRefusedError,
)
from atomvision_ml.storage.files import fsync_path
from atomvision_ml.storage.keys import head_path
from atomvision_ml.storage.objects import FolderObjects, Objects
from atomvision_ml.storage.sweep import SweepReport, sweep
from atomvision_ml.storage.versions import BLOCK_ROWS, Facts, Version, blob_names, blocks_sha256, content_sha256

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "BlobMissingError",
    "DamagedDataError",
    "Facts",
    "Lake",
    "NotPublishedError",
    "PublicationRefusedError",
    "SweepReport",
    "Version",
]

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._=-]*$")


def always() -> bool:
    """The answer of a publisher that nobody can call back."""
    return True


class Lake:
    """All published data of one root, a folder or ``s3://bucket/prefix``."""

    def __init__(self, root: str | Path, *, s3_endpoint_url: str | None = None, cache: Path | None = None) -> None:
        """Name the root; nothing is created before something is written.

        Args:
            root: folder, or ``s3://bucket/prefix``.
            s3_endpoint_url: S3 endpoint other than AWS's own.
            cache: local folder for downloaded heads and blobs of an S3 root; ``~/.cache/atomvision`` by default.
        """
        self.root = str(root)
        self.objects: Objects
        if self.root.startswith("s3://"):
            from atomvision_ml.storage.bucket import BucketObjects

            self.objects = BucketObjects(self.root, endpoint_url=s3_endpoint_url, cache=cache)
        else:
            self.root = str(Path(root).expanduser().resolve())
            self.objects = FolderObjects(Path(self.root))

    @classmethod
    def from_settings(cls) -> Lake:
        """The lake that ``ATOMVISION_ROOT`` names."""
        from atomvision_ml.settings import settings

        return cls(settings().root, s3_endpoint_url=settings().s3_endpoint_url)

    @property
    def local(self) -> Path:
        """Folder of this machine with ``scratch/`` and ``catalog/``: the root itself, or the cache of a bucket."""
        return self.objects.local

    # -- reading ------------------------------------------------------------------------------------------------

    def scan(self, key: str, partition: str | None = None) -> pl.LazyFrame:
        """The published rows, lazily; all published partitions if none is named.

        The files are opened now: what is published later does not change this frame. (A lazy scan of the *path*
        reads the old footer and the new bytes if the head is replaced in between, and crashes.)

        A column that an earlier version did not write is null, one that the dictionary lost is left out.

        Raises:
            NotPublishedError: there is nothing yet.
        """
        import polars as pl

        files: list[IO[bytes]] = [file.open("rb") for file in self.heads(key, partition)]
        try:
            return pl.scan_parquet(
                files,
                hive_partitioning=False,
                schema=pl.Schema(table(key).arrow_schema),
                missing_columns="insert",
                extra_columns="ignore",
            )
        finally:
            for file in files:
                file.close()

    def heads(self, key: str, partition: str | None = None) -> list[Path]:
        """Local files with the present heads; raises NotPublishedError if there is none."""
        wanted: list[str | None] = [partition]
        if partition is None and table(key).dimension is not None:
            wanted = list(self.partitions(key))
        try:
            files = [self.objects.fetch(self._path(key, name)) for name in wanted]
        except NotPublishedError:
            files = []
        if not files:
            raise NotPublishedError(
                f"{_label(key, partition)} is not published in {self.root}; materialise that asset first"
            )
        return files

    def patterns(self, key: str) -> list[str]:
        """Absolute paths or glob patterns that match the heads of a key, for readers that open them by themselves.

        In a folder they match what is published at any later time, too; of a bucket they name the cached files.
        """
        files = self.heads(key)
        dimension = table(key).dimension
        if self.objects.is_live and dimension is not None:
            return [f"{glob.escape(str(files[0].parent.parent))}/{dimension}=*/{files[0].name}"]
        return [glob.escape(str(file)) for file in files]

    def exists(self, key: str, partition: str | None = None) -> bool:
        """Whether the head is published; for a partitioned key without partition, whether any is."""
        if partition is None and table(key).dimension is not None:
            return bool(self.partitions(key))
        return self.objects.etag(self._path(key, partition)) is not None

    def partitions(self, key: str) -> list[str]:
        """Published partitions, sorted; empty for an unpartitioned key."""
        dimension = table(key).dimension
        if dimension is None:
            return []
        names = [name.removeprefix(f"{dimension}=") for name in self.objects.names(f"published/{key}") if "=" in name]
        return [name for name in names if self.objects.etag(self._path(key, name)) is not None]

    def facts(self, key: str, partition: str | None = None) -> Facts:
        """What is known of one head.

        Raises:
            NotPublishedError: it is not published.
            ValueError: the key is partitioned and no partition is named, or the reverse.
        """
        self._path(key, partition)
        file = self.heads(key, partition)[0]
        return Facts.read(pq.read_schema(file), file)

    def is_outdated(self, key: str, partition: str | None = None) -> bool:
        """Whether a head has other columns than the dictionary has today; raises as :meth:`facts`."""
        self._path(key, partition)
        return pq.read_schema(self.heads(key, partition)[0]).names != table(key).arrow_schema.names

    def verify(self, key: str, partition: str | None = None) -> Facts:
        """Read a head whole and compare it with its content hash; raises DamagedDataError."""
        self._path(key, partition)
        return _read_back(self.heads(key, partition)[0])

    # -- publishing ---------------------------------------------------------------------------------------------

    def publish(
        self,
        key: str,
        table: pa.Table,
        *,
        version: Version,
        partition: str | None = None,
        may_publish: Callable[[], bool] = always,
    ) -> Facts:
        """Replace one head in one act; a crash at any line leaves the former value as it was.

        Args:
            key: asset key of the dictionary.
            table: rows with the dictionary's columns, in any order.
            version: what they were made from.
            partition: partition key if the table is partitioned; every row must carry it.
            may_publish: asked in the last moment, under the lock, e.g. whether this run is still wanted.

        Raises:
            ContractError: the rows break the dictionary.
            BlobMissingError: a named blob is not in the store.
            PublicationRefusedError: ``may_publish`` said no, or another publisher was faster.
            OSError: the disk is full or failing.
        """
        path = self._path(key, partition)
        expected = self.objects.etag(path)
        conformed = self._conform(key, table, partition)
        content = content_sha256(conformed)
        facts = Facts(
            key=key,
            partition=partition,
            data_version=version.data_version(content),
            content_sha256=content,
            n_rows=conformed.num_rows,
            blobs=blob_names(conformed),
            **version.model_dump(),
        )
        file = self.scratch("publish") / f"{uuid4().hex}.parquet"
        try:
            self._write(facts.stamp(conformed), file)
            if _read_back(file) != facts:
                raise DamagedDataError(f"{file}: the facts read back differ from those written")
            for blob in facts.blobs:
                self.objects.touch_tree(blob)
            self.objects.replace(path, file, expected=expected, may_publish=may_publish)
        finally:
            file.unlink(missing_ok=True)
        return facts

    @staticmethod
    def _conform(key: str, rows: pa.Table, partition: str | None) -> pa.Table:
        conformed = table(key).conform(rows)
        dimension = table(key).dimension
        if dimension is not None:
            strangers = set(conformed.column(dimension).unique().to_pylist()) - {partition}
            if strangers:
                raise ContractError(f"{key}.{dimension}: partition {partition!r} holds rows of {sorted(strangers)}")
        return conformed

    @staticmethod
    def _write(rows: pa.Table, file: Path) -> None:
        pq.write_table(rows, file, compression="zstd", row_group_size=BLOCK_ROWS)
        fsync_path(file)

    # -- blobs, scratch, pins -----------------------------------------------------------------------------------

    def put_blob(self, folder: Path) -> str:
        """Take over a folder (it is moved) and return the SHA-256 of its content, its name from now on.

        Raises:
            ValueError: the folder is empty or holds something else than files and folders.
        """
        return self.objects.put_tree(folder)

    def blob(self, sha: str) -> Path:
        """Local folder with the blob's content, downloaded and verified if the root is a bucket.

        Raises:
            BlobMissingError: there is no such blob.
        """
        return self.objects.fetch_tree(sha)

    def scratch(self, name: str) -> Path:
        """Folder for unfinished work, made if missing; the same name finds it again after an interruption."""
        folder = self.local / "scratch" / _check_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def pin(self, name: str, blobs: Iterable[str]) -> None:
        """Keep these blobs although no head names them; the same name replaces the former pin.

        Raises:
            BlobMissingError: one of them is not in the store; nothing is pinned then.
        """
        shas = sorted(set(blobs))
        for sha in shas:
            self.objects.touch_tree(sha)
        self.objects.write_small(f"pins/{_check_name(name)}.json", json.dumps(shas))

    def unpin(self, name: str) -> None:
        """Give the blobs of a pin up; no error if there is no such pin."""
        self.objects.remove_small(f"pins/{_check_name(name)}.json")

    def pins(self) -> dict[str, tuple[str, ...]]:
        """The pinned blobs by the name of their pin."""
        names = [name for name in self.objects.names("pins") if name.endswith(".json")]
        return {
            name.removesuffix(".json"): tuple(json.loads(self.objects.read_small(f"pins/{name}"))) for name in names
        }

    def sweep(self, *, grace: timedelta = timedelta(days=7), is_dry_run: bool = True) -> SweepReport:
        """Remove what no head and no pin names and what nobody has touched for the grace period."""
        pinned = {sha for shas in self.pins().values() for sha in shas}
        return sweep(self.objects, pinned, grace=grace, is_dry_run=is_dry_run)

    def _path(self, key: str, partition: str | None) -> str:
        dimension = table(key).dimension
        if dimension is None and partition is not None:
            raise ValueError(f"{key} is not partitioned, but partition {partition!r} was named")
        if dimension is not None and partition is None:
            raise ValueError(f"{key} is partitioned by {dimension}; name a partition")
        return head_path(key, dimension, partition)


def _check_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"name {name!r} must match {_NAME.pattern}")
    return name


def _label(key: str, partition: str | None) -> str:
    return key if partition is None else f"{key}[{partition}]"


def _read_back(file: Path) -> Facts:
    """The facts of a head after reading all of it, one row group at a time; raises DamagedDataError."""
    with pq.ParquetFile(file, memory_map=False) as head:
        facts = Facts.read(head.schema_arrow, file)
        blocks = (head.read_row_group(number) for number in range(head.num_row_groups))
        found = blocks_sha256(head.schema_arrow, (block for block in blocks if block.num_rows))
        if found != facts.content_sha256 or head.metadata.num_rows != facts.n_rows:
            raise DamagedDataError(f"{file} does not hold what its content hash promises")
    return facts
