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
        self._random = random.Random(3)

    def reply(self, query: dict[str, list[str]]) -> tuple[int, bytes]:
        self.requests.append(str(query))
        if self.dead_after is not None and len(self.requests) > self.dead_after:
            return 503, b""
        whole = self._page(query)
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


def harvested(archive: Archive, folder: Path, **changes: Any) -> list[tuple[str, date]]:
    quick = TransportParameters(contact="curator@example.org", interval_s=0, backoff_s=0, attempts=12)
    with Transport(quick, folder / "limit", "0.1") as transport:
        found = harvest(transport, HarvestParameters(base_url=archive.url, **changes), folder / "pages")
    assert found.watermark == date(2024, 6, 1)
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


def test_a_quiet_period_is_no_failure(archive: Archive, tmp_path: Path) -> None:
    assert harvested(archive, tmp_path, watermark=date(2024, 5, 30)) == []


def test_other_parameters_start_anew(archive: Archive, tmp_path: Path) -> None:
    assert harvested(archive, tmp_path) == EVERYTHING
    assert len(harvested(archive, tmp_path, watermark=DAYS[-1])) < len(EVERYTHING)
    assert len(list((tmp_path / "pages").glob("*.xml.gz"))) == 1
