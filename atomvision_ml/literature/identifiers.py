"""arXiv identifiers: old (``cond-mat/0702661v2``) and new (``0708.2306``, ``1501.00001v3``).

Belongs here: their syntax, and the month that they name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NEW = re.compile(r"^(?P<year>\d{2})(?P<month>0[1-9]|1[0-2])\.\d{4,5}$")
_OLD = re.compile(r"^[a-z]+(-[a-z]+)*(\.[A-Z]{2})?/(?P<year>\d{2})(?P<month>0[1-9]|1[0-2])\d{3}$")
_VERSION = re.compile(r"^(?P<base>.+?)(v(?P<version>[1-9]\d*))?$")


@dataclass(frozen=True)
class ArxivId:
    """An identifier: its versionless part and, where one is named, the version."""

    base: str
    version: int | None = None

    def __str__(self) -> str:
        return self.base if self.version is None else f"{self.base}v{self.version}"

    @property
    def month(self) -> str:
        """Month of the identifier as ``YYYY-MM``: that of the first submission, give or take its last day."""
        match = _match(self.base)
        year = int(match["year"])
        return f"{1900 + year if year >= 91 else 2000 + year}-{match['month']}"


def parse_arxiv_id(text: str) -> ArxivId:
    """An identifier as people and arXiv's replies write it: bare, with ``arXiv:``, or as the address of its abstract.

    Raises:
        ValueError: no arXiv identifier.
    """
    bare = re.sub(r"^(https?://(www\.|export\.)?arxiv\.org/abs/|oai:arXiv\.org:|arXiv:)", "", text.strip())
    match = _VERSION.match(bare)
    if match is None:
        raise ValueError(f"{text!r} is no arXiv identifier")
    base, version = match["base"], match["version"]
    _match(base)
    return ArxivId(base, int(version) if version else None)


def _match(base: str) -> re.Match[str]:
    match = _NEW.match(base) or _OLD.match(base)
    if match is None:
        raise ValueError(f"{base!r} is no arXiv identifier; they look like 2401.00001 or cond-mat/0702661")
    return match
