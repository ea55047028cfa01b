"""What a reader delivers, and the limits that every reader keeps.

Belongs here: the interface between the readers of single formats and everything behind them. A reader is a function
``read(path, limits) -> Reading``; it reports pixels, axes and the header as they are in the file. What a header field
means is written in the profiles (:mod:`.profiles`), not in the readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Format = Literal[
    "dm3",
    "dm4",
    "ser",
    "emi",
    "emd_velox",
    "emd_berkeley",
    "mrc",
    "tiff",
    "ome_tiff",
    "ndata",
    "nion_h5",
    "sxm",
    "hspy",
    "nexus",
    "png",
    "jpeg",
    "bcf",
]
"""The formats on the allow-list. A file belongs to one of them by its content, or it is refused."""

_LONGEST_LIST = 64
_LONGEST_TEXT = 10_000
_DEEPEST = 24


class UnreadableError(ValueError):
    """A file is refused; the message says why, in words that may be shown to whoever uploaded it."""


class ReadLimits(BaseModel):
    """What a file may claim and a reading may take; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_file_bytes: int = Field(default=4 * 2**30, ge=1, description="Size of a file.")
    maximum_pixel_bytes: int = Field(default=2**30, ge=1, description="Pixels of one image or stack.")
    maximum_total_bytes: int = Field(default=4 * 2**30, ge=1, description="Pixels of all images of a file.")
    maximum_ratio: float = Field(default=200.0, ge=1, description="Pixels over file size, beyond the first 16 MiB.")
    maximum_images: int = Field(default=256, ge=1, description="Images in a file.")
    maximum_header_bytes: int = Field(default=2**20, ge=1, description="Header of an image, as JSON.")
    memory_bytes: int = Field(default=4 * 2**30, ge=2**28, description="Address space of the worker process.")
    time_s: float = Field(default=60.0, gt=0, description="Wall-clock time for a file.")


@dataclass(frozen=True)
class Axis:
    """One edge of a pixel.

    Attributes:
        scale: length of the edge in ``unit``; None if the file does not tell.
        unit: as the file writes it; empty if it does not tell.
    """

    scale: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Picture:
    """An image, or a stack of frames of the same field.

    Attributes:
        pixels: [y, x] or [frame, y, x], of the file's number type; rows as the file's own software shows them.
        y: edge of a pixel along y.
        x: edge of a pixel along x.
        name: the file's name for it.
        quantity: what the pixels measure, e.g. ``Z``; empty if untold.
        intensity: scale, offset and unit: value = scale · pixel + offset.
        header: what the file says of it, values that JSON can hold.
        warnings: what a user should know about the reading.
    """

    pixels: np.ndarray
    y: Axis = Axis()
    x: Axis = Axis()
    name: str = ""
    quantity: str = ""
    intensity: tuple[float, float, str] = (1.0, 0.0, "")
    header: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a file holds.

    Attributes:
        pictures: its images.
        skipped: what is no image (spectra, complex transforms, colour pictures), each with the reason.
    """

    pictures: tuple[Picture, ...]
    skipped: tuple[str, ...] = ()


Reader = Callable[[Path, ReadLimits], Reading]


def collected(pictures: Iterable[Picture | str], limits: ReadLimits) -> Reading:
    """Pictures, and reasons for what is none, as a reading.

    Raises:
        UnreadableError: there is no picture; the message holds the reasons. Or there are too many.
    """
    images: list[Picture] = []
    skipped: list[str] = []
    total = 0
    for item in pictures:
        if isinstance(item, str):
            skipped.append(item)
            continue
        images.append(item)
        total += item.pixels.nbytes
        if len(images) > limits.maximum_images or total > limits.maximum_total_bytes:
            raise UnreadableError(
                f"more than {limits.maximum_images} images or {limits.maximum_total_bytes} bytes of pixels in one file"
            )
    if not images:
        raise UnreadableError("; ".join(dict.fromkeys(skipped)) or "the file holds no image")
    told = skipped[: limits.maximum_images]
    more = [f"{len(skipped) - len(told)} more contents that are no images"] if len(skipped) > len(told) else []
    return Reading(tuple(images), (*told, *more))


def check_claim(shape: Sequence[int], item_bytes: int, file_bytes: int, limits: ReadLimits) -> None:
    """Refuse what a header claims before anything is allocated for it.

    Args:
        shape: of the array.
        item_bytes: bytes of an element.
        file_bytes: size of the file.
        limits: what is accepted.

    Raises:
        UnreadableError: a negative or zero edge, or more bytes than the limits allow.
    """
    if not shape or any(int(edge) < 1 for edge in shape):
        raise UnreadableError(f"the header claims an image of shape {_shape(shape)}")
    claimed = math.prod(int(edge) for edge in shape) * int(item_bytes)
    if claimed > limits.maximum_pixel_bytes:
        raise UnreadableError(f"the header claims {claimed} bytes of pixels; at most {limits.maximum_pixel_bytes}")
    if claimed > 16 * 2**20 and claimed > limits.maximum_ratio * file_bytes:
        raise UnreadableError(f"the header claims {claimed} bytes of pixels in a file of {file_bytes} bytes")


def grey(pixels: np.ndarray) -> np.ndarray | None:
    """The grey image of a colour picture [..., 3 or 4] whose channels are equal; None if it has real colours."""
    red = pixels[..., 0]
    if all(np.array_equal(red, pixels[..., channel]) for channel in range(1, min(pixels.shape[-1], 3))):
        return np.ascontiguousarray(red)
    return None


def picture_kind(pixels: np.ndarray) -> str | None:
    """Why an array cannot be an image; None if it can: real numbers, [y, x] or [frame, y, x]."""
    if pixels.dtype.kind == "c":
        return "complex values: a Fourier transform or a phase field, not an image"
    if pixels.dtype.kind not in "biuf":
        return f"values of type {pixels.dtype}, not numbers"
    if pixels.ndim not in (2, 3):
        return f"an array of {pixels.ndim} dimensions, not an image or a stack of images"
    if 1 in pixels.shape[-2:]:
        return "a line, not an image"
    return None


def plain(value: Any, depth: int = 0) -> Any:
    """A header value as JSON can hold it; long arrays become a note, NaN becomes None."""
    if depth > _DEEPEST:
        return "(nested too deeply)"
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, bytes | bytearray):
        value = bytes(value[:_LONGEST_TEXT]).decode("utf-8", "replace").rstrip("\0")
    if isinstance(value, str):
        return value[:_LONGEST_TEXT].replace("\0", "")
    if isinstance(value, np.ndarray | np.generic):
        return _plain_array(np.asarray(value), depth)
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        return [plain(item, depth + 1) for item in items] if len(items) <= _LONGEST_LIST else f"({len(items)} values)"
    return _plain_scalar(value)


def _plain_array(array: np.ndarray, depth: int) -> Any:
    if array.size > _LONGEST_LIST:
        return f"(array of shape {_shape(array.shape)}, {array.dtype})"
    return plain(array.tolist(), depth + 1)


def _plain_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)[:_LONGEST_TEXT]


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(edge) for edge in shape) or "()"
