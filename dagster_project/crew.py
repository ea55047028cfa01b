"""Processes that run steps side by side, each with its own definitions and its own threads.

Belongs here: starting, asking, stopping and replacing the processes. What a step is and what it needs is in
:mod:`dagster_project.run`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from atomvision_ml.workers import end_with_parent

S = TypeVar("S")
"""What is run."""
R = TypeVar("R")
"""What comes of it."""

PROGRESS_LOGGER = "atomvision_assets.store"
"""Work of any asset says here how far it is."""
STOP_S = 5.0
"""Time that a process has for leaving its step when it is interrupted, before it is asked again."""
TIMES_ASKED = 6
"""After that it is killed. Python drops an interrupt that comes while it tidies up an object, so one is not enough."""


class LostError(Exception):
    """A process ended while it ran an item."""


@dataclass
class _Member(Generic[S]):
    """One process and what it is at."""

    process: SpawnProcess
    connection: Connection
    item: S | None = None


class Crew(Generic[S, R]):
    """A fixed number of processes; a context manager that leaves none behind."""

    def __init__(self, make: Callable[[], Callable[[S], R]], size: int, threads: int):
        """Start the processes.

        Args:
            make: called once in each process, gives the function that runs an item there; must be picklable.
            size: number of processes.
            threads: for numerical work in each.
        """
        self._context = multiprocessing.get_context("spawn")
        self._make, self._threads = make, str(threads)
        self._members: list[_Member[S]] = [self._hire() for _ in range(size)]

    def _hire(self) -> _Member[S]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make))
        with _environment(ATOMVISION_THREADS=self._threads, OMP_NUM_THREADS=self._threads):
            process.start()
        theirs.close()
        return _Member(process, ours)

    @property
    def running(self) -> list[S]:
        """The items that are being run."""
        return [member.item for member in self._members if member.item is not None]

    @property
    def is_free(self) -> bool:
        """Whether a process is idle."""
        return len(self.running) < len(self._members)

    def start(self, item: S) -> None:
        """Give an item to an idle process."""
        member = next(member for member in self._members if member.item is None)
        member.item = item
        member.connection.send(item)

    def wait(self, say: Callable[[S, str], None]) -> tuple[S, R | LostError]:
        """The next item that ends, and what came of it.

        Args:
            say: called with each message of progress.

        Raises:
            KeyboardInterrupt: a person stopped it.
        """
        while True:
            busy = {member.connection: member for member in self._members if member.item is not None}
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                member = busy[connection]
                item = member.item
                assert item is not None
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionResetError):
                    return item, self._replace(member)
                if kind == "progress":
                    say(item, content)
                    continue
                member.item = None
                if kind == "interrupted":
                    raise KeyboardInterrupt
                return item, content

    def _replace(self, member: _Member[S]) -> LostError:
        member.process.join()
        code = member.process.exitcode
        self._members[self._members.index(member)] = self._hire()
        return LostError(f"its process ended with code {code}: -9 means that the machine's memory was full, or a kill")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        busy = [member for member in self._members if member.item is not None]
        for member in self._members:
            member.connection.close()
        for _ in range(TIMES_ASKED):
            for member in busy:
                _interrupt(member.process)
            ends_s = time.monotonic() + STOP_S
            for member in self._members:
                member.process.join(max(0.0, ends_s - time.monotonic()))
            busy = [member for member in busy if member.process.is_alive()]
            if not busy:
                break
        for member in self._members:
            member.process.kill()
            member.process.join()


def _interrupt(process: SpawnProcess) -> None:
    if process.is_alive() and process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """What a process that is started within the block finds in its environment besides."""
    former = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


class _Sender(logging.Handler):
    """Sends messages of progress to the parent."""

    def __init__(self, connection: Connection):
        super().__init__(logging.INFO)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        with suppress(OSError):  # the parent has stopped listening and is about to interrupt this process
            self._connection.send(("progress", record.getMessage()))


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """The life of a process: items come, results go, until the parent closes the connection or is gone."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the parent alone, which interrupts whoever is at work, once
    end_with_parent()
    try:
        worker = make()
        logger = logging.getLogger(PROGRESS_LOGGER)
        logger.addHandler(_Sender(connection))
        logger.setLevel(logging.INFO)
        while True:
            item = connection.recv()
            connection.send(("done", worker(item)))
    except EOFError:
        return
    except (KeyboardInterrupt, BrokenPipeError):
        with suppress(OSError):
            connection.send(("interrupted", None))
