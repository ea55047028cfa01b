"""Where a paper's pages are, and under which address they are asked for.

Belongs here: the addresses that tables hold. They are always arXiv's own, whichever server was asked: a table made
from an offline double at another port is the same table.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from atomvision_ml.literature.identifiers import ArxivId

ARXIV_URL = "https://arxiv.org"


def abstract_url(name: ArxivId) -> str:
    """Page of a version's abstract."""
    return f"{ARXIV_URL}/abs/{name}"


def html_url(name: ArxivId) -> str:
    """Full text of a version as HTML."""
    return f"{ARXIV_URL}/html/{name}"


def source_url(name: ArxivId) -> str:
    """Source of a version; of a file in it the same, ``#``, its name."""
    return f"{ARXIV_URL}/src/{name}"


def origin_of(server: str) -> str:
    """Whose papers a server has: its host; all servers on loopback are doubles of one corpus."""
    host = (urlsplit(server).hostname or "").lower()
    return "loopback" if host == "localhost" or host == "::1" or host.startswith("127.") else host


def asked_at(url: str, server: str) -> str:
    """The address of the same page on the server that is asked.

    Args:
        url: an address of arXiv's.
        server: e.g. ``https://arxiv.org`` or ``http://127.0.0.1:8000``, without a slash at its end.

    Raises:
        ValueError: no address of arXiv's.
    """
    if not url.startswith(f"{ARXIV_URL}/"):
        raise ValueError(f"{url} is no address of {ARXIV_URL}")
    return server.rstrip("/") + url.removeprefix(ARXIV_URL)
