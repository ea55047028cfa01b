"""Records to papers: the newest record decides, only what changes is published, a stopped update goes on."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from atomvision_ml.literature import papers
from atomvision_ml.literature.oai import OaiRecord, PaperVersion
from atomvision_ml.literature.papers import merged, month_of, update_papers
from atomvision_ml.schemas.vocabulary import FIRST_MONTH
from atomvision_ml.storage.keys import LITERATURE_PAPERS
from atomvision_ml.storage.lake import Lake, PublicationRefusedError

BY = "http://creativecommons.org/licenses/by/4.0/"


def record(name: str, first: str = "2018-03-12", day: str = "2018-03-20", **fields: Any) -> OaiRecord:
    moment = datetime.fromisoformat(first).replace(tzinfo=UTC)
    common = {
        "arxiv_id": name,
        "datestamp": date.fromisoformat(day),
        "title": "Layers",
        "authors": "A",
        "abstract": "STEM of MoS2.",
        "categories": ("cond-mat.mtrl-sci",),
        "versions": (PaperVersion(version=1, submitted_at=moment, size="9kb"),),
        "licence_url": BY,
    }
    return OaiRecord(**{**common, **fields})


def deleted(name: str, day: str) -> OaiRecord:
    return OaiRecord(arxiv_id=name, datestamp=date.fromisoformat(day), is_deleted=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "root")


def published(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["arxiv_id"]: row for row in lake.scan(LITERATURE_PAPERS).collect().to_dicts()}


def test_row_says_what_the_record_says() -> None:
    versions = tuple(
        PaperVersion(version=number, submitted_at=datetime(2018, 2 + number, 1, tzinfo=UTC)) for number in (1, 2)
    )
    (row,) = merged([], [record("1803.00001", versions=versions, doi="10.1/x", comments="5 pages")])
    assert (row["month"], row["latest_version"], row["doi"]) == ("2018-03", 2, "10.1/x")
    assert (row["licence"], row["is_redistributable"], row["licence_url"]) == ("cc-by-4.0", True, BY)
    assert (row["techniques"], row["is_candidate"], row["is_withdrawn"]) == (["STEM"], True, False)


def test_paper_without_microscopy_is_no_candidate() -> None:
    (row,) = merged([], [record("1803.00001", abstract="Our approach stems from STEM education.")])
    assert (row["techniques"], row["is_candidate"]) == ([], False)


@pytest.mark.parametrize(
    ("comments", "size", "is_withdrawn"),
    [
        ("This paper has been withdrawn by the authors", "9kb", True),
        ("Withdrawn", "9kb", True),
        ("5 pages", "0kb", True),
        ("v2: a claim that was withdrawn is back", "9kb", False),
        (None, "10kb", False),
    ],
)
def test_withdrawal_is_a_tombstone(comments: str | None, size: str, is_withdrawn: bool) -> None:
    versions = (PaperVersion(version=1, submitted_at=datetime(2018, 3, 1, tzinfo=UTC), size=size),)
    (row,) = merged([], [record("1803.00001", comments=comments, versions=versions)])
    assert (row["is_withdrawn"], row["is_candidate"]) == (is_withdrawn, not is_withdrawn)


def test_newest_record_decides_whatever_the_order() -> None:
    old, new = record("1803.00001", day="2018-03-20"), record("1803.00001", day="2018-04-01", title="Later")
    for order in ([old, new], [new, old], [new, old, new]):
        (row,) = merged([], order)
        assert (row["title"], row["datestamp"]) == ("Later", date(2018, 4, 1))


def test_deleted_paper_keeps_what_is_known_of_it() -> None:
    known = merged([], [record("1803.00001")])
    (row,) = merged(known, [deleted("1803.00001", "2018-05-01"), deleted("1803.00002", "2018-05-01")])
    assert (row["title"], row["is_withdrawn"], row["is_candidate"]) == ("Layers", True, False)
    assert row["datestamp"] == date(2018, 5, 1)


def test_what_is_dated_before_arxiv_began_stands_in_its_first_month() -> None:
    assert month_of(record("hep-th/9108001", first="1989-01-01")) == FIRST_MONTH


def test_months_are_published_once_and_only_where_they_differ(lake: Lake, tmp_path: Path) -> None:
    march, april = record("1803.00001"), record("1804.00001", first="2018-04-02")
    assert update_papers(lake, [march, april], tmp_path / "1") == ["2018-03", "2018-04"]
    before = {month: lake.facts(LITERATURE_PAPERS, month) for month in ("2018-03", "2018-04")}
    assert update_papers(lake, [march, april], tmp_path / "2") == []
    changed = record("1804.00001", first="2018-04-02", day="2018-06-01", title="Better layers")
    assert update_papers(lake, [changed], tmp_path / "3") == ["2018-04"]
    assert lake.facts(LITERATURE_PAPERS, "2018-03") == before["2018-03"]
    assert lake.facts(LITERATURE_PAPERS, "2018-04").data_version != before["2018-04"].data_version
    assert set(published(lake)) == {"1803.00001", "1804.00001"}


def test_deletion_finds_the_month_that_its_identifier_only_suggests(lake: Lake, tmp_path: Path) -> None:
    update_papers(lake, [record("1804.00001", first="2018-03-31")], tmp_path / "1")
    assert update_papers(lake, [deleted("1804.00001", "2018-05-01")], tmp_path / "2") == ["2018-03"]
    assert published(lake)["1804.00001"]["is_withdrawn"]


def test_stopped_update_goes_on_and_tells_all_its_months(lake: Lake, tmp_path: Path) -> None:
    records = [record("1803.00001"), record("1804.00001", first="2018-04-02")]
    answers = iter([True, False])
    with pytest.raises(PublicationRefusedError):
        update_papers(lake, records, tmp_path / "work", may_publish=lambda: next(answers))
    assert set(published(lake)) == {"1803.00001"}
    assert update_papers(lake, records, tmp_path / "work") == ["2018-03", "2018-04"]
    assert set(published(lake)) == {"1803.00001", "1804.00001"}


def test_new_reading_of_records_makes_all_months_anew(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_papers(lake, [record("1803.00001"), record("1804.00001", first="2018-04-02")], tmp_path / "1")
    monkeypatch.setattr(papers, "CODE_VERSION", "next")
    assert update_papers(lake, [], tmp_path / "2") == ["2018-03", "2018-04"]
    assert {lake.facts(LITERATURE_PAPERS, month).code_version for month in ("2018-03", "2018-04")} == {"next"}


def test_more_records_than_one_batch(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "_BATCH", 3)
    names = [f"1803.{number:05d}" for number in range(10)]
    update_papers(lake, [record(name) for name in names], tmp_path / "1")
    assert sorted(published(lake)) == names
