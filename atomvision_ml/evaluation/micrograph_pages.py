"""From stored micrographs to their pages and to rows of ``evaluation/matched_pairs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.gallery.micrograph import write_micrograph_page
from atomvision_ml.evaluation.matched_pairs import MaterialMatch, matching_materials
from atomvision_ml.experiments.analysis import analyse, of_technique
from atomvision_ml.experiments.findings import finding_words
from atomvision_ml.experiments.micrograph_store import read_image, read_pixels
from atomvision_ml.experiments.reference_phases import named_phases, reference_phases

Row = dict[str, Any]
PAGE = "index.html"

_WAITING = "no page yet"

_EMPTY: Row = {
    "rank": None,
    "crystal": None,
    "formula": None,
    "source": None,
    "similarity": None,
    "scale": None,
    "anisotropy": None,
}


class PageParameters(BaseModel):
    """How many pages are made at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_pages: int = Field(default=500, ge=0, description="Most pages made in one run, the newest micrographs first.")


def pair_rows(
    micrographs: Sequence[Row],
    records: Mapping[str, Row],
    findings: Sequence[Row],
    slabs: pl.DataFrame | None,
    *,
    open_blob: Callable[[str], Path],
    keep: Callable[[Path], str],
    scratch: Path,
    former: Sequence[Row] = (),
    parameters: PageParameters | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Row]:
    """Rows of ``evaluation/matched_pairs``, the newest micrographs first; pages are kept while the same models answer.

    Args:
        micrographs: rows of ``experiments/micrographs``.
        records: rows of ``experiments/records`` by receipt_id.
        findings: rows of ``experiments/findings``.
        slabs: rows of ``structures/slabs``; None for reference phases only.
        open_blob: local folder of a blob.
        keep: takes a folder over and tells its name.
        scratch: folder for unfinished pages.
        former: rows that this code made of the same slabs.
        parameters: how many pages are made.
        progress: called with (micrographs done, micrographs in all).
    """
    chosen, known, said = parameters or PageParameters(), _by_record(former), _by_record(findings)
    rows, made = [], 0
    for done, micrograph in enumerate(sorted(micrographs, key=_newest_first)):
        before, answers = known.get(micrograph["record_id"], []), said.get(micrograph["record_id"], [])
        if before and before[0]["blob"] is not None and before[0]["models"] == _models(answers):
            rows += before
        elif made < chosen.most_pages:
            folder = scratch / micrograph["record_id"]
            record = {**records.get(micrograph["receipt_id"], {}), **micrograph}
            rows += _page(folder, record, answers, slabs, open_blob, keep)
            made += 1
        else:
            rows.append(_row(micrograph, _EMPTY, reason=f"{_WAITING}: {chosen.most_pages} are made at once"))
        if progress is not None:
            progress(done + 1, len(micrographs))
    return rows


def n_waiting(rows: Iterable[Row]) -> int:
    """How many micrographs wait for a page: those that were beyond the number made at once."""
    return sum((row["reason"] or "").startswith(_WAITING) for row in rows)


def _newest_first(micrograph: Row) -> tuple[int, str]:
    return -int(micrograph["day"].replace("-", "")), micrograph["record_id"]


def _by_record(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["record_id"], []).append(row)
    return found


def _models(findings: Sequence[Row]) -> list[str]:
    """Checkpoints whose answers a page shows."""
    return sorted({row["model_id"] for row in findings if row["model_id"] is not None})


def _page(
    folder: Path,
    record: Row,
    findings: Sequence[Row],
    slabs: pl.DataFrame | None,
    open_blob: Callable[[str], Path],
    keep: Callable[[Path], str],
) -> list[Row]:
    """Analyse one micrograph, write its page, and tell its pairs."""
    image, n_frames = read_image(open_blob(record["blob"])), record["n_frames"]
    pixel = None
    if record["pixel_size_x_nm"] is not None and record["pixel_size_y_nm"] is not None:
        pixel = (10 * record["pixel_size_x_nm"], 10 * record["pixel_size_y_nm"])
    phases = named_phases(record, reference_phases())
    try:
        found = analyse(image, pixel, phases, read_pixels(open_blob(record["blob"])) if n_frames > 1 else None)
    except ValueError as error:
        return [_row(record, _EMPTY, reason=str(error))]
    found = of_technique(found, record.get("technique"))
    matches = matching_materials(
        image, found, phases, None if slabs is None else slabs.lazy(), record.get("material_formula")
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_micrograph_page(
        folder / PAGE,
        image,
        found,
        title=record.get("original_filename") or record["record_id"],
        record=record,
        matches=matches,
        findings=[{"model": str(row["name"] or row["task"]), "answer": finding_words(row)} for row in findings],
        materials_asked=", ".join(phase.name for phase in phases),
    )
    said = {
        "zone_axis": found.zone_axis.name if found.zone_axis else None,
        "summary_json": json.dumps(found.summary()),
        "models": _models(findings),
        "blob": keep(folder),
    }
    drawn = [match for match in matches if match.simulated is not None]
    if not drawn:
        reason = "no crystal of this lattice was asked for or is known" if found.lattice else "no lattice was found"
        return [_row(record, _EMPTY, reason=reason, **said)]
    return [_row(record, _pair(match, rank), **said) for rank, match in enumerate(drawn, start=1)]


def _row(micrograph: Row, pair: Row, **said: Any) -> Row:
    about = {"record_id": micrograph["record_id"], "day": micrograph["day"]}
    return {
        **about,
        "zone_axis": None,
        "summary_json": None,
        "reason": None,
        "models": [],
        "blob": None,
        **pair,
        **said,
    }


def _pair(match: MaterialMatch, rank: int) -> Row:
    return {
        "rank": rank,
        "crystal": match.name,
        "formula": match.formula,
        "source": match.source,
        "similarity": match.similarity,
        "scale": match.scale,
        "anisotropy": match.anisotropy,
    }
