"""The look at arXiv itself, here at its double: what is understood passes, what is not fails and stops nothing."""

from datetime import date
from pathlib import Path

import pytest

from atomvision_ml.literature.double.corpus_reader import Corpus
from atomvision_ml.literature.double.faults import Faults, Kind, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.literature.smoke import MAXIMUM_REQUESTS, Probe, SmokeParameters, smoke
from atomvision_ml.literature.transport import Transport, TransportParameters


def probes(double: Double, folder: Path, paper: str = "1803.04417v1") -> list[Probe]:
    patience = TransportParameters(contact="curator@example.org", interval_s=0, attempts=1, read_timeout_s=2)
    parameters = SmokeParameters(
        oai_url=double.oai_url, api_url=double.api_url, url=double.url, since=date(2018, 1, 1), paper=paper
    )
    with Transport(patience, folder, "0.1") as transport:
        return list(smoke(transport, parameters))


def test_every_interface_is_asked_and_understood(small_corpus: Corpus, tmp_path: Path) -> None:
    with serve(small_corpus, page_records=2) as double:
        found = probes(double, tmp_path)
    assert all(probe.passed for probe in found), found
    assert len(found) == len(double.log.requests) == MAXIMUM_REQUESTS
    said = {probe.name: probe.said for probe in found}
    assert said["robots.txt"] == "allows /html/, /src/"
    assert said["OAI-PMH records"].startswith("2 records, more to come")
    assert said["Atom query"] == "3 of 3 papers"
    assert said["HTML of 1803.04417v2"].startswith("1 figures, 1 images")
    assert said["an image of it"].startswith("image/png")
    assert said["source of 1803.04417v1"].startswith("tex, 2 files")
    assert "incorrect id" in said["Atom error feed"]


def test_what_is_missing_is_told(small_corpus: Corpus, tmp_path: Path) -> None:
    with serve(small_corpus.until(date(2018, 3, 11))) as double:
        found = probes(double, tmp_path, "0708.2306v1")
    said = {probe.name: probe.said for probe in found}
    assert all(probe.passed for probe in found), found
    assert said["OAI-PMH records"].startswith("0 records")
    assert said["Atom query"] == "0 of 0 papers"
    assert said["HTML of 0708.2306v1"] == said["source of 0708.2306v1"] == "not there: missing"


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("^/robots", "server_error", "robots.txt"),
        ("Identify", "truncated", "OAI-PMH Identify"),
        ("ListRecords&metadataPrefix", "empty_page", "OAI-PMH records"),
        ("resumptionToken", "expired_token", "OAI-PMH next page"),
        ("search_query", "short_page", "Atom query"),
        ("id_list", "html", "Atom error feed"),
        ("^/html/1803.04417v2$", "html", "HTML of 1803.04417v2"),
        ("png$", "html", "an image of it"),
        ("^/src/", "truncated", "source of 1803.04417v1"),
    ],
)
def test_what_is_not_understood_fails_alone(
    small_corpus: Corpus, tmp_path: Path, path: str, kind: Kind, name: str
) -> None:
    faults = Faults([Rule(kinds=(kind,), path=path, probability=1)])
    with serve(small_corpus, page_records=2, faults=faults) as double:
        found = probes(double, tmp_path)
    assert [probe.name for probe in found if not probe.passed] == [name]


def test_a_wrong_query_that_is_answered_fails(small_corpus: Corpus, tmp_path: Path) -> None:
    """A server that takes `abc` for a paper would have papers made of errors."""
    with serve(small_corpus) as double:
        patience = TransportParameters(contact="curator@example.org", interval_s=0, attempts=1)
        wrong = f"{double.api_url}?search_query=abs:STEM&x="
        parameters = SmokeParameters(
            oai_url=double.oai_url, api_url=wrong, url=double.url, since=date(2018, 1, 1), paper="1803.04417v1"
        )
        with Transport(patience, tmp_path, "0.1") as transport:
            found = {probe.name: probe for probe in smoke(transport, parameters)}
    assert not found["Atom error feed"].passed
    assert "as if it were right" in found["Atom error feed"].said


@pytest.mark.parametrize("paper", ["1803.04417", "paper"])
def test_the_paper_is_a_version(small_corpus: Corpus, tmp_path: Path, paper: str) -> None:
    with serve(small_corpus) as double, pytest.raises(ValueError, match=paper):
        probes(double, tmp_path, paper)
    assert double.log.requests == ()
