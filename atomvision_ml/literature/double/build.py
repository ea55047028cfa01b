"""Build the authored corpus from its manuscripts: TeX sources, pictures, HTML by LaTeXML, and truth.

Belongs here: what is done once, by whoever changes a manuscript; the double itself only reads the result. It needs
``latexmlc`` (Debian's ``latexml``)::

    python -m atomvision_ml.literature.double.build [identifier ...]

The HTML has what pages of arxiv.org have and LaTeXML 0.8.7 does not write: the water mark, the licence, the class
``ltx_figure_panel`` and a third form of every formula, in words.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomvision_ml.literature.double.manuscript import FigureText, Manuscript, PlateText, load_manuscripts
from atomvision_ml.literature.double.plates import DrawnPanel, plate, write

if TYPE_CHECKING:
    from lxml import html

HERE = Path(__file__).parent
MANUSCRIPTS, CORPUS = HERE / "manuscripts", HERE / "corpus"
_CONVERTED = (".eps", ".pdf")
_LATEXML = ("--format=html5", "--pmml", "--cmml", "--mathtex", "--nodefaultresources", "--nocomments", "--quiet")
_SOURCE_TYPES = {"html": "D", "source": "S", "pdf": "PDF"}


def build(manuscript: Manuscript, corpus: Path) -> None:
    """Build one paper: its folder in the corpus is replaced.

    Raises:
        ValueError: the manuscript contradicts itself.
        RuntimeError: LaTeXML reports an error.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / manuscript.slug
        truth: dict[int, list[dict[str, Any]]] = {}
        for number, version in enumerate(manuscript.versions, 1):
            if not version.withdrawn:
                truth[number] = _build_version(manuscript, number, folder / f"v{number}")
        _dump(folder / "paper.yaml", _metadata(manuscript, folder))
        _dump(folder / "truth.yaml", {"id": manuscript.id, "is_candidate": manuscript.is_candidate, "versions": truth})
        shutil.rmtree(corpus / manuscript.slug, ignore_errors=True)
        shutil.move(folder, corpus / manuscript.slug)


def _build_version(manuscript: Manuscript, version: int, folder: Path) -> list[dict[str, Any]]:
    text = manuscript.text_of(version)
    if manuscript.form == "pdf":
        _write_pdf(manuscript, text, folder / "paper.pdf")
        return []
    source = folder / "src"
    source.mkdir(parents=True)
    (source / "main.tex").write_text(_document(manuscript, text), encoding="utf-8")
    for name, content in manuscript.files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content, encoding="utf-8")
    figures = manuscript.figures_of(version)
    plates = [each for figure in figures for each in figure.plates if not each.is_missing]
    drawn = {each.file: _draw(each, manuscript, source) for each in plates}
    addresses = _write_page(manuscript, version, folder) if manuscript.form == "html" else {}
    return [_figure_truth(figure, place, drawn, addresses) for place, figure in enumerate(figures, 1)]


def _draw(text: PlateText, manuscript: Manuscript, source: Path) -> list[DrawnPanel]:
    image, drawn = plate([panel.drawing() for panel in text.panels], text, f"{manuscript.id}/{text.file}")
    write(image, source / text.file, text.quality)
    return drawn


def _document(manuscript: Manuscript, text: str) -> str:
    """The main file; REVTeX wants its abstract before ``\\maketitle``, other classes after it."""
    authors = " \\and ".join(manuscript.authors) + (f" \\\\ {manuscript.affiliation}" if manuscript.affiliation else "")
    abstract = f"\\begin{{abstract}}\n{manuscript.abstract.strip()}\n\\end{{abstract}}"
    place = manuscript.affiliation
    front = [f"\\title{{{manuscript.title}}}"]
    if "revtex" in manuscript.document_class:
        front += [f"\\author{{{name}}}" for name in manuscript.authors]
        front += [f"\\affiliation{{{place}}}"] * bool(place) + [abstract, "\\maketitle"]
    else:
        front += [f"\\author{{{authors}}}", "\\date{}", "\\maketitle", abstract]
    head = f"\\documentclass{manuscript.document_class}\n\\usepackage{{graphicx}}\n{manuscript.preamble.strip()}\n"
    return "\n".join([head + "\\begin{document}", *front, text.strip(), "\\end{document}", ""])


def _write_page(manuscript: Manuscript, version: int, folder: Path) -> dict[str, str]:
    """The page, its converted images beside it; returns the address of every image by its member name."""
    from lxml import html

    own = folder / "html"
    own.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "src"
        shutil.copytree(folder / "src", work)
        members = _as_bitmaps(work)
        page = html.document_fromstring(_latexml(work, manuscript.id).encode())
        _like_arxiv(page, manuscript, version)
        prefix = "" if manuscript.has_base else f"{manuscript.id.split('/')[-1]}v{version}/"
        addresses = _address_images(page, members, prefix)
        for bitmap, member in members.items():
            if member.endswith(_CONVERTED):
                shutil.copyfile(work / bitmap, own / addresses[member])
    body = html.tostring(page, encoding="unicode", doctype="<!DOCTYPE html>")
    (own / "index.html").write_text(body + "\n", encoding="utf-8")
    return addresses


def _address_images(page: html.HtmlElement, members: dict[str, str], prefix: str) -> dict[str, str]:
    """Give the images the addresses that they have on arXiv; one that the archive lacks is marked as missing."""
    addresses: dict[str, str] = {}
    for image in page.iter("img"):
        member = members.get(image.get("src"))
        if member is None:
            image.set("class", "ltx_graphics ltx_missing ltx_missing_image")
            image.set("src", "")
            continue
        number = 1 + sum(name.endswith(_CONVERTED) for name in addresses)
        address = addresses.setdefault(member, f"x{number}.png" if member.endswith(_CONVERTED) else member)
        image.set("src", prefix + address)
    return addresses


def _as_bitmaps(work: Path) -> dict[str, str]:
    """EPS and PDF images turned to PNG and the TeX told so; returns the member that each image was."""
    members = {}
    for path in sorted(work.rglob("*")):
        if path.suffix in (".png", ".jpg", *_CONVERTED):
            bitmap = path.with_suffix(".png") if path.suffix in _CONVERTED else path
            members[bitmap.relative_to(work).as_posix()] = path.relative_to(work).as_posix()
            if bitmap != path:
                _rasterise(path, bitmap)
    for path in work.rglob("*.tex"):
        path.write_text(re.sub(r"\.(eps|pdf)\b", ".png", path.read_text(encoding="utf-8")), encoding="utf-8")
    return members


def _rasterise(path: Path, bitmap: Path) -> None:
    """By Ghostscript, a pixel for a point: the pixels of the plate."""
    command = ["gs", "-q", "-dSAFER", "-dBATCH", "-dNOPAUSE", "-dEPSCrop", "-r72", "-sDEVICE=png16m"]
    subprocess.run([*command, f"-sOutputFile={bitmap}", str(path)], check=True, timeout=60)


def _latexml(work: Path, name: str) -> str:
    page = work.parent / "page" / "index.html"
    command = ["latexmlc", *_LATEXML, f"--dest={page}", "main.tex"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300)
    if done.returncode or not page.exists():
        raise RuntimeError(f"{name}: latexmlc ends with {done.returncode}: {done.stderr[-2000:]}")
    return page.read_text(encoding="utf-8")


def _like_arxiv(page: html.HtmlElement, manuscript: Manuscript, version: int) -> None:
    from lxml import html

    for dated in [*page.find_class("ltx_page_footer"), *page.iter(html.etree.Comment)]:
        dated.drop_tree()
    if manuscript.has_base:
        page.head.insert(0, html.Element("base", href=f"/html/{manuscript.id}v{version}/"))
    for figure in page.iter("figure"):
        if any(outer.tag == "figure" for outer in figure.iterancestors()):
            figure.classes.add("ltx_figure_panel")
    for formula in page.iter("semantics"):
        words = re.sub(r"[{}$\s]+|\\", " ", formula.getparent().get("alttext", ""))
        spoken = html.Element("annotation", encoding="application/x-llamapun")
        spoken.text = words.replace("_", " start_SUBSCRIPT ").replace("^", " start_SUPERSCRIPT ").strip()
        formula.append(spoken)
    at = manuscript.versions[version - 1].at
    licence = _licence(manuscript, version) or ""
    words = licence.rstrip("/").rpartition("org/")[2] or "no licence named"
    infobox = (
        f'<div id="infobox"><a id="license-tr" href="{licence}">License: {words}</a>'
        f'<div id="watermark-tr">arXiv:{manuscript.id}v{version} [{manuscript.categories.split()[0]}] '
        f"{at:%d %b %Y}</div></div>"
    )
    page.body.insert(0, html.fragment_fromstring(infobox))


def _figure_truth(
    figure: FigureText, place: int, drawn: Mapping[str, Sequence[DrawnPanel | None]], addresses: dict[str, str]
) -> dict[str, Any]:
    panels = []
    for text in figure.plates:
        wheres = drawn.get(text.file, [None] * len(text.panels))
        for panel, where in zip(text.panels, wheres, strict=True):
            seen = {
                "image": text.file if where else None,
                "image_html": addresses.get(text.file),
                "box_px": list(where.box_px) if where else None,
                "scale_bar": panel.scale_bar(where.bar_px if where else None),
            }
            panels.append({**panel.truth(), **seen})
    return {"place": place, "number": str(place), "is_relevant": figure.relevant, "panels": panels}


def _metadata(manuscript: Manuscript, folder: Path) -> dict[str, Any]:
    last = manuscript.versions[-1]
    datestamp = manuscript.datestamp or (last.at + timedelta(days=1)).date()
    numbers = range(1, len(manuscript.versions) + 1)
    fields = {
        "id": manuscript.id,
        "submitter": manuscript.authors[0],
        "title": manuscript.title,
        "authors": ", ".join(manuscript.authors) + (f" ({manuscript.affiliation})" if manuscript.affiliation else ""),
        "author_list": list(manuscript.authors),
        "abstract": " ".join(manuscript.abstract.split()),
        "categories": manuscript.categories.split(),
        "comments": manuscript.comments,
        "journal_ref": manuscript.journal_ref,
        "doi": manuscript.doi,
        "report_no": manuscript.report_no,
        "datestamp": datestamp,
        "is_withdrawn": last.withdrawn,
        "versions": [_version_metadata(manuscript, number, folder) for number in numbers],
    }
    return {name: value for name, value in fields.items() if value is not None}


def _version_metadata(manuscript: Manuscript, number: int, folder: Path) -> dict[str, Any]:
    version = manuscript.versions[number - 1]
    n_bytes = sum(path.stat().st_size for path in (folder / f"v{number}").rglob("*") if path.is_file())
    return {
        "version": number,
        "submitted_at": version.at.astimezone(UTC),
        "size": f"{-(-n_bytes // 1024)}kb",
        "source_type": "I" if version.withdrawn else _SOURCE_TYPES[manuscript.form],
        "license": _licence(manuscript, number),
    }


def _licence(manuscript: Manuscript, version: int) -> str | None:
    return manuscript.versions[version - 1].license or manuscript.license


def _write_pdf(manuscript: Manuscript, text: str, path: Path) -> None:
    """A page of text as a PDF without anything that dates it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True)
    with rc_context({"pdf.use14corefonts": True, "font.size": 9}):
        sheet = Figure(figsize=(8.3, 11.7))
        sheet.text(0.1, 0.92, "\n\n".join([manuscript.title, ", ".join(manuscript.authors)]), va="top", wrap=True)
        sheet.text(0.1, 0.78, manuscript.abstract + "\n" + text, va="top", wrap=True, parse_math=False)
        sheet.savefig(path, format="pdf", metadata={"CreationDate": None})


def _dump(path: Path, content: dict[str, Any]) -> None:
    words = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=118, default_flow_style=None)
    path.write_text(words, encoding="utf-8")


def main(wanted: list[str]) -> None:
    """Build the papers named, or all; then folders of no manuscript are removed."""
    manuscripts = load_manuscripts(MANUSCRIPTS)
    for manuscript in manuscripts:
        if not wanted or manuscript.id in wanted:
            build(manuscript, CORPUS)
            print(manuscript.id, flush=True)
    known = {manuscript.slug for manuscript in manuscripts}
    for folder in CORPUS.iterdir():
        if folder.name not in known:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
