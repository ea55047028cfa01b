"""Nion Swift: ``.ndata`` (a zip of ``data.npy`` and ``metadata.json``) and its HDF5 form."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.readers import hdf5
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


def read_ndata(path: Path, limits: ReadLimits) -> Reading:
    """The image of an ``.ndata`` file. Arrays of Python objects are refused: they would be pickles.

    Raises:
        UnreadableError: damaged, larger than the limits, or not an image.
    """
    file_bytes = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        metadata = _json(_member(archive, "metadata.json", limits.maximum_header_bytes))
        content = _member(archive, "data.npy", min(limits.maximum_pixel_bytes + 4096, _bound(file_bytes, limits)))
    return collected([_picture(_npy(content, file_bytes, limits), metadata)], limits)


def read_hdf5(path: Path, limits: ReadLimits) -> Reading:
    """The image of Nion's HDF5 form: the dataset ``data`` with its properties as JSON.

    Raises:
        UnreadableError: damaged, larger than the limits, or not an image.
    """
    with hdf5.opened(path) as file:
        data = file["data"]
        metadata = _json(hdf5.text(data.attrs["properties"]).encode())
        return collected([_picture(hdf5.array(data, path.stat().st_size, limits), metadata)], limits)


def _bound(file_bytes: int, limits: ReadLimits) -> int:
    return max(16 * 2**20, int(limits.maximum_ratio * file_bytes))


def _member(archive: zipfile.ZipFile, name: str, maximum_bytes: int) -> bytes:
    """A member's bytes; what the directory claims is not believed, so that a bomb stops at the limit."""
    if archive.getinfo(name).file_size > maximum_bytes:
        raise UnreadableError(f"{name} claims more than {maximum_bytes} bytes")
    with archive.open(name) as member:
        content = member.read(maximum_bytes + 1)
    if len(content) > maximum_bytes:
        raise UnreadableError(f"{name} unpacks to more than {maximum_bytes} bytes")
    return content


def _npy(content: bytes, file_bytes: int, limits: ReadLimits) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise UnreadableError("an array of Python objects (a pickle), which is never opened")
    check_claim(shape, dtype.itemsize, file_bytes, limits)
    return np.load(io.BytesIO(content), allow_pickle=False)


def _json(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"damaged JSON in the header: {error}") from error
    if not isinstance(told, dict):
        raise UnreadableError("the header is JSON, but no object")
    return told


def _picture(pixels: np.ndarray, metadata: Mapping[str, Any]) -> Picture | str:
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        colourless = grey(pixels)
        if colourless is None:
            return "a colour picture, not measured values"
        pixels = colourless
    unfit = picture_kind(pixels)
    if unfit is not None:
        return unfit
    listed = _found(metadata, "dimensional_calibrations", "spatial_calibrations")
    axes = [_axis(entry) for entry in listed] if isinstance(listed, list) else []
    axes = axes if len(axes) == pixels.ndim else [Axis()] * pixels.ndim
    brightness = _found(metadata, "intensity_calibration") or {}
    return Picture(
        pixels=pixels,
        y=axes[-2],
        x=axes[-1],
        name=str(metadata.get("title", "")),
        intensity=(
            float(brightness.get("scale", 1.0)),
            float(brightness.get("offset", 0.0)),
            str(brightness.get("units", "")),
        ),
        header=plain(metadata),
    )


def _found(metadata: Mapping[str, Any], *names: str) -> Any:
    """A property at the top or in the data source, where later versions of Swift keep it."""
    sources = metadata.get("data_sources")
    inner = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], dict) else {}
    return next((place[name] for place in (metadata, inner) for name in names if name in place), None)


def _axis(entry: Any) -> Axis:
    if not isinstance(entry, Mapping) or not entry.get("units") or not entry.get("scale"):
        return Axis()
    return Axis(abs(float(entry["scale"])), str(entry["units"]))
