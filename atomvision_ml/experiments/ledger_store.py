"""The inbox's ledger in one SQLite file, and with it everything that was ever received.

Belongs here: transactions around the pure functions of :mod:`.ledger`. A tick is one transaction, and so is the
settlement of a file, which stores what was found in it at the same time: a process that is killed leaves a step done or
not done. Who came first, of two runs or two sensors at once, is decided by the order of the transactions. The file must
lie on a local disk; on network file systems SQLite's locks do not hold.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from atomvision_ml.experiments import ledger as book
from atomvision_ml.experiments.ledger import Batch, Entry, InboxRules, Ledger, Outcome, Stamp

ReceiptState = Literal["accepted", "duplicate", "rejected", "superseded"]

_BUSY_S = 60.0
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entries (
    place TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mark TEXT NOT NULL, companions TEXT NOT NULL,
    state TEXT NOT NULL, since_s REAL NOT NULL, sha256 TEXT, duplicate_of TEXT, is_present INTEGER NOT NULL,
    claims INTEGER NOT NULL, attempts INTEGER NOT NULL, day TEXT NOT NULL, batch TEXT NOT NULL,
    claimed_until_s REAL NOT NULL, reason TEXT NOT NULL, earlier TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX entries_by_batch ON entries (batch);
CREATE TABLE contents (sha256 TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (key TEXT PRIMARY KEY, day TEXT NOT NULL, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE receipts (
    number INTEGER PRIMARY KEY, changed INTEGER NOT NULL, day TEXT NOT NULL, place TEXT NOT NULL,
    content TEXT NOT NULL, received_at_s REAL NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, duplicate_of TEXT,
    sha256 TEXT, pixel_sha256 TEXT, record_id TEXT, signal_index INTEGER, size_bytes INTEGER NOT NULL, row BLOB NOT NULL
);
CREATE INDEX receipts_by_place ON receipts (place, content);
CREATE INDEX receipts_by_day ON receipts (day, changed);
CREATE UNIQUE INDEX receipts_once ON receipts (pixel_sha256) WHERE state = 'accepted';
CREATE TABLE days (day TEXT PRIMARY KEY, published INTEGER NOT NULL) WITHOUT ROWID;
"""
_ENTRY_COLUMNS = (
    "place", "size_bytes", "mark", "companions", *(each.name for each in fields(Entry) if each.name != "stamp"),
)  # fmt: skip


class LedgerError(ValueError):
    """The ledger's file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Tick:
    """What a tick found to do.

    Attributes:
        batches: runs to start.
        open: batches of the same owner that were claimed earlier and are not settled: to be started if they never were.
        stale_days: days with receipts newer than their publication, of which no batch is open, with the newest number.
    """

    batches: tuple[Batch, ...]
    open: tuple[Batch, ...]
    stale_days: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Receipt:
    """One image that was received, taken or not, or one file that is rejected or whose bytes came before.

    Attributes:
        number: in the order of settlement, from 1.
        day: UTC day under which it is filed.
        place: of the file.
        received_at: when the file was first seen with this content.
        state: ``superseded`` if the same bytes were read again since, with another sidecar.
        reason: why it is rejected.
        duplicate_of: record_id of the image that came first.
        sha256: of the file's bytes; None if they could not be read.
        signal_index: number of the image in its file; None if the receipt is of the whole file.
        size_bytes: of the file.
        row: facts of the image as the run gave them.
    """

    number: int
    day: str
    place: str
    received_at: datetime
    state: ReceiptState
    reason: str
    duplicate_of: str | None
    sha256: str | None
    signal_index: int | None
    size_bytes: int
    row: Mapping[str, Any]


class LedgerStore:
    """The ledger of one inbox; any number of threads and processes of one machine may use it at once.

    Args:
        path: the SQLite file; made with its folder when it is first written to.
        rules: of the inbox.
    """

    def __init__(self, path: str | Path, rules: InboxRules | None = None) -> None:
        self.path = Path(path)
        self.rules = rules or InboxRules()

    def tick(
        self,
        listing: Mapping[str, Stamp],
        now_s: float,
        *,
        owner: str = "",
        ended: Iterable[str] = (),
        rules: InboxRules | None = None,
    ) -> Tick:
        """Enter a listing, and claim what is to be read.

        Args:
            listing: everything that is there, by place.
            now_s: seconds since 1970 of the listing.
            owner: who starts the runs; an open batch is told to its owner again.
            ended: keys of batches whose runs have ended.
            rules: other rules than those of the store.

        Raises:
            LedgerError: the file is damaged or of another version.
        """
        chosen = rules or self.rules
        with self._transaction() as connection:
            before = _entries(connection)
            after: Ledger = before
            for key in ended:
                after = book.release(after, key, now_s, chosen)
            after = book.observe(after, listing, now_s, chosen)
            after, batches = book.plan(after, now_s, chosen)
            _save(connection, before, after)
            for place, entry in after.items():
                if entry.state == "rejected" and before[place].state != "rejected":
                    _receive(connection, place, entry, Outcome(place, entry.stamp, None, entry.reason), entry.day)
            told = [(batch.key, batch.day, owner) for batch in batches]
            connection.executemany("INSERT OR IGNORE INTO batches VALUES (?, ?, ?)", told)
            known = {batch.key for batch in batches}
            still_open = tuple(batch for batch in _open_batches(connection, owner, now_s) if batch.key not in known)
            return Tick(batches, still_open, _stale_days(connection, now_s))

    def open_batches(self, owner: str = "") -> tuple[str, ...]:
        """Keys of the owner's batches of which a file is still claimed."""
        with self._reading() as connection:
            return tuple(batch.key for batch in _open_batches(connection, owner))

    def batch(self, key: str) -> Batch:
        """A batch, with the files that are still claimed by it.

        Raises:
            KeyError: no such batch was ever claimed.
        """
        with self._reading() as connection:
            found = connection.execute("SELECT day FROM batches WHERE key = ?", (key,)).fetchone()
            if found is None:
                raise KeyError(f"{self.path} knows no batch {key}")
            return Batch(key, found["day"], _claimed(connection, key))

    def begin(self, key: str, place: str, stamp: Stamp) -> bool:
        """Tell that a file is about to be read; False if it was settled or replaced meanwhile and is to be left."""
        with self._transaction() as connection:
            before = _entries(connection, [place])
            after, is_wanted = book.begin(before, key, place, stamp, self.rules)
            _save(connection, before, after)
            return is_wanted

    def is_known(self, sha256: str, place: str) -> bool:
        """Whether another file brought these bytes before."""
        with self._reading() as connection:
            first = _first_place(connection, sha256)
            return first is not None and first != place

    def settle(self, key: str, outcome: Outcome) -> None:
        """Enter the outcome of a file and store what was found in it; an outcome that comes again changes nothing.

        Raises:
            KeyError: no such batch was ever claimed.
            ValueError: an accepted file without images, or an image without its identity.
        """
        with self._transaction() as connection:
            found = connection.execute("SELECT day FROM batches WHERE key = ?", (key,)).fetchone()
            if found is None:
                raise KeyError(f"{self.path} knows no batch {key}")
            places = [outcome.place]
            if outcome.sha256 is not None and (first := _first_place(connection, outcome.sha256)) is not None:
                places.append(first)
            before = _entries(connection, places)
            after = book.settle(before, [outcome])
            entry = after.get(outcome.place)
            if entry is None or entry is before.get(outcome.place):
                return
            _save(connection, before, after)
            if entry.state == "accepted":
                connection.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (entry.sha256, outcome.place))
            _receive(connection, outcome.place, entry, outcome, entry.day or found["day"])

    def reconsider(self, places: Iterable[str]) -> None:
        """Offer rejected files again."""
        with self._transaction() as connection:
            before = _entries(connection)
            _save(connection, before, book.reconsider(before, places))

    def entries(self) -> Ledger:
        """The whole ledger."""
        with self._reading() as connection:
            return _entries(connection)

    def rows(self, day: str) -> Iterator[Receipt]:
        """Everything that is filed under a day, in the order of time, place and image."""
        query = "SELECT * FROM receipts WHERE day = ? ORDER BY received_at_s, place, signal_index, number"
        with self._reading() as connection:
            for row in connection.execute(query, (day,)):
                yield _receipt(row)

    def days(self) -> tuple[str, ...]:
        """Days under which something is filed."""
        with self._reading() as connection:
            return tuple(row["day"] for row in connection.execute("SELECT DISTINCT day FROM receipts ORDER BY day"))

    def newest(self, day: str) -> int:
        """Number of the newest change of a day; 0 if nothing is filed under it."""
        with self._reading() as connection:
            found = connection.execute("SELECT max(changed) AS newest FROM receipts WHERE day = ?", (day,)).fetchone()
            return int(found["newest"] or 0)

    def note_published(self, day: str, number: int) -> None:
        """Tell that the day is published with all changes up to this one."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO days VALUES (?, ?) ON CONFLICT (day) DO UPDATE SET published = max(published, ?)",
                (day, number, number),
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._told_apart(), closing(self._connect()) as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if _version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            if _version(connection) == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            connection.execute("COMMIT")
        if (version := _version(connection)) != _SCHEMA_VERSION:
            raise LedgerError(f"{self.path} is a ledger of version {version}; this program knows {_SCHEMA_VERSION}")

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """A lock that stays busy is an OSError, to be tried again; a damaged file is not."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise LedgerError(
                f"{self.path} cannot be used ({error}): restore it from a backup, or move it away"
            ) from error


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _entries(connection: sqlite3.Connection, places: Sequence[str] | None = None) -> dict[str, Entry]:
    """The ledger, or the lines of a few places."""
    if places is None:
        rows = connection.execute(f"SELECT {','.join(_ENTRY_COLUMNS)} FROM entries")
    else:
        marks = ",".join("?" * len(places))
        rows = connection.execute(f"SELECT {','.join(_ENTRY_COLUMNS)} FROM entries WHERE place IN ({marks})", places)
    return {row["place"]: _entry(row) for row in rows}


def _entry(row: sqlite3.Row) -> Entry:
    """By position, as a tick reads every line."""
    _, size_bytes, mark, companions, state, since_s, sha256, duplicate_of, is_present, *rest = row
    claims, attempts, day, batch, until_s, reason, earlier = rest
    stamp, former = Stamp(size_bytes, mark, companions), () if earlier == "[]" else tuple(json.loads(earlier))
    told = (claims, attempts, day, batch, until_s, reason, former)
    return Entry(stamp, state, since_s, sha256, duplicate_of, bool(is_present), *told)


def _save(connection: sqlite3.Connection, before: Ledger, after: Ledger) -> None:
    """Write the lines that changed."""
    changed = [(place, entry) for place, entry in after.items() if entry is not before.get(place)]
    marks = ",".join("?" * len(_ENTRY_COLUMNS))
    connection.executemany(
        f"INSERT OR REPLACE INTO entries ({','.join(_ENTRY_COLUMNS)}) VALUES ({marks})",
        [_line(place, entry) for place, entry in changed],
    )


def _line(place: str, entry: Entry) -> tuple[Any, ...]:
    stamp = entry.stamp
    values = {each.name: getattr(entry, each.name) for each in fields(Entry)}
    values |= {"size_bytes": stamp.size_bytes, "mark": stamp.mark, "companions": stamp.companions, "place": place}
    values["earlier"] = json.dumps(entry.earlier)
    return tuple(values[name] for name in _ENTRY_COLUMNS)


def _first_place(connection: sqlite3.Connection, sha256: str) -> str | None:
    found = connection.execute("SELECT place FROM contents WHERE sha256 = ?", (sha256,)).fetchone()
    return None if found is None else found["place"]


def _claimed(connection: sqlite3.Connection, key: str) -> tuple[tuple[str, Stamp], ...]:
    query = f"SELECT {','.join(_ENTRY_COLUMNS)} FROM entries WHERE batch = ? AND state = 'claimed' ORDER BY place"
    return tuple((row["place"], _entry(row).stamp) for row in connection.execute(query, (key,)))


def _open_batches(connection: sqlite3.Connection, owner: str, after_s: float = 0.0) -> tuple[Batch, ...]:
    query = """
        SELECT DISTINCT key, batches.day AS day FROM batches JOIN entries ON batch = key
        WHERE owner = ? AND state = 'claimed' AND claimed_until_s > ? ORDER BY key
    """
    found = connection.execute(query, (owner, after_s)).fetchall()
    return tuple(Batch(row["key"], row["day"], _claimed(connection, row["key"])) for row in found)


def _stale_days(connection: sqlite3.Connection, now_s: float) -> tuple[tuple[str, int], ...]:
    query = """
        SELECT day, max(changed) AS newest FROM receipts LEFT JOIN days USING (day)
        WHERE day NOT IN (SELECT batches.day FROM batches JOIN entries ON batch = key
                          WHERE state = 'claimed' AND claimed_until_s > ?)
        GROUP BY day HAVING newest > coalesce(max(published), 0) ORDER BY day
    """
    return tuple((row["day"], row["newest"]) for row in connection.execute(query, (now_s,)))


def _receive(connection: sqlite3.Connection, place: str, entry: Entry, outcome: Outcome, day: str) -> None:
    """Store what became of a file; the former receipts of the same bytes at the same place are superseded by it.

    A file's rejection supersedes its rejections alone: its images stay when its sidecar is spoilt later.
    """
    content = entry.sha256 or f"{entry.stamp.size_bytes}:{entry.stamp.mark}"
    which = "state = 'rejected' AND signal_index IS NULL" if entry.state == "rejected" else "state != 'superseded'"
    query = f"SELECT * FROM receipts WHERE place = ? AND content = ? AND {which} ORDER BY number"
    former = connection.execute(query, (place, content)).fetchall()
    connection.executemany(
        "UPDATE receipts SET state = 'superseded' WHERE number = ?", [(row["number"],) for row in former]
    )
    found = _found(connection, entry, outcome)
    told = [(one["state"], one["reason"], one["duplicate_of"], one["signal_index"], one["row"]) for one in found]
    if told == [(row["state"], row["reason"], row["duplicate_of"], row["signal_index"], row["row"]) for row in former]:
        connection.executemany(
            "UPDATE receipts SET state = ? WHERE number = ?", [(row["state"], row["number"]) for row in former]
        )
        return
    number = int(connection.execute("SELECT coalesce(max(changed), 0) + 1 FROM receipts").fetchone()[0])
    connection.executemany(
        "UPDATE receipts SET changed = ? WHERE number = ?", [(number, row["number"]) for row in former]
    )
    shared = {
        "changed": number, "day": day, "place": place, "content": content, "received_at_s": entry.since_s,
        "sha256": entry.sha256, "size_bytes": entry.stamp.size_bytes,
    }  # fmt: skip
    for one in found:
        values = shared | one
        marks = ",".join("?" * len(values))
        connection.execute(f"INSERT INTO receipts ({','.join(values)}) VALUES ({marks})", tuple(values.values()))


def _found(connection: sqlite3.Connection, entry: Entry, outcome: Outcome) -> list[dict[str, Any]]:
    """The receipts of a file: one an image if it is accepted, those left out last, one in all otherwise."""
    if entry.state != "accepted":
        facts = outcome.rows[0] if outcome.rows else {}
        first = None if entry.duplicate_of is None else _first_record(connection, str(entry.sha256))
        return [_facts(entry.state, facts) | {"reason": entry.reason, "duplicate_of": first}]
    if not outcome.rows:
        raise ValueError(f"{outcome.place}: accepted, but none of its images is told")
    found: list[dict[str, Any]] = []
    for facts in outcome.rows:
        if missing := [name for name in ("record_id", "pixel_sha256", "signal_index") if facts.get(name) is None]:
            raise ValueError(f"{outcome.place}: an image without {', '.join(missing)}")
        first = _first_record_of_pixels(connection, facts["pixel_sha256"], found)
        found.append(_facts("accepted" if first is None else "duplicate", facts) | {"duplicate_of": first})
    return found + [_facts("rejected", facts) | {"reason": facts["reason"]} for facts in outcome.left_out]


def _facts(state: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: facts.get(name) for name in ("record_id", "pixel_sha256", "signal_index")}
    packed = zlib.compress(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    return {"state": state, "reason": "", "duplicate_of": None, **told, "row": packed}


def _first_record(connection: sqlite3.Connection, sha256: str) -> str | None:
    """The first image that these bytes brought."""
    query = """
        SELECT coalesce(duplicate_of, record_id) AS first FROM receipts
        WHERE sha256 = ? AND state != 'rejected' AND record_id IS NOT NULL ORDER BY number LIMIT 1
    """
    found = connection.execute(query, (sha256,)).fetchone()
    return None if found is None else found["first"]


def _first_record_of_pixels(
    connection: sqlite3.Connection, pixel_sha256: str, here: Sequence[Mapping[str, Any]]
) -> str | None:
    for one in here:
        if one["pixel_sha256"] == pixel_sha256 and one["state"] == "accepted":
            return str(one["record_id"])
    query = "SELECT record_id FROM receipts WHERE pixel_sha256 = ? AND state = 'accepted'"
    found = connection.execute(query, (pixel_sha256,)).fetchone()
    return None if found is None else found["record_id"]


def _receipt(row: sqlite3.Row) -> Receipt:
    return Receipt(
        number=row["number"],
        day=row["day"],
        place=row["place"],
        received_at=datetime.fromtimestamp(row["received_at_s"], UTC),
        state=row["state"],
        reason=row["reason"],
        duplicate_of=row["duplicate_of"],
        sha256=row["sha256"],
        signal_index=row["signal_index"],
        size_bytes=row["size_bytes"],
        row=json.loads(zlib.decompress(row["row"])),
    )
