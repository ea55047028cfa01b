"""Asking arXiv's servers politely and patiently.

Belongs here: the rate limit across all processes of the machine, retries with bounded waits, limits of size, and the
User-Agent with a contact. What a good reply is, the caller says: its check raises :class:`DamagedReplyError` on any
other, and then the page is asked for again.

arXiv's terms of use for its interfaces: at most one request in three seconds and one connection at a time, over all
machines of a user; a 403 means stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from atomvision_ml.literature.replies import (
    DamagedReplyError,
    OutageError,
    RefusedError,
    Reply,
    ThrottledError,
    UnusableReplyError,
)

T = TypeVar("T")

ARXIV_INTERVAL_S = 3.0
"""arXiv's own limit. No setting goes below it for arXiv's hosts."""
_THROTTLED = (406, 429, 503)
_TRANSIENT = (500, 502, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 2**16


class TransportParameters(BaseModel):
    """How patient and how careful; none of it changes what is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contact: str = Field(description="Address of a person, in every User-Agent.", pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
    interval_s: float = Field(default=ARXIV_INTERVAL_S, ge=0, description="Time between requests to one host.")
    attempts: int = Field(default=6, ge=1, description="Attempts for one page.")
    backoff_s: float = Field(default=30.0, ge=0, description="Wait after the first failure; doubles each time.")
    maximum_wait_s: float = Field(
        default=1800.0, ge=0, description="Longest wait, also where the server asks for more."
    )
    connect_timeout_s: float = Field(default=10.0, gt=0, description="For the connection.")
    read_timeout_s: float = Field(default=150.0, gt=0, description="Longest silence of the server.")
    deadline_s: float = Field(default=600.0, gt=0, description="Longest time for one reply, however it trickles.")
    maximum_bytes: int = Field(default=64 * 2**20, gt=0, description="Largest reply, decompressed.")
    maximum_redirects: int = Field(default=5, ge=0, description="Most redirects, all on one host.")


class RateLimit:
    """One request at a time and one in so many seconds, for each host, across all processes that share a folder.

    All hosts of arXiv count as one.

    Args:
        folder: for the locks and the times of the last requests.
        interval_s: seconds between the beginnings of two requests.
    """

    def __init__(self, folder: Path, interval_s: float) -> None:
        self._folder = folder
        self._interval_s = interval_s
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def turn(self, url: str) -> Iterator[None]:
        """Wait for the turn; the block is the request.

        Raises:
            RefusedError: the host is arXiv's, and the interval is shorter than arXiv allows.
        """
        host = limited_host(url)
        interval = self._interval_s
        if host == "arxiv.org" and interval < ARXIV_INTERVAL_S:
            raise RefusedError(
                f"{url}: arXiv allows one request in {ARXIV_INTERVAL_S:g} s, and interval_s is {interval:g}: "
                "shorter ones are for other servers"
            )
        last = self._folder / f"{host.replace(':', '_')}.json"
        with FileLock(f"{last}.lock"):
            time.sleep(max(0.0, min(interval, _last_request(last) + interval - time.time())))
            last.write_text(json.dumps({"requested_at": time.time()}))
            yield


def limited_host(url: str) -> str:
    """The name under which a host is limited: ``arxiv.org`` for all of arXiv's, else host and port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    return "arxiv.org" if host == "arxiv.org" or host.endswith(".arxiv.org") else f"{host}:{parts.port or ''}"


class Transport:
    """The one way to arXiv's servers; a context manager.

    Args:
        parameters: patience and limits.
        state: folder that all processes of this machine share, for the rate limit.
        version: of this software, for the User-Agent.
    """

    def __init__(self, parameters: TransportParameters, state: Path, version: str) -> None:
        self._parameters = parameters
        self._limit = RateLimit(state, parameters.interval_s)
        self._session = requests.Session()
        agent = f"AtomVision-ingest/{version} (mailto:{parameters.contact})"
        self._session.headers.update({"User-Agent": agent, "Accept-Encoding": "gzip"})

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, check: Callable[[Reply], T]) -> T:
        """What ``check`` makes of the first good reply.

        Args:
            url: http or https address.
            check: makes the result of a reply of any status but 403 and the transient ones; raises
                DamagedReplyError on a reply that is not what was asked for.

        Raises:
            OutageError: no good reply after all attempts.
            UnusableReplyError: a redirect to another host, or a reply that is too large.
            RefusedError: 403, or what ``check`` raises.
        """
        chosen = self._parameters
        attempts = Retrying(
            retry=retry_if_exception_type(DamagedReplyError),
            stop=stop_after_attempt(chosen.attempts),
            wait=self._wait_s,
            sleep=time.sleep,
            reraise=True,
        )
        try:
            return attempts(lambda: check(self._asked(url)))
        except DamagedReplyError as error:
            raise OutageError(f"no good reply in {chosen.attempts} attempts; the last: {error}") from error

    def _wait_s(self, state: RetryCallState) -> float:
        chosen = self._parameters
        wait = chosen.backoff_s * 2 ** (state.attempt_number - 1)
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, ThrottledError) and error.retry_after_s is not None:
            wait = max(wait, error.retry_after_s)
        return min(wait, chosen.maximum_wait_s)

    def _asked(self, url: str) -> Reply:
        """The reply to one request, redirects on the same host followed."""
        address = url
        for _ in range(self._parameters.maximum_redirects + 1):
            reply = self._once(address)
            if reply.status not in _REDIRECTS:
                return _accepted(reply)
            address = _redirected(reply)
            if limited_host(address) != limited_host(url):
                raise UnusableReplyError(f"{url} leads to another host: {address}")
        raise DamagedReplyError(f"{url}: more than {self._parameters.maximum_redirects} redirects")

    def _once(self, url: str) -> Reply:
        chosen = self._parameters
        timeout = (chosen.connect_timeout_s, chosen.read_timeout_s)
        with self._limit.turn(url):
            try:
                with self._session.get(url, timeout=timeout, stream=True, allow_redirects=False) as response:
                    body = self._body(response, url)
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    return Reply(url, response.status_code, headers, body)
            except requests.RequestException as error:
                raise DamagedReplyError(f"{url}: {type(error).__name__}: {error}") from error

    def _body(self, response: requests.Response, url: str) -> bytes:
        """The body within its limits; one that is shorter than announced, or packed and swells, is damaged."""
        started, parts, size = time.monotonic(), [], 0
        is_plain = "Content-Encoding" not in response.headers
        for part in response.iter_content(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > self._parameters.maximum_bytes:
                problem = f"{url}: larger than {self._parameters.maximum_bytes} bytes"
                raise UnusableReplyError(problem) if is_plain else DamagedReplyError(f"{problem} when unpacked")
            if time.monotonic() - started > self._parameters.deadline_s:
                raise DamagedReplyError(f"{url}: not complete after {self._parameters.deadline_s:g} s")
        announced = response.headers.get("Content-Length", "")
        if is_plain and announced.isdigit() and int(announced) != size:
            raise DamagedReplyError(f"{url}: {size} of {announced} bytes")
        return b"".join(parts)


def _redirected(reply: Reply) -> str:
    """Where a redirect leads."""
    try:
        address = urljoin(reply.url, reply.headers.get("location", ""))
        limited_host(address)
    except ValueError as error:
        raise DamagedReplyError(f"{reply.url} leads to no address: {error}") from error
    return address


def _accepted(reply: Reply) -> Reply:
    """The reply, unless its status alone says that it is no answer."""
    if reply.status == 403:
        raise RefusedError(f"{reply.url}: 403; the server asks to stop")
    if reply.status in _THROTTLED:
        raise ThrottledError(f"{reply.url}: status {reply.status}", _retry_after_s(reply.headers.get("retry-after")))
    if reply.status in _TRANSIENT:
        raise DamagedReplyError(f"{reply.url}: status {reply.status}")
    return reply


def _retry_after_s(words: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None where there is none that can be read."""
    if words is None:
        return None
    if words.strip().isdigit():
        return float(words)
    try:
        return max(0.0, (parsedate_to_datetime(words) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _last_request(path: Path) -> float:
    """When a host was last asked; long ago if that is not known or lies in the future of a changed clock."""
    try:
        last = float(json.loads(path.read_text())["requested_at"])
    except (OSError, ValueError, KeyError):
        return 0.0
    return last if last <= time.time() else 0.0


def found_or_missing(reply: Reply) -> Reply | None:
    """A check for pages that may not exist: the reply of status 200, None of 404 and 410.

    Raises:
        DamagedReplyError: any other status.
    """
    if reply.status in (404, 410):
        return None
    if reply.status != 200:
        raise DamagedReplyError(f"{reply.url}: status {reply.status}")
    return reply
