"""Short texts in images: where lines of glyphs are, and what they say.

Belongs here: the text localiser and the one door to the recogniser, RapidOCR (extra ``ocr``), whose weights lie in its
wheel. Its own localiser is left out: it wants whole pages and takes seconds where a glyph line takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]
"""left, top, right, bottom in px; right and bottom are exclusive."""

ReadText = Callable[[np.ndarray], tuple[str, float]]
"""Text and confidence of an image of one line, uint8 [y, x, 3]."""

_HEIGHT_PX = 32
"""Height to which a line is brought before it is read."""

_PADDING = 0.35
"""Border of background around a line, in heights of it."""


@dataclass(frozen=True)
class Line:
    """A line of glyphs: its box, and whether it is brighter than what surrounds it."""

    box: Box
    is_bright: bool


def open_text_reader() -> ReadText | None:
    """The recogniser on one core; None where the extra ``ocr`` is not installed."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError:
        return None
    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(line: np.ndarray) -> tuple[str, float]:
        found, _ = engine(np.ascontiguousarray(line[..., ::-1]), use_det=False, use_cls=False, use_rec=True)
        return (str(found[0][0]), float(found[0][1])) if found else ("", 0.0)

    return read


def text_lines(grey: np.ndarray, is_bright: bool, level: float, height_px: tuple[int, int]) -> list[Line]:
    """Lines of glyphs that are at least as bright (or dark) as a level, from top to bottom.

    Args:
        grey: uint8 [y, x].
        is_bright: whether glyphs are brighter than what surrounds them.
        level: the grey value that divides glyphs from the rest.
        height_px: least and greatest height of a line.
    """
    from scipy import ndimage

    mask = grey >= level if is_bright else grey <= level
    components, _ = ndimage.label(mask, np.ones((3, 3), int))
    glyphs = []
    for rows, columns in ndimage.find_objects(components):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height <= height_px[1] and width <= 2.5 * height_px[1] and height * width >= 3:
            glyphs.append((columns.start, rows.start, columns.stop, rows.stop))
    return [
        Line(box, is_bright)
        for box in sorted(_joined(glyphs), key=lambda box: (box[1], box[0]))
        if height_px[0] <= box[3] - box[1] <= height_px[1]
    ]


def line_image(image: np.ndarray, line: Line) -> np.ndarray:
    """A line with some border, dark on light, brought to one height: uint8 [y, x, 3]."""
    from PIL import Image

    left, top, right, bottom = line.box
    border = max(2, round(_PADDING * (bottom - top)))
    height, width = image.shape[:2]
    part = image[
        max(0, top - border) : min(height, bottom + border), max(0, left - border) : min(width, right + border)
    ]
    factor = _HEIGHT_PX * (1 + 2 * _PADDING) / part.shape[0]
    size = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
    pixels = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC))
    return 255 - pixels if line.is_bright else pixels


def _joined(glyphs: list[Box]) -> list[Box]:
    """Glyphs beside each other become one line; dots and accents join the glyph that they belong to."""
    lines: list[Box] = []
    for glyph in sorted(glyphs):
        for number, line in enumerate(lines):
            height = max(line[3] - line[1], glyph[3] - glyph[1])
            overlap = min(line[3], glyph[3]) - max(line[1], glyph[1])
            if glyph[0] - line[2] <= 0.8 * height and overlap > -0.25 * height:
                lines[number] = (
                    min(line[0], glyph[0]),
                    min(line[1], glyph[1]),
                    max(line[2], glyph[2]),
                    max(line[3], glyph[3]),
                )
                break
        else:
            lines.append(glyph)
    return lines
