"""The record of one experimental image: the metadata capture template of the platform, defined once.

Belongs here: :class:`Record`, a flat model whose fields carry their unit, their vocabulary and who fills them. From it
come the JSON schema, the sidecar file, and the list of what is missing. Which header field of which vendor fills a
field is in the profiles (:mod:`.profiles`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from atomvision_ml.storage.files import write_whole

SCHEMA_VERSION = "1.0"

Technique = Literal["TEM", "HRTEM", "STEM", "STM", "SEM", "AFM", "DIFFRACTION", "OTHER"]
ImagingMode = Literal["BF", "DF", "ABF", "MAADF", "HAADF", "iDPC", "constant_current", "constant_height", "SE", "BSE"]
CalibrationSource = Literal["header", "sidecar", "scale_bar", "lattice", "none"]
Morphology = Literal["sphere", "plate", "ribbon", "rod", "cube", "film", "flake", "bulk", "other"]
FacetSource = Literal["expert", "fft", "none"]
FilledBy = Literal["header", "sidecar", "derived"]
"""Who fills a field: the instrument's header (the sidecar only where it is silent), the person, or this program."""

ELECTRON_BEAM: tuple[Technique, ...] = ("TEM", "HRTEM", "STEM", "SEM", "DIFFRACTION")
REQUIRED = ("technique", "acquired_at", "sample_id", "material_formula", "licence")
PIXEL_SIZES = ("pixel_size_y_nm", "pixel_size_x_nm")
RECIPROCAL_PIXEL_SIZES = ("reciprocal_pixel_size_y_per_nm", "reciprocal_pixel_size_x_per_nm")
REQUIRED_OF_ELECTRONS = ("acceleration_voltage_kv",)
REQUIRED_OF_TUNNELLING = ("bias_voltage_v", "setpoint_current_a")

SIDECAR_SUFFIX = ".meta.yaml"
_FRACTION = re.compile(r"\d*\.\d+")
_LARGEST_SIDECAR_BYTES = 2**20


class SidecarError(ValueError):
    """A sidecar file cannot be used; the message names the file, the field and what is wanted."""


def elements_of(formula: str) -> set[str]:
    """Symbols of the elements of a formula, which may hold fractions.

    Raises:
        ValueError: no chemical formula.
    """
    from ase.data import atomic_numbers
    from ase.formula import Formula

    try:
        species = set(Formula(_FRACTION.sub("1", formula)).count())
    except (ValueError, KeyError) as error:
        raise ValueError(f"{formula!r} is no chemical formula") from error
    if not species or not species <= set(atomic_numbers) - {"X"}:
        raise ValueError(f"{formula!r} is no chemical formula")
    return species


def _checked_formula(text: str) -> str:
    elements_of(text)
    return text


def _checked_direction(indices: tuple[int, int, int]) -> tuple[int, int, int]:
    if not any(indices) or max(abs(index) for index in indices) > 12:
        raise ValueError("three integers from -12 to 12, not all zero")
    return indices


ChemicalFormula = Annotated[str, AfterValidator(_checked_formula)]
Direction = Annotated[tuple[int, int, int], AfterValidator(_checked_direction)]


def _fact(description: str, *, by: FilledBy, default: Any = None, unit: str = "", **bounds: Any) -> Any:
    extra: dict[str, Any] = {"filled_by": by}
    if unit:
        extra["unit"] = unit
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


class Record(BaseModel):
    """What is known of one image; frozen. Empty fields are None: nothing is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    record_id: str = _fact("16 digits of the pixels' SHA-256, and the image's number.", by="derived", default=...)
    file_sha256: str = _fact("SHA-256 of the file.", by="derived", default=..., pattern=r"^[0-9a-f]{64}$")
    pixel_sha256: str = _fact(
        "SHA-256 of number type, shape and little-endian pixels: the same image in any container.",
        by="derived",
        default=...,
        pattern=r"^[0-9a-f]{64}$",
    )
    original_filename: str = _fact("Name of the file as received; never used as a path.", by="derived", default=...)
    size_bytes: int = _fact("Size of the file.", by="derived", default=..., unit="B", ge=1)
    source_format: str = _fact("Format by content.", by="derived", default=...)
    reader: str = _fact("Reader of the format.", by="derived", default=...)
    reader_version: str = _fact("Its version, with that of its library.", by="derived", default=...)
    profiles: tuple[str, ...] = _fact("Profiles that translated the header.", by="derived", default=())
    signal_index: int = _fact("Number of the image within its file, from 0.", by="derived", default=0, ge=0)
    signal_name: str = _fact("The file's name for the image.", by="derived", default="")
    shape_y: int = _fact("Rows.", by="derived", default=..., unit="px", ge=1)
    shape_x: int = _fact("Columns.", by="derived", default=..., unit="px", ge=1)
    n_frames: int = _fact("Frames of the same field.", by="derived", default=1, ge=1)
    dtype: str = _fact("Number type of the pixels as in the file.", by="derived", default=...)
    quantity: str | None = _fact("What the pixels measure, e.g. Z or Current.", by="header")
    intensity_scale: float = _fact("Value = scale · pixel + offset.", by="derived", default=1.0)
    intensity_offset: float = _fact("Value = scale · pixel + offset.", by="derived", default=0.0)
    intensity_unit: str | None = _fact("Unit of the value.", by="header")

    technique: Technique | None = _fact("Kind of microscopy.", by="header")
    imaging_mode: ImagingMode | None = _fact("Contrast or feedback.", by="header")
    instrument_name: str | None = _fact("Name of the microscope.", by="header")
    instrument_vendor: str | None = _fact("Its maker.", by="header")
    instrument_id: str | None = _fact("Its serial or inventory number.", by="header")
    acceleration_voltage_kv: float | None = _fact("Acceleration voltage.", by="header", unit="kV", ge=0.1, le=3000)
    detector: str | None = _fact("Detector or camera.", by="header")
    pixel_size_y_nm: float | None = _fact("Edge of a pixel along y.", by="header", unit="nm", ge=1e-4, le=1e4)
    pixel_size_x_nm: float | None = _fact("Edge of a pixel along x.", by="header", unit="nm", ge=1e-4, le=1e4)
    reciprocal_pixel_size_y_per_nm: float | None = _fact(
        "Edge of a pixel of a diffraction pattern along y.", by="header", unit="1/nm", gt=0, le=1e4
    )
    reciprocal_pixel_size_x_per_nm: float | None = _fact(
        "Edge of a pixel of a diffraction pattern along x.", by="header", unit="1/nm", gt=0, le=1e4
    )
    calibration_source: CalibrationSource = _fact("Where the pixel size comes from.", by="derived", default="none")
    field_of_view_y_nm: float | None = _fact("Rows × pixel size.", by="derived", unit="nm", gt=0)
    field_of_view_x_nm: float | None = _fact("Columns × pixel size.", by="derived", unit="nm", gt=0)
    magnification: float | None = _fact("Indicated magnification.", by="header", unit="x", gt=0)
    camera_length_mm: float | None = _fact("Camera length.", by="header", unit="mm", gt=0, le=1e5)
    convergence_semi_angle_mrad: float | None = _fact("Convergence semi-angle.", by="header", unit="mrad", ge=0, le=200)
    collection_inner_mrad: float | None = _fact("Inner collection semi-angle.", by="header", unit="mrad", ge=0, le=1000)
    collection_outer_mrad: float | None = _fact("Outer collection semi-angle.", by="header", unit="mrad", gt=0, le=1600)
    defocus_nm: float | None = _fact(
        "Defocus, signed as the instrument's software does.", by="header", unit="nm", ge=-1e6, le=1e6
    )
    beam_current_pa: float | None = _fact("Current in the beam.", by="header", unit="pA", gt=0)
    dwell_time_us: float | None = _fact("Time per pixel of a scan.", by="header", unit="us", gt=0)
    exposure_s: float | None = _fact("Exposure of a camera frame.", by="header", unit="s", gt=0)
    dose_e_per_a2: float | None = _fact("Electrons per Å² of one frame.", by="header", unit="e/A2", gt=0)
    bias_voltage_v: float | None = _fact("Sample bias.", by="header", unit="V", ge=-100, le=100)
    setpoint_current_a: float | None = _fact("Set-point of the tunnelling current.", by="header", unit="A")
    temperature_k: float | None = _fact("Temperature of the sample.", by="header", unit="K", ge=0, le=5000)
    scan_angle_deg: float | None = _fact("Rotation of the scan.", by="header", unit="deg", ge=-360, le=360)
    tilt_alpha_deg: float | None = _fact("Tilt α of the stage.", by="header", unit="deg", ge=-90, le=90)
    tilt_beta_deg: float | None = _fact("Tilt β of the stage.", by="header", unit="deg", ge=-90, le=90)
    acquired_at: datetime | None = _fact("When the image was taken.", by="header")
    is_time_zone_assumed: bool = _fact("Whether UTC was assumed for it.", by="derived", default=False)
    operator: str | None = _fact("Who took it; a pseudonym in exported images.", by="header")

    sample_id: str | None = _fact("Sample: all its images go to the same split.", by="sidecar", max_length=100)
    material_formula: ChemicalFormula | None = _fact("Chemical formula, e.g. Fe3O4.", by="sidecar", max_length=100)
    phase: str | None = _fact("Phase, with the space group and its setting.", by="sidecar", max_length=200)
    phase_source: str | None = _fact("Where the phase comes from, e.g. XRD.", by="sidecar", max_length=200)
    zone_axis_uvw: Direction | None = _fact("Zone axis [u, v, w].", by="sidecar")
    facet_hkl: Direction | None = _fact("Facet (h, k, l) as measured, e.g. [4, 0, 0].", by="sidecar")
    facet_source: FacetSource | None = _fact("Who assigned the facet.", by="sidecar")
    facet_confidence: float | None = _fact("Confidence of the facet.", by="sidecar", ge=0, le=1)
    morphology: Morphology | None = _fact("Shape of the particles.", by="sidecar")
    synthesis_method: str | None = _fact("Synthesis, e.g. thermal decomposition.", by="sidecar", max_length=200)
    synthesis_parameters: dict[str, str | float | int] | None = _fact("Its parameters, e.g. T_C: 300.", by="sidecar")
    preparation: str | None = _fact("Preparation of the sample.", by="sidecar", max_length=500)
    support: str | None = _fact("Grid or substrate, e.g. C on Cu, 300 mesh.", by="sidecar", max_length=200)
    labels: dict[str, str | float | int] | None = _fact("Labels for training, e.g. lattice: hexagonal.", by="sidecar")
    annotator: str | None = _fact("Who labelled; a pseudonym in exported images.", by="sidecar", max_length=100)
    licence: str | None = _fact("SPDX name of the licence.", by="sidecar", max_length=64)
    project: str | None = _fact("Project.", by="sidecar", max_length=100)
    notes: str | None = _fact("Anything else.", by="sidecar", max_length=2000)

    extensions: dict[str, Any] = _fact("Further fields of an instrument, `x_…`.", by="derived", default={})
    missing_fields: tuple[str, ...] = _fact("Required fields that are empty.", by="derived", default=())
    warnings: tuple[str, ...] = _fact("What a user should know.", by="derived", default=())
    original_metadata: dict[str, Any] = _fact("The file's header.", by="derived", default={})
    schema_version: str = _fact("Version of this model.", by="derived", default=SCHEMA_VERSION)

    @model_validator(mode="after")
    def _are_angles_ordered(self) -> Record:
        inner, outer = self.collection_inner_mrad, self.collection_outer_mrad
        if inner is not None and outer is not None and inner >= outer:
            raise ValueError("collection_inner_mrad must be below collection_outer_mrad")
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether lengths can be measured in the image."""
        return self.pixel_size_y_nm is not None and self.pixel_size_x_nm is not None


def fields_filled_by(*fillers: FilledBy) -> tuple[str, ...]:
    """Names of the record's fields that a header, a person or this program fills."""
    return tuple(name for name in Record.model_fields if _extra(name)["filled_by"] in fillers)


def unit_of(name: str) -> str:
    """Unit of a field; empty if it has none."""
    return str(_extra(name).get("unit", ""))


def filler_of(name: str) -> FilledBy:
    """Who fills a field."""
    filler: FilledBy = _extra(name)["filled_by"]
    return filler


def vocabulary_of(name: str) -> tuple[str, ...]:
    """The words that a field takes; empty if it takes any."""
    return _words(Record.model_fields[name].annotation)


def _words(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return next((words for part in get_args(annotation) if (words := _words(part))), ())
    return ()


def _extra(name: str) -> dict[str, Any]:
    extra = Record.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def required_of(technique: str | None) -> tuple[str, ...]:
    """Fields that a complete record of a technique has, the edges of a pixel among them."""
    sizes = RECIPROCAL_PIXEL_SIZES if technique == "DIFFRACTION" else PIXEL_SIZES
    if technique in ELECTRON_BEAM:
        return (*REQUIRED, *REQUIRED_OF_ELECTRONS, *sizes)
    if technique == "STM":
        return (*REQUIRED, *REQUIRED_OF_TUNNELLING, *sizes)
    return (*REQUIRED, *sizes)


@cache
def sidecar_model() -> type[BaseModel]:
    """The model of a sidecar file: every field that a person may fill, all optional, with the record's own checks."""
    names = fields_filled_by("header", "sidecar")
    fields: dict[str, Any] = {name: (Record.model_fields[name].annotation, Record.model_fields[name]) for name in names}
    return create_model(
        "Sidecar",
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False),
        __doc__="What a person says of an image; every field may be left out.",
        **fields,
    )


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a file is: beside it, ``<name>.meta.yaml``."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def read_sidecar(path: Path) -> dict[str, Any]:
    """What a sidecar file says: checked values by field; empty if there is no such file.

    Raises:
        SidecarError: no YAML, an unknown field, or a value that the field does not take.
    """
    if not path.is_file() or path.is_symlink():
        return {}
    if path.stat().st_size > _LARGEST_SIDECAR_BYTES:
        raise SidecarError(f"{path.name}: more than {_LARGEST_SIDECAR_BYTES} bytes")
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SidecarError(f"{path.name}: no YAML: {' '.join(str(error).split())[:200]}") from error
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise SidecarError(f"{path.name}: fields with values are wanted, such as `material_formula: Fe3O4`")
    return checked_values(told, path.name)


def checked_values(told: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """Values by field, checked and converted as the record wants them.

    Args:
        told: values by field.
        name: what to call them in a message.

    Raises:
        SidecarError: an unknown field, or a value that the field does not take.
    """
    try:
        values = sidecar_model().model_validate({str(key): value for key, value in told.items()})
    except ValidationError as error:
        faults = "; ".join(f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:5])
        raise SidecarError(f"{name}: {faults}") from error
    return {key: value for key, value in values if value is not None}


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location[:1]) or "the file"


def write_sidecar(path: Path, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Write a sidecar file: what is given, and the other fields as comments with unit, words and what the header says.

    Args:
        path: of the sidecar file; replaced at once.
        values: by field.
        known: the record's values, for the comments.
    """
    lines = ["# What the file's header does not say. Fields filled by the header are kept from there."]
    for name in fields_filled_by("sidecar", "header"):
        note = _note(name)
        if name in values:
            lines.append(f"{_yaml_line(name, values[name])}  # {note}")
        else:
            told = f" (header: {' '.join(str(known[name]).split())})" if known.get(name) is not None else ""
            lines.append(f"# {name}:  # {note}{told}")
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _note(name: str) -> str:
    words = vocabulary_of(name)
    parts = [Record.model_fields[name].description or "", f"[{unit_of(name)}]" if unit_of(name) else ""]
    return " ".join(part for part in (*parts, f"One of {', '.join(words)}." if words else "") if part)


def _yaml_line(name: str, value: Any) -> str:
    """JSON is YAML of one line."""
    return f"{name}: {json.dumps(value, default=str, ensure_ascii=False)}"
