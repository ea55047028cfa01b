"""What the entries of all pages have in common: the context they are drawn in, their heads and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.training import stable_seed

Row = dict[str, Any]


@dataclass(frozen=True)
class GalleryContext:
    """What an entry may draw from.

    Attributes:
        folder: of the pages; pictures lie in ``pictures``.
        reader: of the hold-out's images.
        images: rows of ``images/stem`` by image.
        answers: rows of the predictions tables by item.
        checkpoints: checkpoint folders of the models whose answers are drawn, by registered name.
    """

    folder: Path
    reader: ItemReader
    images: dict[str, Row]
    answers: dict[str, list[Row]]
    checkpoints: Mapping[str, Path]


def entry_head(row: Row) -> Row:
    """Title and facts that stand above every entry."""
    dose = dose_name(row["mean_detected_e_per_a2"])
    return {
        "title": row["slab_id"].partition(":")[2] or row["slab_id"],
        "source": row["source"],
        "lattice": row["bravais_lattice"],
        "dose": dose_words(dose),
        "pixel": f"{row['pixel_size_angstrom']:g} Å per pixel, field {row['field_angstrom'] / 10:.2f} nm",
        "item_id": row["item_id"],
        "is_worst": row["is_worst"],
    }


def add_picture(context: GalleryContext, row: Row, kind: str, caption: str, png: bytes) -> Row:
    """Write a PNG beside the pages; what the page needs to show it."""
    name = f"pictures/{stable_seed(row['item_id'], kind):016x}.png"
    (context.folder / name).write_bytes(png)
    return {"file": name, "caption": caption, "alt": f"{caption} of {row['slab_id']}"}


def method_name(answer: Row) -> str:
    """Name of a model or baseline, in words."""
    return str(answer["model_id"]).partition("@")[0].replace("_", " ")


def picometres(value_angstrom: float | None) -> str:
    """A length in Å, said in pm."""
    return "–" if value_angstrom is None else f"{100 * value_angstrom:.2f} pm"


def dose_words(dose: str) -> str:
    """A dose as :func:`dose_name` has it, in words."""
    known = {"clean": "noiseless", "as_taken": "as taken"}
    return known.get(dose) or f"{dose} e/Å²"
