"""Decoding image files of strangers: by a child process, within limits of memory, pixels and time.

Belongs here: the child and the way to it. A damaged or hostile file costs the child at most. It is a Python of its own,
which imports little and nothing of the program that asks. Vector graphics (EPS, PS, PDF) are drawn by Ghostscript in
its safe mode, where it is installed.
"""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np

GHOSTSCRIPT = "gs"
VECTOR = (b"%!PS", b"%PDF", b"\xc5\xd0\xd3\xc6")
"""How files of vector graphics begin."""

_RASTER_DPI = 150
_START_S = 120.0
_CHILD = "import sys; from atomvision_ml.literature.image_decoder import serve; serve(int(sys.argv[1]))"


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
        self._child: subprocess.Popen[bytes] | None = None
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
        with theirs:
            end = theirs.fileno()
            self._child = subprocess.Popen([sys.executable, "-c", _CHILD, str(end)], pass_fds=[end])
        self._pipe.send(self._limits)
        _received(self._pipe, _START_S)
        return self._pipe

    def _stop(self) -> None:
        if self._child is not None and self._pipe is not None:
            self._child.kill()
            self._child.wait()
            self._pipe.close()
        self._child = self._pipe = None


def serve(end: int) -> None:
    """In the child: answer requests until the other end is gone.

    Args:
        end: file descriptor of this end of the pipe.
    """
    import resource

    acts: Mapping[str, Callable[..., Any]] = {"size": _size, "pixels": _pixels, "drawn": _drawn}
    with Connection(end) as pipe:
        limits: ImageLimits = pipe.recv()
        resource.setrlimit(resource.RLIMIT_AS, (limits.maximum_memory_bytes, limits.maximum_memory_bytes))
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


def _received(pipe: Connection, timeout_s: float) -> tuple[BadImageError | None, Any]:
    if not pipe.poll(timeout_s):
        raise BadImageError(f"not decoded in {timeout_s:g} s")
    problem, value = pipe.recv()
    return problem, value


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
