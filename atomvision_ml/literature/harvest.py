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
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature import oai
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply
from atomvision_ml.literature.transport import Transport

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]

OVERLAP = timedelta(days=1)
"""Datestamps are days: what changed later on the watermark's day must be asked for once more."""
_MAXIMUM_RESTARTS = 5


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
    next_url: str | None
    began_at: datetime | None = None
    last_day: date


@dataclass(frozen=True)
class Harvest:
    """A complete harvest.

    Attributes:
        folder: with the raw pages, ``000001.xml.gz`` and so on.
        n_pages: how many.
        watermark: newest datestamp of a record, at most the day on which the server began to answer; without any
            record it stays where it was.
    """

    folder: Path
    n_pages: int
    watermark: date

    def records(self) -> Iterator[oai.OaiRecord]:
        """All records, page by page; one that changed during the harvest may come twice."""
        for number in range(1, self.n_pages + 1):
            path = page_path(self.folder, number)
            body = gzip.decompress(path.read_bytes())
            yield from oai.parse_page(Reply(path.name, 200, {}, body)).records


def harvest(
    transport: Transport, parameters: HarvestParameters, folder: Path, progress: Progress | None = None
) -> Harvest:
    """Fetch all pages; a harvest that was stopped goes on after its last page.

    Args:
        transport: the way to the server.
        parameters: what is harvested; other ones start the folder anew.
        folder: of the raw pages and of what is known after each.
        progress: called with (records so far, None).

    Raises:
        OutageError: the server gives no good reply, or its tokens do not last; what came before is kept for the next
            attempt.
        RefusedError: the server refuses.
    """
    state = _resumed(folder, parameters)
    n_records = n_restarts = 0
    while state.next_url is not None:
        try:
            reply, page = transport.get(state.next_url, partial(_read, state))
        except oai.ExpiredTokenError as error:
            if n_restarts >= _MAXIMUM_RESTARTS:
                raise OutageError(f"after {n_restarts} lists asked for anew: {error}") from error
            log.warning("%s; going on from %s", error, state.last_day)
            again = oai.list_url(parameters.base_url, parameters.set_name, state.last_day)
            state, n_restarts = state.model_copy(update={"next_url": again}), n_restarts + 1
            continue
        state = _after(state, reply, page, folder)
        n_records += len(page.records)
        if progress is not None:
            progress(n_records, None)
    began = state.began_at or datetime.now(UTC)
    watermark = max(min(state.last_day, began.date()), parameters.watermark or oai.EARLIEST_DAY)
    return Harvest(folder, state.n_pages, watermark)


def page_path(folder: Path, number: int) -> Path:
    """File of a raw page, counted from 1."""
    return folder / f"{number:06d}.xml.gz"


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
    _replace(page_path(folder, number), gzip.compress(reply.body, mtime=0))
    token = page.token
    after = state.model_copy(
        update={
            "n_pages": number,
            "next_url": None if token is None else oai.next_url(state.parameters.base_url, token),
            "began_at": state.began_at or page.responded_at,
            "last_day": max([state.last_day, *(record.datestamp for record in page.records)]),
        }
    )
    _replace(folder / "state.json", after.model_dump_json().encode())
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


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_bytes(content)
    os.replace(beside, path)
