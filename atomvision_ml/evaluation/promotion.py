"""Who is in office: one pure rule, its verdict in words, and the book of all verdicts.

Belongs here: the rule and the book, table ``models/verdicts``. Each model is judged once, when it is new and has
answered the hold-outs: it must beat the baselines, be better than the champion in office, and be worse than it on no
guarded slice. Nothing of a figure is taken over: both are computed from stored answers to the same items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.answers import role_of, with_items
from atomvision_ml.evaluation.metrics import MetricParameters, interval, resampled
from atomvision_ml.evaluation.protocol import PROTOCOLS, PromotionRule
from atomvision_ml.evaluation.slices import slices_of

Row = dict[str, Any]

_VALUES_ONLY = MetricParameters(resamples=0)


class Standing(BaseModel):
    """A model and its deciding figure on the frozen hold-outs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    value: float


class Gain(BaseModel):
    """What a candidate gains over the incumbent on the same items of one slice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slice: str
    gain: float
    low: float | None = Field(default=None, description="Lower end of the paired 95 % bootstrap interval.")
    high: float | None = Field(default=None, description="Upper end; None where no interval can be drawn.")
    n_items: int = Field(ge=1, description="Items that both have answered.")

    def is_worse(self, tolerance: float) -> bool:
        """Whether the loss is larger than the tolerance, or significant; without interval the loss alone counts."""
        return self.gain < -tolerance or (self.high is not None and self.high < 0)

    def __str__(self) -> str:
        """The gain in words."""
        reach = "" if self.low is None or self.high is None else f" ({self.low:+.3f} to {self.high:+.3f})"
        return f"{self.gain:+.4f}{reach} on {self.slice}"


class Verdict(BaseModel):
    """What the rule says and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_promoted: bool
    champion_id: str | None = Field(description="Who is in office now; None if nobody passed the rule yet.")
    reason: str
    baseline: float
    incumbent: float | None


def decide(
    candidate: Standing,
    baselines: Mapping[str, float],
    incumbent: Standing | None,
    rule: PromotionRule,
    gains: Sequence[Gain] = (),
) -> Verdict:
    """The verdict on a candidate.

    Args:
        candidate: who applies.
        baselines: deciding figure of each trivial and classical baseline on the same items.
        incumbent: the champion in office, judged on the same items; None if there is none.
        rule: what decides.
        gains: of the candidate over the incumbent, on the deciding and the guarded slices.

    Returns:
        Promoted if the candidate is better than every baseline by the margin (where nobody else is in office, as good
        suffices: somebody shall answer where nothing can be better), better than the incumbent (mean gain on the
        deciding slices above zero; without ``gains`` the difference of the figures), and worse than it on no slice: no
        gain below minus the rule's tolerance, and no whole interval below zero. Otherwise the incumbent stays, unless
        it is the candidate itself that was in office.

    Raises:
        ValueError: there is no baseline, or a figure is not a finite number.
    """
    figures = [candidate.value, *baselines.values(), *([incumbent.value] if incumbent else [])]
    if not baselines or any(not abs(value) < float("inf") for value in figures):
        raise ValueError(f"a verdict needs finite figures of the candidate and of at least one baseline, not {figures}")
    best = max(baselines, key=lambda name: baselines[name])
    rival = incumbent if incumbent is not None and incumbent.model_id != candidate.model_id else None
    own = f"{candidate.model_id} has {rule.metric} {candidate.value:.4f} on {' and '.join(rule.deciding)}"
    against = f"best baseline {best} {baselines[best]:.4f}"
    demanded = baselines[best] + rule.margin
    if candidate.value < demanded or (rival is not None and candidate.value == demanded):
        least = f"{'more than' if rival else 'at least'} {rule.margin:g} above it"
        objection = f"not promoted: {against}, and {least} is demanded"
    elif rival is not None:
        objection = _objection(candidate, rival, rule, gains)
    else:
        objection = ""
    over = f" over {rival.model_id} in office with {rival.value:.4f}{_in_words(gains)}" if rival else ""
    return Verdict(
        is_promoted=not objection,
        champion_id=(rival.model_id if rival else None) if objection else candidate.model_id,
        reason=f"{own}; {objection}" if objection else f"{own}, {against}; promoted{over}",
        baseline=baselines[best],
        incumbent=incumbent.value if incumbent else None,
    )


def _objection(candidate: Standing, rival: Standing, rule: PromotionRule, gains: Sequence[Gain]) -> str:
    """Why the rival stays in office; empty if nothing speaks against the candidate."""
    office = f"not promoted: {rival.model_id} in office has {rival.value:.4f}"
    if worse := [gain for gain in gains if gain.is_worse(rule.tolerance)]:
        found = ", ".join(map(str, worse))
        return f"{office}, and the candidate is worse than it (a loss of {rule.tolerance:g} is tolerated): {found}"
    deciding = [gain.gain for gain in gains if gain.slice in rule.deciding]
    better = sum(deciding) / len(deciding) if deciding else candidate.value - rival.value
    return "" if better > 0 else f"{office}, and the candidate is no better{_in_words(gains)}"


def _in_words(gains: Sequence[Gain]) -> str:
    return f": {', '.join(map(str, gains))}" if gains else ""


def deciding_figure(answers: pl.DataFrame, rule: PromotionRule) -> float | None:
    """Mean of the metric over the deciding slices that one model's joined answers have; None where there is none."""
    found = [
        resampled(slice_.answers, _VALUES_ONLY)[0].get(rule.metric)
        for slice_ in slices_of(answers)
        if slice_.name in rule.deciding
    ]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def paired_gains(
    candidate: pl.DataFrame, incumbent: pl.DataFrame, rule: PromotionRule, parameters: MetricParameters | None = None
) -> list[Gain]:
    """Gains of a candidate on the deciding and the guarded slices, over the items that both have answered.

    Args:
        candidate, incumbent: answers joined with their items.
        rule: names metric and slices.
        parameters: of the bootstrap; split groups are drawn alike for both.
    """
    chosen = parameters or MetricParameters()
    common = set(candidate["item_id"]) & set(incumbent["item_id"])
    both = [answers.filter(pl.col("item_id").is_in(list(common))).sort("item_id") for answers in (candidate, incumbent)]
    if not common:
        return []
    own, other = ({slice_.name: slice_.answers for slice_ in slices_of(answers)} for answers in both)
    gains = []
    for name in dict.fromkeys((*rule.deciding, *rule.guarded)):
        if name in own and name in other:
            (value, spread), (rival, rival_spread) = resampled(own[name], chosen), resampled(other[name], chosen)
            if rule.metric in value and rule.metric in rival:
                drawn = rule.metric in spread and rule.metric in rival_spread
                difference = spread[rule.metric] - rival_spread[rule.metric] if drawn else None
                low, high = interval(difference, chosen.confidence)
                gain = value[rule.metric] - rival[rule.metric]
                gains.append(Gain(slice=name, gain=gain, low=low, high=high, n_items=own[name].height))
    return gains


AnswersOf = Callable[[Row], pl.DataFrame]
"""From a row of ``models/verdicts`` to what its model says of the present items; as many of them as are known."""

KeepAnswers = Callable[[str, pl.DataFrame], str]
"""From a task and a model's answers to the name of the blob that holds them."""


@dataclass(frozen=True)
class Court:
    """What verdicts are reached with.

    Attributes:
        answers: rows of all tables of answers, by task.
        holdout: rows of ``evaluation/holdout`` and ``evaluation/experimental_holdout``.
        at: time of the verdicts.
        incumbent_answers: asked only where the champion in office is no newest model.
        keep_answers: keeps the answers of a model that was judged.
        inputs: data versions of the hold-outs, by key.
        parameters: of the bootstrap.
    """

    answers: Mapping[str, pl.DataFrame]
    holdout: pl.DataFrame
    at: datetime
    incumbent_answers: AnswersOf
    keep_answers: KeepAnswers
    inputs: Mapping[str, str] = field(default_factory=dict)
    parameters: MetricParameters = field(default_factory=MetricParameters)

    def joined(self, task: str, model_id: str) -> pl.DataFrame | None:
        """A model's answers joined with their items, or None before it has answered every item of its task."""
        own = self.answers[task].filter(pl.col("model_id") == model_id) if task in self.answers else None
        items = set(self.holdout.filter(pl.col("task") == task)["item_id"])
        return with_items(own, self.holdout) if own is not None and items and items <= set(own["item_id"]) else None


def verdict_rows(
    candidates: Iterable[Mapping[str, Any]], book: Sequence[Row], decisions: Iterable[Mapping[str, Any]], court: Court
) -> list[Row]:
    """What is added to the book: decisions of people first, then a verdict on each new model, the best one first.

    Args:
        candidates: the newest rows of all ``models/<name>``. One that has not answered all items yet waits.
        book: the present rows of ``models/verdicts``, in their order.
        decisions: rows of ``models/decisions``; those of models that the book does not know wait.
        court: answers and items.

    Returns:
        New rows of ``models/verdicts``; the tasks without promotion rule have none.

    Raises:
        ValueError: a task has no baselines.
    """
    rows = list(book)
    applied = {row["decision_id"] for row in rows}
    for decision in sorted(decisions, key=lambda row: (row["decided_at"], row["decision_id"])):
        if decision["decision_id"] not in applied and any(row["model_id"] == decision["model_id"] for row in rows):
            rows.append(_numbered(_by_hand(decision, rows), rows, court.at))
    known = {row["model_id"] for row in rows}
    for candidate, joined, value in _new_candidates(candidates, known, court):
        rows.append(_numbered(_by_rule(candidate, joined, value, rows, court), rows, court.at))
    return rows[len(book) :]


def _new_candidates(
    candidates: Iterable[Mapping[str, Any]], known: Collection[str], court: Court
) -> list[tuple[Mapping[str, Any], pl.DataFrame, float]]:
    """Candidates that can be judged, with answers and deciding figure; task by task, the best first."""
    found = []
    for candidate in candidates:
        rule = PROTOCOLS[candidate["task"]].rule
        if rule is None or candidate["model_id"] in known:
            continue
        joined = court.joined(candidate["task"], candidate["model_id"])
        value = None if joined is None else deciding_figure(joined, rule)
        if joined is not None and value is not None:
            found.append((candidate, joined, value))
    return sorted(found, key=lambda each: (each[0]["task"], -each[2]))


def _numbered(row: Row, rows: Sequence[Row], at: datetime) -> Row:
    return {"number": len(rows) + 1, "judged_at": at, **row}


def _by_rule(
    candidate: Mapping[str, Any], joined: pl.DataFrame, value: float, rows: Sequence[Row], court: Court
) -> Row:
    task, model_id = candidate["task"], candidate["model_id"]
    rule = PROTOCOLS[task].rule
    assert rule is not None
    seat = in_office(rows, task)
    gains: list[Gain] = []
    incumbent = None
    if seat is not None:
        other = court.joined(task, seat["model_id"])
        if other is None and not (known := court.incumbent_answers(seat)).is_empty():
            other = with_items(known, court.holdout)
        figure = None if other is None else deciding_figure(other, rule)
        incumbent = Standing(model_id=seat["model_id"], value=seat["value"] if figure is None else figure)
        gains = [] if other is None else paired_gains(joined, other, rule, court.parameters)
    standing = Standing(model_id=model_id, value=value)
    verdict = decide(standing, _baselines(task, model_id, rule, court), incumbent, rule, gains)
    card = json.loads(candidate["card_json"])
    return {
        **{name: candidate[name] for name in ("task", "model_id", "name", "size", "blob")},
        "verdict": "promoted" if verdict.is_promoted else "refused",
        "reason": verdict.reason,
        "decided_by": "rule",
        "decision_id": None,
        "champion_id": verdict.champion_id,
        "metric": rule.metric,
        "slices": [name for name in rule.deciding if name in {slice_.name for slice_ in slices_of(joined)}],
        "value": value,
        "baseline": verdict.baseline,
        "incumbent_id": incumbent.model_id if incumbent else None,
        "incumbent": verdict.incumbent,
        "gains": [gain.model_dump() for gain in gains],
        "trained_on": card["training"].get("experimental_images", []),
        "inputs": [
            {"key": key, "data_version": version}
            for key, version in sorted({**card["data_versions"], **court.inputs}.items())
        ],
        "answers_blob": court.keep_answers(task, court.answers[task].filter(pl.col("model_id") == model_id)),
    }


def _baselines(task: str, model_id: str, rule: PromotionRule, court: Court) -> dict[str, float]:
    """Deciding figures of the trivial and the classical methods of a task, apart from the candidate."""
    figures = {}
    for (name, role), own in with_items(court.answers[task], court.holdout).group_by(["model_id", "role"]):
        if role_of(name, str(role)) != "model" and name != model_id:
            value = deciding_figure(own, rule)
            if value is not None:
                figures[str(name)] = value
    if not figures:
        raise ValueError(f"no baseline of the task {task!r} has answered {' or '.join(rule.deciding)}")
    return dict(sorted(figures.items()))


def _by_hand(decision: Mapping[str, Any], rows: Sequence[Row]) -> Row:
    """The row of a person's decision: approved models come into office, rejected ones leave it to who was there."""
    model_id, task = decision["model_id"], decision["task"]
    judged = next(row for row in reversed(rows) if row["model_id"] == model_id)
    seat = in_office(rows, task)
    champion_id = seat["model_id"] if seat else None
    if decision["decision"] == "approve":
        champion_id = model_id
    elif champion_id == model_id:
        champion_id = _last_before(rows, task, model_id)
    return {
        **{name: value for name, value in judged.items() if name not in ("number", "judged_at")},
        "verdict": {"approve": "approved", "reject": "rejected"}[decision["decision"]],
        "reason": decision["reason"],
        "decided_by": decision["decided_by"],
        "decision_id": decision["decision_id"],
        "champion_id": champion_id,
        "incumbent_id": seat["model_id"] if seat else None,
    }


def _last_before(rows: Sequence[Row], task: str, leaving: str) -> str | None:
    """Who was in office last before a model, and is not rejected."""
    rejected = {leaving}
    words = {row["model_id"]: row["verdict"] for row in rows if row["verdict"] in ("approved", "rejected")}
    rejected |= {model_id for model_id, word in words.items() if word == "rejected"}
    former = [row["champion_id"] for row in rows if row["task"] == task and row["champion_id"] not in rejected]
    return next((model_id for model_id in reversed(former) if model_id is not None), None)


def in_office(book: Sequence[Row], task: str) -> Row | None:
    """The champion's own newest row in the book, or None while nobody is in office."""
    own = [row for row in book if row["task"] == task]
    if not own or own[-1]["champion_id"] is None:
        return None
    return next(row for row in reversed(own) if row["model_id"] == own[-1]["champion_id"])


def champion_rows(book: Sequence[Row]) -> list[Row]:
    """The rows of ``models/champions``: who is in office, and the newest verdict.

    Args:
        book: rows of ``models/verdicts``, in their order.
    """
    rows = []
    for task in dict.fromkeys(row["task"] for row in book):
        own = [row for row in book if row["task"] == task]
        newest = next(row for row in own if row["judged_at"] == own[-1]["judged_at"])
        seat = in_office(book, task)
        rows.append(
            {
                "task": task,
                "model_id": seat["model_id"] if seat else None,
                "name": seat["name"] if seat else None,
                "blob": seat["blob"] if seat else None,
                "since": _since(own),
                "candidate_id": newest["model_id"],
                "is_promoted": newest["champion_id"] == newest["model_id"],
                "reason": newest["reason"],
                "metric": " ".join([newest["metric"], *newest["slices"]]),
                **{name: newest[name] for name in ("value", "baseline", "incumbent")},
            }
        )
    return rows


def _since(own: Sequence[Row]) -> datetime | None:
    """When the present champion came into office."""
    since, holder = None, None
    for row in own:
        if row["champion_id"] != holder:
            holder, since = row["champion_id"], row["judged_at"]
    return since if holder is not None else None
