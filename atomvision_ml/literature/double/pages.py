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
from atomvision_ml.literature.double.corpus_reader import NAME, Corpus
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
    name = _name(corpus, match)
    absent = _absent(corpus, name)
    if absent is not None:
        return absent
    path = match["path"] or "index.html"
    file = corpus.page_file(name, path)
    if file is None:
        is_page = path == "index.html"
        return page(404, f"No HTML for '{name}'" if is_page else "Not found", "HTML is not available for the source.")
    link = {"Link": f'<https://arxiv.org/abs/{name}>; rel="canonical"'} if path == "index.html" else {}
    return Answer(headers={"Content-Type": _content_type(file), **link}, body=file.read_bytes())


def _source(corpus: Corpus, match: re.Match[str]) -> Answer:
    name = _name(corpus, match)
    absent = _absent(corpus, name)
    if absent is not None:
        return absent
    pdf = corpus.pdf_file(name)
    if pdf is not None:
        return Answer(headers={"Content-Type": "application/pdf"}, body=pdf.read_bytes())
    files = corpus.source_files(name)
    if not files:
        return page(404, f"No source for '{name}'")
    is_single = list(files) == ["main.tex"]  # no archive at arXiv, only compressed
    packed = gzip.compress(files["main.tex"].read_bytes(), mtime=0) if is_single else tar_gz(files)
    return Answer(headers={"Content-Type": "application/gzip"}, body=packed)


def _abstract(corpus: Corpus, match: re.Match[str]) -> Answer:
    name = _name(corpus, match)
    paper = corpus.by_id.get(name.base)
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


def _name(corpus: Corpus, match: re.Match[str]) -> ArxivId:
    """The version that an address names: the newest, where it names none."""
    paper = corpus.by_id.get(match["base"])
    newest = paper.newest.version if paper is not None else None
    return ArxivId(match["base"], int(match["version"]) if match["version"] else newest)


def _absent(corpus: Corpus, name: ArxivId) -> Answer | None:
    """The page that tells that a version is not there or was withdrawn; None if it is there."""
    paper = corpus.by_id.get(name.base)
    if paper is None or (name.version or 1) > len(paper.versions):
        return page(404, f"Article '{name}' not found")
    if paper.is_withdrawn and name.version == paper.newest.version:
        return page(404, f"This version of {name} has been withdrawn")
    return None


def _content_type(file: Path) -> str:
    return HTML if file.suffix == ".html" else mimetypes.guess_type(file.name)[0] or "application/octet-stream"
