"""Replies of arXiv's servers, and what can be wrong with them.

Belongs here: the reply as it came, the errors, and the strict parser of XML. A damaged reply is asked for again; it is
never taken for "nothing new".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxml import etree


class LiteratureError(RuntimeError):
    """Something of the literature cannot be had; the message says what, where and why."""


class DamagedReplyError(LiteratureError):
    """The reply is not what was asked for: truncated, too short, of another kind. Asking again may help."""


class RefusedError(LiteratureError):
    """The server refuses for good; asking again does not help."""


class UnusableReplyError(RefusedError):
    """This one page cannot be taken: it is too large, or it leads to another host. Others can."""


class ThrottledError(DamagedReplyError):
    """The server asks to slow down; ``retry_after_s`` is how long it wants us to wait, where it says so."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutageError(LiteratureError):
    """After all attempts there is still no good reply: the run fails, what is committed stays."""


@dataclass(frozen=True)
class Reply:
    """A reply as it came: final address, status, headers (lower-case names), body."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def parse_xml(reply: Reply, root: str) -> etree._Element:
    """The document of a reply, strictly parsed.

    Args:
        reply: of any status.
        root: expected name of the root element, ``{namespace}name``.

    Raises:
        DamagedReplyError: not well-formed (a truncated document never is), or of another root.
    """
    from lxml import etree

    parser = etree.XMLParser(recover=False, resolve_entities=False, no_network=True, huge_tree=False)
    try:
        document = etree.fromstring(reply.body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        beginning = reply.body[:60].decode("utf-8", "replace")
        raise DamagedReplyError(f"{reply.url}: no well-formed XML ({error}); it begins {beginning!r}") from error
    if document.tag != root:
        raise DamagedReplyError(f"{reply.url}: a document of <{document.tag}>, not of <{root}>")
    return document


def text_of(element: etree._Element, path: str, namespaces: Mapping[str, str]) -> str | None:
    """The text at a path with white space joined; None if there is no such element or no text in it."""
    found = element.find(path, dict(namespaces))
    words = " ".join("".join(str(part) for part in found.itertext()).split()) if found is not None else ""
    return words or None


def demanded_text(element: etree._Element, path: str, namespaces: Mapping[str, str], reply: Reply) -> str:
    """The text at a path; raises DamagedReplyError if it is missing."""
    found = text_of(element, path, namespaces)
    if found is None:
        raise DamagedReplyError(f"{reply.url}: a record without <{path}>")
    return found
