"""The task ``defects``: vacancies, substitutions and strained regions of damaged sheets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atomvision_ml.evaluation.defect_baselines import Evidence, Setting, plain_defects, tune_defects
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob, expose, noise_seed
from atomvision_ml.evaluation.judging import Progress, Row, items_of, judge_items
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.defects import KINDS, Defect, Sheet, damaged_sheet, detectability
from atomvision_ml.models.defect_finder import DefectFinderParameters, FoundDefect, find_defects
from atomvision_ml.models.lattice_finder import NoLatticeError
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

log = logging.getLogger(__name__)

MATCH_ANGSTROM = 0.5
REGION_ANGSTROM = 3.0
VISIBLE = 5.0
"""Least possible standard errors from which a change counts as visible."""

Rival = Callable[[NDArray[np.float32], float], Sequence[FoundDefect]]

_COUNTS = ("true", "found", "matched", "visible", "matched_visible")


def predict_defects(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    model_id: str = "defect_finder",
    parameters: Mapping[str, Any] | None = None,
    rivals: Mapping[str, Rival] | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The defect finder and its baselines on a damaged sheet of the structure of each item.

    The sheet depends on the image alone and is the same at all doses. The classical baseline ``intensity_threshold``
    has a threshold on the brightness of Laplacian-of-Gaussian atoms and one on gaps, tuned on the train split for each
    dose; the trivial one, ``no_defects``, finds nothing.

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        training_set: rows of ``models/training_sets`` of the task ``defects``.
        open_blob: local folder of a blob.
        model_id: name and version for the model's rows.
        parameters: fields of the finder's parameters that differ from the defaults.
        rivals: further classical finders by name, from image and pixel size in Å to found defects; one row each.
        processes: more than one divides the items among so many processes.
        progress: called with (items done, items in all).

    Returns:
        ``predictions/defect_finder``: three rows per item, and one for each rival. An image without a lattice has no
        found defects.

    Raises:
        ValueError: no such items, or an empty train split.
    """
    rows = items_of(holdout, "defects")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    reader = ItemReader(open_blob)
    sheets: dict[str, Sheet] = {}

    def kept(row: Mapping[str, Any]) -> Sheet:
        if row["image_id"] not in sheets:
            sheets[row["image_id"]] = sheet_of(row, reader)
        return sheets[row["image_id"]]

    def seen(row: Mapping[str, Any], dose: float | None) -> tuple[NDArray[np.float32], float]:
        pixel = row["pixel_size_angstrom"]
        return expose(kept(row).image(), pixel, dose, noise_seed(row["image_id"], dose) or 0), pixel

    settings = tune_defects(training_set, seen, lambda row, found: _counts(kept(row).defects, (), found)["f1"], doses)
    judge = partial(
        _judge, settings=settings, model_id=model_id, parameters=dict(parameters or {}), rivals=dict(rivals or {})
    )
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def sheet_of(row: Mapping[str, Any], reader: ItemReader) -> Sheet:
    """The damaged sheet of an item's structure in the item's pose; the same for the same image."""
    random = np.random.default_rng(stable_seed(row["image_id"], "defects"))
    return damaged_sheet(reader.projection(row), reader.numbers(row), reader.view(row), random)


def _image(row: Mapping[str, Any], sheet: Sheet) -> NDArray[np.float32]:
    return expose(sheet.image(), row["pixel_size_angstrom"], row["mean_detected_e_per_a2"], row.get("noise_seed") or 0)


def _judge(
    row: Row,
    reader: ItemReader,
    settings: Mapping[float | None, Setting],
    model_id: str,
    parameters: Mapping[str, Any],
    rivals: Mapping[str, Rival],
) -> list[Row]:
    sheet, pixel, dose = sheet_of(row, reader), row["pixel_size_angstrom"], row["mean_detected_e_per_a2"]
    image, bounds = _image(row, sheet), detectability(sheet, dose)
    truth = [
        {
            **{name: value for name, value in vars(defect).items()},
            "detectability": float(bound) if np.isfinite(bound) else None,
        }
        for defect, bound in zip(sheet.defects, bounds, strict=True)
    ]

    def judged(name: str, role: str, found: Sequence[FoundDefect]) -> Row:
        return {
            "item_id": row["item_id"],
            "model_id": name,
            "role": role,
            **_counts(sheet.defects, bounds, found),
            "defects": [{**vars(one), "significance": _known(one.significance)} for one in found],
            "truth": truth,
        }

    share, *rule = settings[dose]
    atoms = laplacian_of_gaussian_atoms(image, pixel, relative_threshold=share)
    return [
        judged(model_id, "model", _found(row, image, pixel, parameters)),
        judged(
            "intensity_threshold", "classical", plain_defects(Evidence.of(atoms), (image.shape[0] - 1) * pixel, *rule)
        ),
        *(judged(name, "classical", rival(image, pixel)) for name, rival in rivals.items()),
        judged("no_defects", "trivial", ()),
    ]


def _found(
    row: Mapping[str, Any], image: NDArray[np.float32], pixel: float, parameters: Mapping[str, Any]
) -> tuple[FoundDefect, ...]:
    try:
        return find_defects(image, pixel, DefectFinderParameters(**parameters)).defects
    except NoLatticeError as error:
        log.info("%s: %s", row["item_id"], error)
        return ()


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _counts(truth: Sequence[Defect], bounds: Sequence[float] | NDArray[Any], found: Sequence[FoundDefect]) -> Row:
    """True, found and paired defects of each kind, and the F1 over all kinds."""
    visible = np.asarray(bounds, float) >= VISIBLE if len(bounds) else np.ones(len(truth), bool)
    counts: Row = {}
    total = 0
    for kind in KINDS:
        mine = [n for n, defect in enumerate(truth) if defect.kind == kind]
        others = [one for one in found if one.kind == kind]
        paired = _paired([truth[n] for n in mine], others)
        total += len(paired)
        values = (
            len(mine),
            len(others),
            len(paired),
            int(visible[mine].sum()) if mine else 0,
            sum(bool(visible[mine[n]]) for n in paired),
        )
        counts |= {f"n_{name}_{kind}": value for name, value in zip(_COUNTS, values, strict=True)}
    points = [defect for defect in truth if defect.kind != "strain"]
    counts["n_located"] = len(_paired(points, [one for one in found if one.kind != "strain"]))
    both = len(truth) + len(found)
    counts["f1"] = 2 * total / both if both else 1.0
    return counts


def _paired(truth: Sequence[Defect], found: Sequence[FoundDefect]) -> list[int]:
    """Numbers of the true defects that have a found one within reach, each at most once, by least distance."""
    from scipy.optimize import linear_sum_assignment

    if not truth or not found:
        return []
    places = np.array([(one.x_angstrom, one.y_angstrom) for one in found])
    reach = np.array(
        [max(REGION_ANGSTROM, one.radius_angstrom) if one.kind == "strain" else MATCH_ANGSTROM for one in truth]
    )
    distance = np.linalg.norm(np.array([(one.x_angstrom, one.y_angstrom) for one in truth])[:, None] - places, axis=2)
    cost = np.where(distance <= reach[:, None], distance / reach[:, None], 1e3)
    rows, columns = linear_sum_assignment(cost)
    return [int(n) for n, m in zip(rows, columns, strict=True) if cost[n, m] <= 1]


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    names = [f"n_{name}_{kind}" for name in _COUNTS for kind in KINDS] + ["n_located"]
    return {name: answers[name].to_numpy().astype(float) for name in names}, _figures


def _figures(sums: Figures) -> Figures:
    figures: Figures = {}
    total = {name: np.sum([sums[f"n_{name}_{kind}"] for kind in KINDS], axis=0) for name in _COUNTS}
    for kind in (None, *KINDS):
        end = "" if kind is None else f"_{kind}"
        some = total if kind is None else {name: sums[f"n_{name}_{kind}"] for name in _COUNTS}
        figures |= {
            f"precision{end}": ratio(some["matched"], some["found"]),
            f"recall{end}": ratio(some["matched"], some["true"]),
            f"recall_visible{end}": ratio(some["matched_visible"], some["visible"]),
            f"f1{end}": ratio(2 * some["matched"], some["true"] + some["found"]),
        }
    true, found = (sums[f"n_{name}_vacancy"] + sums[f"n_{name}_substitution"] for name in ("true", "found"))
    figures["f1_located"] = ratio(2 * sums["n_located"], true + found)
    return figures


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    sheet, pixel = sheet_of(row, context.reader), row["pixel_size_angstrom"]
    answers = context.answers[row["item_id"]]
    own = next(answer for answer in answers if answer["role"] == "model")
    image = _image(row, sheet)
    drawn = [
        add_picture(context, row, "image", "damaged sheet", pictures.image_picture(image, pixel)),
        add_picture(
            context,
            row,
            "defects",
            "true green, found orange; ○ vacancy, □ substitution, dashed: strained region",
            pictures.defects_picture(image, pixel, own["defects"], own["truth"]),
        ),
    ]
    return {
        **entry_head(row),
        "is_right": own["f1"] == 1,
        "pictures": drawn,
        "facts": [
            *[(kind, _said(own, kind)) for kind in KINDS],
            ("F1", f"{own['f1']:.2f}"),
            *[(f"F1 of {method_name(one)}", f"{one['f1']:.2f}") for one in answers if one["role"] != "model"],
        ],
        "bars": [],
    }


def _said(answer: Row, kind: str) -> str:
    true, found, matched = (answer[f"n_{name}_{kind}"] for name in ("true", "found", "matched"))
    return f"{matched} of {true} found, {found - matched} invented"
