"""What must be true of tables of experiments beyond their contract. Pure functions of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atomvision_assets.store import Audit

RECORDS = {
    "no_receipt_is_lost": "Every row that was published before is there, whatever its state is now.",
    "images_are_accepted_once": "No two accepted rows of the day have the same pixels.",
    "verdicts_are_explained": "Rejected and repeated files have a reason, accepted images their original bytes.",
    "records_are_complete": "No accepted image lacks a required field (a warning).",
}
MICROGRAPHS = {
    "accepted_images_are_stored": "Every accepted image of the day is stored (a warning).",
    "images_were_accepted": "Nothing but accepted images is stored, each once.",
}

Row = Mapping[str, Any]

_SHOWN = 20


def audit_records(rows: Sequence[Row], former: Iterable[str]) -> list[Audit]:
    """Whether the day's rows are whole.

    Args:
        rows: of ``experiments/records``.
        former: receipt_id of each row that was published before.
    """
    lost = sorted(set(former) - {row["receipt_id"] for row in rows})
    accepted = [row for row in rows if row["state"] == "accepted"]
    pixels = Counter(row["pixel_sha256"] for row in accepted)
    unexplained = [row["place"] for row in rows if not _is_explained(row)]
    missing = Counter(name for row in accepted for name in row["missing_fields"])
    states = dict(Counter(row["state"] for row in rows))
    advice = "the ledger is not the one that this day was made of: restore it from a backup"
    return [
        Audit("no_receipt_is_lost", not lost, {"lost": lost[:_SHOWN], **({"what_to_do": advice} if lost else {})}),
        Audit("images_are_accepted_once", max(pixels.values(), default=1) == 1, {"states": states}),
        Audit("verdicts_are_explained", not unexplained, {"unexplained": unexplained[:_SHOWN]}),
        Audit("records_are_complete", not missing, {"images_by_missing_field": dict(missing)}, is_warning=True),
    ]


def _is_explained(row: Row) -> bool:
    if row["state"] in ("accepted", "superseded"):
        return row["state"] == "superseded" or None not in (row["blob"], row["file"], row["record_id"])
    return bool(row["reason"]) and (row["state"] == "rejected" or row["duplicate_of"] is not None)


def audit_micrographs(rows: Iterable[Row], records: Iterable[Row], not_stored: Mapping[str, str]) -> list[Audit]:
    """Whether the stored images are the accepted ones."""
    accepted = {row["record_id"] for row in records if row["state"] == "accepted"}
    stored = Counter(row["record_id"] for row in rows)
    strange = sorted(set(stored) - accepted) + [name for name, count in stored.items() if count > 1]
    counts = {
        "n_accepted": len(accepted),
        "n_stored": len(stored),
        "not_stored": dict(list(not_stored.items())[:_SHOWN]),
    }
    return [
        Audit("accepted_images_are_stored", accepted <= set(stored), counts, is_warning=True),
        Audit("images_were_accepted", not strange, {"strange": strange[:_SHOWN]}),
    ]
