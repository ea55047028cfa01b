"""The task ``embedding``: maps of the images in two dimensions, and what they are worth."""

from __future__ import annotations

import numpy as np
import polars as pl

from atomvision_ml.evaluation.embeddings import TITLES
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head
from atomvision_ml.evaluation.judging import Row
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio

SCORES = ("trustworthiness", "silhouette", "purity", "purity_shuffled", "purity_source")


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    sums = {name: answers[name].to_numpy().astype(float) for name in SCORES}
    sums["n_items"] = np.ones(answers.height)
    return sums, _embedding_figures


def _embedding_figures(sums: Figures) -> Figures:
    return {name: ratio(sums[name], sums["n_items"]) for name in SCORES}


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    image = context.reader.image(row)
    answers = {answer["model_id"].partition("@")[0]: answer for answer in context.answers[row["item_id"]]}
    return {
        **entry_head(row),
        "is_right": None,
        "pictures": [
            add_picture(context, row, "image", "image", pictures.image_picture(image, row["pixel_size_angstrom"]))
        ],
        "facts": [
            (f"neighbours of its lattice, {title}", f"{100 * answers[name]['purity']:.0f} %")
            for name, title in TITLES.items()
            if name in answers
        ],
        "bars": [],
    }
