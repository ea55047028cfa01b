"""Defects measured on the structures of a lake: ``python -m atomvision_ml.evaluation.defect_benchmark``.

Belongs here: the measurement behind ``docs/results/defects.md``, on a part of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.evaluation.holdout import holdout_rows
from atomvision_ml.evaluation.metrics import metric_rows, name_of, paired_difference
from atomvision_ml.evaluation.tasks.defects import predict_defects
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.graphs.defect_rules import graph_defects
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

Row = dict[str, Any]

RIVALS = {"graph_rules": graph_defects}
"""What is measured beside the baselines of the task."""


def measure(
    training_sets: pl.DataFrame,
    images: pl.DataFrame,
    open_blob: Callable[[str], Path],
    *,
    sources: Collection[str] = (),
    most_images: int = 60,
    processes: int = 1,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Answers of finder, baselines and rivals, and items, as ``predictions/defect_finder`` and ``evaluation/holdout``.

    Args:
        training_sets: rows of ``models/training_sets`` of any one task; splits are the same for all.
        images: rows of ``images/stem``.
        open_blob: local folder of a blob.
        sources: of the structures; none for all.
        most_images: so many test images are judged, the first in the order of a hash.
        processes: among which the items are divided.
    """
    item = pl.format("defects:{}", pl.col("image_id"))
    rows = training_sets.with_columns(pl.lit("defects").alias("task"), item.alias("item_id"))
    if sources:
        rows = rows.filter(pl.col("source").is_in(sorted(sources)))
    keys = pl.Series("_key", [stable_seed("benchmark", image) for image in rows["image_id"]], dtype=pl.Int64)
    test = rows.with_columns(keys).filter(pl.col("split") == "test").sort("_key").head(most_images).drop("_key")
    known = images.filter(pl.col("image_id").is_in(test["image_id"].implode()))
    holdout = pl.DataFrame(pl.from_arrow(table("evaluation/holdout").from_rows(holdout_rows(test, known, open_blob))))
    train = rows.filter(pl.col("split") == "train")
    answers = predict_defects(holdout, train, open_blob, rivals=RIVALS, processes=processes)
    return pl.DataFrame(pl.from_arrow(answers)), holdout


def differences(answers: pl.DataFrame, holdout: pl.DataFrame) -> list[Row]:
    """F1 of an item of the finder less that of each baseline, in pairs, by dose; 95 % interval over compositions."""
    joined = answers.join(holdout.select("item_id", "split_group", "mean_detected_e_per_a2"), on="item_id")
    own = joined.filter(pl.col("role") == "model")
    rows = []
    for (other, dose), rivals in joined.filter(pl.col("role") != "model").group_by(
        "model_id", "mean_detected_e_per_a2", maintain_order=True
    ):
        pairs = own.join(rivals, on="item_id")
        value, low, high = paired_difference(
            pairs["f1"].to_list(), pairs["f1_right"].to_list(), pairs["split_group"].to_list()
        )
        rows.append({"dose": dose_name(dose), "other": other, "difference": value, "low": low, "high": high})
    return rows


def as_markdown(figures: pl.DataFrame, metrics: Collection[str]) -> str:
    """Rows of ``evaluation/metrics`` of the slices of all items as a table: values with their intervals."""
    some = figures.filter(pl.col("slice").str.starts_with("all|"))
    cells = {(row["slice"], row["model"], row["metric"]): row for row in some.iter_rows(named=True)}
    lines = ["| dose | method | " + " | ".join(metrics) + " |", "|---" * (2 + len(metrics)) + "|"]
    for slice_, model in dict.fromkeys((row["slice"], row["model"]) for row in some.iter_rows(named=True)):
        shown = [_cell(cells.get((slice_, model, name))) for name in metrics]
        lines.append(f"| {slice_.partition('|')[2]} | {name_of(model)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['value']:.2f}{interval}"


def _main() -> None:
    import typer

    def benchmark(images: int = 60, source: list[str] = [], processes: int = 1) -> None:  # noqa: B006
        """Judge the finder on the lake that ATOMVISION_ROOT names, and print tables."""
        from atomvision_ml.storage.lake import Lake

        lake = Lake.from_settings()
        answers, holdout = measure(
            lake.scan("models/training_sets", "segmentation").collect(),
            lake.scan("images/stem").collect(),
            lake.blob,
            sources=source,
            most_images=images,
            processes=processes,
        )
        figures = pl.DataFrame(metric_rows(answers, holdout, size="full"))
        kinds = ("vacancy", "substitution", "strain")
        typer.echo(f"{holdout['image_id'].n_unique()} sheets")
        typer.echo(as_markdown(figures, ("f1", "precision", "recall", "recall_visible", "f1_located")))
        typer.echo(as_markdown(figures, [f"{name}_{kind}" for kind in kinds for name in ("precision", "recall", "f1")]))
        for row in differences(answers, holdout):
            typer.echo(
                f"{row['dose']}: F1 {row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) "
                f"against {row['other']}"
            )

    typer.run(benchmark)


if __name__ == "__main__":
    _main()
