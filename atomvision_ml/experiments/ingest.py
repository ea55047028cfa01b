"""What a run does with the files of a batch, and what the tables say of it.

Belongs here: one file after the other is copied, read, kept and settled in the ledger; and the rows of
``experiments/records`` and ``experiments/inbox``, which are made of the ledger alone, so that they are the same whoever
makes them and however often.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from posixpath import basename
from typing import Any

from atomvision_ml.experiments.capture import CaptureRules, capture
from atomvision_ml.experiments.ledger import SIDECAR_REASON, Batch, Entry, InboxRules, Ledger, Outcome, Stamp, observe
from atomvision_ml.experiments.ledger_store import LedgerStore, Receipt
from atomvision_ml.experiments.places import ChangedError, Places
from atomvision_ml.experiments.profiles import Profile
from atomvision_ml.experiments.record import Record, SidecarError
from atomvision_ml.experiments.worker import FileReader, RejectedError
from atomvision_ml.schemas.tables.experiments import RECORDS
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.storage.blobs import file_sha256

Progress = Callable[[int, int | None], None]

LATTICE_LABEL = "lattice"
"""Name of the label that trains the task ``lattice``."""

_AS_JSON = ("synthesis_parameters", "labels", "extensions", "original_metadata")


class Intake:
    """Reads files of an inbox; for one thread.

    Args:
        store: the ledger.
        places: the inbox.
        reader: the worker that opens the files.
        keep: takes a folder over and tells its name, as :meth:`Lake.put_blob` does.
        scratch: folder for unfinished work.
        profiles: translations of headers; the built-in ones if None.
        rules: what an image must be.
    """

    def __init__(
        self,
        store: LedgerStore,
        places: Places,
        reader: FileReader,
        keep: Callable[[Path], str],
        scratch: Path,
        *,
        profiles: Sequence[Profile] | None = None,
        rules: CaptureRules | None = None,
    ) -> None:
        self.store, self.places, self.reader, self.keep, self.scratch = store, places, reader, keep, scratch
        self.profiles, self.rules = profiles, rules

    def take(self, batch: Batch, progress: Progress | None = None) -> None:
        """Read and settle every file of a batch that still waits; a file that changes meanwhile is left for later."""
        for done, (place, stamp) in enumerate(batch.files, start=1):
            if self.store.begin(batch.key, place, stamp) and (outcome := self._outcome(place, stamp)) is not None:
                self.store.settle(batch.key, outcome)
            if progress is not None:
                progress(done, len(batch.files))

    def take_all(self, rules: InboxRules, progress: Progress | None = None) -> int:
        """Do without a sensor: list the inbox and take what is complete, until nothing more becomes it.

        One caller at a time: what an earlier one has left unfinished is taken to be of a process that was killed.

        Args:
            rules: of the inbox; files that moved lately are waited for once.
            progress: called with (files done, files of the batch).

        Returns:
            How many files were offered.
        """
        n_files, has_waited = 0, False
        chosen = rules.model_copy(update={"pause_s": 0.0})
        left = self.store.open_batches()
        while True:
            batches = self.store.tick(self.places.listing(), time.time(), ended=left, rules=chosen).batches
            left = ()
            for batch in batches:
                self.take(batch, progress)
                n_files += len(batch.files)
            if not batches and (has_waited or not self._is_moving()):
                return n_files
            if not batches:
                time.sleep(chosen.minimum_age_s)
            has_waited = not batches

    def _is_moving(self) -> bool:
        return any(entry.is_present and entry.state == "new" for entry in self.store.entries().values())

    def _outcome(self, place: str, stamp: Stamp) -> Outcome | None:
        received, pixels = self._empty("received"), self._empty("pixels")
        sha256: str | None = None
        try:
            path = self.places.fetch(place, stamp, received)
            sha256 = file_sha256(path)
            if self.store.is_known(sha256, place):
                return Outcome(place, stamp, sha256)
            found = capture(path, pixels, self.reader, self.profiles, self.rules)
            blob = self.keep(received)
            rows = tuple(image_facts(each, blob, path.name) for each in found.records)
            left_out = tuple({**each.facts, "reason": each.reason} for each in found.rejected)
            return Outcome(place, stamp, sha256, rows=rows, left_out=left_out)
        except ChangedError:
            return None
        except RejectedError as error:
            return Outcome(place, stamp, sha256, reason=f"{error.code}: {error.reason}")
        except SidecarError as error:
            return Outcome(place, stamp, sha256, reason=f"{SIDECAR_REASON}{error}")
        finally:
            shutil.rmtree(received, ignore_errors=True)
            shutil.rmtree(pixels, ignore_errors=True)

    def _empty(self, name: str) -> Path:
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def image_facts(record: Record, blob: str, file: str) -> dict[str, Any]:
    """What the ledger keeps of an image, as JSON values: the record, and where the original bytes are."""
    facts: dict[str, Any] = json.loads(record.model_dump_json())
    label, reason = lattice_label(record.labels)
    if reason:
        facts["warnings"] = [*facts["warnings"], reason]
    return facts | {"blob": blob, "file": file, "label_lattice": label}


def lattice_label(labels: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """The label of the task ``lattice``, and why it cannot be used."""
    label = (labels or {}).get(LATTICE_LABEL)
    if label is None or label in BRAVAIS_LATTICES:
        return label, ""
    return None, f"the label {LATTICE_LABEL}: {label} is none of {', '.join(BRAVAIS_LATTICES)}"


def record_rows(receipts: Iterable[Receipt]) -> Iterator[dict[str, Any]]:
    """Rows of ``experiments/records``."""
    names = [column.name for column in RECORDS.columns]
    for receipt in receipts:
        row = {name: receipt.row.get(name) for name in names}
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in _AS_JSON if row[name] is not None}
        if row["acquired_at"] is not None:
            row["acquired_at"] = datetime.fromisoformat(row["acquired_at"])
        yield row | {
            "day": receipt.day,
            "receipt_id": _receipt_id(receipt),
            "place": receipt.place,
            "received_at": receipt.received_at,
            "state": receipt.state,
            "reason": receipt.reason or _why_duplicate(receipt),
            "duplicate_of": receipt.duplicate_of,
            "file_sha256": receipt.sha256,
            "signal_index": receipt.signal_index,
            "size_bytes": receipt.size_bytes,
            "original_filename": row["original_filename"] or basename(receipt.place),
        }


def _receipt_id(receipt: Receipt) -> str:
    told = json.dumps([receipt.place, receipt.received_at.isoformat(), receipt.signal_index, receipt.number])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _why_duplicate(receipt: Receipt) -> str | None:
    if receipt.state != "duplicate":
        return None
    return "the same pixels in another file came before" if receipt.row else "the same bytes came before"


def inbox_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Rows of ``experiments/inbox``, by place."""
    return [
        {
            "place": place,
            "size_bytes": entry.stamp.size_bytes,
            "state": entry.state,
            "is_present": entry.is_present,
            "since": datetime.fromtimestamp(entry.since_s, UTC),
            "attempts": entry.attempts,
            "reason": entry.reason or None,
            "duplicate_of": entry.duplicate_of,
        }
        for place, entry in sorted(ledger.items())
    ]


def days_to_take(store: LedgerStore, places: Places, now: datetime) -> list[str]:
    """Days under which something is or will be filed: those of the ledger, and today if the inbox has files to settle.

    Nothing is entered or claimed: the ledger's rules are asked what two listings a second apart would come to.
    """
    before, listing = store.entries(), places.listing()
    ledger = before
    at_once = InboxRules(minimum_age_s=0.0, partner_wait_s=0.0, maximum_new=max(len(listing), 1))
    for seconds in (0.0, 1.0):
        ledger = observe(ledger, listing, now.timestamp() + seconds, at_once)
    is_due = any(entry.is_present and _is_due(entry, before.get(place)) for place, entry in ledger.items())
    return sorted({*store.days(), *([f"{now.astimezone(UTC):%Y-%m-%d}"] if is_due else [])})


def _is_due(entry: Entry, former: Entry | None) -> bool:
    """Whether a file is to be read, or was refused at sight just now."""
    is_refused = entry.state == "rejected" and (former is None or former.state != "rejected")
    return entry.state in ("ready", "claimed") or is_refused
