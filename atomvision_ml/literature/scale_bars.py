"""Scale bars in micrographs: where the bar is, and what its text says.

Belongs here: pixels to a length in px and in nm. What captions state is in
:mod:`atomvision_ml.literature.scale_statements`.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace

import numpy as np

from atomvision_ml.literature.text_reading import Box, ReadText, TextReader, line_image, text_lines

_IN_NM = {"nm": 1.0, "angstrom": 0.1, "um": 1e3, "mm": 1e6}

_NUMBER = r"(\d+(?:[.,]\d+)?|(?<!\d)\.\d+|(?<![\dlI])[lI])"
_RECIPROCAL = re.compile(rf"{_NUMBER}[\s.]*[1lI]\s?/\s*(?:[nm]m|[AÅ])|{_NUMBER}\s*(?:nm|[AÅ])\s*[-–⁻−]\s*[1¹lI]")
_LENGTH = re.compile(
    rf"{_NUMBER}[lI|]?[\s.,*~_/-]*(nm|n[mn]|[AÅ](?![a-z])|[µμu]{{1,2}}i?m|[µμu]rn|[jgp]u?m|mm)", re.IGNORECASE
)

_INKS = np.array(
    [
        (255, 255, 255),
        (0, 0, 0),
        (255, 255, 0),
        (255, 0, 0),
        (0, 255, 0),
        (0, 255, 255),
        (255, 0, 255),
        (0, 0, 255),
    ]
)
"""Colours that bars are drawn in."""

_TOLERANCES = (30, 75)
"""Largest distance, in any channel, from an ink: as drawn, and after resampling."""

_NO_POINT = str.maketrans("", "", ".,")

_SHARP = 40
"""Distance between a bar and what surrounds it."""

_MM = re.compile(r"(\d)l?[\s.,*~_/-]*mm", re.IGNORECASE)
_STEMS_OF_NM, _STEMS_OF_MM = 5, 6
_INK_OF_LINE = 128
_LETTER, _FIGURE = 0.4, 0.88
"""Least heights of low letters and of figures, beside the tallest glyph."""

_SHARES = (0.5, 0.7, 0.85, 0.95)
"""Nearness to the ink, 1 being the bar's own colour and 0 what lies around it, from which pixels are glyphs."""

_SURE = 0.9
"""Confidence of a text from which it is not read again."""

_SURE_OF_MM = 0.98
"""Confidence below which "mm" is not believed where its letters cannot be told."""

_MOST_BARS, _MOST_LINES, _MOST_READ = 2, 2, 8
"""Likeliest bars of a panel, nearest lines of each in a rendering, and readings of a bar in all."""


_Votes = dict[tuple[float | None, bool], list[float]]
"""Confidences of readings by length in nm and whether it is reciprocal."""


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
    Numbers of more than two significant digits are no bar's: a stroke was taken for a digit.
    """
    if _RECIPROCAL.search(text):
        return None, True
    match = _LENGTH.search(text)
    if match is None:
        return None
    value = 1.0 if match[1] in "lLiI" else float(match[1].replace(",", "."))
    if len(match[1].translate(_NO_POINT).strip("0")) > 2:
        return None
    written = match[2].lower()
    unit = {"å": "angstrom", "a": "angstrom", "mm": "mm"}.get(written, "nm" if written[0] == "n" else "um")
    return (value * _IN_NM[unit], False) if value > 0 else None


def read_scale_bar(image: np.ndarray, read_text: ReadText | None = None) -> ScaleBarReading | None:
    """The scale bar of a micrograph; None where there is none.

    Args:
        image: one panel, uint8 [y, x, 3].
        read_text: recogniser; without it bars are found and not read.
    """
    bars = find_bars(image)[:_MOST_BARS]
    if read_text is None or not bars:
        return bars[0] if bars else None
    readings = []
    for bar in bars:
        readings.append(_with_text(image, bar, read_text))
        if readings[-1].length_nm is not None or readings[-1].is_reciprocal:
            break
    return max(readings, key=lambda reading: reading.confidence)


def find_bars(image: np.ndarray) -> list[ScaleBarReading]:
    """Horizontal rectangles of one ink with sharp edges, the likeliest first.

    Args:
        image: uint8 [y, x, 3].
    """
    height, width = image.shape[:2]
    if min(height, width) < 24:
        return []
    found: list[ScaleBarReading] = []
    is_grey = int(np.ptp(image, axis=-1).max()) < 255 - _TOLERANCES[-1]
    for ink in _INKS[:2] if is_grey else _INKS:
        distance = _distance_to(image, ink)
        for tolerance in _TOLERANCES:
            for box in _long_runs(distance <= tolerance, max(8, round(0.05 * width))):
                confidence = _bar_confidence(image, distance <= tolerance, box)
                if confidence > 0 and not any(_overlap(box, each.box) for each in found):
                    found.append(ScaleBarReading(box, _length_px(image, box), None, False, confidence))
    bars = [bar for bar in found if not any(_is_border(bar.box, other.box) for other in found)]
    return sorted(bars, key=lambda bar: -bar.confidence)


def _is_border(box: Box, other: Box) -> bool:
    """Whether a rectangle is the border or the box of the bar above or below it: it is longer, if by a pixel."""
    shared = min(box[2], other[2]) - max(box[0], other[0])
    gap = max(box[1], other[1]) - min(box[3], other[3])
    lengths, heights = (each[2] - each[0] for each in (box, other)), (each[3] - each[1] for each in (box, other))
    (length, other_length), (height, other_height) = lengths, heights
    is_larger = length > other_length or (length == other_length and height < other_height)
    return 0 <= gap <= 1 and is_larger and shared >= 0.9 * other_length


def _distance_to(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Largest difference of any channel from a colour, int16 [y, x]."""
    channels = (np.abs(image[..., n].astype(np.int16) - np.int16(colour[n])) for n in range(image.shape[-1]))
    return functools.reduce(np.maximum, channels)


def _long_runs(mask: np.ndarray, least: int) -> list[Box]:
    """Boxes of connected pixels that belong to horizontal runs of some length."""
    from scipy import ndimage

    if int(mask.sum()) < least:
        return []
    length = least + 1 - least % 2
    runs = ndimage.maximum_filter1d(ndimage.minimum_filter1d(mask.view(np.uint8), length, mode="constant"), length)
    components, _ = ndimage.label(runs)
    return [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(components)]


def _bar_confidence(image: np.ndarray, mask: np.ndarray, box: Box) -> float:
    left, top, right, bottom = box
    height, width = mask.shape
    length, thickness = right - left, bottom - top
    if not (length >= 3 * thickness and length <= 0.75 * width and thickness <= max(4, 0.06 * height)):
        return 0.0
    if left < 2 or top < 2 or right > width - 2 or bottom > height - 2:
        return 0.0
    filled = float(mask[top:bottom, left:right].mean())
    if filled < 0.85:
        return 0.0
    colour = np.median(image[top:bottom, left:right], axis=(0, 1))
    beside = (
        _distance_to(image[max(0, top - 3) : top, left:right], colour).max(axis=0),
        _distance_to(image[bottom : bottom + 3, left:right], colour).max(axis=0),
        _distance_to(image[top:bottom, max(0, left - 3) : left], colour).max(axis=1),
        _distance_to(image[top:bottom, right : right + 3], colour).max(axis=1),
    )
    contrast = min(float((each >= _SHARP).mean()) for each in beside)
    if contrast < 0.7:
        return 0.0
    middle = (top + bottom) / 2 / height
    place = 0.7 + 0.3 * math.sqrt(max(middle, 1 - middle))
    return 0.6 * filled * contrast * place * (0.8 + 0.2 * min(1.0, length / (0.12 * width)))


def _length_px(image: np.ndarray, box: Box) -> float:
    """Length between the places where the bar's colour is half gone, to a part of a pixel."""
    left, top, right, bottom = box
    distance = _distance_to(image[top:bottom], np.median(image[top:bottom, left:right], axis=(0, 1))).mean(axis=0)
    return float(right - left) + _beyond(distance[right - 1 : right + 3]) + _beyond(distance[: left + 1][::-1][:4])


def _beyond(distance: np.ndarray) -> float:
    """How far, from the last pixel's outer edge, a bar goes on: its distance profile begins in that pixel."""
    half = float(distance.max()) / 2
    outside = np.flatnonzero(distance >= half)
    if not len(outside) or outside[0] == 0:
        return 0.0
    place = int(outside[0])
    before, after = float(distance[place - 1]), float(distance[place])
    return place - 1 + (half - before) / max(after - before, 1e-9) - 0.5


def _with_text(image: np.ndarray, reading: ScaleBarReading, read_text: ReadText) -> ScaleBarReading:
    """A bar with the length that stands beside it; without such a text it is half as sure.

    The text is read from several renderings until one is sure; "mm" needs two: it is easily taken for "nm".
    """
    votes = _read_beside(image, reading.box, read_text)
    if not votes and isinstance(read_text, TextReader):
        votes = _found_beside(image, reading.box, read_text)
    if not votes:
        return replace(reading, confidence=0.5 * reading.confidence)
    (length, is_reciprocal), confidences = max(votes.items(), key=lambda vote: sum(vote[1]))
    share_of_votes = sum(confidences) / sum(sum(each) for each in votes.values())
    sure = math.sqrt(min(1.0, reading.confidence / 0.6) * max(confidences) * share_of_votes)
    return replace(reading, length_nm=length, is_reciprocal=is_reciprocal, confidence=sure)


def _read_beside(image: np.ndarray, box: Box, read_text: ReadText) -> _Votes:
    """Lengths with the confidences of their readings, from renderings of the glyphs in the bar's own ink."""
    votes: _Votes = {}
    known: set[bytes] = set()
    are_mm = False
    for share in _SHARES:
        for line in _lines_beside(image, box, share):
            if len(known) >= _MOST_READ or line.tobytes() in known:
                continue
            known.add(line.tobytes())
            text, confidence = read_text(line)
            stems = unit_stems(line) if _MM.search(text) else 0
            are_mm |= stems == _STEMS_OF_MM
            parsed = parse_length(_MM.sub(r"\1 nm", text) if stems == _STEMS_OF_NM else text)
            if parsed is not None:
                votes.setdefault(parsed, []).append(confidence)
        if any(_is_sure(length, each, are_mm) for (length, _), each in votes.items()):
            break
    return {answer: each for answer, each in votes.items() if are_mm or not _is_doubtful(answer[0], each)}


def _found_beside(image: np.ndarray, box: Box, reader: TextReader) -> _Votes:
    """The length that the reader's own localiser finds beside a bar, in a picture twice as large, then as it is."""
    left, top, right, bottom = _around(image, box)
    for factor in (2, 1):
        window = image[top:bottom, left:right].repeat(factor, axis=0).repeat(factor, axis=1)
        bar = (factor * (box[0] - left), factor * (box[1] - top), factor * (box[2] - left), factor * (box[3] - top))
        answers = [
            (_gap(line, bar), parsed, confidence)
            for text, confidence, line in reader.find(window)
            if (parsed := parse_length(text)) and not (_MM.search(text) and confidence < _SURE_OF_MM)
        ]
        if answers:
            _, answer, confidence = min(answers, key=lambda each: each[0])
            return {answer: [confidence]}
    return {}


def _around(image: np.ndarray, box: Box) -> Box:
    """The part of an image in which the text of a bar is looked for."""
    height, width = image.shape[:2]
    reach_y, reach_x = max(48, round(0.18 * height)), max(90, round(0.35 * width))
    return (
        max(0, box[0] - reach_x), max(0, box[1] - reach_y), min(width, box[2] + reach_x), min(height, box[3] + reach_y),
    )  # fmt: skip


def _is_doubtful(length: float | None, confidences: list[float]) -> bool:
    """Whether a length in mm is likelier one in nm, whose letters are small."""
    is_mm = length is not None and length >= _IN_NM["mm"]
    return is_mm and (len(confidences) < 2 or max(confidences) < _SURE_OF_MM)


def _is_sure(length: float | None, confidences: list[float], are_mm: bool) -> bool:
    """Whether no further rendering is read."""
    needed = 2 if length is not None and length >= _IN_NM["mm"] and not are_mm else 1
    return max(confidences) > _SURE and len(confidences) >= needed


def unit_stems(line: np.ndarray) -> int:
    """Upright strokes of the low letters behind the last figure of a line: five of "nm", six of "mm".

    Args:
        line: dark glyphs on white, uint8 [y, x, 3].
    """
    from scipy import ndimage

    ink = line[..., 0] < _INK_OF_LINE
    components, _ = ndimage.label(ink, np.ones((3, 3), int))
    boxes = ndimage.find_objects(components)
    tallest = max((rows.stop - rows.start for rows, _ in boxes), default=0)
    figures = [columns.stop for rows, columns in boxes if rows.stop - rows.start >= _FIGURE * tallest]
    return sum(
        _strokes(ink[rows, columns])
        for rows, columns in boxes
        if columns.start >= max(figures) - 1 and _LETTER * tallest <= rows.stop - rows.start < _FIGURE * tallest
    )


def _strokes(glyph: np.ndarray) -> int:
    """Runs of ink across the middle rows of a glyph, the commonest number."""
    rows = glyph[round(0.45 * len(glyph)) : max(round(0.8 * len(glyph)), 1)]
    counts = np.diff(np.pad(rows, ((0, 0), (1, 0))).astype(np.int8), axis=1).clip(0).sum(axis=1)
    return int(np.bincount(counts).argmax()) if len(counts) else 0


def _lines_beside(image: np.ndarray, box: Box, share: float) -> list[np.ndarray]:
    """Pictures of lines of text in a bar's own ink around it, dark on white, the nearest first."""
    height = image.shape[0]
    left, top, right, bottom = _around(image, box)
    window = image[top:bottom, left:right]
    bar = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    distance = _distance_to(window, np.median(image[box[1] : box[3], box[0] : box[2]], axis=(0, 1)))
    ring = distance[max(0, bar[1] - 5) : bar[3] + 5, max(0, bar[0] - 5) : bar[2] + 5]
    contrast = max(float(np.median(ring[ring >= _SHARP])) if (ring >= _SHARP).any() else 0.0, _SHARP)
    nearness = 1 - np.minimum(1, distance / contrast)
    nearness[max(0, bar[1] - 1) : bar[3] + 1, max(0, bar[0] - 1) : bar[2] + 1] = 0
    lines = [
        line
        for line in text_lines(nearness >= share, (5, max(12, round(0.14 * height))))
        if _is_beside(line, bar) and line[2] - line[0] >= line[3] - line[1]
    ]
    lines.sort(key=lambda line: _gap(line, bar))
    grey = np.rint(255 * (1 - nearness)).astype(np.uint8)
    return [line_image(grey, line) for line in lines[:_MOST_LINES]]


def _is_beside(line: Box, bar: Box) -> bool:
    """Whether a line of text stands directly above, below or beside a bar, and does not hold it."""
    height = line[3] - line[1]
    across, down = max(line[0], bar[0]) - min(line[2], bar[2]), max(line[1], bar[1]) - min(line[3], bar[3])
    return max(across, down) >= 0 and across <= 2.5 * height and down <= 2.5 * height


def _gap(first: Box, second: Box) -> float:
    across = max(0, first[0] - second[2], second[0] - first[2])
    down = max(0, first[1] - second[3], second[1] - first[3])
    return math.hypot(across, down)


def _overlap(first: Box, second: Box) -> bool:
    return min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(first[1], second[1])
