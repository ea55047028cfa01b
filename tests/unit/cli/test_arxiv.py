"""``atomvision arxiv`` as a user runs it, against the double on loopback, never against arXiv."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import Result
from typer.testing import CliRunner

from atomvision_ml.cli.arxiv import app
from atomvision_ml.literature.double.corpus_reader import read_corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, read_log, serve
from atomvision_ml.literature.harvest import HarvestParameters, harvest
from atomvision_ml.literature.papers import update_papers
from atomvision_ml.literature.transport import Transport, TransportParameters
from atomvision_ml.schemas.tables import table
from atomvision_ml.settings import settings
from atomvision_ml.storage.lake import Lake, Version

START = [sys.executable, "-c", "from atomvision_ml.cli.arxiv import app; app(prog_name='arxiv')"]
CONTACT = "curator@example.org"
INTERVAL_S = 0.1

Arxiv = Callable[..., Result]


@pytest.fixture
def arxiv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arxiv]:
    """Runs a command in this process, with the settings that are given in the environment."""

    def run(*arguments: str, **chosen: str) -> Result:
        monkeypatch.delenv("ATOMVISION_CONTACT", raising=False)
        for name, value in {"ATOMVISION_ROOT": str(tmp_path), **chosen}.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        return CliRunner().invoke(app, arguments)

    yield run
    settings.cache_clear()


def at(double: Double) -> dict[str, str]:
    """The settings that lead to a double."""
    return {
        "ATOMVISION_CONTACT": CONTACT,
        "ATOMVISION_ARXIV_OAI_URL": double.oai_url,
        "ATOMVISION_ARXIV_API_URL": double.api_url,
        "ATOMVISION_ARXIV_URL": double.url,
        "ATOMVISION_ARXIV_INTERVAL_S": str(INTERVAL_S),
    }


def smoke(arxiv: Arxiv, double: Double, *arguments: str) -> Result:
    return arxiv("smoke", "--since", "2018-01-01", "--paper", "1803.04417v1", *arguments, **at(double))


def test_the_double_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    asked = ["serve-double", "--port", "0", "--json", "--until", "2018-05-01", "--storm", "1", "--log", str(log)]
    with subprocess.Popen([*START, *asked], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        url = addresses["ATOMVISION_ARXIV_URL"]
        agent = {"User-Agent": "me"}
        codes = []
        for _ in range(5):
            try:
                codes.append(requests.get(f"{url}/html/1803.04417v1", headers=agent, timeout=20).status_code)
            except requests.RequestException:
                codes.append(0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert codes[4] == 200
    seen = read_log(log)
    assert [request.user_agent for request in seen[:5]] == ["me"] * 5
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)


def test_a_taken_port_and_a_wrong_corpus_are_told(arxiv: Arxiv, tmp_path: Path) -> None:
    with serve() as double:
        taken = arxiv("serve-double", "--port", double.url.rpartition(":")[2])
    wrong = arxiv("serve-double", "--corpus", str(tmp_path))
    assert (taken.exit_code, wrong.exit_code) == (1, 1)
    assert "in use" in taken.stderr
    assert "has no papers" in wrong.stderr


def test_nothing_is_asked_without_contact_and_consent(arxiv: Arxiv) -> None:
    nobody = arxiv("smoke", "--live")
    with serve() as double:
        unmeant = smoke(arxiv, double)
    assert (nobody.exit_code, unmeant.exit_code) == (2, 2)
    assert "ATOMVISION_CONTACT" in nobody.stderr
    assert "--live" in unmeant.stderr
    assert double.log.requests == ()


def test_a_look_at_the_servers_is_polite_and_told_line_by_line(arxiv: Arxiv) -> None:
    with serve() as double:
        done = smoke(arxiv, double, "--live", "--json")
    probes = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.stdout
    assert all(probe["passed"] for probe in probes)
    seen = double.log.requests
    assert 8 <= len(seen) == len(probes) <= 10
    # A busy server reads some requests late, so that single distances shrink; all of them together hardly do.
    assert seen[-1].began_s - seen[0].began_s > 0.7 * INTERVAL_S * (len(seen) - 1)
    assert all(CONTACT in request.user_agent for request in seen)


def test_an_outage_fails(arxiv: Arxiv) -> None:
    with serve(faults=Faults([Rule(kinds=("unavailable",), probability=1)])) as double:
        done = smoke(arxiv, double, "--live")
    assert done.exit_code == 1
    assert done.stdout.count("FAIL") == len(done.stdout.splitlines()) == len(double.log.requests)


def harvested(root: Path, double: Double) -> None:
    """Papers as a harvest publishes them."""
    patience = TransportParameters(contact=CONTACT, interval_s=0)
    with Transport(patience, root / "limit", "0.1") as transport:
        found = harvest(transport, HarvestParameters(base_url=double.oai_url), root / "pages")
    update_papers(Lake(root), found.records(), root / "update")


def test_the_second_finder_tells_what_the_harvest_lacks(arxiv: Arxiv, tmp_path: Path) -> None:
    corpus = read_corpus()
    paper = corpus.by_id["1803.04417"]
    with serve(corpus) as double:
        nothing = arxiv("compare", "2018-03", **at(double))
        harvested(tmp_path, double)
        whole = arxiv("compare", "2018-03", **at(double))
        double.corpus = corpus.with_paper(paper.model_copy(update={"id": "1803.99999"}))
        lacking = arxiv("compare", "2018-03", "2017-01", "--json", **at(double))
        wrong = arxiv("compare", "March", **at(double))
    assert (nothing.exit_code, whole.exit_code, lacking.exit_code, wrong.exit_code) == (2, 0, 1, 2)
    assert "harvest_literature" in nothing.stderr
    assert whole.stdout.endswith(" 0 are missing\n")
    full, empty = (json.loads(line) for line in lacking.stdout.splitlines())
    assert full["missing"] == ["1803.99999"]
    assert empty == {"month": "2017-01", "n_hits": 0, "found": [], "missing": []}
    assert "March" in wrong.stderr


def test_a_refusal_is_no_empty_month(arxiv: Arxiv, tmp_path: Path) -> None:
    with serve() as double:
        harvested(tmp_path, double)
        double.faults = Faults([Rule(kinds=("forbidden",), probability=1)])
        done = arxiv("compare", "2018-03", **at(double))
    assert done.exit_code == 2
    assert "403" in done.stderr


def link(number: int) -> dict[str, Any]:
    return {
        "figure_id": f"{number:016x}",
        "arxiv_id": "1803.04417",
        "version": 1,
        "number": str(number),
        "title": "T",
        "paper_url": "https://arxiv.org/abs/1803.04417v1",
        "image_urls": [f"https://arxiv.org/html/1803.04417v1/x{number}.png"],
        "modalities": ["STEM"],
        "formulas": ["MoS2"],
        "licence": "cc-by-4.0",
        "caption": None,
    }


def test_the_list_of_figures_is_written_once_it_is_published(arxiv: Arxiv, tmp_path: Path) -> None:
    out = tmp_path / "links.csv"
    early = arxiv("export", "--out", str(out))
    assert early.exit_code == 1
    assert "export_literature" in early.stderr
    assert list(tmp_path.glob("*links*")) == []
    rows = [link(1), link(2)]
    Lake(tmp_path).publish(
        "literature/links", table("literature/links").from_rows(rows), version=Version(code_version="1")
    )
    assert arxiv("export", "--out", str(out)).exit_code == 0
    with out.open() as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["1", "2"]
    shown = arxiv("export", "--format", "json")
    assert [row["figure_id"] for row in json.loads(shown.stdout)] == [row["figure_id"] for row in rows]
