"""The literature as its users meet it: a nightly schedule that ticks, months, and a failed month that turns green.

arXiv is the offline double on loopback; server, daemon, runs and browser are real.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from test_ui import CHROMIUM, DEPLOY, Server, browsing, serving

from atomvision_ml.literature.double.corpus_reader import read_corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.storage.keys import LITERATURE_HARVEST, LITERATURE_PAPERS, LITERATURE_TEXTS
from atomvision_ml.storage.lake import Lake

if TYPE_CHECKING:
    from playwright.sync_api import Page

CONTACT = "curator@example.org"
NAMES = ("cond-mat/0701123", "cond-mat/0701455", "1803.04417")
MONTH = "2007-01"
SCHEDULE = "harvest_literature_nightly"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]


@dataclass(frozen=True)
class Platform:
    """A server with its daemon, its home, its lake, and the double that its runs ask."""

    server: Server
    home: Path
    lake: Lake
    double: Double

    def runs(self) -> list[dict[str, Any]]:
        """All runs that have ended, the newest first."""
        query = "{runsOrError {... on Runs {results {runId jobName status tags {key value}}}}}"
        runs: list[dict[str, Any]] = self.server.graphql(query)["runsOrError"]["results"]
        return [run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]

    def wait_for_runs(self, n: int) -> dict[str, Any]:
        """The newest run, when so many have ended."""
        deadline = time.monotonic() + 240
        while len(runs := self.runs()) < n:
            assert time.monotonic() < deadline, self.server.said()
            time.sleep(0.3)
        return runs[0]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("root")
    shutil.copy(DEPLOY / "dagster.yaml", home)
    whole = read_corpus()
    corpus = replace(whole, papers=tuple(whole.by_id[name] for name in NAMES))
    refusal = Faults([Rule(kinds=("forbidden",), path="0701455v1", nth=(1,))])
    with serve(corpus, faults=refusal) as double:
        settings = {
            "ATOMVISION_CONTACT": CONTACT, "ATOMVISION_ARXIV_OAI_URL": double.oai_url,
            "ATOMVISION_ARXIV_API_URL": double.api_url, "ATOMVISION_ARXIV_URL": double.url,
            "ATOMVISION_ARXIV_INTERVAL_S": "0.05",
        }  # fmt: skip
        with serving(home, root, **settings) as server:
            yield Platform(server, home, Lake(root), double)


def _start_as_if_days_ago(platform: Platform, page: Page) -> None:
    """Switch the schedule on, and let it have been on since before its last hour.

    The daemon looks at schedules when a minute begins, and forgets what lies before its first look.
    """
    page.goto(f"{platform.server.url}/locations/atomvision/schedules/{SCHEDULE}")
    page.get_by_text("Schedule has never run").wait_for()
    if datetime.now(UTC).second > 25:
        time.sleep(61 - datetime.now(UTC).second)
    page.locator("label", has=page.locator("input[type=checkbox]")).first.click()
    with dg.DagsterInstance.from_config(str(platform.home)) as instance:
        deadline = time.monotonic() + 30
        while not (states := [one for one in instance.all_instigator_state() if one.instigator_name == SCHEDULE]):
            assert time.monotonic() < deadline, platform.server.said()
            time.sleep(0.1)
        (state,) = states
        four_days_ago = time.time() - 4 * 86_400
        instance.update_instigator_state(state.with_data(state.instigator_data._replace(start_timestamp=four_days_ago)))


def test_the_nightly_schedule_ticks_and_its_harvest_fills_months(platform: Platform) -> None:
    with browsing() as page:
        _start_as_if_days_ago(platform, page)
        run = platform.wait_for_runs(1)
        assert (run["jobName"], run["status"]) == ("harvest_literature", "SUCCESS")
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        assert tags["dagster/schedule_name"] == SCHEDULE

        page.goto(f"{platform.server.url}/assets/{LITERATURE_PAPERS}?view=partitions")
        page.get_by_text("Materialized (2)").wait_for()
        page.get_by_text("Failed (0)").wait_for()
    assert platform.lake.partitions(LITERATURE_PAPERS) == [MONTH, "2018-03"]
    assert platform.lake.scan(LITERATURE_HARVEST).collect()["n_papers"].to_list() == [len(NAMES)]
    assert all(CONTACT in request.user_agent for request in platform.double.log.requests)


def _materialise_month(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.server.url}/assets/{LITERATURE_TEXTS}?view=overview")
    page.get_by_role("button", name="Materialize…").click()
    months = page.locator(".bp5-portal input[placeholder*='1991-08']")
    months.fill(MONTH)
    months.press("Enter")
    page.get_by_text("1 partition", exact=True).wait_for()
    page.get_by_role("button", name="Launch").click()


def test_a_month_that_failed_is_retried_and_turns_green(platform: Platform) -> None:
    """The server refuses one text at first."""
    with browsing() as page:
        _materialise_month(platform, page)
        run = platform.wait_for_runs(2)
        assert run["status"] == "FAILURE"
        assert {"key": "dagster/partition", "value": MONTH} in run["tags"]
        assert not platform.lake.exists(LITERATURE_TEXTS, MONTH)
        page.goto(f"{platform.server.url}/assets/{LITERATURE_TEXTS}?view=partitions&partition={MONTH}")
        page.get_by_text("Failed (1)").wait_for()

        page.goto(f"{platform.server.url}/runs/{run['runId']}")
        page.get_by_role("button", name="Re-execute").first.click()
        assert platform.wait_for_runs(3)["status"] == "SUCCESS"
        page.goto(f"{platform.server.url}/assets/{LITERATURE_TEXTS}?view=partitions&partition={MONTH}")
        page.get_by_text("Materialized (1)").wait_for()
        page.get_by_text("Failed (0)").wait_for()
    texts = platform.lake.scan(LITERATURE_TEXTS, MONTH).collect()
    assert dict(texts.select("arxiv_id", "status").iter_rows()) == {
        "cond-mat/0701123": "accepted",
        "cond-mat/0701455": "rejected",
    }
