"""The platform as its users meet it: a real server and daemon on loopback, a real browser.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dagster_project
from atomvision_ml.schemas.vocabulary import SOURCES
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
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
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


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Lake]]:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(DEPLOY / "dagster.yaml", home)
    root = tmp_path_factory.mktemp("root")
    with serving(home, root) as server:
        yield server, Lake(root)


def test_partition_is_materialised_by_hand_and_turns_green(platform: tuple[Server, Lake]) -> None:
    server, lake = platform
    with browsing() as page:
        page.goto(f"{server.url}/assets/structures/records?view=overview")
        page.get_by_role("button", name="Materialize…").click()
        page.get_by_text("Select a partition or create one").click()
        page.get_by_placeholder("Filter partitions").wait_for()
        page.locator(".bp5-portal label", has_text="prototypes").click()
        page.get_by_text("Launch runs to materialize").click()
        page.get_by_role("button", name="Launch 1 run").click()
        run = _finished_run(server)
        assert run["status"] == "SUCCESS"
        assert {"key": "dagster/partition", "value": "prototypes"} in run["tags"]

        page.goto(f"{server.url}/assets/structures/records?view=partitions&partition=prototypes")
        page.get_by_text("Materialized (1)").wait_for()
        page.get_by_text("content_sha256").first.wait_for()

    assert lake.partitions("structures/records") == ["prototypes"]
    assert lake.scan("structures/records").collect().height >= 150


def _finished_run(server: Server) -> dict[str, Any]:
    """The one run there is, when it has ended."""
    query = "{runsOrError {... on Runs {results {status tags {key value}}}}}"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        runs = server.graphql(query)["runsOrError"]["results"]
        if runs and runs[0]["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return runs[0]
        time.sleep(0.3)
    raise AssertionError(f"no run has ended: {server.said()}")


def test_graph_and_checks_are_shown(platform: tuple[Server, Lake], tmp_path: Path) -> None:
    server, _ = platform
    with browsing(1800, 1000) as page:
        photograph_graph(server, page, tmp_path / "graph.png")
        for name in ("records", "slabs", "materials", "stem", "training_sets", "segmenter", "holdout", "metrics"):
            assert page.locator("svg").get_by_text(name, exact=True).first.is_visible(), name
    assert (tmp_path / "graph.png").stat().st_size > 20_000


def test_automation_is_stopped_until_somebody_starts_it(platform: tuple[Server, Lake]) -> None:
    server, _ = platform
    query = "{repositoriesOrError {... on RepositoryConnection {nodes {sensors {name sensorState {status}}}}}}"
    (repository,) = server.graphql(query)["repositoriesOrError"]["nodes"]
    states = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    assert "automation" in states
    assert set(states.values()) == {"STOPPED"}


def test_partitions_that_were_not_asked_for_are_missing_and_not_failed(platform: tuple[Server, Lake]) -> None:
    server, _ = platform
    query = """{assetNodeOrError(assetKey: {path: ["structures", "records"]}) {... on AssetNode {
        partitionStats {numMaterialized numFailed numPartitions}}}}"""
    stats = server.graphql(query)["assetNodeOrError"]["partitionStats"]
    assert stats["numFailed"] == 0
    assert stats["numPartitions"] == len(SOURCES)


if __name__ == "__main__":
    home, root, picture = (Path(argument).resolve() for argument in sys.argv[1:])
    with serving(home, root) as server, browsing(1800, 1000) as page:
        photograph_graph(server, page, picture)
