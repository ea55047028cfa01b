"""Short texts in images: where lines of glyphs are, and what they say.

Belongs here: the localiser of clean glyphs and the one door to RapidOCR (extra ``ocr``), whose weights lie in its
wheel: its recogniser for a line, its own localiser for a small piece of a picture; on whole figures it takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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

_LARGEST_PX = 960
"""Longest edge of a picture in which texts are sought."""


class TextReader:
    """RapidOCR on one core.

    Args:
        engine: the program.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __call__(self, line: np.ndarray) -> tuple[str, float]:
        """Text and confidence of an image of one line, uint8 [y, x, 3]."""
        found, _ = self._engine(np.ascontiguousarray(line[..., ::-1]), use_det=False, use_cls=False, use_rec=True)
        return (str(found[0][0]), float(found[0][1])) if found else ("", 0.0)

    def find(self, image: np.ndarray) -> list[tuple[str, float, Box]]:
        """Texts anywhere in a picture, uint8 [y, x, 3], with confidence and box; words of a line are joined."""
        found, _ = self._engine(np.ascontiguousarray(image[..., ::-1]), use_cls=False)
        words = []
        for corners, text, confidence in found or []:
            (left, top), (right, bottom) = np.min(corners, axis=0), np.max(corners, axis=0)
            words.append((str(text), float(confidence), (int(left), int(top), int(right) + 1, int(bottom) + 1)))
        return _lines_of_words(words)


@functools.cache
def open_text_reader() -> TextReader | None:
    """The reader of texts, loaded once; None where the extra ``ocr`` is not installed."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError:
        return None
    return TextReader(
        RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1, det_limit_side_len=_LARGEST_PX, det_limit_type="max")
    )


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


def _lines_of_words(words: list[tuple[str, float, Box]]) -> list[tuple[str, float, Box]]:
    lines: list[tuple[str, float, Box]] = []
    for text, confidence, box in sorted(words, key=lambda word: word[2]):
        for number, (before, least, line) in enumerate(lines):
            if _is_next(line, box):
                lines[number] = (f"{before} {text}", min(least, confidence), _union(line, box))
                break
        else:
            lines.append((text, confidence, box))
    return lines


def _is_next(line: Box, box: Box) -> bool:
    """Whether a piece goes on with a line."""
    height = max(line[3] - line[1], box[3] - box[1])
    overlap = min(line[3], box[3]) - max(line[1], box[1])
    return box[0] - line[2] <= _SPACE * height and overlap > 0.4 * min(height, box[3] - box[1])


def _joined(glyphs: list[Box]) -> list[Box]:
    """Glyphs beside each other, of about one height, as lines."""
    lines: list[Box] = []
    for glyph in sorted(glyphs):
        for number, line in enumerate(lines):
            if _is_next(line, glyph):
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
