"""What must be true of structure tables beyond their contract. Pure functions of the rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from atomvision_assets.store import Audit

REJECTED_LIMIT = 0.01

RECORDS = {
    "records_are_accepted": "At most 1 % of the database's records are rejected as damaged (a warning).",
    "something_is_accepted": "At least one record is accepted.",
}
SLABS = {
    "slabs_are_accepted": "At most 1 % of the records are rejected on the way to a slab (a warning).",
    "something_is_accepted": "At least one slab is accepted.",
}
MATERIALS = {
    "compositions_stay_together": "Materials with the same reduced formula share one split group.",
    "slabs_belong_to_one_material": "No slab is a member of two materials.",
}


def audit_acceptance(rows: list[dict[str, Any]], name: str) -> list[Audit]:
    """Whether enough rows are accepted; ``name`` is the check of the 1 % rule. Reasons are counted in the details."""
    rejected = [row for row in rows if row["status"] == "rejected"]
    reasons = Counter(str(row["reason"]).split(":")[0] for row in rejected).most_common(20)
    share = len(rejected) / max(len(rows), 1)
    details = {"n_rows": len(rows), "n_rejected": len(rejected), "share_rejected": share, "reasons": dict(reasons)}
    return [
        Audit(name, share <= REJECTED_LIMIT, details, is_warning=True),
        Audit("something_is_accepted", len(rejected) < len(rows), details),
    ]


def audit_materials(rows: list[dict[str, Any]]) -> list[Audit]:
    """Whether split groups hold compositions together and members are disjoint."""
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["reduced_formula"], set()).add(row["split_group"])
    divided = sorted(formula for formula, found in groups.items() if len(found) > 1)
    members = Counter(slab_id for row in rows for slab_id in row["slab_ids"])
    twice = sorted(slab_id for slab_id, count in members.items() if count > 1)
    return [
        Audit("compositions_stay_together", not divided, {"divided": divided[:20]}),
        Audit("slabs_belong_to_one_material", not twice, {"in_two": twice[:20]}),
    ]
