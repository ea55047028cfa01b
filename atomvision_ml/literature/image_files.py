"""From ``literature/figures`` to ``literature/images``: files of strangers, fetched once and decoded within limits.

Belongs here: which images are fetched, and the child process that decodes them. A damaged or hostile file costs that
process at most, which is bounded in memory, in pixels and in time. Vector graphics (EPS, PS, PDF) are drawn by
Ghostscript in its safe mode, where it is installed.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.addresses import asked_at
from atomvision_ml.literature.archives import ArchiveError, member_bytes
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, Reply, UnusableReplyError
from atomvision_ml.literature.texts import Steady, is_settled, is_web_page
from atomvision_ml.literature.transport import Transport, found_or_missing
from atomvision_ml.workers import end_with_parent

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
Progress = Callable[[int, "int | None"], None]

GHOSTSCRIPT = "gs"
RASTER = "raster.png"
"""Name of the pixels of vector graphics in their blob."""

_VECTOR = (b"%!PS", b"%PDF", b"\xc5\xd0\xd3\xc6")
_RASTER_DPI = 150
_START_S = 120.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class BadImageError(ValueError):
    """The file is no image that can be decoded within the limits; the message says why."""


class NoReaderError(BadImageError):
    """This machine lacks a program that would read it; the message names it."""


class ImageLimits(BaseModel):
    """What a decoder may use; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_pixels: int = Field(default=40_000_000, ge=1, description="Pixels of one image.")
    maximum_memory_bytes: int = Field(default=3 * 2**30, ge=1, description="Address space of the decoder.")
    timeout_s: float = Field(default=60.0, gt=0, description="Time for one image.")


class ImageReader:
    """Decodes images in a child process; a context manager. One that dies or is too slow is replaced."""

    def __init__(self, limits: ImageLimits | None = None) -> None:
        self._limits = limits or ImageLimits()
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height in pixels of an image that decodes as a whole.

        Raises:
            BadImageError: it does not, within the limits.
        """
        width, height = self._asked("size", path)
        return int(width), int(height)

    def pixels(self, path: Path) -> np.ndarray:
        """The image, uint8 [y, x, 3]; transparent parts on white. Raises BadImageError."""
        found: np.ndarray = self._asked("pixels", path)
        return found

    def drawn(self, path: Path, raster: Path) -> None:
        """Draw vector graphics into a PNG file. Raises BadImageError, NoReaderError."""
        self._asked("drawn", path, raster)

    def _asked(self, what: str, *paths: Path) -> Any:
        try:
            pipe = self._pipe or self._started()
            pipe.send((what, paths))
            problem, value = _received(pipe, self._limits.timeout_s)
        except (EOFError, OSError) as error:
            self._stop()
            raise BadImageError("the decoder ended while it read it: too little memory, or a hostile file") from error
        except BadImageError:
            self._stop()
            raise
        if problem is not None:
            raise problem
        return value

    def _started(self) -> Connection:
        self._pipe, theirs = multiprocessing.Pipe()
        self._child = _context().Process(target=_serve, args=(theirs, self._limits), daemon=True)
        self._child.start()
        theirs.close()
        _received(self._pipe, _START_S)
        return self._pipe

    def _stop(self) -> None:
        if self._child is not None and self._pipe is not None:
            self._child.kill()
            self._child.join()
            self._pipe.close()
        self._child = self._pipe = None


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
            content = self._fetched(url)
            part = kept.with_suffix(".part")
            part.write_bytes(content)
            part.replace(kept)
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
            if not reply.body.startswith(_VECTOR):
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
        if content.startswith(_VECTOR):
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


def _context() -> ForkServerContext:
    """Children of a server process that has loaded the libraries already: each starts within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "numpy", "PIL.Image", __name__])
    return context


def _received(pipe: Connection, timeout_s: float) -> tuple[BadImageError | None, Any]:
    if not pipe.poll(timeout_s):
        raise BadImageError(f"not decoded in {timeout_s:g} s")
    problem, value = pipe.recv()
    return problem, value


# -- in the child process -------------------------------------------------------------------------------------------


def _serve(pipe: Connection, limits: ImageLimits) -> None:
    """Answer requests until the other end is gone."""
    import resource

    end_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (limits.maximum_memory_bytes, limits.maximum_memory_bytes))
    acts: Mapping[str, Callable[..., Any]] = {"size": _size, "pixels": _pixels, "drawn": _drawn}
    pipe.send((None, "ready"))
    while True:
        try:
            what, paths = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, acts[what](*paths, limits)))
        except BadImageError as error:
            pipe.send((error, None))
        except MemoryError:
            pipe.send((BadImageError("it needs more memory than a decoder may use"), None))


def _size(path: Path, limits: ImageLimits) -> tuple[int, int]:
    pixels = _pixels(path, limits)
    return pixels.shape[1], pixels.shape[0]


def _pixels(path: Path, limits: ImageLimits) -> np.ndarray:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")) as image:
            if image.width * image.height > limits.maximum_pixels:
                raise BadImageError(f"{image.width} × {image.height} pixels; at most {limits.maximum_pixels} are read")
            image.load()
            return np.asarray(_flat(image))
    except UnidentifiedImageError as error:
        raise BadImageError("no image: its bytes are of no known format") from error
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, EOFError) as error:
        if isinstance(error, BadImageError):
            raise
        raise BadImageError(f"a damaged image: {error}") from error


def _flat(image: Any) -> Any:
    """In colours, 8 bits each, transparent parts on white; 16 bits and floating point are stretched to their range."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=float)
        span = float(np.ptp(values)) or 1.0
        image = Image.fromarray(np.uint8(np.round(255 * (values - values.min()) / span)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _drawn(path: Path, raster: Path, limits: ImageLimits) -> None:
    if shutil.which(GHOSTSCRIPT) is None:
        raise NoReaderError("vector graphics (EPS, PS, PDF) need Ghostscript: install the program gs, then run again")
    crop = "-dUseCropBox" if path.read_bytes()[:4] == b"%PDF" else "-dEPSCrop"
    command = [
        GHOSTSCRIPT, "-q", "-dSAFER", "-dBATCH", "-dNOPAUSE", crop, "-dFirstPage=1", "-dLastPage=1", "-sDEVICE=png16m",
        f"-r{_RASTER_DPI}", "-dTextAlphaBits=4", "-dGraphicsAlphaBits=4", "-o", str(raster), str(path),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=0.8 * limits.timeout_s, text=True, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise BadImageError("vector graphics that Ghostscript does not finish") from error
    if done.returncode != 0 or not raster.is_file():
        raise BadImageError(f"vector graphics that Ghostscript cannot draw (exit code {done.returncode})")
