"""What must be true of tables of measured micrographs beyond their contract. Pure functions of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atomvision_assets.store import Audit

MEASURED = {
    "every_micrograph_is_measured": "Each micrograph of the day has a row, and nothing else has one.",
    "nothing_found_has_a_reason": "A micrograph in which nothing was found has a single row that says why.",
}

Row = Mapping[str, Any]

_SHOWN = 20


def audit_measured(rows: Sequence[Row], micrographs: Sequence[Row], number: str) -> list[Audit]:
    """Whether every micrograph was measured.

    Args:
        rows: of the table.
        micrographs: rows of ``experiments/micrographs``.
        number: column that numbers what was found, null where nothing was.
    """
    wanted, there = {row["record_id"] for row in micrographs}, {row["record_id"] for row in rows}
    empty = [row for row in rows if row.get(number) is None]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["record_id"]] = counts.get(row["record_id"], 0) + 1
    unexplained = [row["record_id"] for row in empty if not row.get("reason") or counts[row["record_id"]] > 1]
    figures = {"n_micrographs": len(wanted), "n_without_anything": len(empty), "n_found": len(rows) - len(empty)}
    different = sorted(wanted ^ there)[:_SHOWN]
    return [
        Audit("every_micrograph_is_measured", not different, {**figures, "different": different}),
        Audit("nothing_found_has_a_reason", not unexplained, {"unexplained": unexplained[:_SHOWN]}),
    ]
