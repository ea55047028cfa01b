"""The whole graph in order, in this process, into the instance of ``DAGSTER_HOME``: `make demo` and `make full`.

Belongs here: order, progress and the last page on the terminal. Each asset is a run of its own, so that a failed
partition stops only what needs it, and Dagster's UI shows afterwards what was done.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
import typer
import yaml
from dagster._core.errors import DagsterHomeNotSetError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atomvision_assets.declare import asset_key_of
from atomvision_assets.literature.arxiv import NO_CONTACT, Arxiv
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Store
from atomvision_ml.evaluation.literature import HEADLINES
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.schemas.vocabulary import MODELS, SOURCES
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import CATALOG_WAREHOUSE, EVALUATION_GALLERY, LITERATURE_GALLERY, LITERATURE_PAPERS
from dagster_project import jobs
from dagster_project.definitions import build_definitions

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

PROCESS_TAG = "atomvision/process"
"""Host and process id of the terminal that a run lives in: how a killed one is recognised afterwards."""
TAKES_WHAT_THERE_IS = asset_key_of(CATALOG_WAREHOUSE)
"""Its views are of what is published, whatever failed."""
INTERRUPTED_EXIT_CODE = 130
DEMO_CONTACT = "demo@example.org"
"""Nobody: the demo asks the double only."""
MESSAGE_LIMIT = 500
LINE_EVERY_S = 20.0
"""How often progress is said where there is no terminal whose status line could show it."""


class Size(StrEnum):
    """How much to do."""

    demo = "demo"
    full = "full"


class State(Enum):
    """What became of a step; the value is its mark and colour."""

    DONE = ("✓", "green")
    UNCHANGED = ("=", "cyan")
    FAILED = ("✗", "red")
    BLOCKED = ("-", "yellow")
    LEFT_OUT = ("·", "dim")


@dataclass(frozen=True)
class Step:
    """One asset of one job, for one partition."""

    job: str
    key: dg.AssetKey
    partition: str | None = None

    @property
    def name(self) -> str:
        """The key with its partition."""
        key = self.key.to_user_string()
        return key if self.partition is None else f"{key}[{self.partition}]"


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    state: State
    seconds: float = 0.0
    n_rows: int | None = None
    message: str = ""


def plan(
    definitions: dg.Definitions, sources: Iterable[str], months: Callable[[], Iterable[str]] = lambda: ()
) -> Iterator[Step]:
    """Every step, in an order in which each finds its inputs: job by job, partition by partition, along the graph.

    Args:
        definitions: the code location.
        sources: the structure databases.
        months: asked, once the harvest has run, for the months of papers that there are.
    """
    ordered = definitions.resolve_asset_graph().toposorted_asset_keys
    for job in jobs.ALL:
        definition = definitions.resolve_job_def(job.name)
        keys = [key for key in ordered if key in definition.asset_layer.executable_asset_keys]
        for partition in _partitions(job, definition, sources, months):
            yield from (Step(job.name, key, partition) for key in keys)


def _partitions(
    job: dg.UnresolvedAssetJobDefinition,
    definition: dg.JobDefinition,
    sources: Iterable[str],
    months: Callable[[], Iterable[str]],
) -> Iterable[str | None]:
    if definition.partitions_def is None:
        return [None]
    if job is jobs.REFRESH_STRUCTURES:
        return sources
    return months() if job is jobs.REFRESH_LITERATURE else definition.partitions_def.get_partition_keys()


class Runner:
    """Runs the plan and keeps what became of each step."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        size: Size,
        *,
        is_forced: bool = False,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        left_out: Mapping[str, str] | None = None,
    ):
        """Nothing runs yet.

        Args:
            definitions: the code location.
            instance: keeps the runs.
            size: reaches the assets that take one.
            is_forced: compute also what is unchanged.
            config: parameters by asset key that differ from the defaults.
            left_out: jobs that are not asked for, with the reason.
        """
        self.definitions = definitions
        self.instance = instance
        self.size = size
        self.config = config or {}
        self.left_out = left_out or {}
        self.outcomes: dict[Step, Outcome] = {}
        self._tags = {PROCESS_TAG: _process()} | ({} if is_forced else {SKIP_UNCHANGED_TAG: "true"})

    def run(self, step: Step) -> Outcome:
        """Run one step, unless something that it needs has failed before."""
        if step.job in self.left_out:
            outcome = Outcome(State.LEFT_OUT, message=self.left_out[step.job])
        elif (blocker := self._blocker(step)) is not None:
            outcome = Outcome(State.BLOCKED, message=f"needs {blocker}")
        else:
            outcome = self._execute(step)
        self.outcomes[step] = outcome
        return outcome

    def _blocker(self, step: Step) -> str | None:
        """A step upstream that failed. A fan-in over partitions goes on while one of them is well."""
        if step.key == TAKES_WHAT_THERE_IS:
            return None
        for key in self.definitions.resolve_asset_graph().get(step.key).parent_keys:
            tried = {other: outcome for other, outcome in self.outcomes.items() if other.key == key}
            same = {other: outcome for other, outcome in tried.items() if other.partition == step.partition}
            relevant = same or tried
            if relevant and all(outcome.state in (State.FAILED, State.BLOCKED) for outcome in relevant.values()):
                return next(iter(relevant)).name
        return None

    def _execute(self, step: Step) -> Outcome:
        job = self.definitions.resolve_job_def(step.job)
        started = time.monotonic()
        result = job.execute_in_process(
            partition_key=step.partition,
            asset_selection=[step.key],
            instance=self.instance,
            raise_on_error=False,
            tags=self._tags,
            run_config=self._run_config(job, step),
        )
        seconds = time.monotonic() - started
        if not result.success:
            if _was_interrupted(result):
                raise KeyboardInterrupt
            return Outcome(State.FAILED, seconds, message=_failure(result))
        (event,) = result.asset_materializations_for_node("__".join(step.key.path))
        state = State.UNCHANGED if "is_unchanged" in event.metadata else State.DONE
        return Outcome(state, seconds, n_rows=int(str(event.metadata["dagster/row_count"].value)))

    def _run_config(self, job: dg.JobDefinition, step: Step) -> dict[str, Any]:
        node = "__".join(step.key.path)
        chosen = dict(self.config.get(step.key.to_user_string(), {}))
        if "size" in _config_fields(job, node):
            chosen["size"] = self.size.value
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return {**quiet, "ops": {node: {"config": chosen}}} if chosen else quiet


def _config_fields(job: dg.JobDefinition, node: str) -> set[str]:
    """Names of the parameters that an asset takes."""
    schema = job.get_node_named(node).definition.config_field
    return set(getattr(schema.config_type, "fields", {})) if schema is not None else set()


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """Why it failed, in the words of the failure; the whole of it is in the UI."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return _shortened(data.user_failure_data.description)
            if data.error is not None:
                cause = data.error.cause or data.error
                return _shortened(cause.message)
    return "the run did not start; see the Dagster UI"


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a person stopped it: Dagster takes Ctrl-C for a failure of the step."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return any(failure.error_source is not None and failure.error_source.value == "INTERRUPT" for failure in failures)


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MESSAGE_LIMIT else f"{words[:MESSAGE_LIMIT]} …"


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def end_killed_runs(instance: dg.DagsterInstance) -> int:
    """Mark the runs of terminals of this machine that are gone as failed; how many.

    A killed process cannot say that it ended: its run would stay started for ever, and keep its place in a pool.
    """
    ended = 0
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(filters=unfinished):
        host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not _is_alive(int(process)):
            instance.report_run_failed(run, message="The terminal that this run lived in was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended += 1
    return ended


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Page:
    """What the person at the terminal sees."""

    def __init__(self, console: Console):
        self.console = console

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Show that a step runs, and the progress that its work reports."""
        with self.console.status(step.name) as status:
            handler = _ProgressHandler(self.console, status)
            logger = logging.getLogger("atomvision_assets.store")
            level = logger.level
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            try:
                yield
            finally:
                logger.removeHandler(handler)
                logger.setLevel(level)

    def outcome(self, step: Step, outcome: Outcome) -> None:
        """One line for a step that has ended."""
        mark, colour = outcome.state.value
        line = Text(f"{mark} {step.name:<40}", style=colour)
        if outcome.state in (State.DONE, State.UNCHANGED):
            line.append(f"{outcome.seconds:8.1f} s {outcome.n_rows:>8,} rows", style="default")
        if outcome.state is State.UNCHANGED:
            line.append("  unchanged", style="dim")
        line.append(f"  {outcome.message}", style="default")
        self.console.print(line, soft_wrap=True)

    def results(self, lake: Lake) -> None:
        """The table of results, the gallery and what to do next."""
        from atomvision_ml.catalog.warehouse import snapshot
        from atomvision_ml.evaluation.mined_figures import mined_figures

        with snapshot(lake) as connection:
            if rows := connection.execute(_headlines()).fetchall():
                self.console.print(_leaderboard(rows))
            if (mined := mined_figures(connection)) is not None:
                self.console.print(mined)
        for name, key in (("Pictures", EVALUATION_GALLERY), ("Mined figures", LITERATURE_GALLERY)):
            for path in _pages(lake, key):
                self.console.print(f"{name}: {path}", soft_wrap=True)
        self.console.print(_NEXT, soft_wrap=True, highlight=False)

    def summary(self, outcomes: dict[Step, Outcome], seconds: float) -> None:
        """How many steps ended how."""
        counts = {state: sum(outcome.state is state for outcome in outcomes.values()) for state in State}
        words = ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count)
        self.console.print(f"{words} in {seconds:.0f} s")


class _ProgressHandler(logging.Handler):
    """Shows progress messages: in the status line of a terminal, as lines elsewhere."""

    def __init__(self, console: Console, status: Any):
        super().__init__(logging.INFO)
        self._console, self._status = console, status
        self._said_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message."""
        if self._console.is_terminal:
            self._status.update(record.getMessage())
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            self._console.print(f"  {record.getMessage()}", soft_wrap=True)


def _headlines() -> str:
    """The query for one figure of each model: the one that decides in its task."""
    headlines = {task: protocol.headline for task, protocol in PROTOCOLS.items()} | HEADLINES
    chosen = [(task, *headline) for task, headline in headlines.items()]
    values = ", ".join(
        f"('{task}', '{metric}', '{where}', {number})" for number, (task, metric, where) in enumerate(chosen)
    )
    models = ", ".join(f"'{name}'" for name in MODELS)
    return f"""
        SELECT board.model, board.slice, board.metric, board.value, board.low, board.high, board.baseline
        FROM evaluation.leaderboard AS board
        JOIN (VALUES {values}) AS headline(task, metric, slice, number) USING (task, metric, slice)
        WHERE board.model IN ({models}) OR board.model IN (SELECT model FROM evaluation.metrics WHERE role = 'model')
        ORDER BY headline.number, board.model"""


_NEXT = """
Next:
  make ui                              the asset graph at http://127.0.0.1:3000
  .venv/bin/atomvision sql "SELECT bravais_lattice, count(*) FROM structures.slabs GROUP BY ALL"
  .venv/bin/atomvision predict lattice IMAGE --pixel-size-angstrom 0.1 --json"""


def _leaderboard(rows: list[tuple[Any, ...]]) -> Table:
    title = "Results on the frozen hold-out; all figures are in evaluation.leaderboard"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("model", no_wrap=True)
    for name in ("slice", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("value", "95 % interval", "baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for model, where, metric, value, low, high, baseline in rows:
        interval = f"{low:.3f}–{high:.3f}" if low is not None and high is not None else ""
        table.add_row(model, where, metric, f"{value:.3f}", interval, f"{baseline:.3f}")
    return table


def _pages(lake: Lake, key: str) -> list[str]:
    if not lake.exists(key):
        return []
    blobs = lake.scan(key).select("blob").unique().collect()["blob"]
    return [str(lake.blob(blob) / "index.html") for blob in blobs]


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


def run(size: Size, is_forced: bool, console: Console, config: Mapping[str, Mapping[str, Any]] | None = None) -> int:
    """Run everything; the exit code."""
    with arxiv_of(size) as arxiv:
        left_out = {} if arxiv.contact is not None else {job.name: NO_CONTACT for job in jobs.LITERATURE}
        definitions = build_definitions(settings(), arxiv=arxiv)
        return _run(definitions, size, console, {"is_forced": is_forced, "config": config, "left_out": left_out})


def _run(definitions: dg.Definitions, size: Size, console: Console, options: Mapping[str, Any]) -> int:
    store: Store = (definitions.resources or {})["store"]
    page = Page(console)
    started = time.monotonic()
    try:
        instance = dg.DagsterInstance.get()
    except DagsterHomeNotSetError as error:
        console.print(f"{error}\nSet DAGSTER_HOME to a folder with a dagster.yaml, or use make.", soft_wrap=True)
        return 2
    with instance:
        if ended := end_killed_runs(instance):
            console.print(f"{ended} run(s) of a killed terminal are now marked as failed")
        runner = Runner(definitions, instance, size, **options)
        sources = SOURCES if size is Size.full else ("prototypes",)
        try:
            for step in plan(definitions, sources, lambda: store.lake.partitions(LITERATURE_PAPERS)):
                with page.step(step):
                    outcome = runner.run(step)
                page.outcome(step, outcome)
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            console.print("Stopped. What is published stays; the same command goes on from here.")
            return INTERRUPTED_EXIT_CODE
    page.results(store.lake)
    page.summary(runner.outcomes, time.monotonic() - started)
    return int(any(outcome.state in (State.FAILED, State.BLOCKED) for outcome in runner.outcomes.values()))


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
) -> None:
    """Materialise the whole asset graph, then show results, pictures and what to do next.

    What was published before from the same inputs, parameters and code is left as it is, so a run that was stopped
    goes on where it was. A partition that fails is reported, the others go on, and the exit code is 1.
    """
    raise typer.Exit(run(size, force, Console(), read_config(config)))


if __name__ == "__main__":
    typer.run(main)
