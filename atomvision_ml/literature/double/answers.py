"""What the double answers: an HTTP reply, and how it goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

XML = "text/xml; charset=utf-8"
ATOM = "application/atom+xml; charset=utf-8"
HTML = "text/html; charset=utf-8"

Delivery = Literal["whole", "cut_off", "reset", "silence"]


@dataclass(frozen=True)
class Answer:
    """A reply and its delivery.

    Attributes:
        status: HTTP status.
        headers: without Content-Length.
        body: the bytes.
        delivery: ``whole``; ``cut_off`` ends after half of the announced bytes; ``reset`` drops the connection;
            ``silence`` holds it for ``silence_s`` seconds without a byte.
        silence_s: seconds.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delivery: Delivery = "whole"
    silence_s: float = 0.0


def page(status: int, heading: str, words: str = "") -> Answer:
    """A small HTML page, as arXiv shows for what is not there."""
    body = f"<!DOCTYPE html>\n<html><head><title>arXiv.org</title></head><body><h1>{escape(heading)}</h1>"
    return Answer(status, {"Content-Type": HTML}, f"{body}<p>{escape(words)}</p></body></html>\n".encode())
