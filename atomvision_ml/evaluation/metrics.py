"""Figures over many items, with intervals: the long table ``evaluation/metrics``.

Belongs here: slices, metrics and their bootstrap. Every metric is a function of sums over items (confusion counts,
sums of IoU, of squared errors, of calibration bins), so that a bootstrap over split groups is one matrix product:
weights (resample, group) times sums (group, ...). Groups are resampled, not images, because images of one composition
are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.answers import name_of, role_of, with_items
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.slices import slices_of
from atomvision_ml.evaluation.sums import Figures, Floats, ratio
from atomvision_ml.evaluation.tasks import TASKS
from atomvision_ml.models.training import stable_seed

Row = dict[str, Any]


class MetricParameters(BaseModel):
    """How the intervals are made; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resamples: int = Field(default=1000, ge=0, description="Bootstrap resamples; 0 = no intervals.")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Confidence of the intervals.")
    seed: int = Field(default=0, ge=0, description="Seed of the resamples.")


def metric_rows(
    predictions: pl.DataFrame,
    holdout: pl.DataFrame,
    *,
    size: str,
    seeds: Mapping[str, int] | None = None,
    parameters: MetricParameters | None = None,
) -> list[Row]:
    """All figures of the answers to one task; which figures a task has is in its module, ``tasks/<task>``.

    Slices are those of :mod:`atomvision_ml.evaluation.slices`; of bins only the figures that the task shows.

    Args:
        predictions: rows of one or several predictions tables of a task.
        holdout: rows of ``evaluation/holdout``; items of other tasks are ignored.
        size: ``demo`` or ``full``.
        seeds: training seed by model id; 0 for all others.
        parameters: of the bootstrap.

    Returns:
        Rows of ``evaluation/metrics``.

    Raises:
        ValueError: a prediction is of an item that the hold-out does not have, or there is none.
    """
    chosen = parameters or MetricParameters()
    rows = []
    for (model_id, role), answers in sorted(with_items(predictions, holdout).group_by(["model_id", "role"])):
        task = answers["task"][0]
        about = {
            "task": task,
            "model": name_of(model_id),
            "model_id": model_id,
            "role": role_of(model_id, str(role)),
            "size": size,
            "seed": (seeds or {}).get(str(model_id), 0),
        }
        for slice_ in slices_of(answers):
            wanted = PROTOCOLS[task].shown_metrics if slice_.is_bin else None
            figures = figures_of(slice_.answers, chosen, wanted)
            where = {"slice": slice_.name, "n_items": slice_.answers["item_id"].n_unique()}
            rows += [{**about, **where, "metric": metric, **values} for metric, values in figures.items()]
    return rows


def figures_of(
    answers: pl.DataFrame, parameters: MetricParameters | None = None, wanted: Collection[str] | None = None
) -> dict[str, dict[str, float | None]]:
    """Value and interval of each metric, or of the wanted ones, over the answers of one model and one slice."""
    chosen = parameters or MetricParameters()
    value, spread = resampled(answers, chosen)
    figures: dict[str, dict[str, float | None]] = {}
    for name, number in value.items():
        low, high = interval(spread.get(name), chosen.confidence)
        figures[name] = {"value": number, "low": low, "high": high}
    for name, column in TASKS[answers["task"][0]].medians.items():
        known = answers[column].drop_nulls().to_numpy()
        if len(known):
            figures[name] = {"value": float(np.median(known)), "low": None, "high": None}
    return {name: row for name, row in figures.items() if wanted is None or name in wanted}


def resampled(answers: pl.DataFrame, parameters: MetricParameters) -> tuple[dict[str, float], Figures]:
    """The finite figures of joined answers, and their values (resamples,) in the bootstrap.

    The resamples depend on the number of groups and the seed alone: figures of several models on the same items are
    paired, resample by resample. Without resamples, or with one group, there are none.
    """
    sums, evaluate = TASKS[answers["task"][0]].sums(answers)
    groups = answers["split_group"].rank("dense").to_numpy().astype(np.int64) - 1
    n_groups = int(groups.max()) + 1
    per_group = {name: _sum_by(values, groups, n_groups) for name, values in sums.items()}
    value = evaluate({name: values.sum(axis=0)[None] for name, values in per_group.items()})
    finite = {name: float(values[0]) for name, values in value.items() if np.isfinite(values[0])}
    if not parameters.resamples or n_groups < 2:
        return finite, {}
    weights = _weights(n_groups, parameters.resamples, parameters.seed).astype(float)
    return finite, evaluate({name: np.tensordot(weights, values, axes=1) for name, values in per_group.items()})


def over_seeds(metrics: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``evaluation/metrics`` with the seeds of each model put together, as in ``evaluation.leaderboard``.

    Values are means; an interval reaches from the lowest lower to the highest upper end.
    """
    keys = ["task", "model", "role", "size", "slice", "metric"]
    spread = [pl.col("value").mean(), pl.col("low").min(), pl.col("high").max(), pl.col("n_items").max()]
    return metrics.group_by(keys, maintain_order=True).agg(*spread, pl.len().alias("n_seeds"))


@lru_cache(maxsize=64)
def _weights(n_groups: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each group is drawn, (resamples, n_groups); the same for the same arguments."""
    random = np.random.default_rng(stable_seed("bootstrap", seed))
    return random.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples).astype(np.uint16)


def _sum_by(values: Floats, groups: NDArray[np.int64], n_groups: int) -> Floats:
    total = np.zeros((n_groups, *values.shape[1:]))
    np.add.at(total, groups, values)
    return total


def interval(values: Floats | None, confidence: float) -> tuple[float | None, float | None]:
    """Ends of the interval of what is finite among resampled values; None where nothing is."""
    finite = values[np.isfinite(values)] if values is not None else np.zeros(0)
    if not len(finite):
        return None, None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[str],
    parameters: MetricParameters | None = None,
) -> tuple[float, float, float]:
    """Mean difference of two scores of the same items, and its bootstrap interval over groups.

    Returns:
        Mean of first − second, lower and upper end. With one group the ends equal the mean.
    """
    chosen = parameters or MetricParameters()
    difference = np.asarray(first, float) - np.asarray(second, float)
    names = {name: number for number, name in enumerate(sorted(set(groups)))}
    index = np.array([names[name] for name in groups])
    total = _sum_by(difference, index, len(names))
    count = _sum_by(np.ones(len(index)), index, len(names))
    weights = _weights(len(names), chosen.resamples, chosen.seed).astype(float)
    low, high = interval(ratio(weights @ total, weights @ count), chosen.confidence)
    value = float(difference.mean())
    return value, value if low is None else low, value if high is None else high
