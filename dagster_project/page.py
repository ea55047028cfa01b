"""What the person at the terminal sees: a line for each step, progress, and the last page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from atomvision_ml.evaluation.literature import HEADLINES
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.schemas.vocabulary import MODELS
from atomvision_ml.storage.keys import EVALUATION_GALLERY, LITERATURE_GALLERY
from dagster_project.crew import PROGRESS_LOGGER
from dagster_project.steps import Outcome, State, Step

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

LINE_EVERY_S = 20.0
"""How often progress is said where there is no terminal whose status line could show it."""


class Page:
    """What the person at the terminal sees."""

    def __init__(self, console: Console):
        self.console = console
        self._said_at = time.monotonic()

    @contextmanager
    def running(self, steps: Sequence[Step]) -> Iterator[Callable[[Step, str], None]]:
        """Show that steps run, and the progress that their work reports.

        Yields:
            A function that shows a message of a step that runs in another process.
        """
        names = [step.name for step in steps]
        with self.console.status(Text(" · ".join(names))) as status:

            def say(step: Step, message: str) -> None:
                if self.console.is_terminal:
                    status.update(Text(" · ".join(message if step.name == name else name for name in names)))
                elif time.monotonic() - self._said_at >= LINE_EVERY_S:
                    self._said_at = time.monotonic()
                    self.console.print(f"  {message}", soft_wrap=True, markup=False)

            with _listening(lambda message: say(steps[0], message)):
                yield say

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
            for model, verdict, reason, n_images in connection.execute(_RETRAINED).fetchall():
                line = f"Retrained on {n_images} micrographs: {model} {verdict}. {reason}"
                self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        for name, key in (("Pictures", EVALUATION_GALLERY), ("Mined figures", LITERATURE_GALLERY)):
            for path in _pages(lake, key):
                self.console.print(f"{name}: {path}", soft_wrap=True, markup=False)
        self.console.print(_NEXT, soft_wrap=True, highlight=False)

    def summary(self, outcomes: dict[Step, Outcome], seconds: float) -> None:
        """How many steps ended how."""
        counts = {state: sum(outcome.state is state for outcome in outcomes.values()) for state in State}
        words = ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count)
        self.console.print(f"{words} in {seconds:.0f} s")


@contextmanager
def _listening(show: Callable[[str], None]) -> Iterator[None]:
    """Within the block, progress of work in this process is shown."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: show(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(PROGRESS_LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


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


_RETRAINED = """
    SELECT model_id, verdict, reason, len(trained_on) FROM models.verdicts
    WHERE len(trained_on) > 0 ORDER BY number DESC LIMIT 1"""
"""What the labelled micrographs of the inbox led to."""


_NEXT = """
Next:
  make ui                              the asset graph at http://127.0.0.1:3000
  .venv/bin/atomvision sql "SELECT bravais_lattice, count(*) FROM structures.slabs GROUP BY ALL"
  .venv/bin/atomvision predict lattice IMAGE --pixel-size-angstrom 0.1 --json"""


def _leaderboard(rows: list[tuple[Any, ...]]) -> Table:
    """One block for each deciding metric: rows of a metric follow each other."""
    title = "Results on the frozen hold-out; all figures are in evaluation.leaderboard"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("metric, models", no_wrap=True)
    for name in ("value", "95 % interval", "baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for (where, metric), models in groupby(rows, key=lambda row: row[1:3]):
        table.add_row(Text(f"{metric} ({where})", style="bold"))
        for model, _, _, value, low, high, baseline in models:
            interval = f"{low:.3f}–{high:.3f}" if low is not None and high is not None else ""
            table.add_row(f"  {model}", f"{value:.3f}", interval, f"{baseline:.3f}")
    return table


def _pages(lake: Lake, key: str) -> list[str]:
    if not lake.exists(key):
        return []
    blobs = lake.scan(key).select("blob").unique().collect()["blob"]
    return [str(lake.blob(blob) / "index.html") for blob in blobs]
