"""HyperSpy's ``.hspy``: HDF5 with axes that say which of them make the image."""

from __future__ import annotations

from collections.abc import Iterator
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
    collected,
    picture_kind,
)


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of an ``.hspy`` file: signals of two signal axes and at most one navigation axis, or of two in all.

    Raises:
        UnreadableError: damaged, or without images.
    """
    with hdf5.opened(path) as file:
        if "Experiments" not in file:
            raise UnreadableError("the HyperSpy file has no experiments")
        return collected(_pictures(file["Experiments"], path.stat().st_size, limits), limits)


def _pictures(experiments: Any, file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    for name in experiments:
        yield _picture(name, experiments[name], file_bytes, limits)


def _picture(name: str, group: Any, file_bytes: int, limits: ReadLimits) -> Picture | str:
    data = group["data"]
    if data.dtype.kind == "O" or data.dtype.hasobject:
        return f"{name}: holds objects, which are never read"
    axes = [group[f"axis-{place}"].attrs for place in range(len(data.shape))]
    moving = [place for place, axis in enumerate(axes) if bool(axis.get("navigate", False))]
    fixed = [place for place in range(len(axes)) if place not in moving]
    if len(moving) == 2 and not fixed:
        moving, fixed = fixed, moving
    if len(fixed) != 2 or len(moving) > 1:
        return f"{name}: {len(moving)} navigation and {len(fixed)} signal axes, not an image or a stack of images"
    pixels = hdf5.array(data, file_bytes, limits).transpose([*moving, *fixed])
    unfit = picture_kind(pixels)
    if unfit is not None:
        return f"{name}: {unfit}"
    header = {key: hdf5.tree(group[key]) for key in ("metadata", "original_metadata") if key in group}
    y, x = (_axis(axes[place]) for place in fixed)
    return Picture(pixels=np.ascontiguousarray(pixels), y=y, x=x, name=name, header=header)


def _axis(told: Any) -> Axis:
    unit = hdf5.text(told.get("units", ""))
    if unit in ("_None_", "<undefined>", "") or "scale" not in told:
        return Axis()
    return Axis(abs(float(told["scale"])), unit)
