"""The real daemon with its code server and runs, on a fresh home and root; everything it starts can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

import dagster_project
from atomvision_assets.processes import PROCESS_TAG
from atomvision_ml.experiments.ledger_store import LedgerStore, Receipt
from atomvision_ml.storage.lake import Lake

ROOT_FOLDER = Path(__file__).parents[2]
DEPLOY = Path(dagster_project.__file__).parent / "deploy"


@dataclass
class Platform:
    """A home, a root, an inbox, and the daemon that watches it."""

    folder: Path
    settings: dict[str, str]
    workspace: Path = ROOT_FOLDER / "workspace.yaml"
    process: subprocess.Popen[bytes] | None = None
    _groups: list[int] = field(default_factory=list)
    _kills: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for made in (self.home, self.drop):
            made.mkdir(parents=True)
        shutil.copy(DEPLOY / "dagster.yaml", self.home)
        with self.instance() as instance:  # its databases are made by one process
            assert instance.all_instigator_state() == []

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def drop(self) -> Path:
        return self.root / "inbox" / "files"

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    @property
    def store(self) -> LedgerStore:
        return LedgerStore(self.root / "inbox" / "ledger.sqlite")

    def start(self) -> None:
        """Start the daemon in a process group of its own."""
        environment = os.environ | {
            "DAGSTER_HOME": str(self.home), "ATOMVISION_ROOT": str(self.root), "ATOMVISION_AUTOMATION": "RUNNING",
            "ATOMVISION_INBOX_REST_S": "1", "ATOMVISION_SENSOR_INTERVAL_S": "5", "DAGSTER_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **self.settings,
        }  # fmt: skip
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self.workspace)],
                cwd=ROOT_FOLDER, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._groups.append(self.process.pid)

    def kill_daemon(self) -> None:
        """SIGKILL the daemon alone: its code server and the runs live on for a while."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._kills.append(time.time())

    def stop(self) -> None:
        """End everything that was ever started."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def said(self) -> str:
        """What the daemon and the runs wrote last."""
        return (self.folder / "daemon.log").read_text(errors="replace")[-6000:]

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def runs(self, *jobs: str) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return [run for run in instance.get_runs() if not jobs or run.job_name in jobs]

    def run_processes(self) -> list[int]:
        """Processes of runs that are going on."""
        started = [run for run in self.runs() if run.status == dg.DagsterRunStatus.STARTED]
        return [int(run.tags[PROCESS_TAG].rpartition(":")[2]) for run in started if PROCESS_TAG in run.tags]

    def receipts(self) -> list[Receipt]:
        return [receipt for day in self.store.days() for receipt in self.store.rows(day)]

    def tick_seconds(self, sensor: str) -> list[float]:
        """How long each tick of a sensor took, its runs' submission included.

        One in which the daemon was killed is left out: the next daemon ends it, and its time spans that start.
        """
        with self.instance() as instance:
            (state,) = [one for one in instance.all_instigator_state() if one.instigator_name == sensor]
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            errors = {tick.error.cls_name for tick in ticks if tick.error is not None}
            assert errors <= {"DagsterUserCodeUnreachableError"}  # a code server ends with its daemon
            spans = [(tick.timestamp, tick.end_timestamp) for tick in ticks if tick.end_timestamp is not None]
            return [end - start for start, end in spans if not any(start < kill < end for kill in self._kills)]

    def wait_until(self, is_so: Callable[[], bool], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not is_so():
            assert time.monotonic() < deadline, f"not {what} in {limit_s:g} s: {self.said()}"
            time.sleep(0.3)


@contextmanager
def watching(folder: Path, **settings: str) -> Iterator[Platform]:
    """A platform whose daemon runs; the settings are variables of the environment."""
    platform = Platform(folder, settings)
    try:
        platform.start()
        yield platform
    finally:
        platform.stop()


def children_of(process: int) -> list[int]:
    """Child processes, from /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process:
                found.append(int(status.parent.name))
    return found
