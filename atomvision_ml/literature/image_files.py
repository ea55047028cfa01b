"""From ``literature/figures`` to ``literature/images``: the images of relevant figures, fetched once.

Belongs here: which images are fetched, what a good one is, and how it is kept. The bytes are decoded by
:mod:`.image_decoder`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_ml.literature.addresses import asked_at
from atomvision_ml.literature.archives import ArchiveError, member_bytes
from atomvision_ml.literature.image_decoder import VECTOR, BadImageError, ImageReader
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply, UnusableReplyError
from atomvision_ml.literature.texts import Steady, is_settled, is_web_page
from atomvision_ml.literature.transport import Transport, found_or_missing
from atomvision_ml.storage.files import write_whole

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
Progress = Callable[[int, "int | None"], None]

RASTER = "raster.png"
"""Name of the pixels of vector graphics in their blob."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def image_rows(
    figures: Iterable[Row],
    former: Sequence[Row],
    fetch: Callable[[Row, str], Row],
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The images of a month: those of relevant figures of current versions.

    Args:
        figures: rows of ``literature/figures``.
        former: this table's own rows; what is known is not fetched again, also of versions that are no longer current.
        fetch: gives what is to be known of an image of a figure, see :meth:`ImageFetcher.row`.
        progress: called with (figures done, figures).

    Returns:
        Rows in the order of the figures and of their images; those of older versions first.
    """
    known = {(row["figure_id"], row["url"]): row for row in former if is_settled(row)}
    wanted = [row for row in figures if row["is_relevant"] and row["is_current"]]
    rows: list[Row] = []
    for done, figure in enumerate(wanted, start=1):
        for place, url in enumerate(figure["image_urls"], start=1):
            row = known.pop((figure["figure_id"], url), None) or fetch(figure, url)
            own = {"month": figure["month"], "figure_id": figure["figure_id"], "url": url, "place": place}
            rows.append({**row, **own, "is_redistributable": figure["is_redistributable"]})
        progress(done, len(wanted))
    return [*known.values(), *rows]


class ImageFetcher:
    """Fetches images, from the server or out of an archive that is here already, and keeps them.

    Args:
        transport: the way to the server.
        server: address under which arXiv's pages are asked for.
        reader: decodes them.
        folder: for unfinished work, the same after an interruption: what was fetched is found there again.
        keep: takes over a folder and returns its blob.
        archives: bytes of a source by its address.
    """

    def __init__(
        self,
        transport: Transport,
        server: str,
        reader: ImageReader,
        folder: Path,
        keep: Callable[[Path], str],
        archives: Callable[[str], bytes],
    ) -> None:
        self._transport = transport
        self._server = server
        self._reader = reader
        self._folder = folder
        self._keep = keep
        self._archives = archives

    def row(self, figure: Row, url: str) -> Row:
        """Status, bytes and size of an image; without figure and place.

        Raises:
            OutageError: the server gives no good reply.
            RefusedError: it asks to stop.
        """
        try:
            content = self._bytes(figure, url)
            return self._kept(content, url)
        except (BadImageError, ArchiveError, UnusableReplyError) as error:
            return {"status": "rejected", "reason": str(error)}

    def _bytes(self, figure: Row, url: str) -> bytes:
        archive, _, member = url.partition("#")
        if figure["route"] == "tex":
            return member_bytes(self._archives(archive), member)
        kept = self._folder / hashlib.sha256(url.encode()).hexdigest()
        if not kept.is_file():
            write_whole(kept, self._fetched(url))
        return kept.read_bytes()

    def _fetched(self, url: str) -> bytes:
        """The bytes of an image; damaged ones are asked for again, unless they are the same in every attempt."""
        trial = self._folder / f"trial{_suffix(url)}"

        def check(reply: Reply) -> bytes:
            if found_or_missing(reply) is None:
                raise BadImageError("missing: the page names an image that the server does not have")
            if b"<svg" in reply.body[:2048]:
                raise BadImageError("unsupported: an SVG drawing")
            trial.write_bytes(reply.body)
            if not reply.body.startswith(VECTOR):
                try:
                    self._reader.size(trial)
                except BadImageError as error:
                    raise DamagedReplyError(f"{reply.url}: {error}") from error
            return reply.body

        steady = Steady(check)
        try:
            found: bytes = self._transport.get(asked_at(url, self._server), steady)
        except OutageError as error:
            if steady.body is None or is_web_page(steady.body):
                raise
            raise BadImageError(f"damaged: {error.__cause__}") from error
        return found

    def _kept(self, content: bytes, url: str) -> Row:
        folder = self._folder / "blob"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        original = folder / f"image{_suffix(url)}"
        original.write_bytes(content)
        pixels = original
        if content.startswith(VECTOR):
            pixels = folder / RASTER
            self._reader.drawn(original, pixels)
        width, height = self._reader.size(pixels)
        return {
            "status": "accepted",
            "blob": self._keep(folder),
            "file": pixels.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "width_px": width,
            "height_px": height,
        }


def stored_pixels(image: Row, open_blob: Callable[[str], Path], reader: ImageReader) -> np.ndarray | None:
    """Pixels of an accepted row of ``literature/images``, uint8 [y, x, 3]; None if they cannot be read any more."""
    try:
        return reader.pixels(open_blob(image["blob"]) / image["file"])
    except BadImageError:
        return None


def _suffix(url: str) -> str:
    """The ending of a file's name, harmless: ``.png``."""
    return _UNSAFE.sub("", Path(url.rpartition("/")[2]).suffix.lower())[:8]
