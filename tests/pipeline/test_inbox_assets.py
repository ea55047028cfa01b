"""Records and micrographs as Dagster runs them: by hand, by batch, by a repair, and with a ledger that was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import SENSOR_NAME_TAG

from atomvision_assets.declare import asset_key_of
from atomvision_assets.experiments.inbox import BATCH_TAG, Inbox
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Store
from atomvision_ml.experiments.double import DropParameters, Truth, drop
from atomvision_ml.experiments.ledger import InboxRules
from atomvision_ml.settings import Settings
from atomvision_ml.storage.keys import EXPERIMENTS_INBOX, EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_RECORDS
from dagster_project.definitions import build_definitions

RUN_CONFIG = {"ops": {"experiments__records": {"config": {"rest_s": 0.0}}}}


@dataclass
class Bench:
    """A platform with an inbox."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    store: Store
    inbox: Inbox
    truths: list[Truth]

    def ingest(self, day: str, **tags: str) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def("ingest_experiments")
        return job.execute_in_process(
            partition_key=day,
            instance=self.instance,
            tags={SKIP_UNCHANGED_TAG: "true"} | tags,
            run_config=RUN_CONFIG,
            raise_on_error=False,
        )

    def states(self, day: str) -> dict[str, str]:
        rows = self.store.lake.scan(EXPERIMENTS_RECORDS, day).collect()
        return dict(zip(rows["place"], rows["state"], strict=True))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("inbox")
    store = Store(root=str(folder / "root"))
    inbox = Inbox(url=str(folder / "files"), ledger=str(folder / "ledger.sqlite"))
    truths = drop(folder / "files", DropParameters(images_per_sample=1, size_px=64))
    with dg.DagsterInstance.local_temp(str(folder), {"telemetry": {"enabled": False}}) as instance:
        yield Bench(build_definitions(Settings(root="unused"), store, inbox=inbox), instance, store, inbox, truths)


@pytest.fixture(scope="module")
def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _metadata(result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("__".join(key.split("/")))
    return {name: value.value for name, value in event.metadata.items()}


def test_a_run_of_a_sensor_takes_its_batch_alone(bench: Bench, today: str) -> None:
    assert bench.ingest(today, **{SENSOR_NAME_TAG: "inbox"}).success
    assert bench.states(today) == {}
    rules = InboxRules(minimum_age_s=0.0, batch_size=5, maximum_batches=1)
    bench.inbox.store.tick(bench.inbox.places.listing(), time.time(), rules=rules)
    (batch,) = bench.inbox.store.tick(bench.inbox.places.listing(), time.time(), rules=rules, owner="sensor").batches
    assert bench.ingest(batch.day, **{BATCH_TAG: batch.key, SENSOR_NAME_TAG: "inbox"}).success
    assert set(bench.states(today)) == {place for place, _ in batch.files}
    assert bench.ingest(batch.day, **{BATCH_TAG: batch.key, SENSOR_NAME_TAG: "inbox"}).success
    assert len(bench.states(today)) == 5


def test_a_run_of_a_person_takes_the_rest_and_a_second_one_changes_nothing(bench: Bench, today: str) -> None:
    result = bench.ingest(today)
    assert result.success
    assert bench.states(today) == {truth.name: truth.verdict for truth in bench.truths}
    micrographs = _metadata(result, EXPERIMENTS_MICROGRAPHS)
    assert micrographs["dagster/row_count"] == sum(truth.verdict == "accepted" for truth in bench.truths)
    assert micrographs["preview"].startswith("![preview](data:image/png;base64,")
    before = bench.store.lake.facts(EXPERIMENTS_RECORDS, today).content_sha256
    again = bench.ingest(today)
    assert bench.store.lake.facts(EXPERIMENTS_RECORDS, today).content_sha256 == before
    assert _metadata(again, EXPERIMENTS_MICROGRAPHS)["is_unchanged"]


def test_every_check_is_green(bench: Bench) -> None:
    keys = [EXPERIMENTS_RECORDS, EXPERIMENTS_MICROGRAPHS]
    graph = bench.definitions.resolve_asset_graph()
    checks = [check for key in keys for check in graph.get_check_keys_for_assets({asset_key_of(key)})]
    records = bench.instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    assert {key.name: record.status.value for key, record in records.items()} == {
        key.name: "SUCCEEDED" for key in checks
    }


def test_the_ledger_is_published_and_reported(bench: Bench) -> None:
    rows = bench.store.lake.scan(EXPERIMENTS_INBOX).collect()
    assert dict(zip(rows["place"], rows["is_present"], strict=True)) == {truth.name: True for truth in bench.truths}
    event = bench.instance.get_latest_materialization_event(asset_key_of(EXPERIMENTS_INBOX)).asset_materialization
    assert event.tags["dagster/data_version"] == bench.store.lake.facts(EXPERIMENTS_INBOX).data_version


def test_a_lost_ledger_replaces_no_rows(bench: Bench, today: str) -> None:
    before = bench.states(today)
    for path in Path(bench.inbox.ledger).parent.glob("ledger.sqlite*"):
        path.unlink()
    result = bench.ingest(today, **{SENSOR_NAME_TAG: "inbox"})
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert "no_receipt_is_lost" in failure.user_failure_data.description
    assert "restore it from a backup" in failure.user_failure_data.description
    assert bench.states(today) == before
