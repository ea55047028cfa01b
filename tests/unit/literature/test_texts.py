"""Full texts from the double: which route, what is asked for again, and what becomes a rejected row."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atomvision_ml.literature.double.corpus_reader import Corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.literature.identifiers import ArxivId
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply
from atomvision_ml.literature.texts import (
    Steady,
    TextFetcher,
    UnfitTextError,
    fetch_text,
    is_settled,
    stored_text,
    text_rows,
)
from atomvision_ml.literature.transport import Transport, TransportParameters
from atomvision_ml.storage.lake import Lake


@pytest.fixture
def double(small_corpus: Corpus) -> Iterator[Double]:
    with serve(small_corpus) as served:
        yield served


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    quick = TransportParameters(
        contact="curator@example.org", interval_s=0, backoff_s=0, attempts=4, read_timeout_s=0.3
    )
    with Transport(quick, tmp_path / "limit", "0.1") as made:
        yield made


def paper(name: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    common = {"month": "2018-03", "arxiv_id": name, "latest_version": version, "licence_url": None}
    return {**common, "is_candidate": True, **fields}


def test_html_comes_first_and_the_source_where_there_is_none(double: Double, transport: Transport) -> None:
    page = fetch_text(transport, double.url, ArxivId("1803.04417", 2))
    assert (page.route, page.url) == ("html", "https://arxiv.org/html/1803.04417v2")
    source = fetch_text(transport, double.url, ArxivId("cond-mat/0701123", 1))
    assert (source.route, source.url) == ("tex", "https://arxiv.org/src/cond-mat/0701123v1")
    assert b"MoS" in gzip.decompress(source.body)
    assert not [request.path for request in double.log.requests if "/pdf" in request.path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (ArxivId("1804.00002", 2), "withdrawn"),
        (ArxivId("1804.00001", 1), "no TeX in the source: pdf"),
        (ArxivId("1803.06000", 1), "missing: neither HTML nor source"),
    ],
    ids=str,
)
def test_paper_without_a_text_says_why(double: Double, transport: Transport, name: ArxivId, reason: str) -> None:
    with pytest.raises(UnfitTextError, match=reason):
        fetch_text(transport, double.url, name)


@pytest.mark.parametrize(
    "kind", ["unavailable", "rate_exceeded", "html", "truncated", "cut_off", "reset", "empty_body"]
)
def test_faults_of_the_way_change_nothing(double: Double, transport: Transport, kind: Any) -> None:
    double.faults = Faults([Rule(path="^/(html|src)", kinds=(kind,), nth=(1,))])
    assert fetch_text(transport, double.url, ArxivId("1803.04417", 1)).route == "html"
    assert len(double.log.requests) == 2


def test_outage_rejects_nobody(double: Double, transport: Transport) -> None:
    double.faults = Faults([Rule(path=".", kinds=("html",), probability=1.0)])
    with pytest.raises(OutageError):
        fetch_text(transport, double.url, ArxivId("1803.04417", 1))


def test_fetched_texts_are_kept_over_an_outage_and_not_fetched_again(
    double: Double, transport: Transport, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "root")

    month = [paper("1803.04417", 2), paper("1804.00002", 2), paper("1803.09999", is_candidate=False)]

    def rows() -> list[dict[str, Any]]:
        fetcher = TextFetcher(transport, double.url, lake.scratch("texts"), lake.put_blob)
        return text_rows(month, [], fetcher.row)

    double.faults = Faults([Rule(path="1804.00002", kinds=("html",), probability=1.0)])
    with pytest.raises(OutageError):
        rows()
    double.faults = None
    before = len(double.log.requests)
    first, second = rows()
    assert [request.path for request in double.log.requests[before:]] == ["/html/1804.00002v2"]
    assert (first["status"], first["version"], first["route"]) == ("accepted", 2, "html")
    assert (second["status"], second["reason"][:9]) == ("rejected", "withdrawn")
    body = stored_text(lake.blob(first["blob"]), "html")
    assert len(body) == first["n_bytes"]
    assert b"STEM image of MoS2" in body


def test_known_versions_are_kept_and_only_new_ones_fetched() -> None:
    asked: list[str] = []

    def fetch(row: dict[str, Any]) -> dict[str, Any]:
        asked.append(f"{row['arxiv_id']}v{row['latest_version']}")
        return {"arxiv_id": row["arxiv_id"], "version": row["latest_version"], "status": "accepted", "reason": None}

    month = [paper("a", 2), paper("b"), paper("c"), paper("d")]
    former = [
        {"arxiv_id": "a", "version": 1, "status": "accepted", "reason": None},
        {"arxiv_id": "b", "version": 1, "status": "accepted", "reason": None},
        {"arxiv_id": "c", "version": 1, "status": "rejected", "reason": "missing: neither HTML nor source"},
        {"arxiv_id": "d", "version": 1, "status": "rejected", "reason": "larger than 1 bytes"},
    ]
    rows = text_rows(month, former, fetch)
    assert asked == ["av2", "dv1"]
    assert [(row["arxiv_id"], row["version"]) for row in rows] == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("d", 1)]
    assert [is_settled(row) for row in former] == [True, True, True, False]


def test_steady_needs_the_same_body_three_times() -> None:
    def refuse(reply: Reply) -> None:
        raise DamagedReplyError("no")

    def steady(*replies: tuple[int, bytes]) -> bytes | None:
        check = Steady(refuse)
        for status, body in replies:
            with pytest.raises(DamagedReplyError):
                check(Reply("u", status, {}, body))
        return check.body

    assert steady(*[(200, b"x")] * 3) == b"x"
    assert steady(*[(200, b"x")] * 2) is None
    assert steady((200, b"x"), (200, b"y"), (200, b"x")) is None
    assert steady(*[(400, b"x")] * 3) is None
