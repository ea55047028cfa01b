"""A harvest in bad weather: whatever the server does and wherever the process dies, the records are the same.

The server is the offline double, which speaks arXiv's protocols on loopback, injects seeded faults and logs every
request. Killed harvests are real processes that end by SIGKILL.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from atomvision_ml.literature.double.corpus_reader import Corpus, HeldPaper, HeldVersion
from atomvision_ml.literature.double.faults import Faults, Rule, storm
from atomvision_ml.literature.double.server import Double, Request, most_in_flight, serve, shortest_distance_s
from atomvision_ml.literature.harvest import Harvest, HarvestParameters, harvest
from atomvision_ml.literature.oai import OaiRecord
from atomvision_ml.literature.replies import OutageError
from atomvision_ml.literature.transport import Transport, TransportParameters

CONTACT = "curator@example.org"
INTERVAL_S = 0.02
PAGE_RECORDS = 4
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
"""Of the server."""


def papers(n: int) -> tuple[HeldPaper, ...]:
    """Papers of which three share a day, so that pages end within days."""
    return tuple(_paper(number) for number in range(n))


def _paper(number: int) -> HeldPaper:
    moment = datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=number // 3, minutes=number)
    return HeldPaper(
        id=f"2403.{number + 1:05d}",
        submitter="A. Nyström",
        title=f"STEM of sample {number}",
        authors="A. Nyström, B. Õnne",
        author_list=("A. Nyström", "B. Õnne"),
        abstract=f"We see {number} atoms.",
        categories=("cond-mat.mtrl-sci",),
        datestamp=moment.date(),
        versions=(HeldVersion(version=1, submitted_at=moment),),
    )


CORPUS = Corpus(Path("metadata only"), papers(38))


def serving(
    corpus: Corpus, faults: Faults | None = None, page_records: int = PAGE_RECORDS, delay_s: float = 0.0
) -> AbstractContextManager[Double]:
    return serve(corpus, faults=faults, clock=lambda: NOW, page_records=page_records, delay_s=delay_s)


def harvested(url: str, folder: Path, watermark: date | None = None, **changes: Any) -> Harvest:
    quick = {"interval_s": INTERVAL_S, "backoff_s": 0, "read_timeout_s": 2.0, **changes}
    parameters = TransportParameters(contact=CONTACT, **quick)
    with Transport(parameters, folder / "limit", "0.1") as transport:
        return harvest(transport, HarvestParameters(base_url=url, watermark=watermark), folder / "pages")


def upserted(found: Harvest) -> dict[str, OaiRecord]:
    """The records as a table keeps them: one for each paper, the newest."""
    newest: dict[str, OaiRecord] = {}
    for record in found.records():
        if record.arxiv_id not in newest or newest[record.arxiv_id].datestamp <= record.datestamp:
            newest[record.arxiv_id] = record
    return newest


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OaiRecord]:
    """What a harvest without any fault gives."""
    with serving(CORPUS) as double:
        found = upserted(harvested(double.oai_url, tmp_path_factory.mktemp("calm")))
    assert list(found) == [paper.id for paper in CORPUS.papers]
    assert [record.datestamp for record in found.values()] == [paper.datestamp for paper in CORPUS.papers]
    return found


def assert_polite(log: Sequence[Request]) -> None:
    """One request in flight, the rate kept, a person's address in each, no PDF."""
    assert most_in_flight(log) == 1
    lasted_s = log[-1].began_s - log[0].began_s
    assert lasted_s > 0.8 * INTERVAL_S * (len(log) - 1)  # the server reads some log late
    assert all(CONTACT in request.user_agent for request in log)
    assert not any("/pdf" in request.path for request in log)


@pytest.mark.parametrize("seed", [3, 5, 7])
def test_with_three_faults_in_ten_replies_the_records_are_the_same(
    calm: dict[str, OaiRecord], tmp_path: Path, seed: int
) -> None:
    with serving(CORPUS, Faults([storm(0.3, silence_s=0.05)], seed), page_records=2) as double:
        found = harvested(double.oai_url, tmp_path)
        log = double.log.requests
    assert upserted(found) == calm
    assert found.watermark == CORPUS.papers[-1].datestamp
    n_faults = sum(request.fault is not None for request in log)
    assert n_faults > 0.25 * len(log)
    assert_polite(log)


@pytest.mark.parametrize("n_good", [0, 1, 5, 9])
def test_in_an_outage_the_harvest_fails_and_the_next_one_asks_only_for_the_rest(
    calm: dict[str, OaiRecord], tmp_path: Path, n_good: int
) -> None:
    outage = Faults([Rule(kinds=("unavailable",), nth=tuple(range(n_good + 1, n_good + 7)))])
    with serving(CORPUS, outage) as double:
        with pytest.raises(OutageError, match="6 attempts"):
            harvested(double.oai_url, tmp_path)
        kept = {path.name: path.read_bytes() for path in (tmp_path / "pages").glob("*.gz")}
        assert len(kept) == n_good
        n_before = len(double.log.requests)
        assert upserted(harvested(double.oai_url, tmp_path)) == calm
        assert len(double.log.requests) - n_before == 10 - n_good
    assert all((tmp_path / "pages" / name).read_bytes() == content for name, content in kept.items())


def test_a_server_that_hangs_is_left_in_time(calm: dict[str, OaiRecord], tmp_path: Path) -> None:
    hanging = Faults([Rule(kinds=("silence",), nth=(2, 3), silence_s=60)])
    with serving(CORPUS, hanging) as double:
        assert upserted(harvested(double.oai_url, tmp_path, read_timeout_s=0.2)) == calm


def test_requests_keep_their_distance_one_by_one(tmp_path: Path) -> None:
    with serving(Corpus(Path("metadata only"), papers(12))) as double:
        harvested(double.oai_url, tmp_path, interval_s=0.4)
        assert shortest_distance_s(double.log.requests) > 0.2  # the server may read a request late


@pytest.mark.parametrize("nth", [2, 3, 6])
def test_a_record_that_changes_while_the_list_is_read_costs_no_other_record(tmp_path: Path, nth: int) -> None:
    """It goes to the end of the list; the rest of its day moves up by one, past the end of the last page."""
    change = Faults([Rule(kinds=("changed_record",), nth=(nth,))])
    with serving(CORPUS, change) as double:
        found = upserted(harvested(double.oai_url, tmp_path))
        truth = {paper.id: paper.datestamp for paper in double.corpus.papers}
        n_lists = sum("from=" in request.path for request in double.log.requests)
    assert {name: record.datestamp for name, record in found.items()} == truth
    assert max(truth.values()) > CORPUS.papers[-1].datestamp
    assert n_lists == 2


def test_the_next_harvest_brings_what_changed_and_nothing_else(tmp_path: Path) -> None:
    with serving(CORPUS) as double:
        first = harvested(double.oai_url, tmp_path)
        again = harvested(double.oai_url, tmp_path / "again", watermark=first.watermark)
        overlap = [paper.id for paper in CORPUS.papers if paper.datestamp >= first.watermark - timedelta(days=1)]
        assert list(upserted(again)) == overlap
        assert again.watermark == first.watermark
        changed = CORPUS.papers[5].model_copy(update={"datestamp": date(2024, 4, 1), "title": "Another"})
        double.corpus = CORPUS.with_paper(changed)
        last = harvested(double.oai_url, tmp_path / "last", watermark=again.watermark)
    assert list(upserted(last)) == [*overlap, changed.id]
    assert upserted(last)[changed.id].title == "Another"
    assert last.watermark == date(2024, 4, 1)


def test_two_harvests_at_once_share_one_connection(calm: dict[str, OaiRecord], tmp_path: Path) -> None:
    found: dict[str, dict[str, OaiRecord]] = {}

    def run(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "limit").symlink_to(tmp_path / "limit")
        found[name] = upserted(harvested(double.oai_url, tmp_path / name))

    (tmp_path / "limit").mkdir()
    with serving(CORPUS, delay_s=0.03) as double:
        threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_polite(double.log.requests)
    assert found == {"one": calm, "two": calm}


def test_the_log_can_tell_requests_that_overlap() -> None:
    """Else the proof of one request in flight would prove nothing."""
    with serving(CORPUS, delay_s=0.5) as double:
        threads = [threading.Thread(target=requests.get, args=(f"{double.oai_url}?verb=Identify",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most_in_flight(double.log.requests) > 1


KILLED = """
import json, os, signal, sys, shutil
from pathlib import Path

from atomvision_ml.literature import harvest as module
from atomvision_ml.literature.transport import Transport, TransportParameters

url, folder, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
quick = TransportParameters(contact="curator@example.org", interval_s=0, backoff_s=0)


def harvested():
    with Transport(quick, folder / "limit", "0.1") as transport:
        return module.harvest(transport, module.HarvestParameters(base_url=url), folder / "pages")


def die_at(line):
    pid = os.fork()
    if pid == 0:
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if frame.f_code.co_filename != module.__file__:
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        harvested()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


outcomes, line = [], 1
while True:
    shutil.rmtree(folder / "pages", ignore_errors=True)
    status = die_at(line)
    n_kept = len(list((folder / "pages").glob("*.gz")))
    found = harvested()
    days = {record.arxiv_id: record.datestamp.isoformat() for record in found.records()}
    outcomes.append({"n_kept": n_kept, "days": days, "watermark": found.watermark.isoformat()})
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    line += step
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(
    ("n_papers", "step"), [(10, 7), pytest.param(14, 1, marks=pytest.mark.slow)], ids=["some lines", "every line"]
)
def test_a_harvest_killed_anywhere_goes_on_and_has_every_record(tmp_path: Path, n_papers: int, step: int) -> None:
    held = papers(n_papers)
    with serving(Corpus(Path("metadata only"), held)) as double:
        command = [sys.executable, "-c", KILLED, double.oai_url, str(tmp_path), str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        n_requests = len(double.log.requests)
    outcomes = json.loads(done.stdout)
    expected = {paper.id: paper.datestamp.isoformat() for paper in held}
    assert all(outcome["days"] == expected for outcome in outcomes)
    assert {outcome["watermark"] for outcome in outcomes} == {max(expected.values())}
    n_pages = -(-n_papers // PAGE_RECORDS)
    assert {outcome["n_kept"] for outcome in outcomes} == set(range(n_pages + 1))
    assert n_requests <= len(outcomes) * (n_pages + 1)  # a kept page is asked for once more at most
