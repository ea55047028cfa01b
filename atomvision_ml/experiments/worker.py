"""Files of strangers, read in a process of their own: reused, limited in time and memory, killed when it must be.

Belongs here: the boundary. The worker gets a path and answers with JSON; pixels come as ``.npy`` files in a folder that
the caller names. Nothing is unpickled on either side. A file that crashes, hangs or fills the worker becomes a
:class:`RejectedError` with its reason, and the next file finds a fresh worker.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import stat
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np

from atomvision_ml.experiments.reading import Axis, Format, Picture, ReadLimits, UnreadableError
from atomvision_ml.workers import end_with_parent

RejectionCode = Literal["not_a_file", "unreadable", "damaged", "too_slow", "too_much_memory", "crashed", "changed"]

# What the libraries raise on damaged files. Anything else ends the worker, and its last words become the reason.
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    SyntaxError,
    ImportError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_FILES_PER_WORKER = 500
_START_S = 120.0
_LONGEST_REASON = 300
_LARGEST_ANSWER_BYTES = 2**28


class RejectedError(ValueError):
    """A file is not taken.

    Attributes:
        code: the kind of reason.
        reason: for whoever uploaded the file; without paths.
    """

    def __init__(self, code: RejectionCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class FileReading:
    """What a file holds, its pixels mapped from the folder that the caller gave.

    Attributes:
        format: by content.
        reader: name of the reader.
        reader_version: with the version of its library.
        pictures: its images.
        skipped: what is no image, with the reason.
        has_usual_name: whether the name ends as files of this format usually do.
    """

    format: Format
    reader: str
    reader_version: str
    pictures: tuple[Picture, ...]
    skipped: tuple[str, ...]
    has_usual_name: bool


class FileReader:
    """Reads files one after the other in a worker process; a context manager, for one thread.

    The worker starts with the first file and ends with the context, with this process, or after 500 files.
    """

    def __init__(self, limits: ReadLimits | None = None) -> None:
        self.limits = limits or ReadLimits()
        self._process: Any = None
        self._connection: Connection | None = None
        self._last_words: IO[bytes] | None = None
        self._n_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Process id of the worker; None while there is none."""
        return None if self._process is None else self._process.pid

    def read(self, path: str | Path, folder: str | Path) -> FileReading:
        """Read a file.

        Args:
            path: a plain file. Its partners (``.emi``, ``.ser``) are looked for beside it.
            folder: an empty folder for the pixels; the arrays of the reading are mapped from it.

        Raises:
            RejectedError: no plain file, not of a known format, damaged, cut, too large, too slow, or changed.
        """
        path = Path(path)
        before = identity(path)
        answer = self._ask({"path": str(path), "folder": str(folder)})
        check_unchanged(path, before)
        if "rejected" in answer:
            raise RejectedError(answer["code"], _clean(answer["rejected"], path))
        return _reading(answer, Path(folder))

    def close(self) -> None:
        """End the worker."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.join(1.0)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
        if self._last_words is not None:
            self._last_words.close()
        self._process = self._connection = self._last_words = None

    def _ask(self, request: Mapping[str, str]) -> dict[str, Any]:
        if self._n_read >= _FILES_PER_WORKER:
            self.close()
        if self._process is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            if not self._connection.poll(self.limits.time_s):
                self._kill()
                raise RejectedError("too_slow", f"reading took longer than {self.limits.time_s:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes(_LARGEST_ANSWER_BYTES))
        except (EOFError, OSError) as error:
            raise RejectedError("crashed", _clean(self._autopsy(), Path(request["path"]))) from error
        self._n_read += 1
        if answer.get("code") == "too_much_memory":
            self.close()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = context.Process(
            target=_serve,
            args=(there, self.limits.model_dump_json(), _LastWords(self._last_words.fileno())),
            daemon=True,
        )
        self._process.start()
        there.close()
        self._connection = here
        self._n_read = 0
        if not here.poll(_START_S):
            self._kill()
            raise RuntimeError(f"the reading worker did not start within {_START_S:g} s")
        here.recv_bytes()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.close()

    def _autopsy(self) -> str:
        """Why the worker is gone, from its exit status and the last line that it wrote."""
        self._process.join()
        code, words = self._process.exitcode, ""
        if code is not None and code < 0:
            self.close()
            return f"the reader was ended by {signal.Signals(-code).name}"
        if self._last_words is not None:
            self._last_words.seek(0)
            lines = self._last_words.read().decode("utf-8", "replace").strip().splitlines()
            words = next((line for line in reversed(lines) if line.strip() and not line.startswith(" ")), "")
        self.close()
        return f"the reader ended with status {code}" + (f": {words}" if words else "")


class _LastWords:
    """A file descriptor that a spawned process inherits."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.reduction import DupFd

        return _inherited, (DupFd(self.descriptor),)


def _inherited(duplicate: Any) -> _LastWords:
    return _LastWords(duplicate.detach())


def identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of change (ns) of a plain file.

    Raises:
        RejectedError: missing, a link, a folder or a device.
    """
    try:
        status = path.lstat()
    except (OSError, ValueError) as error:
        raise RejectedError("not_a_file", "there is no such file") from error
    if not stat.S_ISREG(status.st_mode):
        raise RejectedError("not_a_file", "a link, a folder or a device, not a plain file")
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, before: tuple[int, int, int]) -> None:
    """Refuse a file that is no longer what :func:`identity` had found.

    Raises:
        RejectedError: it was replaced, written to or removed.
    """
    if identity(path) != before:
        raise RejectedError("changed", "the file changed while it was read; upload it again, or wait until it rests")


def _clean(reason: str, path: Path) -> str:
    """One line without the folder's name."""
    text = " ".join(reason.replace(str(path), path.name).replace(str(path.parent), "…").split())
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _reading(answer: Mapping[str, Any], folder: Path) -> FileReading:
    pictures = tuple(_picture(told, folder / f"{index}.npy") for index, told in enumerate(answer["pictures"]))
    return FileReading(
        format=answer["format"],
        reader=answer["reader"],
        reader_version=answer["reader_version"],
        pictures=pictures,
        skipped=tuple(answer["skipped"]),
        has_usual_name=answer["has_usual_name"],
    )


def _picture(told: Mapping[str, Any], path: Path) -> Picture:
    scale, offset, unit = told["intensity"]
    return Picture(
        pixels=np.load(path, mmap_mode="r", allow_pickle=False),
        y=Axis(**told["y"]),
        x=Axis(**told["x"]),
        name=told["name"],
        quantity=told["quantity"],
        intensity=(scale, offset, unit),
        header=told["header"],
        warnings=tuple(told["warnings"]),
    )


def _serve(connection: Connection, limits_json: str, last_words: _LastWords) -> None:
    """The worker's life: answer requests until the other side closes."""
    end_with_parent()
    os.dup2(last_words.descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
    limits = ReadLimits.model_validate_json(limits_json)
    _confine(limits)
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(json.dumps(_answer(request, limits)).encode())


def _confine(limits: ReadLimits) -> None:
    """Limits of the worker: address space beyond what it has now, size of its files, number of open ones, no core."""
    used_pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    address_space = used_pages * resource.getpagesize() + limits.memory_bytes
    wanted = {
        resource.RLIMIT_AS: address_space,
        resource.RLIMIT_FSIZE: limits.maximum_total_bytes + 2**20,
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _answer(request: Mapping[str, str], limits: ReadLimits) -> dict[str, Any]:
    from atomvision_ml.experiments.content import has_usual_name
    from atomvision_ml.experiments.readers.registry import REGISTRY, read, reader_version

    path, folder = Path(request["path"]), Path(request["folder"])
    try:
        kind, reading = read(path, limits)
        pictures = [_stored(picture, folder / f"{index}.npy") for index, picture in enumerate(reading.pictures)]
    except UnreadableError as error:
        return {"code": "unreadable", "rejected": str(error)}
    except MemoryError:
        return {"code": "too_much_memory", "rejected": f"reading needs more than {limits.memory_bytes} bytes of memory"}
    except _DAMAGE as error:
        return {"code": "damaged", "rejected": f"damaged, or written in a way not known here ({_named(error)})"}
    return {
        "format": kind,
        "reader": REGISTRY[kind].module,
        "reader_version": reader_version(kind),
        "pictures": [_bounded(told, limits) for told in pictures],
        "skipped": list(reading.skipped),
        "has_usual_name": has_usual_name(path, kind),
    }


def _named(error: BaseException) -> str:
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _stored(picture: Picture, path: Path) -> dict[str, Any]:
    pixels = np.ascontiguousarray(picture.pixels)
    np.save(path, pixels.astype(pixels.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
    return {
        "y": {"scale": _finite(picture.y.scale), "unit": picture.y.unit},
        "x": {"scale": _finite(picture.x.scale), "unit": picture.x.unit},
        "name": picture.name,
        "quantity": picture.quantity,
        "intensity": list(picture.intensity),
        "header": dict(picture.header),
        "warnings": list(picture.warnings),
    }


def _finite(scale: float | None) -> float | None:
    return float(scale) if scale is not None and np.isfinite(scale) else None


def _bounded(told: dict[str, Any], limits: ReadLimits) -> dict[str, Any]:
    """A header beyond the limit is left out, with a warning: the image is not lost for it."""
    size = len(json.dumps(told["header"]))
    if size <= limits.maximum_header_bytes:
        return told
    return told | {"header": {}, "warnings": [*told["warnings"], f"a header of {size} bytes was left out"]}
