"""Berkeley EMD (emdatasets.com; NCEM, Prismatic, py4DSTEM, HyperSpy): HDF5 groups with data and dimension vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.readers import hdf5
from atomvision_ml.experiments.reading import Axis, Picture, Reading, ReadLimits, collected, plain
from atomvision_ml.experiments.units import UnitError, convert

_DATA = ("data", "realslice", "datacube", "diffractionslice")


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of a Berkeley EMD file: data of two axes, or of three of which two are lengths.

    Raises:
        UnreadableError: damaged, or without images.
    """
    with hdf5.opened(path) as file:
        header = {name: hdf5.tree(file[name]) for name in ("microscope", "sample", "user", "stage") if name in file}
        return collected(_pictures(file, header, path.stat().st_size, limits), limits)


def _pictures(file: Any, header: dict[str, Any], file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    for path, group in hdf5.nodes(file):
        if hdf5.text(group.attrs.get("emd_group_type", "")) in ("1", "array"):
            data = next((group[name] for name in _DATA if name in group), None)
            if data is None:
                yield f"{path}: a data group without data"
            else:
                yield _picture(path, group, data, header, (file_bytes, limits))


def _picture(path: str, group: Any, data: Any, header: dict[str, Any], bounds: tuple[int, ReadLimits]) -> Picture | str:
    name = path.rsplit("/", 1)[-1]
    if data.dtype.kind not in "biufc":
        return f"{name}: values of type {data.dtype}, not numbers"
    if data.dtype.kind == "c":
        return f"{name}: complex values: a Fourier transform or a phase field, not an image"
    if len(data.shape) not in (2, 3):
        return f"{name}: data of {len(data.shape)} dimensions, not an image or a stack of images"
    axes = _axes(group, data.shape)
    order = _order([axis for _, axis in axes], [label for label, _ in axes])
    if order is None:
        return f"{name}: 3 dimensions of which not exactly two are lengths, so its images cannot be told"
    if 1 in (data.shape[order[-1]], data.shape[order[-2]]):
        return f"{name}: a line, not an image"
    pixels = hdf5.array(data, *bounds).transpose(order)
    y, x = (axes[place][1] for place in order[-2:])
    pixels = pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels
    told = {**header, "group": plain(dict(group.attrs))}
    return Picture(pixels=np.ascontiguousarray(pixels), y=y, x=x, name=name, header=plain(told))


def _axes(group: Any, shape: tuple[int, ...]) -> list[tuple[str, Axis]]:
    first = 0 if "dim0" in group else 1
    return [_axis(group.get(f"dim{first + place}"), size) for place, size in enumerate(shape)]


def _axis(vector: Any, size: int) -> tuple[str, Axis]:
    if vector is None or vector.dtype.kind not in "iuf" or vector.size < 2 or vector.size > 2**20:
        return "", Axis()
    values = np.asarray(vector[()], float).reshape(-1)
    step = (values[-1] - values[0]) / (len(values) - 1) if len(values) in (size, 2) else float("nan")
    unit = hdf5.text(vector.attrs.get("units", "")).strip("[] ")
    known = Axis(abs(float(step)), unit) if unit and np.isfinite(step) and step else Axis()
    return hdf5.text(vector.attrs.get("name", "")), known


def _order(axes: list[Axis], names: list[str]) -> list[int] | None:
    """Places of (frame), y, x among the data's axes; axes named x and y are taken at their word."""
    places = list(range(len(axes)))
    if len(axes) == 3:
        lengths = [place for place in places if _is_length(axes[place])]
        if len(lengths) != 2:
            return None
        places = [place for place in places if place not in lengths] + lengths
    if names[places[-2]].lower().endswith("x") and names[places[-1]].lower().endswith("y"):
        places[-2], places[-1] = places[-1], places[-2]
    return places


def _is_length(axis: Axis) -> bool:
    try:
        return axis.scale is not None and convert(axis.scale, axis.unit, "nm") > 0
    except UnitError:
        return False
