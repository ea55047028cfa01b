"""Making the released checkpoints again: ``python -m atomvision_ml.evaluation.release``.

Belongs here: the pipeline's own functions in their order, on the embedded prototypes alone, without a lake. The result
replaces ``atomvision_ml/models/released/segmenter``.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.evaluation.holdout import holdout_rows
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.splits import training_set_rows
from atomvision_ml.evaluation.tasks.segmentation import predict_segmentation
from atomvision_ml.models.checkpoint import Checkpoint, load_checkpoint, update_card
from atomvision_ml.models.segmenter import SegmenterParameters
from atomvision_ml.models.segmenter_training import train_segmenter
from atomvision_ml.schemas.tables import table

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]

RELEASE_PARAMETERS = SegmenterParameters(epochs=24, crops_per_epoch=960, patience=12)
"""As by default, but trained longer than a demo can wait for."""

_CARD_METRICS = ("iou", "dice", "precision", "recall", "detection_f1", "localisation_rmse_angstrom")


def make_release(
    scratch: Path, parameters: SegmenterParameters = RELEASE_PARAMETERS, progress: Progress | None = None
) -> Checkpoint:
    """Structures, images, splits, training and evaluation of the segmenter on the embedded prototypes.

    Args:
        scratch: working folder; an interrupted training goes on when called again with it.
        parameters: of the segmenter.
        progress: called with (batches done, batches in all).

    Returns:
        The checkpoint in ``scratch/training/checkpoint``, its card with the figures on the hold-out.
    """
    from atomvision_ml.images.stem import StemParameters
    from atomvision_ml.images.stem_set import with_blob, write_stem_set
    from atomvision_ml.structures.matching import material_rows
    from atomvision_ml.structures.prototypes import prototype_rows
    from atomvision_ml.structures.slabs import slab_rows

    records = _frame("structures/records", prototype_rows())
    slabs = _frame("structures/slabs", slab_rows(records))
    materials = _frame("structures/materials", material_rows(slabs, records))
    folder = scratch / "stem"
    stored = write_stem_set(slabs, folder, StemParameters(), source="prototypes")
    images = pl.DataFrame(pl.from_arrow(with_blob(stored, "prototypes")))
    manifest = _frame("models/training_sets", training_set_rows("segmentation", images, materials))

    def open_blob(_: str) -> Path:
        return folder

    checkpoint = train_segmenter(manifest, open_blob, parameters, scratch=scratch / "training", progress=progress)
    holdout = _frame("evaluation/holdout", holdout_rows(manifest, images, open_blob))
    answers = predict_segmentation(holdout, manifest, open_blob, checkpoint=checkpoint.folder)
    figures = metric_rows(pl.DataFrame(pl.from_arrow(answers)), holdout, size="demo")
    wanted = [row for row in figures if row["slice"].startswith("all|") and row["metric"] in _CARD_METRICS]
    return update_card(
        checkpoint,
        metrics=[_rounded(row) for row in wanted],
        how_to_make="python -m atomvision_ml.evaluation.release",
    )


def _frame(key: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table(key).from_rows(rows)))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("model", "role", "slice", "metric", "n_items", "value", "low", "high")
    return {key: round(row[key], 4) if isinstance(row[key], float) else row[key] for key in kept}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path("build/release"), help="working folder, resumable")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoint = make_release(arguments.scratch)
    target = Path(__file__).parents[1] / "models" / "released" / "segmenter"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(checkpoint.folder, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    log.info("released %s: %d weights, %.2f MB", load_checkpoint(target).name, checkpoint.n_parameters, size / 1e6)


if __name__ == "__main__":
    _main()
