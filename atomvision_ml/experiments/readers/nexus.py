"""NeXus: HDF5 with ``NXdata`` groups whose signal and axes are named by attributes (NXem, NXstm and others)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.readers import hdf5
from atomvision_ml.experiments.reading import Axis, Picture, Reading, ReadLimits, collected, picture_kind


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of a NeXus file: signals of two axes, or of three of which the first counts frames.

    Raises:
        UnreadableError: damaged, or without images.
    """
    with hdf5.opened(path) as file:
        return collected(_pictures(file, path.stat().st_size, limits), limits)


def _pictures(file: Any, file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    for path, group in hdf5.nodes(file):
        if hdf5.text(group.attrs.get("NX_class", "")) == "NXdata":
            signal = hdf5.text(group.attrs.get("signal", "data"))
            if signal in group:
                header = hdf5.tree(file[path.split("/")[1]])
                yield _picture(path, group, signal, header, (file_bytes, limits))


def _picture(
    path: str, group: Any, signal: str, header: dict[str, Any], bounds: tuple[int, ReadLimits]
) -> Picture | str:
    data = group[signal]
    if len(getattr(data, "shape", ())) not in (2, 3):
        return f"{path}: a signal of {len(getattr(data, 'shape', ()))} dimensions, not an image or a stack of images"
    pixels = hdf5.array(data, *bounds)
    unfit = picture_kind(pixels)
    if unfit is not None:
        return f"{path}: {unfit}"
    names = [hdf5.text(name) for name in np.atleast_1d(group.attrs.get("axes", []))]
    axes = [_axis(group, name) for name in names] if len(names) == pixels.ndim else [Axis()] * pixels.ndim
    return Picture(
        pixels=pixels, y=axes[-2], x=axes[-1], name=hdf5.text(group.attrs.get("title", "")) or path, header=header
    )


def _axis(group: Any, name: str) -> Axis:
    vector = group.get(name) if name not in (".", "") else None
    if vector is None or vector.dtype.kind not in "iuf" or not 2 <= vector.size <= 2**20:
        return Axis()
    values = np.asarray(vector[()], float).reshape(-1)
    step = abs(float(values[-1] - values[0])) / (len(values) - 1)
    unit = hdf5.text(vector.attrs.get("units", ""))
    return Axis(step, unit) if unit and np.isfinite(step) and step > 0 else Axis()
