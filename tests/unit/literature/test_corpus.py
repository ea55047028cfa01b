"""The authored corpus is consistent: with its manuscripts, between its two routes, and with its own pictures."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.formula import Formula
from PIL import Image

from atomvision_ml.literature import latexml, tex
from atomvision_ml.literature.archives import read_source
from atomvision_ml.literature.double.build import CORPUS, MANUSCRIPTS, build
from atomvision_ml.literature.double.corpus_reader import Corpus, HeldPaper, read_corpus
from atomvision_ml.literature.double.labels import labelled_captions
from atomvision_ml.literature.double.manuscript import ROLES, Manuscript, load_manuscripts
from atomvision_ml.literature.double.plates import PanelDrawing, PlateStyle, plate
from atomvision_ml.literature.figures import SourceFigure
from atomvision_ml.literature.identifiers import ArxivId, parse_arxiv_id
from atomvision_ml.literature.licences import permission
from atomvision_ml.literature.replies import Reply
from atomvision_ml.literature.scoring import tally
from atomvision_ml.literature.understanding import understand
from atomvision_ml.schemas.vocabulary import MODALITIES
from atomvision_ml.structures.prototypes import prototype_rows

SLUGS = sorted(folder.name for folder in CORPUS.iterdir())
RELEVANT = {"STM", "STEM", "HRTEM", "TEM"}


@cache
def manuscripts() -> dict[str, Manuscript]:
    return {manuscript.slug: manuscript for manuscript in load_manuscripts(MANUSCRIPTS)}


@cache
def corpus() -> Corpus:
    return read_corpus(CORPUS)


@cache
def papers() -> dict[str, HeldPaper]:
    return {paper.id.replace("/", "_"): paper for paper in corpus().papers}


@cache
def truth(slug: str) -> dict[str, Any]:
    return yaml.safe_load((CORPUS / slug / "truth.yaml").read_text())


def by_tex(folder: Path) -> list[SourceFigure]:
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.tex")}
    return tex.figures_of_archive(texts, {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")})


def by_html(slug: str, version: str) -> list[SourceFigure]:
    url = f"https://arxiv.org/html/{manuscripts()[slug].id}{version}"
    return latexml.parse_figures(Reply(url, 200, {}, (CORPUS / slug / version / "html/index.html").read_bytes()))


def figures(slug: str, version: int) -> list[dict[str, Any]]:
    return truth(slug)["versions"][version]


def test_every_manuscript_is_built() -> None:
    assert sorted(manuscripts()) == SLUGS == sorted(papers())


@pytest.mark.parametrize("slug", SLUGS)
def test_metadata_are_those_of_the_manuscript(slug: str) -> None:
    paper, manuscript = papers()[slug], manuscripts()[slug]
    assert (paper.id, paper.title, paper.author_list) == (manuscript.id, manuscript.title, manuscript.authors)
    assert paper.categories == tuple(manuscript.categories.split())
    assert [version.submitted_at for version in paper.versions] == [version.at for version in manuscript.versions]
    assert paper.datestamp >= paper.versions[-1].submitted_at.date()
    assert paper.is_withdrawn == manuscript.versions[-1].withdrawn
    assert parse_arxiv_id(paper.id).base == paper.id
    assert truth(slug)["is_candidate"] == manuscript.is_candidate


@pytest.mark.parametrize("slug", SLUGS)
def test_both_routes_tell_the_same(slug: str) -> None:
    for page in CORPUS.glob(f"{slug}/v*/html/index.html"):
        version = page.parts[-3]
        ours, theirs = by_html(slug, version), by_tex(CORPUS / slug / version / "src")
        assert [found.caption for found in ours] == [found.caption for found in theirs]
        assert [found.number for found in ours] == [found.number for found in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert [(part.label, part.caption) for part in one.parts] == [
                (part.label, part.caption) for part in other.parts
            ]
            assert one.n_missing_images == other.n_missing_images
            assert len(one.images) == len(other.images)


@pytest.mark.parametrize("slug", SLUGS)
def test_truth_belongs_to_the_text(slug: str) -> None:
    for number, told in truth(slug)["versions"].items():
        folder = CORPUS / slug / f"v{number}"
        if not (folder / "src").exists():
            assert told == []
            assert (folder / "paper.pdf").exists()
            continue
        found = by_tex(folder / "src")
        assert len(found) == len(told)
        for source, figure in zip(found, told, strict=True):
            images = {*source.images, *(name for part in source.parts for name in part.images)}
            assert {panel["image"] for panel in figure["panels"]} - {None} == images
            labels = [panel["label"] for panel in figure["panels"]]
            assert len(labels) == len(set(labels))
            assert bool({panel["modality"] for panel in figure["panels"]} & RELEVANT) or not figure["is_relevant"]


@pytest.mark.parametrize("slug", SLUGS)
def test_pages_name_the_images_of_the_truth(slug: str) -> None:
    for number, told in truth(slug)["versions"].items():
        name = ArxivId(manuscripts()[slug].id, number)
        if corpus().page_file(name, "index.html") is None:
            continue
        for found, figure in zip(by_html(slug, f"v{number}"), told, strict=True):
            addresses = {*found.images, *(address for part in found.parts for address in part.images)}
            wanted = {panel["image_html"] for panel in figure["panels"]} - {None}
            assert addresses == {f"https://arxiv.org/html/{name}/{path}" for path in wanted}
            assert all(corpus().page_file(name, path) for path in wanted)


@pytest.mark.parametrize("slug", SLUGS)
def test_truth_is_well_formed(slug: str) -> None:
    for number, told in truth(slug)["versions"].items():
        for panel in (panel for figure in told for panel in figure["panels"]):
            assert panel["modality"] in MODALITIES
            for material in panel["formulas"]:
                assert material["role"] in ROLES
                assert elements(material["formula"])
            for facet in panel["facets"]:
                name, _, plane = facet.rstrip(")").partition("(")
                assert elements(name)
                assert plane.replace("-", "").isdigit()
            if panel["box_px"]:
                box_is_inside(CORPUS / slug / f"v{number}", panel)


def elements(formula: str) -> set[str]:
    """The elements of a formula; unknown fractions and dashes of systems are left out."""
    bare = "".join(character for character in formula.split("+")[0] if not (character.isdigit() or character in ".-δ"))
    return set(Formula(bare.removesuffix("x")).count())


def box_is_inside(folder: Path, panel: dict[str, Any]) -> None:
    image = folder / "html" / (panel["image_html"] or "")
    file = image if panel["image_html"] and image.is_file() else folder / "src" / panel["image"]
    left, top, right, bottom = panel["box_px"]
    with Image.open(file) as picture:
        # Pillow runs Ghostscript to load EPS; the size stands in its header.
        assert 0 <= left < right <= picture.width
        assert 0 <= top < bottom <= picture.height
    if panel["scale_bar"]:
        assert 4 <= panel["scale_bar"]["length_px"] <= right - left


def test_captions_read_as_a_person_reads_them() -> None:
    assert by_tex(CORPUS / "cond-mat_0701123/v1/src")[0].caption == (
        "(a) Topograph of the BiO plane of Bi2Sr2CaCu2O8+δ, -100 mV and 50 pA. (b) Gap map of the same area; the "
        "colour scale runs from 25 to 90 meV. (c) Spectra along the line in (a). The bars are 5 nm long."
    )
    assert by_html("1209.0356", "v1")[0].caption == (
        "ABF (a, c) and HAADF (b, d) STEM images of LiCoO2 before (a, b) and after (c, d) charging to 4.5 V, along "
        "[010]. Arrows mark lithium columns. Scale bars: 0.5 nm."
    )
    assert by_html("cond-mat_0701338", "v1")[0].caption.startswith(
        "High-resolution TEM images of gold clusters: (a) decahedron seen along its five-fold axis, (b) icosahedron, "
        "(c) truncated octahedron with {111} and {100} facets."
    )
    parts = by_html("2104.07012", "v1")[0].parts
    assert [(part.label, part.caption) for part in parts] == [("a", "2.7 %"), ("b", "5 %"), ("c", "10 %")]


def test_what_the_corpus_holds() -> None:
    held = papers().values()
    months = [f"{paper.versions[0].submitted_at:%Y-%m}" for paper in held]
    licences = {permission(version.license).licence for paper in held for version in paper.versions}
    folders = [CORPUS / slug / "v1" for slug in SLUGS]
    assert len(held) >= 60
    assert len(set(months)) >= 8
    assert sorted(months.count(month) >= 9 for month in set(months))[-2:] == [True, True]
    assert licences >= {
        "arxiv-nonexclusive-distrib", "arxiv-assumed-1991-2003", "cc-by-4.0", "cc-by-3.0", "cc-by-sa-4.0",
        "cc-by-nc-sa-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-nd-4.0", "cc0-1.0", "public-domain", "unknown",
    }  # fmt: skip
    assert len({category for paper in held for category in paper.categories}) >= 10
    assert sum(len(paper.versions) > 1 and not paper.is_withdrawn for paper in held) >= 8
    assert sum(paper.is_withdrawn for paper in held) >= 3
    assert sum((folder / "paper.pdf").exists() for folder in folders) >= 3
    assert sum((folder / "src").exists() and not (folder / "html").exists() for folder in folders) >= 5
    assert sum(paper.id.startswith("cond-mat/") for paper in held) >= 4
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 6_000_000


def test_panels_show_what_they_are_said_to_show() -> None:
    """Many micrographs are renderings of the embedded structures that their captions name."""
    known = {Formula(str(row["formula"])).reduce()[0].format("hill") for row in prototype_rows()}
    shown = {
        Formula(material["formula"]).format("hill")
        for slug in SLUGS
        for told in truth(slug)["versions"].values()
        for panel in (panel for figure in told for panel in figure["panels"])
        if panel["modality"] == "STEM"
        for material in panel["formulas"]
        if "." not in material["formula"]
    }
    assert len(shown & known) >= 8


def test_captions_can_be_scored() -> None:
    rows = labelled_captions()
    assert len(rows) >= 110
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["stratum"] for row in rows} == {"stm", "stem_tem", "other_microscopy", "no_micrograph"}
    counts = tally((row, understand(row["caption"])) for row in rows)
    assert counts["exact_label_sets"]["right"] > 0.85 * len(rows)
    assert counts["relevance_recall"]["right"] > 0.9 * counts["relevance_recall"]["all"]


def test_bars_are_as_long_as_they_say() -> None:
    dark = {"grain": 0.5}
    panels = [
        PanelDrawing(letter=letter, picture="sem", parameters=dark, field_nm=field, bar=bar, is_bar_labelled=False)
        for letter, field, bar in (("a", 10.0, 2.0), ("b", 33.0, 5.0), ("c", 4.0, 1.0))
    ]
    image, drawn = plate(panels, PlateStyle(gutter_px=0), "bars")
    for panel, where in zip(panels, drawn, strict=True):
        left, _, right, bottom = where.box_px
        row = image[bottom - 11, left:right]
        extreme = max(longest_run(row.min(axis=-1) == 255), longest_run(row.max(axis=-1) == 0))
        assert extreme == where.bar_px == round(192 * panel.bar / panel.field_nm)


def longest_run(is_set: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_set.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def test_plates_are_reproducible() -> None:
    text = manuscripts()["cond-mat_0701338"].figures[0].plates[0]
    first, _ = plate([panel.drawing() for panel in text.panels], text, "cond-mat/0701338/shapes.jpg")
    with Image.open(CORPUS / "cond-mat_0701338/v1/src" / text.file) as committed:
        difference = np.abs(np.asarray(committed.convert("RGB"), float) - first)
    assert difference.mean() < 8  # what JPEG loses of the noise


def test_sources_are_archives_of_tex() -> None:
    data = (CORPUS / "1803.07004/v1/src/main.tex").read_bytes()
    assert read_source(data).kind == "tex"
    assert read_source((CORPUS / "0805.4410/v1/paper.pdf").read_bytes()).kind == "pdf"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("latexmlc") is None, reason="needs Debian's latexml")
@pytest.mark.parametrize("name", ["0902.3105", "cond-mat/0701123", "1803.04417", "1209.3377"])
def test_the_builder_makes_what_is_committed(name: str, tmp_path: Path) -> None:
    manuscript = manuscripts()[name.replace("/", "_")]
    build(manuscript, tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    committed = CORPUS / manuscript.slug
    assert made == {path.relative_to(CORPUS) for path in committed.rglob("*") if path.is_file()}
    for path in made:
        if path.suffix in (".tex", ".html", ".yaml") and path.name != "paper.yaml":
            assert (tmp_path / path).read_text() == (CORPUS / path).read_text()
