"""The double's OAI-PMH: six verbs, sets, days, resumption tokens and errors, as arXiv's own server speaks them.

Belongs here: the protocol over a corpus. Like arXiv's, a token is the query itself with a count of records to skip;
from the second page on it asks from the last day seen, so records that change meanwhile can repeat or slide. It is good
until the next midnight UTC (Open Archives Initiative Protocol for Metadata Harvesting 2.0; arXiv's OAI help page).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from atomvision_ml.literature.double.corpus_reader import Corpus, HeldPaper
from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.oai import EARLIEST_DAY, NAMESPACES

if TYPE_CHECKING:
    from lxml import etree

PAGE_RECORDS = 7
"""Records of a page; arXiv has 2500, a small corpus needs several pages."""

_DC = "http://purl.org/dc/elements/1.1/"
_OAI_DC = "http://www.openarchives.org/OAI/2.0/oai_dc/"
_FORMATS = {"arXivRaw": NAMESPACES["raw"], "oai_dc": _OAI_DC}
_PHYSICS = (
    *("astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th"),
    *("math-ph", "nlin", "nucl-ex", "nucl-th", "physics", "quant-ph"),
)
_OTHERS = ("cs", "econ", "eess", "math", "q-bio", "q-fin", "stat")


@dataclass(frozen=True)
class Repository:
    """What a request is answered from.

    Attributes:
        corpus: the papers.
        now: time of the request, UTC.
        url: address of the interface.
        page_records: most records of a page.
    """

    corpus: Corpus
    now: datetime
    url: str
    page_records: int = PAGE_RECORDS


class ProtocolError(ValueError):
    """An error of the protocol, with its code."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


def answer(repository: Repository, arguments: Sequence[tuple[str, str]]) -> bytes:
    """The document that answers a request.

    Args:
        repository: what it is answered from.
        arguments: of the request, in its order.
    """
    from lxml import etree

    envelope = _element("OAI-PMH")
    envelope.append(_element("responseDate", f"{repository.now:%Y-%m-%dT%H:%M:%SZ}"))
    asked = _element("request", repository.url)
    envelope.append(asked)
    try:
        content = _content(repository, arguments)
        asked.attrib.update(dict(arguments))
    except ProtocolError as error:
        content = _element("error", str(error), code=error.code)
    envelope.append(content)
    return etree.tostring(envelope, xml_declaration=True, encoding="UTF-8")


def set_specs(categories: Iterable[str]) -> list[str]:
    """The sets of a paper: group, archive and category of each of its categories."""
    found: dict[str, None] = {}
    for category in categories:
        archive, _, subject = category.partition(".")
        group = "physics" if archive in _PHYSICS else archive
        found[f"{group}:{archive}"] = None
        if subject:
            found[f"{group}:{archive}:{subject}"] = None
    return sorted(found)


def is_member(paper: HeldPaper, wanted: str) -> bool:
    """Whether a paper is in a set."""
    return any(spec == wanted or spec.startswith(f"{wanted}:") for spec in set_specs(paper.categories))


def error_document(now: datetime, url: str, code: str, words: str) -> bytes:
    """A document with nothing but an error."""
    from lxml import etree

    envelope = _element("OAI-PMH")
    envelope.append(_element("responseDate", f"{now:%Y-%m-%dT%H:%M:%SZ}"))
    envelope.append(_element("request", url))
    envelope.append(_element("error", words, code=code))
    return etree.tostring(envelope, xml_declaration=True, encoding="UTF-8")


def _content(repository: Repository, arguments: Sequence[tuple[str, str]]) -> etree._Element:
    asked = dict(arguments)
    if len(asked) != len(arguments):
        raise ProtocolError("badArgument", "an argument is repeated")
    verb = asked.pop("verb", "")
    if verb not in _VERBS:
        raise ProtocolError("badVerb", f"{verb!r} is no verb of OAI-PMH")
    answered, demanded, allowed = _VERBS[verb]
    if "resumptionToken" in asked and "resumptionToken" in allowed:
        if len(asked) > 1:
            raise ProtocolError("badArgument", "no other argument goes with resumptionToken")
        asked = _of_token(asked["resumptionToken"], verb, repository.now)
    elif missing := demanded - set(asked):
        raise ProtocolError("badArgument", f"missing: {', '.join(sorted(missing))}")
    if unknown := set(asked) - demanded - allowed - {"skip"}:
        raise ProtocolError("badArgument", f"not allowed: {sorted(unknown)}")
    return answered(repository, asked)


def _identify(repository: Repository, _: dict[str, str]) -> etree._Element:
    described = {
        "repositoryName": "arXiv (offline double)",
        "baseURL": repository.url,
        "protocolVersion": "2.0",
        "adminEmail": "nobody@localhost",
        "earliestDatestamp": EARLIEST_DAY.isoformat(),
        "deletedRecord": "persistent",
        "granularity": "YYYY-MM-DD",
    }
    return _element("Identify", *(_element(name, text) for name, text in described.items()))


def _list_metadata_formats(repository: Repository, asked: dict[str, str]) -> etree._Element:
    if "identifier" in asked:
        _held(repository.corpus, asked["identifier"])
    formats = [
        _element(
            "metadataFormat",
            _element("metadataPrefix", prefix),
            _element("schema", f"{namespace.rstrip('/')}.xsd"),
            _element("metadataNamespace", namespace),
        )
        for prefix, namespace in _FORMATS.items()
    ]
    return _element("ListMetadataFormats", *formats)


def _list_sets(repository: Repository, _: dict[str, str]) -> etree._Element:
    sets = [
        _element("set", _element("setSpec", spec), _element("setName", spec.rpartition(":")[2]))
        for spec in _known_sets(repository.corpus)
    ]
    return _element("ListSets", *sets)


def _get_record(repository: Repository, asked: dict[str, str]) -> etree._Element:
    form = _form(asked)
    return _element("GetRecord", _record(_held(repository.corpus, asked["identifier"]), form))


def _list_records(repository: Repository, asked: dict[str, str]) -> etree._Element:
    form = _form(asked)
    papers, token = _listed(repository, asked)
    return _with_token("ListRecords", [_record(paper, form) for paper in papers], token, repository.now)


def _list_identifiers(repository: Repository, asked: dict[str, str]) -> etree._Element:
    _form(asked)
    papers, token = _listed(repository, asked)
    return _with_token("ListIdentifiers", [_header(paper) for paper in papers], token, repository.now)


Verb = Callable[[Repository, dict[str, str]], "etree._Element"]
_LIST_ARGUMENTS = frozenset({"from", "until", "set", "resumptionToken"})
_VERBS: dict[str, tuple[Verb, frozenset[str], frozenset[str]]] = {
    "Identify": (_identify, frozenset(), frozenset()),
    "ListMetadataFormats": (_list_metadata_formats, frozenset(), frozenset({"identifier"})),
    "ListSets": (_list_sets, frozenset(), frozenset({"resumptionToken"})),
    "GetRecord": (_get_record, frozenset({"identifier", "metadataPrefix"}), frozenset()),
    "ListRecords": (_list_records, frozenset({"metadataPrefix"}), _LIST_ARGUMENTS),
    "ListIdentifiers": (_list_identifiers, frozenset({"metadataPrefix"}), _LIST_ARGUMENTS),
}


def _listed(repository: Repository, asked: dict[str, str]) -> tuple[list[HeldPaper], str | None]:
    """A page of the papers asked for, and the token of the next one; None for a list of one page, empty at its end."""
    since, until = _days(asked, repository.now.date())
    wanted = asked.get("set")
    if wanted is not None and wanted not in _known_sets(repository.corpus):
        raise ProtocolError("badArgument", f"there is no set {wanted!r}")
    found = [
        paper
        for paper in sorted(repository.corpus.papers, key=lambda paper: (paper.datestamp, paper.id))
        if since <= paper.datestamp <= until and (wanted is None or is_member(paper, wanted))
    ]
    skip, size = int(asked.get("skip", 0)), repository.page_records
    papers = found[skip : skip + size]
    if not papers:
        raise ProtocolError("noRecordsMatch", "no record matches")
    if skip + size >= len(found):
        return papers, "" if "skip" in asked else None
    last_day = found[skip + size].datestamp
    if papers[0].datestamp == last_day:
        return papers, _token(asked, skip + size, repository.now)
    n_seen = sum(paper.datestamp == last_day for paper in papers)
    return papers, _token({**asked, "from": last_day.isoformat()}, n_seen, repository.now)


def _days(asked: dict[str, str], today: date) -> tuple[date, date]:
    try:
        since = date.fromisoformat(asked.get("from", EARLIEST_DAY.isoformat()))
        until = date.fromisoformat(asked.get("until", (today + timedelta(days=1)).isoformat()))
    except ValueError as error:
        raise ProtocolError("badArgument", f"dates are days, YYYY-MM-DD: {error}") from error
    if since < EARLIEST_DAY:
        raise ProtocolError("badArgument", "start date too early")
    if until > today + timedelta(days=1):
        raise ProtocolError("badArgument", "until date too late")
    if since > until:
        raise ProtocolError("badArgument", "until date is before from date")
    return since, until


def _token(asked: dict[str, str], skip: int, now: datetime) -> str:
    return quote(urlencode({**asked, "skip": skip, "issued": now.date().isoformat()}))


def _of_token(token: str, verb: str, now: datetime) -> dict[str, str]:
    asked = dict(parse_qsl(unquote(token)))
    issued, skip = asked.pop("issued", ""), asked.get("skip", "")
    if not skip.isdigit() or "metadataPrefix" not in asked or verb not in ("ListRecords", "ListIdentifiers"):
        raise ProtocolError("badResumptionToken", "the token cannot be read")
    if issued != now.date().isoformat():
        raise ProtocolError("badResumptionToken", "the token has expired")
    return asked


def _with_token(name: str, elements: list[etree._Element], token: str | None, now: datetime) -> etree._Element:
    listed = _element(name, *elements)
    if token is not None:
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time())
        listed.append(_element("resumptionToken", token, expirationDate=f"{midnight:%Y-%m-%dT%H:%M:%SZ}"))
    return listed


def _known_sets(corpus: Corpus) -> list[str]:
    archives = {"physics", *(f"physics:{name}" for name in _PHYSICS), *_OTHERS, *(f"{name}:{name}" for name in _OTHERS)}
    return sorted(archives.union(*(set_specs(paper.categories) for paper in corpus.papers)))


def _form(asked: dict[str, str]) -> str:
    form = asked["metadataPrefix"]
    if form not in _FORMATS:
        raise ProtocolError("cannotDisseminateFormat", f"no format {form!r}; there are {', '.join(_FORMATS)}")
    return form


def _held(corpus: Corpus, identifier: str) -> HeldPaper:
    try:
        name = parse_arxiv_id(identifier)
    except ValueError:
        raise ProtocolError("idDoesNotExist", f"{identifier!r} is no identifier of arXiv") from None
    if name.base not in corpus.by_id:
        raise ProtocolError("idDoesNotExist", f"there is no paper {name.base}")
    return corpus.by_id[name.base]


def _record(paper: HeldPaper, form: str) -> etree._Element:
    if paper.is_deleted:
        return _element("record", _header(paper))
    content = _raw(paper) if form == "arXivRaw" else _dublin_core(paper)
    return _element("record", _header(paper), _element("metadata", content))


def _header(paper: HeldPaper) -> etree._Element:
    header = _element(
        "header",
        _element("identifier", f"oai:arXiv.org:{paper.id}"),
        _element("datestamp", paper.datestamp.isoformat()),
        *(_element("setSpec", spec) for spec in set_specs(paper.categories)),
    )
    if paper.is_deleted:
        header.set("status", "deleted")
    return header


def _raw(paper: HeldPaper) -> etree._Element:
    """The record in the form arXivRaw; its licence is that of the newest version."""
    from lxml.builder import ElementMaker

    make: Any = ElementMaker(namespace=NAMESPACES["raw"], nsmap={None: NAMESPACES["raw"]})
    raw = make.arXivRaw(make.id(paper.id), make.submitter(paper.submitter))
    for version in paper.versions:
        dated = make.version(
            make.date(format_datetime(version.submitted_at, usegmt=True)), version=f"v{version.version}"
        )
        dated.extend(make(name, text) for name in ("size", "source_type") if (text := getattr(version, name)))
        raw.append(dated)
    raw.extend([make.title(paper.title), make.authors(paper.authors), make.categories(" ".join(paper.categories))])
    optional = {
        "comments": paper.comments,
        "report-no": paper.report_no,
        "journal-ref": paper.journal_ref,
        "doi": paper.doi,
        "license": paper.newest.license,
    }
    raw.extend(make(name, text) for name, text in optional.items() if text)
    raw.append(make.abstract(paper.abstract))
    return raw


def _dublin_core(paper: HeldPaper) -> etree._Element:
    from lxml.builder import ElementMaker

    names = {"oai_dc": _OAI_DC, "dc": _DC}
    make: Any = ElementMaker(namespace=_DC, nsmap=names)
    document: etree._Element = ElementMaker(namespace=_OAI_DC, nsmap=names)("dc")
    document.append(make.title(paper.title))
    document.extend(make.creator(author) for author in paper.author_list)
    document.extend(make.subject(category) for category in paper.categories)
    document.append(make.description(paper.abstract))
    document.append(make.date(paper.versions[0].submitted_at.date().isoformat()))
    document.append(make.identifier(f"http://arxiv.org/abs/{paper.id}"))
    return document


def _element(tag: str, *content: str | etree._Element, **attributes: str) -> etree._Element:
    from lxml.builder import ElementMaker

    made: etree._Element = ElementMaker(namespace=NAMESPACES["oai"], nsmap={None: NAMESPACES["oai"]})(
        tag, *content, **attributes
    )
    return made
