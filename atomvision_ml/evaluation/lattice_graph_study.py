"""The graph classifier trained and judged outside the asset graph: the figures of ``docs/results/lattice_graph.md``.

Belongs here: the pipeline's own functions in their order, over a published root, with other parameters than those of
its assets (fewer epochs, one tower alone). Nothing is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.evaluation.holdout import HoldoutParameters, OpenBlob, holdout_rows
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.tasks.lattice import predict_by_network
from atomvision_ml.models.checkpoint import PARAMETERS
from atomvision_ml.models.lattice_graph import MODEL_NAME, LatticeGraphParameters
from atomvision_ml.models.lattice_graph_training import train_lattice_graph
from atomvision_ml.schemas.tables import table

SLICES = ("all", "unambiguous", "resolvable")
METRICS = ("macro_f1", "accuracy")


def study(
    training_set: pl.DataFrame,
    images: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: LatticeGraphParameters,
    *,
    scratch: Path,
    maximum_images: int = 0,
    processes: int = 1,
    size: str = "full",
) -> Iterator[dict[str, Any]]:
    """Train, unless ``scratch`` holds the finished checkpoint, and judge on the test split.

    Args:
        training_set: rows of ``models/training_sets`` of the task ``lattice``.
        images: rows of ``images/stem`` that it names.
        open_blob: local folder of a blob.
        parameters: of network and training.
        scratch: folder of the training; an interrupted one goes on.
        maximum_images: most test images, 0 = all; see :class:`HoldoutParameters`.
        processes: among which the items are divided.
        size: for the rows.

    Yields:
        Rows of ``evaluation/metrics``: macro-F1 and accuracy with intervals, by slice and dose.
    """
    checkpoint = scratch / "checkpoint"
    if not (checkpoint / PARAMETERS).is_file():
        train_lattice_graph(training_set, open_blob, parameters, scratch=scratch, device="auto")
    rows = holdout_rows(training_set, images, open_blob, HoldoutParameters(maximum_images=maximum_images))
    holdout = _frame("evaluation/holdout", rows)
    answers = predict_by_network(holdout, open_blob, checkpoint=checkpoint, model_id=MODEL_NAME, processes=processes)
    for row in metric_rows(pl.DataFrame(pl.from_arrow(answers)), holdout, size=size):
        if row["metric"] in METRICS and row["slice"].partition("|")[0] in SLICES:
            yield row


def _frame(key: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table(key).from_rows(rows)))


def _changed(changes: Sequence[str]) -> Mapping[str, str]:
    """``name=value`` texts as fields; pydantic reads the values."""
    return dict(change.split("=", 1) for change in changes)


def _main() -> None:
    import json

    import typer

    def run(scratch: Path, change: list[str] = [], source: list[str] = [], test_images: int = 0) -> None:  # noqa: B006
        """Print one JSON object per figure, of the root that ATOMVISION_ROOT names.

        ``--change epochs=5`` sets a parameter, ``--source prototypes`` takes the images of one database only.
        """
        from atomvision_ml.storage.lake import Lake

        lake = Lake.from_settings()
        items = lake.scan("models/training_sets", "lattice").collect()
        images = lake.scan("images/stem").drop("atoms", "columns").collect()
        if source:
            items, images = (rows.filter(pl.col("source").is_in(source)) for rows in (items, images))
        parameters = LatticeGraphParameters.model_validate(_changed(change))
        for row in study(items, images, lake.blob, parameters, scratch=scratch, maximum_images=test_images):
            typer.echo(json.dumps(row))

    typer.run(run)


if __name__ == "__main__":
    _main()
