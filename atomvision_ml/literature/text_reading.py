"""Short texts in images: where lines of glyphs are, and what they say.

Belongs here: the text localiser and the one door to the recogniser, RapidOCR (extra ``ocr``), whose weights lie in its
wheel. Its own localiser is left out: it wants whole pages and takes seconds where a glyph line takes milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

_PADDING = 0.35
"""Border of background around a line, in heights of it."""

_SPACE = 1.4
"""Widest space between glyphs of a line, in heights of it."""

_MOST_GLYPHS = 300
"""Glyphs looked at: noise has no end."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in px; right and bottom are exclusive."""

ReadText = Callable[[np.ndarray], tuple[str, float]]
"""Text and confidence of an image of one line, uint8 [y, x, 3]."""

_HEIGHT_PX = 32
"""Height to which a line is brought before it is read."""


@functools.cache
def open_text_reader() -> ReadText | None:
    """The recogniser on one core, loaded once; None where the extra ``ocr`` is not installed."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError:
        return None
    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(line: np.ndarray) -> tuple[str, float]:
        found, _ = engine(np.ascontiguousarray(line[..., ::-1]), use_det=False, use_cls=False, use_rec=True)
        return (str(found[0][0]), float(found[0][1])) if found else ("", 0.0)

    return read


def text_lines(mask: np.ndarray, height_px: tuple[int, int]) -> list[Box]:
    """Boxes of lines of glyphs.

    Args:
        mask: bool [y, x], true where there is ink.
        height_px: least and greatest height of a line.
    """
    from scipy import ndimage

    least, most = height_px
    components, _ = ndimage.label(ndimage.binary_dilation(mask, np.ones((3, 1), bool)), np.ones((3, 3), int))
    tall, low = [], []
    for rows, columns in ndimage.find_objects(components):
        box = (columns.start, rows.start + 1, columns.stop, rows.stop - 1)
        height, width = box[3] - box[1], box[2] - box[0]
        if least <= height <= most and width <= 3 * most:
            tall.append(box)
        elif height < least and width <= most:
            low.append(box)
    lines = []
    for line in _joined(tall[:_MOST_GLYPHS]):
        marks = [mark for mark in low[: 4 * _MOST_GLYPHS] if _is_mark_of(mark, line)]
        lines.append(functools.reduce(_union, marks, line))
    return [line for line in lines if line[3] - line[1] <= most]


def line_image(grey: np.ndarray, line: Box) -> np.ndarray:
    """A line with some border, brought to one height.

    Args:
        grey: uint8 [y, x], dark glyphs on white.
        line: its box.

    Returns:
        uint8 [y, x, 3].
    """
    from PIL import Image

    left, top, right, bottom = line
    border = max(2, round(_PADDING * (bottom - top)))
    width = grey.shape[1]
    part = np.pad(
        grey[top:bottom, max(0, left - border) : min(width, right + border)],
        ((border, border), (0, 0)),
        constant_values=255,
    )
    factor = _HEIGHT_PX * (1 + 2 * _PADDING) / part.shape[0]
    size = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
    pixels = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC))
    return np.repeat(pixels[..., None], 3, axis=-1)


def _joined(glyphs: list[Box]) -> list[Box]:
    """Glyphs beside each other, of about one height, as lines."""
    lines: list[Box] = []
    for glyph in sorted(glyphs):
        for number, line in enumerate(lines):
            height = max(line[3] - line[1], glyph[3] - glyph[1])
            overlap = min(line[3], glyph[3]) - max(line[1], glyph[1])
            if glyph[0] - line[2] <= _SPACE * height and overlap > 0.4 * min(height, glyph[3] - glyph[1]):
                lines[number] = _union(line, glyph)
                break
        else:
            lines.append(glyph)
    return lines


def _is_mark_of(mark: Box, line: Box) -> bool:
    """Whether a low piece is a point, an accent, a dash or a part of a broken glyph of a line."""
    height = line[3] - line[1]
    return (
        mark[0] >= line[0] - 1.2 * height
        and mark[2] <= line[2] + 1.2 * height
        and mark[1] >= line[1] - 0.4 * height
        and mark[3] <= line[3] + 0.15 * height
    )


def _union(first: Box, second: Box) -> Box:
    return (
        min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3]),
    )  # fmt: skip
