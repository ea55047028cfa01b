"""The double of arXiv speaks its interfaces: read here by the library's own strict parsers and by plain requests."""

import io
import json
import os
import shutil
import tarfile
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from atomvision_ml.literature import atom, latexml, oai
from atomvision_ml.literature.archives import read_source
from atomvision_ml.literature.double import atom_query
from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus
from atomvision_ml.literature.double.oai_pmh import Repository, answer, set_specs
from atomvision_ml.literature.double.server import Double, most_in_flight, read_log, serve, shortest_distance_s
from atomvision_ml.literature.replies import RefusedError, Reply

NOW = datetime(2018, 6, 1, 22, 30, tzinfo=UTC)
COND_MAT = ["cond-mat/0701123", "1803.06000", "1804.00001", "1804.00002", "1803.04417"]
RAW = {"metadataPrefix": "arXivRaw"}
ENDLESS = 50


def ask(url: str, **parameters: Any) -> Reply:
    response = requests.get(url, params=parameters, timeout=10, allow_redirects=False)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(url, response.status_code, headers, response.content)


def listed(double: Double, **asked: str) -> list[list[str]]:
    """Identifiers of a whole list, page by page."""
    page = oai.parse_page(ask(double.oai_url, verb="ListRecords", **RAW, **asked))
    pages = [[record.arxiv_id for record in page.records]]
    while page.token is not None and len(pages) < ENDLESS:
        page = oai.parse_page(ask(double.oai_url, verb="ListRecords", resumptionToken=page.token))
        pages.append([record.arxiv_id for record in page.records])
    return pages


def error_code(reply: Reply) -> str | None:
    error = etree.fromstring(reply.body).find("oai:error", oai.NAMESPACES)
    return None if error is None else error.get("code")


def tokens(reply: Reply) -> list[etree._Element]:
    return etree.fromstring(reply.body).findall(".//oai:resumptionToken", oai.NAMESPACES)


@pytest.mark.parametrize("page_records", range(1, 7))
def test_a_list_gives_every_record_of_the_set_once(small_corpus: Corpus, page_records: int) -> None:
    with serve(small_corpus, page_records=page_records) as double:
        pages = listed(double, set="physics:cond-mat")
    names = [name for page in pages for name in page]
    assert sorted(names) == sorted(COND_MAT)
    assert max(map(len, pages)) == min(page_records, len(COND_MAT))
    stamps = [small_corpus.by_id[name].datestamp for name in names]
    assert stamps == sorted(stamps)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    days=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    page_records=st.integers(1, 8),
    since=st.integers(0, 6),
)
def test_whatever_the_days_a_list_gives_every_record_once(
    small_corpus: Corpus, days: list[int], page_records: int, since: int
) -> None:
    one = small_corpus.by_id["1804.00001"]
    papers = tuple(
        one.model_copy(update={"id": f"1804.{number:05d}", "datestamp": date(2018, 4, 1) + timedelta(days=day)})
        for number, day in enumerate(days)
    )
    repository = Repository(Corpus(Path(), papers), NOW, "u", page_records)
    asked = {"verb": "ListRecords", **RAW, "from": f"2018-04-{since + 1:02d}"}
    names: list[str] = []
    token: str | None = ""
    while token is not None:
        page = oai.parse_page(Reply("u", 200, {}, answer(repository, list(asked.items()))))
        names += [record.arxiv_id for record in page.records]
        token = page.token
        asked = {"verb": "ListRecords", "resumptionToken": token or ""}
        assert len(page.records) <= page_records
        assert len(names) <= len(papers)
    due = sorted((day, number) for number, day in enumerate(days) if day >= since)
    assert names == [f"1804.{number:05d}" for _, number in due]


def test_a_record_says_what_the_corpus_says(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        page = oai.parse_page(ask(double.oai_url, verb="ListRecords", **RAW, set="physics:cond-mat:mtrl-sci"))
    record = next(record for record in page.records if record.arxiv_id == "1803.04417")
    held = small_corpus.by_id["1803.04417"]
    assert (record.title, record.authors, record.abstract) == (held.title, held.authors, held.abstract)
    assert (record.comments, record.doi, record.journal_reference) == ("5 pages", "10.1/x", "J. At. 1, 2")
    assert [version.submitted_at for version in record.versions] == [version.submitted_at for version in held.versions]
    assert record.licence_url == held.newest.license


def test_days_choose_the_records(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        assert listed(double, **{"from": "2018-04-01", "until": "2018-04-01"}) == [["1804.00001", "cond-mat/0701123"]]
        quiet = oai.parse_page(ask(double.oai_url, verb="ListRecords", **RAW, **{"from": "2018-09-04"}))
    assert quiet.records == ()


def test_only_lists_of_several_pages_have_tokens_and_the_last_is_empty(small_corpus: Corpus) -> None:
    with serve(small_corpus, page_records=4, clock=lambda: NOW) as double:
        whole = ask(double.oai_url, verb="ListRecords", **RAW, set="physics:physics")
        assert tokens(whole) == []
        first = ask(double.oai_url, verb="ListIdentifiers", **RAW)
        (token,) = tokens(first)
        assert token.get("expirationDate") == "2018-06-02T00:00:00Z"
        (last,) = tokens(ask(double.oai_url, verb="ListIdentifiers", resumptionToken=token.text))
        assert not last.text


def test_a_token_expires_at_midnight(small_corpus: Corpus) -> None:
    times = [NOW]
    with serve(small_corpus, page_records=2, clock=lambda: times[-1]) as double:
        page = oai.parse_page(ask(double.oai_url, verb="ListRecords", **RAW))
        times.append(datetime(2018, 6, 1, 23, 59, 59, tzinfo=UTC))
        again = {"verb": "ListRecords", "resumptionToken": page.token}
        assert len(oai.parse_page(ask(double.oai_url, **again)).records) == 2
        times.append(datetime(2018, 6, 2, tzinfo=UTC))
        with pytest.raises(oai.ExpiredTokenError):
            oai.parse_page(ask(double.oai_url, **again))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "badVerb"),
        ("verb=Delete", "badVerb"),
        ("verb=Identify&verb=Identify", "badArgument"),
        ("verb=Identify&set=physics", "badArgument"),
        ("verb=ListRecords", "badArgument"),
        ("verb=ListRecords&metadataPrefix=marc", "cannotDisseminateFormat"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&set=physics:alchemy", "badArgument"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&set=physics:hep-th", "noRecordsMatch"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&from=2005-09-15", "badArgument"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&from=yesterday", "badArgument"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&until=2018-06-03", "badArgument"),
        ("verb=ListRecords&metadataPrefix=arXivRaw&from=2018-05-01&until=2018-04-01", "badArgument"),
        ("verb=ListRecords&resumptionToken=x", "badResumptionToken"),
        ("verb=ListRecords&resumptionToken=x&set=physics", "badArgument"),
        ("verb=ListSets&resumptionToken=x", "badResumptionToken"),
        ("verb=GetRecord&metadataPrefix=arXivRaw", "badArgument"),
        ("verb=GetRecord&metadataPrefix=arXivRaw&identifier=oai:arXiv.org:9999.99999", "idDoesNotExist"),
        ("verb=GetRecord&metadataPrefix=arXivRaw&identifier=nonsense", "idDoesNotExist"),
        ("verb=ListMetadataFormats&identifier=nonsense", "idDoesNotExist"),
    ],
)
def test_errors_of_the_protocol(small_corpus: Corpus, query: str, code: str) -> None:
    with serve(small_corpus, clock=lambda: NOW) as double:
        assert error_code(ask(f"{double.oai_url}?{query}")) == code


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("verb=Identify", "2005-09-16"),
        ("verb=ListMetadataFormats", "arXivRaw"),
        ("verb=ListSets", "physics:cond-mat:mtrl-sci"),
        ("verb=GetRecord&metadataPrefix=arXivRaw&identifier=oai:arXiv.org:1803.04417", "Layers of MoS$_2$"),
        ("verb=GetRecord&metadataPrefix=oai_dc&identifier=oai:arXiv.org:cond-mat/0701123", "B. Õnne"),
        ("verb=ListIdentifiers&metadataPrefix=oai_dc", "oai:arXiv.org:1804.00001"),
    ],
)
def test_every_verb_answers(small_corpus: Corpus, query: str, expected: str) -> None:
    with serve(small_corpus) as double:
        reply = ask(f"{double.oai_url}?{query}")
        posted = requests.post(double.oai_url, data=query.encode(), timeout=10)
    assert error_code(reply) is None
    assert expected in " ".join(etree.fromstring(reply.body).itertext())
    assert expected in posted.text


def test_deleted_papers_have_a_header_only(small_corpus: Corpus) -> None:
    deleted = small_corpus.by_id["1804.00001"].model_copy(update={"is_deleted": True})
    with serve(small_corpus.with_paper(deleted)) as double:
        page = oai.parse_page(ask(double.oai_url, verb="ListRecords", **RAW))
    assert [record.arxiv_id for record in page.records if record.is_deleted] == ["1804.00001"]


def test_sets_are_group_archive_and_category() -> None:
    assert set_specs(["cond-mat.mtrl-sci", "cs.CY", "hep-th"]) == [
        "cs:cs",
        "cs:cs:CY",
        "physics:cond-mat",
        "physics:cond-mat:mtrl-sci",
        "physics:hep-th",
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("abs:STEM", ["1803.04417", "1803.05000"]),
        ("abs:stm AND cat:cs.CV", ["1803.06000"]),
        ('abs:"scanning tunneling"', ["1804.00001"]),
        ('abs:"tunneling scanning"', []),
        ("ti:MoS ANDNOT co:pages", []),
        ("ti:layer", ["1803.04417"]),
        ("au:õnne AND cat:cond-mat", ["cond-mat/0701123"]),
        ("cat:cond-mat* AND (abs:STEM OR abs:scanning)", ["1803.04417", "1804.00001"]),
        ("id:1804.00001 OR jr:At", ["1803.04417", "1804.00001"]),
        ("rn:R-7", ["1803.04417"]),
        ("education", ["1803.05000"]),
        ("submittedDate:[201803140000 TO 201803312359]", ["1803.05000", "1803.06000"]),
        ("submittedDate:[201803121200 TO 201803121200]", ["1803.04417"]),
    ],
)
def test_the_query_language(small_corpus: Corpus, query: str, names: list[str]) -> None:
    with serve(small_corpus) as double:
        reply = ask(double.api_url, search_query=query, sortBy="submittedDate", sortOrder="ascending")
    page = atom.parse_page(reply, start=0, page_size=10)
    assert sorted(entry.arxiv_id for entry in page.entries) == names
    submitted = [entry.published for entry in page.entries]
    assert submitted == sorted(submitted)


@pytest.mark.parametrize(
    "asked",
    [
        {"search_query": "abs:"},
        {"search_query": "abs:a AND"},
        {"search_query": "(abs:a"},
        {"search_query": 'abs:"a'},
        {"search_query": "abs:a)"},
        {"search_query": "colour:red"},
        {"search_query": "submittedDate:[2018 TO 2019]"},
        {"search_query": "submittedDate:[201813010000 TO 201901010000]"},
        {"id_list": "abc"},
        {"search_query": "a", "start": "-1"},
        {"search_query": "a", "max_results": "many"},
        {"search_query": "a", "max_results": "30001"},
        {"search_query": "a", "sortBy": "beauty"},
        {"search_query": "a", "sortOrder": "upwards"},
    ],
    ids=lambda asked: " ".join(asked.values()),
)
def test_wrong_queries_give_error_feeds(small_corpus: Corpus, asked: dict[str, str]) -> None:
    with serve(small_corpus) as double:
        reply = ask(double.api_url, **asked)
    assert reply.status == 400
    with pytest.raises(RefusedError):
        atom.parse_page(reply, start=0, page_size=10)


def test_an_entry_says_what_the_corpus_says(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        (old,) = atom.parse_page(ask(double.api_url, id_list="1803.04417v1"), start=0, page_size=10).entries
        (new,) = atom.parse_page(ask(double.api_url, id_list="1803.04417"), start=0, page_size=10).entries
        none = atom.parse_page(ask(double.api_url, id_list="1803.04417v3,0000.0000"), start=0, page_size=10)
    assert (old.version, new.version, none.total) == (1, 2, 0)
    assert old.updated == old.published == new.published < new.updated
    assert new.authors == ("A. Nyström", "B. Õnne")
    assert (new.title, new.doi, new.primary_category) == ("Layers of MoS$_2$", "10.1/x", "cond-mat.mtrl-sci")


def shape(element: etree._Element) -> tuple[tuple[str, ...], ...]:
    """What an element holds, in order: names and attributes, repetitions left out."""
    return tuple(dict.fromkeys((str(part.tag), *sorted(map(str, part.attrib))) for part in element))


@pytest.mark.real_data
def test_feeds_have_the_shape_of_recorded_ones(small_corpus: Corpus) -> None:
    folder = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/arxiv_api_replies"), None)
    if folder is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with arxiv_api_replies")
    recorded = [etree.fromstring(json.loads(path.read_text())["body"].encode()) for path in folder.glob("*.json")]
    with serve(small_corpus) as double:
        asked = ({"id_list": "1803.04417,1804.00001"}, {"id_list": "0000.0000"}, {"id_list": "abc"})
        ours = [etree.fromstring(ask(double.api_url, **each).body) for each in asked]
    assert len({shape(feed) for feed in ours}) == 3
    assert {shape(feed) for feed in ours} <= {shape(feed) for feed in recorded}
    entries = "atom:entry"
    known = {shape(entry) for feed in recorded for entry in feed.findall(entries, atom.NAMESPACES)}
    found = {shape(entry) for feed in ours for entry in feed.findall(entries, atom.NAMESPACES)}
    assert len(found) == 3
    assert found <= known


def test_pages_of_the_api_are_cut_at_2000_and_fail_in_the_depth(small_corpus: Corpus) -> None:
    one = small_corpus.by_id["1804.00001"]
    many = Corpus(Path(), tuple(one.model_copy(update={"id": f"1804.{number:05d}"}) for number in range(2100)))
    status, feed = atom_query.answer(many, {"search_query": "abs:scanning", "max_results": "2100"}, NOW, "u")
    assert (status, feed.count(b"<entry>")) == (200, 2000)
    status, feed = atom_query.answer(many, {"search_query": "abs:scanning", "start": "2098"}, NOW, "u")
    assert (status, feed.count(b"<entry>")) == (200, 2)
    assert atom_query.answer(many, {"search_query": "abs:scanning", "start": "9995"}, NOW, "u")[0] == 500


def test_pages_and_images_come_as_they_lie(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        page = ask(f"{double.url}/html/1803.04417")
        (figure,) = latexml.parse_figures(page)
        image = ask(figure.images[0])
        beside = ask(f"{double.url}/html/1803.04417v2/figs/a.png")
    assert page.headers["link"] == '<https://arxiv.org/abs/1803.04417v2>; rel="canonical"'
    assert figure.images[0] == f"{double.url}/html/1803.04417v2/x1.png"
    assert image.headers["content-type"] == "image/png"
    assert image.body == beside.body == (small_corpus.folder / "1803.04417/v2/html/x1.png").read_bytes()


def test_every_image_of_the_packages_own_papers_is_served() -> None:
    corpus = read_corpus()
    names = [f"{paper.id}v{version.version}" for paper in corpus.papers for version in paper.versions]
    with serve(corpus) as double:
        pages = {name: ask(f"{double.url}/html/{name}") for name in names}
        there = {name: page for name, page in pages.items() if page.status == 200}
        images = [image for page in there.values() for figure in latexml.parse_figures(page) for image in figure.images]
        kinds = [ask(image).headers["content-type"] for image in images]
    assert {latexml.missing_reason(page) for name, page in pages.items() if name not in there} == {
        "no_html",
        "withdrawn",
    }
    assert [str(latexml.page_identity(page)[0]) for page in there.values()] == list(there)
    assert set(kinds) == {"image/png", "image/jpeg"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/html/1803.05000v1", "no_html"),
        ("/html/1804.00002v2", "withdrawn"),
        ("/src/1804.00002", "withdrawn"),
        ("/html/1803.04417v3", "missing"),
        ("/html/9999.99999v1", "missing"),
        ("/src/1803.05000v1", "missing"),
        ("/html/1803.04417v1/x9.png", "missing"),
        ("/html/1803.04417v1/%2e%2e/%2e%2e/paper.yaml", "missing"),
        ("/html/1803.04417v1//etc/passwd", "missing"),
        ("/pdf/1803.04417v1", "missing"),
        ("/nothing", "missing"),
    ],
)
def test_what_is_not_there_has_a_page_of_its_own(small_corpus: Corpus, path: str, reason: str) -> None:
    with serve(small_corpus) as double:
        reply = ask(double.url + path)
    assert reply.status == 404
    assert latexml.missing_reason(reply) == reason


def test_an_older_version_of_a_withdrawn_paper_keeps_its_text(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        assert len(latexml.parse_figures(ask(f"{double.url}/html/1804.00002v1"))) == 1


def test_sources_are_archives_single_files_or_pdf(small_corpus: Corpus) -> None:
    with serve(small_corpus) as double:
        archive, again = (ask(f"{double.url}/src/1803.04417v1") for _ in range(2))
        single = ask(f"{double.url}/src/cond-mat/0701123v1")
        pdf = ask(f"{double.url}/src/1804.00001v1")
        moved = ask(f"{double.url}/e-print/cond-mat/0701123v1")
        robots = ask(f"{double.url}/robots.txt")
        abstract = ask(f"{double.url}/abs/1803.04417v1")
    assert archive.body == again.body
    with tarfile.open(fileobj=io.BytesIO(archive.body)) as tar:
        assert tar.getnames() == ["figs/a.png", "main.tex"]
    assert read_source(archive.body).kind == read_source(single.body).kind == "tex"
    assert read_source(single.body).names == {"main.tex"}
    assert read_source(pdf.body).kind == "pdf"
    assert (moved.status, moved.headers["location"]) == (301, "/src/cond-mat/0701123v1")
    assert b"Disallow: /pdf/" in robots.body
    assert b"&lt; 1 nm" in abstract.body


def test_the_past_has_fewer_papers_and_versions(small_corpus: Corpus) -> None:
    past = small_corpus.until(date(2018, 4, 2))
    assert [len(past.by_id[name].versions) for name in ("1803.04417", "1804.00002")] == [1, 1]
    assert past.by_id["1803.04417"].datestamp == date(2018, 3, 12)
    assert not past.by_id["1804.00002"].is_withdrawn
    assert past.by_id["cond-mat/0701123"] == small_corpus.by_id["cond-mat/0701123"]
    assert small_corpus.until(date(2007, 1, 8)).papers == ()
    assert small_corpus.until(date(2018, 9, 3)) == small_corpus
    with serve(past) as double:
        assert ask(f"{double.url}/html/1803.04417v2").status == 404
        double.corpus = small_corpus
        assert ask(f"{double.url}/html/1803.04417v2").status == 200


def test_the_log_tells_requests_that_overlap(small_corpus: Corpus, tmp_path: Path) -> None:
    with serve(small_corpus, delay_s=0.05, log=tmp_path / "log.jsonl") as double:
        ask(f"{double.url}/robots.txt")
        ask(f"{double.url}/abs/1803.04417")
        assert most_in_flight(double.log.requests) == 1
        assert shortest_distance_s(double.log.requests) > 0.05
        double.delay_s = 1.0
        threads = [threading.Thread(target=ask, args=(f"{double.url}/robots.txt",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        requests_seen = double.log.requests
        double.delay_s = 0.0
        requests.get(double.url, headers={"User-Agent": "me"}, timeout=10)
        assert double.log.requests[-1].user_agent == "me"
    assert most_in_flight(requests_seen) == 2
    assert shortest_distance_s(requests_seen) < 1
    assert read_log(tmp_path / "log.jsonl") == double.log.requests
    assert [seen.path for seen in requests_seen[:2]] == ["/robots.txt", "/abs/1803.04417"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"id": "1803.04418"}, "folder of its name"),
        ({"id": "paper"}, "no arXiv identifier"),
        ({"versions": [{"version": 2, "submitted_at": "2018-03-12T00:00:00Z"}]}, "versions are"),
        ({"categories": []}, "categories"),
    ],
)
def test_a_wrong_paper_is_named(small_corpus: Corpus, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    shutil.copytree(small_corpus.folder / "1803.04417", tmp_path / "1803.04417")
    path = tmp_path / "1803.04417" / "paper.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words) as error:
        read_corpus(tmp_path)
    assert str(path) in str(error.value)


def test_a_folder_without_papers_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no papers"):
        read_corpus(tmp_path)
