"""arXiv's Atom API: one page of a query, strictly read.

Belongs here: the form of the query and of the feed. The API has no licences and no captions; it is the second finder
beside OAI-PMH (arXiv API user's manual).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.replies import (
    DamagedReplyError,
    RefusedError,
    Reply,
    demanded_text,
    parse_xml,
    text_of,
)

if TYPE_CHECKING:
    from lxml import etree

NAMESPACES = {
    "atom": "http://www.w3.org/2005/Atom",
    "arxiv": "http://arxiv.org/schemas/atom",
    "search": "http://a9.com/-/spec/opensearch/1.1/",
}
MAXIMUM_PAGE = 2000
MAXIMUM_DEPTH = 10_000
"""Deeper pages fail on the server: a query is to be cut in windows of time with fewer hits."""


class AtomEntry(BaseModel):
    """One paper of a feed."""

    model_config = ConfigDict(frozen=True)

    arxiv_id: str
    version: int
    title: str
    abstract: str
    authors: tuple[str, ...]
    primary_category: str
    categories: tuple[str, ...]
    published: datetime = Field(description="Date of the first version.")
    updated: datetime = Field(description="Date of this version.")
    comment: str | None = None
    journal_reference: str | None = None
    doi: str | None = None


class AtomPage(BaseModel):
    """One page of a query."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[AtomEntry, ...]
    total: int
    start: int


def query_url(base_url: str, query: str, *, start: int = 0, page_size: int = 200) -> str:
    """Address of a page, ordered by submission so that pages do not shift while they are read.

    Raises:
        ValueError: a page larger or deeper than the server gives.
    """
    if not 0 < page_size <= MAXIMUM_PAGE:
        raise ValueError(f"a page has 1 to {MAXIMUM_PAGE} entries, not {page_size}")
    if not 0 <= start <= MAXIMUM_DEPTH - page_size:
        raise ValueError(f"start {start} is too deep; cut the query in windows with fewer than {MAXIMUM_DEPTH} hits")
    asked = {
        "search_query": query,
        "start": start,
        "max_results": page_size,
        "sortBy": "submittedDate",
        "sortOrder": "ascending",
    }
    return f"{base_url}?{urlencode(asked)}"


def parse_page(reply: Reply, *, start: int, page_size: int) -> AtomPage:
    """The entries of a page.

    Args:
        reply: the reply, of any status.
        start, page_size: what was asked for.

    Raises:
        DamagedReplyError: not a complete feed: truncated, another kind of document, an entry without a field that
            every entry has, fewer or more entries than the feed itself announces.
        RefusedError: an error feed: the query is wrong.
    """
    feed = parse_xml(reply, f"{{{NAMESPACES['atom']}}}feed")
    found = feed.findall("atom:entry", NAMESPACES)
    _refuse_error_feed(found, reply)
    total, first = (_whole(feed, f"search:{name}", reply) for name in ("totalResults", "startIndex"))
    if first != start:
        raise DamagedReplyError(f"{reply.url}: the page starts at {first}, not at {start}")
    expected = max(0, min(page_size, total - start))
    if len(found) != expected:
        raise DamagedReplyError(f"{reply.url}: {len(found)} entries where {expected} of {total} are due")
    return AtomPage(entries=tuple(_entry(element, reply) for element in found), total=total, start=start)


def _refuse_error_feed(entries: list[etree._Element], reply: Reply) -> None:
    for entry in entries:
        name = text_of(entry, "atom:id", NAMESPACES) or ""
        if "/api/errors" in name:
            raise RefusedError(f"{reply.url}: {text_of(entry, 'atom:summary', NAMESPACES) or 'an error feed'}")


def _entry(element: etree._Element, reply: Reply) -> AtomEntry:
    def demanded(path: str) -> str:
        return demanded_text(element, path, NAMESPACES, reply)

    try:
        name = parse_arxiv_id(demanded("atom:id"))
        published, updated = (datetime.fromisoformat(demanded(f"atom:{word}")) for word in ("published", "updated"))
    except ValueError as error:
        raise DamagedReplyError(f"{reply.url}: {error}") from error
    people = element.findall("atom:author", NAMESPACES)
    authors = tuple(text_of(person, "atom:name", NAMESPACES) or "" for person in people)
    categories = tuple(tag.get("term", "") for tag in element.findall("atom:category", NAMESPACES))
    primary = element.find("arxiv:primary_category", NAMESPACES)
    if name.version is None or not authors or primary is None or not all((*authors, *categories, primary.get("term"))):
        raise DamagedReplyError(f"{reply.url}: the entry {name} lacks its version, authors or category")
    return AtomEntry(
        arxiv_id=name.base,
        version=name.version,
        title=demanded("atom:title"),
        abstract=demanded("atom:summary"),
        authors=authors,
        primary_category=primary.get("term", ""),
        categories=categories,
        published=published,
        updated=updated,
        comment=text_of(element, "arxiv:comment", NAMESPACES),
        journal_reference=text_of(element, "arxiv:journal_ref", NAMESPACES),
        doi=text_of(element, "arxiv:doi", NAMESPACES),
    )


def _whole(feed: etree._Element, path: str, reply: Reply) -> int:
    words = demanded_text(feed, path, NAMESPACES, reply)
    if not words.isdigit():
        raise DamagedReplyError(f"{reply.url}: <{path}> is {words!r}")
    return int(words)
