"""What goes wrong with the double's replies: by rule and seed, so that a storm can be repeated.

Belongs here: the kinds of faults that arXiv's users report, which request gets which, and what becomes of its reply. A
random fault depends on the seed, the address and how often it was asked for, not on the order of requests to other
addresses.
"""

from __future__ import annotations

import gzip
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomvision_ml.literature.atom import NAMESPACES as ATOM_NAMESPACES
from atomvision_ml.literature.double import atom_query, oai_pmh
from atomvision_ml.literature.double.answers import ATOM, HTML, XML, Answer
from atomvision_ml.literature.oai import NAMESPACES as OAI_NAMESPACES

Kind = Literal[
    "retry_after",
    "unavailable",
    "rate_exceeded",
    "not_acceptable",
    "server_error",
    "bad_gateway",
    "forbidden",
    "silence",
    "reset",
    "cut_off",
    "truncated",
    "empty_body",
    "html",
    "gzip_bomb",
    "redirect_loop",
    "empty_page",
    "short_page",
    "no_results",
    "error_feed",
    "expired_token",
    "changed_record",
    "clock_skew",
    "damaged_image",
    "empty_image",
    "huge_image",
]
"""Kinds of faults.

``retry_after`` and ``unavailable`` are 503 with and without Retry-After, ``rate_exceeded`` is 429 without it;
``silence`` sends no byte, ``cut_off`` ends before the announced length, ``truncated`` announces its shorter length;
``empty_page`` has no entries although it says that there are some, ``no_results`` says that there are none;
``changed_record`` gives a paper of the list the datestamp of today before it answers.
"""
STORM: tuple[Kind, ...] = (
    "retry_after",
    "unavailable",
    "rate_exceeded",
    "not_acceptable",
    "server_error",
    "bad_gateway",
    "silence",
    "reset",
    "cut_off",
    "truncated",
    "empty_body",
    "html",
    "redirect_loop",
    "empty_page",
    "short_page",
    "expired_token",
    "clock_skew",
)
"""What passes if one asks again, and can be told from a good reply."""
LOOP = "/redirected"
"""A path that leads to itself."""

_PAGES, _ATOM, _OAI, _TOKEN, _IMAGE = (
    re.compile(pattern)
    for pattern in (
        r"^/(oai|api/query)",
        r"^/api/query",
        r"^/oai",
        r"^/oai.*resumptionToken",
        r"^/html/.+\.(png|jpe?g|gif)$",
    )
)
_PLACES: dict[Kind, re.Pattern[str]] = {
    "empty_page": _PAGES,
    "short_page": _ATOM,
    "no_results": _ATOM,
    "error_feed": _ATOM,
    "expired_token": _TOKEN,
    "changed_record": _OAI,
    "clock_skew": _OAI,
    "damaged_image": _IMAGE,
    "empty_image": _IMAGE,
    "huge_image": _IMAGE,
}
"""Addresses that a kind fits; one that is not here fits all."""
_ISSUED = re.compile(r"issued[^&]*?\d{4}-\d\d-\d\d")
"""The day in a token; the same requests have the same faults on all days."""
_SKEW = timedelta(days=3)
_BOMB_MEBIBYTES = 80
_HUGE_PX = 14_000


class Rule(BaseModel):
    """Which requests get a fault; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(min_length=1, description="One of those that fit the address is drawn.")
    path: str = Field(default="", description="Regular expression that is searched in path and query.")
    nth: tuple[int, ...] = Field(default=(), description="Which of the matching requests, counted from 1.")
    probability: float = Field(default=0.0, ge=0, le=1, description="Share of the matching requests.")
    at_most_in_a_row: int | None = Field(default=None, ge=1, description="Most faults one after another, by address.")
    silence_s: float = Field(default=5.0, ge=0, description="How long `silence` lasts.")
    retry_after_s: int = Field(default=1, ge=0, description="What `retry_after` asks for.")

    @model_validator(mode="after")
    def _has_a_condition(self) -> Rule:
        if not self.nth and not self.probability:
            raise ValueError("a rule needs nth or probability, else it never applies")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"{self.path!r} is no regular expression: {error}") from error
        return self


def storm(probability: float = 0.3, *, silence_s: float = 5.0, retry_after_s: int = 0) -> Rule:
    """The rule of bad weather: passing faults of all kinds at every address, at most four in a row."""
    return Rule(
        kinds=STORM,
        probability=probability,
        at_most_in_a_row=4,
        silence_s=silence_s,
        retry_after_s=retry_after_s,
    )


class Faults:
    """Draws the fault of each request; for use by many threads.

    Args:
        rules: the first that applies is taken.
        seed: of the random ones.
    """

    def __init__(self, rules: Sequence[Rule], seed: int = 0) -> None:
        self._rules = tuple(rules)
        self._seed = seed
        self._lock = Lock()
        self._n_matched: Counter[int] = Counter()
        self._n_asked: Counter[tuple[int, str]] = Counter()
        self._n_in_a_row: Counter[tuple[int, str]] = Counter()

    def draw(self, address: str) -> tuple[Kind, Rule] | None:
        """The fault of a request, None for a good reply.

        Args:
            address: path and query.
        """
        with self._lock:
            drawn: tuple[Kind, Rule] | None = None
            for number, rule in enumerate(self._rules):
                if re.search(rule.path, address):
                    kind = self._by_rule(number, rule, address)
                    drawn = drawn or (None if kind is None else (kind, rule))
            return drawn

    def _by_rule(self, number: int, rule: Rule, address: str) -> Kind | None:
        kinds = [kind for kind in rule.kinds if kind not in _PLACES or _PLACES[kind].search(address)]
        if not kinds:
            return None
        self._n_matched[number] += 1
        self._n_asked[number, address] += 1
        die = random.Random(f"{self._seed}|{number}|{_ISSUED.sub('', address)}|{self._n_asked[number, address]}")
        is_due = self._n_matched[number] in rule.nth or die.random() < rule.probability
        row = self._n_in_a_row[number, address]
        if not is_due or (rule.at_most_in_a_row is not None and row >= rule.at_most_in_a_row):
            self._n_in_a_row[number, address] = 0
            return None
        self._n_in_a_row[number, address] += 1
        return die.choice(kinds)


def spoiled(answer: Answer, kind: Kind, rule: Rule, *, is_oai: bool, now: datetime, url: str) -> Answer:
    """What a fault makes of a good reply.

    Args:
        answer: the good reply.
        kind: of the fault.
        rule: that it came by.
        is_oai: whether the reply is of OAI-PMH.
        now: time of the request, UTC.
        url: address of the server.
    """
    if kind in _STATUS:
        status, headers, body = _STATUS[kind]
        asked = {"Retry-After": str(rule.retry_after_s)} if kind == "retry_after" else {}
        return Answer(status, {**headers, **asked}, body)
    if kind == "silence":
        return replace(answer, delivery="silence", silence_s=rule.silence_s)
    if kind in ("empty_page", "short_page", "no_results"):
        return replace(answer, body=_fewer_entries(answer.body, kind, is_oai=is_oai))
    if kind == "error_feed":
        return Answer(400, {"Content-Type": ATOM}, atom_query.error_feed("internal error", now))
    if kind == "expired_token":
        document = oai_pmh.error_document(now, f"{url}/oai", "badResumptionToken", "the token has expired")
        return Answer(200, {"Content-Type": XML}, document)
    return _SPOILED[kind](answer)


def _truncated(answer: Answer) -> Answer:
    return replace(answer, body=answer.body[: max(1, 2 * len(answer.body) // 3)])


def _damaged(answer: Answer) -> Answer:
    """The beginning is that of an image, so that only its decoder can tell."""
    begins = answer.body[:64]
    return replace(answer, body=begins + b"\xff" * (len(answer.body) - len(begins)))


@cache
def _bomb(n_mebibytes: int) -> bytes:
    """Zeros, packed a mebibyte at a time, which a gzip stream allows."""
    return n_mebibytes * gzip.compress(bytes(2**20), mtime=0)


@cache
def huge_png(edge_px: int) -> bytes:
    """A small file that is a valid black PNG of ``edge_px`` by ``edge_px`` pixels, 1 bit each."""
    row = bytes(1 + (edge_px + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(edge_px)) + packer.flush()
    header = struct.pack(">IIBBBBB", edge_px, edge_px, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


_SPOILED: dict[Kind, Callable[[Answer], Answer]] = {
    "reset": lambda answer: replace(answer, delivery="reset"),
    "cut_off": lambda answer: replace(answer, delivery="cut_off"),
    "truncated": _truncated,
    "empty_body": lambda answer: replace(answer, body=b""),
    "empty_image": lambda answer: replace(answer, body=b""),
    "damaged_image": _damaged,
    "huge_image": lambda answer: replace(answer, body=huge_png(_HUGE_PX)),
    "html": lambda _: Answer(200, {"Content-Type": HTML}, b"<html><body>arXiv is busy</body></html>"),
    "gzip_bomb": lambda answer: replace(
        answer, headers={**answer.headers, "Content-Encoding": "gzip"}, body=_bomb(_BOMB_MEBIBYTES)
    ),
    "redirect_loop": lambda _: Answer(301, {"Location": LOOP}),
    # The server answers these two from another corpus or clock; the reply itself is whole.
    "changed_record": lambda answer: answer,
    "clock_skew": lambda answer: answer,
}
_STATUS: dict[Kind, tuple[int, dict[str, str], bytes]] = {
    "retry_after": (503, {"Content-Type": "text/plain"}, b"Retry later."),
    "unavailable": (503, {"Content-Type": HTML}, b"<html><body>Service unavailable</body></html>"),
    "rate_exceeded": (429, {"Content-Type": "text/plain"}, b"Rate exceeded."),
    "not_acceptable": (406, {}, b""),
    "server_error": (500, {"Content-Type": HTML}, b"<html><body>Internal error</body></html>"),
    "bad_gateway": (502, {"Content-Type": HTML}, b"<html><body>Bad gateway</body></html>"),
    "forbidden": (403, {"Content-Type": "text/plain"}, b"Access denied."),
}


def skewed(now: datetime) -> datetime:
    """The time of a server whose clock is wrong."""
    return now + _SKEW


def _fewer_entries(body: bytes, kind: Kind, *, is_oai: bool) -> bytes:
    """The page without its last entry, without any, or without any and none announced."""
    from lxml import etree

    document = etree.fromstring(body)
    names = ("oai:ListRecords/oai:record", "oai:ListIdentifiers/oai:header") if is_oai else ("atom:entry",)
    namespaces = OAI_NAMESPACES if is_oai else ATOM_NAMESPACES
    found = [element for name in names for element in document.findall(name, namespaces)]
    for element in found[-1:] if kind == "short_page" else found:
        parent = element.getparent()
        if parent is not None:
            parent.remove(element)
    announced = document.find("search:totalResults", ATOM_NAMESPACES)
    if kind == "no_results" and announced is not None:
        announced.text = "0"
    return etree.tostring(document, xml_declaration=True, encoding="UTF-8")
