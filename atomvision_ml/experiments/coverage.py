"""What a folder of genuine files yields: read or refused, why, and which fields each format fills.

``python -m atomvision_ml.experiments.coverage FOLDER`` prints the tables of ``docs/experiments.md``.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atomvision_ml.experiments.capture import CaptureRules, capture
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.record import Record, fields_filled_by
from atomvision_ml.experiments.worker import FileReader, RejectedError

EVERY_SIZE = CaptureRules(minimum_edge_px=1)
"""Many genuine test files have 2 to 16 px: what is measured is the reading, not whether an image is of use."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        name: path below the folder; ``archive!member`` for members of archives.
        records: of its images.
        pixels: of each record.
        reason: why it was refused; empty if it was read.
    """

    name: str
    records: tuple[Record, ...] = ()
    pixels: tuple[np.ndarray, ...] = ()
    reason: str = ""


def outcomes(folder: Path, limits: ReadLimits | None = None) -> Iterator[Outcome]:
    """Read every file of a folder, and the members of its archives.

    Args:
        folder: with files of microscopes.
        limits: of a reading.
    """
    with FileReader(limits) as reader:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with _unpacked(path) as members:
                for member in members:
                    name = str(path.relative_to(folder)) + ("" if member == path else f"!{member.name}")
                    yield _outcome(name, member, reader)


def _outcome(name: str, path: Path, reader: FileReader) -> Outcome:
    with tempfile.TemporaryDirectory() as pixels:
        try:
            captured = capture(path, pixels, reader, rules=EVERY_SIZE)
        except RejectedError as error:
            return Outcome(name, reason=error.reason)
        return Outcome(name, captured.records, tuple(np.array(image) for image in captured.pixels))


@contextmanager
def _unpacked(path: Path) -> Iterator[list[Path]]:
    """The file itself, or the members of an archive of known origin, unpacked for the time of the measurement."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        elif path.suffix == ".gz":
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed:
                packed.extractall(folder)
        members = sorted(member for member in folder.rglob("*") if member.is_file())
        yield members or [path]


def table(results: Sequence[Outcome]) -> str:
    """Markdown: images by format and field, and the reasons of the refusals."""
    records: Mapping[str, list[Record]] = defaultdict(list)
    for result in results:
        for record in result.records:
            records[record.source_format].append(record)
    formats = sorted(records)
    lines = [
        f"{len(results)} files: {sum(bool(result.records) for result in results)} read "
        f"({sum(len(result.records) for result in results)} images), "
        f"{sum(bool(result.reason) for result in results)} refused.",
        "",
        f"| field | {' | '.join(f'{name} ({len(records[name])})' for name in formats)} |",
        f"|---|{'---|' * len(formats)}",
    ]
    for field in fields_filled_by("header", "sidecar"):
        counts = [sum(getattr(record, field) is not None for record in records[name]) for name in formats]
        if any(counts):
            lines.append(f"| {field} | {' | '.join(str(count or '') for count in counts)} |")
    return "\n".join([*lines, "", *_reasons(results)])


def _reasons(results: Sequence[Outcome]) -> list[str]:
    kinds = Counter(_kind_of(result.reason) for result in results if result.reason)
    return [
        "| refused because | files |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in kinds.most_common()),
    ]


def _kind_of(reason: str) -> str:
    """The reason without the names in it."""
    first = reason.split("; ")[0]
    head, _, tail = first.partition(": ")
    return tail if tail and not head.startswith(("not of a format", "the header", "<COMPRESSION")) else first


if __name__ == "__main__":
    print(table(list(outcomes(Path(sys.argv[1])))))
