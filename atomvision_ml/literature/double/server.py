"""The double's server: the routes, the log of requests, and how replies go over the wire.

Belongs here: one HTTP server on loopback for all of arXiv's interfaces. Its log tells when each request began and when
the last byte was about to leave, so it can prove that a client has one request in flight and keeps its distance.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from atomvision_ml.literature.double import atom_query, oai_pmh, pages
from atomvision_ml.literature.double.answers import ATOM, XML, Answer, page
from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus
from atomvision_ml.literature.double.faults import LOOP, Faults, Kind, skewed, spoiled

Clock = Callable[[], datetime]

_LOOK_S = 0.05
"""How often a silent server looks whether it is to stop."""


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        path: path and query; of a POST, with its form as the query.
        user_agent: as sent.
        began_s, ended_s: when it was read and when its last byte was about to leave, by the monotonic clock.
        status: of the reply; None if the connection was dropped.
        fault: its fault, if it had one.
        n_bytes: of the reply's body.
    """

    path: str
    user_agent: str
    began_s: float
    ended_s: float
    status: int | None
    fault: Kind | None
    n_bytes: int


class RequestLog:
    """All requests in order of their ends; for use by many threads.

    Args:
        path: file to which each request is written as a line of JSON, for other processes; None: none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Note a request."""
        with self._lock:
            self._requests.append(request)
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(asdict(request)) + "\n")

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests so far, in order of their beginnings."""
        with self._lock:
            return tuple(sorted(self._requests, key=lambda request: request.began_s))


def read_log(path: Path) -> tuple[Request, ...]:
    """The requests of a log file, in order of their beginnings."""
    requests = (Request(**json.loads(line)) for line in path.read_text().splitlines())
    return tuple(sorted(requests, key=lambda request: request.began_s))


def most_in_flight(requests: Sequence[Request]) -> int:
    """Most requests that were open at one time."""
    changes = sorted([(request.began_s, 1) for request in requests] + [(request.ended_s, -1) for request in requests])
    most = n_open = 0
    for _, change in changes:
        n_open += change
        most = max(most, n_open)
    return most


def shortest_distance_s(requests: Sequence[Request]) -> float:
    """Shortest time in seconds between the beginnings of two requests; infinite for fewer than two."""
    began = sorted(request.began_s for request in requests)
    return min((later - former for former, later in pairwise(began)), default=float("inf"))


class Double:
    """A running double.

    Attributes:
        corpus: what is served; may be exchanged while the server runs.
        log: of all requests.
        faults: what goes wrong; may be exchanged too.
        delay_s: time that each reply is held back, in seconds.
        clock: gives the time, UTC.
        url: address for pages and sources, without a final slash.
        oai_url, api_url: addresses of OAI-PMH and of the Atom API.
    """

    def __init__(
        self,
        corpus: Corpus,
        port: int,
        *,
        faults: Faults | None,
        clock: Clock,
        page_records: int,
        delay_s: float,
        log: RequestLog,
    ) -> None:
        self.corpus = corpus
        self.log = log
        self.faults = faults
        self.delay_s = delay_s
        self.stopped = threading.Event()
        self.clock = clock
        self._page_records = page_records
        self._change = threading.Lock()
        double = self

        class Handler(_Handler):
            served = double

        self.http = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.oai_url, self.api_url = f"{self.url}/oai", f"{self.url}/api/query"

    def answer(self, address: str, *, is_form: bool = False) -> tuple[Answer, Kind | None]:
        """The reply to a request, and its fault.

        Args:
            address: path and query.
            is_form: whether it was a POST.
        """
        drawn = None if self.faults is None or address == LOOP else self.faults.draw(address)
        kind = None if drawn is None else drawn[0]
        now = self.clock()
        if kind == "changed_record":
            self._change_a_record(address, now)
        parts = urlsplit(address)
        path = unquote(parts.path)
        good = self._good(path, parts.query, skewed(now) if kind == "clock_skew" else now, is_form=is_form)
        if drawn is None:
            return good, None
        return spoiled(good, *drawn, is_oai=path == "/oai", now=now, url=self.url), kind

    def _good(self, path: str, query: str, now: datetime, *, is_form: bool) -> Answer:
        arguments = parse_qsl(query, keep_blank_values=True)
        if path == "/oai":
            repository = oai_pmh.Repository(self.corpus, now, self.oai_url, self._page_records)
            return Answer(headers={"Content-Type": XML}, body=oai_pmh.answer(repository, arguments))
        if is_form:
            return page(405, "Method not allowed")
        if path == "/api/query":
            status, feed = atom_query.answer(self.corpus, dict(arguments), now, self.api_url)
            return Answer(status, {"Content-Type": ATOM}, feed)
        if path == LOOP:
            return Answer(301, {"Location": LOOP})
        return pages.answer(self.corpus, path)

    def _change_a_record(self, address: str, now: datetime) -> None:
        """The first paper of the list gets today's datestamp, and the list behind it slides."""
        asked = dict(parse_qsl(urlsplit(address).query))
        asked |= parse_qsl(unquote(asked.get("resumptionToken", "")))
        with self._change:
            listed = [
                paper
                for paper in self.corpus.papers
                if paper.datestamp.isoformat() >= asked.get("from", "")
                and ("set" not in asked or oai_pmh.is_member(paper, asked["set"]))
            ]
            if listed:
                first = min(listed, key=lambda paper: (paper.datestamp, paper.id))
                self.corpus = self.corpus.with_paper(first.model_copy(update={"datestamp": now.date()}))


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # the log is complete when the server has closed


@contextmanager
def serve(
    corpus: Corpus | None = None,
    *,
    port: int = 0,
    faults: Faults | None = None,
    clock: Clock | None = None,
    page_records: int = oai_pmh.PAGE_RECORDS,
    delay_s: float = 0.0,
    log: Path | None = None,
) -> Iterator[Double]:
    """Serve a corpus on loopback while the block runs.

    Args:
        corpus: what is served; None: the corpus of this package.
        port: 0 takes a free one.
        faults: what goes wrong; None: nothing.
        clock: gives the time, UTC; None: the machine's.
        page_records: records of a page of OAI-PMH.
        delay_s: time in seconds that each reply is held back, so that the log can tell requests that overlap.
        log: file that also gets the log, a line of JSON for each request.

    Raises:
        ValueError: the corpus cannot be read.
        OSError: the port is taken.
    """
    double = Double(
        corpus or read_corpus(),
        port,
        faults=faults,
        clock=clock or (lambda: datetime.now(UTC)),
        page_records=page_records,
        delay_s=delay_s,
        log=RequestLog(log),
    )
    thread = threading.Thread(target=double.http.serve_forever, kwargs={"poll_interval": 0.01}, name="arxiv-double")
    thread.start()
    try:
        yield double
    finally:
        double.stopped.set()
        double.http.shutdown()
        thread.join()
        double.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Double
    server_version = "arxiv-double"
    timeout = 10.0  # for a client that connects and says nothing
    wbufsize = -1  # one write for headers and body

    def do_GET(self) -> None:
        """Answer; the name is that of the standard library."""
        self._answer(self.path, is_form=False)

    def do_POST(self) -> None:
        """Answer a form as if it were a query."""
        form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("ascii", "replace")
        self._answer(f"{self.path}?{form}", is_form=True)

    def log_message(self, *_: object) -> None:
        """Nothing goes to the standard error; the log of requests has it all."""

    def _answer(self, address: str, *, is_form: bool) -> None:
        began = time.monotonic()
        answer, kind = self.served.answer(address, is_form=is_form)
        self.served.stopped.wait(self.served.delay_s)
        if answer.delivery == "silence":
            self._be_silent(answer.silence_s)
        is_dropped = answer.delivery in ("silence", "reset")
        self.served.log.add(
            Request(
                path=address,
                user_agent=self.headers.get("User-Agent", ""),
                began_s=began,
                ended_s=time.monotonic(),
                status=None if is_dropped else answer.status,
                fault=kind,
                n_bytes=0 if is_dropped else len(answer.body),
            )
        )
        self.close_connection = True
        if is_dropped:
            self._drop()
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        n_bytes = len(answer.body) // 2 if answer.delivery == "cut_off" else len(answer.body)
        with suppress(ConnectionError):  # the client may have gone
            self.wfile.write(answer.body[:n_bytes])
            self.wfile.flush()

    def _be_silent(self, duration_s: float) -> None:
        """Wait until the time is over, the client hangs up, or the server stops."""
        end = time.monotonic() + duration_s
        while (rest := end - time.monotonic()) > 0 and not self.served.stopped.is_set():
            if select.select([self.connection], [], [], min(rest, _LOOK_S))[0]:
                return

    def _drop(self) -> None:
        """End the connection with a reset, not with an orderly goodbye."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
