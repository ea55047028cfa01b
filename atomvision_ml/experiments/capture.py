"""From a file to records: header, profiles and sidecar put together, pixels checked.

Belongs here: precedence and validation. The header wins over the sidecar in instrument facts, the sidecar over the
header in sample facts; where both speak and differ, the record says so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomvision_ml.experiments.profiles import Profile, load_profiles, translate
from atomvision_ml.experiments.reading import Axis, Picture
from atomvision_ml.experiments.record import (
    Record,
    SidecarError,
    checked_values,
    filler_of,
    read_sidecar,
    required_of,
    sidecar_path,
)
from atomvision_ml.experiments.units import UnitError, convert
from atomvision_ml.experiments.worker import FileReader, FileReading, RejectedError, check_unchanged, identity
from atomvision_ml.storage.blobs import file_sha256

_LONGEST_NAME = 255


class CaptureRules(BaseModel):
    """What an image must be to be taken; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_edge_px: int = Field(default=16, ge=1, description="Shortest edge.")
    maximum_edge_px: int = Field(default=16384, ge=1, description="Longest edge.")
    maximum_not_finite: float = Field(default=0.01, ge=0, le=1, description="Share of pixels that are NaN or infinite.")
    conflict_tolerance: float = Field(default=0.02, ge=0, description="Relative difference that is no conflict.")
    maximum_anisotropy: float = Field(default=0.05, ge=0, description="|y/x − 1| of the pixel sizes without a warning.")


@dataclass(frozen=True)
class LeftOut:
    """An image, or another content of a file, that is not taken.

    Attributes:
        reason: with the name of the content, for whoever uploaded the file.
        facts: the record's fields that are known all the same, at least ``signal_index`` and those of the file; what
            is no image is numbered after the images.
    """

    reason: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Capture:
    """What became of a file that could be read.

    Attributes:
        records: one for each image that is taken.
        pixels: of each record, mapped from the folder given to :func:`capture`.
        rejected: images and other contents that are not taken.
    """

    records: tuple[Record, ...]
    pixels: tuple[np.ndarray, ...]
    rejected: tuple[LeftOut, ...]


def capture(
    path: str | Path,
    folder: str | Path,
    reader: FileReader,
    profiles: Sequence[Profile] | None = None,
    rules: CaptureRules | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Capture:
    """Read a file and describe its images.

    Args:
        path: the file.
        folder: an empty folder for the pixels.
        reader: the worker.
        profiles: translations of headers; the built-in ones if None.
        rules: what an image must be.
        sidecar: checked values by field; those of the sidecar file if None.

    Returns:
        Records, their pixels, and what was left out.

    Raises:
        RejectedError: the file cannot be read, or none of its images is taken.
        SidecarError: its sidecar file cannot be used.
    """
    path, chosen = Path(path), rules or CaptureRules()
    told = read_sidecar(sidecar_path(path)) if sidecar is None else dict(sidecar)
    before = identity(path)
    reading = reader.read(path, folder)
    file_facts = _file_facts(path, reading)
    check_unchanged(path, before)
    records, pixels, rejected = [], [], []
    for index, picture in enumerate(reading.pictures):
        unfit = unfit_because(picture.pixels, chosen)
        if unfit is None:
            records.append(_record(index, picture, reading, file_facts, told, profiles or load_profiles(), chosen))
            pixels.append(picture.pixels)
        else:
            reason = f"{picture.name or f'image {index}'}: {unfit}"
            rejected.append(LeftOut(reason, {**file_facts, **_pixel_facts(picture), "signal_index": index}))
    for index, reason in enumerate(reading.skipped, start=len(reading.pictures)):
        rejected.append(LeftOut(reason, {**file_facts, "signal_index": index}))
    if not records:
        raise RejectedError("unreadable", "; ".join(dict.fromkeys(each.reason for each in rejected)))
    return Capture(tuple(records), tuple(pixels), tuple(rejected))


def unfit_because(pixels: np.ndarray, rules: CaptureRules) -> str | None:
    """Why an image is not taken: its size, values that are not finite, or no contrast at all; None if it is.

    Args:
        pixels: real numbers [y, x] or [frame, y, x].
        rules: what an image must be.
    """
    rows, columns = pixels.shape[-2:]
    if min(rows, columns) < rules.minimum_edge_px or max(rows, columns) > rules.maximum_edge_px:
        edges = f"{rules.minimum_edge_px} to {rules.maximum_edge_px}"
        return f"{rows} × {columns} px; edges of {edges} px are taken"
    n_bad, low, high = 0, math.inf, -math.inf
    for frame in pixels if pixels.ndim == 3 else (pixels,):
        finite = frame if frame.dtype.kind != "f" else frame[np.isfinite(frame)]
        n_bad += frame.size - finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if n_bad > rules.maximum_not_finite * pixels.size:
        return f"{n_bad} of {pixels.size} pixels are not finite"
    return f"all pixels have the value {low:g}" if low >= high else None


def pixel_sha256(pixels: np.ndarray) -> str:
    """SHA-256 of number type, shape and little-endian pixels: the same for an image in any container."""
    kind = pixels.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{kind.str}{pixels.shape}".encode())
    for frame in pixels if pixels.ndim == 3 else (pixels,):
        digest.update(np.ascontiguousarray(frame.astype(kind, copy=False)).tobytes())
    return digest.hexdigest()


def _file_facts(path: Path, reading: FileReading) -> dict[str, Any]:
    printable = "".join(letter if letter.isprintable() else "�" for letter in path.name)
    return {
        "file_sha256": file_sha256(path),
        "original_filename": printable[:_LONGEST_NAME],
        "size_bytes": path.stat().st_size,
        "source_format": reading.format,
        "reader": reading.reader,
        "reader_version": reading.reader_version,
    }


def _record(
    index: int,
    picture: Picture,
    reading: FileReading,
    file_facts: Mapping[str, Any],
    sidecar: Mapping[str, Any],
    profiles: Sequence[Profile],
    rules: CaptureRules,
) -> Record:
    translation = translate(reading.format, picture.header, profiles)
    edges, edge_warnings = _edges(picture)
    values, conflicts = _merged({**translation.values, **edges}, sidecar, rules)
    warnings = [*picture.warnings, *translation.warnings, *edge_warnings, *conflicts]
    if not reading.has_usual_name:
        warnings.append(f"by its content a file of format {reading.format}; its name says otherwise")
    values |= _derived(picture, values, bool(edges), warnings, rules)
    digest = pixel_sha256(picture.pixels)
    facts = {
        **file_facts,
        **values,
        **_pixel_facts(picture),
        "record_id": f"{digest[:16]}-{index}",
        "pixel_sha256": digest,
        "signal_index": index,
        "profiles": translation.profiles,
        "extensions": translation.extensions,
        "missing_fields": _missing(values),
        "warnings": tuple(dict.fromkeys(warnings)),
        "original_metadata": dict(picture.header),
    }
    try:
        return Record(**facts)
    except ValidationError as error:
        faults = "; ".join(fault["msg"] for fault in error.errors()[:5])
        if sidecar:
            raise SidecarError(f"together with the file's header: {faults}") from error
        raise RejectedError("damaged", f"its header contradicts itself: {faults}") from error


def _pixel_facts(picture: Picture) -> dict[str, Any]:
    pixels = picture.pixels
    scale, offset, unit = picture.intensity
    return (
        {
            "signal_name": picture.name,
            "shape_y": pixels.shape[-2],
            "shape_x": pixels.shape[-1],
            "n_frames": len(pixels) if pixels.ndim == 3 else 1,
            "dtype": pixels.dtype.name,
            "intensity_scale": scale if math.isfinite(scale) else 1.0,
            "intensity_offset": offset if math.isfinite(offset) else 0.0,
        }
        | ({"intensity_unit": unit} if unit else {})
        | ({"quantity": picture.quantity} if picture.quantity else {})
    )


def _edges(picture: Picture) -> tuple[dict[str, float], list[str]]:
    """Edges of a pixel as lengths or as reciprocal lengths, both in one kind; and why not."""
    if picture.y.scale is None or picture.x.scale is None:
        return {}, []
    for unit, names in (
        ("nm", ("pixel_size_y_nm", "pixel_size_x_nm")),
        ("1/nm", ("reciprocal_pixel_size_y_per_nm", "reciprocal_pixel_size_x_per_nm")),
    ):
        edges = [_edge(axis, unit) for axis in (picture.y, picture.x)]
        if None not in edges:
            values = {name: edge for name, edge in zip(names, edges, strict=True) if edge is not None}
            return _within_bounds(values)
    units = " and ".join(dict.fromkeys(repr(axis.unit) for axis in (picture.y, picture.x)))
    return {}, [f"axes in {units} are neither lengths nor reciprocal lengths: not calibrated"]


def _edge(axis: Axis, unit: str) -> float | None:
    try:
        return convert(axis.scale or 0.0, axis.unit, unit)
    except UnitError:
        return None


def _within_bounds(values: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    try:
        return checked_values(values, "header"), []
    except SidecarError:
        told = " × ".join(f"{value:g}" for value in values.values())
        return {}, [f"a pixel of {told} {'1/nm' if 'reciprocal' in next(iter(values)) else 'nm'} is not believed"]


def _merged(
    header: Mapping[str, Any], sidecar: Mapping[str, Any], rules: CaptureRules
) -> tuple[dict[str, Any], list[str]]:
    """Values of both, by precedence, and what they disagree about."""
    values, conflicts = dict(header), []
    for name, value in sidecar.items():
        if name in header and not _agree(header[name], value, rules.conflict_tolerance):
            kept = "the file's header" if filler_of(name) == "header" else "the sidecar"
            conflicts.append(f"{name}: header says {header[name]}, sidecar says {value}; {kept} is kept")
        if name not in header or filler_of(name) == "sidecar":
            values[name] = value
    return values, conflicts


def _agree(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, datetime) and isinstance(other, datetime):
        return abs((_aware(one) - _aware(other)).total_seconds()) < 1
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
    return str(one).strip().lower() == str(other).strip().lower()


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _derived(
    picture: Picture, values: Mapping[str, Any], from_header: bool, warnings: list[str], rules: CaptureRules
) -> dict[str, Any]:
    derived: dict[str, Any] = {}
    y, x = values.get("pixel_size_y_nm"), values.get("pixel_size_x_nm")
    if y is not None and x is not None:
        derived["field_of_view_y_nm"] = y * picture.pixels.shape[-2]
        derived["field_of_view_x_nm"] = x * picture.pixels.shape[-1]
        if abs(y / x - 1) > rules.maximum_anisotropy:
            warnings.append(f"pixels are not square: {y:g} × {x:g} nm")
    if y is not None or "reciprocal_pixel_size_y_per_nm" in values:
        derived["calibration_source"] = "header" if from_header else "sidecar"
    if values.get("acquired_at") is not None:
        derived["acquired_at"] = _aware(values["acquired_at"])
        derived["is_time_zone_assumed"] = values["acquired_at"].tzinfo is None
    return derived | _dose(values)


def _dose(values: Mapping[str, Any]) -> dict[str, float]:
    """Electrons per Å² of a scan, where beam current, dwell time and pixel size are known and nobody says otherwise."""
    from scipy.constants import e

    names = ("beam_current_pa", "dwell_time_us", "pixel_size_y_nm", "pixel_size_x_nm")
    known = [values.get(name) for name in names]
    if values.get("technique") != "STEM" or "dose_e_per_a2" in values or None in known:
        return {}
    current_pa, dwell_us, y_nm, x_nm = (float(value) for value in known if value is not None)
    return {"dose_e_per_a2": current_pa * 1e-12 * dwell_us * 1e-6 / e / (100 * y_nm * x_nm)}


def _missing(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in required_of(values.get("technique")) if values.get(name) is None)
