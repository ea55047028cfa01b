"""Harvesting a set of papers over OAI-PMH: page by page, resumable, each raw page kept.

Belongs here: which page comes next, and what is known after each. A page is kept compressed as it came, before anything
is made of it, so that a later reading of the same bytes needs no request. The watermark is the newest datestamp of a
record, so that neither an empty reply nor a wrong clock moves it past something unseen; it is for the caller to store
it, once all that came with the harvest is published.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature import oai
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply
from atomvision_ml.literature.transport import Transport
from atomvision_ml.storage.files import write_whole

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]

OVERLAP = timedelta(days=1)
"""Datestamps are days: what changed later on the watermark's day must be asked for once more."""
_MAXIMUM_LISTS = 6


class HarvestParameters(BaseModel):
    """What is harvested; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(default="https://oaipmh.arxiv.org/oai", description="Address of the interface.")
    set_name: str = Field(default="physics:cond-mat", description="Set of the interface; cross-lists are members.")
    watermark: date | None = Field(default=None, description="Day of the last committed harvest; None: from the start.")

    @property
    def since(self) -> date:
        """First day that is asked for."""
        return oai.EARLIEST_DAY if self.watermark is None else max(oai.EARLIEST_DAY, self.watermark - OVERLAP)


class _State(BaseModel):
    """What is known after a page; written after the page itself."""

    model_config = ConfigDict(frozen=True)

    parameters: HarvestParameters
    n_pages: int = 0
    n_records: int = 0
    next_url: str | None
    began_at: datetime | None = None
    last_day: date
    first_page: int = Field(default=1, description="Of those in which records may have moved unnoticed.")


@dataclass(frozen=True)
class Harvest:
    """A complete harvest.

    Attributes:
        folder: with the raw pages, ``000001.xml.gz`` and so on.
        n_pages: how many.
        n_records: on all of them.
        watermark: newest datestamp of a record, at most the day on which the server began to answer; without any
            record it stays where it was.
    """

    folder: Path
    n_pages: int
    n_records: int
    watermark: date

    def records(self) -> Iterator[oai.OaiRecord]:
        """All records, page by page; one that changed during the harvest may come twice."""
        for number in range(1, self.n_pages + 1):
            yield from _kept(self.folder, number)


def harvest(
    transport: Transport, parameters: HarvestParameters, folder: Path, progress: Progress | None = None
) -> Harvest:
    """Fetch all pages; a harvest that was stopped goes on after its last page.

    Args:
        transport: the way to the server.
        parameters: what is harvested; other ones start the folder anew.
        folder: of the raw pages and of what is known after each; to be removed when the harvest is committed, because
            a complete one in it is not fetched again.
        progress: called with (records so far, None).

    Raises:
        OutageError: the server gives no good reply, its tokens do not last, or its records move all the time; what
            came before is kept for the next attempt.
        RefusedError: the server refuses.
    """
    state = _resumed(folder, parameters)
    for _ in range(_MAXIMUM_LISTS):
        state = _listed(transport, state, folder, progress or (lambda done, total: None))
        if state.next_url is None:
            began = state.began_at or datetime.now(UTC)
            watermark = max(min(state.last_day, began.date()), parameters.watermark or oai.EARLIEST_DAY)
            return Harvest(folder, state.n_pages, state.n_records, watermark)
    raise OutageError(f"{state.next_url}: in {_MAXIMUM_LISTS} lists tokens did not last or records kept moving")


def page_path(folder: Path, number: int) -> Path:
    """File of a raw page, counted from 1."""
    return folder / f"{number:06d}.xml.gz"


def _listed(transport: Transport, state: _State, folder: Path, progress: Progress) -> _State:
    """Read a list to its end; the state then has the list to go on with, if another one is needed."""
    try:
        while state.next_url is not None:
            reply, page = transport.get(state.next_url, partial(_read, state))
            state = _after(state, reply, page, folder)
            progress(state.n_records, None)
    except oai.ExpiredTokenError as error:
        log.warning("%s; going on from %s", error, state.last_day)
        return _anew(state, state.last_day, state.first_page)
    day = _first_moved(state, folder)
    if day is None:
        return state
    log.warning("records of %s and later moved while the list was read: it is read again from there", day)
    return _anew(state, day, state.n_pages + 1)


def _anew(state: _State, since: date, first_page: int) -> _State:
    first = oai.list_url(state.parameters.base_url, state.parameters.set_name, since)
    return state.model_copy(update={"next_url": first, "first_page": first_page})


def _first_moved(state: _State, folder: Path) -> date | None:
    """The first day that lost a record to a later one while the list was read; None if none did.

    A token counts the records before the next page. Where one of them has gone to the end of the list meanwhile, the
    page begins one too late and a record is never shown. The one that went is seen twice.
    """
    if state.began_at is None:
        return None
    changed, first = set(), None
    for number in range(state.n_pages, state.first_page - 1, -1):
        for record in _kept(folder, number):
            if record.datestamp >= state.began_at.date():
                changed.add(record.arxiv_id)
            elif record.arxiv_id in changed:
                first = min(first or record.datestamp, record.datestamp)
    return first


def _kept(folder: Path, number: int) -> tuple[oai.OaiRecord, ...]:
    path = page_path(folder, number)
    return oai.parse_page(Reply(path.name, 200, {}, gzip.decompress(path.read_bytes()))).records


def _read(state: _State, reply: Reply) -> tuple[Reply, oai.OaiPage]:
    """The page that was asked for; raises DamagedReplyError where it cannot be the right one."""
    is_continued = "resumptionToken=" in (state.next_url or "")
    page = oai.parse_page(reply, is_continued=is_continued)
    parameters = state.parameters
    if page.token is not None and oai.next_url(parameters.base_url, page.token) == state.next_url:
        raise DamagedReplyError(f"{reply.url}: the token leads to the same page again")
    if not page.records and parameters.watermark is None:
        raise DamagedReplyError(f"{reply.url}: no record at all; is {parameters.set_name!r} a set?")
    return reply, page


def _after(state: _State, reply: Reply, page: oai.OaiPage, folder: Path) -> _State:
    """The page is kept first, then what is known after it: a crash between the two fetches the page once more."""
    number = state.n_pages + 1
    write_whole(page_path(folder, number), gzip.compress(reply.body, mtime=0))
    token = page.token
    after = state.model_copy(
        update={
            "n_pages": number,
            "n_records": state.n_records + len(page.records),
            "next_url": None if token is None else oai.next_url(state.parameters.base_url, token),
            "began_at": state.began_at or page.responded_at,
            "last_day": max([state.last_day, *(record.datestamp for record in page.records)]),
        }
    )
    write_whole(folder / "state.json", after.model_dump_json().encode())
    return after


def _resumed(folder: Path, parameters: HarvestParameters) -> _State:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "state.json"
    if path.is_file():
        state = _State.model_validate(json.loads(path.read_text()))
        if state.parameters == parameters:
            return state
    for old in folder.glob("*.xml.gz"):
        old.unlink()
    path.unlink(missing_ok=True)
    first = oai.list_url(parameters.base_url, parameters.set_name, parameters.since)
    return _State(parameters=parameters, next_url=first, last_day=parameters.since)
