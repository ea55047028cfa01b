"""From ``literature/papers`` to ``literature/texts``: the full texts of the candidates, fetched once each.

Belongs here: what is asked for, in which order, and what a good text is. HTML comes first, the source where there is
no HTML page. The bytes are kept as they came; what is in them is read by :mod:`.extraction`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atomvision_ml.literature import latexml
from atomvision_ml.literature.addresses import asked_at, html_url, source_url
from atomvision_ml.literature.archives import ArchiveError, read_source
from atomvision_ml.literature.identifiers import ArxivId
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply, UnusableReplyError
from atomvision_ml.literature.transport import Transport, found_or_missing
from atomvision_ml.storage.files import write_whole

Row = dict[str, Any]
Route = Literal["html", "tex"]
Progress = Callable[[int, "int | None"], None]

FILE = {"html": "page.html.gz", "tex": "source"}
"""Name of the raw bytes in a text's blob: pages compressed, sources as they came, packed already."""

ABSENT = ("missing", "withdrawn", "no TeX")
"""Reasons that begin so are facts about the paper: no fault, and not asked for again."""

_GZIP = b"\x1f\x8b"
_ENOUGH = 3


class UnfitTextError(ValueError):
    """The server has no text that could be read; the message is the reason."""


@dataclass(frozen=True)
class Text:
    """A full text as it came."""

    route: Route
    url: str
    body: bytes


def text_rows(
    papers: Iterable[Row],
    former: Sequence[Row],
    fetch: Callable[[Row], Row],
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The texts of a month: those known already, and those of candidates' newest versions that are not.

    Args:
        papers: rows of ``literature/papers``.
        former: this table's own rows, of all versions.
        fetch: gives the row of a paper's newest version, see :meth:`TextFetcher.row`.
        progress: called with (candidates done, candidates).

    Returns:
        Rows ordered by identifier and version.
    """
    known = {(row["arxiv_id"], row["version"]): row for row in former if is_settled(row)}
    candidates = [paper for paper in papers if paper["is_candidate"]]
    for done, paper in enumerate(candidates, start=1):
        key = (paper["arxiv_id"], paper["latest_version"])
        if key not in known:
            known[key] = fetch(paper)
        progress(done, len(candidates))
    return [known[key] for key in sorted(known)]


def is_settled(row: Row) -> bool:
    """Whether a row need not be asked for again: accepted, or the server said that there is nothing."""
    return row["status"] == "accepted" or str(row["reason"]).startswith(ABSENT)


class TextFetcher:
    """Fetches texts and keeps their bytes; what it has fetched before it stopped is not fetched again.

    Args:
        transport: the way to the server.
        server: address under which arXiv's pages are asked for.
        folder: for unfinished work, the same after an interruption.
        keep: takes over a folder and returns its blob.
    """

    def __init__(self, transport: Transport, server: str, folder: Path, keep: Callable[[Path], str]) -> None:
        self._transport = transport
        self._server = server
        self._folder = folder
        self._keep = keep

    def row(self, paper: Row) -> Row:
        """The row of ``literature/texts`` of a paper's newest version.

        Raises:
            OutageError: the server gives no good reply.
            RefusedError: it asks to stop.
        """
        name = ArxivId(paper["arxiv_id"], paper["latest_version"])
        kept = self._folder / f"{str(name).replace('/', '_')}.json"
        if not kept.is_file():
            write_whole(kept, json.dumps(self._fetched(paper, name)).encode())
        return {"month": paper["month"], **json.loads(kept.read_text(encoding="utf-8"))}

    def _fetched(self, paper: Row, name: ArxivId) -> Row:
        row = {"arxiv_id": name.base, "version": name.version, "licence_url": paper["licence_url"]}
        try:
            text = fetch_text(self._transport, self._server, name)
        except (UnfitTextError, UnusableReplyError) as error:
            return {**row, "status": "rejected", "reason": str(error)}
        folder = self._folder / "blob"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / FILE[text.route]).write_bytes(
            gzip.compress(text.body, mtime=0) if text.route == "html" else text.body
        )
        return {
            **row,
            "status": "accepted",
            "route": text.route,
            "url": text.url,
            "blob": self._keep(folder),
            "sha256": hashlib.sha256(text.body).hexdigest(),
            "n_bytes": len(text.body),
        }


def fetch_text(transport: Transport, server: str, name: ArxivId) -> Text:
    """The full text of a version: its HTML page, else its source.

    Raises:
        UnfitTextError: there is none, or none that could be read.
        UnusableReplyError: it is too large, or elsewhere.
        OutageError: no good reply.
        RefusedError: the server asks to stop.
    """
    body = _page(transport, server, name)
    if body is not None:
        return Text("html", html_url(name), body)
    return Text("tex", source_url(name), _source(transport, server, name))


def stored_text(folder: Path, route: Route) -> bytes:
    """The bytes of a text, as they came, out of its blob."""
    content = (folder / FILE[route]).read_bytes()
    return gzip.decompress(content) if route == "html" else content


def _page(transport: Transport, server: str, name: ArxivId) -> bytes | None:
    """The HTML page; None if there is none, or none of LaTeXML's.

    A page that is no page of this paper is a fault of the way, unless it is the same in every attempt: then the paper
    has a page of another kind, and its source decides. In an outage that looks like that the source is not to be had
    either, and nothing is recorded.
    """

    def check(reply: Reply) -> bytes | None:
        if _found(reply, name) is None:
            if latexml.missing_reason(reply) == "withdrawn":
                raise UnfitTextError("withdrawn: the server has no text of this version")
            return None
        latexml.parse_figures(reply)
        stated, _ = latexml.page_identity(reply)
        if stated is not None and stated.version is not None and stated != name:
            raise DamagedReplyError(f"{reply.url}: the page of {stated}")
        return reply.body

    steady = Steady(check)
    try:
        return transport.get(asked_at(html_url(name), server), steady)
    except OutageError:
        if steady.body is None:
            raise
        return None


def _source(transport: Transport, server: str, name: ArxivId) -> bytes:
    """The source; raises UnfitTextError where there is none with TeX in it."""

    def check(reply: Reply) -> bytes:
        if _found(reply, name) is None:
            raise UnfitTextError(f"missing: neither HTML nor source ({latexml.missing_reason(reply)})")
        try:
            kind = read_source(reply.body).kind
        except ArchiveError as error:
            raise DamagedReplyError(f"{reply.url}: {error}") from error
        if kind == "html" or (kind == "other" and not reply.body.startswith(_GZIP)):
            raise DamagedReplyError(f"{reply.url}: no source, it begins {reply.body[:60]!r}")
        if kind != "tex":
            raise UnfitTextError(f"no TeX in the source: {kind}")
        return reply.body

    steady = Steady(check)
    try:
        return transport.get(asked_at(source_url(name), server), steady)
    except OutageError as error:
        if steady.body is None or is_web_page(steady.body):
            raise
        raise UnfitTextError(f"damaged: the same unreadable source in each attempt: {error.__cause__}") from error


def _found(reply: Reply, name: ArxivId) -> Reply | None:
    """The reply, or None where arXiv itself says that there is no such page: one at the edge of its network may lie."""
    found = found_or_missing(reply)
    if found is None and not (b"arxiv" in reply.body.lower() or name.base.encode() in reply.body):
        raise DamagedReplyError(f"{reply.url}: status {reply.status}, but not in arXiv's words")
    return found


def is_web_page(body: bytes) -> bool:
    """Whether bytes are a web page, or nothing at all: what a server in trouble sends instead of a file."""
    start = body[:512].lstrip().lower()
    return not start or start.startswith((b"<!doctype html", b"<html"))


class Steady:
    """A check that remembers whether the damaged bodies were all the same: then they are what the server has.

    Attributes:
        body: the one body of all replies that were checked, three at least; None if they differ, or if one came
            without status 200.
    """

    def __init__(self, check: Callable[[Reply], Any]) -> None:
        self._check = check
        self._bodies: set[bytes | None] = set()
        self._count = 0

    def __call__(self, reply: Reply) -> Any:
        """What the check makes of the reply."""
        self._bodies.add(reply.body if reply.status == 200 else None)
        self._count += 1
        return self._check(reply)

    @property
    def body(self) -> bytes | None:
        """See above."""
        return next(iter(self._bodies)) if len(self._bodies) == 1 and self._count >= _ENOUGH else None
