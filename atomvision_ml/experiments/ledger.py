"""The inbox's book: which files came, which are complete, which are being read, and what became of each.

Belongs here: pure functions from a ledger and what was seen to the next ledger. :mod:`.ledger_store` keeps the ledger:
whoever watches a folder or a bucket lists it and goes through :func:`observe` and :func:`plan`; a run is started for
each batch, tells of each file that it :func:`begin` s to read it, and its outcome goes through :func:`settle`. Every
function may be called again with the same arguments: after a crash at any point the same step gives the same ledger. A
file is known by its place and stamp until it is read, then by its content: the same bytes are taken once, wherever and
however often they come.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from posixpath import basename, dirname, join
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.record import SIDECAR_SUFFIX

State = Literal["new", "ready", "claimed", "accepted", "duplicate", "rejected"]
"""``new`` until its stamp rests, ``ready`` to be read, ``claimed`` by a run; the others are final until it changes."""

NOT_PLAIN = "not a plain file: "
"""How the reason begins of a link, a pipe, a socket or a device, and the mark of its stamp."""

SIDECAR_REASON = "sidecar: "
"""How the reason begins of a file that is refused for its sidecar alone."""

_UNFINISHED = re.compile(r"\.(part|partial|tmp|temp|crdownload|download|filepart|swp|lock)$|^~\$|^\.|~$", re.IGNORECASE)
_SERIES = re.compile(r"^(?P<stem>.+)_\d{1,4}\.ser$", re.IGNORECASE)


class InboxRules(BaseModel):
    """When a file is complete, and how much a tick and a run may do; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_age_s: float = Field(default=60.0, ge=0, description="Time for which size and time of change must rest.")
    partner_wait_s: float = Field(default=600.0, ge=0, description="Time that an .emi waits for its .ser.")
    maximum_new: int = Field(default=500, ge=1, description="Files entered or changed per tick; the rest wait.")
    batch_size: int = Field(default=100, ge=1, description="Files of one run.")
    maximum_batches: int = Field(default=2, ge=1, description="Runs started per tick.")
    maximum_open: int = Field(default=10, ge=1, description="Runs that wait or work at a time.")
    claim_s: float = Field(default=3600.0, gt=0, description="Time after which a run's files are offered again.")
    pause_s: float = Field(
        default=60.0, ge=0, description="The same time after a run that is known to have ended; fourfold at each claim."
    )
    maximum_attempts: int = Field(default=3, ge=1, description="Runs that may die of a file before it is rejected.")


@dataclass(frozen=True, order=True)
class Stamp:
    """What a listing tells of a file's content, without reading it.

    Attributes:
        size_bytes: its size.
        mark: inode and time of change in ns for a folder, ETag for a bucket; of what is no plain file
            :data:`NOT_PLAIN`, what it is, and after a comma its inode.
        companions: digest of the stamps of what is read with it: its sidecar, and the series of an ``.emi``.
    """

    size_bytes: int
    mark: str
    companions: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether there is content to be read."""
        return not self.mark.startswith(NOT_PLAIN)


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
        claims: runs that claimed this content.
        attempts: runs that began to read it, since it was last settled.
        day: UTC day of the first claim of this content.
        batch: key of the batch that claims it.
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
    claims: int = 0
    attempts: int = 0
    day: str = ""
    batch: str = ""
    claimed_until_s: float = 0.0
    reason: str = ""
    earlier: tuple[str, ...] = ()


Ledger = Mapping[str, Entry]


@dataclass(frozen=True)
class Batch:
    """Files of one run.

    Attributes:
        key: the same for the same files and claims: a scheduler that keeps keys starts it once.
        day: UTC day of the first claim of these files, ``YYYY-MM-DD``; what is new in them is filed under it.
        files: place and stamp of each.
    """

    key: str
    day: str
    files: tuple[tuple[str, Stamp], ...]


@dataclass(frozen=True)
class Outcome:
    """What a run found. A run reads only files that still have the stamp that it was given, and reports no others.

    Attributes:
        place: of the file.
        stamp: that the run was given; an outcome for another content is stale.
        sha256: of the bytes that were read; None if they could not be.
        reason: why it is rejected; empty if it is accepted.
        rows: facts of each image that was read, as JSON values with at least ``record_id``, ``pixel_sha256`` and
            ``signal_index``; of a rejected file one mapping at most. The same for the same bytes and companions.
        left_out: facts of each image of an accepted file that is not taken, at least ``signal_index`` and ``reason``.
    """

    place: str
    stamp: Stamp
    sha256: str | None
    reason: str = ""
    rows: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    left_out: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)


def is_candidate(place: str) -> bool:
    """Whether a place is a file to be read: no unfinished upload, hidden file or sidecar."""
    return not _is_unfinished(place) and not place.endswith(SIDECAR_SUFFIX)


def _is_unfinished(place: str) -> bool:
    """Whether a place has the name of an upload that goes on, or of a hidden file; or no name at all."""
    name = basename(place)
    return not name or "\0" in place or _UNFINISHED.search(name) is not None


def is_beside(place: str, file: str) -> bool:
    """Whether a place is a file itself or one of its companions: its sidecar, the series of an ``.emi``."""
    if place in (file, file + SIDECAR_SUFFIX):
        return True
    series = _SERIES.match(basename(place))
    stem = file[:-4] if file.lower().endswith(".emi") else None
    return series is not None and join(dirname(place), series["stem"]) == stem


def with_companions(listing: Mapping[str, Stamp]) -> dict[str, Stamp]:
    """The files of a listing, each stamped with its companions; what is no file to be read is left out.

    What is no plain file is no companion and has none; it stays, as it is, to be rejected.
    """
    series: dict[str, list[str]] = {}
    files = {place: stamp for place, stamp in listing.items() if not stamp.is_plain and not _is_unfinished(place)}
    for place, stamp in listing.items():
        if stamp.is_plain and (found := _SERIES.match(basename(place))) is not None:
            series.setdefault(join(dirname(place), found["stem"]), []).append(place)
    for place, stamp in listing.items():
        if stamp.is_plain and is_candidate(place):
            beside = series.get(place[:-4], []) if place.lower().endswith(".emi") else []
            sidecar = place + SIDECAR_SUFFIX
            companions = [*beside, *([sidecar] if sidecar in listing and listing[sidecar].is_plain else [])]
            files[place] = replace(stamp, companions=_digest({one: listing[one] for one in companions}))
    return files


def _digest(companions: Mapping[str, Stamp]) -> str:
    if not companions:
        return ""
    told = sorted((basename(place), stamp.size_bytes, stamp.mark) for place, stamp in companions.items())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def observe(ledger: Ledger, listing: Mapping[str, Stamp], now_s: float, rules: InboxRules | None = None) -> Ledger:
    """The ledger after a listing: new and changed files entered, resting ones ready, missing ones marked.

    Args:
        ledger: as it was.
        listing: everything that is there, by place.
        now_s: seconds since 1970 of the listing.
        rules: of the inbox.

    Returns:
        The next ledger. At most ``maximum_new`` files are entered or changed in it, in the order of their places.
        What is no plain file is rejected when it rests.
    """
    chosen = rules or InboxRules()
    present = with_companions(listing)
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
            if not stamp.is_plain:
                after[place] = replace(entry, state="rejected", day=day_of(now_s), reason=stamp.mark.rpartition(",")[0])
            elif not _waits(place, after, present, now_s - entry.since_s, chosen):
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


def _waits(place: str, ledger: Ledger, present: Mapping[str, Stamp], waited_s: float, rules: InboxRules) -> bool:
    """A series waits for what becomes of the ``.emi`` beside it; an ``.emi`` waits for its first series."""
    series = _SERIES.match(basename(place))
    if series is not None:
        stem = join(dirname(place), series["stem"])
        return any(_keeps_series(ledger.get(emi), present.get(emi)) for emi in (f"{stem}.emi", f"{stem}.EMI"))
    if place.lower().endswith(".emi"):
        first = present.get(f"{place[:-4]}_1.ser")
        return (first is None or not first.is_plain) and waited_s < rules.partner_wait_s
    return False


def _keeps_series(emi: Entry | None, stamp: Stamp | None) -> bool:
    """Whether an ``.emi`` that is there will be read with its series, or was, or will be when its sidecar is mended.

    One that was refused or came before as a copy has not had its series read: they are files of their own then.
    """
    if stamp is None:
        return False
    if emi is None or emi.stamp != stamp or emi.reason.startswith(SIDECAR_REASON):
        return True
    return emi.state not in ("rejected", "duplicate")


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
    offered: dict[str, list[str]] = {}
    for place in sorted(ledger):
        entry = ledger[place]
        if not _is_free(entry, now_s):
            continue
        if entry.attempts >= chosen.maximum_attempts:
            reason = f"{entry.attempts} runs ended while reading it"
            after[place] = replace(entry, state="rejected", batch="", reason=reason)
        elif entry.is_present:
            offered.setdefault(entry.day or day_of(now_s), []).append(place)
    batches = _batches(ledger, offered, chosen)[: _allowed(ledger, now_s, chosen)]
    for batch in batches:
        for place, _ in batch.files:
            entry = ledger[place]
            after[place] = replace(
                entry,
                state="claimed",
                claims=entry.claims + 1,
                day=batch.day,
                batch=batch.key,
                claimed_until_s=now_s + chosen.claim_s,
            )
    return after, tuple(batches)


def _batches(ledger: Ledger, offered: Mapping[str, Sequence[str]], rules: InboxRules) -> list[Batch]:
    return [
        Batch(_key(cut, ledger), day, tuple((place, ledger[place].stamp) for place in cut))
        for day, places in sorted(offered.items())
        for cut in (places[start : start + rules.batch_size] for start in range(0, len(places), rules.batch_size))
    ]


def _allowed(ledger: Ledger, now_s: float, rules: InboxRules) -> int:
    """Batches that may be claimed now."""
    n_open = len({entry.batch for entry in ledger.values() if entry.state == "claimed" and not _is_free(entry, now_s)})
    return min(rules.maximum_batches, max(0, rules.maximum_open - n_open))


def day_of(time_s: float) -> str:
    """UTC day of a time in seconds since 1970, ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")


def _is_free(entry: Entry, now_s: float) -> bool:
    return entry.state == "ready" or (entry.state == "claimed" and now_s >= entry.claimed_until_s)


def _key(places: Sequence[str], ledger: Ledger) -> str:
    told = [(place, ledger[place].stamp, ledger[place].since_s, ledger[place].claims + 1) for place in places]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def begin(ledger: Ledger, key: str, place: str, stamp: Stamp, rules: InboxRules | None = None) -> tuple[Ledger, bool]:
    """A run is about to read a file: if it dies of it, the file has it on its account.

    Returns:
        The ledger, and whether the run is to read the file: it still has this stamp, is claimed by this batch, and
        did not cost too many runs.
    """
    entry = ledger.get(place)
    if entry is None or (entry.state, entry.batch, entry.stamp) != ("claimed", key, stamp):
        return ledger, False
    if entry.attempts >= (rules or InboxRules()).maximum_attempts:
        return ledger, False
    return {**ledger, place: replace(entry, attempts=entry.attempts + 1)}, True


def release(ledger: Ledger, key: str, now_s: float, rules: InboxRules | None = None) -> Ledger:
    """The run of a batch has ended: what it left is offered again after a pause, longer at each claim."""
    chosen = rules or InboxRules()
    after = dict(ledger)
    for place, entry in ledger.items():
        if entry.state == "claimed" and entry.batch == key:
            until_s = now_s + chosen.pause_s * 4.0 ** min(entry.claims - 1, 10)
            if until_s < entry.claimed_until_s:
                after[place] = replace(entry, claimed_until_s=until_s)
    return after


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
    released = replace(entry, attempts=0, batch="", claimed_until_s=0.0)
    done = replace(released, sha256=outcome.sha256, reason=outcome.reason, duplicate_of=None)
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
        if entry is not None and entry.state == "rejected" and entry.stamp.is_plain:
            after[place] = replace(entry, state="ready", attempts=0, day="", reason="")
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
