"""Strict reading of Atom and OAI-PMH pages: whole ones give all their records, damaged ones give none."""

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature import atom, oai
from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.licences import permission
from atomvision_ml.literature.replies import DamagedReplyError, RefusedError, Reply

RECORD = """<record><header><identifier>oai:arXiv.org:{id}</identifier><datestamp>2024-03-0{day}</datestamp>
<setSpec>physics:cond-mat</setSpec></header><metadata><arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>{id}</id>
<submitter>A. Nyström</submitter>
<version version="v1"><date>Tue, 5 Mar 2024 04:10:52 GMT</date><size>12kb</size></version>
<version version="v2"><date>Wed, 6 Mar 2024 04:10:52 GMT</date><size>13kb</size><source_type>D</source_type></version>
<title>Atoms of\n  MoS$_2$</title><authors>A. Nyström, B. Õnne</authors>
<categories>cond-mat.mtrl-sci physics.app-ph</categories>
<license>http://creativecommons.org/licenses/by/4.0/</license><abstract>We see atoms &lt; 1 nm.</abstract></arXivRaw>
</metadata></record>"""
DELETED = (
    '<record><header status="deleted"><identifier>oai:arXiv.org:0708.2306</identifier>'
    "<datestamp>2024-03-09</datestamp></header></record>"
)
OAI = """<?xml version="1.0" encoding="UTF-8"?>
<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><responseDate>2024-03-10T01:02:03Z</responseDate>
<request verb="ListRecords">https://oaipmh.arxiv.org/oai</request>{body}</OAI-PMH>"""
ENTRY = """<entry><id>http://arxiv.org/abs/2403.0000{n}v2</id><published>2024-03-05T04:10:52Z</published>
<updated>2024-03-06T04:10:52Z</updated><title>Atoms of\n  MoS2</title><summary> We see atoms. </summary>
<author><name>A. Nyström</name></author><author><name>B. Õnne</name></author>
<category term="cond-mat.mtrl-sci"/>
<arxiv:primary_category term="cond-mat.mtrl-sci"/><arxiv:doi>10.1/x</arxiv:doi></entry>"""
ATOM = """<?xml version='1.0' encoding='UTF-8'?><feed xmlns="http://www.w3.org/2005/Atom"
xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
<opensearch:itemsPerPage>10</opensearch:itemsPerPage><opensearch:totalResults>{total}</opensearch:totalResults>
<opensearch:startIndex>{start}</opensearch:startIndex>{entries}</feed>"""


def reply(text: str | bytes, status: int = 200) -> Reply:
    return Reply("http://127.0.0.1/x", status, {}, text.encode() if isinstance(text, str) else text)


def oai_page(*records: str, token: str = "") -> str:
    return OAI.format(body=f"<ListRecords>{''.join(records)}<resumptionToken>{token}</resumptionToken></ListRecords>")


def oai_error(code: str) -> str:
    return OAI.format(body=f'<error code="{code}">words</error>')


def atom_page(n: int, total: int, start: int = 0) -> str:
    return ATOM.format(total=total, start=start, entries="".join(ENTRY.format(n=number) for number in range(n)))


def test_a_whole_oai_page_gives_its_records() -> None:
    page = oai.parse_page(
        reply(oai_page(RECORD.format(id="2403.00001", day=6), DELETED, token="verb%3D...&amp;skip=2"))
    )
    paper, deleted = page.records
    assert page.token == "verb%3D...&skip=2"
    assert page.responded_at == datetime(2024, 3, 10, 1, 2, 3, tzinfo=UTC)
    assert (paper.arxiv_id, paper.datestamp, paper.title) == ("2403.00001", date(2024, 3, 6), "Atoms of MoS$_2$")
    assert paper.abstract == "We see atoms < 1 nm."
    assert paper.categories == ("cond-mat.mtrl-sci", "physics.app-ph")
    assert [version.submitted_at.day for version in paper.versions] == [5, 6]
    assert paper.licence_url == "http://creativecommons.org/licenses/by/4.0/"
    assert deleted.is_deleted
    assert deleted.arxiv_id == "0708.2306"


def test_the_empty_token_ends_a_list() -> None:
    assert oai.parse_page(reply(oai_page(DELETED))).token is None


def test_the_errors_of_the_protocol_are_told_apart() -> None:
    assert oai.parse_page(reply(oai_error("noRecordsMatch"))).records == ()
    with pytest.raises(oai.ExpiredTokenError):
        oai.parse_page(reply(oai_error("badResumptionToken")))
    with pytest.raises(RefusedError, match="badArgument"):
        oai.parse_page(reply(oai_error("badArgument"), status=400))


@pytest.mark.parametrize(
    "body",
    [
        oai_page(),
        OAI.format(body=""),
        oai_page(
            RECORD.format(id="2403.00001", day=6).replace("<title>", "<nothing>").replace("</title>", "</nothing>")
        ),
        oai_page(RECORD.format(id="2403.00001", day=6).replace('"v2"', '"v3"')),
        oai_page(RECORD.format(id="not an id", day=6)),
        "<html><body>Sorry</body></html>",
        "",
    ],
)
def test_damaged_oai_pages_are_not_taken_for_nothing_new(body: str) -> None:
    with pytest.raises(DamagedReplyError):
        oai.parse_page(reply(body))


WHOLE_OAI = oai_page(
    RECORD.format(id="2403.00001", day=6), RECORD.format(id="cond-mat/0702661", day=7), token="t"
).encode()
WHOLE_ATOM = atom_page(3, total=3).encode()


def read(kind: str, body: bytes) -> oai.OaiPage | atom.AtomPage:
    return oai.parse_page(reply(body)) if kind == "oai" else atom.parse_page(reply(body), start=0, page_size=10)


@pytest.mark.parametrize("kind", ["oai", "atom"])
def test_no_truncation_at_any_byte_gives_a_record(kind: str) -> None:
    whole = {"oai": WHOLE_OAI, "atom": WHOLE_ATOM}[kind]
    read(kind, whole)
    for cut in range(len(whole)):
        with pytest.raises(DamagedReplyError):
            read(kind, whole[:cut])


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip)


@given(title=words, abstract=words, n=st.integers(1, 5), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=80, deadline=None)
def test_pages_of_any_words_are_read_whole_or_not_at_all(title: str, abstract: str, n: int, share: float) -> None:
    """Whatever the records say: a whole page gives all of them, any beginning of it none."""
    record, entry = (
        text.replace("Atoms of\n  MoS", escape(title) + "MoS").replace("We see", escape(abstract) + "We see")
        for text in (RECORD, ENTRY)
    )
    records = [record.replace("{id}", f"2403.0000{number}").replace("{day}", "6") for number in range(n)]
    entries = [entry.replace("{n}", str(number)) for number in range(n)]
    feed = ATOM.replace("{total}", str(n)).replace("{start}", "0").replace("{entries}", "".join(entries))
    for kind, whole in (("oai", oai_page(*records).encode()), ("atom", feed.encode())):
        page = read(kind, whole)
        found = page.records if isinstance(page, oai.OaiPage) else page.entries
        assert [one.title.startswith(" ".join(title.split())) for one in found] == [True] * n
        with pytest.raises(DamagedReplyError):
            read(kind, whole[: int(share * len(whole))])


def test_a_whole_atom_page_gives_its_entries() -> None:
    page = atom.parse_page(reply(atom_page(3, total=23, start=20)), start=20, page_size=10)
    assert [str(entry.arxiv_id) for entry in page.entries] == ["2403.00000", "2403.00001", "2403.00002"]
    first = page.entries[0]
    assert (first.version, first.title, first.doi) == (2, "Atoms of MoS2", "10.1/x")
    assert first.authors == ("A. Nyström", "B. Õnne")
    assert atom.parse_page(reply(atom_page(0, total=0)), start=0, page_size=10).entries == ()


@pytest.mark.parametrize(("n", "total", "start"), [(0, 23, 20), (2, 23, 20), (9, 23, 0), (3, 23, 0), (4, 3, 0)])
def test_short_empty_and_misplaced_atom_pages_are_damaged(n: int, total: int, start: int) -> None:
    with pytest.raises(DamagedReplyError):
        atom.parse_page(reply(atom_page(n, total=total, start=start)), start=20 if start else 0, page_size=10)


def test_error_feeds_are_no_papers() -> None:
    entry = "<entry><id>http://arxiv.org/api/errors#bad</id><title>Error</title><summary>bad id</summary></entry>"
    with pytest.raises(RefusedError, match="bad id"):
        atom.parse_page(reply(ATOM.format(total=1, start=0, entries=entry)), start=0, page_size=10)


def test_queries_stay_within_what_the_server_gives() -> None:
    assert "start=400&max_results=200" in atom.query_url("http://127.0.0.1/api/query", "abs:STEM", start=400)
    with pytest.raises(ValueError, match="too deep"):
        atom.query_url("http://127.0.0.1", "abs:STEM", start=9_900)
    assert "from=2005-09-16" in oai.list_url("http://127.0.0.1", "physics:cond-mat", date(1999, 1, 1))


@pytest.mark.parametrize(
    ("text", "base", "version", "month"),
    [
        ("http://arxiv.org/abs/0708.2306v2", "0708.2306", 2, "2007-08"),
        ("arXiv:1501.00001", "1501.00001", None, "2015-01"),
        ("cond-mat/0702661v1", "cond-mat/0702661", 1, "2007-02"),
        ("oai:arXiv.org:cond-mat/9912345", "cond-mat/9912345", None, "1999-12"),
        ("math.GT/0309136", "math.GT/0309136", None, "2003-09"),
    ],
)
def test_identifiers_old_and_new(text: str, base: str, version: int | None, month: str) -> None:
    found = parse_arxiv_id(text)
    assert (found.base, found.version, found.month) == (base, version, month)


@pytest.mark.parametrize(
    "text", ["", "abc", "1513.00001", "2401.1", "cond-mat/070266", "../etc/passwd", "2401.00001v0"]
)
def test_other_words_are_no_identifiers(text: str) -> None:
    with pytest.raises(ValueError, match="no arXiv identifier"):
        parse_arxiv_id(text)


@pytest.mark.parametrize(
    ("url", "licence", "may_pass_on", "may_crop"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "cc-by-4.0", True, True),
        ("https://creativecommons.org/licenses/by-sa/4.0", "cc-by-sa-4.0", True, True),
        ("http://creativecommons.org/licenses/by-nc-sa/4.0/", "cc-by-nc-sa-4.0", True, True),
        ("http://creativecommons.org/licenses/by-nc-nd/4.0/", "cc-by-nc-nd-4.0", True, False),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", True, True),
        ("http://creativecommons.org/licenses/publicdomain/", "public-domain", True, True),
        ("http://arxiv.org/licenses/nonexclusive-distrib/1.0/", "arxiv-nonexclusive-distrib", False, False),
        ("http://arxiv.org/licenses/assumed-1991-2003/", "arxiv-assumed-1991-2003", False, False),
        ("http://example.org/creativecommons.org/licenses/by/4.0/", "unknown", False, False),
        ("http://creativecommons.org/licenses/by-nd-evil/4.0/", "unknown", False, False),
        ("", "unknown", False, False),
        (None, "unknown", False, False),
    ],
)
def test_every_licence_has_its_permission(url: str | None, licence: str, may_pass_on: bool, may_crop: bool) -> None:
    found = permission(url)
    assert (found.licence, found.is_redistributable, found.allows_derivatives) == (licence, may_pass_on, may_crop)
    assert found.is_share_alike == ("-sa" in licence)
    assert found.is_non_commercial == ("-nc" in licence)


@pytest.mark.real_data
def test_recorded_real_replies_are_read() -> None:
    folder = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/arxiv_api_replies"), None)
    if folder is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with arxiv_api_replies")
    paths = sorted(folder.glob("*.json"))
    n_entries = n_refused = 0
    for path in paths:
        recorded = json.loads(path.read_text())
        start, size = (int(word[1:]) for word in path.stem.split("_")[-3:-1])
        try:
            page = atom.parse_page(reply(recorded["body"], recorded["status_code"]), start=start, page_size=size)
        except RefusedError:
            n_refused += 1
        else:
            assert recorded["status_code"] == 200
            n_entries += len(page.entries)
    assert (len(paths), n_entries, n_refused) == (20, 221, 1)
