"""HDF5: which kind a file is, and access that never leaves it.

Belongs here: what the readers of Velox, Berkeley, HyperSpy, NeXus and Nion files share. Links to other files, data kept
in other files, arrays of Python objects and endless trees are refused before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.reading import Format, ReadLimits, UnreadableError, check_claim, plain

_MAXIMUM_OBJECTS = 20_000
_DEEPEST = 20
_MAXIMUM_TEXT_BYTES = 2**20


def recognise_hdf5(path: Path) -> Format:
    """Which of the HDF5 formats a file is.

    Raises:
        UnreadableError: damaged, or of no known kind.
    """
    with opened(path) as file:
        if text(file.attrs.get("file_format", "")).lower() == "hyperspy":
            return "hspy"
        if "Data/Image" in file or "Application/Velox" in file or "Data/SpectrumImage" in file:
            return "emd_velox"
        if "data" in file and "properties" in getattr(file["data"], "attrs", {}):
            return "nion_h5"
        return _by_attributes(file)


def _by_attributes(file: Any) -> Format:
    for _, node in nodes(file):
        if "emd_group_type" in node.attrs:
            return "emd_berkeley"
        if text(node.attrs.get("NX_class", "")) in ("NXentry", "NXdata", "NXroot"):
            return "nexus"
    raise UnreadableError("an HDF5 file, but neither Velox or Berkeley EMD, HyperSpy, NeXus nor Nion")


def opened(path: Path) -> Any:
    """The file, open for reading, every link of it looked at before any is followed.

    Raises:
        UnreadableError: HDF5's library cannot open it, or it leads to other files.
    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UnreadableError(f"a damaged HDF5 file: {error}") from error
    try:
        for _ in nodes(file):
            pass
    except BaseException:
        file.close()
        raise
    return file


def nodes(group: Any, depth: int = 0, budget: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Groups and datasets below a group, parents first; each hard-linked object once per path, soft links left out.

    Raises:
        UnreadableError: a link to another file, or too many objects.
    """
    import h5py

    left = [_MAXIMUM_OBJECTS] if budget is None else budget
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UnreadableError(f"{name!r} is a link to another file ({Path(link.filename).name}), not data")
        if isinstance(link, h5py.SoftLink):
            continue
        left[0] -= 1
        if left[0] < 0 or depth > _DEEPEST:
            raise UnreadableError(f"more than {_MAXIMUM_OBJECTS} objects, or deeper than {_DEEPEST} levels")
        node = group[name]
        if isinstance(node, h5py.Group | h5py.Dataset):
            yield node.name, node
        if isinstance(node, h5py.Group):
            yield from nodes(node, depth + 1, left)


def array(dataset: Any, file_bytes: int, limits: ReadLimits) -> np.ndarray:
    """A dataset's values, checked before they are read.

    Raises:
        UnreadableError: not numbers, kept in another file, cut, or larger than the limits.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise UnreadableError(f"{getattr(dataset, 'name', 'the data')} is no dataset")
    if dataset.external or dataset.is_virtual:
        raise UnreadableError(f"{dataset.name}: its values are kept in another file")
    if dataset.dtype.kind not in "biufc" and dataset.dtype.names is None:
        raise UnreadableError(f"{dataset.name}: values of type {dataset.dtype}, not numbers")
    if dataset.dtype.hasobject:
        raise UnreadableError(f"{dataset.name}: holds objects, which are never read")
    check_claim(dataset.shape, dataset.dtype.itemsize, file_bytes, limits)
    if dataset.id.get_storage_size() == 0:
        raise UnreadableError(f"{dataset.name}: no values are stored")
    return dataset[()]


def text(value: Any) -> str:
    """An attribute or a scalar dataset's value as text."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else str(value)


def tree(group: Any, budget: list[int] | None = None, depth: int = 0) -> dict[str, Any]:
    """Attributes and small values below a group as a nested dict; a value with units becomes text like ``80 kV``."""
    import h5py

    left = [2000] if budget is None else budget
    told = {str(key): plain(value) for key, value in _attributes(group)}
    if depth > _DEEPEST:
        return told
    for name in group:
        left[0] -= 1
        if left[0] < 0 or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        node = group[name]
        if isinstance(node, h5py.Group):
            told[name] = tree(node, left, depth + 1)
        elif isinstance(node, h5py.Dataset) and node.size == 1 and node.nbytes <= _MAXIMUM_TEXT_BYTES:
            told[name] = _scalar(node)
    return told


def _attributes(node: Any) -> Iterator[tuple[str, Any]]:
    for key in node.attrs:
        value = node.attrs[key]
        if not type(value).__module__.startswith("h5py"):
            yield key, value


def _scalar(dataset: Any) -> Any:
    if dataset.external or dataset.is_virtual:
        return None
    value = plain(dataset[()])
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    unit = text(dataset.attrs.get("units", ""))
    return f"{value} {unit}" if unit and isinstance(value, int | float) else value
