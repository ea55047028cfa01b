"""Scale bars in micrographs: where the bar is, and what its text says.

Belongs here: pixels to a length in px and in nm. What captions state is in
:mod:`atomvision_ml.literature.scale_statements`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from atomvision_ml.literature.text_reading import Box, Line, ReadText, line_image, text_lines

_IN_NM = {"nm": 1.0, "angstrom": 0.1, "um": 1e3, "mm": 1e6}

_NUMBER = r"(\d+(?:[.,]\d+)?|[lI])"
_RECIPROCAL = re.compile(rf"{_NUMBER}\s*(?:1/|/\s*)(?:nm|[AÅ])|{_NUMBER}\s*(?:nm|[AÅ])\s*[-–⁻−]\s*[1¹lI]")
_LENGTH = re.compile(rf"{_NUMBER}\s*(nm|n[mn]|[AÅ](?![a-z])|[µμu]m|[µμu]rn|pm|mm)", re.IGNORECASE)

_SHARP = 30
"""Step in grey values between a bar and what surrounds it."""


@dataclass(frozen=True)
class ScaleBarReading:
    """A scale bar as found in an image.

    Attributes:
        box: of the bar in px.
        length_px: its length.
        length_nm: what its text says; None where it was not read.
        is_reciprocal: whether its text is a reciprocal length, as in diffractograms.
        confidence: of bar and length, 0 to 1.
    """

    box: Box
    length_px: float
    length_nm: float | None
    is_reciprocal: bool
    confidence: float


def length_nm(value: float, unit: str) -> float | None:
    """A length in nm; None for reciprocal units.

    Args:
        value: in that unit.
        unit: as in :class:`atomvision_ml.literature.scale_statements.ScaleBar`.
    """
    return value * _IN_NM[unit] if unit in _IN_NM else None


def parse_length(text: str) -> tuple[float | None, bool] | None:
    """Length in nm and whether it is reciprocal (then without length); None for a text that is no length.

    What recognisers take for another is taken back: "l nm" is 1 nm, "pm" is µm (bars of picometres are not drawn).
    """
    if _RECIPROCAL.search(text):
        return None, True
    match = _LENGTH.search(text)
    if match is None:
        return None
    value = 1.0 if match[1] in "lI" else float(match[1].replace(",", "."))
    written = match[2].lower()
    unit = {"å": "angstrom", "a": "angstrom", "mm": "mm"}.get(written, "nm" if written[0] == "n" else "um")
    return (value * _IN_NM[unit], False) if value > 0 else None


def read_scale_bar(image: np.ndarray, read_text: ReadText | None = None) -> ScaleBarReading | None:
    """The scale bar of a micrograph; None where there is none.

    Args:
        image: one panel, uint8 [y, x, 3].
        read_text: recogniser; without it bars are found and not read.
    """
    grey = image.mean(axis=-1).astype(np.uint8)
    readings = []
    for bar in find_bars(grey)[:3]:
        reading = ScaleBarReading(bar.box, bar.length_px, None, False, 0.6 * bar.confidence)
        if read_text is not None:
            reading = _with_text(image, grey, reading, read_text)
        readings.append(reading)
    return max(readings, key=lambda reading: reading.confidence, default=None)


def find_bars(grey: np.ndarray) -> list[ScaleBarReading]:
    """Horizontal rectangles of one extreme grey value with sharp edges, the likeliest first.

    Args:
        grey: uint8 [y, x].
    """
    bars = [bar for is_bright in (True, False) for bar in _bars(grey, is_bright)]
    return sorted(bars, key=lambda bar: -bar.confidence)


def _bars(grey: np.ndarray, is_bright: bool) -> list[ScaleBarReading]:
    from scipy import ndimage

    height, width = grey.shape
    if min(height, width) < 24:
        return []
    mask = grey >= 225 if is_bright else grey <= 30
    least = max(8, round(0.04 * width))
    opened = ndimage.binary_opening(mask, np.ones((1, least), bool))
    components, _ = ndimage.label(opened)
    bars = []
    for rows, columns in ndimage.find_objects(components):
        box = (columns.start, rows.start, columns.stop, rows.stop)
        confidence = _bar_confidence(grey, mask, box)
        if confidence > 0:
            bars.append(ScaleBarReading(box, float(box[2] - box[0]), None, False, confidence))
    return bars


def _bar_confidence(grey: np.ndarray, mask: np.ndarray, box: Box) -> float:
    left, top, right, bottom = box
    height, width = grey.shape
    length, thickness = right - left, bottom - top
    if not (length >= 3 * thickness and length <= 0.75 * width and thickness <= max(4, 0.06 * height)):
        return 0.0
    if left < 2 or top < 2 or right > width - 2 or bottom > height - 2:
        return 0.0
    filled = mask[top:bottom, left:right].mean()
    level = float(np.median(grey[top:bottom, left:right]))
    beside = (
        grey[max(0, top - 3), left:right],
        grey[min(height - 1, bottom + 2), left:right],
        grey[top:bottom, max(0, left - 3)],
        grey[top:bottom, min(width - 1, right + 2)],
    )
    contrast = min(float((np.abs(each.astype(float) - level) >= _SHARP).mean()) for each in beside)
    if filled < 0.85 or contrast < 0.7:
        return 0.0
    low = (top + bottom) / 2 / height
    return float(filled * contrast * (0.7 + 0.3 * math.sqrt(max(low, 1 - low))))


def _with_text(image: np.ndarray, grey: np.ndarray, reading: ScaleBarReading, read_text: ReadText) -> ScaleBarReading:
    for line in _lines_beside(grey, reading.box)[:6]:
        text, confidence = read_text(line_image(image, line))
        parsed = parse_length(text)
        if parsed is not None:
            value, is_reciprocal = parsed
            sure = math.sqrt(reading.confidence / 0.6 * confidence)
            return replace(reading, length_nm=value, is_reciprocal=is_reciprocal, confidence=min(1.0, sure))
    return replace(reading, confidence=0.5 * reading.confidence)


def _lines_beside(grey: np.ndarray, box: Box) -> list[Line]:
    """Lines of text around a bar, the nearest first."""
    height, width = grey.shape
    reach_y, reach_x = max(40, round(0.16 * height)), max(40, round(0.25 * width))
    left, top = max(0, box[0] - reach_x), max(0, box[1] - reach_y)
    window = grey[top : min(height, box[3] + reach_y), left : min(width, box[2] + reach_x)].copy()
    level = float(np.median(grey[box[1] : box[3], box[0] : box[2]]))
    around = float(np.median(window))
    window[max(0, box[1] - top - 1) : box[3] - top + 1, max(0, box[0] - left - 1) : box[2] - left + 1] = round(around)
    tallest = max(12, round(0.14 * height))
    lines = []
    for is_bright in (level > around, level <= around):
        divide = (0.5 * (max(level, 200) + around)) if is_bright else (0.5 * (min(level, 55) + around))
        for line in text_lines(window, is_bright, divide, (6, tallest)):
            x0, y0, x1, y1 = line.box
            if x1 - x0 >= 1.2 * (y1 - y0):
                lines.append(replace(line, box=(x0 + left, y0 + top, x1 + left, y1 + top)))
    return sorted(lines, key=lambda line: _distance(line.box, box))


def _distance(first: Box, second: Box) -> float:
    across = max(0, first[0] - second[2], second[0] - first[2])
    down = max(0, first[1] - second[3], second[1] - first[3])
    return math.hypot(across, down)
