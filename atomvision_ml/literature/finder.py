"""The second finder: papers of a month by arXiv's Atom API, compared with those that OAI-PMH told of.

Belongs here: the query, its windows of time, the local filter, and the comparison. The API forgets case and word
endings, so every hit is judged anew by the words of its title and abstract; it is known to answer with nothing where
there is something, so an unexpected nothing is asked for again (arXiv API user's manual).
"""

from __future__ import annotations

import calendar
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature import atom
from atomvision_ml.literature.modality import techniques
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply
from atomvision_ml.literature.transport import Transport

CATEGORIES = (
    "cond-mat",
    *(f"cond-mat.{subject}" for subject in ("dis-nn", "mes-hall", "mtrl-sci", "other", "quant-gas", "soft")),
    *(f"cond-mat.{subject}" for subject in ("stat-mech", "str-el", "supr-con")),
)
TERMS = ("STM", "STEM", "TEM", "HRTEM", "scanning tunneling", "scanning tunnelling", "transmission electron")
_MINUTE = timedelta(minutes=1)


def categories_of(set_name: str) -> tuple[str, ...]:
    """The categories whose papers make a set of OAI-PMH.

    Args:
        set_name: ``physics:cond-mat``, or one subject of it, e.g. ``physics:cond-mat:mtrl-sci``.

    Raises:
        ValueError: another set.
    """
    category = set_name.removeprefix("physics:").replace(":", ".")
    if category not in CATEGORIES:
        raise ValueError(f"the second finder knows physics:cond-mat and its subjects, not {set_name}")
    return CATEGORIES if category == "cond-mat" else (category,)


class FinderParameters(BaseModel):
    """What is asked for; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(default="https://export.arxiv.org/api/query", description="Address of the interface.")
    categories: tuple[str, ...] = Field(default=CATEGORIES, min_length=1, description="Any of these.")
    terms: tuple[str, ...] = Field(default=TERMS, min_length=1, description="Any of these in the abstract.")
    page_size: int = Field(default=200, ge=1, le=atom.MAXIMUM_PAGE, description="Entries of a page.")
    maximum_hits: int = Field(
        default=2000, ge=1, le=atom.MAXIMUM_DEPTH, description="A window of time with more is cut in two."
    )


@dataclass(frozen=True)
class Comparison:
    """What the two finders know of a month.

    Attributes:
        month: ``YYYY-MM``.
        n_hits: papers that the API gave.
        found: identifiers of those that name a microscopy, sorted.
        missing: identifiers of ``found`` that OAI-PMH did not tell of, sorted.
    """

    month: str
    n_hits: int
    found: tuple[str, ...]
    missing: tuple[str, ...]


def compare_month(
    transport: Transport, parameters: FinderParameters, month: str, known: Mapping[str, str]
) -> Comparison:
    """Ask the API for the papers of a month and compare them with the known ones.

    Args:
        transport: the way to the server.
        parameters: what is asked for.
        month: of the first versions, ``YYYY-MM``.
        known: abstracts of the month's papers by identifier, as OAI-PMH has them.

    Raises:
        OutageError: no good reply; also where the API has nothing although there must be hits.
        RefusedError: the server refuses.
    """
    entries = find_papers(transport, parameters, month, is_hit_expected=_has_hit(known, parameters.terms))
    found = sorted(entry.arxiv_id for entry in entries if techniques(f"{entry.title}. {entry.abstract}"))
    missing = tuple(name for name in found if name not in known)
    return Comparison(month, len(entries), tuple(found), missing)


def find_papers(
    transport: Transport, parameters: FinderParameters, month: str, *, is_hit_expected: bool = False
) -> list[atom.AtomEntry]:
    """All hits of a month, unfiltered, in order of their submission.

    Args:
        transport: the way to the server.
        parameters: what is asked for.
        month: of the first versions, ``YYYY-MM``.
        is_hit_expected: whether a month without hits is to be taken for a bad reply.

    Raises:
        OutageError, RefusedError: as :func:`compare_month`.
        ValueError: no month.
    """
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{month!r} is no month; months look like 2018-03") from error
    n_days = calendar.monthrange(first.year, first.month)[1]
    last = first + timedelta(days=n_days) - _MINUTE
    return _Search(transport, parameters).window(first, last, is_hit_expected=is_hit_expected)


def query(parameters: FinderParameters, first: datetime, last: datetime) -> str:
    """The query for a window of time, both ends included, in the language of the API."""
    categories = " OR ".join(f"cat:{category}" for category in parameters.categories)
    terms = " OR ".join(f'abs:"{term}"' if " " in term else f"abs:{term}" for term in parameters.terms)
    return f"({categories}) AND ({terms}) AND submittedDate:[{first:%Y%m%d%H%M} TO {last:%Y%m%d%H%M}]"


@dataclass(frozen=True)
class _Search:
    transport: Transport
    parameters: FinderParameters

    def window(self, first: datetime, last: datetime, *, is_hit_expected: bool = False) -> list[atom.AtomEntry]:
        """The hits of a window; one with too many is asked for in halves."""
        asked = query(self.parameters, first, last)
        page = self._page(asked, (), 1 if is_hit_expected else 0, None)
        if page.total > self.parameters.maximum_hits:
            if first >= last:
                raise OutageError(f"{page.total} papers at {first:%Y-%m-%d %H:%M}: the API's answer cannot be true")
            middle = first + (last - first) // (2 * _MINUTE) * _MINUTE
            return [*self.window(first, middle), *self.window(middle + _MINUTE, last)]
        entries = list(page.entries)
        while len(entries) < page.total:
            entries += self._page(asked, [entry.arxiv_id for entry in entries], 0, page.total).entries
        return entries

    def _page(self, asked: str, former: Collection[str], minimum: int, total: int | None) -> atom.AtomPage:
        """One page of hits that are not on the former pages; it tells of as many hits as they do."""
        start, size = len(former), self.parameters.page_size

        def check(reply: Reply) -> atom.AtomPage:
            page = atom.parse_page(reply, start=start, page_size=size)
            if page.total < minimum or (total is not None and page.total != total):
                raise DamagedReplyError(f"{reply.url}: {page.total} hits, not {minimum if total is None else total}")
            if repeated := {entry.arxiv_id for entry in page.entries} & set(former):
                raise DamagedReplyError(f"{reply.url}: {sorted(repeated)[0]} is on a former page too")
            return page

        return self.transport.get(atom.query_url(self.parameters.base_url, asked, start=start, page_size=size), check)


def _has_hit(known: Mapping[str, str], terms: Collection[str]) -> bool:
    """Whether an abstract has one of the terms as it stands, so that the API must have a hit."""
    return any(f" {term} " in abstract for abstract in known.values() for term in terms)
