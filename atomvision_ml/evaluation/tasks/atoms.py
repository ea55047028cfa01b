"""The task ``atoms``: atomic columns, their number and their places to a fraction of a picometre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atomvision_ml.evaluation.atom_bounds import position_bounds
from atomvision_ml.evaluation.atom_matching import columns_that_count, match_atoms, pair_atoms
from atomvision_ml.evaluation.baselines import Settings, log_atoms, tune_atoms
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name, picometres
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of, judge_items
from atomvision_ml.evaluation.localisation import curve_picture, localisation_curve
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio
from atomvision_ml.images.atom_fit import fit_intensities
from atomvision_ml.images.atoms import as_rows
from atomvision_ml.images.columns import Columns, columns_in_view, columns_of
from atomvision_ml.images.stem import View
from atomvision_ml.models.atom_finder import AtomFinderParameters, complete_fit, reported_atoms
from atomvision_ml.models.segmenter import segment
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

FIELD_ANGSTROM = 16.0
"""As much of an image is judged, from its first pixel on: some 80 columns of each are enough for the time they take."""

_COINCIDENT_ANGSTROM = 1e-3
_CUT_ANGSTROM = 8.0
_CURVE_FIELD_ANGSTROM = 16.0


def predict_atoms(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    segmenter: Path,
    model_id: str = "atom_finder",
    parameters: Mapping[str, Any] | None = None,
    field_angstrom: float = FIELD_ANGSTROM,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The atom finder and its baselines on every item.

    Baselines: ``no_atoms`` (trivial), ``laplacian_of_gaussian``, tuned on the train split for each dose, and
    ``centres_of_mass``, the segmenter's map without the fit.

    Args and errors as :func:`predict_lattice`, and
        segmenter: checkpoint folder; CheckpointError if it is damaged.
        parameters: fields of the finder's parameters that differ from the defaults.
        field_angstrom: as much of each image is judged, from its first pixel on.

    Returns:
        ``predictions/atom_finder``: four rows per item.
    """
    rows = items_of(holdout, "atoms")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    by_log = tune_atoms(training_set, open_blob, maximum_images=6, doses=doses)
    judge = partial(
        _judge_atoms,
        by_log=by_log,
        model_id=model_id,
        segmenter=segmenter,
        parameters=AtomFinderParameters(**dict(parameters or {})),
        field_angstrom=field_angstrom,
    )
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def _judge_atoms(
    row: Row,
    reader: ItemReader,
    by_log: Settings,
    model_id: str,
    segmenter: Path,
    parameters: AtomFinderParameters,
    field_angstrom: float,
) -> list[Row]:
    pixel, dose = row["pixel_size_angstrom"], row["mean_detected_e_per_a2"]
    edge = min(round(field_angstrom / pixel), reader.view(row).size_px)
    image = reader.image(row)[:edge, :edge].astype(float)
    truth = _Truth(row, reader, edge)
    seen = segment(image, pixel, segmenter)
    start = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in seen.atoms]).reshape(-1, 2)
    atoms: list[dict[str, float]] = []
    columns: list[dict[str, float]] = []
    if len(start):
        atoms, columns = reported_atoms(complete_fit(image, pixel, start, parameters), image.shape, parameters)
    blobs = log_atoms(image, pixel, *by_log[dose])
    simple = as_rows(blobs[:, :2], blobs[:, 2])
    return [
        truth.judged(model_id, "model", columns, atoms),
        truth.judged("centres_of_mass", "classical", seen.atoms, seen.atoms),
        truth.judged("laplacian_of_gaussian", "classical", simple, simple),
        truth.judged("no_atoms", "trivial", [], []),
    ]


class _Truth:
    """Columns and atoms of the part of an item's image that is judged, and the bound."""

    def __init__(self, row: Row, reader: ItemReader, edge: int) -> None:
        pixel, dose = row["pixel_size_angstrom"], row["mean_detected_e_per_a2"]
        self.item, self.field = row["item_id"], ((edge - 1) * pixel,) * 2
        projection, view = reader.projection(row), reader.view(row)
        seen = replace(view, size_px=edge)
        self.columns, self.atoms = (
            columns_in_view(columns_of(projection, distance), projection.periods_angstrom, seen)
            for distance in (1.0, _COINCIDENT_ANGSTROM)
        )
        self.counts, self.atoms_count = (columns_that_count(each, self.field) for each in (self.columns, self.atoms))
        self.bounds = None
        if dose is not None:
            clean = reader.clean(row).astype(float)
            part = clean[:edge, :edge]
            self.bounds = position_bounds(
                part,
                projection,
                view,
                self.columns.positions_angstrom,
                mean_detected_e_per_a2=dose * part.mean() / clean.mean(),
            )

    def judged(self, name: str, role: str, columns: list[dict[str, float]], atoms: list[dict[str, float]]) -> Row:
        found, true = _positions(columns), self.columns.positions_angstrom
        match = match_atoms(found, true, self.counts, self.field)
        pairs = pair_atoms(found, true, self.counts)
        error = (found[pairs[:, 0]] - true[pairs[:, 1]]).sum(axis=0)
        bound = None if self.bounds is None else float((self.bounds[pairs[:, 1]] ** 2).sum())
        single = match_atoms(_positions(atoms), self.atoms.positions_angstrom, self.atoms_count, self.field)
        total = match.n_columns + match.n_found
        return {
            "item_id": self.item,
            "model_id": name,
            "role": role,
            **vars(match),
            "error_x_angstrom": float(error[0]),
            "error_y_angstrom": float(error[1]),
            "bound_angstrom2": bound if bound is None or np.isfinite(bound) else None,
            "n_atoms": single.n_columns,
            "n_found_atoms": single.n_found,
            "n_matched_atoms": single.n_matched,
            "f1": 2 * match.n_matched / total if total else 1.0,
            "columns": columns,
        }


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    names = (
        "n_columns",
        "n_found",
        "n_matched",
        "squared_error_angstrom2",
        "error_x_angstrom",
        "error_y_angstrom",
        "n_atoms",
        "n_found_atoms",
        "n_matched_atoms",
    )
    sums = {name: answers[name].to_numpy().astype(float) for name in names}
    bound = answers["bound_angstrom2"]
    sums["bound"] = bound.fill_null(0.0).to_numpy().astype(float)
    sums["bounded_error"] = np.where(bound.is_null().to_numpy(), 0.0, sums["squared_error_angstrom2"])
    return sums, _atom_figures


def _atom_figures(sums: Figures) -> Figures:
    matched = sums["n_matched"]
    return {
        "detection_f1": ratio(2 * matched, sums["n_columns"] + sums["n_found"]),
        "detection_precision": ratio(matched, sums["n_found"]),
        "detection_recall": ratio(matched, sums["n_columns"]),
        "unmerged_detection_f1": ratio(2 * sums["n_matched_atoms"], sums["n_atoms"] + sums["n_found_atoms"]),
        "localisation_rmse_angstrom": np.sqrt(ratio(sums["squared_error_angstrom2"], 2 * matched)),
        "localisation_bias_angstrom": np.maximum(
            *(np.abs(ratio(sums[f"error_{axis}_angstrom"], matched)) for axis in "xy")
        ),
        "localisation_bound_angstrom": np.sqrt(ratio(sums["bound"], 2 * matched * (sums["bound"] > 0))),
        "rmse_over_bound": np.sqrt(ratio(sums["bounded_error"], sums["bound"])),
    }


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    pixel, reader = row["pixel_size_angstrom"], context.reader
    view = reader.view(row)
    edge = min(round(FIELD_ANGSTROM / pixel), view.size_px)
    image = reader.image(row)[:edge, :edge].astype(float)
    answers = context.answers[row["item_id"]]
    own = next(answer for answer in answers if answer["role"] == "model")
    columns = _columns(row, reader, edge)
    small = View(pixel, round(min(_CURVE_FIELD_ANGSTROM, edge * pixel) / pixel), view.rotation_deg, view.shift_angstrom)
    curve = localisation_curve(
        reader.projection(row),
        small,
        segmenter=context.checkpoints.get("segmenter"),
        seed=stable_seed(row["item_id"], "curve") % 2**32,
    )
    drawn = [
        add_picture(context, row, "image", "image", pictures.image_picture(image, pixel)),
        add_picture(
            context,
            row,
            "atoms",
            f"corner of {_CUT_ANGSTROM:g} Å: true columns green, found ones orange",
            pictures.atoms_picture(image, own["columns"], columns.positions_angstrom, pixel, _CUT_ANGSTROM),
        ),
        add_picture(context, row, "residual", "image minus found columns", _residual(image, own["columns"], pixel)),
        add_picture(context, row, "curve", "position error and dose", curve_picture({"this structure": curve})),
    ]
    rmse = np.sqrt(own["squared_error_angstrom2"] / (2 * own["n_matched"])) if own["n_matched"] else None
    bound = own["bound_angstrom2"]
    return {
        **entry_head(row),
        "is_right": None,
        "pictures": drawn,
        "facts": [
            (
                "columns of ≥ 5 % found",
                f"{own['n_matched']} of {own['n_columns']}, {own['n_found'] - own['n_matched']} invented",
            ),
            *[
                (f"by {method_name(answer)}", f"{answer['n_matched']} of {answer['n_columns']}")
                for answer in answers
                if answer["role"] == "classical"
            ],
            ("position error per axis", picometres(rmse)),
            ("bound", picometres(np.sqrt(bound / (2 * own["n_matched"])) if bound and own["n_matched"] else None)),
        ],
        "bars": [],
    }


def _residual(image: NDArray[np.float64], columns: list[dict[str, float]], pixel: float) -> bytes:
    """What fitted columns leave of the image; grey is zero, the range is half of the image's."""
    fit = fit_intensities(image, pixel, _positions(columns))
    scale = float(image.max() - image.min()) or 1.0
    return pictures.map_picture(0.5 + (image - fit.model) / scale, pixel)


def _columns(row: Row, reader: ItemReader, edge: int) -> Columns:
    projection = reader.projection(row)
    view = replace(reader.view(row), size_px=edge)
    return columns_in_view(columns_of(projection), projection.periods_angstrom, view)


def _positions(atoms: list[dict[str, float]]) -> NDArray[np.float64]:
    return np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms]).reshape(-1, 2)
