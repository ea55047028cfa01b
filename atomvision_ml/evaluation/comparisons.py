"""Which method is better than which: paired differences on the same items, the table ``evaluation/comparisons``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import polars as pl

from atomvision_ml.catalog.views import LOWER_IS_BETTER
from atomvision_ml.evaluation.answers import CLASSICAL_MODELS, name_of, role_of, with_items
from atomvision_ml.evaluation.metrics import MetricParameters, interval, resampled
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.slices import slices_of
from atomvision_ml.evaluation.sums import Figures

Row = dict[str, Any]


@dataclass(frozen=True)
class _Standing:
    """One method on one slice: its figures, and their values in each resample of the groups."""

    model_id: str
    role: str
    items: frozenset[str]
    value: dict[str, float]
    spread: Figures


def comparison_rows(
    answers: pl.DataFrame,
    holdout: pl.DataFrame,
    *,
    size: str,
    leave_out: Collection[str] = (),
    parameters: MetricParameters | None = None,
) -> list[Row]:
    """Every registered model of a task against every other method that answered the same items.

    Args:
        answers: rows of all tables of answers of one task, see :func:`atomvision_ml.evaluation.answers.by_task`.
        holdout: rows of ``evaluation/holdout``.
        size: ``demo`` or ``full``.
        leave_out: model ids that are not compared, e.g. further seeds of a model.
        parameters: of the bootstrap.

    Returns:
        Rows of ``evaluation/comparisons``. A gain is the difference of the figures, its sign turned where lower is
        better; groups are drawn alike for both methods. There is none where an interval cannot be drawn.

    Raises:
        ValueError: an answer is of an item that the hold-out does not have, or there is none.
    """
    chosen = parameters or MetricParameters()
    joined = with_items(answers.filter(~pl.col("model_id").is_in(list(leave_out))), holdout)
    task = joined["task"][0]
    by_slice: dict[str, list[_Standing]] = {}
    for (model_id, role), own in sorted(joined.group_by(["model_id", "role"])):
        for slice_ in slices_of(own):
            if slice_.is_compared:
                standing = _standing(str(model_id), role_of(model_id, str(role)), slice_.answers, chosen)
                by_slice.setdefault(slice_.name, []).append(standing)
    about = {"task": task, "size": size}
    return [
        {**about, "slice": name, "metric": metric, **row}
        for name, standings in by_slice.items()
        for metric in PROTOCOLS[task].shown_metrics
        for row in _compared(standings, metric, chosen.confidence)
    ]


def _standing(model_id: str, role: str, answers: pl.DataFrame, parameters: MetricParameters) -> _Standing:
    value, spread = resampled(answers, parameters)
    return _Standing(model_id, role, frozenset(answers["item_id"]), value, spread)


def _compared(standings: list[_Standing], metric: str, confidence: float) -> list[Row]:
    sign = -1.0 if re.search(LOWER_IS_BETTER, metric) else 1.0
    known = [standing for standing in standings if metric in standing.value and metric in standing.spread]
    rows = []
    for own in known:
        if own.role != "model" and name_of(own.model_id) not in CLASSICAL_MODELS:
            continue
        rivals = [rival for rival in known if rival is not own and rival.items == own.items]
        baselines = [rival for rival in rivals if rival.role != "model"]
        best = max(baselines, key=lambda rival: sign * rival.value[metric], default=None)
        for rival in rivals:
            low, high = interval(sign * (own.spread[metric] - rival.spread[metric]), confidence)
            if low is None or high is None:
                continue
            rows.append(
                {
                    "model": name_of(own.model_id),
                    "rival": name_of(rival.model_id),
                    "rival_role": rival.role,
                    "is_best_baseline": rival is best,
                    "value": own.value[metric],
                    "rival_value": rival.value[metric],
                    "gain": sign * (own.value[metric] - rival.value[metric]),
                    "low": low,
                    "high": high,
                    "verdict": "above" if low > 0 else "below" if high < 0 else "level",
                    "n_items": len(own.items),
                }
            )
    return rows
