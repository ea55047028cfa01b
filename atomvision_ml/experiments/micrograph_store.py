"""Pixels of a micrograph as OME-Zarr 0.5: nothing lost, axes calibrated, readable by other people's programs.

Belongs here: the group's layout, writing and reading. One array ``s0`` [y, x] or [frame, y, x] in the file's number
type, chunks of at most 1024 × 1024 pixels under Zstandard. OME-Zarr knows neither intensity scales nor reciprocal
lengths; both are in the attribute ``atomvision``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAY = "s0"
OME_ZARR_VERSION = "0.5"

_CHUNK_PX = 1024
_TOLD = (
    "record_id",
    "quantity",
    "intensity_scale",
    "intensity_offset",
    "intensity_unit",
    "reciprocal_pixel_size_y_per_nm",
    "reciprocal_pixel_size_x_per_nm",
)


def write_micrograph(folder: Path, pixels: np.ndarray, record: Mapping[str, Any]) -> None:
    """Write an image into a new folder, and read it back.

    Args:
        folder: the group to make.
        pixels: real numbers [y, x] or [frame, y, x].
        record: values of a record by field; ``pixel_size_y_nm`` and ``pixel_size_x_nm`` calibrate the axes, and
            :func:`frame_time_s` that of the frames.

    Raises:
        ValueError: what was written reads otherwise; nothing of it may be used.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    group = zarr.create_group(folder, zarr_format=3, attributes=_attributes(pixels.ndim, record))
    array = group.create_array(
        ARRAY,
        shape=pixels.shape,
        dtype=pixels.dtype.newbyteorder("="),
        chunks=(*[1] * (pixels.ndim - 2), *(min(edge, _CHUNK_PX) for edge in pixels.shape[-2:])),
        compressors=ZstdCodec(level=5),
        dimension_names=["t", "y", "x"][-pixels.ndim :],
    )
    for index in np.ndindex(pixels.shape[:-2]):
        array[index] = pixels[index]
    _check_written(folder, pixels)


def _attributes(n_axes: int, record: Mapping[str, Any]) -> dict[str, Any]:
    edges = [record.get("pixel_size_y_nm"), record.get("pixel_size_x_nm")]
    is_calibrated = None not in edges
    unit = {"unit": "nanometer"} if is_calibrated else {}
    frame_s = frame_time_s(record)
    time = {"unit": "second"} if frame_s else {}
    axes = [{"name": "t", "type": "time", **time}, *({"name": name, "type": "space", **unit} for name in "yx")]
    scale = [frame_s or 1.0, *(edges if is_calibrated else (1.0, 1.0))]
    dataset = {"path": ARRAY, "coordinateTransformations": [{"type": "scale", "scale": scale[-n_axes:]}]}
    multiscale = {"name": record["record_id"], "axes": axes[-n_axes:], "datasets": [dataset]}
    told = {name: record[name] for name in _TOLD if record.get(name) is not None}
    return {"ome": {"version": OME_ZARR_VERSION, "multiscales": [multiscale]}, "atomvision": told}


def frame_time_s(record: Mapping[str, Any]) -> float | None:
    """Time in s that a frame took: the dwell time of all pixels of a scan, else a camera's exposure; None if unknown.

    What passes between frames (readout, flyback) is in no field of a record, and not in this time.

    Args:
        record: values by field; of ``dwell_time_us``, ``shape_y`` and ``shape_x``, or ``exposure_s``.
    """
    dwell_us, rows, columns = (record.get(name) for name in ("dwell_time_us", "shape_y", "shape_x"))
    if dwell_us and rows and columns:
        return float(dwell_us * 1e-6 * rows * columns)
    return record.get("exposure_s") or None


def _check_written(folder: Path, pixels: np.ndarray) -> None:
    written = _array(folder)
    same = written.dtype == pixels.dtype.newbyteorder("=") and written.shape == pixels.shape
    for index in np.ndindex(pixels.shape[:-2]):
        same = same and np.array_equal(written[index], pixels[index], equal_nan=pixels.dtype.kind == "f")
    if not same:
        raise ValueError(f"{folder.name}: the array reads otherwise than it was written")


def _array(folder: Path) -> Any:
    import zarr

    return zarr.open_group(folder, mode="r")[ARRAY]


def read_pixels(folder: Path) -> np.ndarray:
    """The pixels as in the file, [y, x] or [frame, y, x]."""
    return np.asarray(_array(folder)[...])


def read_image(folder: Path) -> np.ndarray:
    """The image as :func:`measured_image`, float32 [y, x]; frames are read one by one."""
    import zarr

    group = zarr.open_group(folder, mode="r")
    told: Any = group.attrs["atomvision"]
    return measured_image(group[ARRAY], told)


def measured_image(frames: Any, record: Mapping[str, Any]) -> NDArray[np.float32]:
    """Pixels as measured values, float32 [y, x]: frames averaged, scaled, missing pixels set to the median.

    The average is that of the frames as they lie: drift between them is not taken out.

    Args:
        frames: array of any kind, [y, x] or [frame, y, x].
        record: values by field; ``intensity_scale`` and ``intensity_offset`` count.
    """
    total = np.zeros(frames.shape[-2:])
    for index in np.ndindex(frames.shape[:-2]):
        total += frames[index]
    n_frames = frames.shape[0] if len(frames.shape) == 3 else 1
    image = record.get("intensity_scale", 1.0) * total / n_frames + record.get("intensity_offset", 0.0)
    is_finite = np.isfinite(image)
    if not is_finite.all():
        image[~is_finite] = np.median(image[is_finite])
    return image.astype(np.float32)
