"""The automation condition, tick by tick, on the real condition and a small graph of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count

import dagster as dg
import pytest

from atomvision_assets.automation import when_inputs_change

SOURCES = dg.StaticPartitionsDefinition(["a", "b", "c"])


@cache
def _definitions(code_version: str) -> dg.Definitions:
    @dg.asset(partitions_def=SOURCES)
    def raw() -> None: ...

    @dg.asset(partitions_def=SOURCES, deps=[raw], automation_condition=when_inputs_change())
    def derived() -> None: ...

    @dg.asset(deps=[raw], automation_condition=when_inputs_change("each"), code_version=code_version)
    def gathered() -> None: ...

    @dg.asset(deps=[gathered], automation_condition=when_inputs_change())
    def manifest() -> None: ...

    @dg.asset(deps=[manifest], automation_condition=when_inputs_change())
    def model() -> None:
        raise dg.Failure("broken", allow_retries=False)

    return dg.Definitions(assets=[raw, derived, gathered, manifest, model])


class World:
    """A graph with an instance; versions are set by hand, ticks return what was requested and materialise it."""

    def __init__(self, instance: dg.DagsterInstance):
        self.instance = instance
        self.versions = {"raw": "1", "manifest": "1"}
        self.fresh_versions = count()
        self.broken: set[str] = set()
        self.code_version = "1"
        self.cursor = None

    def definitions(self) -> dg.Definitions:
        return _definitions(self.code_version)

    def land(self, partition: str, version: str) -> None:
        """Publish one partition of the root."""
        self.versions["raw"] = version
        self.materialise("raw", partition)

    def materialise(self, name: str, partition: str | None = None) -> None:
        """Record a materialisation, or for a broken asset a real failed run."""
        if name in self.broken:
            asset = self.definitions().resolve_assets_def(name)
            assert not dg.materialize([asset], instance=self.instance, raise_on_error=False).success
            return
        code_version = self.definitions().resolve_assets_def(name).code_versions_by_key[dg.AssetKey(name)]
        data_version = self.versions.get(name) or f"fresh {next(self.fresh_versions)}"
        tags = {"dagster/data_version": data_version, "dagster/code_version": code_version or ""}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=partition, tags=tags))

    def ask(self) -> set[str]:
        """One tick: what is requested, without running it."""
        result = dg.evaluate_automation_conditions(self.definitions(), instance=self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = set()
        for evaluation in result.results:
            name = evaluation.key.to_user_string()
            keys = result.get_requested_partitions(evaluation.key)
            requested |= {name if key is None else f"{name}:{key}" for key in keys}
        return requested

    def tick(self) -> set[str]:
        """One tick, and what it requests is run at once."""
        requested = self.ask()
        for name in sorted(requested):
            key, _, partition = name.partition(":")
            self.materialise(key, partition or None)
        return requested

    def settle(self) -> list[set[str]]:
        """Tick until nothing is requested."""
        ticks = []
        while requested := self.tick():
            ticks.append(requested)
            assert len(ticks) < 10, ticks
        return ticks


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance)


def test_nothing_runs_before_there_is_an_input(world: World) -> None:
    assert [world.tick() for _ in range(3)] == [set(), set(), set()]


def test_first_of_three_partitions_runs_what_can_run(world: World) -> None:
    world.tick()
    world.land("a", "1")
    assert world.settle() == [{"derived:a", "gathered"}, {"manifest"}, {"model"}]


def test_first_evaluation_over_existing_data_runs_what_is_missing_once(world: World) -> None:
    world.land("a", "1")
    assert world.settle() == [{"derived:a", "gathered"}, {"manifest"}, {"model"}]
    assert world.tick() == set()


def test_partition_that_lands_right_after_the_downstream_ran_is_not_lost(world: World) -> None:
    world.tick()
    world.land("a", "1")
    assert "gathered" in world.tick()
    world.land("b", "1")
    assert world.tick() >= {"derived:b", "gathered"}


def test_version_that_lands_between_request_and_run_is_not_lost(world: World) -> None:
    world.tick()
    world.land("a", "1")
    assert "gathered" in world.ask()
    world.land("a", "2")
    world.materialise("gathered")
    world.materialise("derived", "a")
    assert world.tick() >= {"derived:a", "gathered"}


def test_version_that_lands_while_the_downstream_runs_fires_once_after_it_ended(world: World) -> None:
    world.land("a", "1")
    world.settle()
    job = world.definitions().resolve_implicit_global_asset_job_def()
    running = world.instance.create_run_for_job(job, asset_selection=frozenset([dg.AssetKey("gathered")]))
    _plan(world.instance, running.run_id, "gathered")
    world.land("a", "2")
    assert world.tick() == {"derived:a"}
    assert world.tick() == set()
    world.instance.report_run_failed(world.instance.get_run_by_id(running.run_id))
    assert world.tick() == {"gathered"}
    assert "gathered" not in world.tick()


def _plan(instance: dg.DagsterInstance, run_id: str, asset: str) -> None:
    """Make the run be in progress on that asset, as the executor does at its start."""
    from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventType

    instance.report_dagster_event(
        DagsterEvent(
            DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
            "job",
            event_specific_data=AssetMaterializationPlannedData(dg.AssetKey(asset)),
        ),
        run_id,
    )
    instance.handle_run_event(run_id, DagsterEvent(DagsterEventType.RUN_START.value, "job"))


def test_same_data_version_published_again_runs_nothing(world: World) -> None:
    world.land("a", "1")
    world.settle()
    world.land("a", "1")
    assert world.settle() == []


def test_manifest_that_keeps_its_version_trains_nothing(world: World) -> None:
    world.land("a", "1")
    world.settle()
    world.land("b", "1")
    assert world.settle() == [{"derived:b", "gathered"}, {"manifest"}]


def test_manifest_with_a_new_version_trains_exactly_once(world: World) -> None:
    world.land("a", "1")
    world.settle()
    world.versions["manifest"] = "2"
    world.land("b", "1")
    assert world.settle() == [{"derived:b", "gathered"}, {"manifest"}, {"model"}]


def test_new_code_version_runs_the_asset_and_what_follows(world: World) -> None:
    world.land("a", "1")
    world.settle()
    world.code_version = "2"
    world.versions["manifest"] = "2"
    assert world.settle() == [{"gathered"}, {"manifest"}, {"model"}]


def test_failing_asset_is_not_requested_at_every_tick(world: World) -> None:
    world.broken = {"model"}
    world.land("a", "1")
    assert world.settle()[-1] == {"model"}
    assert [world.tick() for _ in range(4)] == [set()] * 4


def test_failed_asset_is_requested_again_when_its_input_changes(world: World) -> None:
    world.broken = {"model"}
    world.land("a", "1")
    world.settle()
    world.broken = set()
    world.versions["manifest"] = "2"
    world.materialise("manifest")
    assert world.tick() == {"model"}


def test_an_input_that_is_not_needed_triggers_but_is_not_waited_for() -> None:
    @dg.asset
    def images() -> None: ...

    micrographs = dg.AssetSpec("micrographs", partitions_def=SOURCES)

    @dg.asset(
        deps=[images, micrographs],
        automation_condition=when_inputs_change("each", not_needed=["micrographs"]),
    )
    def manifest() -> None: ...

    @dg.asset(deps=[images, micrographs], automation_condition=when_inputs_change(not_needed=["micrographs"]))
    def book() -> None: ...

    definitions = dg.Definitions(assets=[images, micrographs, manifest, book])
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None
        asked = []
        for event in (("images", None), ("micrographs", "b"), None):
            if event is not None:
                tags = {"dagster/data_version": "1"}
                instance.report_runless_asset_event(dg.AssetMaterialization(event[0], partition=event[1], tags=tags))
            result = dg.evaluate_automation_conditions(definitions, instance=instance, cursor=cursor)
            cursor = result.cursor
            asked.append({each.key.to_user_string() for each in result.results if result.get_num_requested(each.key)})
            for name in asked[-1]:
                instance.report_runless_asset_event(dg.AssetMaterialization(name))
    assert asked == [{"manifest", "book"}, {"manifest", "book"}, set()]
