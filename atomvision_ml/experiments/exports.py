"""Micrographs and their columns in formats of other programs, calibrated and without loss.

Belongs here: writing. The suffix chooses the form; what was written replaces the file only when it is whole. Names of
persons do not leave: :func:`shared_record` puts pseudonyms in their place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomvision_ml.experiments.analysis import Analysis
from atomvision_ml.experiments.record import ELECTRON_BEAM, PIXEL_SIZES, RECIPROCAL_PIXEL_SIZES, elements_of
from atomvision_ml.storage.files import replacing

if TYPE_CHECKING:
    import polars as pl

_NM_PER_CM = 1e7
_PERSONS = ("operator", "annotator")
_PSEUDONYM = re.compile(rf"({'|'.join(_PERSONS)})-[0-9a-f]{{8}}")


class ExportError(ValueError):
    """Something cannot be exported as asked; the message says why and what can be."""


def export_image(path: str | Path, pixels: np.ndarray, record: Mapping[str, Any]) -> None:
    """Write a micrograph.

    ``.tif``, ``.tiff``: OME-TIFF with physical sizes, and resolution tags for programs that read no OME. ``.hspy``:
    HyperSpy's HDF5 with axes in nm (1/nm of diffraction patterns), its own metadata, and the record's fields as
    ``original_metadata.atomvision``; scale and offset of intensities are told there, not applied. ``.zarr``:
    OME-Zarr 0.5 (a folder). An image without calibration has none there.
    What is written of the record is what :func:`shared_record` leaves.

    Args:
        path: the file.
        pixels: [y, x] or [frame, y, x], real numbers; written in their type.
        record: values of its record by field.

    Raises:
        ExportError: another suffix, a type that the format does not hold, or an OME-Zarr folder that exists.
    """
    path = Path(path)
    write = _IMAGES.get(path.suffix.lower())
    if write is None:
        raise ExportError(f"{path.name}: images are written as {', '.join(_IMAGES)}")
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "biuf":
        raise ExportError(f"{path.name}: an image is [y, x] or [frame, y, x] of real numbers, not {pixels.shape}")
    write(path, pixels, shared_record(record))


def shared_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it is given away: operator and annotator as pseudonyms, without the file's own header.

    A pseudonym is the field's name and 8 digits of the SHA-256 of the name without case and outer blanks: the same in
    every export. It has no key: whoever guesses the name can confirm it. Free text (notes, file names, fields of an
    own profile) is left as it is.
    """
    told = {key: value for key, value in record.items() if key != "original_metadata"}
    told |= {name: _pseudonym(name, told[name]) for name in _PERSONS if told.get(name)}
    if told.get("warnings"):
        # A conflict between header and sidecar quotes both names.
        told["warnings"] = tuple(each for each in told["warnings"] if each.partition(":")[0] not in _PERSONS)
    return told


def _pseudonym(field: str, name: str) -> str:
    if _PSEUDONYM.fullmatch(name):
        return name
    return f"{field}-{hashlib.sha256(name.strip().casefold().encode()).hexdigest()[:8]}"


def export_columns(path: str | Path, found: Analysis) -> None:
    """Write the columns of an analysed micrograph: ``.csv``, ``.parquet``, or ``.xyz`` (extxyz) for ASE and OVITO.

    Raises:
        ExportError: another suffix; extxyz of an image without calibration, as its lengths are Å.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in COLUMN_SUFFIXES:
        raise ExportError(f"{path.name}: columns are written as {', '.join(COLUMN_SUFFIXES)}")
    table = column_table(found)
    if suffix == ".xyz":
        if found.pixel_size_xy_angstrom is None:
            raise ExportError(f"{path.name}: extxyz has lengths in Å, and the image is not calibrated; use .csv")
        with replacing(path) as aside:
            _write_extxyz(aside, table, found)
        return
    with replacing(path) as aside:
        table.write_csv(aside) if suffix == ".csv" else table.write_parquet(aside)


def column_table(found: Analysis) -> pl.DataFrame:
    """One row per column, by y, then x: position with its uncertainty (Å, or px in columns so named), intensity, group.

    The origin is the centre of pixel [0, 0]; x along columns, y along rows.
    """
    import polars as pl

    unit = "angstrom" if found.pixel_size_xy_angstrom else "px"
    places, columns = found.column_positions, found.columns
    size = float(np.sqrt(np.prod(found.pixel_size_xy_angstrom or (1.0, 1.0))))
    empty = np.zeros(0)
    return pl.DataFrame(
        {
            f"x_{unit}": places[:, 0],
            f"y_{unit}": places[:, 1],
            f"uncertainty_{unit}": empty if columns is None else columns.position_sigmas * size,
            "intensity": empty if columns is None else columns.intensities * size**2,
            "background": empty if columns is None else columns.backgrounds,
            "group": empty.astype(np.int64) if columns is None else columns.classes,
        }
    )


COLUMN_SUFFIXES = (".csv", ".parquet", ".xyz")


def _write_extxyz(path: Path, table: pl.DataFrame, found: Analysis) -> None:
    from ase import Atoms
    from ase.io import write

    x, y = found.pixel_size_xy_angstrom or (1.0, 1.0)
    places = np.column_stack([table["x_angstrom"], table["y_angstrom"], np.zeros(table.height)])
    atoms = Atoms("X" * table.height, positions=places, cell=[found.shape[1] * x, found.shape[0] * y, 1.0], pbc=False)
    for name in ("intensity", "group", "uncertainty_angstrom"):
        atoms.set_array(name, table[name].to_numpy())
    write(path, atoms, format="extxyz", columns=["symbols", "positions", "intensity", "group", "uncertainty_angstrom"])


def _write_tiff(path: Path, pixels: np.ndarray, record: Mapping[str, Any]) -> None:
    import tifffile

    y, x = (record.get(name) for name in PIXEL_SIZES)
    metadata: dict[str, Any] = {"axes": "TYX"[-pixels.ndim :], "Name": record.get("original_filename") or path.stem}
    told: dict[str, Any] = {}
    if x and y:
        metadata |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": y, "PhysicalSizeYUnit": "nm"}
        told = {"resolution": (_NM_PER_CM / x, _NM_PER_CM / y), "resolutionunit": "CENTIMETER"}
    try:
        with replacing(path) as aside:
            tifffile.imwrite(aside, np.ascontiguousarray(pixels), ome=True, metadata=metadata, **told)
    except (ValueError, KeyError) as error:
        raise ExportError(f"{path.name}: OME-TIFF does not hold {pixels.dtype}: {error}") from error


def _write_hspy(path: Path, pixels: np.ndarray, record: Mapping[str, Any]) -> None:
    import h5py

    with replacing(path) as aside, h5py.File(aside, "w") as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.3"})
        group = file.create_group(f"Experiments/{(record.get('signal_name') or path.stem).replace('/', '_')}")
        group.create_dataset("data", data=pixels, compression="gzip", shuffle=True)
        for number, axis in enumerate(_hspy_axes(pixels.shape, record)):
            _put(group.create_group(f"axis-{number}"), axis)
        _put(group.create_group("metadata"), _hspy_metadata(path.stem, record))
        _put(group.create_group("original_metadata"), {"atomvision": _plain(record)})


def _hspy_axes(shape: Sequence[int], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    sizes, unit = [record.get(name) for name in PIXEL_SIZES], "nm"
    if None in sizes:
        sizes, unit = [record.get(name) for name in RECIPROCAL_PIXEL_SIZES], "1/nm"
    units = [unit if size else "" for size in sizes]
    told = zip(("y", "x"), shape[-2:], sizes, units, strict=True)
    axes = [
        {"name": name, "size": edge, "scale": size or 1.0, "units": units, "navigate": False}
        for name, edge, size, units in told
    ]
    if len(shape) == 3:
        axes.insert(0, {"name": "frame", "size": shape[0], "scale": 1.0, "units": "", "navigate": True})
    return [{"_type": "UniformDataAxis", "offset": 0.0, **axis} for axis in axes]


def _hspy_metadata(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What HyperSpy shows of the record, in the units of its metadata (keV, nA, s)."""
    told = record.get
    formula, quantity = told("material_formula"), told("quantity")
    general = {
        "title": told("original_filename") or name,
        "original_filename": told("original_filename"),
        "authors": told("operator"),
        "notes": told("notes"),
        **_hspy_time(record),
    }
    unit = f" ({told('intensity_unit')})" if told("intensity_unit") else ""
    tree = {
        "General": general,
        "Signal": {"signal_type": "", "quantity": f"{quantity}{unit}" if quantity else None},
        "Sample": {"description": told("sample_id"), "elements": sorted(elements_of(formula)) if formula else None},
    }
    if told("technique") in (None, *ELECTRON_BEAM):
        tree["Acquisition_instrument"] = {"SEM" if told("technique") == "SEM" else "TEM": _hspy_instrument(record)}
    return tree


def _hspy_instrument(record: Mapping[str, Any]) -> dict[str, Any]:
    told = record.get
    modes = {"STEM": "STEM", "TEM": "TEM", "HRTEM": "TEM", "DIFFRACTION": "TEM"}
    return {
        "acquisition_mode": modes.get(told("technique") or ""),
        "microscope": told("instrument_name"),
        "beam_energy": told("acceleration_voltage_kv"),
        "beam_current": _times(told("beam_current_pa"), 1e-3),
        "magnification": told("magnification"),
        "camera_length": told("camera_length_mm"),
        "convergence_angle": told("convergence_semi_angle_mrad"),
        "dwell_time": _times(told("dwell_time_us"), 1e-6),
        "Stage": {"tilt_alpha": told("tilt_alpha_deg"), "tilt_beta": told("tilt_beta_deg")},
        "Detector": {"detector_type": told("detector"), "Camera": {"exposure": told("exposure_s")}},
    }


def _hspy_time(record: Mapping[str, Any]) -> dict[str, str]:
    if record.get("acquired_at") is None:
        return {}
    when = datetime.fromisoformat(str(record["acquired_at"]))
    told = {"date": when.date().isoformat(), "time": when.time().isoformat()}
    is_zone_known = when.tzinfo is not None and not record.get("is_time_zone_assumed")
    return told | ({"time_zone": when.isoformat()[-6:]} if is_zone_known else {})


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as HDF5 attributes: numbers and words as they are, what has parts as JSON."""
    return {
        name: value if isinstance(value, bool | int | float | str) else _json(value)
        for name, value in record.items()
        if value is not None
    }


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value, default=str)


def _put(group: Any, tree: Mapping[str, Any]) -> None:
    """A tree as HyperSpy's files have it: groups, attributes, and lists of words as data sets so named."""
    import h5py

    for name, value in tree.items():
        if isinstance(value, Mapping):
            _put(group.create_group(name), value)
        elif isinstance(value, list):
            group.create_dataset(f"_list_{name}", data=value, dtype=h5py.string_dtype())
        elif value is not None:
            group.attrs[name] = value


def _write_zarr(path: Path, pixels: np.ndarray, record: Mapping[str, Any]) -> None:
    from atomvision_ml.experiments.micrograph_store import write_micrograph

    if path.exists():
        raise ExportError(f"{path.name} exists; OME-Zarr goes into a new folder")
    write_micrograph(path, pixels, {"record_id": path.stem, **record})


_IMAGES: dict[str, Callable[[Path, np.ndarray, Mapping[str, Any]], None]] = {
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".hspy": _write_hspy,
    ".zarr": _write_zarr,
}
IMAGE_SUFFIXES = tuple(_IMAGES)
