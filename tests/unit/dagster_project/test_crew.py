"""Steps side by side: the order along the graph, a process that is lost, and nobody left behind."""

from __future__ import annotations

import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from atomvision_assets.declare import asset_key_of
from atomvision_assets.store import Store
from atomvision_ml.schemas.vocabulary import TASKS
from atomvision_ml.settings import Settings, cores
from dagster_project.crew import PROGRESS_LOGGER, Crew, LostError
from dagster_project.definitions import build_definitions
from dagster_project.order import one_by_one, side_by_side
from dagster_project.page import Page
from dagster_project.runner import Runner
from dagster_project.steps import RETRAINING, Outcome, Size, State, Step, plan


def square() -> Callable[[int], tuple[int, int, int]]:
    """What a process of the crew does in these tests."""

    def run(number: int) -> tuple[int, int, int]:
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        logging.getLogger(PROGRESS_LOGGER).info("at %d", number)
        return number**2, os.getpid(), cores()

    return run


def test_processes_answer_say_how_far_they_are_and_have_their_share_of_cores() -> None:
    said: list[tuple[int, str]] = []
    with Crew[int, tuple[int, int, int]](square, 2, threads=1) as crew:
        assert crew.is_free
        crew.start(2)
        crew.start(3)
        assert not crew.is_free
        ended = dict(crew.wait(lambda number, text: said.append((number, text))) for _ in range(2))
        pids = {answer[1] for answer in ended.values() if not isinstance(answer, LostError)}
    assert {number: answer[0] for number, answer in ended.items() if not isinstance(answer, LostError)} == {2: 4, 3: 9}
    assert {answer[2] for answer in ended.values() if not isinstance(answer, LostError)} == {1}
    assert sorted(said) == [(2, "at 2"), (3, "at 3")]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_is_killed_loses_its_item_only() -> None:
    with Crew[int, tuple[int, int, int]](square, 1, threads=1) as crew:
        crew.start(-1)
        item, answer = crew.wait(lambda *given: None)
        assert item == -1
        assert isinstance(answer, LostError)
        assert "-9" in str(answer)
        crew.start(4)
        item, answer = crew.wait(lambda *given: None)
        assert not isinstance(answer, LostError)
        assert (item, answer[0]) == (4, 16)


class FakeCrew:
    """Two hands that end in the reverse order of their beginning; it notes what was done at the same time."""

    def __init__(self, failing: str = ""):
        self.running: list[Step] = []
        self.begun: list[Step] = []
        self.ended: list[Step] = []
        self.together: set[frozenset[str]] = set()
        self._failing = failing

    @property
    def is_free(self) -> bool:
        return len(self.running) < 2

    def start(self, step: Step) -> None:
        self.running.append(step)
        self.begun.append(step)
        self.together.add(frozenset(one.name for one in self.running))

    def wait(self, say: Callable[[Step, str], None]) -> tuple[Step, Outcome | LostError]:
        step = self.running.pop()
        self.ended.append(step)
        if step.name == self._failing:
            return step, LostError("gone")
        return step, Outcome(State.DONE, 1.0, 1)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    definitions = build_definitions(Settings(root="unused"), Store(root=str(tmp_path / "root")))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runner(definitions, instance, Size.demo)


def run_side_by_side(runner: Runner, crew: FakeCrew, months: list[str]) -> None:
    def steps(finish: Callable[[dg.AssetKey], None]) -> Iterator[Step]:
        def found() -> list[str]:
            finish(asset_key_of("literature/harvest"))
            assert asset_key_of("literature/harvest") in {step.key for step in crew.ended}
            return months

        return plan(runner.definitions, ("prototypes", "c2db"), found, ["2026-01-05"])

    side_by_side(steps, runner, Page(Console(file=io.StringIO())), crew)  # type: ignore[arg-type]


def test_each_step_begins_after_what_it_reads_has_ended(runner: Runner) -> None:
    crew = FakeCrew()
    run_side_by_side(runner, crew, ["2007-01", "2018-03"])
    graph = runner.definitions.resolve_asset_graph()
    assert len(set(crew.begun)) == len(runner.outcomes) == len(crew.begun) - len(RETRAINING)
    assert any(len(names) == 2 for names in crew.together)
    for names in crew.together:
        keys = {step.key for step in crew.begun if step.name in names}
        for key in keys:
            read = graph.get(key).parent_keys & (keys - {key})
            parted = [name.rpartition("[")[2] for name in names if "[" in name]
            assert not read or len(set(parted)) == 2, names


def test_the_model_is_retrained_after_its_first_verdict_and_judged_again(runner: Runner) -> None:
    crew = FakeCrew()
    run_side_by_side(runner, crew, [])
    twice = [step.name for step in crew.ended if step in RETRAINING]
    first, second = twice[: len(RETRAINING)], twice[len(RETRAINING) :]
    names = [step.name for step in crew.ended]
    assert second == [step.name for step in RETRAINING]
    assert sorted(first) == sorted(second)
    ingested = names.index("experiments/micrographs[2026-01-05]")
    assert ingested < names.index("evaluation/metrics")
    assert all(names.index(f"models/training_sets[{task}]") < ingested for task in TASKS)


def test_a_lost_process_fails_its_step_and_blocks_what_needs_it(runner: Runner) -> None:
    crew = FakeCrew(failing="models/segmenter")
    run_side_by_side(runner, crew, [])
    states = {step.name: outcome.state for step, outcome in runner.outcomes.items()}
    assert states["models/segmenter"] is State.FAILED
    assert states["predictions/segmenter"] is State.BLOCKED
    assert states["models/lattice_cnn"] is State.DONE
    assert "predictions/segmenter" not in {step.name for step in crew.begun}


def test_one_by_one_asks_for_the_plan_as_it_goes(runner: Runner) -> None:
    seen: list[str] = []

    def steps(finish: Callable[[dg.AssetKey], None]) -> Iterator[Step]:
        finish(asset_key_of("literature/harvest"))
        yield Step("refresh_structures", asset_key_of("structures/slabs"), "c2db")
        seen.extend(step.name for step in runner.outcomes)
        yield Step("refresh_structures", asset_key_of("images/stem"), "c2db")

    one_by_one(steps, runner, Page(Console(file=io.StringIO())))
    assert seen == ["structures/slabs[c2db]"]
    assert [outcome.state for outcome in runner.outcomes.values()] == [State.FAILED, State.BLOCKED]
