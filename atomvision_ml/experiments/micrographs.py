"""From accepted records to stored micrographs: the original bytes read again, the pixels kept without loss."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from atomvision_ml.experiments.capture import pixel_sha256
from atomvision_ml.experiments.micrograph_store import read_image, write_micrograph
from atomvision_ml.experiments.worker import FileReader, RejectedError
from atomvision_ml.schemas.tables.experiments import MICROGRAPHS

Row = Mapping[str, Any]
Progress = Callable[[int, int | None], None]

_COLUMNS = [column.name for column in MICROGRAPHS.columns]


@dataclass(frozen=True)
class Stored:
    """What became of the accepted images.

    Attributes:
        rows: of ``experiments/micrographs``, in the order of the records.
        not_stored: why an image could not be read again, by its receipt_id.
    """

    rows: list[dict[str, Any]]
    not_stored: dict[str, str] = field(default_factory=dict)


class MicrographWriter:
    """Writes the micrographs of accepted records; for one thread.

    Args:
        reader: the worker that opens the files.
        open_blob: local folder of a blob.
        keep: takes a folder over and tells its name.
        scratch: folder for unfinished work.
    """

    def __init__(
        self, reader: FileReader, open_blob: Callable[[str], Path], keep: Callable[[Path], str], scratch: Path
    ) -> None:
        self.reader, self.open_blob, self.keep, self.scratch = reader, open_blob, keep, scratch

    def write(self, records: Sequence[Row], former: Iterable[Row] = (), progress: Progress | None = None) -> Stored:
        """Store every accepted image that is not among the former rows.

        Args:
            records: rows of ``experiments/records``.
            former: rows of ``experiments/micrographs`` that this code made; taken over as they are.
            progress: called with (images done, images in all).

        Raises:
            ValueError: an image reads otherwise than when it was received.
        """
        known = {row["receipt_id"]: dict(row) for row in former}
        accepted = [row for row in records if row["state"] == "accepted"]
        new = [row for row in accepted if row["receipt_id"] not in known]
        new.sort(key=lambda row: (row["blob"], row["file"], row["signal_index"]))
        not_stored: dict[str, str] = {}
        done = 0
        for (blob, file), group in groupby(new, key=lambda row: (row["blob"], row["file"])):
            images = list(group)
            try:
                known |= self._of_file(self.open_blob(blob) / file, images)
            except RejectedError as error:
                not_stored |= {row["receipt_id"]: f"{error.code}: {error.reason}" for row in images}
            done += len(images)
            if progress is not None:
                progress(done, len(new))
        return Stored([known[row["receipt_id"]] for row in accepted if row["receipt_id"] in known], not_stored)

    def _of_file(self, path: Path, images: Sequence[Row]) -> dict[str, dict[str, Any]]:
        pixels = self.scratch / "pixels"
        shutil.rmtree(pixels, ignore_errors=True)
        pixels.mkdir(parents=True)
        try:
            pictures = self.reader.read(path, pixels).pictures
            return {row["receipt_id"]: self._of_image(row, pictures[row["signal_index"]].pixels) for row in images}
        finally:
            shutil.rmtree(pixels, ignore_errors=True)

    def _of_image(self, record: Row, pixels: Any) -> dict[str, Any]:
        if pixel_sha256(pixels) != record["pixel_sha256"]:
            raise ValueError(
                f"{record['place']}, image {record['signal_index']}: the pixels are not those that were received; "
                f"was the reader {record['reader']} changed ({record['reader_version']} received it)?"
            )
        from atomvision_ml.experiments.quality import image_quality

        folder = self.scratch / "micrograph"
        shutil.rmtree(folder, ignore_errors=True)
        write_micrograph(folder, pixels, record)
        row = {name: record.get(name) for name in _COLUMNS}
        row["is_calibrated"] = None not in (record["pixel_size_y_nm"], record["pixel_size_x_nm"])
        row |= asdict(image_quality(read_image(folder)))
        return row | {"blob": self.keep(folder)}
