"""Stored texts to figures, panels and mentions: both routes, sub-figures, and what each image shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomvision_ml.literature.double.corpus_reader import read_corpus
from atomvision_ml.literature.extraction import figure_rows, mention_rows, panel_rows, parsed_figures, whole_caption
from atomvision_ml.literature.figures import SourceFigure, SubFigure
from atomvision_ml.literature.identifiers import ArxivId
from atomvision_ml.literature.texts import FILE
from atomvision_ml.schemas.tables import table

BY = "http://creativecommons.org/licenses/by/4.0/"
TEX = r"""\documentclass{article}\begin{document}\begin{figure}\includegraphics{a}
\caption{(a) HAADF-STEM image of MoS$_2$. Scale bar, 2 nm. (b) STM image of graphene on Ir(111).}\end{figure}
\begin{figure}\includegraphics{b}\caption{Resistivity of La$_{0.67}$Ca$_{0.33}$MnO$_3$ against temperature.}
\end{figure}\end{document}"""


def text(name: str = "1803.00001", version: int = 1, **fields: Any) -> dict[str, Any]:
    common = {"month": "2018-03", "arxiv_id": name, "version": version, "status": "accepted", "reason": None}
    return {**common, "route": "tex", "blob": "tex", "licence_url": BY, **fields}


def paper(name: str = "1803.00001", version: int = 1, is_withdrawn: bool = False) -> dict[str, Any]:
    return {"arxiv_id": name, "latest_version": version, "is_withdrawn": is_withdrawn}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    for name, body in {"tex": TEX, "damaged": "\\begin{figure}"}.items():
        (folder / name).mkdir()
        (folder / name / FILE["tex"]).write_text(body)
    return folder


def figures(blobs: Path, papers: Sequence[dict[str, Any]], texts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = figure_rows(papers, texts, lambda blob: blobs / blob)
    assert table("literature/figures").from_rows(rows).num_rows == len(rows)
    return rows


def test_figures_have_captions_links_and_a_licence(blobs: Path) -> None:
    first, second = figures(blobs, [paper()], [text()])
    assert first["caption"].startswith("(a) HAADF-STEM image of MoS2.")
    assert first["paper_url"] == "https://arxiv.org/abs/1803.00001v1"
    assert (first["is_relevant"], second["is_relevant"]) == (True, False)
    assert (first["licence"], first["is_redistributable"], first["is_current"]) == ("cc-by-4.0", True, True)
    assert [row["place"] for row in (first, second)] == [1, 2]
    assert first["figure_id"] != second["figure_id"]


@pytest.mark.parametrize(
    ("known", "is_current"),
    [(paper(), True), (paper(version=2), False), (paper(is_withdrawn=True), False), (paper("1803.00002"), False)],
    ids=["newest", "superseded", "withdrawn", "unknown"],
)
def test_only_the_newest_version_of_a_standing_paper_is_current(
    blobs: Path, known: dict[str, Any], is_current: bool
) -> None:
    assert {row["is_current"] for row in figures(blobs, [known], [text()])} == {is_current}


def test_each_version_has_its_own_licence(blobs: Path) -> None:
    rows = figures(blobs, [paper(version=2)], [text(licence_url=None), text(version=2)])
    assert {(row["version"], row["is_redistributable"]) for row in rows} == {(1, False), (2, True)}


def test_text_that_cannot_be_read_is_a_rejected_row_and_the_others_go_on(blobs: Path) -> None:
    rows = figures(blobs, [paper()], [text("1803.00002", blob="damaged"), text()])
    assert [row["status"] for row in rows] == ["rejected", "accepted", "accepted"]
    assert rows[0]["place"] == 0
    assert "begins a document" in rows[0]["reason"]


def test_captions_of_sub_figures_follow_behind_their_letters() -> None:
    parts = (SubFigure(label="a", caption="STM image", images=("a.png",)), SubFigure(label="b", caption="", images=()))
    figure = SourceFigure(number="1", caption="Graphene", images=(), parts=parts)
    assert whole_caption(figure) == "Graphene. (a) STM image."
    assert whole_caption(SourceFigure(number="1", caption="", images=(), parts=parts)) == "(a) STM image."
    assert whole_caption(SourceFigure(number="1", caption="Graphene", images=())) == "Graphene"


def test_mentions_are_comparable_with_materials_where_the_amounts_are_known(blobs: Path) -> None:
    rows = mention_rows(figures(blobs, [paper()], [text()]))
    assert table("literature/mentions").from_rows(rows).num_rows == len(rows)
    found = {(row["panel_id"].rpartition(":")[2], row["reduced_formula"], row["role"], row["facet"]) for row in rows}
    assert {("a", "MoS2", "sample", None), ("b", "C", "sample", None), ("b", "Ir", "substrate", "111")} <= found
    assert {row["chemical_system"] for row in rows if row["formula"].startswith("La0.67")} == {"Ca-La-Mn-O"}


def image(figure: dict[str, Any], url: str, place: int = 1, status: str = "accepted") -> dict[str, Any]:
    return {"figure_id": figure["figure_id"], "url": url, "place": place, "status": status}


def panels(figures: list[dict[str, Any]], images: list[dict[str, Any]], **pixels: np.ndarray) -> dict[str, Any]:
    rows = panel_rows(figures, images, lambda row: pixels.get(row["url"]), None)
    assert table("literature/panels").from_rows(rows).num_rows == len(rows)
    return {row["label"]: row for row in rows if row["figure_id"] == figures[0]["figure_id"]}


def noise(width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 200, (120, width, 3), np.uint8)


def test_panels_without_images_say_what_the_caption_says(blobs: Path) -> None:
    found = panels(figures(blobs, [paper()], [text()]), [])
    assert {label: row["modality"] for label, row in found.items()} == {"a": "STEM", "b": "STM"}
    assert {row["image_status"] for row in found.values()} == {"absent"}
    assert (found["a"]["scale_bar_nm"], found["a"]["scale_bar_source"]) == (2.0, "caption")


def test_one_image_is_divided_among_the_panels(blobs: Path) -> None:
    rows = figures(blobs, [paper()], [text()])
    composite = np.concatenate([noise(120), np.full((120, 12, 3), 255, np.uint8), noise(120)], axis=1)
    found = panels(rows, [image(rows[0], "whole")], whole=composite)
    assert {row["image_status"] for row in found.values()} == {"matched"}
    assert found["a"]["box_px"][2] <= found["b"]["box_px"][0]
    assert {row["image_url"] for row in found.values()} == {"whole"}


def test_images_of_sub_figures_go_to_the_panels_that_the_source_names(blobs: Path) -> None:
    rows = figures(blobs, [paper()], [text()])
    rows[0] = {**rows[0], "image_urls": ["x", "y"], "image_labels": ["b", "a"]}
    found = panels(rows, [image(rows[0], "x"), image(rows[0], "y", 2)], x=noise(90), y=noise(150))
    assert {label: row["image_url"] for label, row in found.items()} == {"a": "y", "b": "x"}


def test_images_without_letters_are_dealt_out_in_order_or_not_at_all(blobs: Path) -> None:
    rows = figures(blobs, [paper()], [text()])
    rows[0] = {**rows[0], "image_urls": ["x", "y"], "image_labels": ["", ""]}
    found = panels(rows, [image(rows[0], "y", 2), image(rows[0], "x")], x=noise(90), y=noise(150))
    assert {label: row["image_url"] for label, row in found.items()} == {"a": "x", "b": "y"}
    rows[0] = {**rows[0], "image_urls": ["x", "y", "z"], "image_labels": ["", "", ""]}
    found = panels(rows, [image(rows[0], url, place) for place, url in enumerate("xyz", start=1)])
    assert {row["image_status"] for row in found.values()} == {"ambiguous"}


def test_image_that_was_rejected_or_cannot_be_read_is_unreadable(blobs: Path) -> None:
    rows = figures(blobs, [paper()], [text()])
    for status in ("rejected", "accepted"):
        found = panels(rows, [image(rows[0], "gone", status=status)])
        assert {row["image_status"] for row in found.values()} == {"unreadable"}


def test_corpus_gives_the_same_captions_by_both_routes() -> None:
    corpus = read_corpus()
    compared = 0
    for held in corpus.papers:
        name = ArxivId(held.id, held.newest.version)
        page, files = corpus.page_file(name, "index.html"), corpus.source_files(name)
        if page is None or not files or compared >= 8:
            continue
        html = parsed_figures(name, "html", page.read_bytes())
        assert html, name
        assert all(url.startswith("https://arxiv.org/html/") for figure in html for url in figure.images)
        compared += 1
    assert compared == 8
