"""The transport against a real server on loopback that records every request."""

import gzip
import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from atomvision_ml.literature.replies import DamagedReplyError, OutageError, RefusedError, Reply
from atomvision_ml.literature.transport import RateLimit, Transport, TransportParameters, found_or_missing, limited_host


@dataclass
class Recorder:
    """Answers in order, the last one for ever; when each request began and ended."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen = {"path": self.path, "agent": self.headers["User-Agent"], "began": time.monotonic()}
            status, headers, body = recorder.answers[min(len(recorder.requests), len(recorder.answers) - 1)]
            recorder.requests.append(seen)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            seen["ended"] = time.monotonic()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        recorder.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield recorder
        http.shutdown()
        thread.join()


def parameters(**changes: Any) -> TransportParameters:
    quick = {"contact": "curator@example.org", "interval_s": 0.0, "backoff_s": 0.0, "attempts": 4}
    return TransportParameters(**{**quick, **changes})


def whole(reply: Reply) -> bytes:
    """A check that wants the word `good`."""
    if reply.status != 200 or reply.body != b"good":
        raise DamagedReplyError(f"{reply.url}: {reply.status} {reply.body!r}")
    return reply.body


GOOD = (200, {}, b"good")


@pytest.mark.parametrize(
    "bad",
    [
        (503, {"Retry-After": "0"}, b""),
        (503, {}, b""),
        (429, {}, b"Rate exceeded."),
        (406, {}, b""),
        (500, {}, b""),
        (200, {}, b"<html>hello</html>"),
        (200, {"Content-Length": "400"}, b"go"),
        (200, {"Content-Encoding": "gzip"}, b"not gzip"),
        (302, {"Location": "/elsewhere"}, b""),
        (302, {"Location": "http://127.0.0.1:port/"}, b""),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(3_000_000))),
    ],
)
def test_a_bad_reply_is_asked_for_again(server: Recorder, tmp_path: Path, bad: tuple) -> None:
    server.answers = [bad, bad, GOOD]
    with Transport(parameters(maximum_bytes=2_000_000), tmp_path, "0.1") as transport:
        assert transport.get(f"{server.url}/oai?verb=Identify", whole) == b"good"
    assert len(server.requests) == 3
    assert all(seen["agent"] == "AtomVision-ingest/0.1 (mailto:curator@example.org)" for seen in server.requests)


def test_an_outage_is_an_error_and_not_an_empty_answer(server: Recorder, tmp_path: Path) -> None:
    server.answers = [(503, {}, b"")]
    with Transport(parameters(), tmp_path, "0.1") as transport, pytest.raises(OutageError, match="4 attempts"):
        transport.get(server.url, whole)
    assert len(server.requests) == 4


def test_403_stops_at_once(server: Recorder, tmp_path: Path) -> None:
    server.answers = [(403, {}, b""), GOOD]
    with Transport(parameters(), tmp_path, "0.1") as transport, pytest.raises(RefusedError, match="stop"):
        transport.get(server.url, whole)
    assert len(server.requests) == 1


def test_other_hosts_and_endless_bodies_are_refused(server: Recorder, tmp_path: Path) -> None:
    server.answers = [(301, {"Location": "http://localhost:1/abs"}, b""), (200, {}, b"x" * 3000)]
    with Transport(parameters(maximum_bytes=2000), tmp_path, "0.1") as transport:
        with pytest.raises(RefusedError, match="another host"):
            transport.get(server.url, whole)
        with pytest.raises(RefusedError, match="larger than 2000"):
            transport.get(server.url, whole)


def test_redirects_on_the_same_host_are_followed(server: Recorder, tmp_path: Path) -> None:
    server.answers = [(301, {"Location": "/src/0708.2306v1"}, b""), GOOD]
    with Transport(parameters(), tmp_path, "0.1") as transport:
        assert transport.get(f"{server.url}/e-print/0708.2306v1", whole) == b"good"
    assert [seen["path"] for seen in server.requests] == ["/e-print/0708.2306v1", "/src/0708.2306v1"]


def test_an_unreachable_server_is_an_outage(tmp_path: Path) -> None:
    with Transport(parameters(attempts=2), tmp_path, "0.1") as transport, pytest.raises(OutageError):
        transport.get("http://127.0.0.1:9/", whole)


def test_the_wait_grows_and_heeds_the_server(server: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("atomvision_ml.literature.transport.time.sleep", waits.append)
    server.answers = [(500, {}, b""), (500, {}, b""), (429, {"Retry-After": "100"}, b""), GOOD]
    with Transport(parameters(backoff_s=2.0, maximum_wait_s=50.0), tmp_path, "0.1") as transport:
        transport.get(server.url, whole)
    assert [wait for wait in waits if wait] == [2.0, 4.0, 50.0]


def ask(url: str, folder: str, count: int) -> None:
    with Transport(parameters(interval_s=0.2), Path(folder), "0.1") as transport:
        for _ in range(count):
            transport.get(url, whole)


def test_processes_share_one_rate_and_one_connection(server: Recorder, tmp_path: Path) -> None:
    server.answers = [GOOD]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=ask, args=(server.url, str(tmp_path), 3)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    seen = sorted(server.requests, key=lambda one: one["began"])
    assert len(seen) == 9
    assert all(later["began"] >= former["ended"] for former, later in itertools.pairwise(seen))
    assert seen[-1]["began"] - seen[0]["began"] > 4 * 0.2  # 8 gaps; the first request may be served late


def test_arxiv_is_never_asked_faster_than_it_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("atomvision_ml.literature.transport.time.sleep", waits.append)
    for url in ("https://oaipmh.arxiv.org/oai", "https://export.arxiv.org/api/query", "https://arxiv.org/html/1"):
        with pytest.raises(RefusedError, match="one request in 3 s"), RateLimit(tmp_path, interval_s=2.9).turn(url):
            pass
        with RateLimit(tmp_path, interval_s=3.0).turn(url):
            pass
    assert waits[0] == 0
    assert all(2.5 < wait <= 3 for wait in waits[1:])


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://export.arxiv.org/x", "arxiv.org"),
        ("https://ARXIV.org./x", "arxiv.org"),
        ("https://notarxiv.org/x", "notarxiv.org:"),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
    ],
)
def test_all_of_arxiv_is_one_host(url: str, host: str) -> None:
    assert limited_host(url) == host


def test_no_contact_no_transport() -> None:
    with pytest.raises(ValueError, match="contact"):
        TransportParameters(contact="nobody")


def test_missing_pages_are_told_from_broken_ones() -> None:
    assert found_or_missing(Reply("u", 404, {}, b"")) is None
    assert found_or_missing(Reply("u", 200, {}, b"x")) is not None
    with pytest.raises(DamagedReplyError):
        found_or_missing(Reply("u", 418, {}, b""))
