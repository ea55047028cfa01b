"""Panels of composite figures in their images: box, kind of picture, scale bar.

Belongs here: the reading of one image as a whole, made of :mod:`.panel_cuts`, :mod:`.pixel_kind` and
:mod:`.scale_bars`, and which box bears which letter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from atomvision_ml.literature.panel_cuts import divide, reading_order
from atomvision_ml.literature.pixel_kind import PixelKind, pixel_kind
from atomvision_ml.literature.scale_bars import read_scale_bar
from atomvision_ml.literature.text_reading import Box, ReadText, TextReader

_LARGEST_PX = 1600
"""Edge to which larger images are reduced: gutters and letters survive it, memory stays bounded."""

_LEAST_PX = 16
_LEAST_CONFIDENCE = 0.2

_CORNER_PX = 72
"""Edge of the corner of a panel in which its letter is looked for, and a third of it around."""

_MOST_LETTERS = 3

_LETTER = re.compile(r"[(\[]?\s?(\w{1,4})\s?[)\].:]?")


@dataclass(frozen=True)
class PanelReading:
    """What the image says of one panel; the fields are columns of ``literature/panels``."""

    label: str
    image_status: Literal["matched", "ambiguous", "unreadable", "absent"]
    box_px: Box | None = None
    box_confidence: float | None = None
    image_kind: PixelKind | None = None
    scale_bar_nm: float | None = None
    scale_bar_source: Literal["image", "caption"] | None = None
    scale_bar_px: float | None = None
    scale_bar_confidence: float | None = None
    pixel_size_nm: float | None = None


def read_panels(
    image: np.ndarray,
    labels: Sequence[str],
    stated_nm: Mapping[str, float | None],
    read_text: ReadText | None = None,
) -> list[PanelReading]:
    """What an image says of the panels that its caption names.

    Args:
        image: uint8 [y, x, 3].
        labels: of the panels in this image, as the caption writes them; ``[""]`` for a figure of one panel.
        stated_nm: by label, the length that the caption states for the scale bar, in nm.
        read_text: recogniser of :func:`atomvision_ml.literature.text_reading.open_text_reader`; without it lengths
            come from the caption only, and boxes get their labels row by row.

    Returns:
        One reading for each label, in the order of the labels.

    Raises:
        ValueError: no labels, or not an image of that form.
    """
    if not labels:
        raise ValueError("labels: none is given; give [''] for a figure of one panel")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: uint8 [y, x, 3] is wanted, not {image.dtype} of shape {image.shape}")
    if min(image.shape[:2]) < _LEAST_PX:
        return [_with_stated(PanelReading(label, "unreadable"), stated_nm) for label in labels]
    small, factor = _reduced(image)
    division = divide(small, len(labels))
    if division is None or (len(labels) > 1 and division.confidence < _LEAST_CONFIDENCE):
        whole = (0, 0, image.shape[1], image.shape[0])
        kind, _ = pixel_kind(small)
        return [_with_stated(PanelReading(label, "ambiguous", whole, 0.0, kind), stated_nm) for label in labels]
    readings = []
    for label, box in zip(labels, _in_order(small, division.boxes, labels, read_text), strict=True):
        left, top, right, bottom = box
        panel = small[top:bottom, left:right]
        kind, _ = pixel_kind(panel)
        confidence = division.confidence if len(labels) > 1 else 1.0
        reading = PanelReading(label, "matched", _enlarged(box, factor, image.shape), confidence, kind)
        if kind == "micrograph":
            reading = _with_scale_bar(reading, panel, factor, stated_nm.get(label), read_text)
        readings.append(_with_stated(reading, stated_nm))
    return readings


def _in_order(
    image: np.ndarray, boxes: Sequence[Box], labels: Sequence[str], read_text: ReadText | None
) -> Sequence[Box]:
    """Boxes row by row; column by column where the letters in the image say so.

    Letters are read only where both orders differ, of the first boxes that do.
    """
    columns = reading_order(list(boxes), by_column=True)
    by_row, by_column = (dict(zip(each, labels, strict=True)) for each in (boxes, columns))
    differing = [box for box in boxes if by_row[box] != by_column[box]][:_MOST_LETTERS]
    if not differing or not isinstance(read_text, TextReader):
        return boxes
    votes = 0
    for box in differing:
        letters = _letters(image, box, read_text)
        votes += (by_column[box].lower() in letters) - (by_row[box].lower() in letters)
    return columns if votes > 0 else boxes


def _letters(image: np.ndarray, box: Box, reader: TextReader) -> set[str]:
    """What could be the letter of a panel, in its upper left corner or just outside of it, in lower case."""
    left, top, margin = box[0], box[1], _CORNER_PX // 3
    corner = image[max(0, top - margin) : top + _CORNER_PX, max(0, left - margin) : left + _CORNER_PX]
    texts = reader.find(corner.repeat(2, axis=0).repeat(2, axis=1))
    return {match[1].lower() for text, _, _ in texts if (match := _LETTER.fullmatch(text.strip()))}


def _with_stated(reading: PanelReading, stated_nm: Mapping[str, float | None]) -> PanelReading:
    """A reading without a length gets the one that the caption states."""
    length_nm = stated_nm.get(reading.label)
    if reading.scale_bar_nm is not None or length_nm is None:
        return reading
    return replace(reading, scale_bar_nm=length_nm, scale_bar_source="caption")


def _with_scale_bar(
    reading: PanelReading, panel: np.ndarray, factor: int, stated_nm: float | None, read_text: ReadText | None
) -> PanelReading:
    bar = read_scale_bar(panel, read_text)
    if bar is None or bar.is_reciprocal:
        return reading
    read_nm = None if stated_nm and _has_other_unit(bar.length_nm, stated_nm) else bar.length_nm
    length_nm = read_nm or stated_nm
    length_px = bar.length_px * factor
    return replace(
        reading,
        scale_bar_nm=length_nm,
        scale_bar_source=("image" if read_nm else "caption") if length_nm else None,
        scale_bar_px=length_px,
        scale_bar_confidence=bar.confidence,
        pixel_size_nm=length_nm / length_px if length_nm else None,
    )


def _has_other_unit(read_nm: float | None, stated_nm: float) -> bool:
    """Whether two lengths differ by a power of ten only: then the recogniser took a unit for another."""
    if read_nm is None:
        return False
    decades = math.log10(read_nm / stated_nm)
    return abs(decades) > 0.5 and abs(decades - round(decades)) < 0.01


def _reduced(image: np.ndarray) -> tuple[np.ndarray, int]:
    """The image, averaged over squares of whole pixels if it is large, and the edge of these squares."""
    from PIL import Image

    factor = -(-max(image.shape[:2]) // _LARGEST_PX)
    return (image, 1) if factor == 1 else (np.asarray(Image.fromarray(image).reduce(factor)), factor)


def _enlarged(box: Box, factor: int, shape: tuple[int, ...]) -> Box:
    left, top, right, bottom = (factor * each for each in box)
    return left, top, min(right, shape[1]), min(bottom, shape[0])
