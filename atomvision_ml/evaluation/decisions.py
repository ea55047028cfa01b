"""What people decide about models: who, when and why, in the table ``models/decisions``.

Belongs here: writing a decision. What it does is in :mod:`atomvision_ml.evaluation.promotion`: it takes effect when
``models/verdicts`` is made next.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import polars as pl

from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.errors import PublicationRefusedError
from atomvision_ml.storage.keys import MODELS_DECISIONS, MODELS_VERDICTS
from atomvision_ml.storage.versions import Version

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

Decision = Literal["approve", "reject"]

_ATTEMPTS = 20


class DecisionError(ValueError):
    """A decision cannot be taken; the message says what there is."""


def record_decision(
    lake: Lake, decision: Decision, task: str, model_id: str, *, reason: str, decided_by: str
) -> dict[str, Any]:
    """Add a decision to ``models/decisions``; several people at once lose none.

    Args:
        lake: where the book of verdicts is.
        decision: ``approve`` brings the model into office, ``reject`` takes it out.
        task: learning task.
        model_id: a model of the book.
        reason: why; not empty.
        decided_by: who; not empty.

    Returns:
        The row.

    Raises:
        DecisionError: the book has no such model, or there is no reason or name.
        PublicationRefusedError: other people decided all the time.
    """
    if not reason.strip() or not decided_by.strip():
        raise DecisionError("a decision needs a reason and a name")
    known = _judged(lake, task)
    if model_id not in known:
        raise DecisionError(
            f"{task} has no model {model_id!r} that was judged; judged are {', '.join(known) or 'none'}"
        )
    row = {
        "decision_id": uuid4().hex,
        "decided_at": datetime.now(UTC),
        "decided_by": decided_by.strip(),
        "task": task,
        "model_id": model_id,
        "decision": decision,
        "reason": reason.strip(),
    }
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _add(lake, row)
            break
        except PublicationRefusedError:
            if attempt == _ATTEMPTS:
                raise
    return row


def _add(lake: Lake, row: dict[str, Any]) -> None:
    """Publish the present rows and this one, if they are still the present ones in the last moment."""
    before = _version(lake)
    former = lake.scan(MODELS_DECISIONS).collect().to_dicts() if before is not None else []
    rows = table(MODELS_DECISIONS).from_rows([*former, row])
    version = Version(code_version="1")
    lake.publish(MODELS_DECISIONS, rows, version=version, may_publish=lambda: _version(lake) == before)


def _version(lake: Lake) -> str | None:
    return lake.facts(MODELS_DECISIONS).data_version if lake.exists(MODELS_DECISIONS) else None


def _judged(lake: Lake, task: str) -> list[str]:
    if not lake.exists(MODELS_VERDICTS):
        return []
    own = lake.scan(MODELS_VERDICTS).filter(pl.col("task") == task).sort("number").collect()
    return own["model_id"].unique(maintain_order=True).to_list()
