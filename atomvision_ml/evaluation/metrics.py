"""Figures over many items, with intervals: the long table ``evaluation/metrics``.

Belongs here: slices, metrics and their bootstrap. Every metric is a function of sums over items (confusion counts,
sums of IoU, of squared errors, of calibration bins), so that a bootstrap over split groups is one matrix product:
weights (resample, group) times sums (group, ...). Groups are resampled, not images, because images of one composition
are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.sums import Evaluate, Figures, Floats, ratio
from atomvision_ml.evaluation.tasks import TASKS
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.models.training import stable_seed

Row = dict[str, Any]

CLASSICAL_MODELS = frozenset(name for name in model_names() if model_spec(name).kind == "classical")
"""Registered methods without training: for every network of their task they are baselines."""

CLEAR_OWN_STRAIN_PERCENT = 0.2
CLEAR_NEXT_STRAIN_PERCENT = 3.0
VISIBLE_CONTRAST = 5.0


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
    seed: int = 0,
    parameters: MetricParameters | None = None,
) -> list[Row]:
    """All figures of one predictions table.

    Metrics of the task ``lattice``: ``accuracy``, ``balanced_accuracy`` (mean recall of the classes present),
    ``macro_f1`` (mean F1 of the classes present), ``recall_<class>``, ``ece`` (where there are probabilities),
    ``vector_error_median_angstrom`` without interval. A missing lattice is a wrong answer.

    Metrics of the task ``segmentation``: ``iou``, the mean over images; ``dice``, ``precision``, ``recall`` of the
    atom class and ``pixel_accuracy``, over all pixels; ``detection_precision``, ``detection_recall``, ``detection_f1``
    over all columns, at 0.5 Å; ``localisation_rmse_angstrom`` per axis, of the matched columns.

    Slices ``<which>|<dose>``: ``all``, ``unambiguous``, ``clear`` (own strain ≤ 0.2 %, next class ≥ 3 % away,
    superlattice contrast · √(dose · area) > 5), and each source.

    Args:
        predictions: rows of ``predictions/lattice_finder`` or ``predictions/segmenter``.
        holdout: rows of ``evaluation/holdout``; items of other tasks are ignored.
        size: ``demo`` or ``full``.
        seed: training seed of the model; baselines have 0.
        parameters: of the bootstrap.

    Returns:
        Rows of ``evaluation/metrics``.

    Raises:
        ValueError: a prediction is of an item that the hold-out does not have, or there is none.
    """
    chosen = parameters or MetricParameters()
    joined = predictions.join(holdout, on="item_id", how="left")
    unknown = joined.filter(pl.col("task").is_null())["item_id"]
    if joined.is_empty() or len(unknown):
        example = f"; the first of {len(unknown)} unknown items is {unknown[0]!r}" if len(unknown) else ""
        raise ValueError(f"predictions must be of items of evaluation/holdout{example}")
    rows = []
    for (model_id, role), answers in sorted(joined.group_by(["model_id", "role"])):
        for name, part in _slices(answers):
            figures = figures_of(part, chosen)
            about = {
                "task": part["task"][0],
                "model": name_of(model_id),
                "model_id": model_id,
                "role": "classical" if role == "model" and name_of(model_id) in CLASSICAL_MODELS else role,
                "size": size,
                "seed": seed if role == "model" else 0,
                "slice": name,
                "n_items": part.height,
            }
            rows += [{**about, "metric": metric, **values} for metric, values in figures.items()]
    return rows


def figures_of(answers: pl.DataFrame, parameters: MetricParameters | None = None) -> dict[str, dict[str, float | None]]:
    """Value and interval of each metric over joined predictions and items of one model and one slice."""
    chosen = parameters or MetricParameters()
    task = answers["task"][0]
    sums, evaluate = TASKS[task].sums(answers)
    groups = answers["split_group"].rank("dense").to_numpy().astype(np.int64) - 1
    n_groups = int(groups.max()) + 1
    per_group = {name: _sum_by(values, groups, n_groups) for name, values in sums.items()}
    value = evaluate({name: values.sum(axis=0)[None] for name, values in per_group.items()})
    spread = _bootstrap(per_group, n_groups, evaluate, chosen) if chosen.resamples and n_groups > 1 else {}
    figures: dict[str, dict[str, float | None]] = {}
    for name, values in value.items():
        if np.isfinite(values[0]):
            low, high = _interval(spread.get(name), chosen.confidence)
            figures[name] = {"value": float(values[0]), "low": low, "high": high}
    for name, column in TASKS[task].medians.items():
        known = answers[column].drop_nulls().to_numpy()
        if len(known):
            figures[name] = {"value": float(np.median(known)), "low": None, "high": None}
    return figures


def name_of(model_id: object) -> str:
    """Registered name of a model, or the baseline's name."""
    return str(model_id).partition("@")[0]


def value_of(metrics: pl.DataFrame, model_id: str, slice_: str, metric: str) -> float | None:
    """One figure of ``evaluation/metrics``, or None where it is not there."""
    found = metrics.filter(
        (pl.col("model_id") == model_id) & (pl.col("slice") == slice_) & (pl.col("metric") == metric)
    )["value"]
    return float(found[0]) if len(found) else None


def _slices(answers: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    slices = []
    for (dose,), part in sorted(answers.group_by(["mean_detected_e_per_a2"]), key=lambda item: item[0][0] or np.inf):
        name = dose_name(dose)
        slices.append((f"all|{name}", part))
        slices.append((f"unambiguous|{name}", part.filter(~pl.col("is_ambiguous"))))
        slices.append((f"clear|{name}", part.filter(_is_clear())))
        slices += [(f"{source}|{name}", part.filter(pl.col("source") == source)) for source in part["source"].unique()]
    return sorted(((name, part) for name, part in slices if part.height), key=lambda item: item[0])


def _is_clear() -> pl.Expr:
    """Unmistakable lattices; without dose any contrast is visible."""
    electrons = pl.col("mean_detected_e_per_a2") * pl.col("field_angstrom") ** 2
    visible = pl.col("superlattice_contrast") * electrons.sqrt() > VISIBLE_CONTRAST
    return (
        (pl.col("class_strain_percent").fill_null(0.0) <= CLEAR_OWN_STRAIN_PERCENT)
        & (pl.col("next_class_strain_percent").fill_null(np.inf) >= CLEAR_NEXT_STRAIN_PERCENT)
        & visible.fill_null(True)
    )


def _bootstrap(per_group: Figures, n_groups: int, evaluate: Evaluate, parameters: MetricParameters) -> Figures:
    random = np.random.default_rng(stable_seed("bootstrap", parameters.seed))
    weights = random.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=parameters.resamples).astype(float)
    return evaluate({name: np.tensordot(weights, values, axes=1) for name, values in per_group.items()})


def _sum_by(values: Floats, groups: NDArray[np.int64], n_groups: int) -> Floats:
    total = np.zeros((n_groups, *values.shape[1:]))
    np.add.at(total, groups, values)
    return total


def _interval(values: Floats | None, confidence: float) -> tuple[float | None, float | None]:
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
    sums = {"sum": _sum_by(difference, index, len(names)), "count": _sum_by(np.ones(len(index)), index, len(names))}

    def mean(values: Figures) -> Figures:
        return {"mean": ratio(values["sum"], values["count"])}

    low, high = _interval(_bootstrap(sums, len(names), mean, chosen)["mean"], chosen.confidence)
    value = float(difference.mean())
    return value, value if low is None else low, value if high is None else high
