"""Which model is released: one pure rule, and its verdict in words.

Belongs here: the rule. It looks at figures on the frozen hold-out only: a candidate must beat its baselines, and must
not fall behind the champion in office.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.metrics import value_of
from atomvision_ml.evaluation.protocol import PROTOCOLS, PromotionRule


class Standing(BaseModel):
    """A model and its value of the deciding metric on the frozen hold-out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    value: float


class Verdict(BaseModel):
    """What the rule says and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_promoted: bool
    champion_id: str | None = Field(description="Who is released now; None if nobody passed the rule yet.")
    reason: str
    baseline: float
    incumbent: float | None


def decide(
    candidate: Standing, baselines: Mapping[str, float], incumbent: Standing | None, rule: PromotionRule
) -> Verdict:
    """The verdict on a candidate.

    Args:
        candidate: who applies.
        baselines: value of each trivial and classical baseline on the same items.
        incumbent: the champion in office, judged on the same items; None if there is none.
        rule: what decides.

    Returns:
        Promoted if the candidate is better than every baseline by the margin, and not worse than the incumbent by
        more than the tolerance. Otherwise the incumbent stays, unless it is the candidate itself that was in office.

    Raises:
        ValueError: there is no baseline, or a figure is not a finite number.
    """
    figures = [candidate.value, *baselines.values(), *([incumbent.value] if incumbent else [])]
    if not baselines or any(not abs(value) < float("inf") for value in figures):
        raise ValueError(f"a verdict needs finite figures of the candidate and of at least one baseline, not {figures}")
    best = max(baselines, key=lambda name: baselines[name])
    rival = incumbent if incumbent is not None and incumbent.model_id != candidate.model_id else None
    what = f"{rule.metric} on {rule.slice}"
    own = f"{candidate.model_id} has {what} {candidate.value:.4f}"
    against = f"best baseline {best} {baselines[best]:.4f}"
    beats = candidate.value > baselines[best] + rule.margin
    falls_behind = rival is not None and candidate.value < rival.value - rule.tolerance
    if not beats:
        reason = f"{own}; not promoted: {against}, and {rule.margin:g} above it is demanded"
    elif falls_behind and rival is not None:
        reason = f"{own}, {against}; not promoted: {rival.model_id} in office has {rival.value:.4f}"
    elif rival is not None:
        reason = f"{own}, {against}; promoted over {rival.model_id} with {rival.value:.4f}"
    else:
        reason = f"{own}, {against}; promoted"
    is_promoted = beats and not falls_behind
    return Verdict(
        is_promoted=is_promoted,
        champion_id=candidate.model_id if is_promoted else (rival.model_id if rival else None),
        reason=reason,
        baseline=baselines[best],
        incumbent=incumbent.value if incumbent else None,
    )


def champion_rows(
    candidates: Sequence[Mapping[str, Any]], metrics: pl.DataFrame, in_office: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of ``models/champions``: of each task the candidate with the best deciding figure is judged.

    A task without promotion rule has no champion.

    Args:
        candidates: the newest rows of all ``models/<name>``.
        metrics: rows of ``evaluation/metrics``.
        in_office: the present rows of ``models/champions`` by task.

    Raises:
        ValueError: the metrics lack a candidate or its baselines.
    """
    rows = []
    for task in dict.fromkeys(candidate["task"] for candidate in candidates):
        rule, own = PROTOCOLS[task].rule, metrics.filter(pl.col("task") == task)
        if rule is None:
            continue
        best: tuple[float, Mapping[str, Any]] | None = None
        for candidate in candidates:
            if candidate["task"] == task:
                value = value_of(own, candidate["model_id"], rule.slice, rule.metric)
                if value is None:
                    raise ValueError(
                        f"evaluation/metrics has no {rule.metric} on {rule.slice} of {candidate['model_id']}"
                    )
                if best is None or value > best[0]:
                    best = value, candidate
        if best is not None:
            rows.append(champion_row(task, best[1], metrics, in_office.get(task)))
    return rows


def champion_row(
    task: str,
    candidate: Mapping[str, Any],
    metrics: pl.DataFrame,
    incumbent: Mapping[str, Any] | None = None,
    rule: PromotionRule | None = None,
) -> dict[str, Any]:
    """The row of ``models/champions`` for a task.

    Args:
        task: learning task.
        candidate: the row of ``models/<name>`` that applies.
        metrics: rows of ``evaluation/metrics`` on the present hold-out, of the candidate, its baselines and, if it was
            judged again, the incumbent.
        incumbent: the present row of ``models/champions`` of this task, if any. Where ``metrics`` has no figure of its
            model, the value of its own promotion stands.
        rule: by default that of :data:`PROTOCOLS`.

    Raises:
        ValueError: the metrics lack the candidate or its baselines, or the task has no rule.
    """
    chosen = rule or PROTOCOLS[task].rule
    if chosen is None:
        raise ValueError(f"the task {task!r} has no promotion rule")
    own = metrics.filter((pl.col("task") == task) & (pl.col("slice") == chosen.slice))
    value = value_of(own, candidate["model_id"], chosen.slice, chosen.metric)
    is_other = (pl.col("role") != "model") & (pl.col("model_id") != candidate["model_id"])
    others = own.filter(is_other & (pl.col("metric") == chosen.metric))
    baselines = dict(others.select("model_id", "value").iter_rows())
    if value is None or not baselines:
        raise ValueError(
            f"evaluation/metrics has no {chosen.metric} on {chosen.slice} of {candidate['model_id']} and its baselines"
        )
    office = _standing(incumbent, own, chosen)
    verdict = decide(Standing(model_id=candidate["model_id"], value=value), baselines, office, chosen)
    released = candidate if verdict.is_promoted else incumbent if office and verdict.champion_id else None
    return {
        "task": task,
        "model_id": verdict.champion_id,
        "name": released["name"] if released else None,
        "blob": released["blob"] if released else None,
        "candidate_id": candidate["model_id"],
        "is_promoted": verdict.is_promoted,
        "reason": verdict.reason,
        "metric": f"{chosen.metric} {chosen.slice}",
        "value": value,
        "baseline": verdict.baseline,
        "incumbent": verdict.incumbent,
    }


def _standing(incumbent: Mapping[str, Any] | None, metrics: pl.DataFrame, rule: PromotionRule) -> Standing | None:
    if incumbent is None or incumbent["model_id"] is None:
        return None
    value = value_of(metrics, incumbent["model_id"], rule.slice, rule.metric)
    if value is None:
        value = incumbent["value"] if incumbent["is_promoted"] else incumbent["incumbent"]
    return Standing(model_id=incumbent["model_id"], value=value)
