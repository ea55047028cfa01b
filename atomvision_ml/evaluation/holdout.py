"""The frozen hold-out: which test images are judged at which dose, and how such an item is made.

Belongs here: the table of items and their images. An item is an image of the test split at one dose; its noise comes
from a seed that is in the table, so that every model and every later version sees the same counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.vocabulary import EXPERIMENTS

if TYPE_CHECKING:
    from atomvision_ml.images.columns import Columns
    from atomvision_ml.images.stem import Projection, View
    from atomvision_ml.images.stem_set import StemSet

OpenBlob = Callable[[str], Path]

_FROM_IMAGES = (
    "image_id",
    "field_angstrom",
    "lattice_vectors_angstrom",
    "class_strain_percent",
    "next_class_strain_percent",
    "superlattice_contrast",
    "periods_in_view",
)


class HoldoutParameters(BaseModel):
    """How much is judged; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_images: int = Field(
        default=0, ge=0, description="Most test images per task, spread evenly over the classes; 0 = all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the noise.")


def holdout_rows(
    training_sets: pl.DataFrame,
    images: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: HoldoutParameters | None = None,
) -> list[dict[str, Any]]:
    """The test split of each task at each of its doses.

    Args:
        training_sets: rows of ``models/training_sets``, of one or several tasks.
        images: rows of ``images/stem`` that hold the images named there.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: size and seed.

    Returns:
        Rows of ``evaluation/holdout``, ordered by item.

    Raises:
        ValueError: the test split is empty, or an image of it is missing from ``images``.
    """
    from atomvision_ml.images.columns import nearest_columns_angstrom

    chosen = parameters or HoldoutParameters()
    test = training_sets.filter(pl.col("split") == "test")
    if test.is_empty():
        raise ValueError("no task has items in its test split")
    test = _spread(test, chosen.maximum_images)
    joined = test.join(images.select(_FROM_IMAGES), on="image_id", how="left")
    joined = joined.drop("split", "item_id", "original_filename", strict=False)
    missing = joined.filter(pl.col("field_angstrom").is_null())["image_id"]
    if len(missing):
        raise ValueError(f"{len(missing)} test images are not in images/stem, the first is {missing[0]!r}")
    reader = ItemReader(open_blob)
    apart = {row["image_id"]: nearest_columns_angstrom(reader.projection(row)) for row in joined.iter_rows(named=True)}
    rows = [
        {**row, **_exposure(row, dose, chosen.seed), "nearest_columns_angstrom": apart[row["image_id"]]}
        for row in joined.iter_rows(named=True)
        for dose in PROTOCOLS[row["task"]].doses_e_per_a2
    ]
    return sorted(rows, key=lambda row: row["item_id"])


class ItemReader:
    """Reads items; keeps the Zarr groups open.

    Args:
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
    """

    def __init__(self, open_blob: OpenBlob) -> None:
        self._open_blob = open_blob
        self._sets: dict[str, StemSet] = {}

    def clean(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """The noiseless image [y, x] in 1/Å²."""
        return self._set(row["blob"]).image(row["index"])

    def mask(self, row: Mapping[str, Any]) -> NDArray[np.bool_]:
        """The mask [y, x]: pixel centre within 0.5 Å of a column."""
        return self._set(row["blob"]).mask(row["index"])

    def columns(self, row: Mapping[str, Any]) -> Columns:
        """The true columns in view, those closer than 1 Å merged by intensity."""
        return self._set(row["blob"]).columns(row["index"])

    def projection(self, row: Mapping[str, Any]) -> Projection:
        """The projected cell that the image shows, e.g. to render it at another pixel size."""
        return self._set(row["blob"]).projection(row["index"])

    def view(self, row: Mapping[str, Any]) -> View:
        """The image's pose: pixel size, edge, rotation and shift."""
        return self._set(row["blob"]).view(row["index"])

    def numbers(self, row: Mapping[str, Any]) -> NDArray[np.int64]:
        """Atomic numbers (k,) of the projected cell, in the order of its positions."""
        return self._set(row["blob"]).numbers(row["index"])

    def image(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """The image at the row's dose: counts per pixel, or the noiseless image where the dose is null.

        An experimental image is what the microscope took.
        """
        if row.get("source") == EXPERIMENTS:
            from atomvision_ml.experiments.micrograph_store import read_image

            return read_image(self._open_blob(row["blob"]))
        return expose(
            self.clean(row), row["pixel_size_angstrom"], row.get("mean_detected_e_per_a2"), row.get("noise_seed") or 0
        )

    def _set(self, blob: str) -> StemSet:
        from atomvision_ml.images.stem_set import StemSet

        if blob not in self._sets:
            self._sets[blob] = StemSet.open(self._open_blob(blob))
        return self._sets[blob]


def load_item(row: Mapping[str, Any], open_blob: OpenBlob) -> NDArray[np.float32]:
    """The image [y, x] of one item, with its noise; for many items use an :class:`ItemReader`."""
    return ItemReader(open_blob).image(row)


def expose(
    image: NDArray[np.float32], pixel_size_angstrom: float, mean_detected_e_per_a2: float | None, seed: int
) -> NDArray[np.float32]:
    """Poisson counts per pixel at a dose; the image itself where the dose is None."""
    from atomvision_ml.images.detector import poisson_counts

    if mean_detected_e_per_a2 is None:
        return image
    return poisson_counts(image, pixel_size_angstrom, mean_detected_e_per_a2, seed).astype(np.float32)


def noise_seed(image_id: str, mean_detected_e_per_a2: float | None, seed: int = 0) -> int | None:
    """Seed of an image's noise at a dose, the same for every task; None for a noiseless image."""
    if mean_detected_e_per_a2 is None:
        return None
    return stable_seed("holdout", seed, image_id, dose_name(mean_detected_e_per_a2)) % 2**32


def _exposure(row: Mapping[str, Any], dose: float | None, seed: int) -> dict[str, Any]:
    return {
        "item_id": f"{row['task']}:{row['image_id']}@{dose_name(dose)}",
        "mean_detected_e_per_a2": dose,
        "noise_seed": noise_seed(row["image_id"], dose, seed),
    }


def _spread(test: pl.DataFrame, maximum: int) -> pl.DataFrame:
    """At most so many images per task, one of each class in turn, in the order of a hash of the image."""
    if not maximum:
        return test
    keys = [stable_seed("spread", image) for image in test["image_id"]]
    ordered = test.with_columns(pl.Series("_key", keys, dtype=pl.Int64)).sort("_key")
    ordered = ordered.with_columns(pl.int_range(pl.len()).over("task", "bravais_lattice").alias("_turn"))
    ordered = ordered.sort("task", "_turn", "_key")
    return ordered.group_by("task", maintain_order=True).head(maximum).drop("_key", "_turn").select(test.columns)


def open_all(rows: Iterable[Mapping[str, Any]], open_blob: OpenBlob) -> dict[str, Path]:
    """Local folder of every blob that the rows name; a plain mapping, to hand to other processes."""
    return {blob: open_blob(blob) for blob in sorted({row["blob"] for row in rows})}
