"""Which format a file has, by its content alone.

Belongs here: the allow-list. A file's name decides nothing: whatever does not begin like, and is not built like, one of
the known formats is refused here, before any reader opens it. Pickles, arrays of Python objects, archives and programs
have no entry.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from atomvision_ml.experiments.reading import Format, ReadLimits, UnreadableError

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "dm3": (".dm3",),
    "dm4": (".dm4",),
    "ser": (".ser",),
    "emi": (".emi",),
    "emd_velox": (".emd",),
    "emd_berkeley": (".emd", ".h5", ".hdf5"),
    "mrc": (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"),
    "tiff": (".tif", ".tiff"),
    "ome_tiff": (".ome.tif", ".ome.tiff", ".tif", ".tiff"),
    "ndata": (".ndata", ".ndata1"),
    "nion_h5": (".h5", ".hdf5", ".nhdf"),
    "sxm": (".sxm",),
    "hspy": (".hspy", ".hdf5"),
    "nexus": (".nxs", ".h5", ".hdf5", ".nx"),
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg"),
    "bcf": (".bcf",),
}
"""What a file of each format is usually called; only to warn of other names."""

_HEAD_BYTES = 1024
_ZIP_MEMBERS = {"data.npy", "metadata.json"}


def recognise(path: Path, limits: ReadLimits) -> Format:
    """The format of a file.

    Args:
        path: a plain file.
        limits: what is accepted.

    Raises:
        UnreadableError: empty, too large, or of no format on the allow-list; the message says what it looks like.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnreadableError("the file is empty")
    if size > limits.maximum_file_bytes:
        raise UnreadableError(f"the file has {size} bytes; at most {limits.maximum_file_bytes} are read")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for begins, kind in _TESTS:
        if begins(head):
            return kind(path, head) if callable(kind) else kind
    if _is_old_mrc(head, size):
        return "mrc"
    raise UnreadableError(f"not of a format that is read here: {_looks_like(head)}")


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


def _is_dm(version: int) -> Callable[[bytes], bool]:
    layout = ">lLl" if version == 3 else ">lQl"

    def test(head: bytes) -> bool:
        if len(head) < struct.calcsize(layout):
            return False
        number, _, is_little_endian = struct.unpack_from(layout, head)
        return number == version and is_little_endian == 1

    return test


def _is_mrc(head: bytes) -> bool:
    return head[208:212] == b"MAP "


def _is_old_mrc(head: bytes, size: int) -> bool:
    """MRC of before 2000, without a magic word: plausible numbers that account for the size to the byte."""
    item_bytes = {0: 1, 1: 2, 2: 4, 6: 2}
    for order in "<>":
        if len(head) < 1024:
            return False
        columns, rows, sections, mode = struct.unpack_from(f"{order}4i", head)
        (extended,) = struct.unpack_from(f"{order}i", head, 92)
        is_plausible = min(columns, rows, sections) > 0 and max(columns, rows, sections) < 2**16 and extended >= 0
        if is_plausible and mode in item_bytes:
            return size == 1024 + extended + columns * rows * sections * item_bytes[mode]
    return False


def _zip(path: Path, head: bytes) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in archive.infolist()[:3]]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"a damaged zip archive: {error}") from error
    if set(names) == _ZIP_MEMBERS and len(names) == len(_ZIP_MEMBERS):
        return "ndata"
    raise UnreadableError("a zip archive that is no Nion ndata file; upload what is in it instead")


def _tiff(path: Path, head: bytes) -> Format:
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            return "ome_tiff" if file.is_ome else "tiff"
    except tifffile.TiffFileError as error:
        raise UnreadableError(f"a damaged TIFF file: {error}") from error


def _hdf5(path: Path, head: bytes) -> Format:
    from atomvision_ml.experiments.readers.hdf5 import recognise_hdf5

    return recognise_hdf5(path)


_TESTS: tuple[tuple[Callable[[bytes], bool], Format | Callable[[Path, bytes], Format]], ...] = (
    (_starts(b"\x89HDF\r\n\x1a\n"), _hdf5),
    (_starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (_starts(b"\x89PNG\r\n\x1a\n"), "png"),
    (_starts(b"\xff\xd8\xff"), "jpeg"),
    (_starts(b"II\x97\x01"), "ser"),
    (_starts(b"JK\0\x02"), "emi"),
    (_starts(b":NANONIS_VERSION:"), "sxm"),
    (_starts(b"PK\x03\x04"), _zip),
    (_starts(b"AAMVHFSS"), "bcf"),
    (_is_mrc, "mrc"),
    (_is_dm(3), "dm3"),
    (_is_dm(4), "dm4"),
)

_OTHERS = (
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x80", "a Python pickle, which is never opened"),
    (b"\x1f\x8b", "gzip; upload what is in it instead"),
    (b"BZh", "bzip2; upload what is in it instead"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"%PDF", "a PDF document"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"<?xml", "XML"),
    (b"{", "JSON text"),
)


def _looks_like(head: bytes) -> str:
    for beginning, name in _OTHERS:
        if head.startswith(beginning):
            return name
    if b"\0" not in head and head.isascii():
        return "plain text"
    return f"it begins with {head[:8].hex(' ')}"


def has_usual_name(path: Path, kind: Format) -> bool:
    """Whether the file's name ends as files of its format usually do."""
    return path.name.lower().endswith(SUFFIXES[kind])
