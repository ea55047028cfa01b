"""OAI-PMH, format ``arXivRaw``: one page of records, strictly read.

Belongs here: the protocol as arXiv speaks it. It is the source of truth: only here are licences and the dates of all
versions. The datestamp is the day of the last change, not of the submission (Open Archives Initiative Protocol for
Metadata Harvesting 2.0; arXiv's OAI help page).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.replies import (
    DamagedReplyError,
    LiteratureError,
    RefusedError,
    Reply,
    demanded_text,
    parse_xml,
    text_of,
)

if TYPE_CHECKING:
    from lxml import etree

NAMESPACES = {"oai": "http://www.openarchives.org/OAI/2.0/", "raw": "http://arxiv.org/OAI/arXivRaw/"}
EARLIEST_DAY = date(2005, 9, 16)
"""The first datestamp that arXiv has; an earlier ``from`` is an error."""
FORMAT = "arXivRaw"


class ExpiredTokenError(LiteratureError):
    """The list must be asked for anew, from the last committed day."""


class PaperVersion(BaseModel):
    """One version of a paper."""

    model_config = ConfigDict(frozen=True)

    version: int
    submitted_at: datetime
    size: str | None = Field(default=None, description="As arXiv writes it, e.g. `123kb`.")
    source_type: str | None = Field(default=None, description="arXiv's letters for the kind of source.")


class OaiRecord(BaseModel):
    """One paper as of its datestamp. A deleted one has a header only."""

    model_config = ConfigDict(frozen=True)

    arxiv_id: str
    datestamp: date
    is_deleted: bool = False
    title: str = ""
    authors: str = ""
    abstract: str = ""
    categories: tuple[str, ...] = ()
    versions: tuple[PaperVersion, ...] = ()
    licence_url: str | None = None
    comments: str | None = None
    journal_reference: str | None = None
    doi: str | None = None


class OaiPage(BaseModel):
    """One page of a list; the last one has no token."""

    model_config = ConfigDict(frozen=True)

    records: tuple[OaiRecord, ...]
    token: str | None
    responded_at: datetime


def list_url(base_url: str, set_name: str, since: date) -> str:
    """Address of the first page of all records of a set that changed on or after a day."""
    asked = {"verb": "ListRecords", "metadataPrefix": FORMAT, "set": set_name}
    return f"{base_url}?{urlencode({**asked, 'from': max(since, EARLIEST_DAY).isoformat()})}"


def next_url(base_url: str, token: str) -> str:
    """Address of the page that a token names."""
    return f"{base_url}?{urlencode({'verb': 'ListRecords', 'resumptionToken': token})}"


def parse_page(reply: Reply, *, is_continued: bool = False) -> OaiPage:
    """The records of a page; a period without any change gives an empty page.

    Args:
        reply: the reply, of any status.
        is_continued: whether a token asked for the page. Such a page is never empty, and even the last one has a
            token element, an empty one.

    Raises:
        DamagedReplyError: truncated, another kind of document, a record without a field that every record has, a list
            without records, or the end of a list that does not say so.
        ExpiredTokenError: the token is no longer known.
        RefusedError: any other error of the protocol: the request is wrong.
    """
    document = parse_xml(reply, f"{{{NAMESPACES['oai']}}}OAI-PMH")
    responded_at = _moment(demanded_text(document, "oai:responseDate", NAMESPACES, reply), reply)
    error = document.find("oai:error", NAMESPACES)
    if error is not None:
        return _without_records(error, responded_at, reply, is_continued)
    listed = document.find("oai:ListRecords", NAMESPACES)
    if listed is None:
        raise DamagedReplyError(f"{reply.url}: neither a list of records nor an error")
    records = tuple(_record(element, reply) for element in listed.findall("oai:record", NAMESPACES))
    if not records:
        raise DamagedReplyError(f"{reply.url}: a list without records; an empty period is an error noRecordsMatch")
    if is_continued and listed.find("oai:resumptionToken", NAMESPACES) is None:
        raise DamagedReplyError(f"{reply.url}: a further page without resumptionToken; the last one has an empty one")
    token = text_of(listed, "oai:resumptionToken", NAMESPACES)
    return OaiPage(records=records, token=token, responded_at=responded_at)


def _without_records(error: etree._Element, responded_at: datetime, reply: Reply, is_continued: bool) -> OaiPage:
    code, words = error.get("code", ""), "".join(str(part) for part in error.itertext()).strip()
    if code == "noRecordsMatch" and is_continued:
        raise DamagedReplyError(f"{reply.url}: {code}, though the page before promised more")
    if code == "noRecordsMatch":
        return OaiPage(records=(), token=None, responded_at=responded_at)
    if code == "badResumptionToken":
        raise ExpiredTokenError(f"{reply.url}: {words or code}")
    raise RefusedError(f"{reply.url}: {code}: {words}")


def _record(element: etree._Element, reply: Reply) -> OaiRecord:
    header = element.find("oai:header", NAMESPACES)
    if header is None:
        raise DamagedReplyError(f"{reply.url}: a record without header")
    try:
        name = parse_arxiv_id(demanded_text(header, "oai:identifier", NAMESPACES, reply))
        day = date.fromisoformat(demanded_text(header, "oai:datestamp", NAMESPACES, reply))
    except ValueError as error:
        raise DamagedReplyError(f"{reply.url}: {error}") from error
    if header.get("status") == "deleted":
        return OaiRecord(arxiv_id=name.base, datestamp=day, is_deleted=True)
    raw = element.find("oai:metadata/raw:arXivRaw", NAMESPACES)
    if raw is None:
        raise DamagedReplyError(f"{reply.url}: {name} without metadata in the format {FORMAT}")
    versions = tuple(_version(part, reply) for part in raw.findall("raw:version", NAMESPACES))
    if not versions or [part.version for part in versions] != list(range(1, len(versions) + 1)):
        raise DamagedReplyError(f"{reply.url}: {name} has versions {[part.version for part in versions]}")

    def demanded(field: str) -> str:
        return demanded_text(raw, f"raw:{field}", NAMESPACES, reply)

    return OaiRecord(
        arxiv_id=name.base,
        datestamp=day,
        title=demanded("title"),
        authors=demanded("authors"),
        abstract=demanded("abstract"),
        categories=tuple(demanded("categories").split()),
        versions=versions,
        licence_url=text_of(raw, "raw:license", NAMESPACES),
        comments=text_of(raw, "raw:comments", NAMESPACES),
        journal_reference=text_of(raw, "raw:journal-ref", NAMESPACES),
        doi=text_of(raw, "raw:doi", NAMESPACES),
    )


def _version(element: etree._Element, reply: Reply) -> PaperVersion:
    words = element.get("version", "")
    if not (words.startswith("v") and words[1:].isdigit()):
        raise DamagedReplyError(f"{reply.url}: a version named {words!r}")
    try:
        submitted = parsedate_to_datetime(demanded_text(element, "raw:date", NAMESPACES, reply))
    except (TypeError, ValueError) as error:
        raise DamagedReplyError(f"{reply.url}: {error}") from error
    return PaperVersion(
        version=int(words[1:]),
        submitted_at=submitted.astimezone(UTC),
        size=text_of(element, "raw:size", NAMESPACES),
        source_type=text_of(element, "raw:source_type", NAMESPACES),
    )


def _moment(words: str, reply: Reply) -> datetime:
    try:
        return datetime.fromisoformat(words).astimezone(UTC)
    except ValueError as error:
        raise DamagedReplyError(f"{reply.url}: {error}") from error
