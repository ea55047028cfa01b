"""Gatan DigitalMicrograph, dm3 and dm4: tags parsed by nionswift-io, images put together here.

nionswift-io's own image loader returns the last image only and leaves its number type to the tag's; a file may hold
several images (survey image, spectra, thumbnail), and unsigned bytes are stored as signed ones.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.reading import (
    Axis,
    Picture,
    Reading,
    ReadLimits,
    UnreadableError,
    check_claim,
    collected,
    grey,
    picture_kind,
    plain,
)

_DTYPES = {
    1: "i2",
    2: "f4",
    3: "c8",
    6: "u1",
    7: "i4",
    8: "u1x4",
    9: "i1",
    10: "u2",
    11: "u4",
    12: "f8",
    13: "c16",
    14: "?",
    23: "u1x4",
    39: "i8",
    40: "u8",
}
"""DataType of an image to its NumPy type, little-endian; ``u1x4`` is a colour picture of four channels."""

_PACKED_COMPLEX = (5, 27, 28)


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of a dm3 or dm4 file.

    Raises:
        UnreadableError: damaged, cut, or without an image.
    """
    from nionswift_plugin.DM_IO import parse_dm3

    try:
        with path.open("rb") as file:
            tags = parse_dm3.dm_read_header(file)
    except (AssertionError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        told = f" ({error})" if str(error) else ""
        raise UnreadableError(f"DigitalMicrograph's tags are damaged or cut{told}") from error
    if not isinstance(tags, dict) or not isinstance(tags.get("ImageList"), list):
        raise UnreadableError("the DigitalMicrograph file has no list of images")
    return collected(_pictures(tags, path.stat().st_size, limits), limits)


def _pictures(tags: Mapping[str, Any], file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    thumbnails = _thumbnails(tags)
    for index, entry in enumerate(tags["ImageList"]):
        if index not in thumbnails:
            yield _picture(entry, file_bytes, limits)


def _thumbnails(tags: Mapping[str, Any]) -> set[int]:
    listed = tags.get("Thumbnails")
    if isinstance(listed, list) and listed:
        return {int(entry["ImageIndex"]) for entry in listed if isinstance(entry, dict) and "ImageIndex" in entry}
    return {0} if len(tags["ImageList"]) > 1 else set()


def _picture(entry: Mapping[str, Any], file_bytes: int, limits: ReadLimits) -> Picture | str:
    data, image_tags = entry["ImageData"], entry.get("ImageTags", {})
    name = _text(entry.get("Name", ""))
    if data["DataType"] in _PACKED_COMPLEX:
        return f"{name or 'an image'}: a packed complex Fourier transform, not an image"
    if _is_spectrum(image_tags):
        return f"{name or 'an image'}: a spectrum or spectrum image, not an image"
    pixels = _pixels(data, file_bytes, limits)
    if pixels.ndim > 2 and data["DataType"] in (8, 23):
        colourless = grey(pixels)
        if colourless is None:
            return f"{name or 'an image'}: a colour picture, not measured values"
        pixels = colourless
    unfit = picture_kind(pixels)
    if unfit is not None:
        return f"{name or 'an image'}: {unfit}"
    axes = _axes(data)
    header = {key: value for key, value in entry.items() if key not in ("ImageData", "ImageTags")} | image_tags
    return Picture(
        pixels=pixels,
        y=axes[1],
        x=axes[0],
        name=name,
        intensity=_intensity(data),
        header=plain(_readable(header)),
    )


def _pixels(data: Mapping[str, Any], file_bytes: int, limits: ReadLimits) -> np.ndarray:
    kind = _DTYPES.get(data["DataType"])
    if kind is None:
        raise UnreadableError(f"DigitalMicrograph's image type {data['DataType']} is not known")
    channels = 4 if kind.endswith("x4") else 1
    dtype = np.dtype("<" + kind.removesuffix("x4"))
    shape = tuple(int(edge) for edge in reversed(data["Dimensions"]))
    check_claim(shape, dtype.itemsize * channels, file_bytes, limits)
    stored = data["Data"]
    raw = getattr(stored, "raw_data", stored)
    if not isinstance(raw, array.array):
        raise UnreadableError("the image has no pixels")
    values = np.frombuffer(memoryview(raw).cast("B"), dtype)
    if values.size != int(np.prod(shape)) * channels:
        raise UnreadableError(f"{values.nbytes} bytes of pixels do not make an image of shape {shape}, {dtype}")
    pixels = values.reshape((*shape, channels) if channels > 1 else shape)
    return pixels.squeeze(axis=0) if pixels.ndim == 3 and channels == 1 and shape[0] == 1 else pixels


def _axes(data: Mapping[str, Any]) -> list[Axis]:
    """Axes in the file's order: x first. DigitalMicrograph writes scale 1 without unit where it does not know."""
    listed = data.get("Calibrations", {}).get("Dimension", [])
    axes = [Axis(float(entry.get("Scale", 1.0)), _text(entry.get("Units", ""))) for entry in listed]
    known = [axis if axis.unit else Axis() for axis in axes]
    return [*known, Axis(), Axis()][: max(len(known), 2)]


def _intensity(data: Mapping[str, Any]) -> tuple[float, float, str]:
    brightness = data.get("Calibrations", {}).get("Brightness", {})
    scale = float(brightness.get("Scale", 1.0))
    return scale, -float(brightness.get("Origin", 0.0)) * scale, _text(brightness.get("Units", ""))


def _is_spectrum(tags: Mapping[str, Any]) -> bool:
    return _text(tags.get("Meta Data", {}).get("Format", "")).lower().startswith("spectrum")


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, array.array):
        return _text(value) if value.typecode == "H" else np.asarray(value)
    return value if isinstance(value, str | int | float | bool) or value is None else f"({type(value).__name__})"


def _text(value: Any) -> str:
    if isinstance(value, array.array):
        return value.tobytes().decode("utf-16-le", "replace").strip("\0\u2028 ") if value.typecode == "H" else ""
    return str(value)
