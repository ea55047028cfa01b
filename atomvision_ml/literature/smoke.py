"""A few requests to arXiv itself, each read as the harvest reads it: for the day when somebody has the network.

Belongs here: what is asked, at most ten requests, and what a good answer is. Everything else is proven against the
double; only this tells whether the double is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from urllib.parse import urlencode
from urllib.robotparser import RobotFileParser

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature import atom, latexml, oai
from atomvision_ml.literature.archives import ArchiveError, read_source
from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.replies import (
    DamagedReplyError,
    LiteratureError,
    RefusedError,
    Reply,
    demanded_text,
    parse_xml,
)
from atomvision_ml.literature.transport import Transport, found_or_missing

MAXIMUM_REQUESTS = 10
_HITS = 5


class SmokeParameters(BaseModel):
    """Whom to ask for what; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    oai_url: str = Field(description="Address of OAI-PMH.")
    api_url: str = Field(description="Address of the Atom API.")
    url: str = Field(description="Where full texts and sources are, without a final slash.")
    set_name: str = Field(default="physics:cond-mat", description="Set of papers.")
    since: date = Field(description="First day whose papers and changes are asked for.")
    paper: str = Field(default="0708.2306v1", description="A version whose full text and source are asked for.")


@dataclass(frozen=True)
class Probe:
    """One request.

    Attributes:
        name: what was asked for.
        url: its address.
        passed: whether the answer is one that the harvest understands.
        said: what it was, or why not.
        duration_s: time with all waits.
    """

    name: str
    url: str
    passed: bool
    said: str
    duration_s: float


def smoke(transport: Transport, parameters: SmokeParameters) -> Iterator[Probe]:
    """Ask every interface once or twice; one that fails does not keep the others from being asked.

    Args:
        transport: the way to the servers; with one attempt each, there are at most ten requests (and redirects).
        parameters: whom to ask for what.

    Raises:
        ValueError: ``paper`` is no version of a paper.
    """
    name = parse_arxiv_id(parameters.paper)
    if name.version is None:
        raise ValueError(f"{parameters.paper} names no version; write {parameters.paper}v1")
    asked = _Asked(transport)
    url, paper = parameters.url, str(name)
    yield asked.probe("robots.txt", f"{url}/robots.txt", lambda reply: _robots(reply, url))
    yield asked.probe("OAI-PMH Identify", f"{parameters.oai_url}?verb=Identify", _identity)
    first = oai.list_url(parameters.oai_url, parameters.set_name, parameters.since)
    yield asked.probe("OAI-PMH records", first, asked.records)
    if asked.token is not None:
        yield asked.probe("OAI-PMH next page", oai.next_url(parameters.oai_url, asked.token), asked.records)
    found = atom.query_url(parameters.api_url, _recent(parameters.since), page_size=_HITS)
    yield asked.probe("Atom query", found, asked.entries)
    yield asked.probe("Atom error feed", f"{parameters.api_url}?{urlencode({'id_list': 'abc'})}", _error_feed)
    if asked.hit is not None:
        yield asked.probe(f"HTML of {asked.hit}", f"{url}/html/{asked.hit}", asked.figures)
    if asked.image is not None:
        yield asked.probe("an image of it", asked.image, _image)
    yield asked.probe(f"HTML of {paper}", f"{url}/html/{paper}", asked.figures)
    yield asked.probe(f"source of {paper}", f"{url}/src/{paper}", _source)


class _Asked:
    """Asks, and keeps of the answers what later requests need."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.token: str | None = None
        self.hit: str | None = None
        self.image: str | None = None

    def probe(self, name: str, url: str, check: Callable[[Reply], str]) -> Probe:
        started = time.monotonic()
        try:
            passed, said = True, self._transport.get(url, check)
        except LiteratureError as error:
            passed, said = False, str(error)
        return Probe(name, url, passed, said, time.monotonic() - started)

    def records(self, reply: Reply) -> str:
        page = oai.parse_page(reply)
        self.token = page.token
        more = "more to come" if page.token else "the last page"
        return f"{len(page.records)} records, {more}, answered at {page.responded_at:%Y-%m-%d %H:%M} UTC"

    def entries(self, reply: Reply) -> str:
        page = atom.parse_page(reply, start=0, page_size=_HITS)
        if page.entries:
            self.hit = f"{page.entries[0].arxiv_id}v{page.entries[0].version}"
        return f"{len(page.entries)} of {page.total} papers"

    def figures(self, reply: Reply) -> str:
        if found_or_missing(reply) is None:
            return f"not there: {latexml.missing_reason(reply)}"
        figures = latexml.parse_figures(reply)
        images = [image for figure in figures for image in figure.images]
        self.image = images[0] if images else None
        name, licence = latexml.page_identity(reply)
        return f"{len(figures)} figures, {len(images)} images; it says that it is {name}, licence {licence}"


def _recent(since: date) -> str:
    return f"cat:cond-mat.mtrl-sci AND submittedDate:[{since:%Y%m%d}0000 TO {datetime.now(UTC):%Y%m%d%H%M}]"


def _robots(reply: Reply, url: str) -> str:
    if found_or_missing(reply) is None:
        return "there is none"
    rules = RobotFileParser()
    rules.parse(reply.body.decode("utf-8", "replace").splitlines())
    allowed = [path for path in ("/html/", "/src/") if rules.can_fetch("AtomVision-ingest", f"{url}{path}0708.2306v1")]
    return f"allows {', '.join(allowed) or 'nothing of what the harvest reads'}"


def _identity(reply: Reply) -> str:
    document = parse_xml(reply, f"{{{oai.NAMESPACES['oai']}}}OAI-PMH")
    words = [
        demanded_text(document, f"oai:Identify/oai:{field}", oai.NAMESPACES, reply)
        for field in ("repositoryName", "earliestDatestamp", "granularity")
    ]
    return ", ".join(words)


def _error_feed(reply: Reply) -> str:
    """A wrong query is to be refused, else papers that do not exist would come of it."""
    try:
        atom.parse_page(reply, start=0, page_size=10)
    except RefusedError as error:
        return f"told from papers: {error}"
    raise RefusedError(f"{reply.url}: a wrong query was answered as if it were right")


def _image(reply: Reply) -> str:
    kind = reply.headers.get("content-type", "")
    if reply.status != 200 or not kind.startswith("image/"):
        raise DamagedReplyError(f"{reply.url}: status {reply.status}, {kind or 'of no kind'}")
    return f"{kind}, {len(reply.body)} bytes"


def _source(reply: Reply) -> str:
    if found_or_missing(reply) is None:
        return f"not there: {latexml.missing_reason(reply)}"
    try:
        source = read_source(reply.body)
    except ArchiveError as error:
        raise DamagedReplyError(f"{reply.url}: {error}") from error
    return f"{source.kind}, {len(source.names)} files, {len(reply.body)} bytes"
