"""FEI TIA: ``.ser`` (pixels and calibration) and ``.emi`` (the instrument's state), which belong together.

There is no permissive library for them. The layout is the one that C. B. Boothroyd worked out and published ("TIA file
format", 2008): little-endian; header, dimensions, offsets of the elements, elements.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.readers.partners import partner
from atomvision_ml.experiments.readers.xml import as_dict, parse
from atomvision_ml.experiments.reading import (
    Axis,
    Picture,
    Reading,
    ReadLimits,
    UnreadableError,
    check_claim,
    collected,
    picture_kind,
    plain,
)

_DTYPES = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8", 9: "c8", 10: "c16"}
_SPECTRA, _IMAGES = 0x4120, 0x4122
_ELEMENT_HEADER_BYTES = 50
_OBJECT_INFO = re.compile(rb"<ObjectInfo>.*?</ObjectInfo>", re.DOTALL)
_SERIES = re.compile(r"^(?P<stem>.*)_(?P<number>\d{1,4})\.ser$", re.IGNORECASE)


def read_ser(path: Path, limits: ReadLimits) -> Reading:
    """The image or stack of a ``.ser`` file, with the header of the ``.emi`` file beside it if there is one.

    Raises:
        UnreadableError: damaged, cut, or spectra.
    """
    named = _SERIES.match(path.name)
    emi = partner(path, f"{named['stem']}.emi") if named else None
    infos = _object_infos(emi.read_bytes()) if emi is not None else []
    number = int(named["number"]) - 1 if named else 0
    header = infos[number] if 0 <= number < len(infos) else {}
    warnings = () if header else ("no .emi file beside it: the instrument's state is unknown",)
    return collected([_image(path, header, limits, warnings)], limits)


def read_emi(path: Path, limits: ReadLimits) -> Reading:
    """The images of all ``.ser`` files that belong to an ``.emi`` file.

    Raises:
        UnreadableError: damaged, or its partner files are missing.
    """
    infos = _object_infos(path.read_bytes())
    if not infos:
        raise UnreadableError("the .emi file has no ObjectInfo: it is damaged or cut")
    return collected(_series(path, infos, limits), limits)


def _series(path: Path, infos: list[dict[str, Any]], limits: ReadLimits) -> Iterator[Picture | str]:
    numbered = sorted((int(name["number"]), name[0]) for name in _names_of_series(path))
    files = [(number, ser) for number, name in numbered if (ser := partner(path, name)) is not None]
    if not files:
        raise UnreadableError(f"its partner {path.stem}_1.ser, which holds the pixels, is not beside it")
    for number, ser in files:
        header = infos[number - 1] if 1 <= number <= len(infos) else {}
        yield _image(ser, header, limits, ())


def _names_of_series(path: Path) -> Iterator[re.Match[str]]:
    for beside in path.parent.iterdir():
        if (named := _SERIES.match(beside.name)) is not None and named["stem"] == path.stem:
            yield named


def _object_infos(content: bytes) -> list[dict[str, Any]]:
    return [_object_info(found.group()) for found in _OBJECT_INFO.finditer(content)]


def _object_info(text: bytes) -> dict[str, Any]:
    root = parse(text)
    told = as_dict(root)
    told.pop("TrueImageHeaderInfo", None)
    conditions = {}
    for entry in root.iterfind("ExperimentalDescription/Root/Data"):
        value = f"{entry.findtext('Value') or ''} {entry.findtext('Unit') or ''}".strip()
        conditions[(entry.findtext("Label") or "").strip()] = value
    told["ExperimentalDescription"] = conditions
    return told


def _image(path: Path, header: Mapping[str, Any], limits: ReadLimits, warnings: tuple[str, ...]) -> Picture | str:
    content = path.read_bytes()
    kind, offsets = _offsets(content)
    if kind == _SPECTRA:
        return f"{path.name}: spectra, not images"
    if kind != _IMAGES:
        raise UnreadableError(f"{path.name}: data type {kind:#x} is neither images nor spectra")
    frames: list[np.ndarray] = []
    scales: list[tuple[float, float]] = []
    for number, offset in enumerate(offsets):
        scale, pixels = _element(content, offset, limits)
        check_claim((len(offsets), *pixels.shape), pixels.itemsize, len(content), limits)
        if number and (pixels.shape != frames[0].shape or pixels.dtype != frames[0].dtype):
            raise UnreadableError(f"{path.name}: its images differ in shape or number type")
        frames.append(pixels)
        scales.append(scale)
    stack = frames[0] if len(frames) == 1 else np.stack(frames)
    unfit = picture_kind(stack)
    if unfit is not None:
        return f"{path.name}: {unfit}"
    is_diffraction = _is_diffraction(header, scales[0][1])
    x, y = (Axis(abs(scale), "1/m" if is_diffraction else "m") for scale in scales[0])
    return Picture(pixels=stack, y=y, x=x, name=path.stem, header=plain(dict(header)), warnings=warnings)


def _offsets(content: bytes) -> tuple[int, list[int]]:
    """Data type and the places of the valid elements."""
    try:
        order, series, version, kind, _, total, valid = struct.unpack_from("<HHHIIII", content)
        wide = version >= 0x0220
        (table,) = struct.unpack_from("<Q" if wide else "<I", content, 22)
        if (order, series) != (0x4949, 0x0197) or not 1 <= valid <= total:
            raise UnreadableError(f"the .ser file claims {valid} valid elements of {total}")
        if valid * (8 if wide else 4) > len(content):
            raise UnreadableError(f"the .ser file claims {valid} elements in {len(content)} bytes")
        return kind, list(struct.unpack_from(f"<{valid}{'Q' if wide else 'I'}", content, table))
    except struct.error as error:
        raise UnreadableError(f"the .ser file ends within its header: {error}") from error


def _element(content: bytes, offset: int, limits: ReadLimits) -> tuple[tuple[float, float], np.ndarray]:
    """Scales (x, y) in m and pixels of an element; TIA stores rows from the bottom up."""
    try:
        _, delta_x, _, _, delta_y, _, code, width, height = struct.unpack_from("<ddiddihii", content, offset)
    except struct.error as error:
        raise UnreadableError(f"the .ser file ends before its element at byte {offset}") from error
    if code not in _DTYPES:
        raise UnreadableError(f"TIA's number type {code} is not known")
    dtype = np.dtype("<" + _DTYPES[code])
    check_claim((height, width), dtype.itemsize, len(content), limits)
    begin = offset + _ELEMENT_HEADER_BYTES
    if begin + width * height * dtype.itemsize > len(content):
        raise UnreadableError("the .ser file ends within its pixels")
    pixels = np.frombuffer(content, dtype, width * height, begin).reshape(height, width)
    return (delta_x, delta_y), pixels[::-1]


def _is_diffraction(header: Mapping[str, Any], delta: float) -> bool:
    """TIA writes 1/m without saying so; steps of metres are never lengths of a microscope's pixel."""
    described = header.get("ExperimentalDescription", {})
    mode = str(described.get("Mode", "")) if isinstance(described, Mapping) else ""
    is_scanning = "STEM" in mode
    return abs(delta) >= 1 or ("Diffraction" in mode and not is_scanning and abs(delta) > 1e-3)
