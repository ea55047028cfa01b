"""The one downloader: resumable, with bounded retries, limits, a checksum and a record of where the file came from.

``<file>.part`` holds what has arrived and ``<file>.part.json`` which version of which address it belongs to;
``<file>.provenance.json`` describes the complete file. The complete file appears by one atomic rename.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import requests
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from atomvision_ml.storage.blobs import file_sha256
from atomvision_ml.storage.files import write_whole
from atomvision_ml.structures.record import Progress

_CHUNK = 2**18
_TRANSIENT = (429, 500, 502, 503, 504)


class DownloadError(RuntimeError):
    """The file cannot be had from this address; the message says why."""


class _Interrupted(Exception):
    """The transfer stopped, and another attempt may go on from here."""


class DownloadParameters(BaseModel):
    """How patient and how careful a download is; none of it changes what the file is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_bytes: int = Field(default=8 * 2**30, gt=0, description="Largest file that is accepted.")
    attempts: int = Field(default=4, ge=1, description="Attempts in a row that bring nothing new before giving up.")
    maximum_attempts: int = Field(default=100, ge=1, description="Attempts in all, for a line that keeps breaking.")
    backoff_s: float = Field(default=1.0, ge=0, description="Wait before the second attempt; doubles each time.")
    maximum_wait_s: float = Field(default=60.0, ge=0, description="Longest wait, also where the server asks for more.")
    timeout_s: float = Field(default=30.0, gt=0, description="Longest silence of the server.")
    deadline_s: float = Field(default=6 * 3600.0, gt=0, description="Longest time for the whole download.")


class Provenance(BaseModel):
    """Where a complete file came from; kept beside it."""

    model_config = ConfigDict(frozen=True)

    url: str
    final_url: str
    retrieved_at: str
    n_bytes: int
    sha256: str
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


class _Part(BaseModel):
    """What the bytes in ``.part`` are a beginning of."""

    model_config = ConfigDict(frozen=True)

    url: str
    final_url: str
    total_bytes: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may carry: a strong ETag, else the date; a weak ETag says nothing about bytes."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


def download(
    url: str,
    target: Path,
    *,
    parameters: DownloadParameters | None = None,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
) -> Provenance:
    """Fetch the address into the target file, going on from an earlier interrupted attempt.

    A complete target is fetched anew only if the server has another version (``If-None-Match``).

    Args:
        url: http or https address.
        target: file to write; its folder is made. One process at a time writes it.
        parameters: limits and patience.
        expected_sha256: checksum that the file must have, where it is known.
        progress: called with (bytes so far, total bytes or None).

    Raises:
        DownloadError: unreachable, refused, too large, not a data file, or of another checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"), _session(parameters or DownloadParameters()) as session:
        transfer = _Transfer(session, url, target, parameters or DownloadParameters(), progress)
        return transfer.run(expected_sha256)


def _session(parameters: DownloadParameters) -> requests.Session:
    """A session that repeats refused connections and 5xx answers itself, with bounded waits."""
    retry = Retry(
        total=parameters.attempts - 1,
        status_forcelist=_TRANSIENT,
        allowed_methods=("GET",),
        backoff_factor=parameters.backoff_s,
        backoff_max=parameters.maximum_wait_s,
        retry_after_max=int(parameters.maximum_wait_s),
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    # Bytes as they lie on the server: a .gz must arrive as .gz, and ranges count those bytes.
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "AtomVision (structure databases)"})
    return session


def read_provenance(target: Path) -> Provenance | None:
    """The provenance of a complete file whose bytes still have its checksum; None otherwise."""
    try:
        provenance = Provenance.model_validate_json(_beside(target, "provenance.json").read_bytes())
        is_intact = target.stat().st_size == provenance.n_bytes and file_sha256(target) == provenance.sha256
    except (FileNotFoundError, ValidationError):
        return None
    return provenance if is_intact else None


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")


class _Transfer:
    """One download: the state that its attempts share."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        target: Path,
        parameters: DownloadParameters,
        progress: Progress | None,
    ) -> None:
        self._session, self._url, self._target = session, url, target
        self._parameters, self._progress = parameters, progress
        self._part_file, self._state_file = _beside(target, "part"), _beside(target, "part.json")
        self._deadline = time.monotonic() + parameters.deadline_s

    def run(self, expected_sha256: str | None) -> Provenance:
        known = read_provenance(self._target)
        if known is not None and known.url != self._url:
            known = None
        idle = 0
        for _ in range(self._parameters.maximum_attempts):
            before = self._size()
            try:
                part = self._attempt(known)
            except _Interrupted as error:
                idle = 0 if self._size() > before else idle + 1
                if idle >= self._parameters.attempts:
                    raise DownloadError(f"gave up after {idle} attempts in a row without progress: {error}") from error
                time.sleep(self._wait_s(idle))
            else:
                return known if part is None and known is not None else self._finish(part, expected_sha256)
        raise DownloadError(f"gave up after {self._parameters.maximum_attempts} attempts")

    def _wait_s(self, idle: int) -> float:
        return min(self._parameters.maximum_wait_s, self._parameters.backoff_s * 2**idle)

    def _size(self) -> int:
        return self._part_file.stat().st_size if self._part_file.exists() else 0

    def _attempt(self, known: Provenance | None) -> _Part | None:
        """One request and its body; None if the complete file that is here is still the server's version."""
        state = self._state()
        offset = self._size() if state is not None else 0
        if state is not None and state.total_bytes == offset:
            return state
        with self._reply(self._headers(known, state, offset)) as reply:
            if reply.status_code == 304 and known is not None:
                return None
            part = self._accepted(reply, state, offset)
            try:
                self._receive(reply, part, offset if reply.status_code == 206 else 0)
            except (requests.RequestException, HTTPError) as error:
                raise _Interrupted(_short(error)) from error
            return part

    def _reply(self, headers: dict[str, str]) -> requests.Response:
        """The start of a reply; the session has already repeated what was worth repeating."""
        try:
            return self._session.get(self._url, headers=headers, stream=True, timeout=self._parameters.timeout_s)
        except requests.RequestException as error:
            raise DownloadError(_short(error)) from error

    def _headers(self, known: Provenance | None, state: _Part | None, offset: int) -> dict[str, str]:
        if state is not None and state.validator is not None and offset > 0:
            return {"Range": f"bytes={offset}-", "If-Range": state.validator}
        if known is not None and known.etag is not None:
            return {"If-None-Match": known.etag}
        if known is not None and known.last_modified is not None:
            return {"If-Modified-Since": known.last_modified}
        return {}

    def _state(self) -> _Part | None:
        """What the partial file is, if that is known and can be resumed; otherwise it is removed."""
        try:
            state = _Part.model_validate_json(self._state_file.read_bytes())
        except (FileNotFoundError, ValidationError):
            state = None
        if state is None or state.url != self._url or state.validator is None or self._size() == 0:
            self._discard()
            return None
        return state

    def _discard(self) -> None:
        for path in (self._part_file, self._state_file):
            with suppress(FileNotFoundError):
                path.unlink()

    def _accepted(self, reply: requests.Response, state: _Part | None, offset: int) -> _Part:
        """Check status, kind and size of a reply before a byte of it is kept."""
        if reply.status_code == 416:
            self._discard()
            raise _Interrupted("the partial file is longer than the server's; starting again")
        if reply.status_code not in (200, 206):
            raise DownloadError(f"the server answered {reply.status_code} {reply.reason}")
        content_type = reply.headers.get("Content-Type")
        if content_type is not None and content_type.split(";")[0].strip().lower() in (
            "text/html",
            "application/xhtml+xml",
        ):
            self._discard()
            raise DownloadError(f"the server sent a web page ({content_type}) instead of the file")
        total = self._total_bytes(reply, offset)
        if total is not None and total > self._parameters.maximum_bytes:
            raise DownloadError(f"{total} bytes; the limit is {self._parameters.maximum_bytes}")
        part = _Part(
            url=self._url,
            final_url=reply.url,
            total_bytes=total,
            etag=reply.headers.get("ETag"),
            last_modified=reply.headers.get("Last-Modified"),
            content_type=content_type,
        )
        if reply.status_code == 200:
            return part
        if state is None or not _is_same_version(state, part):
            self._discard()
            raise _Interrupted("the server resumed another version of the file; starting again")
        return state.model_copy(update=part.model_dump(exclude_none=True))

    def _total_bytes(self, reply: requests.Response, offset: int) -> int | None:
        if reply.status_code == 200:
            length = reply.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", reply.headers.get("Content-Range", "").strip())
        if match is None or int(match.group(1)) != offset:
            self._discard()
            raise _Interrupted("the server resumed at another place than asked; starting again")
        return None if match.group(3) == "*" else int(match.group(3))

    def _receive(self, reply: requests.Response, part: _Part, offset: int) -> None:
        """Append the body to the partial file; what arrived before an interruption stays there."""
        self._state_file.write_text(part.model_dump_json())
        with self._part_file.open("ab" if offset else "wb") as file:
            self._write_body(reply, part, file, offset)
            file.flush()
            os.fsync(file.fileno())
        size = self._size()
        if part.total_bytes is not None and size != part.total_bytes:
            if size > part.total_bytes:
                self._discard()
            raise _Interrupted(f"{size} of {part.total_bytes} bytes arrived")

    def _write_body(self, reply: requests.Response, part: _Part, file: IO[bytes], offset: int) -> None:
        done = offset
        for block in _body(reply):
            file.write(block)
            done += len(block)
            if done > self._parameters.maximum_bytes:
                file.close()
                self._discard()
                raise DownloadError(f"more than the limit of {self._parameters.maximum_bytes} bytes")
            if time.monotonic() > self._deadline:
                raise DownloadError(f"not finished after {self._parameters.deadline_s:.0f} s; it resumes next time")
            if self._progress is not None:
                self._progress(done, part.total_bytes)

    def _finish(self, part: _Part | None, expected_sha256: str | None) -> Provenance:
        if part is None:
            raise DownloadError("the server answered 304 to an unconditional request")
        sha256 = file_sha256(self._part_file)
        fault = _fault(self._part_file)
        if fault is None and expected_sha256 is not None and sha256 != expected_sha256.lower():
            fault = f"its SHA-256 is {sha256}, not {expected_sha256}"
        if fault is not None:
            self._discard()
            raise DownloadError(f"the file that arrived is not the database: {fault}")
        provenance = Provenance(
            url=part.url,
            final_url=part.final_url,
            retrieved_at=datetime.now(UTC).isoformat(timespec="seconds"),
            n_bytes=self._size(),
            sha256=sha256,
            etag=part.etag,
            last_modified=part.last_modified,
            content_type=part.content_type,
        )
        # The sidecar first: a crash between the two leaves a checksum that fits no file, and the file is fetched again.
        write_whole(_beside(self._target, "provenance.json"), json.dumps(provenance.model_dump(), indent=1).encode())
        os.replace(self._part_file, self._target)
        self._discard()
        return provenance


def _is_same_version(state: _Part, part: _Part) -> bool:
    """A 206 reply need not repeat what it was asked for, but what it says must agree."""
    pairs = ((state.etag, part.etag), (state.last_modified, part.last_modified), (state.total_bytes, part.total_bytes))
    return all(first is None or second is None or first == second for first, second in pairs)


def _body(reply: requests.Response) -> Iterator[bytes]:
    stream: Callable[..., Iterator[bytes]] = reply.raw.stream
    return stream(_CHUNK, decode_content=False)


def _fault(path: Path) -> str | None:
    """Why the file is certainly no dump: empty, or a web page."""
    with path.open("rb") as stream:
        start = stream.read(512).lstrip().lower()
    if not start:
        return "it is empty"
    return "it is a web page" if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")) else None


def _short(error: Exception) -> str:
    """The root of a chain of network errors, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text.partition('Caused by ')[2] or text}"[:300]
