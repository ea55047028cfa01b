"""TIFF and OME-TIFF, read by tifffile; calibration from whichever program wrote it.

Belongs here: OME-XML, this project's own files, DigitalMicrograph's export, Thermo Fisher (FEI) and Zeiss SEM, TVIPS,
JEOL, Olympus, ImageJ, and plain resolution tags where they can only mean a microscope's pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.readers.xml import as_dict, parse
from atomvision_ml.experiments.reading import (
    Axis,
    Picture,
    Reading,
    ReadLimits,
    UnreadableError,
    check_claim,
    collected,
    grey,
    picture_kind,
    plain,
)
from atomvision_ml.experiments.units import UnitError, convert, normalised

Calibration = tuple[Axis, Axis]

_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_LARGEST_PLAIN_PIXEL_NM = 1000.0
"""A coarser resolution tag is a printer's or a screen's."""
_ZEISS_COLUMNS = 1024
_NM = {"inch": 2.54e7, "cm": 1e7}


def read(path: Path, limits: ReadLimits) -> Reading:
    """The images of a TIFF file, pages of one kind as a stack. No other file is opened, whatever the header says.

    Raises:
        UnreadableError: damaged, cut, coloured, compressed in a way that needs another library, or too large.
    """
    import tifffile

    file_bytes = path.stat().st_size
    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            return collected(_pictures(file, file_bytes, limits), limits)
    except (tifffile.TiffFileError, KeyError) as error:
        raise UnreadableError(f"a damaged TIFF file, or a compression that is not installed: {error}") from error


def _pictures(file: Any, file_bytes: int, limits: ReadLimits) -> Iterator[Picture | str]:
    told = header(file)
    for index, series in enumerate(file.series):
        for page in series.pages:
            _check_page(page, file_bytes)
        check_claim(series.shape, series.dtype.itemsize, file_bytes, limits)
        yield _picture(series, _series_calibration(file, index, told), told)


def _series_calibration(file: Any, index: int, told: dict[str, Any]) -> Calibration:
    """OME-XML calibrates each series; other headers the first page, and series of its size with it."""
    ome = told.get("OME")
    if ome is not None:
        listed = ome["Pixels"]
        return calibration(told | {"OME": {"Pixels": listed[index] if index < len(listed) else {}}})
    first, page = file.pages.first, file.series[index].keyframe
    is_as_first = (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth)
    return calibration(told) if is_as_first else (Axis(), Axis())


def _picture(series: Any, axes: Calibration, told: dict[str, Any]) -> Picture | str:
    name = str(series.name or "")
    pixels = _decoded(series)
    if "S" in series.axes:
        colourless = grey(np.moveaxis(pixels, series.axes.index("S"), -1))
        if colourless is None:
            return f"{name or 'an image'}: a colour picture, not measured values"
        pixels = colourless
    pixels = pixels.squeeze(axis=tuple(place for place in range(pixels.ndim - 2) if pixels.shape[place] == 1))
    unfit = picture_kind(pixels)
    if unfit is not None:
        return f"{name or 'an image'}: {unfit}"
    return Picture(pixels=pixels, y=axes[0], x=axes[1], name=name, header=told)


def _decoded(series: Any) -> np.ndarray:
    try:
        return series.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise UnreadableError(f"{error}: pip install 'atomvision[codecs]'") from error
        raise


def _check_page(page: Any, file_bytes: int) -> None:
    """tifffile returns zeros for what is missing; a cut file is refused instead."""
    if page is None:
        raise UnreadableError("the TIFF file lacks a page")
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > file_bytes or 0 in page.databytecounts:
        raise UnreadableError("the TIFF file is cut: its pixels end after the file does")
    if page.compression == 1 and sum(page.databytecounts) < page.nbytes:
        raise UnreadableError(f"the TIFF file has {sum(page.databytecounts)} of {page.nbytes} bytes of pixels")


def header(file: Any) -> dict[str, Any]:
    """What the file says of itself, by the program that said it."""
    page = file.pages.first
    told: dict[str, Any] = {"tags": _tags(page)}
    sources = {
        "FEI": file.fei_metadata,
        "Zeiss": _zeiss(file.sem_metadata, page.imagewidth),
        "TVIPS": page.tags.valueof("TVIPS", None),
        "SIS": file.sis_metadata,
        "ImageJ": file.imagej_metadata,
    }
    told |= {name: plain(value) for name, value in sources.items() if isinstance(value, Mapping) and value}
    description = page.description or ""
    if file.is_ome and file.ome_metadata:
        told["OME"] = plain(_ome(file.ome_metadata))
    elif description.lstrip().startswith("<?xml") and "<TemReporter" in description:
        document, end, _ = description.partition("</TemReporter>")
        told["JEOL"] = plain(as_dict(parse(document + end)))
    elif description.lstrip().startswith("{"):
        told |= _own(description)
    return told


def _tags(page: Any) -> dict[str, Any]:
    wanted = (271, 272, 282, 283, 296, 305, 306, 315, *range(65003, 65027))
    return {str(tag.code): plain(tag.value) for tag in page.tags.values() if tag.code in wanted}


def _zeiss(told: Mapping[str, Any] | None, width: int) -> dict[str, Any] | None:
    """Entries such as ``ap_actualkv: (EHT, 5.0, kV)`` as text with a unit.

    The fourth number of the nameless entry is the pixel size in m of an image of 1024 columns.
    """
    if not isinstance(told, Mapping):
        return None
    texts = {
        key: " ".join(str(part) for part in value[1:])
        for key, value in told.items()
        if key and isinstance(value, tuple) and len(value) > 1
    }
    numbers = told.get("", ())
    size_m = _number(numbers[3]) if len(numbers) > 3 else None
    return texts | ({"pixel_size_m": size_m * _ZEISS_COLUMNS / width} if size_m else {})


def _ome(text: str) -> dict[str, Any]:
    root = parse(text)
    return as_dict(root) | {"Pixels": [dict(pixels.attrib) for pixels in root.iterfind(".//{*}Pixels")]}


def _own(description: str) -> dict[str, Any]:
    try:
        told = json.loads(description)
    except (ValueError, RecursionError):
        return {}
    return {"AtomVision": plain(told)} if isinstance(told, dict) and "pixel_size_angstrom" in told else {}


def calibration(told: Mapping[str, Any]) -> Calibration:
    """Edges (y, x) of a pixel, from the first program's header that tells both."""
    for source in _SOURCES:
        axes = source(told)
        if axes is not None and all(axis.scale is not None and axis.scale > 0 for axis in axes):
            return axes
    return _resolution(told["tags"], told.get("ImageJ"))


def _own_axes(told: Mapping[str, Any]) -> Calibration | None:
    size = told.get("AtomVision", {}).get("pixel_size_angstrom")
    return (Axis(size, "A"), Axis(size, "A")) if isinstance(size, int | float) else None


def _ome_axes(told: Mapping[str, Any]) -> Calibration | None:
    pixels = told.get("OME", {}).get("Pixels", {})
    return _pair(
        (pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeYUnit", "µm")),
        (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")),
    )


def _fei_axes(told: Mapping[str, Any]) -> Calibration | None:
    fei = told.get("FEI", {})
    for scan in (fei.get(name, {}) for name in ("Scan", "EScan", "IScan")):
        if scan.get("PixelHeight") and scan.get("PixelWidth"):
            return _pair((scan["PixelHeight"], "m"), (scan["PixelWidth"], "m"))
    return None


def _zeiss_axes(told: Mapping[str, Any]) -> Calibration | None:
    size = told.get("Zeiss", {}).get("pixel_size_m")
    return _pair((size, "m"), (size, "m"))


def _gatan_axes(told: Mapping[str, Any]) -> Calibration | None:
    tags = told["tags"]
    return _pair((tags.get("65010"), tags.get("65004", "")), (tags.get("65009"), tags.get("65003", "")))


def _tvips_axes(told: Mapping[str, Any]) -> Calibration | None:
    tvips = told.get("TVIPS", {})
    unit = "nm" if tvips.get("TemMode", 0) == 0 else "1/nm"
    return _pair((tvips.get("PixelSizeY"), unit), (tvips.get("PixelSizeX"), unit))


def _jeol_axes(told: Mapping[str, Any]) -> Calibration | None:
    """The resolution tags are of the screen: over the magnification, or over camera length times wavelength."""
    forming = told.get("JEOL", {}).get("ImageFormingSystem", {})
    pitch_m = [_ratio(told["tags"].get(code)) for code in ("283", "282")]
    value, unit = _number(forming.get("SelectorValue")), str(forming.get("SelectorUnitString", ""))
    if not value or None in pitch_m:
        return None
    y, x = (0.0254 / ratio for ratio in pitch_m if ratio)
    if normalised(unit) == "X":
        is_image = told["JEOL"].get("Eos", {}).get("EosMode") == "eosTEM"
        return (Axis(y / value, "m"), Axis(x / value, "m")) if is_image else None
    voltage_v = _number(told["JEOL"].get("ElectronGun", {}).get("AccelerationVoltage"))
    try:
        length_m = convert(value, unit, "m")
    except UnitError:
        return None
    if not voltage_v:
        return None
    scale_m2 = length_m * wavelength_m(voltage_v)
    return Axis(y / scale_m2, "1/m"), Axis(x / scale_m2, "1/m")


def wavelength_m(voltage_v: float) -> float:
    """Relativistic de Broglie wavelength of an electron."""
    from scipy.constants import c, e, h, m_e

    return h / math.sqrt(2 * m_e * e * voltage_v * (1 + e * voltage_v / (2 * m_e * c**2)))


def _sis_axes(told: Mapping[str, Any]) -> Calibration | None:
    sis = told.get("SIS", {})
    return _pair((sis.get("pixelsizey"), "m"), (sis.get("pixelsizex"), "m"))


_SOURCES: tuple[Callable[[Mapping[str, Any]], Calibration | None], ...] = (
    _own_axes,
    _ome_axes,
    _fei_axes,
    _zeiss_axes,
    _gatan_axes,
    _tvips_axes,
    _jeol_axes,
    _sis_axes,
)


def _pair(y: tuple[Any, str], x: tuple[Any, str]) -> Calibration | None:
    axes = tuple(Axis(_number(size), str(unit)) for size, unit in (y, x))
    return (axes[0], axes[1]) if all(axis.scale is not None and axis.unit for axis in axes) else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _resolution(tags: Mapping[str, Any], imagej: Mapping[str, Any] | None) -> Calibration:
    """ImageJ gives pixels per its own unit; other programs per inch or cm, believed below 1 µm per pixel only."""
    pixels_per = [_ratio(tags.get(code)) for code in ("283", "282")]
    if None in pixels_per:
        return Axis(), Axis()
    y, x = (1 / ratio for ratio in pixels_per if ratio)
    if imagej is not None:
        unit = str(imagej.get("unit", "")).replace("\\u00B5", "µ")
        return (Axis(y, unit), Axis(x, unit)) if unit else (Axis(), Axis())
    unit = _RESOLUTION_UNITS.get(int(tags.get("296", 0) or 0), "")
    if not unit or max(y, x) * _NM[unit] > _LARGEST_PLAIN_PIXEL_NM:
        return Axis(), Axis()
    return Axis(y, unit), Axis(x, unit)


def _ratio(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 2 and value[0] and value[1]:
        return float(value[0]) / float(value[1])
    return None
