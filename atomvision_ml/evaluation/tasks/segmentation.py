"""The task ``segmentation``: atom against background, and the atoms found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atomvision_ml.evaluation.answers import name_of
from atomvision_ml.evaluation.atom_matching import columns_that_count, match_atoms
from atomvision_ml.evaluation.baselines import (
    SegmentationBaselines,
    disks,
    log_atoms,
    mask_iou,
    otsu_mask,
    tune_segmentation,
)
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of, judge_items
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio
from atomvision_ml.images.atoms import as_rows, find_atoms
from atomvision_ml.images.columns import atoms_in_view, column_mask
from atomvision_ml.schemas.tables import table

if TYPE_CHECKING:
    from atomvision_ml.models.refined_segmenter import RefinedSegmenterParameters

_CUT_ANGSTROM = 8.0


def predict_segmentation(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str = "segmenter",
    has_baselines: bool = True,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The segmenter and its baselines on every segmentation item.

    Baselines: ``all_background`` (trivial), ``otsu`` and ``laplacian_of_gaussian`` (disks of 0.5 Å around sub-pixel
    maxima), the latter two tuned on the train split for each dose.

    Args and errors as :func:`predict_lattice`, and
        checkpoint: folder of the segmenter to judge; CheckpointError if it is damaged.
        has_baselines: whether the baselines are judged as well; once for all models of the task is enough.

    Returns:
        The predictions table of the model: four rows per item, one without baselines.
    """
    rows = items_of(holdout, "segmentation")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    baselines = tune_segmentation(training_set, open_blob, doses=doses) if has_baselines else None
    judge = partial(_judge_segmentation, baselines=baselines, model_id=model_id, checkpoint=checkpoint)
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def predict_refined(
    holdout: pl.DataFrame,
    segmented: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    model_id: str = "refined_segmenter",
    parameters: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The refined segmenter on every segmentation item, from the atoms that the segmenter found there.

    Beside it ``centres_of_mass``: the same atoms, not fitted, drawn as disks of 0.5 Å.

    Args and errors as :func:`predict_segmentation`, and
        segmented: rows of ``predictions/segmenter`` of one model, with their ``atoms``.
        parameters: fields of the refined segmenter's parameters that differ from the defaults.

    Returns:
        ``predictions/refined_segmenter``: two rows per item.

    Raises:
        ValueError: an item has no row in ``segmented``.
    """
    from atomvision_ml.models.refined_segmenter import RefinedSegmenterParameters

    seen = dict(segmented.select("item_id", "atoms").iter_rows())
    rows = items_of(holdout, "segmentation")
    if missing := [row["item_id"] for row in rows if row["item_id"] not in seen]:
        raise ValueError(f"the segmenter has no answer to {len(missing)} items, the first is {missing[0]!r}")
    judge = partial(_judge_refined, model_id=model_id, parameters=RefinedSegmenterParameters(**dict(parameters or {})))
    started = [{**row, "atoms": seen[row["item_id"]]} for row in rows]
    return judge_items(
        table(f"predictions/{model_id.partition('@')[0]}"), judge, started, open_blob, processes, progress
    )


def _judge_segmentation(
    row: Row, reader: ItemReader, baselines: SegmentationBaselines | None, model_id: str, checkpoint: Path
) -> list[Row]:
    from atomvision_ml.models.segmenter import segment

    image, pixel, dose = reader.image(row), row["pixel_size_angstrom"], row["mean_detected_e_per_a2"]
    truth = _Truth(row, reader)
    answer = segment(image, pixel, checkpoint)
    own = truth.judged(model_id, "model", answer.mask, answer.atoms)
    if baselines is None:
        return [own]
    by_otsu = otsu_mask(image, pixel, *baselines.otsu[dose])
    by_log = log_atoms(image, pixel, *baselines.laplacian_of_gaussian[dose])
    return [
        own,
        truth.judged("otsu", "classical", by_otsu, find_atoms(by_otsu, image, pixel)),
        truth.judged(
            "laplacian_of_gaussian",
            "classical",
            disks(by_log[:, :2], image.shape, pixel),
            as_rows(by_log[:, :2], by_log[:, 2]),
        ),
        truth.judged("all_background", "trivial", np.zeros(image.shape, bool), []),
    ]


def _judge_refined(row: Row, reader: ItemReader, model_id: str, parameters: RefinedSegmenterParameters) -> list[Row]:
    from atomvision_ml.models.refined_segmenter import refine

    image, pixel = reader.image(row).astype(float), row["pixel_size_angstrom"]
    start = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in row["atoms"]]).reshape(-1, 2)
    truth = _Truth(row, reader)
    answer = refine(image, pixel, start, parameters)
    return [
        truth.judged(model_id, "model", answer.mask, answer.atoms),
        truth.judged("centres_of_mass", "classical", disks(start, image.shape, pixel), row["atoms"]),
    ]


class _Truth:
    """Mask and columns of an item, and how an answer is held against them."""

    def __init__(self, row: Row, reader: ItemReader) -> None:
        self.item, self.mask, self.columns = row["item_id"], reader.mask(row), reader.columns(row)
        height, width = self.mask.shape
        pixel = row["pixel_size_angstrom"]
        self.field = ((width - 1) * pixel, (height - 1) * pixel)
        self.counts = columns_that_count(self.columns, self.field)
        self.published = _published_mask(row, reader)

    def judged(self, name: str, role: str, mask: NDArray[np.bool_], atoms: list[dict[str, float]]) -> Row:
        positions = [(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms]
        match = match_atoms(positions, self.columns.positions_angstrom, self.counts, self.field)
        return {
            "item_id": self.item,
            "model_id": name,
            "role": role,
            "n_true_positive": int(np.count_nonzero(mask & self.mask)),
            "n_false_positive": int(np.count_nonzero(mask & ~self.mask)),
            "n_false_negative": int(np.count_nonzero(~mask & self.mask)),
            "n_true_negative": int(np.count_nonzero(~mask & ~self.mask)),
            "n_published_right": int(np.count_nonzero(mask == self.published)),
            "iou": mask_iou(mask, self.mask),
            "atoms": atoms,
            **vars(match),
        }


def _published_mask(row: Row, reader: ItemReader) -> NDArray[np.bool_]:
    """Disks as in the AtomVision paper: half of the element's radius (here the covalent one) around every atom."""
    from ase.data import covalent_radii

    projection, view = reader.projection(row), reader.view(row)
    atoms, index = atoms_in_view(projection.positions_angstrom, projection.periods_angstrom, view, 1.5)
    numbers = reader.numbers(row)[index]
    mask = np.zeros((view.size_px, view.size_px), bool)
    for number in np.unique(numbers):
        radius = float(covalent_radii[number]) / 2
        mask |= column_mask(atoms[numbers == number], view.size_px, view.pixel_size_angstrom, radius)
    return mask


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    names = (
        "n_true_positive",
        "n_false_positive",
        "n_false_negative",
        "n_true_negative",
        "n_published_right",
        "n_columns",
        "n_found",
        "n_matched",
        "squared_error_angstrom2",
        "iou",
    )
    sums = {name: answers[name].to_numpy().astype(float) for name in names}
    sums["n_images"] = np.ones(answers.height)
    return sums, _segmentation_figures


def _segmentation_figures(sums: Figures) -> Figures:
    right, extra, missed = sums["n_true_positive"], sums["n_false_positive"], sums["n_false_negative"]
    pixels = right + extra + missed + sums["n_true_negative"]
    columns, found, matched = sums["n_columns"], sums["n_found"], sums["n_matched"]
    return {
        "iou": ratio(sums["iou"], sums["n_images"]),
        "dice": ratio(2 * right, 2 * right + extra + missed),
        "precision": ratio(right, right + extra),
        "recall": ratio(right, right + missed),
        "pixel_accuracy": ratio(right + sums["n_true_negative"], pixels),
        "paper_pixel_accuracy": ratio(sums["n_published_right"], pixels),
        "detection_precision": ratio(matched, found),
        "detection_recall": ratio(matched, columns),
        "detection_f1": ratio(2 * matched, found + columns),
        "localisation_rmse_angstrom": np.sqrt(ratio(sums["squared_error_angstrom2"], 2 * matched)),
    }


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    image, truth, pixel = context.reader.image(row), context.reader.mask(row), row["pixel_size_angstrom"]
    answers = context.answers[row["item_id"]]
    models = {name_of(answer["model_id"]): answer for answer in answers if answer["role"] == "model"}
    own = models.get("segmenter") or next(iter(models.values()))
    refined = models.get("refined_segmenter")
    drawn = [
        add_picture(context, row, "image", "image", pictures.image_picture(image, pixel)),
        add_picture(context, row, "mask", "true mask", pictures.map_picture(truth, pixel)),
    ]
    if context.checkpoints.get("segmenter") is not None:
        from atomvision_ml.models.segmenter import segment

        found = segment(image, pixel, context.checkpoints.get("segmenter"))
        drawn += [
            add_picture(context, row, "probability", "probability", pictures.map_picture(found.probability, pixel)),
            add_picture(
                context,
                row,
                "overlay",
                f"corner of {_CUT_ANGSTROM:g} Å: true edge green, found edge and atoms orange",
                pictures.overlay_picture(image, found.mask, truth, found.atoms, pixel, _CUT_ANGSTROM),
            ),
        ]
    if refined is not None:
        places = [(atom["x_angstrom"], atom["y_angstrom"]) for atom in refined["atoms"]]
        mask = disks(np.array(places).reshape(-1, 2), truth.shape, pixel)
        picture = pictures.overlay_picture(image, mask, truth, refined["atoms"], pixel, _CUT_ANGSTROM)
        drawn.append(add_picture(context, row, "refined", "the same by the refined segmenter", picture))
    return {
        **entry_head(row),
        "is_right": None,
        "pictures": drawn,
        "facts": [
            *[(f"IoU of {method_name(answer)}", f"{answer['iou']:.3f}") for answer in answers],
            (
                "columns of ≥ 5 % found",
                f"{own['n_matched']} of {own['n_columns']}, {own['n_found'] - own['n_matched']} invented",
            ),
        ],
        "bars": [],
    }
