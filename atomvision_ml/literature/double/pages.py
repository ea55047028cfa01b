"""The double's pages of papers: HTML with its images, sources, abstracts, and the pages for what is not there."""

from __future__ import annotations

import gzip
import io
import mimetypes
import re
import tarfile
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

from atomvision_ml.literature.double.answers import HTML, Answer, page
from atomvision_ml.literature.double.corpus_reader import NAME, Corpus, HeldPaper
from atomvision_ml.literature.identifiers import ArxivId

_PAGE = re.compile(rf"/html/{NAME}(?:/(?P<path>.*))?")
_SOURCE = re.compile(rf"/src/{NAME}")
_OLD_SOURCE = re.compile(rf"/e-print/(?P<name>{NAME})")
_ABSTRACT = re.compile(rf"/abs/{NAME}")
_ROBOTS = b"User-agent: *\nDisallow: /api/\nDisallow: /pdf/\nCrawl-delay: 15\n"


def answer(corpus: Corpus, path: str) -> Answer:
    """What lies at a path.

    Args:
        corpus: the papers.
        path: of the address, decoded, without query.
    """
    if path == "/robots.txt":
        return Answer(headers={"Content-Type": "text/plain"}, body=_ROBOTS)
    for pattern, answered in _ROUTES:
        if match := pattern.fullmatch(path):
            return answered(corpus, match)
    return page(404, "Not found", path)


def tar_gz(files: Mapping[str, Path]) -> bytes:
    """An archive whose bytes depend on the files' names and contents only."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _html(corpus: Corpus, match: re.Match[str]) -> Answer:
    paper, name, missing = _held(corpus, match)
    if paper is None or missing is not None:
        return missing or page(404, "Not found")
    path = match["path"] or "index.html"
    file = corpus.page_file(name, path)
    if file is None:
        is_page = path == "index.html"
        return page(404, f"No HTML for '{name}'" if is_page else "Not found", "HTML is not available for the source.")
    link = {"Link": f'<https://arxiv.org/abs/{name}>; rel="canonical"'} if path == "index.html" else {}
    return Answer(headers={"Content-Type": _content_type(file), **link}, body=file.read_bytes())


def _source(corpus: Corpus, match: re.Match[str]) -> Answer:
    paper, name, missing = _held(corpus, match)
    if paper is None or missing is not None:
        return missing or page(404, "Not found")
    pdf = corpus.pdf_file(name)
    if pdf is not None:
        return Answer(headers={"Content-Type": "application/pdf"}, body=pdf.read_bytes())
    files = corpus.source_files(name)
    if not files:
        return page(404, f"No source for '{name}'")
    if list(files) == ["main.tex"]:
        return Answer(headers={"Content-Type": "application/gzip"}, body=_single(files["main.tex"]))
    return Answer(headers={"Content-Type": "application/gzip"}, body=tar_gz(files))


def _single(file: Path) -> bytes:
    """A source of one file is no archive at arXiv, only compressed."""
    return gzip.compress(file.read_bytes(), mtime=0)


def _abstract(corpus: Corpus, match: re.Match[str]) -> Answer:
    paper, name, _ = _held(corpus, match)
    if paper is None:
        return page(404, f"Article identifier '{name}' not found")
    body = f"<!DOCTYPE html>\n<html><head><title>[{name}] {escape(paper.title)}</title></head><body>"
    body += f"<h1>{escape(paper.title)}</h1><p>{escape(paper.authors)}</p><blockquote>{escape(paper.abstract)}"
    return Answer(headers={"Content-Type": HTML}, body=f"{body}</blockquote></body></html>\n".encode())


def _moved(_: Corpus, match: re.Match[str]) -> Answer:
    return Answer(301, {"Location": f"/src/{match['name']}"})


Route = Callable[[Corpus, re.Match[str]], Answer]
_ROUTES: tuple[tuple[re.Pattern[str], Route], ...] = (
    (_PAGE, _html),
    (_SOURCE, _source),
    (_OLD_SOURCE, _moved),
    (_ABSTRACT, _abstract),
)


def _held(corpus: Corpus, match: re.Match[str]) -> tuple[HeldPaper | None, ArxivId, Answer | None]:
    """The paper and the version that an address names, and the page for it if there is no text of it."""
    paper = corpus.by_id.get(match["base"])
    version = int(match["version"]) if match["version"] else None
    if paper is None or (version or 1) > len(paper.versions):
        name = ArxivId(match["base"], version)
        return None, name, page(404, f"Article '{name}' not found")
    name = ArxivId(paper.id, version or paper.newest.version)
    if paper.is_withdrawn and name.version == paper.newest.version:
        return paper, name, page(404, f"This version of {name} has been withdrawn")
    return paper, name, None


def _content_type(file: Path) -> str:
    return HTML if file.suffix == ".html" else mimetypes.guess_type(file.name)[0] or "application/octet-stream"
