"""From a training set to a checkpoint: what the training of every network has in common.

Belongs here: the data that a learner gets, the identity of a training, and the card. The loop itself is
:mod:`atomvision_ml.models.training`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from atomvision_ml.models.checkpoint import Checkpoint, ModelCard, save_checkpoint
from atomvision_ml.models.registry import model_spec
from atomvision_ml.models.training import (
    Learner,
    Progress,
    TrainingParameters,
    TrainingResult,
    curves_picture,
    train,
)
from atomvision_ml.schemas.vocabulary import EXPERIMENTS

OpenBlob = Callable[[str], Path]


def experimental_items(items: pl.DataFrame) -> pl.DataFrame:
    """The rows of a training set or a hold-out that microscopes have taken."""
    return items.filter(pl.col("source") == EXPERIMENTS)


def simulated_items(items: pl.DataFrame) -> pl.DataFrame:
    """The other rows."""
    return items.filter(pl.col("source") != EXPERIMENTS)


@dataclass(frozen=True)
class TrainingData:
    """What a learner may see.

    Attributes:
        items: rows of ``models/training_sets`` of one task.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        versions: data version of each input, by key.
    """

    items: pl.DataFrame
    open_blob: OpenBlob
    versions: dict[str, str]

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The simulated rows of ``train`` or ``val``, ordered by item; ``test`` is for the hold-out alone.

        Raises:
            ValueError: the split is empty, or it is ``test``.
        """
        rows = _of_split(simulated_items(self.items), split)
        if not rows:
            raise ValueError(f"the {split} split is empty; a training needs images in train and val")
        return rows

    def experimental_rows(self, split: str) -> list[dict[str, Any]]:
        """The rows of ``train`` or ``val`` that microscopes have taken, ordered by item; there may be none.

        Raises:
            ValueError: the split is ``test``.
        """
        return _of_split(experimental_items(self.items), split)

    @property
    def fingerprint(self) -> str:
        """Identity of the items, their splits and their pixels."""
        kept = self.items.sort("item_id").select("item_id", "split", "blob")
        text = "\n".join(" ".join(row) for row in kept.iter_rows())
        return hashlib.sha256(text.encode()).hexdigest()


def _of_split(items: pl.DataFrame, split: str) -> list[dict[str, Any]]:
    if split not in ("train", "val"):
        raise ValueError(f"a training reads the splits train and val, not {split!r}")
    return items.filter(pl.col("split") == split).sort("item_id").to_dicts()


def train_checkpoint(
    name: str,
    learner: Learner,
    parameters: TrainingParameters,
    data: TrainingData,
    *,
    description: str,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
) -> Checkpoint:
    """Train a registered network and keep it.

    Args:
        name: registered name.
        learner: what is trained.
        parameters: of network and training, an instance of the model's registered class.
        data: what it is trained on.
        description: of this very network, for its card.
        scratch: folder for the resume file and, at the end, the checkpoint in ``scratch/checkpoint``; an
            interrupted training goes on from its last epoch when called again with the same folder.
        progress: called with (batches done, batches in all).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ValueError: a split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    result = train(learner, parameters, scratch=scratch, fingerprint=data.fingerprint, device=device, progress=progress)
    return save_checkpoint(
        scratch / "checkpoint",
        parameters=parameters,
        card=training_card(name, result, data, description),
        weights=result.weights,
        curves=result.history,
        curves_picture=curves_picture(result.history, name),
    )


def training_card(name: str, result: TrainingResult, data: TrainingData, description: str) -> ModelCard:
    """The card of a trained network, without test figures (:func:`update_card` adds them)."""
    import torch

    spec = model_spec(name)
    sources = sorted(simulated_items(data.items)["source"].unique())
    taken = [_named(row) for split in ("train", "val") for row in data.experimental_rows(split)]
    also = f"; {len(taken)} experimental images, splits by sample" if taken else ""
    return ModelCard(
        name=name,
        task=spec.task,
        description=description,
        intended_use=spec.intended_use,
        limits=list(spec.limits),
        trained_on=f"Simulated images of {', '.join(sources)}; splits by composition{also}.",
        data_versions=data.versions,
        splits={str(split): count for split, count in data.items["split"].value_counts().iter_rows()},
        training={
            "epochs": len(result.history),
            "best_epoch": result.best_epoch + 1,
            "seconds": round(result.seconds, 1),
            "device": result.device,
            "precision": result.precision,
            "validation": {key: round(value, 4) for key, value in result.best.items() if key.startswith("val")},
            "torch": torch.__version__,
        }
        | ({"experimental_images": taken} if taken else {}),
    )


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """What a card says of an experimental image."""
    return {
        "record_id": row["image_id"],
        "original_filename": row["original_filename"],
        "sample_id": row["split_group"].removeprefix("sample:"),
        "lattice": row["bravais_lattice"],
        "split": row["split"],
    }
