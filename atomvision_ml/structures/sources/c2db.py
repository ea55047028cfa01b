"""C2DB: an ASE SQLite database whose rows have ``uid`` and other key-value pairs. Only ever opened for reading."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ase.db.sqlite import SQLite3Database

from atomvision_ml.structures.record import BadRecordError, Draft, make_crystal, native_id_of, sha256_of
from atomvision_ml.structures.sources.files import (
    SourceUnavailableError,
    compression,
    damage_reported,
    damaged,
    open_dump,
)

_HEADER = b"SQLite format 3\x00"
_ROW_FAULTS = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
"""What ASE raises while it decodes a damaged row."""


def drafts(path: Path, scratch: Path) -> Iterator[Draft]:
    """One draft for each row, in the order of their ids.

    The key-value pairs and the calculated scalars become the properties; the large ``data`` column stays in the dump.

    Raises:
        SourceUnavailableError: the file is no ASE database, or damaged.
    """
    with damage_reported(path), _plain_database(path, scratch) as plain, _opened(plain, path) as database:
        was_decoded = False
        for row_id in _row_ids(database):
            draft = _draft(database, row_id, path)
            was_decoded = was_decoded or draft.properties is not None
            yield draft
        if not was_decoded:
            raise SourceUnavailableError(damaged(path, "no row can be decoded"))


@contextmanager
def _plain_database(path: Path, scratch: Path) -> Iterator[Path]:
    """The database file itself, or a decompressed copy in scratch for as long as it is needed."""
    if compression(path) is None:
        yield path
        return
    copy = scratch / "c2db.decompressed.db"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with open_dump(path, member_suffix=".db") as stream:
            stream.copy_to(copy)
        yield copy
    finally:
        with suppress(FileNotFoundError):
            copy.unlink()


class _ReadOnlyDatabase(SQLite3Database):
    """ASE's database on a connection that cannot write: ASE itself would create missing tables."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{Path(str(self.filename)).resolve().as_uri()}?mode=ro", uri=True, timeout=20)


@contextmanager
def _opened(plain: Path, path: Path) -> Iterator[SQLite3Database]:
    with plain.open("rb") as stream:
        if stream.read(len(_HEADER)) != _HEADER:
            raise SourceUnavailableError(damaged(path, "it is no SQLite database"))
    try:
        with _ReadOnlyDatabase(str(plain)) as database:
            _check(database, path)
            yield database
    except sqlite3.Error as error:
        raise SourceUnavailableError(damaged(path, f"no readable ASE database: {error}")) from error


def _row_ids(database: Any) -> list[int]:
    return [row_id for (row_id,) in database.connection.execute("SELECT id FROM systems ORDER BY id")]


def _check(database: Any, path: Path) -> None:
    connection = database.connection
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise SourceUnavailableError(damaged(path, f"SQLite: {verdict}"))
    connection.execute("SELECT id, numbers, positions, cell, key_value_pairs FROM systems LIMIT 1").fetchone()


def _draft(database: Any, row_id: int, path: Path) -> Draft:
    try:
        row = database.get(id=row_id)
        pairs = dict(row.key_value_pairs)
        content = {"numbers": row.numbers, "positions": row.positions, "cell": row.cell, "key_value_pairs": pairs}
    except OSError as error:
        raise SourceUnavailableError(damaged(path, str(error))) from error
    except _ROW_FAULTS as error:
        reason = f"row {row_id} cannot be decoded: {type(error).__name__}: {error}"
        return Draft(f"row-{row_id}", sha256_of({"row": row_id, "reason": reason}), reason=reason)
    native_id = native_id_of({"uid": pairs.get("uid"), "unique_id": row.unique_id, "id": f"row-{row_id}"}, *_ID_KEYS)
    scalars = {key: row.get(key) for key in _SCALARS if row.get(key) is not None}
    properties = scalars | {key: value for key, value in pairs.items() if key != "uid"}
    try:
        if row.numbers is None:
            raise BadRecordError("no atomic numbers")
        crystal = make_crystal(row.numbers.tolist(), row.positions, row.cell, are_fractional=False)
    except BadRecordError as error:
        return Draft(native_id, sha256_of(content), reason=str(error), properties=properties)
    return Draft(native_id, sha256_of(content), crystal=crystal, properties=properties)


_ID_KEYS = ("uid", "unique_id", "id")
_SCALARS = ("energy", "free_energy", "magmom", "charge", "calculator", "unique_id")
