"""The inbox's book: which files came, which are complete, which are being read, and what became of each.

Belongs here: pure functions from a ledger and what was seen to the next ledger. Whoever watches a folder or a bucket
lists it, calls :func:`observe` and :func:`plan`, stores the ledger, and starts a run a batch; the run reads the files
and its outcomes go through :func:`settle`. Every function may be called again with the same arguments: after a crash at
any point the same step gives the same ledger. A file is known by its place and stamp until it is read, then by its
content: the same bytes are taken once, wherever and however often they come.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from posixpath import basename, dirname, join
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.record import SIDECAR_SUFFIX

State = Literal["new", "ready", "claimed", "accepted", "duplicate", "rejected"]
"""``new`` until its stamp rests, ``ready`` to be read, ``claimed`` by a run; the others are final until it changes."""

_UNFINISHED = re.compile(r"\.(part|partial|tmp|temp|crdownload|download|filepart|swp|lock)$|^~\$|^\.|~$", re.IGNORECASE)
_SERIES = re.compile(r"^(?P<stem>.+)_\d{1,4}\.ser$", re.IGNORECASE)


class InboxRules(BaseModel):
    """When a file is complete, and how much a tick and a run may do; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_age_s: float = Field(default=60.0, ge=0, description="Time for which size and time of change must rest.")
    partner_wait_s: float = Field(default=600.0, ge=0, description="Time that an .emi waits for its .ser.")
    maximum_new: int = Field(default=500, ge=1, description="Files entered or changed per tick; the rest wait.")
    batch_size: int = Field(default=100, ge=1, description="Files of one run.")
    maximum_batches: int = Field(default=5, ge=1, description="Runs started per tick.")
    claim_s: float = Field(default=3600.0, gt=0, description="Time after which a run's files are offered again.")
    maximum_attempts: int = Field(default=3, ge=1, description="Runs that may die of a file before it is rejected.")


@dataclass(frozen=True, order=True)
class Stamp:
    """What a listing tells of a file's content, without reading it.

    Attributes:
        size_bytes: its size.
        mark: inode and time of change in ns for a folder, version or ETag for a bucket.
    """

    size_bytes: int
    mark: str


@dataclass(frozen=True)
class Entry:
    """A file's line in the book.

    Attributes:
        stamp: of its newest listing.
        state: see :data:`State`.
        since_s: time from which the stamp is unchanged.
        sha256: of its content, once read.
        duplicate_of: place of the file with the same content that came first.
        is_present: whether the newest listing holds it.
        attempts: runs that claimed this content.
        claimed_until_s: end of the claim.
        reason: why it was rejected.
        earlier: accepted contents that this place held before, oldest first.
    """

    stamp: Stamp
    state: State
    since_s: float
    sha256: str | None = None
    duplicate_of: str | None = None
    is_present: bool = True
    attempts: int = 0
    claimed_until_s: float = 0.0
    reason: str = ""
    earlier: tuple[str, ...] = ()


Ledger = Mapping[str, Entry]


@dataclass(frozen=True)
class Batch:
    """Files of one run.

    Attributes:
        key: the same for the same files and attempts: a scheduler that keeps keys starts it once.
        files: place and stamp of each.
    """

    key: str
    files: tuple[tuple[str, Stamp], ...]


@dataclass(frozen=True)
class Outcome:
    """What a run found. A run reads only files that still have the stamp that it was given, and reports no others.

    Attributes:
        place: of the file.
        stamp: that the run was given; an outcome for another content is stale.
        sha256: of the bytes that were read; None if they could not be.
        reason: why it is rejected; empty if it is accepted.
    """

    place: str
    stamp: Stamp
    sha256: str | None
    reason: str = ""


def is_candidate(place: str) -> bool:
    """Whether a place is a file to be read: no unfinished upload, hidden file or sidecar."""
    name = basename(place)
    return bool(name) and "\0" not in place and not _UNFINISHED.search(name) and not name.endswith(SIDECAR_SUFFIX)


def observe(ledger: Ledger, listing: Mapping[str, Stamp], now_s: float, rules: InboxRules | None = None) -> Ledger:
    """The ledger after a listing: new and changed files entered, resting ones ready, missing ones marked.

    Args:
        ledger: as it was.
        listing: every file by place.
        now_s: seconds since 1970 of the listing.
        rules: of the inbox.

    Returns:
        The next ledger. At most ``maximum_new`` files are entered or changed in it, in the order of their places.
    """
    chosen = rules or InboxRules()
    present = {place: stamp for place, stamp in listing.items() if is_candidate(place)}
    after = {
        place: entry if entry.is_present == (place in present) else replace(entry, is_present=place in present)
        for place, entry in ledger.items()
    }
    moving = sorted(place for place, stamp in present.items() if place not in after or after[place].stamp != stamp)
    for place in moving[: chosen.maximum_new]:
        after[place] = _begun(after.get(place), present[place], now_s)
    for place, stamp in present.items():
        entry = after.get(place)
        if entry is not None and entry.state == "new" and entry.stamp == stamp and _rests(entry, now_s, chosen):
            if _waits(place, present, now_s - entry.since_s, chosen):
                continue
            after[place] = replace(entry, state="ready")
    return after


def _begun(former: Entry | None, stamp: Stamp, now_s: float) -> Entry:
    if former is None:
        return Entry(stamp, "new", now_s)
    was_accepted = former.state == "accepted" and former.sha256 is not None
    return Entry(stamp, "new", now_s, earlier=former.earlier + ((str(former.sha256),) if was_accepted else ()))


def _rests(entry: Entry, now_s: float, rules: InboxRules) -> bool:
    """Two listings with the same stamp, far enough apart."""
    return now_s > entry.since_s and now_s - entry.since_s >= rules.minimum_age_s


def _waits(place: str, present: Mapping[str, Stamp], waited_s: float, rules: InboxRules) -> bool:
    """A series belongs to the ``.emi`` beside it and is read with it; an ``.emi`` waits for its first series."""
    series = _SERIES.match(basename(place))
    if series is not None:
        return join(dirname(place), f"{series['stem']}.emi") in present
    if place.lower().endswith(".emi"):
        return f"{place[:-4]}_1.ser" not in present and waited_s < rules.partner_wait_s
    return False


def plan(ledger: Ledger, now_s: float, rules: InboxRules | None = None) -> tuple[Ledger, tuple[Batch, ...]]:
    """Runs to start: ready files, and those whose run did not end in time.

    Args:
        ledger: after :func:`observe`.
        now_s: seconds since 1970.
        rules: of the inbox.

    Returns:
        The ledger with the claims of the runs, and the runs. A file whose runs died too often is rejected instead.
    """
    chosen = rules or InboxRules()
    after = dict(ledger)
    offered = []
    for place in sorted(ledger):
        entry = ledger[place]
        if not _is_free(entry, now_s):
            continue
        if entry.attempts >= chosen.maximum_attempts:
            after[place] = replace(entry, state="rejected", reason=f"{entry.attempts} runs ended while reading it")
        elif entry.is_present:
            offered.append(place)
    batches = []
    for start in range(0, min(len(offered), chosen.batch_size * chosen.maximum_batches), chosen.batch_size):
        places = offered[start : start + chosen.batch_size]
        for place in places:
            entry = ledger[place]
            after[place] = replace(
                entry, state="claimed", attempts=entry.attempts + 1, claimed_until_s=now_s + chosen.claim_s
            )
        batches.append(Batch(_key(places, after), tuple((place, after[place].stamp) for place in places)))
    return after, tuple(batches)


def _is_free(entry: Entry, now_s: float) -> bool:
    return entry.state == "ready" or (entry.state == "claimed" and now_s >= entry.claimed_until_s)


def _key(places: Sequence[str], ledger: Ledger) -> str:
    entries = [(place, ledger[place]) for place in places]
    told = [(place, entry.stamp.size_bytes, entry.stamp.mark, entry.attempts) for place, entry in entries]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def settle(ledger: Ledger, outcomes: Iterable[Outcome]) -> Ledger:
    """The ledger after a run's outcomes.

    An outcome counts while its file is claimed or ready with the same stamp; outcomes of replaced files and repeated
    ones change nothing. Content that another file brought before is a duplicate, also under a new name, and also when
    that file has been replaced since.
    """
    after = dict(ledger)
    first = _first_places(after)
    for outcome in sorted(outcomes, key=lambda outcome: outcome.place):
        entry = after.get(outcome.place)
        if entry is None or entry.stamp != outcome.stamp or entry.state not in ("claimed", "ready"):
            continue
        settled = _settled(entry, outcome, first)
        after[outcome.place] = settled
        if settled.state == "accepted" and settled.sha256 is not None:
            first[settled.sha256] = outcome.place
    return after


def _first_places(ledger: Ledger) -> dict[str, str]:
    """The place that brought each content that was ever accepted."""
    first = {sha256: place for place, entry in ledger.items() for sha256 in entry.earlier}
    return first | {
        entry.sha256: place for place, entry in ledger.items() if entry.state == "accepted" and entry.sha256 is not None
    }


def _settled(entry: Entry, outcome: Outcome, first: Mapping[str, str]) -> Entry:
    done = replace(entry, sha256=outcome.sha256, claimed_until_s=0.0, reason=outcome.reason)
    if outcome.reason or outcome.sha256 is None:
        return replace(done, state="rejected", reason=outcome.reason or "its bytes could not be read")
    if first.get(outcome.sha256, outcome.place) != outcome.place:
        return replace(done, state="duplicate", duplicate_of=first[outcome.sha256])
    return replace(done, state="accepted", earlier=tuple(sha for sha in entry.earlier if sha != outcome.sha256))


def reconsider(ledger: Ledger, places: Iterable[str]) -> Ledger:
    """Rejected files offered again: after a new reader version, or when a sidecar was mended."""
    after = dict(ledger)
    for place in places:
        entry = after.get(place)
        if entry is not None and entry.state == "rejected":
            after[place] = replace(entry, state="ready", attempts=0, reason="")
    return after


def renamed(ledger: Ledger) -> dict[str, str]:
    """Files that are gone and whose content lies elsewhere now: former place to new place."""
    moved: dict[str, str] = {}
    for place in sorted(ledger):
        entry = ledger[place]
        origin = ledger.get(entry.duplicate_of) if entry.duplicate_of is not None else None
        if entry.state == "duplicate" and entry.is_present and origin is not None and not origin.is_present:
            moved.setdefault(str(entry.duplicate_of), place)
    return moved
