"""The page of the models' story: every verdict, with what led to it.

Belongs here: the order of the page. The same in SQL is the view ``models.story``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from atomvision_ml.evaluation.gallery.pages import write_page
from atomvision_ml.evaluation.protocol import PROTOCOLS

Row = dict[str, Any]

PAGE, TITLE = "story.html", "The story of the models"


def write_story(folder: Path, book: Sequence[Row]) -> Row:
    """Write the page.

    Args:
        folder: of the gallery.
        book: rows of ``models/verdicts``, in their order.

    Returns:
        A row of ``evaluation/gallery`` without ``blob``.
    """
    tasks = [task for task in PROTOCOLS if any(row["task"] == task for row in book)]
    write_page(folder / PAGE, "story.html.j2", title=TITLE, tasks=[_task(task, book) for task in tasks])
    return {"page": PAGE, "title": TITLE, "n_items": len(book)}


def _task(task: str, book: Sequence[Row]) -> Row:
    own = [row for row in book if row["task"] == task]
    verdicts = [{**row, "at": _minute(row)} for row in reversed(own)]
    return {"title": PROTOCOLS[task].title, "reigns": reigns(own)[::-1], "verdicts": verdicts}


def reigns(own: Sequence[Row]) -> list[Row]:
    """Who was in office from when to when, the first one first, from the verdicts on one task; as ``models.reigns``."""
    starts = [next(rows) for _, rows in groupby(own, key=lambda row: row["champion_id"])]
    return [
        {
            "model_id": row["champion_id"],
            "since": _minute(row),
            "until": None if after is None else _minute(after),
            "decided_by": row["decided_by"],
        }
        for row, after in pairwise([*starts, None])
        if row is not None and row["champion_id"] is not None
    ]


def _minute(row: Row) -> str:
    return f"{row['judged_at']:%Y-%m-%d %H:%M}"
