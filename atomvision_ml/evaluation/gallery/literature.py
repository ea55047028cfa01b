"""The page of mined figures: pictures and captions whose licence allows it, links to all others.

Belongs here: which figures are shown and what is said of them. Pictures are shown as they came, because some licences
allow no changed copies; boxes of panels are drawn over them by the page.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.gallery.pages import write_page
from atomvision_ml.evaluation.holdout import OpenBlob
from atomvision_ml.literature.captions import plain_caption

Row = dict[str, Any]

TITLE = "Mined figures"
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp"}
"""What browsers show; other formats are copied as PNG."""


class LiteratureGalleryParameters(BaseModel):
    """How much is shown; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_figures: int = Field(default=60, ge=1, le=500, description="Most figures shown, the newest papers first.")


def build_literature_gallery(
    folder: Path,
    *,
    papers: pl.LazyFrame,
    figures: pl.LazyFrame,
    images: pl.LazyFrame,
    panels: pl.LazyFrame,
    mentions: pl.LazyFrame,
    open_blob: OpenBlob,
    asked: Sequence[str] = (),
    parameters: LiteratureGalleryParameters | None = None,
) -> list[Row]:
    """Write the page and its pictures.

    Args:
        folder: where to; made if missing. Start at ``index.html``.
        papers: rows of ``literature/papers``; withdrawn papers are left out.
        figures: rows of ``literature/figures``; relevant ones of newest versions are shown.
        images: rows of ``literature/images``.
        panels: rows of ``literature/panels``.
        mentions: rows of ``literature/mentions``.
        open_blob: local folder of a blob.
        asked: addresses that the papers were harvested from; the page names their hosts.
        parameters: how much is shown.

    Returns:
        Rows of ``literature/gallery`` without ``blob``; one page, without figures if there are none.
    """
    chosen = parameters or LiteratureGalleryParameters()
    about = (
        "arxiv_id",
        "title",
        "authors",
        "first_version_at",
        pl.col("licence").alias("paper_licence"),
        "licence_url",
    )
    standing = papers.filter(~pl.col("is_withdrawn")).select(*about)
    mined = figures.filter(pl.col("is_relevant") & pl.col("is_current")).join(standing, on="arxiv_id")
    order = pl.col("first_version_at"), pl.col("arxiv_id"), -pl.col("place")
    shown = mined.top_k(chosen.maximum_figures, by=order).sort(order, descending=True).collect()
    of_shown = pl.col("figure_id").is_in(shown["figure_id"].implode())
    pictures = _by_figure(images.filter(of_shown & pl.col("is_redistributable")).sort("place"))
    divided, named = _by_figure(panels.filter(of_shown)), _by_figure(mentions.filter(of_shown))
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    entries = []
    for figure in shown.iter_rows(named=True):
        own = divided.get(figure["figure_id"], [])
        kept = [_picture(image, own, open_blob, folder) for image in pictures.get(figure["figure_id"], [])]
        entries.append(_entry(figure, own, named.get(figure["figure_id"], []), [each for each in kept if each]))
    hosts = sorted({urlsplit(address).hostname or address for address in asked})
    counts = mined.select(pl.len(), pl.col("arxiv_id").n_unique().alias("papers")).collect().row(0)
    write_page(
        folder / "index.html",
        "literature.html.j2",
        title=TITLE,
        entries=entries,
        n_figures=counts[0],
        n_papers=counts[1],
        hosts=hosts,
        is_arxiv=all(host.endswith("arxiv.org") for host in hosts),
        modalities=Counter(panel["modality"] for entry in entries for panel in entry["panels"]).most_common(),
    )
    return [{"page": "index.html", "title": TITLE, "n_items": len(entries)}]


def _by_figure(rows: pl.LazyFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows.collect().iter_rows(named=True):
        found.setdefault(row["figure_id"], []).append(row)
    return found


def _entry(figure: Row, panels: Sequence[Row], mentions: Sequence[Row], pictures: Sequence[Row]) -> Row:
    formulas: dict[str, list[str]] = {}
    for mention in mentions:
        facet = f"({mention['facet']})" if mention["facet"] else ""
        part = "" if mention["role"] == "sample" else f" ({mention['role']})"
        formulas.setdefault(mention["panel_id"], []).append(f"{mention['formula']}{facet}{part}")
    is_free = figure["is_redistributable"]
    return {
        **figure,
        "title": plain_caption(figure["title"]),
        "caption": figure["caption"] if is_free else None,
        "licence_url": figure["licence_url"] if is_free and figure["paper_licence"] == figure["licence"] else None,
        "pictures": pictures if is_free else [],
        "panels": [
            {
                "label": panel["label"],
                "modality": panel["modality"],
                "confidence": panel["modality_confidence"],
                "formulas": ", ".join(dict.fromkeys(formulas.get(panel["panel_id"], []))),
                "scale": _scale(panel),
            }
            for panel in panels
        ],
    }


def _picture(image: Row, panels: Sequence[Row], open_blob: OpenBlob, folder: Path) -> Row | None:
    """Copy a picture beside the page; None where there is none to copy."""
    from PIL import Image

    if image["status"] != "accepted":
        return None
    source = open_blob(image["blob"]) / image["file"]
    with Image.open(source) as opened:
        suffix = _SUFFIXES.get(str(opened.format))
        path = folder / "pictures" / f"{image['figure_id']}-{image['place']}{suffix or '.png'}"
        if suffix is None:
            opened.convert("RGB").save(path)
    if suffix is not None:
        shutil.copyfile(source, path)
    boxes = [_box(panel) for panel in panels if panel["box_px"] and panel["image_url"] == image["url"]]
    return {
        "file": f"pictures/{path.name}",
        "url": image["url"],
        "width": image["width_px"],
        "height": image["height_px"],
        "boxes": boxes,
    }


def _box(panel: Mapping[str, Any]) -> Row:
    left, top, right, bottom = panel["box_px"]
    return {"label": panel["label"], "x": left, "y": top, "width": right - left, "height": bottom - top}


def _scale(panel: Row) -> str:
    if panel["scale_bar_nm"] is None:
        return ""
    pixel = f", {panel['pixel_size_nm']:.3g} nm per pixel" if panel["pixel_size_nm"] is not None else ""
    return f"{panel['scale_bar_nm']:g} nm (from the {panel['scale_bar_source']}){pixel}"
