"""The downloader against a real server on the loopback interface that misbehaves on purpose."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from atomvision_ml.structures.sources.download import (
    DownloadError,
    DownloadParameters,
    download,
    read_provenance,
)

CONTENT = gzip.compress(bytes(range(256)) * 4000, mtime=0) + bytes(range(251)) * 2000
QUICK = DownloadParameters(attempts=3, backoff_s=0.0, timeout_s=5.0)


class Server:
    """A file server whose next answers can be scripted; it remembers what it was asked."""

    def __init__(self) -> None:
        self.content, self.etag = CONTENT, '"one"'
        self.requests: list[dict[str, str]] = []
        self.faults: list[Callable[[BaseHTTPRequestHandler, Server], bool]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append(dict(self.headers))
                fault = server.faults.pop(0) if server.faults else None
                if fault is None or not fault(self, server):
                    server.answer(self)

            def log_message(self, *arguments: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/dump.json.gz"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, stop_after: int | None = None) -> None:
        """A correct answer, with ranges and conditions; the line drops after ``stop_after`` bytes."""
        if handler.headers.get("If-None-Match") == self.etag:
            handler.send_response(304)
            handler.send_header("ETag", self.etag)
            handler.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked.group(1)) if asked and handler.headers.get("If-Range") == self.etag else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        body = self.content[start:]
        handler.wfile.write(body if stop_after is None else body[:stop_after])
        if stop_after is not None:
            handler.close_connection = True

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def cut_after(n_bytes: int) -> Callable[[BaseHTTPRequestHandler, Server], bool]:
    def fault(handler: BaseHTTPRequestHandler, server: Server) -> bool:
        server.answer(handler, stop_after=n_bytes)
        return True

    return fault


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler, Server], bool]:
    def fault(handler: BaseHTTPRequestHandler, server: Server) -> bool:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        return True

    return fault


def body(content: bytes, content_type: str) -> Callable[[BaseHTTPRequestHandler, Server], bool]:
    def fault(handler: BaseHTTPRequestHandler, server: Server) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    return fault


def new_version(handler: BaseHTTPRequestHandler, server: Server) -> bool:
    server.etag, server.content = '"two"', CONTENT[::-1]
    return False


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_file_and_provenance(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new folder" / "dump.json.gz"
    provenance = download(server.url, target, parameters=QUICK, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert provenance.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert provenance == read_provenance(target)
    assert (provenance.url, provenance.etag, provenance.n_bytes) == (server.url, '"one"', len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert leftovers(target.parent) == ["dump.json.gz", "dump.json.gz.provenance.json"]


def test_cut_lines_are_resumed_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.faults = [cut_after(100_000), cut_after(50_000), cut_after(1), cut_after(200_000)]
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert (tmp_path / "d.gz").read_bytes() == CONTENT
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-", "bytes=350001-"]
    assert {request.get("If-Range") for request in server.requests[1:]} == {'"one"'}


def test_a_later_call_goes_on_from_the_part_file(server: Server, tmp_path: Path) -> None:
    server.faults = [cut_after(300_000), *[cut_after(0)] * 3]
    with pytest.raises(DownloadError, match="without progress"):
        download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert leftovers(tmp_path) == ["d.gz.part", "d.gz.part.json"]
    server.requests.clear()
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert server.requests[0]["Range"] == "bytes=300000-"
    assert (tmp_path / "d.gz").read_bytes() == CONTENT


def test_a_version_that_changes_in_between_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    server.faults = [cut_after(100_000), new_version]
    provenance = download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert (tmp_path / "d.gz").read_bytes() == CONTENT[::-1]
    assert provenance.etag == '"two"'


def test_a_server_that_resumes_another_version_is_not_believed(server: Server, tmp_path: Path) -> None:
    def careless(handler: BaseHTTPRequestHandler, _: Server) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 100000-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Content-Length", str(len(CONTENT) - 100_000))
        handler.send_header("ETag", '"three"')
        handler.end_headers()
        handler.wfile.write(b"x" * (len(CONTENT) - 100_000))
        return True

    server.faults = [cut_after(100_000), careless]
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert (tmp_path / "d.gz").read_bytes() == CONTENT


def test_without_a_strong_validator_it_starts_again(server: Server, tmp_path: Path) -> None:
    server.etag = 'W/"weak"'
    server.faults = [cut_after(100_000)]
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert [request.get("Range") for request in server.requests] == [None, None]
    assert (tmp_path / "d.gz").read_bytes() == CONTENT


def test_a_part_file_that_is_already_complete_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "d.gz.part").write_bytes(CONTENT)
    state = {"url": server.url, "final_url": server.url, "total_bytes": len(CONTENT), "etag": '"one"'}
    (tmp_path / "d.gz.part.json").write_text(json.dumps(state))
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert server.requests == []
    assert (tmp_path / "d.gz").read_bytes() == CONTENT


def test_busy_servers_are_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults = [status(503, Retry_After="0"), status(500)]
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "n_requests", "message"),
    [
        (status(503), 3, "503"),
        (status(404), 1, "404"),
        (status(403), 1, "403"),
        (body(b"<!DOCTYPE html><title>Sign in</title>", "text/html; charset=utf-8"), 1, "web page"),
        (body(b"\n <HTML>Not found</HTML>", "application/json"), 1, "web page"),
        (body(b"", "application/gzip"), 1, "empty"),
    ],
)
def test_what_cannot_be_had_is_a_clear_error(
    server: Server,
    tmp_path: Path,
    fault: Callable[[BaseHTTPRequestHandler, Server], bool],
    n_requests: int,
    message: str,
) -> None:
    server.faults = [fault] * 20
    with pytest.raises(DownloadError, match=message):
        download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert len(server.requests) == n_requests
    assert leftovers(tmp_path) == []


def test_an_unchanged_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    first = download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert download(server.url, tmp_path / "d.gz", parameters=QUICK) == first
    assert server.requests[1]["If-None-Match"] == '"one"'
    new_version(None, server)  # type: ignore[arg-type]
    assert download(server.url, tmp_path / "d.gz", parameters=QUICK).etag == '"two"'
    assert (tmp_path / "d.gz").read_bytes() == CONTENT[::-1]


def test_a_damaged_file_on_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    (tmp_path / "d.gz").write_bytes(CONTENT[:-1] + b"?")
    assert read_provenance(tmp_path / "d.gz") is None
    download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert (tmp_path / "d.gz").read_bytes() == CONTENT


def test_too_large_is_refused_announced_or_not(server: Server, tmp_path: Path) -> None:
    small = QUICK.model_copy(update={"maximum_bytes": 100_000})
    with pytest.raises(DownloadError, match="limit"):
        download(server.url, tmp_path / "d.gz", parameters=small)

    def endless(handler: BaseHTTPRequestHandler, server: Server) -> bool:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"x" * 400_000)
        handler.close_connection = True
        return True

    server.faults = [endless]
    with pytest.raises(DownloadError, match="limit"):
        download(server.url, tmp_path / "d.gz", parameters=small)
    assert leftovers(tmp_path) == []


def test_checksum_is_demanded_where_it_is_known(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="SHA-256"):
        download(server.url, tmp_path / "d.gz", parameters=QUICK, expected_sha256="0" * 64)
    assert leftovers(tmp_path) == []
    good = hashlib.sha256(CONTENT).hexdigest()
    assert download(server.url, tmp_path / "d.gz", parameters=QUICK, expected_sha256=good).sha256 == good


def test_nobody_answers(tmp_path: Path) -> None:
    server = Server()
    server.close()
    with pytest.raises(DownloadError, match="refused"):
        download(server.url, tmp_path / "d.gz", parameters=QUICK)


def test_redirects_are_followed_and_recorded(server: Server, tmp_path: Path) -> None:
    server.faults = [status(302, Location="/elsewhere/dump.json.gz")]
    provenance = download(server.url, tmp_path / "d.gz", parameters=QUICK)
    assert provenance.final_url.endswith("/elsewhere/dump.json.gz")
    assert provenance.url == server.url


def test_two_processes_do_not_write_one_part_file(server: Server, tmp_path: Path) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(download(server.url, tmp_path / "d.gz", parameters=QUICK).sha256)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {hashlib.sha256(CONTENT).hexdigest()}
    assert len(results) == 4
