"""Which step is run when: one after the other, or side by side by the processes of a crew.

Belongs here: the order alone. Both ways keep the order along the graph: a step waits for the steps before it that make
what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import dagster as dg

from dagster_project.crew import Crew, LostError
from dagster_project.page import Page
from dagster_project.runner import Runner
from dagster_project.steps import Outcome, State, Step

Plan = Callable[[Callable[[dg.AssetKey], None]], Iterable[Step]]
"""Steps in order; what it is given ends the steps of an asset, for plans that depend on their results."""


def one_by_one(plan: Plan, runner: Runner, page: Page) -> None:
    """Run the steps in this process.

    Raises:
        KeyboardInterrupt: a person stopped it.
    """
    for step in plan(lambda key: None):
        with page.running([step]):
            outcome = runner.run(step)
        page.outcome(step, outcome)


def side_by_side(plan: Plan, runner: Runner, page: Page, crew: Crew[Step, Outcome]) -> None:
    """Run the steps by a crew.

    Args:
        plan: steps in order.
        runner: keeps the outcomes and says which steps are not run; runs none itself.
        page: what the person sees.
        crew: processes that run a step.

    Raises:
        KeyboardInterrupt: a person stopped it.
    """
    _SideBySide(runner, page, crew).run(plan)


@dataclass
class _SideBySide:
    runner: Runner
    page: Page
    crew: Crew[Step, Outcome]
    waiting: list[Step] = field(default_factory=list)
    """Planned and not begun, in order."""

    def run(self, plan: Plan) -> None:
        for step in plan(self._finish):
            self.waiting.append(step)
            self._begin()
            while not self.crew.is_free:
                self._wait()
        while self.waiting or self.crew.running:
            self._wait()

    def _finish(self, key: dg.AssetKey) -> None:
        while any(step.key == key for step in (*self.waiting, *self.crew.running)):
            self._wait()

    def _wait(self) -> None:
        """One step ends, and whatever can be begun then is begun."""
        with self.page.running(self.crew.running) as say:
            step, outcome = self.crew.wait(say)
        self._ended(step, Outcome(State.FAILED, message=str(outcome)) if isinstance(outcome, LostError) else outcome)
        self._begin()

    def _begin(self) -> None:
        while self.crew.is_free and (step := next(self._ready(), None)) is not None:
            self.waiting.remove(step)
            if (outcome := self.runner.verdict(step)) is not None:
                self._ended(step, outcome)
            else:
                self.crew.start(step)

    def _ready(self) -> Iterator[Step]:
        """Steps that wait for none that is running or planned before them."""
        graph = self.runner.definitions.resolve_asset_graph()
        before = list(self.crew.running)
        for step in self.waiting:
            if not any(_must_follow(graph, other, step) for other in before):
                yield step
            before.append(step)

    def _ended(self, step: Step, outcome: Outcome) -> None:
        self.runner.outcomes[step] = outcome
        self.page.outcome(step, outcome)


def _must_follow(graph: dg.AssetGraph, first: Step, then: Step) -> bool:
    """Whether ``then`` reads what ``first`` makes, or makes anew what ``first`` makes or reads."""
    first_node, then_node = graph.get(first.key), graph.get(then.key)
    is_near = first.key in {*then_node.parent_keys, then.key} or then.key in first_node.parent_keys
    is_one_dimension = first_node.partitions_def == then_node.partitions_def
    return is_near and (not is_one_dimension or first.partition == then.partition)
