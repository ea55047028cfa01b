"""What must be true of training sets beyond their contract."""

from __future__ import annotations

from typing import Any

from atomvision_assets.store import Audit
from atomvision_ml.schemas.vocabulary import SPLITS

TRAINING_SETS = {
    "split_groups_are_whole": "No split group lies in two splits.",
    "splits_are_filled": "Each split holds at least one image.",
}


def audit_training_set(rows: list[dict[str, Any]]) -> list[Audit]:
    """Whether groups are undivided and every split is filled."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["split_group"], set()).add(row["split"])
    divided = sorted(group for group, found in splits.items() if len(found) > 1)
    empty = sorted(set(SPLITS) - {row["split"] for row in rows})
    return [
        Audit("split_groups_are_whole", not divided, {"divided": divided[:20]}),
        Audit("splits_are_filled", not empty, {"empty": empty}),
    ]
