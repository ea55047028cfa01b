"""Files of strangers, read in a process of their own.

Belongs here: what is asked of a :class:`~atomvision_ml.workers.Worker`, and what its answer means. It gets a path and
answers with JSON; pixels come as ``.npy`` files in a folder that the caller names. A file that crashes, hangs or fills
the worker becomes a :class:`RejectedError` with its reason, and the next file finds a fresh worker.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from atomvision_ml.experiments.ledger import NOT_PLAIN
from atomvision_ml.experiments.reading import Axis, Format, Picture, ReadLimits, UnreadableError
from atomvision_ml.workers import Worker, WorkerError, WorkerLimits

RejectionCode = Literal["not_a_file", "unreadable", "damaged", "too_slow", "too_much_memory", "crashed", "changed"]

_LONGEST_REASON = 300
_ANSWER = f"{__name__}:answer"
_REASONS = {"damaged": "damaged, or written in a way not known here ({})"}


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
        self.worker = Worker(
            _ANSWER,
            WorkerLimits(
                memory_bytes=self.limits.memory_bytes,
                file_bytes=self.limits.maximum_total_bytes + 2**20,
                time_s=self.limits.time_s,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
        try:
            told = self.worker.ask({"path": str(path), "folder": str(folder), "limits": self.limits.model_dump()})
        except WorkerError as error:
            reason = _REASONS.get(error.code, "{}").format(error.reason)
            raise RejectedError(error.code, _clean(reason, path)) from error
        check_unchanged(path, before)
        if "rejected" in told:
            raise RejectedError("unreadable", _clean(told["rejected"], path))
        return _reading(told | {"skipped": [_clean(reason, path) for reason in told["skipped"]]}, Path(folder))

    def close(self) -> None:
        """End the worker."""
        self.worker.close()


def identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of change (ns) of a plain file.

    Raises:
        RejectedError: missing, a link, a folder or a device.
    """
    try:
        status = path.lstat()
    except (OSError, ValueError) as error:
        raise RejectedError("not_a_file", "there is no such file") from error
    if kind := special_kind(status.st_mode):
        raise RejectedError("not_a_file", f"{NOT_PLAIN}{kind}")
    return status.st_ino, status.st_size, status.st_mtime_ns


def special_kind(mode: int) -> str:
    """What something of this ``st_mode`` is if it is no plain file; empty if it is one."""
    kinds = {
        stat.S_IFREG: "",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "of a kind that is not known")


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


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """In the worker: read a file, leave its pixels in the folder of the request, and tell the rest."""
    from atomvision_ml.experiments.content import has_usual_name
    from atomvision_ml.experiments.readers.registry import REGISTRY, read, reader_version

    path, folder = Path(request["path"]), Path(request["folder"])
    limits = ReadLimits.model_validate(request["limits"])
    try:
        kind, reading = read(path, limits)
        pictures = [_stored(picture, folder / f"{index}.npy") for index, picture in enumerate(reading.pictures)]
    except UnreadableError as error:
        return {"rejected": str(error)}
    return {
        "format": kind,
        "reader": REGISTRY[kind].module,
        "reader_version": reader_version(kind),
        "pictures": [_bounded(told, limits) for told in pictures],
        "skipped": list(reading.skipped),
        "has_usual_name": has_usual_name(path, kind),
    }


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
