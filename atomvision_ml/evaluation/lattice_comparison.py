"""Lattice models against the lattice finder, image by image: paired differences with their intervals.

Belongs here: which images are compared, and the differences. Run as a module it reads the predictions and the hold-out
from the lake and prints a Markdown table::

    python -m atomvision_ml.evaluation.lattice_comparison
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from atomvision_ml.evaluation.metrics import MetricParameters, paired_difference
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.registry import model_names

Row = dict[str, Any]

REFERENCE = "lattice_finder"

SLICES: dict[str, pl.Expr] = {
    "all": pl.lit(True),
    "unambiguous": ~pl.col("is_ambiguous"),
    "pseudo-centred": (pl.col("superlattice_contrast") < 0.05).fill_null(False),
    "next class within 3 %": (pl.col("next_class_strain_percent") < 3.0).fill_null(False),
    "few periods": pl.col("periods_in_view") < 6.0,
}
"""Images by what makes them hard; pseudo-centred: reflections that break the centring below 5 % of the mean."""


def comparison(
    answers: Mapping[str, pl.DataFrame], holdout: pl.DataFrame, parameters: MetricParameters | None = None
) -> list[Row]:
    """Accuracy of each model, of the lattice finder on the same items, and the paired difference.

    Args:
        answers: rows of ``predictions/<name>`` by name of the model, the lattice finder's among them.
        holdout: rows of ``evaluation/holdout``.
        parameters: of the bootstrap over split groups.

    Returns:
        For each model, slice and dose (and all doses together): ``model``, ``slice``, ``dose``, ``n``, ``accuracy``,
        ``reference``, ``difference``, ``low``, ``high``, and ``verdict``: above, below or level, as the interval says.

    Raises:
        ValueError: the lattice finder's answers are missing.
    """
    if REFERENCE not in answers:
        raise ValueError(f"the comparison needs the answers of {REFERENCE}")
    reference = _right(answers[REFERENCE], "reference")
    rows = []
    for name, table in sorted(answers.items()):
        if name == REFERENCE:
            continue
        joined = _right(table, "own").join(reference, on="item_id").join(holdout, on="item_id").sort("item_id")
        for slice_name, condition in SLICES.items():
            part = joined.filter(condition)
            doses = part["mean_detected_e_per_a2"].unique().to_list()
            for dose in ["every", *sorted(doses, key=lambda each: -(each or float("inf")))]:
                chosen = part if dose == "every" else part.filter(pl.col("mean_detected_e_per_a2").eq_missing(dose))
                label = dose if isinstance(dose, str) else dose_name(dose)
                if chosen.height:
                    about = {"model": name, "slice": slice_name, "dose": label, "n": chosen.height}
                    rows.append({**about, **_difference(chosen, parameters)})
    return rows


def _right(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Item and whether the model (of several seeds the first) is right."""
    own = table.filter(pl.col("role") == "model")
    first = own["model_id"].unique(maintain_order=True).head(1).to_list()
    return own.filter(pl.col("model_id").is_in(first)).select(
        "item_id", pl.col("is_correct").cast(pl.Float64).alias(name)
    )


def _difference(items: pl.DataFrame, parameters: MetricParameters | None) -> Row:
    own, reference = items["own"].to_list(), items["reference"].to_list()
    value, low, high = paired_difference(own, reference, items["split_group"].to_list(), parameters)
    return {
        "accuracy": sum(own) / len(own),
        "reference": sum(reference) / len(reference),
        "difference": value,
        "low": low,
        "high": high,
        "verdict": "above" if low > 0 else "below" if high < 0 else "level",
    }


def as_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | images | dose | n | accuracy | lattice finder | difference (95 % interval) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['slice']} | {row['dose']} | {row['n']} | {row['accuracy']:.3f} | "
        f"{row['reference']:.3f} | {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) | "
        f"{row['verdict']} |"
        for row in rows
    ]
    return "\n".join(lines)


def _main() -> None:
    from atomvision_ml.storage.keys import EVALUATION_HOLDOUT
    from atomvision_ml.storage.lake import Lake

    lake = Lake.from_settings()
    answers = {name: lake.scan(f"predictions/{name}").collect() for name in model_names("lattice")}
    print(as_markdown(comparison(answers, lake.scan(EVALUATION_HOLDOUT).collect())))


if __name__ == "__main__":
    _main()
