"""Publication as an asset does it, on a real lake and a real Dagster instance."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from atomvision_assets.declare import table_asset
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Audit, Product, Store
from atomvision_ml.storage.keys import STRUCTURES_RECORDS, STRUCTURES_SLABS
from atomvision_ml.storage.lake import Lake, Version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.PreviewWarning")

PARTITION = "prototypes"
Make = Callable[[Any], Product]


def record(name: str, reason: str | None = "damaged") -> dict[str, Any]:
    return {
        "record_id": f"{PARTITION}:{name}", "source": PARTITION, "native_id": name, "reference": "r", "licence": "l",
        "status": "rejected" if reason else "accepted", "reason": reason, "provenance": "rule", "origin": "here",
        "is_hypothetical": True, "sha256": "0" * 64,
    }  # fmt: skip


def slab(name: str) -> dict[str, Any]:
    return {"slab_id": f"{PARTITION}:{name}", "source": PARTITION, "status": "rejected", "reason": "damaged"}


class Bench:
    """Two assets of the real graph with bodies of the test's own; counts how often they were called."""

    def __init__(self, root: Path, instance: dg.DagsterInstance):
        self.store = Store(root=str(root))
        self.instance = instance
        self.make_records: Make = lambda work: Product([record("a")])
        self.make_slabs: Make = lambda work: Product([slab("a")], [Audit("is_fine", True)])
        self.parameters: dict[str, Any] = {}
        self.calls = 0

        @table_asset(STRUCTURES_RECORDS, code_version="1", kinds={"python"})
        def records(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
            work = store.begin(context)
            return work.publish(lambda: self.make_records(work))

        @table_asset(
            STRUCTURES_SLABS, code_version="1", kinds={"python"}, deps=[STRUCTURES_RECORDS], checks={"is_fine": "Fine."}
        )
        def slabs(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
            work = store.begin(context)
            work.scan(STRUCTURES_RECORDS, context.partition_key)

            def make() -> Product:
                self.calls += 1
                return self.make_slabs(work)

            return work.publish(make, parameters=self.parameters)

        self.assets = [records, slabs]

    @property
    def lake(self) -> Lake:
        return self.store.lake

    def run(
        self, key: str, tags: dict[str, str] | None = None, partition: str | None = PARTITION
    ) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            self.assets, selection=[dg.AssetKey(key.split("/"))], partition_key=partition, instance=self.instance,
            resources={"store": self.store}, raise_on_error=False, tags=tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )  # fmt: skip

    def failure(self, key: str) -> str:
        result = self.run(key)
        assert not result.success
        assert not [e for e in result.all_events if e.is_step_up_for_retry], "a permanent failure is not retried"
        (event,) = [e for e in result.all_events if e.is_step_failure]
        return event.step_failure_data.user_failure_data.description

    def checks(self, name: str) -> list[tuple[bool, str | None]]:
        key = dg.AssetCheckKey(dg.AssetKey(STRUCTURES_SLABS.split("/")), name)
        history = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        evaluations = [entry.event.dagster_event.event_specific_data for entry in history if entry.event]
        return [(evaluation.passed, evaluation.partition) for evaluation in evaluations]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Bench(tmp_path, instance)


def test_materialisation_carries_version_rows_schema_and_checks(bench: Bench) -> None:
    assert bench.run(STRUCTURES_RECORDS).success
    result = bench.run(STRUCTURES_SLABS)
    (event,) = result.asset_materializations_for_node("structures__slabs")
    facts = bench.lake.facts(STRUCTURES_SLABS, PARTITION)
    assert event.tags["dagster/data_version"] == facts.data_version
    assert event.metadata["dagster/row_count"].value == 1
    assert event.metadata["dagster/uri"].value.endswith("structures/slabs/source=prototypes/data.parquet")
    assert Path(event.metadata["dagster/uri"].value).exists()
    assert facts.inputs == {
        f"{STRUCTURES_RECORDS}/{PARTITION}": bench.lake.facts(STRUCTURES_RECORDS, PARTITION).data_version
    }
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "contract_is_kept": True, "is_fine": True,
    }  # fmt: skip


def test_failed_audit_is_red_and_the_old_value_stays(bench: Bench) -> None:
    bench.run(STRUCTURES_RECORDS)
    bench.run(STRUCTURES_SLABS)
    before = bench.lake.facts(STRUCTURES_SLABS, PARTITION)
    bench.parameters = {"seed": 2}
    bench.make_slabs = lambda work: Product([slab("b")], [Audit("is_fine", False, {"lost": 3})])
    message = bench.failure(STRUCTURES_SLABS)
    assert "is_fine" in message
    assert "the former value stays" in message
    assert bench.lake.facts(STRUCTURES_SLABS, PARTITION) == before
    assert bench.lake.scan(STRUCTURES_SLABS, PARTITION).collect()["slab_id"].to_list() == ["prototypes:a"]
    assert bench.checks("is_fine") == [(False, PARTITION), (True, PARTITION)]


def test_broken_contract_is_a_red_check_and_publishes_nothing(bench: Bench) -> None:
    bench.run(STRUCTURES_RECORDS)
    bench.make_slabs = lambda work: Product([slab("a"), slab("a")], [Audit("is_fine", True)])
    assert "occurs more than once" in bench.failure(STRUCTURES_SLABS)
    assert not bench.lake.exists(STRUCTURES_SLABS, PARTITION)
    assert bench.checks("contract_is_kept") == [(False, PARTITION)]


def test_failed_warning_is_published_and_shown(bench: Bench) -> None:
    bench.run(STRUCTURES_RECORDS)
    bench.make_slabs = lambda work: Product([slab("a")], [Audit("is_fine", False, is_warning=True)])
    result = bench.run(STRUCTURES_SLABS)
    assert result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "is_fine"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_missing_input_says_what_to_materialise(bench: Bench) -> None:
    message = bench.failure(STRUCTURES_SLABS)
    assert "structures/slabs[prototypes]" in message
    assert "materialise" in message
    assert "structures/records" in message


def test_key_that_is_not_a_dep_cannot_be_read(bench: Bench) -> None:
    bench.make_records = lambda work: Product(work.scan(STRUCTURES_SLABS, PARTITION).collect())
    assert "not among its deps" in bench.failure(STRUCTURES_RECORDS)


@pytest.mark.parametrize("error", [ValueError("bad cell"), KeyError("unknown"), FileNotFoundError(2, "no", "x.zip")])
def test_bad_input_is_permanent(bench: Bench, error: Exception) -> None:
    def fail(work: object) -> Product:
        raise error

    bench.make_records = fail
    assert STRUCTURES_RECORDS in bench.failure(STRUCTURES_RECORDS)


def test_transient_error_is_retried_and_then_succeeds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def flaky(work: object) -> Product:
        attempts.append(1)
        if len(attempts) < 2:
            raise ConnectionResetError("reset by peer")
        return Product([record("a")])

    monkeypatch.setattr("atomvision_assets.failures.FIRST_DELAY_S", 0.01)
    bench.make_records = flaky
    assert bench.run(STRUCTURES_RECORDS).success
    assert len(attempts) == 2


def test_transient_error_that_stays_fails_after_three_attempts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def broken(work: object) -> Product:
        attempts.append(1)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr("atomvision_assets.failures.FIRST_DELAY_S", 0.01)
    bench.make_records = broken
    assert not bench.run(STRUCTURES_RECORDS).success
    assert len(attempts) == 3


def test_programming_error_fails_at_once(bench: Bench) -> None:
    attempts = []

    def wrong(work: Any) -> Product:
        attempts.append(1)
        return work.no_such_method()

    bench.make_records = wrong
    assert not bench.run(STRUCTURES_RECORDS).success
    assert len(attempts) == 1


def test_run_that_was_ended_meanwhile_publishes_nothing(bench: Bench) -> None:
    bench.run(STRUCTURES_RECORDS)
    before = bench.lake.facts(STRUCTURES_RECORDS, PARTITION)

    def orphaned(work: Any) -> Product:
        assert work.may_publish()
        bench.instance.report_run_failed(bench.instance.get_run_by_id(work.context.run.run_id))
        return Product([record("b")])

    bench.make_records = orphaned
    bench.run(STRUCTURES_RECORDS)
    assert bench.lake.facts(STRUCTURES_RECORDS, PARTITION) == before


def test_unchanged_inputs_are_not_computed_again_when_the_run_says_so(bench: Bench) -> None:
    skip = {SKIP_UNCHANGED_TAG: "true"}
    bench.run(STRUCTURES_RECORDS)
    first = bench.run(STRUCTURES_SLABS, skip)
    again = bench.run(STRUCTURES_SLABS, skip)
    assert (first.success, again.success, bench.calls) == (True, True, 1)
    (event,) = again.asset_materializations_for_node("structures__slabs")
    assert event.metadata["is_unchanged"].value is True
    assert event.tags["dagster/data_version"] == bench.lake.facts(STRUCTURES_SLABS, PARTITION).data_version
    assert {check.check_name for check in again.get_asset_check_evaluations()} == {"contract_is_kept", "is_fine"}
    bench.run(STRUCTURES_SLABS)
    assert bench.calls == 2, "a click in the UI computes anew"


def test_a_run_of_a_backfill_has_a_range_of_one_partition(bench: Bench) -> None:
    """So does the automation ask for several partitions at once."""
    bench.run(STRUCTURES_RECORDS)
    ends = {f"dagster/asset_partition_range_{end}": PARTITION for end in ("start", "end")}
    for tags, n_calls in ((ends, 1), ({SKIP_UNCHANGED_TAG: "true", **ends}, 1)):
        result = bench.run(STRUCTURES_SLABS, tags, partition=None)
        assert result.success
        assert bench.calls == n_calls
        (event,) = result.asset_materializations_for_node("structures__slabs")
        assert event.partition == PARTITION
        assert event.tags["dagster/data_version"] == bench.lake.facts(STRUCTURES_SLABS, PARTITION).data_version
        assert {check.passed for check in result.get_asset_check_evaluations()} == {True}


@pytest.mark.parametrize("change", ["inputs", "parameters"])
def test_changed_inputs_or_parameters_are_computed_again(bench: Bench, change: str) -> None:
    skip = {SKIP_UNCHANGED_TAG: "true"}
    bench.run(STRUCTURES_RECORDS)
    bench.run(STRUCTURES_SLABS, skip)
    if change == "inputs":
        bench.make_records = lambda work: Product([record("a"), record("b")])
        bench.run(STRUCTURES_RECORDS)
    else:
        bench.parameters = {"seed": 2}
    bench.run(STRUCTURES_SLABS, skip)
    assert bench.calls == 2


def test_what_an_earlier_version_wrote_with_other_columns_is_computed_again(bench: Bench) -> None:
    skip = {SKIP_UNCHANGED_TAG: "true"}
    bench.run(STRUCTURES_RECORDS)
    bench.run(STRUCTURES_SLABS, skip)
    facts = bench.lake.facts(STRUCTURES_SLABS, PARTITION)
    rows = bench.lake.scan(STRUCTURES_SLABS, PARTITION).collect().to_arrow()
    head = bench.lake.heads(STRUCTURES_SLABS, PARTITION)[0]
    pq.write_table(facts.stamp(rows.drop_columns(["reason"])), head)
    assert bench.run(STRUCTURES_SLABS, skip).success
    assert bench.calls == 2
    assert bench.lake.facts(STRUCTURES_SLABS, PARTITION) == facts, "what reads it is not computed again"


def test_value_that_the_instance_does_not_know_is_computed_again(bench: Bench) -> None:
    bench.run(STRUCTURES_RECORDS)
    facts = bench.lake.facts(STRUCTURES_RECORDS, PARTITION)
    version = Version(code_version="1", inputs={f"{STRUCTURES_RECORDS}/{PARTITION}": facts.data_version})
    from atomvision_ml.schemas.tables import table

    rows = table(STRUCTURES_SLABS).from_rows([slab("a")])
    bench.lake.publish(STRUCTURES_SLABS, rows, version=version, partition=PARTITION)
    bench.run(STRUCTURES_SLABS, {SKIP_UNCHANGED_TAG: "true"})
    assert bench.calls == 1


def test_interrupted_work_finds_its_scratch_again_and_a_finished_one_leaves_none(bench: Bench) -> None:
    seen = []

    def interrupted(work: Any) -> Product:
        folder = work.scratch()
        seen.append((folder, sorted(path.name for path in folder.iterdir())))
        (folder / "half").write_text("x")
        if len(seen) == 1:
            raise ValueError("stop")
        return Product([record("a")])

    bench.make_records = interrupted
    bench.run(STRUCTURES_RECORDS)
    assert bench.run(STRUCTURES_RECORDS).success
    assert seen[0][0] == seen[1][0]
    assert seen[1][1] == ["half"]
    assert not seen[0][0].exists()


def test_two_works_on_the_same_do_not_share_scratch(bench: Bench) -> None:
    folders = []
    inside, leave = threading.Event(), threading.Event()

    def slow(work: Any) -> Product:
        folders.append(work.scratch())
        if len(folders) == 1:
            inside.set()
            assert leave.wait(60)
        return Product([record("a")])

    bench.make_records = slow
    other = threading.Thread(target=lambda: bench.run(STRUCTURES_RECORDS))
    other.start()
    assert inside.wait(60)
    bench.run(STRUCTURES_RECORDS)
    leave.set()
    other.join(60)
    assert len(set(folders)) == 2


def test_preview_is_shown_and_an_oversized_one_left_out(bench: Bench) -> None:
    for size, shown in ((1_000, "data:image/png;base64,"), (200_000, "left out")):
        bench.make_records = lambda work, size=size: Product([record("a")], preview_png=b"x" * size)
        result = bench.run(STRUCTURES_RECORDS)
        (event,) = result.asset_materializations_for_node("structures__records")
        assert shown in str(event.metadata["preview"].value)
