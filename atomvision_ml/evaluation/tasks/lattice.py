"""The task ``lattice``: the Bravais lattice and its vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.evaluation.baselines import LatticeBaselines, read_lattice, tune_lattice
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name, picometres
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of, judge_items
from atomvision_ml.evaluation.sums import Evaluate, Figures, mean_of_known, ratio
from atomvision_ml.models.checkpoint import load_checkpoint
from atomvision_ml.models.chosen import ChosenModel
from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT
from atomvision_ml.models.registry import model_spec
from atomvision_ml.models.training_run import experimental_items, simulated_items
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, EXPERIMENTS

log = logging.getLogger(__name__)

ECE_BINS = 10
"""Equal bins of the highest probability, for the expected calibration error (Guo et al., arXiv:1706.04599)."""

NO_ANSWER = "none"
"""What an item without an answer is taken for."""


def predict_lattice(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    model_id: str = "lattice_finder",
    parameters: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """The lattice finder and its baselines on every lattice item.

    The classical baseline is the plain autocorrelation reader, tuned on the train split for each dose; the trivial one
    answers the train split's most frequent class, with its class shares as probabilities.

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        training_set: rows of ``models/training_sets`` of the task ``lattice``.
        open_blob: local folder of a blob.
        model_id: name and version for the model's rows.
        parameters: fields of the lattice finder's parameters that differ from the defaults.
        processes: more than one divides the items among so many processes.
        progress: called with (items done, items in all).

    Returns:
        ``predictions/lattice_finder``: three rows per item. An image without a lattice has a null class and counts as
        wrong.

    Raises:
        ValueError: no lattice items, or an empty train split.
    """
    rows = items_of(holdout, "lattice")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    baselines = tune_lattice(training_set, open_blob, doses=doses)
    judge = partial(_judge_lattice, baselines=baselines, model_id=model_id, parameters=dict(parameters or {}))
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def predict_by_network(
    holdout: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """A registered lattice network on every lattice item.

    Its predictor takes (image, pixel size, checkpoint) and gives ``lattice`` and ``probabilities``, and, if it knows
    them, ``lattice_vectors_angstrom`` and ``uncertainties_angstrom``; it raises NoLatticeError where it sees none.

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        open_blob: local folder of a blob.
        checkpoint: folder of the network to judge; CheckpointError if it is damaged.
        model_id: registered name, or ``<name>@<version>``.
        processes: more than one divides the items among so many processes.
        progress: called with (items done, items in all).

    Returns:
        ``predictions/<name>``: one row per item. Classical and trivial answers are in ``predictions/lattice_finder``.

    Raises:
        ValueError: no lattice items.
    """
    rows = items_of(holdout, "lattice")
    judge = partial(_judge_network, model_id=model_id, checkpoint=checkpoint)
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def answer_again(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """What any registered model of the task says of items, simulated or experimental, without baselines.

    Where an item is a micrograph, models that know how allow for the distortion of its scan.

    Args:
        items: rows of ``evaluation/holdout`` or ``evaluation/experimental_holdout``.
        open_blob: local folder of a blob.
        checkpoint: folder of the model; CheckpointError if it is damaged.
        model_id: ``<name>@<version>``.
        processes: more than one divides the items among so many processes.
        progress: called with (items done, items in all).

    Raises:
        ValueError: no lattice items.
    """
    name = model_id.partition("@")[0]
    if model_spec(name).kind == "network":
        judge = partial(_judge_network, model_id=model_id, checkpoint=checkpoint)
    else:
        judge = partial(_judge_finder, model_id=model_id, parameters=load_checkpoint(checkpoint).parameters)
    rows = items_of(items, "lattice")
    return judge_items(table(f"predictions/{name}"), judge, rows, open_blob, processes, progress)


def experimental_answers(
    models: Iterable[Mapping[str, Any]],
    items: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    former: pl.DataFrame | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """What the models of the task and the simple baselines say of the experimental hold-out.

    Args:
        models: the newest rows of ``models/<name>``.
        items: rows of ``evaluation/experimental_holdout``; there may be none.
        training_set: rows of ``models/training_sets`` of the task; the baselines are tuned on the experimental images
            of its train split, or on simulated ones if there are none.
        open_blob: local folder of a blob.
        former: rows of ``evaluation/experimental_answers``: what a model has said of an item is not asked again.
        processes, progress: as :func:`answer_again`.

    Returns:
        Rows of ``evaluation/experimental_answers``.
    """
    none = pl.DataFrame(table("evaluation/experimental_answers").empty())
    if items.is_empty():
        return none
    labels = items.select("item_id", "bravais_lattice")
    known = none if former is None else former.filter(pl.col("role") == "model").join(labels, on="item_id", how="semi")
    parts = [_simple_answers(items, training_set, open_blob, processes)]
    for model in models:
        kept = known.filter(pl.col("model_id") == model["model_id"])
        asked = items.join(kept, on="item_id", how="anti")
        parts.append(kept)
        if asked.height:
            checkpoint, name = open_blob(model["blob"]), model["model_id"]
            answers = answer_again(
                asked, open_blob, checkpoint=checkpoint, model_id=name, processes=processes, progress=progress
            )
            parts.append(pl.DataFrame(answers))
    right = (pl.col("lattice") == pl.col("bravais_lattice")).fill_null(value=False)
    answered = pl.concat([none, *parts]).join(labels, on="item_id", how="left")
    return answered.with_columns(is_correct=right).drop("bravais_lattice")


def _simple_answers(
    items: pl.DataFrame, training_set: pl.DataFrame, open_blob: OpenBlob, processes: int
) -> pl.DataFrame:
    """The baselines, tuned on experimental images of the train split, or on simulated ones if there are none."""
    taken = experimental_items(training_set)
    has_some = (taken["split"] == "train").any()
    baselines = tune_lattice(taken if has_some else simulated_items(training_set), open_blob, doses=[None])
    judge = partial(_judge_baselines, baselines=baselines)
    form = table("evaluation/experimental_answers")
    return pl.DataFrame(judge_items(form, judge, items_of(items, "lattice"), open_blob, processes, None))


def vector_error(found_angstrom: ArrayLike, true_angstrom: ArrayLike) -> float:
    """Largest distance, in Å, of a found vector to the true lattice's nearest vector; both (2, 2) rows."""
    found, true = np.reshape(found_angstrom, (2, 2)), np.reshape(true_angstrom, (2, 2))
    base = np.rint(found @ np.linalg.inv(true))
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    near = (base[:, None, :] + around) @ true
    return float(np.linalg.norm(found[:, None, :] - near, axis=2).min(axis=1).max())


def _judge_lattice(
    row: Row, reader: ItemReader, baselines: LatticeBaselines, model_id: str, parameters: Mapping[str, Any]
) -> list[Row]:
    found = _found_lattice(row, reader.image(row), model_id, parameters)
    return [found, *_judge_baselines(row, reader, baselines)]


def _judge_baselines(row: Row, reader: ItemReader, baselines: LatticeBaselines) -> list[Row]:
    dose = row.get("mean_detected_e_per_a2")
    plain = read_lattice(reader.image(row), row["pixel_size_angstrom"], *baselines.reader[dose])
    simple = _lattice_row(row, "autocorrelation", "classical", *(plain or (None, None)))
    trivial = _lattice_row(row, "majority_class", "trivial", baselines.majority_class, None)
    trivial["probabilities"] = [baselines.class_shares[name] for name in BRAVAIS_LATTICES]
    return [simple, trivial]


def _judge_finder(row: Row, reader: ItemReader, model_id: str, parameters: Mapping[str, Any]) -> list[Row]:
    return [_found_lattice(row, reader.image(row), model_id, parameters)]


def _judge_network(row: Row, reader: ItemReader, model_id: str, checkpoint: Path) -> list[Row]:
    from atomvision_ml.models.lattice_finder import NoLatticeError

    model = ChosenModel(model_spec(model_id.partition("@")[0]), checkpoint)
    try:
        result = model(reader.image(row), row["pixel_size_angstrom"], **_scan_of(row))
    except NoLatticeError as error:
        log.info("%s: %s", row["item_id"], error)
        return [_lattice_row(row, model_id, "model", None, None)]
    answer = _lattice_row(row, model_id, "model", result.lattice, getattr(result, "lattice_vectors_angstrom", None))
    answer["probabilities"] = [float(result.probabilities[name]) for name in BRAVAIS_LATTICES]
    uncertainties = getattr(result, "uncertainties_angstrom", None)
    answer["uncertainties_angstrom"] = None if uncertainties is None else _finite(uncertainties)
    return [answer]


def _found_lattice(row: Row, image: NDArray[Any], model_id: str, parameters: Mapping[str, Any]) -> Row:
    from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice

    chosen = LatticeFinderParameters(**{**parameters, **_scan_of(row)})
    try:
        result = find_lattice(image, row["pixel_size_angstrom"], chosen)
    except NoLatticeError as error:
        log.info("%s: %s", row["item_id"], error)
        return _lattice_row(row, model_id, "model", None, None)
    answer = _lattice_row(row, model_id, "model", result.lattice, result.lattice_vectors_angstrom)
    answer["probabilities"] = [float(result.probabilities[name]) for name in BRAVAIS_LATTICES]
    answer["uncertainties_angstrom"] = _finite(result.uncertainties_angstrom)
    return answer


def _scan_of(row: Row) -> dict[str, Any]:
    """What a model is told of the scan: a micrograph's is distorted, a simulated image's is perfect."""
    return {"scan_distortion_percent": SCAN_DISTORTION_PERCENT} if row.get("source") == EXPERIMENTS else {}


def _lattice_row(row: Row, model_id: str, role: str, lattice: str | None, vectors: ArrayLike | None) -> Row:
    """One answer; of an experimental image nobody knows the vectors."""
    true = row.get("lattice_vectors_angstrom")
    return {
        "item_id": row["item_id"],
        "model_id": model_id,
        "role": role,
        "lattice": lattice,
        "lattice_vectors_angstrom": None if vectors is None else _finite(vectors),
        "is_correct": lattice == row["bravais_lattice"],
        "vector_error_angstrom": None if vectors is None or true is None else vector_error(vectors, true),
    }


def _finite(values: ArrayLike) -> list[float] | None:
    flat = np.asarray(values, float).ravel()
    return flat.tolist() if np.isfinite(flat).all() else None


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    classes = list(BRAVAIS_LATTICES)
    truth = np.array([classes.index(name) for name in answers["bravais_lattice"]])
    found = np.array([classes.index(name) if name else len(classes) for name in answers["lattice"]])
    confusion = np.zeros((len(truth), len(classes), len(classes) + 1))
    confusion[np.arange(len(truth)), truth, found] = 1
    sums = {"confusion": confusion}
    given = answers["probabilities"].is_not_null().to_numpy()
    if given.any():
        top = np.array([max(values) if values is not None else 0.0 for values in answers["probabilities"]])
        place = np.minimum((top * ECE_BINS).astype(int), ECE_BINS - 1)
        bins = np.zeros((len(truth), ECE_BINS, 3))
        bins[np.arange(len(truth)), place] = np.stack([np.ones(len(truth)), top, truth == found], axis=1)
        sums["bins"] = bins * given[:, None, None]
    return sums, _lattice_figures


def _lattice_figures(sums: Figures) -> Figures:
    """From confusion counts (b, class, answer) and calibration bins (b, bin, 3) to figures (b,).

    ``confusion_<true>_as_<found>`` is the share of a class that is taken for another one, or for ``none`` where there
    is no answer: with the recalls the whole confusion matrix, each row normalised.
    """
    confusion = sums["confusion"]
    support, hits = confusion.sum(axis=2), np.diagonal(confusion[:, :, :-1], axis1=1, axis2=2)
    answered = confusion[:, :, :-1].sum(axis=1)
    recall = ratio(hits, support)
    f1 = np.where(support > 0, ratio(2 * hits, support + answered), np.nan)
    figures = {
        "accuracy": ratio(hits.sum(axis=1), support.sum(axis=1)),
        "balanced_accuracy": mean_of_known(recall),
        "macro_f1": mean_of_known(f1),
        **{f"recall_{name}": recall[:, number] for number, name in enumerate(BRAVAIS_LATTICES)},
        **{
            f"confusion_{true}_as_{found}": ratio(confusion[:, row, column], support[:, row])
            for row, true in enumerate(BRAVAIS_LATTICES)
            for column, found in enumerate((*BRAVAIS_LATTICES, NO_ANSWER))
            if row != column
        },
    }
    if "bins" in sums:
        count, top, right = np.moveaxis(sums["bins"], 2, 0)
        figures["ece"] = ratio(np.abs(top - right).sum(axis=1), count.sum(axis=1))
    return figures


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    image, pixel = context.reader.image(row), row["pixel_size_angstrom"]
    answers = context.answers[row["item_id"]]
    models = [answer for answer in answers if answer["role"] == "model"]
    own = next((answer for answer in models if method_name(answer) == "lattice finder"), models[0])
    vectors = own["lattice_vectors_angstrom"]
    drawn = [
        add_picture(context, row, "structure", "structure, one cell", _structure(row, context)),
        add_picture(context, row, "image", "image, found cell", pictures.image_picture(image, pixel, vectors)),
        add_picture(
            context,
            row,
            "diffractogram",
            "diffractogram, found lattice",
            pictures.diffractogram_picture(image, pixel, vectors),
        ),
    ]
    return {
        **entry_head(row),
        "is_right": own["is_correct"],
        "pictures": drawn,
        "facts": [
            ("label", row["bravais_lattice"]),
            *[(method_name(answer), _in_words(answer)) for answer in [own, *_others(answers, own)]],
            ("error of the vectors", picometres(own["vector_error_angstrom"])),
        ],
        "bars": [(name, value) for name, value in zip(BRAVAIS_LATTICES, own["probabilities"] or [], strict=False)],
    }


def _others(answers: list[Row], own: Row) -> list[Row]:
    """The other answers, models first."""
    return sorted((answer for answer in answers if answer is not own), key=lambda answer: answer["role"] != "model")


def _in_words(answer: Row) -> str:
    """Class, and the probability that a model gives it."""
    if answer["lattice"] is None:
        return "no lattice found"
    if answer["role"] != "model" or answer["probabilities"] is None:
        return str(answer["lattice"])
    return f"{answer['lattice']} ({max(answer['probabilities']):.2f})"


def _structure(row: Row, context: GalleryContext) -> bytes:
    known = context.images.get(row["image_id"])
    atoms = known["atoms"] if known else []
    return pictures.structure_picture(atoms, row["field_angstrom"], row["lattice_vectors_angstrom"])
