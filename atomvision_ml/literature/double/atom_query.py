"""The double's Atom API: queries, windows of time, paging, sorting and error feeds, as arXiv's user's manual has them.

Belongs here: a subset of the query language over a corpus: the prefixes ti, au, abs, co, jr, cat, rn, id and all, AND,
OR and ANDNOT from left to right, phrases, parentheses, submittedDate. Words are compared without case and without a
final s, so that ``abs:STEM`` finds "stems from" as it does at arXiv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from atomvision_ml.literature.atom import MAXIMUM_DEPTH, MAXIMUM_PAGE, NAMESPACES
from atomvision_ml.literature.double.corpus_reader import NAME, Corpus, HeldPaper, HeldVersion

if TYPE_CHECKING:
    from lxml import etree

Found = tuple[HeldPaper, HeldVersion]
"""A paper in one of its versions."""
Test = Callable[[HeldPaper], bool]

_MAXIMUM_ASKED = 30_000
_TOKEN = re.compile(r"\s*(?:(?P<mark>[()])|(?P<term>(?:\w+:)?(?:\"[^\"]*\"|\[[^\]]*\]|[^\s()\"]+)))")
_MOMENT = "%Y%m%d%H%M"
_SORTS: dict[str, Callable[[Found], Any]] = {
    "relevance": lambda found: found[0].id,
    "submittedDate": lambda found: (found[0].versions[0].submitted_at, found[0].id),
    "lastUpdatedDate": lambda found: (found[1].submitted_at, found[0].id),
}


class QueryError(ValueError):
    """A query that the API refuses; the message is the summary of its error feed."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    query: str
    names: tuple[str, ...]
    start: int
    size: int
    sort: str
    is_descending: bool


def answer(corpus: Corpus, arguments: Mapping[str, str], now: datetime, url: str) -> tuple[int, bytes]:
    """Status and feed that answer a request.

    Args:
        corpus: the papers.
        arguments: of the request.
        now: time of the request, UTC.
        url: address of the interface.
    """
    try:
        asked = _asked(arguments)
        if asked.start + asked.size > MAXIMUM_DEPTH:
            return 500, b""
        found = sorted(_found(corpus, asked), key=_SORTS[asked.sort], reverse=asked.is_descending)
    except QueryError as error:
        return 400, error_feed(str(error), now)
    part = found[asked.start : asked.start + min(asked.size, MAXIMUM_PAGE)]
    return 200, _feed(part, asked, len(found), now, url)


def error_feed(summary: str, now: datetime) -> bytes:
    """The feed that tells of an error: one entry with the title Error."""
    address = f"https://arxiv.org/api/errors#{re.sub(r'[^A-Za-z0-9]+', '_', summary)}"
    entry = _element(
        "entry",
        _element("id", address),
        _element("title", "Error"),
        _element("updated", _iso(now)),
        _element("link", href=address, rel="alternate", type="text/html"),
        _element("summary", summary),
        _element("author", _element("name", "arXiv api core")),
    )
    return _document("https://arxiv.org/", "arXiv Search Results", now, (1, 1, 0), [], [entry])


def parse_query(query: str) -> Test:
    """The test that a query puts to a paper.

    Raises:
        QueryError: it cannot be read.
    """
    tokens = list(_tokens(query))
    test = _alternatives(tokens)
    if tokens:
        raise QueryError(f"cannot read the query at {tokens[0]}")
    return test


def _tokens(query: str) -> Iterator[str]:
    position = 0
    while query[position:].strip():
        match = _TOKEN.match(query, position)
        if match is None:
            raise QueryError(f"cannot read the query at {query[position:].strip()}")
        yield match["mark"] or match["term"]
        position = match.end()


def _alternatives(tokens: list[str]) -> Test:
    """Operands joined by AND, OR, ANDNOT or nothing (which is OR), from left to right; takes them off the tokens."""
    test = _operand(tokens)
    while tokens and tokens[0] != ")":
        operator = tokens.pop(0) if tokens[0] in _OPERATORS else "OR"
        test = _OPERATORS[operator](test, _operand(tokens))
    return test


_OPERATORS: dict[str, Callable[[Test, Test], Test]] = {
    "AND": lambda first, second: lambda paper: first(paper) and second(paper),
    "OR": lambda first, second: lambda paper: first(paper) or second(paper),
    "ANDNOT": lambda first, second: lambda paper: first(paper) and not second(paper),
}


def _operand(tokens: list[str]) -> Test:
    if not tokens or tokens[0] == ")" or tokens[0] in _OPERATORS:
        raise QueryError(f"the query lacks a term before {tokens[0] if tokens else 'its end'}")
    token = tokens.pop(0)
    if token != "(":
        return _term(token)
    inner = _alternatives(tokens)
    if not tokens:
        raise QueryError("the query lacks a closing parenthesis")
    tokens.pop(0)
    return inner


def _term(token: str) -> Test:
    prefix, colon, words = token.partition(":")
    if not colon:
        prefix, words = "all", token
    if prefix == "submittedDate":
        return _window(words)
    if prefix == "cat":
        pattern = re.compile(re.escape(words.strip('"')).replace(r"\*", ".*"), re.IGNORECASE)
        return lambda paper: any(pattern.fullmatch(category) for category in paper.categories)
    if prefix == "id":
        return lambda paper: paper.id == words
    if prefix not in _FIELDS:
        raise QueryError(f"there is no field {prefix}")
    phrase = f" {_normal(words)} "
    if phrase.isspace():
        raise QueryError(f"{token} asks for no word")
    return lambda paper: phrase in f" {_normal(_FIELDS[prefix](paper))} "


_FIELDS: dict[str, Callable[[HeldPaper], str]] = {
    "ti": lambda paper: paper.title,
    "au": lambda paper: paper.authors,
    "abs": lambda paper: paper.abstract,
    "co": lambda paper: paper.comments or "",
    "jr": lambda paper: paper.journal_ref or "",
    "rn": lambda paper: paper.report_no or "",
    "all": lambda paper: " . ".join(
        [paper.title, paper.authors, paper.abstract, paper.comments or "", paper.journal_ref or "", paper.id]
    ),
}


def _window(words: str) -> Test:
    match = re.fullmatch(r"\[(\d{12}) TO (\d{12})\]", words)
    if match is None:
        raise QueryError(f"submittedDate wants [YYYYMMDDTTTT TO YYYYMMDDTTTT], not {words}")
    try:
        first, last = (datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC) for moment in match.groups())
    except ValueError as error:
        raise QueryError(f"submittedDate: {error}") from error
    return lambda paper: first <= paper.versions[0].submitted_at.replace(second=0, microsecond=0) <= last


def _normal(words: str) -> str:
    return " ".join(word.removesuffix("s") for word in re.findall(r"[^\W_]+", words.lower()))


def _asked(arguments: Mapping[str, str]) -> Asked:
    start, size = (_whole(arguments, name, default) for name, default in (("start", 0), ("max_results", 10)))
    if size > _MAXIMUM_ASKED:
        raise QueryError(f"max_results must not be more than {_MAXIMUM_ASKED}")
    sort = arguments.get("sortBy", "relevance")
    order = arguments.get("sortOrder", "descending")
    if sort not in _SORTS:
        raise QueryError(f"sortBy must be in: {', '.join(_SORTS)}")
    if order not in ("ascending", "descending"):
        raise QueryError("sortOrder must be in: ascending, descending")
    names = tuple(name.strip() for name in arguments.get("id_list", "").split(",") if name.strip())
    return Asked(arguments.get("search_query", ""), names, start, size, sort, order == "descending")


def _whole(arguments: Mapping[str, str], name: str, default: int) -> int:
    words = arguments.get(name, str(default))
    if not words.isdigit():
        raise QueryError(f"{name} must be a non-negative integer")
    return int(words)


def _found(corpus: Corpus, asked: Asked) -> list[Found]:
    test: Test = parse_query(asked.query) if asked.query.strip() else lambda paper: bool(asked.names)
    held = _named(corpus, asked.names) if asked.names else [(paper, paper.newest) for paper in corpus.papers]
    return [(paper, version) for paper, version in held if not paper.is_deleted and test(paper)]


def _named(corpus: Corpus, names: Sequence[str]) -> list[Found]:
    found = []
    for words in names:
        match = re.fullmatch(NAME, words)
        if match is None:
            raise QueryError(f"incorrect id format for {words}")
        paper = corpus.by_id.get(match["base"])
        if paper is not None and int(match["version"] or 1) <= len(paper.versions):
            found.append((paper, paper.versions[int(match["version"] or 0) - 1]))
    return found


def _feed(part: Sequence[Found], asked: Asked, total: int, now: datetime, url: str) -> bytes:
    words = f"search_query={asked.query}&id_list={','.join(asked.names)}&start={asked.start}&max_results={asked.size}"
    counts = (asked.size, total, asked.start)
    link = _element("link", href=f"{url}?{words}", type="application/atom+xml")
    return _document(url, f"arXiv Query: {words}", now, counts, [link], [_entry(*found) for found in part])


def _document(
    address: str,
    title: str,
    now: datetime,
    counts: tuple[int, int, int],
    links: Sequence[etree._Element],
    entries: Sequence[etree._Element],
) -> bytes:
    from lxml import etree

    numbers = zip(("itemsPerPage", "totalResults", "startIndex"), counts, strict=True)
    feed = _element(
        "feed",
        _element("id", address),
        _element("title", title),
        _element("updated", _iso(now)),
        *links,
        *(_element(name, str(number), space="search") for name, number in numbers),
        *entries,
    )
    return etree.tostring(feed, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _entry(paper: HeldPaper, version: HeldVersion) -> etree._Element:
    name = f"{paper.id}v{version.version}"
    elements = [
        _element("id", f"http://arxiv.org/abs/{name}"),
        _element("title", paper.title),
        _element("updated", _iso(version.submitted_at)),
        _element("link", href=f"https://arxiv.org/abs/{name}", rel="alternate", type="text/html"),
        _element("link", href=f"https://arxiv.org/pdf/{name}", rel="related", type="application/pdf", title="pdf"),
        _element("summary", paper.abstract),
        *(_element("category", term=term, scheme=NAMESPACES["arxiv"]) for term in paper.categories),
        _element("published", _iso(paper.versions[0].submitted_at)),
    ]
    if paper.comments:
        elements.append(_element("comment", paper.comments, space="arxiv"))
    elements.append(_element("primary_category", space="arxiv", term=paper.categories[0]))
    if paper.journal_ref:
        elements.append(_element("journal_ref", paper.journal_ref, space="arxiv"))
    elements += [_element("author", _element("name", author)) for author in paper.author_list]
    if paper.doi:
        elements.append(_element("doi", paper.doi, space="arxiv"))
        elements.append(_element("link", href=f"https://doi.org/{paper.doi}", rel="related", title="doi"))
    return _element("entry", *elements)


def _element(tag: str, *content: str | etree._Element, space: str = "atom", **attributes: str) -> etree._Element:
    from lxml.builder import ElementMaker

    names = {None: NAMESPACES["atom"], "arxiv": NAMESPACES["arxiv"], "opensearch": NAMESPACES["search"]}
    make = ElementMaker(namespace=NAMESPACES[space], nsmap=names)
    made: etree._Element = make(tag, *content, **attributes)
    return made


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
