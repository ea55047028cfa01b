"""MRC (CCP-EM's MRC2014 and older), read by mrcfile; sizes are checked against the file before it is opened."""

from __future__ import annotations

import struct
import warnings
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
    picture_kind,
    plain,
)

_ITEM_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
_HEADER_BYTES = 1024


def read(path: Path, limits: ReadLimits) -> Reading:
    """The image or stack of an MRC file; rows as stored. Sections are frames.

    A voxel size below zero, which some cameras write, is none.

    Raises:
        UnreadableError: damaged, cut, complex, or larger than the limits.
    """
    _check_size(path, limits)
    import mrcfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # permissive reading warns of what is checked here
        with mrcfile.open(path, permissive=True) as file:
            if file.data is None:
                raise UnreadableError("the MRC header does not fit its data")
            pixels, header = np.array(file.data), _header(file)
            size = file.voxel_size
            y, x = (Axis(float(edge), "A") if edge > 0 else Axis() for edge in (size.y, size.x))
    pixels = pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels
    unfit = picture_kind(pixels)
    picture = unfit or Picture(pixels=pixels, y=y, x=x, header=plain(header))
    return collected([picture], limits)


def _check_size(path: Path, limits: ReadLimits) -> None:
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise UnreadableError("the MRC file ends within its header")
    size, readings = path.stat().st_size, []
    for order in "<>":
        columns, rows, sections, mode = struct.unpack_from(f"{order}4i", head)
        (extended,) = struct.unpack_from(f"{order}i", head, 92)
        if mode in _ITEM_BYTES and min(columns, rows, sections) > 0 and extended >= 0:
            readings.append(((sections, rows, columns), _ITEM_BYTES[mode], extended))
    if not readings:
        raise UnreadableError("the MRC header claims no known number type or no pixels")
    shape, item_bytes, extended = readings[0]
    check_claim(shape, item_bytes, size, limits)
    wanted = _HEADER_BYTES + extended + int(np.prod(shape, dtype=np.int64)) * item_bytes
    if size < wanted:
        raise UnreadableError(f"the MRC file is cut: {size} of {wanted} bytes")


def _header(file: Any) -> dict[str, Any]:
    told = {name: file.header[name] for name in file.header.dtype.names if name not in ("extra1", "extra2", "label")}
    told["labels"] = [bytes(label).decode("latin-1").strip() for label in file.header.label[: int(file.header.nlabl)]]
    if bytes(file.header.exttyp) in (b"FEI1", b"FEI2"):
        extended = file.indexed_extended_header
        if extended is not None and len(extended):
            told["FEI"] = {name: extended[0][name] for name in extended.dtype.names}
    return told
