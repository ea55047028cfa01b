"""A run that is killed, and one that outlives its own end: what is published stays whole, and nobody waits for ever.

Each run is a process of its own with a real instance on disk; it is killed by SIGKILL, as the kernel does it when the
memory is full.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import dagster_project
from atomvision_assets.processes import end_killed_runs
from atomvision_assets.store import Store
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.keys import STRUCTURES_RECORDS
from atomvision_ml.storage.lake import Lake, Version
from dagster_project.runner import Runner
from dagster_project.steps import Size, State, Step

PARTITION = "prototypes"
DEPLOY = Path(dagster_project.__file__).parent / "deploy"

CHILD = """
import sys, time
from pathlib import Path
import dagster as dg
from atomvision_assets.declare import table_asset
from atomvision_assets.store import Product, Store, Work
from dagster_project.runner import Runner
from dagster_project.steps import Size, Step

root, signals, name, n_rows, where = sys.argv[1:]
signals = Path(signals)


def wait_here():
    (signals / "here").touch()
    while not (signals / "go").exists():
        time.sleep(0.02)


def row(number):
    return {
        "record_id": f"prototypes:{name}-{number}", "source": "prototypes", "native_id": f"{name}-{number}",
        "status": "rejected", "reason": "x" * 200 + str(number), "reference": "r", "licence": "l", "origin": "o",
        "provenance": "rule", "is_hypothetical": True, "sha256": "0" * 64,
    }


@table_asset("structures/records", code_version="1", kinds={"python"})
def records(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    work = store.begin(context)

    def make():
        if where == "before the write":
            wait_here()
        return Product([row(number) for number in range(int(n_rows))])

    return work.publish(make)


if where == "before the fence":
    is_allowed = Work.may_publish

    def may_publish(work):
        wait_here()
        return is_allowed(work)

    Work.may_publish = may_publish

job = dg.define_asset_job("refresh_structures", selection=[records])
definitions = dg.Definitions([records], jobs=[job], resources={"store": Store(root=root)})
runner = Runner(definitions, dg.DagsterInstance.get(), Size.demo)
while True:
    outcome = runner.run(Step("refresh_structures", records.key, "prototypes"))
    print(outcome.state.name, outcome.message, flush=True)
    if where != "again and again":
        break
"""


class Bench:
    """A home, a root and children that publish into them."""

    def __init__(self, folder: Path):
        self.root, self.home, self.signals = folder / "root", folder / "home", folder / "signals"
        for made in (self.home, self.signals):
            made.mkdir()
        shutil.copy(DEPLOY / "dagster.yaml", self.home)
        self.script = folder / "child.py"
        self.script.write_text(textwrap.dedent(CHILD))
        self.children: list[subprocess.Popen[str]] = []

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    def start(self, name: str, n_rows: int, where: str = "nowhere") -> subprocess.Popen[str]:
        command = [sys.executable, str(self.script), str(self.root), str(self.signals), name, str(n_rows), where]
        environment = os.environ | {"DAGSTER_HOME": str(self.home), "PYTHONWARNINGS": "ignore"}
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.children.append(child)
        return child

    def publish(self, name: str) -> None:
        row = {
            "record_id": f"prototypes:{name}-0", "source": PARTITION, "native_id": f"{name}-0", "status": "rejected",
            "reason": "x", "reference": "r", "licence": "l", "origin": "o", "provenance": "rule",
            "is_hypothetical": True, "sha256": "0" * 64,
        }  # fmt: skip
        rows = table(STRUCTURES_RECORDS).from_rows([row])
        self.lake.publish(STRUCTURES_RECORDS, rows, version=Version(code_version="1"), partition=PARTITION)

    def wait_until_there(self) -> None:
        deadline = time.monotonic() + 120
        while not (self.signals / "here").exists():
            assert time.monotonic() < deadline, "the child did not come that far"
            time.sleep(0.02)

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def names(self) -> set[str]:
        rows = self.lake.scan(STRUCTURES_RECORDS, PARTITION).collect()
        return set(rows["native_id"].str.split("-").list.first())

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.end()


@pytest.mark.parametrize("where", ["before the write", "before the fence"])
def test_run_killed_in_mid_publication_leaves_the_old_value_and_the_next_one_publishes(
    bench: Bench, where: str
) -> None:
    bench.publish("old")
    before = bench.lake.facts(STRUCTURES_RECORDS, PARTITION)
    child = bench.start("new", 50, where)
    bench.wait_until_there()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    assert bench.lake.verify(STRUCTURES_RECORDS, PARTITION) == before
    assert bench.names() == {"old"}
    with bench.instance() as instance:
        (zombie,) = [run for run in instance.get_runs() if run.status == dg.DagsterRunStatus.STARTED]
        assert end_killed_runs(instance) == 1
        assert instance.get_run_by_id(zombie.run_id).status == dg.DagsterRunStatus.FAILURE
    if where == "before the fence":
        said, _ = bench.start("newer", 30).communicate(timeout=120)
        assert said.startswith("DONE"), said
        assert bench.names() == {"newer"}


@pytest.mark.parametrize("where", ["before the write", "before the fence"])
def test_orphan_of_a_failed_run_is_fenced_and_the_newer_value_stays(bench: Bench, where: str) -> None:
    orphan = bench.start("orphan", 50, where)
    bench.wait_until_there()
    with bench.instance() as instance:
        (run,) = instance.get_runs()
        instance.report_run_failed(run, message="what run monitoring does when a run takes too long")
    if where == "before the write":
        bench.publish("newer")
    (bench.signals / "go").touch()
    said, _ = orphan.communicate(timeout=120)
    assert "DONE" not in said
    if where == "before the write":
        assert bench.names() == {"newer"}
    else:
        assert not bench.lake.exists(STRUCTURES_RECORDS, PARTITION)


def test_reader_never_meets_a_torn_value_while_publishers_are_killed(bench: Bench) -> None:
    dice = random.Random(1)
    seen = set()
    for generation in range(2):
        child = bench.start(f"kill{generation}", 4000, "again and again")
        assert child.stdout is not None
        assert child.stdout.readline().startswith("DONE")
        until = time.monotonic() + dice.uniform(0.2, 1.2)
        while time.monotonic() < until:
            facts = bench.lake.verify(STRUCTURES_RECORDS, PARTITION)
            seen.add(facts.n_rows)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        bench.lake.verify(STRUCTURES_RECORDS, PARTITION)
        assert bench.names() == {f"kill{generation}"}
    assert seen == {4000}


def test_pool_slot_of_a_killed_run_is_free_again(bench: Bench) -> None:
    """Without this the next training would wait for ever for the one GPU."""
    with bench.instance() as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("gpu")
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        run = dg.DagsterRun(
            job_name="job", status=dg.DagsterRunStatus.STARTED,
            tags={"atomvision/process": f"{os.uname().nodename}:{dead.pid}"},
        )  # fmt: skip
        instance.add_run(run)
        assert storage.claim_concurrency_slot("gpu", run.run_id, "train").slot_status.value == "CLAIMED"
        assert storage.claim_concurrency_slot("gpu", "another", "train").slot_status.value == "BLOCKED"
        end_killed_runs(instance)
        assert storage.claim_concurrency_slot("gpu", "another", "train").slot_status.value == "CLAIMED"


def test_missing_blob_fails_at_once_and_says_which(tmp_path: Path) -> None:
    """A row that names a blob which is gone: no retry storm."""
    from atomvision_assets.declare import asset_key_of
    from atomvision_ml.settings import Settings
    from dagster_project.definitions import build_definitions

    store = Store(root=str(tmp_path / "root"))
    blob = tmp_path / "blob"
    blob.mkdir()
    (blob / "parameters.json").write_text("{}")
    sha = store.lake.put_blob(blob)
    row = {
        "model_id": "segmenter@1", "name": "segmenter", "version": "1", "task": "segmentation", "size": "demo",
        "seed": 0, "is_checkpoint": True, "blob": sha, "n_parameters": 1, "parameters_json": "{}", "card_json": "{}",
    }  # fmt: skip
    store.lake.publish(
        "models/segmenter", table("models/segmenter").from_rows([row]), version=Version(code_version="1")
    )
    for key, partition in (("evaluation/holdout", None), ("models/training_sets", "segmentation")):
        store.lake.publish(key, table(key).empty(), version=Version(code_version="1"), partition=partition)
    shutil.rmtree(store.lake.blob(sha))
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(build_definitions(Settings(root="unused"), store), instance, Size.demo)
        started = time.monotonic()
        outcome = runner.run(Step("refresh_models", asset_key_of("predictions/segmenter")))
    assert outcome.state is State.FAILED
    assert sha in outcome.message
    assert time.monotonic() - started < 60
