"""Autoencoders measured on the images of a lake: ``python -m atomvision_ml.evaluation.reconstruction_benchmark``.

Belongs here: the measurement behind ``docs/results/reconstruction.md``: a training on the lake's train split, and its
figures on at most so many images of the test split, beside the baselines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from atomvision_ml.evaluation.comparisons import comparison_rows
from atomvision_ml.evaluation.holdout import HoldoutParameters, holdout_rows
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.tasks.reconstruction import predict_reconstruction
from atomvision_ml.models.autoencoder import AutoencoderParameters, ConvAutoencoderParameters
from atomvision_ml.models.autoencoder_training import train_autoencoder
from atomvision_ml.schemas.tables import table

TASK = "reconstruction"


def as_task(training_sets: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``models/training_sets`` of any one task as those of this task; splits are the same for all."""
    return training_sets.with_columns(
        pl.lit(TASK).alias("task"), pl.format(f"{TASK}:{{}}", pl.col("image_id")).alias("item_id")
    )


def measure(
    training_sets: pl.DataFrame,
    images: pl.DataFrame,
    open_blob: Callable[[str], Path],
    parameters: AutoencoderParameters,
    *,
    scratch: Path,
    most_images: int = 400,
    device: str = "auto",
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Answers of a newly trained autoencoder and its baselines, and their items; an interrupted training goes on."""
    items = as_task(training_sets)
    checkpoint = train_autoencoder(items, open_blob, parameters, scratch=scratch, device=device)
    rows = holdout_rows(items, images, open_blob, HoldoutParameters(maximum_images=most_images))
    holdout = pl.DataFrame(pl.from_arrow(table("evaluation/holdout").from_rows(rows)))
    answers = predict_reconstruction(
        holdout, items, open_blob, checkpoint=checkpoint.folder, model_id=f"{checkpoint.name}@measured"
    )
    return pl.DataFrame(pl.from_arrow(answers)), holdout


def report(answers: pl.DataFrame, holdout: pl.DataFrame) -> str:
    """Figures on all items of each dose as a table, and the differences to the best baseline, with intervals."""
    names = PROTOCOLS[TASK].shown_metrics
    figures = pl.DataFrame(metric_rows(answers, holdout, size="full"), infer_schema_length=None)
    cells = {(row["slice"], row["model"], row["metric"]): row for row in figures.iter_rows(named=True)}
    lines = ["| dose | n | method | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for slice_, model in sorted({key[:2] for key in cells if key[0].startswith("all|")}):
        own = [cells[slice_, model, name] for name in names]
        shown = " | ".join(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for row in own)
        lines.append(f"| {slice_.partition('|')[2]} | {own[0]['n_items']} | {model} | {shown} |")
    for row in comparison_rows(answers, holdout, size="full"):
        if row["slice"].startswith("all|") and row["rival_role"] != "trivial":
            gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            lines.append(f"{row['slice']} {row['metric']}: {row['model']} − {row['rival']} {gain}, {row['verdict']}")
    return "\n".join(lines)


def _main() -> None:
    import typer

    def benchmark(
        scratch: Path,
        source: str = "",
        is_dense: bool = False,
        latent_size: int = 1120,
        component_images: int = 11200,
        epochs: int = 4,
        images_per_epoch: int = 1024,
        images: int = 400,
    ) -> None:
        """Train on the lake that ATOMVISION_ROOT names, judge and print tables; SCRATCH keeps the checkpoint."""
        from atomvision_ml.storage.lake import Lake

        lake = Lake.from_settings()
        kind = AutoencoderParameters if is_dense else ConvAutoencoderParameters
        manifest = lake.scan("models/training_sets", "segmentation").collect()
        parameters = kind(
            latent_size=latent_size,
            component_images=component_images,
            epochs=epochs,
            images_per_epoch=images_per_epoch,
        )
        answers, holdout = measure(
            manifest.filter(pl.col("source") == source) if source else manifest,
            lake.scan("images/stem").drop("atoms", "columns").collect(),
            lake.blob,
            parameters,
            scratch=scratch,
            most_images=images,
        )
        answers.write_parquet(scratch / "answers.parquet")
        holdout.write_parquet(scratch / "holdout.parquet")
        typer.echo(report(answers, holdout))

    typer.run(benchmark)


if __name__ == "__main__":
    _main()
