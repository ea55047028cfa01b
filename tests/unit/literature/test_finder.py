"""The second finder against the double: windows, pages, bad replies, and what OAI-PMH did not tell of."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from atomvision_ml.literature import atom
from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus
from atomvision_ml.literature.double.faults import STORM, Faults, Rule
from atomvision_ml.literature.double.server import serve
from atomvision_ml.literature.finder import (
    Comparison,
    FinderParameters,
    categories_of,
    compare_month,
    find_papers,
    query,
)
from atomvision_ml.literature.replies import OutageError, RefusedError
from atomvision_ml.literature.transport import Transport, TransportParameters

MARCH = ["1803.04417", "1803.06000"]


@pytest.fixture
def busy(small_corpus: Corpus) -> Corpus:
    """Thirty papers of April 2018, several in one minute."""
    model = small_corpus.by_id["1804.00001"]
    papers = []
    for number in range(30):
        first = model.versions[0].model_copy(
            update={"submitted_at": datetime(2018, 4, 1 + number % 7, 3, number // 10, tzinfo=UTC)}
        )
        papers.append(model.model_copy(update={"id": f"1804.1{number:04d}", "versions": (first,)}))
    return Corpus(Path("metadata only"), tuple(papers))


def transport(folder: Path, attempts: int = 6) -> Transport:
    patience = {"interval_s": 0, "backoff_s": 0, "read_timeout_s": 1.0, "attempts": attempts}
    return Transport(TransportParameters(contact="curator@example.org", **patience), folder, "0.1")


def compared(url: str, folder: Path, month: str, known: dict[str, str], attempts: int = 6) -> Comparison:
    with transport(folder, attempts) as client:
        return compare_month(client, FinderParameters(base_url=url), month, known)


def test_a_month_is_compared_with_what_is_known(small_corpus: Corpus, tmp_path: Path) -> None:
    with serve(small_corpus) as double:
        found = compared(double.api_url, tmp_path, "2018-03", {"1803.04417": "Atoms by STEM."})
    assert found == Comparison("2018-03", 2, tuple(MARCH), ("1803.06000",))


def test_the_two_finders_agree_about_the_packages_own_papers(tmp_path: Path) -> None:
    corpus = read_corpus()
    months: dict[str, dict[str, str]] = {}
    for paper in corpus.papers:
        months.setdefault(f"{paper.versions[0].submitted_at:%Y-%m}", {})[paper.id] = paper.abstract
    with serve(corpus) as double:
        found = [compared(double.api_url, tmp_path, month, known) for month, known in months.items()]
    assert [month.missing for month in found] == [()] * len(months)
    assert all(month.found for month in found)


def test_namesakes_are_no_papers_of_the_corpus(small_corpus: Corpus, tmp_path: Path) -> None:
    """The API takes "stems from" for STEM; the words decide."""
    namesake = small_corpus.by_id["1803.05000"].model_copy(update={"categories": ("cond-mat.soft",)})
    with serve(small_corpus.with_paper(namesake)) as double:
        found = compared(double.api_url, tmp_path, "2018-03", {})
    assert (found.n_hits, found.found) == (3, tuple(MARCH))


def test_both_ends_of_a_month_belong_to_it(small_corpus: Corpus, tmp_path: Path) -> None:
    paper = small_corpus.by_id["1804.00001"]
    corpus = small_corpus
    for number, moment in enumerate(["2018-03-31T23:59:59", "2018-04-01T00:00:00", "2018-05-01T00:00:00"]):
        version = paper.versions[0].model_copy(update={"submitted_at": datetime.fromisoformat(f"{moment}+00:00")})
        corpus = corpus.with_paper(paper.model_copy(update={"id": f"1804.2000{number}", "versions": (version,)}))
    with serve(corpus) as double, transport(tmp_path) as client:
        months = [
            {entry.arxiv_id for entry in find_papers(client, FinderParameters(base_url=double.api_url), month)}
            for month in ("2018-03", "2018-04", "2018-05")
        ]
    ends = {f"1804.2000{number}" for number in range(3)}
    assert [month & ends for month in months] == [{"1804.20000"}, {"1804.20001"}, {"1804.20002"}]


@pytest.mark.parametrize(("page_size", "maximum_hits"), [(200, 2000), (7, 2000), (1, 30), (7, 29), (5, 6), (2, 3)])
def test_pages_and_halves_give_every_paper_once(
    busy: Corpus, tmp_path: Path, page_size: int, maximum_hits: int
) -> None:
    with serve(busy) as double, transport(tmp_path) as client:
        parameters = FinderParameters(base_url=double.api_url, page_size=page_size, maximum_hits=maximum_hits)
        found = find_papers(client, parameters, "2018-04")
    names = [entry.arxiv_id for entry in found]
    assert sorted(names) == sorted(busy.by_id)
    submitted = [entry.published for entry in found]
    assert submitted == sorted(submitted)


def test_a_minute_cannot_be_cut(busy: Corpus, tmp_path: Path) -> None:
    with serve(busy) as double, transport(tmp_path) as client, pytest.raises(OutageError, match="cannot be true"):
        find_papers(client, FinderParameters(base_url=double.api_url, maximum_hits=1), "2018-04")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_changes_nothing(busy: Corpus, tmp_path: Path, seed: int) -> None:
    weather = Rule(kinds=(*STORM, "no_results"), probability=0.3, at_most_in_a_row=4, silence_s=0.1, retry_after_s=0)
    with serve(busy, faults=Faults([weather], seed)) as double, transport(tmp_path) as client:
        parameters = FinderParameters(base_url=double.api_url, page_size=1)
        found = find_papers(client, parameters, "2018-04", is_hit_expected=True)
    assert [entry.arxiv_id for entry in found] == [
        paper.id for paper in sorted(busy.papers, key=lambda paper: (paper.versions[0].submitted_at, paper.id))
    ]
    assert any(request.fault for request in double.log.requests)


def test_an_unexpected_nothing_is_asked_for_again_and_then_an_outage(small_corpus: Corpus, tmp_path: Path) -> None:
    nothing = Rule(kinds=("no_results",), nth=(1, 2, 4, 5, 6, 7))
    known = {"1803.04417": "Atoms by STEM & more."}
    with serve(small_corpus, faults=Faults([nothing])) as double:
        assert compared(double.api_url, tmp_path, "2018-03", known, attempts=3).n_hits == 2
        with pytest.raises(OutageError):
            compared(double.api_url, tmp_path, "2018-03", known, attempts=3)
        assert compared(double.api_url, tmp_path, "2018-03", {}, attempts=3).n_hits == 0


@pytest.mark.parametrize("gone", [["1804.10027"], []], ids=["repeated", "more"])
def test_pages_that_do_not_fit_together_are_an_outage(busy: Corpus, tmp_path: Path, gone: list[str]) -> None:
    """A paper comes first in the list while it is read: the pages behind it slide."""
    first = busy.by_id["1804.10000"]
    early = first.versions[0].model_copy(update={"submitted_at": datetime(2018, 4, 1, tzinfo=UTC)})
    slid = busy.with_paper(first.model_copy(update={"id": "1804.09999", "versions": (early,)}))
    slid = Corpus(slid.folder, tuple(paper for paper in slid.papers if paper.id not in gone))
    with serve(busy) as double, transport(tmp_path, attempts=2) as client:

        def read() -> list[atom.AtomEntry]:
            parameters = FinderParameters(base_url=double.api_url, page_size=10)
            return find_papers(client, parameters, "2018-04")

        def clock() -> datetime:
            if len(double.log.requests) == 1:
                double.corpus = slid
            return datetime(2018, 6, 1, tzinfo=UTC)

        double.clock = clock
        with pytest.raises(OutageError):
            read()
        assert len(read()) == len(slid.papers)


def test_a_quiet_month_is_empty(small_corpus: Corpus, tmp_path: Path) -> None:
    with serve(small_corpus) as double:
        assert compared(double.api_url, tmp_path, "2017-01", {}) == Comparison("2017-01", 0, (), ())


def test_a_refused_query_is_no_empty_month(small_corpus: Corpus, tmp_path: Path) -> None:
    faults = Faults([Rule(kinds=("error_feed",), probability=1)])
    with serve(small_corpus, faults=faults) as double, pytest.raises(RefusedError):
        compared(double.api_url, tmp_path, "2018-03", {})
    assert len(double.log.requests) == 1


def test_the_query_as_arxivs_manual_writes_it() -> None:
    parameters = FinderParameters(categories=("cond-mat.mtrl-sci", "cond-mat"), terms=("STM", "scanning tunneling"))
    asked = query(parameters, datetime(2018, 3, 1), datetime(2018, 3, 31, 23, 59))
    assert asked == (
        '(cat:cond-mat.mtrl-sci OR cat:cond-mat) AND (abs:STM OR abs:"scanning tunneling") '
        "AND submittedDate:[201803010000 TO 201803312359]"
    )
    assert (
        len(atom.query_url("https://x", query(FinderParameters(), datetime(2018, 3, 1), datetime(2018, 4, 1)))) < 1000
    )


@pytest.mark.parametrize(
    ("set_name", "number", "one"),
    [("physics:cond-mat", 10, "cond-mat.soft"), ("physics:cond-mat:mtrl-sci", 1, "cond-mat.mtrl-sci")],
)
def test_a_set_has_its_categories(set_name: str, number: int, one: str) -> None:
    assert len(categories_of(set_name)) == number
    assert one in categories_of(set_name)


@pytest.mark.parametrize("set_name", ["physics", "cs:cs:CV", "physics:cond-mat:alchemy", ""])
def test_other_sets_are_refused(set_name: str) -> None:
    with pytest.raises(ValueError, match="cond-mat"):
        categories_of(set_name)


def test_what_is_no_month_is_refused(tmp_path: Path) -> None:
    with transport(tmp_path) as client, pytest.raises(ValueError, match="2018-13"):
        find_papers(client, FinderParameters(), "2018-13")
