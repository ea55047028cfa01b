"""Thermo Fisher (FEI) Velox EMD: HDF5 with one JSON header per image and frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    plain,
)


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of a Velox file: one for each detector or map, frames kept as a stack.

    Raises:
        UnreadableError: damaged, or without images.
    """
    with hdf5.opened(path) as file:
        images = file.get("Data/Image", {})
        return collected(_pictures(images, path.stat().st_size, limits), limits)


def _pictures(images: Any, file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    if not len(images):
        yield "spectra only, no image"
    for identifier in images:
        yield _picture(images[identifier], file_bytes, limits)


def _picture(group: Any, file_bytes: int, limits: ReadLimits) -> Picture | str:
    header = _header(group, limits)
    result = header.get("BinaryResult", {})
    name = str(result.get("Detector", "") or header.get("CustomProperties", {}).get("Title", ""))
    dataset = group["Data"]
    if dataset.dtype.names is not None:
        return f"{name or 'an image'}: complex values: a Fourier transform or a phase field, not an image"
    if len(dataset.shape) != 3:
        raise UnreadableError(f"{name or 'an image'}: Velox images have 3 axes, not {len(dataset.shape)}")
    pixels = np.moveaxis(hdf5.array(dataset, file_bytes, limits), -1, 0)
    pixels = pixels[0] if len(pixels) == 1 else pixels
    unfit = picture_kind(pixels)
    if unfit is not None:
        return f"{name or 'an image'}: {unfit}"
    size = result.get("PixelSize", {})
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        y=_axis(size.get("height"), result.get("PixelUnitY", "")),
        x=_axis(size.get("width"), result.get("PixelUnitX", "")),
        name=name,
        header=plain(header),
    )


def _axis(size: Any, unit: str) -> Axis:
    return Axis(float(size), str(unit)) if size and unit else Axis()


def _header(group: Any, limits: ReadLimits) -> dict[str, Any]:
    """The first frame's header; the detector that made the image stands under ``Detector``."""
    stored = group["Metadata"]
    if stored.dtype != np.uint8 or stored.shape[0] > limits.maximum_header_bytes:
        raise UnreadableError(f"the header is {stored.shape[0]} values of {stored.dtype}, not JSON text")
    content = stored[:, 0].tobytes().split(b"\0", 1)[0]
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"damaged JSON in the header: {error}") from error
    if not isinstance(header, dict):
        raise UnreadableError("the header is JSON, but no object")
    header["Detector"] = _detector(header)
    return header


def _detector(header: Mapping[str, Any]) -> Any:
    wanted = header.get("BinaryResult", {}).get("Detector")
    detectors = header.get("Detectors", {})
    for detector in detectors.values() if isinstance(detectors, dict) else ():
        if isinstance(detector, dict) and detector.get("DetectorName") == wanted:
            return detector
    return {}
