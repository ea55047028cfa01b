"""The reader of each format, and the version of the library that it stands on."""

from __future__ import annotations

from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from atomvision_ml.experiments.content import recognise
from atomvision_ml.experiments.reading import Format, Reading, ReadLimits

READERS_VERSION = "1"
"""Raised whenever a reader may give other values for the same file."""


class Entry(NamedTuple):
    """Where a format's reader is.

    Attributes:
        module: below this package.
        function: in it.
        library: the distribution that does the reading; empty if none.
    """

    module: str
    function: str
    library: str


REGISTRY: dict[Format, Entry] = {
    "dm3": Entry("dm", "read", "nionswift-io"),
    "dm4": Entry("dm", "read", "nionswift-io"),
    "ser": Entry("tia", "read_ser", ""),
    "emi": Entry("tia", "read_emi", ""),
    "emd_velox": Entry("velox", "read", "h5py"),
    "emd_berkeley": Entry("berkeley", "read", "h5py"),
    "mrc": Entry("mrc", "read", "mrcfile"),
    "tiff": Entry("tiff", "read", "tifffile"),
    "ome_tiff": Entry("tiff", "read", "tifffile"),
    "ndata": Entry("nion", "read_ndata", "numpy"),
    "nion_h5": Entry("nion", "read_hdf5", "h5py"),
    "sxm": Entry("nanonis", "read", "nanonispy2"),
    "hspy": Entry("hyperspy", "read", "h5py"),
    "nexus": Entry("nexus", "read", "h5py"),
    "png": Entry("pictures", "read", "pillow"),
    "jpeg": Entry("pictures", "read", "pillow"),
    "bcf": Entry("vendors", "read", "rosettasciio"),
}


def read(path: Path, limits: ReadLimits) -> tuple[Format, Reading]:
    """Recognise a file by its content and read it. To be called in a worker process only (:mod:`..worker`).

    Raises:
        UnreadableError: refused, with the reason; also whatever a library raises on a damaged file.
    """
    kind = recognise(path, limits)
    entry = REGISTRY[kind]
    reader = getattr(import_module(f"{__package__}.{entry.module}"), entry.function)
    return kind, reader(path, limits)


def reader_version(kind: Format) -> str:
    """Version of the reader of a format, e.g. ``1+h5py-3.16.0``."""
    library = REGISTRY[kind].library
    if not library:
        return READERS_VERSION
    try:
        return f"{READERS_VERSION}+{library}-{metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return READERS_VERSION
