"""Worker processes: those of a pool, which end with their parent, and those that touch the files of strangers.

A pool's workers wait for work on a pipe that they hold open themselves: if their parent is killed (`kill -9`, out of
memory), they would wait for ever.

A :class:`Worker` is the boundary to files that may be damaged or mean harm: a Python of its own, reused, limited in
memory, time and the size of what it writes, killed when it must be. Requests and answers are JSON, arrays are ``.npy``
files; nothing that a worker says is unpickled.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    StopIteration,
    EOFError,
    SyntaxError,
    ImportError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What libraries raise on damaged files. Anything else ends a worker, and its last words become the reason."""

_START_S = 120.0
_LARGEST_ANSWER_BYTES = 2**28
_CHILD = "import sys; from atomvision_ml.workers import serve; serve(*sys.argv[1:])"


def end_with_parent() -> None:
    """Initializer of a pool of processes: end this worker as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


class WorkerLimits(BaseModel):
    """What a worker may use; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int = Field(ge=1, description="Address space beyond what it has at its start.")
    file_bytes: int = Field(ge=1, description="Size of a file that it writes.")
    time_s: float = Field(gt=0, description="Wall-clock time for a request.")
    uses: int = Field(default=500, ge=1, description="Requests until it is replaced.")
    open_files: int = Field(default=128, ge=16, description="Files that it has open at a time.")


class WorkerError(RuntimeError):
    """A request has no answer, for a reason that lies in its file.

    Attributes:
        code: the kind of reason.
        reason: in words, without the worker's paths.
    """

    def __init__(self, code: Literal["damaged", "too_slow", "too_much_memory", "crashed"], reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Worker:
    """A process that answers requests one after the other; a context manager, for one thread.

    It starts with the first request and ends with the context, with this process, or after so many uses.

    Args:
        answer: ``module:function`` in the worker, from a request (JSON values) to its answer.
        limits: of each request.
    """

    def __init__(self, answer: str, limits: WorkerLimits) -> None:
        self.limits = limits
        self._answer = answer
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._last_words: IO[bytes] | None = None
        self._n_uses = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Process id; None while there is no process."""
        return None if self._process is None else self._process.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask, and wait for the answer; a worker that was killed from outside is replaced and asked once more.

        Raises:
            WorkerError: the file is damaged, takes too long or too much memory, or has ended the worker.
            RuntimeError: no worker starts.
        """
        try:
            return self._asked(request)
        except ProcessKilledError:
            try:
                return self._asked(request)
            except ProcessKilledError as error:
                raise WorkerError("crashed", str(error)) from error

    def start(self) -> None:
        """Start the process, if there is none."""
        if self._process is not None:
            return
        self._pipe, theirs = multiprocessing.Pipe()
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), self._answer, self.limits.model_dump_json()],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._last_words,
            )
        self._n_uses = 0
        if not self._pipe.poll(_START_S):
            self.close()
            raise RuntimeError(f"the worker did not start within {_START_S:g} s")
        try:
            self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the worker did not start: {self._autopsy()[1]}") from error

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for open_one in (self._pipe, self._last_words):
            if open_one is not None:
                open_one.close()
        self._process = self._pipe = self._last_words = None

    def _asked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._n_uses >= self.limits.uses:
            self.close()
        self.start()
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(self.limits.time_s):
                self.close()
                raise WorkerError("too_slow", f"it took longer than {self.limits.time_s:g} s")
            told: dict[str, Any] = json.loads(self._pipe.recv_bytes(_LARGEST_ANSWER_BYTES))
        except (EOFError, OSError) as error:
            which, reason = self._autopsy()
            raise (ProcessKilledError(reason) if which == signal.SIGKILL else WorkerError("crashed", reason)) from error
        self._n_uses += 1
        if "failed" not in told:
            return dict(told["answer"])
        if told["failed"] == "too_much_memory":
            self.close()
        raise WorkerError(told["failed"], told["reason"])

    def _autopsy(self) -> tuple[int | None, str]:
        """The signal that ended the process, and why it is gone: from its exit status and its last words."""
        assert self._process is not None
        assert self._last_words is not None
        if not self._has_ended():
            self.close()
            return None, "it sent an answer that is too large"
        code = self._process.returncode
        self._last_words.seek(0)
        lines = self._last_words.read().decode("utf-8", "replace").strip().splitlines()
        words = next((line for line in reversed(lines) if line.strip() and not line.startswith(" ")), "")
        self.close()
        if code < 0:
            return -code, f"the reader was ended by {signal.Signals(-code).name}"
        return None, f"the reader ended with status {code}" + (f": {words}" if words else "")

    def _has_ended(self) -> bool:
        assert self._process is not None
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return False
        return True


class ProcessKilledError(RuntimeError):
    """A worker was ended by SIGKILL: by the kernel for want of memory, or by a person."""


def serve(end: str, answer: str, limits_json: str) -> None:
    """A worker's life: answer requests until the other side is gone.

    Args:
        end: file descriptor of this end of the pipe.
        answer: ``module:function``.
        limits_json: a :class:`WorkerLimits`.
    """
    module, _, function = answer.partition(":")
    act = getattr(importlib.import_module(module), function)
    limits = WorkerLimits.model_validate_json(limits_json)
    threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()
    _confine(limits)
    with Connection(int(end)) as pipe:
        pipe.send_bytes(b"ready")
        while True:
            try:
                request = json.loads(pipe.recv_bytes())
            except EOFError:
                return
            pipe.send_bytes(json.dumps(_answered(act, request, limits)).encode())


def _end_without(parent: int) -> None:
    """End this process when its parent is gone, also in the midst of a file."""
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os._exit(1)


def _answered(act: Any, request: Mapping[str, Any], limits: WorkerLimits) -> dict[str, Any]:
    try:
        return {"answer": act(request)}
    except MemoryError:
        reason = f"reading needs more than {limits.memory_bytes} bytes of memory"
        return {"failed": "too_much_memory", "reason": reason}
    except DAMAGE as error:
        told = " ".join(str(error).split())
        return {"failed": "damaged", "reason": f"{type(error).__name__}: {told}" if told else type(error).__name__}


def _confine(limits: WorkerLimits) -> None:
    """Address space beyond what there is now, size of files, number of open ones; no core."""
    import resource

    used_pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    wanted = {
        resource.RLIMIT_AS: used_pages * resource.getpagesize() + limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
