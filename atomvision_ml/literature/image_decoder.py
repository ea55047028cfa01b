"""Decoding image files of strangers: by a child process, within limits of memory, pixels and time.

Belongs here: what is asked of a :class:`~atomvision_ml.workers.Worker`, and what it does. A damaged or hostile file
costs the child at most. Vector graphics (EPS, PS, PDF) are drawn by Ghostscript in its safe mode, where it is there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.workers import Worker, WorkerError, WorkerLimits

if TYPE_CHECKING:
    import numpy as np

GHOSTSCRIPT = "gs"
VECTOR = (b"%!PS", b"%PDF", b"\xc5\xd0\xd3\xc6")
"""How files of vector graphics begin."""

_RASTER_DPI = 150
_ANSWER = f"{__name__}:answer"
_PIXELS = "pixels.npy"


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
        self._folder = tempfile.TemporaryDirectory()
        self.worker = Worker(
            _ANSWER,
            WorkerLimits(
                memory_bytes=self._limits.maximum_memory_bytes,
                file_bytes=4 * self._limits.maximum_pixels + 2**20,
                time_s=self._limits.timeout_s,
            ),
        )

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()
        self._folder.cleanup()

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height in pixels of an image that decodes as a whole.

        Raises:
            BadImageError: it does not, within the limits.
        """
        told = self._asked("size", path)
        return int(told["width"]), int(told["height"])

    def pixels(self, path: Path) -> np.ndarray:
        """The image, uint8 [y, x, 3]; transparent parts on white. Raises BadImageError."""
        import numpy as np

        file = Path(self._folder.name) / _PIXELS
        self._asked("pixels", path, file)
        found: np.ndarray = np.load(file, allow_pickle=False)
        file.unlink()
        return found

    def drawn(self, path: Path, raster: Path) -> None:
        """Draw vector graphics into a PNG file. Raises BadImageError, NoReaderError."""
        self._asked("drawn", path, raster)

    def _asked(self, what: str, *paths: Path) -> dict[str, Any]:
        request = {"what": what, "paths": [str(path) for path in paths], "limits": self._limits.model_dump()}
        try:
            told = self.worker.ask(request)
        except WorkerError as error:
            raise BadImageError(_REASONS[error.code].format(error.reason)) from error
        if "no_reader" in told:
            raise NoReaderError(told["no_reader"])
        if "bad_image" in told:
            raise BadImageError(told["bad_image"])
        return told


_REASONS = {
    "damaged": "a damaged image: {}",
    "too_slow": "not decoded: {}",
    "too_much_memory": "it needs more memory than a decoder may use",
    "crashed": "the decoder ended while it read it, as with a hostile file: {}",
}


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """In the worker: what is asked, with the paths and limits of the request."""
    acts: Mapping[str, Callable[..., dict[str, Any]]] = {"size": _size, "pixels": _save, "drawn": _drawn}
    paths = [Path(path) for path in request["paths"]]
    try:
        return acts[request["what"]](*paths, ImageLimits.model_validate(request["limits"]))
    except NoReaderError as error:
        return {"no_reader": str(error)}
    except BadImageError as error:
        return {"bad_image": str(error)}


def _size(path: Path, limits: ImageLimits) -> dict[str, Any]:
    pixels = _pixels(path, limits)
    return {"width": pixels.shape[1], "height": pixels.shape[0]}


def _save(path: Path, file: Path, limits: ImageLimits) -> dict[str, Any]:
    import numpy as np

    np.save(file, _pixels(path, limits), allow_pickle=False)
    return {}


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


def _drawn(path: Path, raster: Path, limits: ImageLimits) -> dict[str, Any]:
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
    return {}
