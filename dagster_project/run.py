"""The whole graph in order into the instance of ``DAGSTER_HOME``: `make demo` and `make full`.

Belongs here: the command, and which step is run when. Each step is a run of its own, so that a failed partition stops
only what needs it, and Dagster's UI shows afterwards what was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import typer
import yaml
from dagster._core.errors import DagsterHomeNotSetError
from rich.console import Console

from atomvision_assets.declare import asset_key_of
from atomvision_assets.experiments.inbox import Inbox
from atomvision_assets.gpu import trainings_at_once
from atomvision_assets.literature.arxiv import NO_CONTACT, Arxiv
from atomvision_assets.processes import end_killed_runs
from atomvision_assets.store import Store
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.schemas.vocabulary import SOURCES
from atomvision_ml.settings import cores, settings
from atomvision_ml.storage.keys import LITERATURE_HARVEST, LITERATURE_PAPERS
from atomvision_ml.storage.lake import Lake
from dagster_project import jobs
from dagster_project.crew import Crew
from dagster_project.definitions import build_definitions
from dagster_project.order import one_by_one, side_by_side
from dagster_project.page import Page
from dagster_project.runner import Runner
from dagster_project.steps import Outcome, Size, State, Step, plan

MOST_PROCESSES = 4
"""By default: each takes up to 2 GB."""
INTERRUPTED_EXIT_CODE = 130
DEMO_CONTACT = "demo@example.org"
"""Nobody: the demo asks the double only."""
NO_FILES = "The inbox has no files: nothing to read, and no model is trained again"


@contextmanager
def arxiv_of(size: Size) -> Iterator[Arxiv]:
    """arXiv as the settings name it; for the demo its offline double, on a free port of loopback."""
    if size is Size.full:
        yield Arxiv.of(settings())
        return
    from atomvision_ml.literature.double.server import serve

    with serve() as double:
        yield Arxiv(
            contact=DEMO_CONTACT, oai_url=double.oai_url, api_url=double.api_url, url=double.url, interval_s=0.0
        )


@dataclass(frozen=True)
class Options:
    """What a process needs to run any step; can be sent to one."""

    size: Size
    arxiv: Mapping[str, Any]
    is_forced: bool = False
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def definitions(self) -> dg.Definitions:
        """The code location."""
        return build_definitions(settings(), arxiv=Arxiv(**self.arxiv))

    def runner(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> Runner:
        """A runner under these options."""
        left_out = {} if self.arxiv["contact"] is not None else {job.name: NO_CONTACT for job in jobs.LITERATURE}
        return Runner(definitions, instance, self.size, is_forced=self.is_forced, config=self.config, left_out=left_out)


@dataclass(frozen=True)
class Hand:
    """Makes what a process of the crew holds: definitions and an instance of its own."""

    options: Options

    def __call__(self) -> Callable[[Step], Outcome]:
        """A function that runs a step."""
        return self.options.runner(self.options.definitions(), dg.DagsterInstance.get()).execute


def run(options: Options, processes: int, console: Console) -> int:
    """Run everything; the exit code.

    Args:
        options: what is run.
        processes: that run steps side by side; 1: this process runs them.
        console: of the person.
    """
    definitions = options.definitions()
    store: Store = (definitions.resources or {})["store"]
    inbox: Inbox = (definitions.resources or {})["inbox"]
    page = Page(console)
    started = time.monotonic()
    try:
        instance = dg.DagsterInstance.get()
    except DagsterHomeNotSetError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        console.print("Set DAGSTER_HOME to a folder with a dagster.yaml, or use make.", soft_wrap=True)
        return 2
    with instance, trainings_at_once(instance, settings().device, processes):
        if ended := end_killed_runs(instance):
            console.print(f"{ended} run(s) of a killed terminal are now marked as failed")
        runner = options.runner(definitions, instance)
        days = days_of_inbox(inbox, options.size)
        if not days:
            console.print(NO_FILES)
        try:
            _run(runner, page, store.lake, days, Hand(options), processes)
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            console.print("Stopped. What is published stays; the same command goes on from here.")
            return INTERRUPTED_EXIT_CODE
    page.results(store.lake)
    page.summary(runner.outcomes, time.monotonic() - started)
    return int(any(outcome.state in (State.FAILED, State.BLOCKED) for outcome in runner.outcomes.values()))


def days_of_inbox(inbox: Inbox, size: Size) -> list[str]:
    """Days of the inbox to be published; the demo drops its files first."""
    from atomvision_ml.experiments.double import FOLDER, drop
    from atomvision_ml.experiments.ingest import days_to_take

    if size is Size.demo and not inbox.url.startswith("s3://"):
        drop(Path(inbox.url) / FOLDER)
    return days_to_take(inbox.store, inbox.places, datetime.now(UTC))


def _run(runner: Runner, page: Page, lake: Lake, days: Sequence[str], hand: Hand, processes: int) -> None:
    sources = SOURCES if runner.size is Size.full else ("prototypes",)

    def steps(finish: Callable[[dg.AssetKey], None]) -> Iterator[Step]:
        def months() -> list[str]:
            finish(asset_key_of(LITERATURE_HARVEST))
            return lake.partitions(LITERATURE_PAPERS)

        return plan(runner.definitions, sources, months, days)

    if processes == 1:
        one_by_one(steps, runner, page)
        return
    threads = max(1, cores() // processes)
    with Crew[Step, Outcome](hand, processes, threads) as crew:
        side_by_side(steps, runner, page, crew)


def read_config(path: Path | None) -> dict[str, dict[str, Any]]:
    """Parameters by asset key from a YAML file; none without a file.

    Raises:
        typer.BadParameter: the file is not such a mapping, or names an asset that there is not.
    """
    if path is None:
        return {}
    try:
        chosen = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is no YAML: {error}") from error
    if not isinstance(chosen, dict) or not all(isinstance(values, dict) for values in chosen.values()):
        raise typer.BadParameter(f"{path} must hold parameters by asset key, such as models/segmenter: {{epochs: 8}}")
    if unknown := sorted(set(chosen) - set(TABLES)):
        raise typer.BadParameter(f"{path} names {', '.join(unknown)}, which no asset is called")
    return chosen


def main(
    size: Annotated[Size, typer.Argument(help="demo: the embedded structures; full: all four databases.")],
    force: Annotated[bool, typer.Option("--force", help="Compute also what is unchanged.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML file of parameters by asset key that differ."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Steps that run side by side, each with its share of the cores.")
    ] = min(cores(), MOST_PROCESSES),
) -> None:
    """Materialise the whole asset graph, then show results, pictures and what to do next.

    What was published before from the same inputs, parameters and code is left as it is, so a run that was stopped
    goes on where it was. A partition that fails is reported, the others go on, and the exit code is 1.
    """
    with arxiv_of(size) as arxiv:
        options = Options(size, arxiv.model_dump(), force, read_config(config))
        code = run(options, processes, Console())
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
