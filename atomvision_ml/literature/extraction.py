"""What is in the full texts: ``literature/figures``, ``literature/panels`` and ``literature/mentions``.

Belongs here: from bytes that were kept to rows, without asking anybody. What a caption means is found by
:mod:`.understanding`, what an image shows by :mod:`.panel_images`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_ml.literature import latexml, tex
from atomvision_ml.literature.addresses import abstract_url, html_url, source_url
from atomvision_ml.literature.archives import ArchiveError, read_source
from atomvision_ml.literature.figures import SourceFigure
from atomvision_ml.literature.formulas import composition, elements_of, reduced_formula
from atomvision_ml.literature.identifiers import ArxivId
from atomvision_ml.literature.licences import permission
from atomvision_ml.literature.replies import DamagedReplyError, Reply
from atomvision_ml.literature.texts import stored_text
from atomvision_ml.literature.understanding import FigureUnderstanding, Panel, understand

if TYPE_CHECKING:
    import numpy as np

    from atomvision_ml.literature.text_reading import ReadText

Row = dict[str, Any]
Progress = Callable[[int, "int | None"], None]
ReadImage = Callable[[Row], "np.ndarray | None"]


def figure_rows(
    papers: Iterable[Row],
    texts: Sequence[Row],
    open_blob: Callable[[str], Path],
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The figures of all texts of a month.

    Args:
        papers: rows of ``literature/papers``.
        texts: rows of ``literature/texts``.
        open_blob: gives the folder of a blob.
        progress: called with (texts done, texts).

    Returns:
        Rows ordered by paper, version and place. A text that cannot be read gives one rejected row.
    """
    current = {row["arxiv_id"]: row["latest_version"] for row in papers if not row["is_withdrawn"]}
    rows: list[Row] = []
    accepted = [row for row in texts if row["status"] == "accepted"]
    for done, text in enumerate(accepted, start=1):
        is_current = current.get(text["arxiv_id"]) == text["version"]
        rows += _figures_of(text, is_current, stored_text(open_blob(text["blob"]), text["route"]))
        progress(done, len(accepted))
    return rows


def parsed_figures(name: ArxivId, route: str, body: bytes) -> list[SourceFigure]:
    """The figures of a text, their images as addresses at arXiv.

    Raises:
        DamagedReplyError: no page of LaTeXML's.
        ArchiveError: a damaged archive.
        TexError: TeX that cannot be followed.
    """
    if route == "html":
        return latexml.parse_figures(Reply(html_url(name), 200, {}, body))
    source = read_source(body)
    figures = tex.figures_of_archive(source.texts, set(source.names))
    return [_addressed(figure, f"{source_url(name)}#") for figure in figures]


def whole_caption(figure: SourceFigure) -> str:
    """The caption of a figure followed by those of its sub-figures, each behind its letter."""
    parts = [f"({part.label}) {part.caption}" if part.label else part.caption for part in figure.parts if part.caption]
    own = figure.caption.strip()
    if own and parts and own[-1] not in ".:;?!":
        own += "."
    return " ".join([own, *(part if part[-1] in ".;?!" else f"{part}." for part in parts)]).strip()


def mention_rows(figures: Iterable[Row]) -> list[Row]:
    """The materials that captions name, panel by panel.

    Args:
        figures: rows of ``literature/figures``.
    """
    rows = []
    for figure, understood in _understood(figures):
        for panel in understood.panels:
            for mention in panel.materials:
                rows.append(
                    {
                        "month": figure["month"],
                        "panel_id": panel_id(figure, panel),
                        "figure_id": figure["figure_id"],
                        "arxiv_id": figure["arxiv_id"],
                        "is_current": figure["is_current"],
                        "raw": mention.raw,
                        "formula": mention.formula,
                        "reduced_formula": _comparable(mention.formula, mention.is_variable),
                        "chemical_system": "-".join(sorted(set(elements_of(mention.formula)))),
                        "role": mention.role,
                        "facet": mention.facet,
                    }
                )
    return rows


def panel_rows(
    figures: Iterable[Row],
    images: Iterable[Row],
    read_image: ReadImage,
    read_text: ReadText | None,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The panels of all figures of a month: what captions say of them, and where they are in the images.

    Args:
        figures: rows of ``literature/figures``.
        images: rows of ``literature/images``.
        read_image: pixels of an accepted row of ``literature/images``, uint8 [y, x, 3]; None if they cannot be read.
        read_text: recogniser of the lengths on scale bars and of panel letters; None without one.
        progress: called with (figures done, None).
    """
    of_figure: dict[str, list[Row]] = defaultdict(list)
    for image in images:
        of_figure[image["figure_id"]].append(image)
    rows: list[Row] = []
    for done, (figure, understood) in enumerate(_understood(figures), start=1):
        stated = {panel.label: _stated_nm(panel) for panel in understood.panels}
        seen: dict[str, Row] = {}
        for image, labels in _shared_out(figure, of_figure[figure["figure_id"]], list(stated)):
            seen |= _seen(image, {label: stated[label] for label in labels}, read_image, read_text)
        unseen = {"image_status": "ambiguous" if of_figure[figure["figure_id"]] else "absent"}
        rows += [
            _panel_row(figure, panel, seen.get(panel.label, unseen), stated[panel.label]) for panel in understood.panels
        ]
        progress(done, None)
    return rows


def panel_id(figure: Row, panel: Panel) -> str:
    """Name of a panel."""
    return f"{figure['figure_id']}:{panel.label}"


def _figures_of(text: Row, is_current: bool, body: bytes) -> list[Row]:
    name = ArxivId(text["arxiv_id"], text["version"])
    try:
        figures = parsed_figures(name, text["route"], body)
    except (DamagedReplyError, ArchiveError, tex.TexError) as error:
        rejected = {"status": "rejected", "reason": str(error), "number": None, "caption": None}
        return [_figure_row(text, is_current, 0, rejected)]
    return [_figure_row(text, is_current, place, _told(figure)) for place, figure in enumerate(figures, start=1)]


def _figure_row(text: Row, is_current: bool, place: int, told: Row) -> Row:
    name = ArxivId(text["arxiv_id"], text["version"])
    allowed = permission(text["licence_url"])
    return {
        "month": text["month"],
        "figure_id": hashlib.sha256(f"{name}|{place}".encode()).hexdigest()[:16],
        "arxiv_id": name.base,
        "version": name.version,
        "is_current": is_current,
        "place": place,
        "route": text["route"],
        "paper_url": abstract_url(name),
        "image_urls": [],
        "image_labels": [],
        "n_missing_images": 0,
        "is_relevant": False,
        "licence": allowed.licence,
        "is_redistributable": allowed.is_redistributable,
        **told,
    }


def _told(figure: SourceFigure) -> Row:
    caption = whole_caption(figure)
    images = [(url, "") for url in figure.images] + [(url, part.label) for part in figure.parts for url in part.images]
    found = dict(reversed(images))
    urls = list(dict.fromkeys(url for url, _ in images))
    return {
        "status": "accepted",
        "number": figure.number,
        "caption": caption or None,
        "image_urls": urls,
        "image_labels": [found[url] for url in urls],
        "n_missing_images": figure.n_missing_images,
        "is_relevant": bool(caption) and understand(caption).is_relevant,
    }


def _addressed(figure: SourceFigure, archive: str) -> SourceFigure:
    parts = [part.model_copy(update={"images": tuple(archive + name for name in part.images)}) for part in figure.parts]
    images = tuple(archive + name for name in figure.images)
    return figure.model_copy(update={"images": images, "parts": tuple(parts)})


def _understood(figures: Iterable[Row]) -> Iterator[tuple[Row, FigureUnderstanding]]:
    for figure in figures:
        if figure["caption"]:
            yield figure, understand(figure["caption"])


def _comparable(formula: str, is_variable: bool) -> str | None:
    return None if is_variable or not composition(formula) else reduced_formula(formula)


def _stated_nm(panel: Panel) -> float | None:
    from atomvision_ml.literature.scale_bars import length_nm

    return None if panel.scale_bar is None else length_nm(panel.scale_bar.value, panel.scale_bar.unit)


def _shared_out(figure: Row, images: Sequence[Row], labels: Sequence[str]) -> Iterator[tuple[Row, list[str]]]:
    """Which panels each image of a figure shows: those that the source says, or one each in order, or all in one."""
    ordered = sorted(images, key=lambda image: image["place"])
    if len(ordered) == 1:
        yield ordered[0], list(labels)
        return
    letters = dict(zip(figure["image_urls"], figure["image_labels"], strict=True))
    named = [letters.get(image["url"], "") for image in ordered]
    if len(set(named)) == len(named) and set(named) <= set(labels):
        yield from ((image, [label]) for image, label in zip(ordered, named, strict=True))
    elif len(ordered) == len(labels):
        yield from ((image, [label]) for image, label in zip(ordered, labels, strict=True))


def _seen(
    image: Row, stated_nm: Mapping[str, float | None], read_image: ReadImage, read_text: ReadText | None
) -> dict[str, Row]:
    from atomvision_ml.literature.panel_images import PanelReading, read_panels

    pixels = read_image(image) if image["status"] == "accepted" else None
    if pixels is None:
        readings = [PanelReading(label, "unreadable") for label in stated_nm]
    else:
        readings = read_panels(pixels, list(stated_nm), stated_nm, read_text)
    return {reading.label: {**asdict(reading), "image_url": image["url"]} for reading in readings}


def _panel_row(figure: Row, panel: Panel, seen: Row, stated_nm: float | None) -> Row:
    if seen.get("scale_bar_nm") is None and stated_nm is not None:
        seen = {**seen, "scale_bar_nm": stated_nm, "scale_bar_source": "caption"}
    return {
        "month": figure["month"],
        "panel_id": panel_id(figure, panel),
        "figure_id": figure["figure_id"],
        "arxiv_id": figure["arxiv_id"],
        "version": figure["version"],
        "is_current": figure["is_current"],
        "label": panel.label,
        "text": panel.text,
        "label_confidence": panel.label_confidence,
        "modality": panel.modality,
        "modality_confidence": panel.modality_confidence,
        **seen,
    }
