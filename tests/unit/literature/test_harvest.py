"""A harvest against a real server on loopback: faults, stops and expired tokens change nothing of its result."""

import random
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from atomvision_ml.literature import oai
from atomvision_ml.literature.harvest import HarvestParameters, harvest
from atomvision_ml.literature.replies import OutageError
from atomvision_ml.literature.transport import Transport, TransportParameters

RECORD = """<record><header><identifier>oai:arXiv.org:{id}</identifier><datestamp>{day}</datestamp></header><metadata>
<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>{id}</id><version version="v1"><date>Tue, 5 Mar 2024 04:10:52 GMT
</date></version><title>T {id}</title><authors>A</authors><categories>cond-mat</categories><abstract>X</abstract>
</arXivRaw></metadata></record>"""
PAGE = """<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><responseDate>2024-06-01T01:02:03Z</responseDate>{body}
</OAI-PMH>"""
DAYS = [date(2024, 3, 1) + timedelta(days=number // 3) for number in range(40)]
PAGE_RECORDS = 4


class Archive:
    """Forty papers, four a page; faults by a seeded die, tokens that may expire."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[str] = []
        self.fault_share = 0.0
        self.expires_after: int | None = None
        self.dead_after: int | None = None
        self.lies: dict[int, bytes] = {}
        self.day = "2024-06-01"
        self._random = random.Random(3)

    def reply(self, query: dict[str, list[str]]) -> tuple[int, bytes]:
        self.requests.append(str(query))
        if self.dead_after is not None and len(self.requests) > self.dead_after:
            return 503, b""
        whole = self._page(query).replace(b"2024-06-01", self.day.encode())
        whole = self.lies.pop(len(self.requests), whole)
        if self._random.random() < self.fault_share:
            return self._random.choice(
                [
                    (503, b""),
                    (429, b"Rate exceeded."),
                    (200, whole[: len(whole) // 2]),
                    (200, b"<html></html>"),
                    (200, b""),
                ]
            )
        return 200, whole

    def _page(self, query: dict[str, list[str]]) -> bytes:
        if "resumptionToken" in query:
            since, skip = query["resumptionToken"][0].split("|")
            if self.expires_after is not None and len(self.requests) > self.expires_after:
                self.expires_after = None
                return PAGE.format(body='<error code="badResumptionToken">gone</error>').encode()
        else:
            since, skip = query["from"][0], "0"
        found = [(f"2403.{number:05d}", day) for number, day in enumerate(DAYS) if day >= date.fromisoformat(since)]
        if not found:
            return PAGE.format(body='<error code="noRecordsMatch">none</error>').encode()
        part = found[int(skip) : int(skip) + PAGE_RECORDS]
        rest = int(skip) + PAGE_RECORDS < len(found)
        token = f"{since}|{int(skip) + PAGE_RECORDS}" if rest else ""
        records = "".join(RECORD.format(id=name, day=day) for name, day in part)
        body = f"<ListRecords>{records}<resumptionToken>{token}</resumptionToken></ListRecords>"
        return PAGE.format(body=body).encode()


@pytest.fixture
def archive() -> Iterator[Archive]:
    served = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = served.reply(parse_qs(urlsplit(self.path).query))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.url = f"http://127.0.0.1:{http.server_address[1]}/oai"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        http.shutdown()
        thread.join()


def transport(folder: Path) -> Transport:
    quick = TransportParameters(contact="curator@example.org", interval_s=0, backoff_s=0, attempts=12)
    return Transport(quick, folder / "limit", "0.1")


def harvested(archive: Archive, folder: Path, **changes: Any) -> list[tuple[str, date]]:
    with transport(folder) as way:
        found = harvest(way, HarvestParameters(base_url=archive.url, **changes), folder / "pages")
    assert found.watermark == DAYS[-1]
    assert found.n_records == len(list(found.records()))
    return [(record.arxiv_id, record.datestamp) for record in found.records()]


EVERYTHING = [(f"2403.{number:05d}", day) for number, day in enumerate(DAYS)]


def test_every_record_comes_once_and_in_order(archive: Archive, tmp_path: Path) -> None:
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(archive.requests) == len(DAYS) // PAGE_RECORDS


def test_a_storm_of_faults_changes_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.fault_share = 0.3
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(archive.requests) > len(DAYS) // PAGE_RECORDS


@pytest.mark.parametrize("n_pages", range(10))
def test_an_interrupted_harvest_goes_on_after_its_last_page(archive: Archive, tmp_path: Path, n_pages: int) -> None:
    archive.dead_after = n_pages
    with pytest.raises(OutageError):
        harvested(archive, tmp_path)
    archive.dead_after = None
    before = len(archive.requests)
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(archive.requests) - before == len(DAYS) // PAGE_RECORDS - n_pages


def test_an_expired_token_loses_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.expires_after = 5
    assert sorted(set(harvested(archive, tmp_path))) == EVERYTHING


def test_only_what_changed_since_the_watermark_is_asked_for(archive: Archive, tmp_path: Path) -> None:
    watermark = DAYS[-1]
    found = harvested(archive, tmp_path, watermark=watermark)
    assert {day for _, day in found} == {watermark - timedelta(days=1), watermark}


@pytest.mark.parametrize("day", ["2024-06-01", "2031-01-01"], ids=["its clock is right", "its clock is wrong"])
def test_a_quiet_period_is_no_failure_and_leaves_the_watermark(archive: Archive, tmp_path: Path, day: str) -> None:
    archive.day = day
    watermark = date(2024, 5, 30)
    with transport(tmp_path) as way:
        found = harvest(way, HarvestParameters(base_url=archive.url, watermark=watermark), tmp_path / "pages")
    assert list(found.records()) == []
    assert found.watermark == watermark


def test_a_clock_that_is_ahead_does_not_move_the_watermark_past_the_records(archive: Archive, tmp_path: Path) -> None:
    archive.day = "2031-01-01"
    assert harvested(archive, tmp_path) == EVERYTHING


def test_a_clock_that_is_behind_is_believed(archive: Archive, tmp_path: Path) -> None:
    archive.day = "2024-03-05"
    with transport(tmp_path) as way:
        found = harvest(way, HarvestParameters(base_url=archive.url), tmp_path / "pages")
    assert found.watermark == date(2024, 3, 5)


NOTHING = PAGE.format(body='<error code="noRecordsMatch">none</error>').encode()


def untrue_page(kind: str, request_number: int) -> bytes:
    """A well-formed page that cannot be the one that was asked for."""
    same = f"<resumptionToken>{oai.EARLIEST_DAY}|{PAGE_RECORDS * (request_number - 1)}</resumptionToken>"
    record = RECORD.format(id="2403.00039", day=DAYS[-1])
    bodies = {"no token": record, "the same token": record + same}
    return NOTHING if kind == "nothing new" else PAGE.format(body=f"<ListRecords>{bodies[kind]}</ListRecords>").encode()


@pytest.mark.parametrize(
    ("kind", "request_number"),
    [("nothing new", 1), *((kind, n) for kind in ("nothing new", "no token", "the same token") for n in (2, 10))],
)
def test_a_well_formed_page_that_cannot_be_true_is_asked_for_again(
    archive: Archive, tmp_path: Path, kind: str, request_number: int
) -> None:
    archive.lies = {request_number: untrue_page(kind, request_number)}
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(archive.requests) == len(DAYS) // PAGE_RECORDS + 1


def test_an_archive_without_any_record_is_an_outage(archive: Archive, tmp_path: Path) -> None:
    archive.lies = {number: NOTHING for number in range(1, 13)}
    with pytest.raises(OutageError, match="is 'physics:cond-mat' a set"):
        harvested(archive, tmp_path)


def test_tokens_that_do_not_last_fail_the_harvest_and_the_next_one_goes_on(archive: Archive, tmp_path: Path) -> None:
    expired = PAGE.format(body='<error code="badResumptionToken">gone</error>').encode()
    archive.lies = {number: expired for number in range(2, 40, 2)}  # every second request
    with pytest.raises(OutageError, match="did not last"):
        harvested(archive, tmp_path)
    archive.lies = {len(archive.requests) + 1: expired}
    assert sorted(set(harvested(archive, tmp_path))) == EVERYTHING


def test_other_parameters_start_anew(archive: Archive, tmp_path: Path) -> None:
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(harvested(archive, tmp_path, watermark=DAYS[-1])) < len(EVERYTHING)
    assert len(list((tmp_path / "pages").glob("*.xml.gz"))) == 1
