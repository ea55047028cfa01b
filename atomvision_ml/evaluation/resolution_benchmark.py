"""Super-resolution measured on the images of a lake: ``python -m atomvision_ml.evaluation.resolution_benchmark``.

Belongs here: the measurement behind ``docs/results/super_resolution.md``, of any checkpoint, on a part of the test
split that a short run can judge, with the differences to each classical method.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.evaluation.holdout import holdout_rows
from atomvision_ml.evaluation.metrics import metric_rows, name_of, paired_difference
from atomvision_ml.evaluation.tasks.super_resolution import predict_super_resolution
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

Row = dict[str, Any]


def benchmark_items(training_sets: pl.DataFrame, excluded_groups: Set[str], images: int) -> pl.DataFrame:
    """Rows of the task ``super_resolution`` for the first test images in the order of a hash.

    Args:
        training_sets: rows of ``models/training_sets`` of any one task; splits are the same for all.
        excluded_groups: compositions that the network has been trained on elsewhere.
        images: most images.
    """
    test = training_sets.filter((pl.col("split") == "test") & ~pl.col("split_group").is_in(sorted(excluded_groups)))
    keys = pl.Series("_key", [stable_seed("benchmark", image) for image in test["image_id"]], dtype=pl.Int64)
    chosen = test.with_columns(keys).sort("_key").head(images).drop("_key")
    item = pl.format("super_resolution:{}", pl.col("image_id"))
    return chosen.with_columns(pl.lit("super_resolution").alias("task"), item.alias("item_id"))


def measure(
    training_sets: pl.DataFrame,
    images: pl.DataFrame,
    open_blob: Callable[[str], Path],
    checkpoint: Path,
    *,
    model_id: str = "super_resolver",
    excluded_groups: Set[str] = frozenset(),
    most_images: int = 80,
    processes: int = 1,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Answers and their items, as ``predictions/super_resolver`` and ``evaluation/holdout``."""
    items = benchmark_items(training_sets, excluded_groups, most_images)
    holdout = pl.DataFrame(pl.from_arrow(table("evaluation/holdout").from_rows(holdout_rows(items, images, open_blob))))
    answers = predict_super_resolution(
        holdout, training_sets, open_blob, checkpoint=checkpoint, model_id=model_id, processes=processes
    )
    return pl.DataFrame(pl.from_arrow(answers)), holdout


def differences(answers: pl.DataFrame, holdout: pl.DataFrame, model: str) -> list[Row]:
    """PSNR of a model less that of every other method, in pairs, by part and dose; 95 % interval over compositions."""
    joined = answers.join(holdout.select("item_id", "split_group", "mean_detected_e_per_a2"), on="item_id")
    joined = joined.with_columns(pl.col("model_id").map_elements(name_of, return_dtype=pl.String).alias("model"))
    own = joined.filter(pl.col("model") == model)
    rows = []
    for (other, part, dose), rivals in sorted(
        joined.filter(pl.col("model") != model).group_by("model", "part", "mean_detected_e_per_a2"),
        key=lambda group: tuple(str(key) for key in group[0]),
    ):
        pairs = own.join(rivals, on=["item_id", "part"])
        value, low, high = paired_difference(
            pairs["psnr_db"].to_list(), pairs["psnr_db_right"].to_list(), pairs["split_group"].to_list()
        )
        slice_ = f"{part}|{dose_name(dose)}"
        rows.append({"slice": slice_, "other": other, "n": pairs.height, "difference": value, "low": low, "high": high})
    return rows


def as_markdown(figures: pl.DataFrame, columns: dict[str, str]) -> str:
    """Metrics (``slice``, ``model``, ``metric``, ``value``, ``n_items``) as a table, a row for each slice and model."""
    wide = figures.pivot(on="metric", index=["slice", "model", "n_items"], values="value").sort("slice", "model")
    lines = ["| slice | n | method | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for row in wide.iter_rows(named=True):
        shown = [format(row[name], form) if row[name] is not None else "–" for name, form in columns.items()]
        lines.append(f"| {row['slice'].replace('|', ', ')} | {row['n_items']} | {row['model']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _main() -> None:
    import typer

    def benchmark(model: str = "super_resolver", images: int = 80, processes: int = 1) -> None:
        """Judge a released model or a checkpoint folder on the lake that ATOMVISION_ROOT names, and print tables.

        Compositions of the embedded prototypes are left out, since the released networks are trained on them.
        """
        from atomvision_ml.models.checkpoint import find_checkpoint, load_checkpoint
        from atomvision_ml.storage.lake import Lake

        lake = Lake.from_settings()
        folder = find_checkpoint(model)
        manifest = lake.scan("models/training_sets", "segmentation").collect()
        known = set(manifest.filter(pl.col("source") == "prototypes")["split_group"])
        name = load_checkpoint(folder).name
        answers, holdout = measure(
            manifest,
            lake.scan("images/stem").collect(),
            lake.blob,
            folder,
            model_id=name,
            excluded_groups=known,
            most_images=images,
            processes=processes,
        )
        figures = pl.DataFrame(metric_rows(answers, holdout, size="full"))
        columns = {
            "psnr_db": ".1f",
            "ssim": ".4f",
            "frc_mean": ".3f",
            "position_rmse_angstrom": ".4f",
            "position_rmse_true_image_angstrom": ".4f",
            "invented_rate": ".2%",
            "lost_rate": ".2%",
        }
        typer.echo(as_markdown(figures, columns))
        for row in differences(answers, holdout, name):
            typer.echo(
                f"{row['slice']}: {row['difference']:+.1f} dB ({row['low']:+.1f} to {row['high']:+.1f}) "
                f"against {row['other']}, {row['n']} images"
            )

    typer.run(benchmark)


if __name__ == "__main__":
    _main()
