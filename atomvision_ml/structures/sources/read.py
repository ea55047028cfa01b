"""One entry for all sources: find or fetch the dump, read it, return rows of ``structures/records``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from atomvision_ml.schemas.vocabulary import SOURCES
from atomvision_ml.structures.record import BadRecordError, Delivery, Draft, Progress, Row, rows_of, sha256_of
from atomvision_ml.structures.sources import jarvis, twodmatpedia
from atomvision_ml.structures.sources.files import Item, SourceUnavailableError, damaged, json_items
from atomvision_ml.structures.sources.locate import DATABASES, obtain


@dataclass(frozen=True)
class SourceDump:
    """What a source delivered.

    ``rows`` are rows of ``structures/records`` without ``origin_blob``; ``original`` is the dump file as delivered and
    ``sha256`` its checksum (both None for the generated prototypes).
    """

    rows: list[Row]
    original: Path | None = None
    sha256: str | None = None


def read_source(source: str, *, folder: Path | None, scratch: Path, progress: Progress | None = None) -> SourceDump:
    """All records of a source, each accepted or rejected with a reason.

    Args:
        source: one of :data:`~atomvision_ml.schemas.vocabulary.SOURCES`.
        folder: where the databases may lie, at any depth, plain or compressed (``ATOMVISION_SOURCES``). A database
            that is not there is downloaded.
        scratch: folder for the download and for decompressed copies; an interrupted download resumes in it.
        progress: called with the number of records read so far.

    Raises:
        SourceUnavailableError: permanent; the message says what to do. Nothing partial is returned.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; known are {list(SOURCES)}")
    if source == "prototypes":
        from atomvision_ml.structures.prototypes import prototype_rows

        return SourceDump(prototype_rows())
    database = DATABASES[source]
    found = obtain(database, folder, scratch)
    delivery = Delivery(source, database.reference, database.licence, found.origin)
    rows: list[Row] = []
    for row in rows_of(_READERS[source](found.path, scratch), delivery):
        rows.append(row)
        if progress is not None and len(rows) % 100 == 0:
            progress(len(rows), None)
    if not rows:
        raise SourceUnavailableError(damaged(found.path, "it holds no record"))
    if progress is not None:
        progress(len(rows), len(rows))
    with found.path.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return SourceDump(rows, found.path, checksum)


def _json_drafts(reader: ModuleType, path: Path) -> Iterator[Draft]:
    return (_json_draft(reader, item) for item in json_items(path))


def _json_draft(reader: Any, item: Item) -> Draft:
    sha256 = sha256_of(item.value if item.reason is None else item.raw)
    if item.reason is not None:
        return Draft(f"item-{item.place}", sha256, reason=item.reason)
    properties = reader.properties(item.value)
    native_id = f"item-{item.place}"
    try:
        native_id = reader.native_id(item.value)
        return Draft(native_id, sha256, crystal=reader.crystal(item.value), properties=properties)
    except BadRecordError as error:
        return Draft(native_id, sha256, reason=str(error), properties=properties)


def _c2db_drafts(path: Path, scratch: Path) -> Iterator[Draft]:
    from atomvision_ml.structures.sources.c2db import drafts

    return drafts(path, scratch)


_READERS: dict[str, Callable[[Path, Path], Iterator[Draft]]] = {
    "jarvis_dft_2d": lambda path, scratch: _json_drafts(jarvis, path),
    "twodmatpedia": lambda path, scratch: _json_drafts(twodmatpedia, path),
    "c2db": _c2db_drafts,
}
