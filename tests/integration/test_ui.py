"""The platform as its users meet it: a real server and daemon on loopback, a real browser.

arXiv is the offline double on loopback. All tests share one server: the daemon looks at schedules when a minute begins,
so the schedule is switched on first, and the other tests fill the wait.

The picture in the README is taken of an existing instance by hand::

    python tests/integration/test_ui.py DAGSTER_HOME ATOMVISION_ROOT docs/images/asset-graph.png
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

import dagster_project
from atomvision_ml.literature.double.corpus_reader import read_corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.schemas.vocabulary import SOURCES
from atomvision_ml.storage.keys import LITERATURE_HARVEST, LITERATURE_PAPERS, LITERATURE_TEXTS
from atomvision_ml.storage.lake import Lake

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT_FOLDER = Path(__file__).parents[2]
DEPLOY = Path(dagster_project.__file__).parent / "deploy"
CHROMIUM = shutil.which("chromium")
BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run",
]  # fmt: skip

CONTACT = "curator@example.org"
NAMES = ("cond-mat/0701123", "cond-mat/0701455", "1803.04417")
MONTH = "2007-01"
SCHEDULE = "harvest_literature_nightly"
SCHEDULE_TAG = "dagster/schedule_name"
PARTITION_TAG = "dagster/partition"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]


class Server:
    """`dagster dev` in a process group of its own, which is killed whole at the end."""

    def __init__(self, home: Path, root: Path, **settings: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (home / "dagster-dev.log").open("w+")
        environment = os.environ | {
            "DAGSTER_HOME": str(home), "ATOMVISION_ROOT": str(root), "ATOMVISION_AUTOMATION": "STOPPED",
            "DAGSTER_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **settings,
        }  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-w",
            "workspace.yaml",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT_FOLDER, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def said(self) -> str:
        """What the server wrote so far."""
        self.log.flush()
        return Path(self.log.name).read_text()[-3000:]

    def graphql(self, query: str) -> dict[str, Any]:
        """The data of a query; raises OSError while the server is not there."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)["data"]

    def wait_until_ready(self) -> None:
        """Wait until the code location is loaded, and dismiss the greeting that covers a new instance."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said()
            try:
                nodes = self.graphql("{repositoriesOrError {... on RepositoryConnection {nodes {name}}}}")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
                continue
            assert nodes["repositoriesOrError"].get("nodes"), self.said()
            self.graphql("mutation {setNuxSeen}")
            return
        raise AssertionError(f"the server did not come up: {self.said()}")

    def stop(self) -> None:
        """End the whole group: webserver, daemon, code server and the runs that they launched."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@contextmanager
def serving(home: Path, root: Path, **settings: str) -> Iterator[Server]:
    """The settings are variables of the environment."""
    server = Server(home, root, **settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@contextmanager
def browsing(width: int = 1600, height: int = 1000) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def photograph_graph(server: Server, page: Page, file: Path) -> None:
    """A picture of everything upstream of the gallery, which is the graph without the catalogue."""
    page.goto(f"{server.url}/assets/evaluation/gallery?view=lineage&lineageScope=upstream&lineageDepth=9")
    page.get_by_text("Hide navigation").click()
    page.locator("svg").get_by_text("champions").first.wait_for()
    page.wait_for_timeout(2000)  # the graph glides to its place
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file)


@dataclass(frozen=True)
class Platform:
    """A server with its daemon, its home, its lake, and the double that its runs ask."""

    server: Server
    home: Path
    lake: Lake
    double: Double

    def runs(self, tag: str, value: str) -> list[dict[str, Any]]:
        """The runs with this tag that have ended, the newest first."""
        query = "{runsOrError {... on Runs {results {runId jobName status tags {key value}}}}}"
        runs: list[dict[str, Any]] = self.server.graphql(query)["runsOrError"]["results"]
        ended = [run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]
        return [run for run in ended if {"key": tag, "value": value} in run["tags"]]

    def wait_for_runs(self, n: int, tag: str, value: str) -> dict[str, Any]:
        """The newest of them, when so many have ended."""
        deadline = time.monotonic() + 240
        while len(runs := self.runs(tag, value)) < n:
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
            platform = Platform(server, home, Lake(root), double)
            with browsing() as page:
                _start_as_if_days_ago(platform, page)
            yield platform


def _start_as_if_days_ago(platform: Platform, page: Page) -> None:
    """Switch the schedule on, and let it have been on since before its last hour.

    The daemon looks at schedules when a minute begins, and forgets what lies before its first look.
    """
    page.goto(f"{platform.server.url}/locations/atomvision/schedules/{SCHEDULE}")
    page.get_by_text("Schedule has never run").wait_for()
    with dg.DagsterInstance.from_config(str(platform.home)) as instance:
        if datetime.now(UTC).second > 40:
            time.sleep(61 - datetime.now(UTC).second)
        page.locator("label", has=page.locator("input[type=checkbox]")).first.click()
        deadline = time.monotonic() + 30
        while not (states := [one for one in instance.all_instigator_state() if one.instigator_name == SCHEDULE]):
            assert time.monotonic() < deadline, platform.server.said()
            time.sleep(0.1)
        (state,) = states
        four_days_ago = time.time() - 4 * 86_400
        instance.update_instigator_state(state.with_data(state.instigator_data._replace(start_timestamp=four_days_ago)))


def test_partition_is_materialised_by_hand_and_turns_green(platform: Platform) -> None:
    server, lake = platform.server, platform.lake
    with browsing() as page:
        page.goto(f"{server.url}/assets/structures/records?view=overview")
        page.get_by_role("button", name="Materialize…").click()
        page.get_by_text("Select a partition or create one").click()
        page.get_by_placeholder("Filter partitions").wait_for()
        page.locator(".bp5-portal label", has_text="prototypes").click()
        page.get_by_text("Launch runs to materialize").click()
        page.get_by_role("button", name="Launch 1 run").click()
        assert platform.wait_for_runs(1, PARTITION_TAG, "prototypes")["status"] == "SUCCESS"

        page.goto(f"{server.url}/assets/structures/records?view=partitions&partition=prototypes")
        page.get_by_text("Materialized (1)").wait_for()
        page.get_by_text("content_sha256").first.wait_for()

    assert lake.partitions("structures/records") == ["prototypes"]
    assert lake.scan("structures/records").collect().height >= 150


def test_graph_and_checks_are_shown(platform: Platform, tmp_path: Path) -> None:
    server = platform.server
    with browsing(1800, 1000) as page:
        photograph_graph(server, page, tmp_path / "graph.png")
        for name in ("records", "slabs", "materials", "stem", "training_sets", "segmenter", "holdout", "metrics"):
            assert page.locator("svg").get_by_text(name, exact=True).first.is_visible(), name
    assert (tmp_path / "graph.png").stat().st_size > 20_000


def test_automation_is_stopped_until_somebody_starts_it(platform: Platform) -> None:
    server = platform.server
    query = "{repositoriesOrError {... on RepositoryConnection {nodes {sensors {name sensorState {status}}}}}}"
    (repository,) = server.graphql(query)["repositoriesOrError"]["nodes"]
    states = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    assert "automation" in states
    assert set(states.values()) == {"STOPPED"}


def test_partitions_that_were_not_asked_for_are_missing_and_not_failed(platform: Platform) -> None:
    server = platform.server
    query = """{assetNodeOrError(assetKey: {path: ["structures", "records"]}) {... on AssetNode {
        partitionStats {numMaterialized numFailed numPartitions}}}}"""
    stats = server.graphql(query)["assetNodeOrError"]["partitionStats"]
    assert stats["numFailed"] == 0
    assert stats["numPartitions"] == len(SOURCES)


def test_the_nightly_schedule_ticks_and_its_harvest_fills_months(platform: Platform) -> None:
    run = platform.wait_for_runs(1, SCHEDULE_TAG, SCHEDULE)
    assert (run["jobName"], run["status"]) == ("harvest_literature", "SUCCESS")
    with browsing() as page:
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
        run = platform.wait_for_runs(1, PARTITION_TAG, MONTH)
        assert run["status"] == "FAILURE"
        assert not platform.lake.exists(LITERATURE_TEXTS, MONTH)
        page.goto(f"{platform.server.url}/assets/{LITERATURE_TEXTS}?view=partitions&partition={MONTH}")
        page.get_by_text("Failed (1)").wait_for()

        page.goto(f"{platform.server.url}/runs/{run['runId']}")
        page.get_by_role("button", name="Re-execute").first.click()
        assert platform.wait_for_runs(2, PARTITION_TAG, MONTH)["status"] == "SUCCESS"
        page.goto(f"{platform.server.url}/assets/{LITERATURE_TEXTS}?view=partitions&partition={MONTH}")
        page.get_by_text("Materialized (1)").wait_for()
        page.get_by_text("Failed (0)").wait_for()
    texts = platform.lake.scan(LITERATURE_TEXTS, MONTH).collect()
    assert dict(texts.select("arxiv_id", "status").iter_rows()) == {
        "cond-mat/0701123": "accepted",
        "cond-mat/0701455": "rejected",
    }


if __name__ == "__main__":
    home, root, picture = (Path(argument).resolve() for argument in sys.argv[1:])
    with serving(home, root) as server, browsing(1800, 1000) as page:
        photograph_graph(server, page, picture)
