"""The gallery: an index and one page per task, with everything they need beside them.

Belongs here: which items are shown and what is said of them. Pages use no script and nothing from the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.gallery.entries import GalleryContext, dose_words
from atomvision_ml.evaluation.gallery.pages import write_page
from atomvision_ml.evaluation.gallery.story import write_story
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.metrics import over_seeds
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.tasks import TASKS as TASK_CODE
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, TASKS

Progress = Callable[[int, "int | None"], None]
Row = dict[str, Any]


class GalleryParameters(BaseModel):
    """How much is shown; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_items: int = Field(default=35, ge=2, le=60, description="Most items shown, over all tasks.")


def build_gallery(
    folder: Path,
    *,
    holdout: pl.DataFrame,
    images: pl.DataFrame,
    predictions: Mapping[str, pl.DataFrame],
    metrics: pl.DataFrame,
    open_blob: OpenBlob,
    checkpoints: Mapping[str, Path] | None = None,
    champions: pl.DataFrame | None = None,
    book: Sequence[Row] = (),
    parameters: GalleryParameters | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Write the pages and pictures.

    Args:
        folder: where to; made if missing. Start at ``index.html``.
        holdout: rows of ``evaluation/holdout``.
        images: rows of ``images/stem`` with their ``atoms``; a lazy selection of the hold-out's images is enough.
        predictions: answers by task, see :func:`atomvision_ml.evaluation.answers.by_task`; a task may be absent.
        metrics: rows of ``evaluation/metrics``.
        open_blob: local folder of a blob.
        checkpoints: by registered name, those whose answers are drawn; without one a page may have fewer pictures.
        champions: rows of ``models/champions``, for the verdicts.
        book: rows of ``models/verdicts``, for the page of their story.
        parameters: how much is shown.
        progress: called with (items drawn, items in all).

    Returns:
        Rows of ``evaluation/gallery`` without ``blob``.

    Raises:
        ValueError: there is nothing to show.
    """
    chosen = parameters or GalleryParameters()
    tasks = [task for task in TASKS if task in predictions and (holdout["task"] == task).any()]
    if not tasks:
        raise ValueError("no task has both hold-out items and predictions")
    shown = {task: _choose(holdout, predictions[task], task, chosen.maximum_items // len(tasks)) for task in tasks}
    wanted = [row["image_id"] for rows in shown.values() for row in rows]
    known = images.filter(pl.col("image_id").is_in(wanted)).select("image_id", "slab_id", "atoms")
    context = GalleryContext(
        folder=folder,
        reader=ItemReader(open_blob),
        images={row["image_id"]: row for row in known.iter_rows(named=True)},
        answers=_by_item(predictions, [row["item_id"] for rows in shown.values() for row in rows]),
        checkpoints=checkpoints or {},
    )
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    verdicts = {row["task"]: row for row in champions.iter_rows(named=True)} if champions is not None else {}
    metrics = over_seeds(metrics)
    total, done = sum(len(rows) for rows in shown.values()), 0
    pages, cards = [], []
    for task in tasks:
        entries = []
        for row in shown[task]:
            entries.append(TASK_CODE[task].draw(row, context))
            done += 1
            if progress is not None:
                progress(done, total)
        name = f"{task}.html"
        page = {
            "page": name,
            "title": PROTOCOLS[task].title,
            "entries": entries,
            "tables": result_tables(metrics, task),
            "verdict": verdicts.get(task),
        }
        write_page(folder / name, "task.html.j2", **page)
        pages.append({"page": name, "title": PROTOCOLS[task].title, "n_items": len(entries)})
        cards.append(_summary(page, metrics, task))
    title = "AtomVision gallery"
    story = write_story(folder, book) if book else None
    pages += [story] if story else []
    write_page(folder / "index.html", "index.html.j2", title=title, cards=cards, story=story)
    return [{"page": "index.html", "title": title, "n_items": total}, *pages]


def result_tables(metrics: pl.DataFrame, task: str) -> list[Row]:
    """For each slice one table: models as rows, its metrics as columns, values with their intervals."""
    which = PROTOCOLS[task].shown_slices
    own = metrics.filter((pl.col("task") == task) & pl.col("metric").is_in(PROTOCOLS[task].shown_metrics))
    slices = [name for name in own["slice"].unique() if name.partition("|")[0] in which]
    tables = []
    for name in sorted(slices, key=lambda name: (which.index(name.partition("|")[0]), _dose_order(name))):
        part = own.filter(pl.col("slice") == name)
        present = set(part["metric"])
        names = tuple(metric for metric in PROTOCOLS[task].shown_metrics if metric in present)
        tables.append(
            {
                "slice": name.partition("|")[0],
                "dose": dose_words(name.partition("|")[2]),
                "n_items": part["n_items"][0],
                "metrics": [PROTOCOLS[task].label(metric) for metric in names],
                "rows": _table_rows(part, names),
            }
        )
    return tables


def _table_rows(part: pl.DataFrame, names: tuple[str, ...]) -> list[Row]:
    order = {"model": 0, "classical": 1, "trivial": 2}
    models = sorted(part.select("model", "role").unique().iter_rows(), key=lambda pair: (order[pair[1]], pair[0]))
    cells = {(row["model"], row["metric"]): row for row in part.iter_rows(named=True)}
    return [
        {"model": model, "role": role, "cells": [_cell(cells.get((model, name))) for name in names]}
        for model, role in models
    ]


def _cell(row: Row | None) -> Row:
    if row is None:
        return {"value": "–", "interval": ""}
    interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return {"value": f"{row['value']:.3f}", "interval": interval}


def _choose(holdout: pl.DataFrame, predictions: pl.DataFrame, task: str, count: int) -> list[Row]:
    """Items of all classes in turn, the doses taking turns too; the model's worst item comes first."""
    rows = holdout.filter(pl.col("task") == task).to_dicts()
    scores = _scores(predictions, PROTOCOLS[task].score)
    rows = [row for row in rows if row["item_id"] in scores]
    if not rows:
        return []
    worst = min(rows, key=lambda row: (scores[row["item_id"]], row["item_id"]))
    by_class: dict[str, list[str]] = {}
    for image, name in sorted({(row["image_id"], row["bravais_lattice"]) for row in rows}):
        by_class.setdefault(name, []).append(image)
    for images in by_class.values():
        images.sort(key=lambda image: stable_seed("gallery", image))
    turns = max(len(images) for images in by_class.values())
    classes = [name for name in BRAVAIS_LATTICES if name in by_class]
    order = [by_class[name][turn] for turn in range(turns) for name in classes if turn < len(by_class[name])]
    doses = sorted({row["mean_detected_e_per_a2"] for row in rows}, key=lambda dose: -(dose or float("inf")))
    by_key = {(row["image_id"], row["mean_detected_e_per_a2"]): row for row in rows}
    chosen = [worst]
    for number, image in enumerate(order):
        row = by_key.get((image, doses[number % len(doses)]))
        if row is not None and row is not worst and len(chosen) < count:
            chosen.append(row)
    best = max(scores.values())
    return [
        {**row, "is_worst": row is worst and scores[row["item_id"]] < best, "score": scores[row["item_id"]]}
        for row in chosen
    ]


def _scores(predictions: pl.DataFrame, score: str | None) -> dict[str, float]:
    """The models' mean score of each item that they answered; where it has none, as good as can be."""
    value = pl.lit(None) if score is None else pl.col(score)
    own = predictions.filter(pl.col("role") == "model").group_by("item_id").agg(value.cast(pl.Float64).mean())
    return {item: np.inf if mean is None or np.isnan(mean) else mean for item, mean in own.iter_rows()}


def _by_item(predictions: Mapping[str, pl.DataFrame], items: list[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for table in predictions.values():
        for row in table.filter(pl.col("item_id").is_in(items)).iter_rows(named=True):
            found.setdefault(row["item_id"], []).append(row)
    return found


def _summary(page: Row, metrics: pl.DataFrame, task: str) -> Row:
    metric, where = PROTOCOLS[task].headline
    own = metrics.filter((pl.col("task") == task) & (pl.col("slice") == where) & (pl.col("metric") == metric))
    return {
        **page,
        "picture": next((entry["pictures"][-1] for entry in page["entries"][1::-1] if entry["pictures"]), None),
        "metric": PROTOCOLS[task].label(metric),
        "slice": f"{where.partition('|')[0].replace('_', ' ')}, {dose_words(where.partition('|')[2])}",
        "rows": _table_rows(own, (metric,)),
    }


def _dose_order(name: str) -> float:
    dose = name.partition("|")[2]
    return 0.0 if dose in ("clean", "as_taken") else -float(dose) + 1e9
