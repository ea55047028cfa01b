"""Composite figures cut into panels along gutters and along straight edges.

Belongs here: boxes from pixels, for a wanted number of panels. What the panels are called and what they show is in
:mod:`atomvision_ml.literature.panel_images`.

Every gutter (rows or columns of one flat colour across a block) and every edge across a block is a possible cut with a
probability that it divides panels. A division is a tree of cuts; its probability is that of its cuts, and that no cut
is left in its leaves. Of all divisions into n panels the likeliest is found by dynamic programming over blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from atomvision_ml.literature.text_reading import Box

_TOLERANCE = 24
"""Distance in grey values from a gutter's colour that JPEG makes."""

_MOST_CUTS = 10
"""Likeliest cuts of a block along one axis that are tried."""

_LEAST_SHARE = 0.06
"""Share of the image's edge below which a piece is no panel: letters, titles, scales."""

_LEAST_STEP = 8
"""Step in grey values that can be an edge between touching panels."""

_CAPTION_WEIGHT = 5.0
"""How much likelier the number of panels that the caption tells is than any other, before the image is seen."""

_EDGE_SHARES = (0.5, 0.9)
"""Highest probability that a straight edge divides panels: in figures with gutters, and in those without."""

_SOLID = 0.85
"""Share of a box that is not page where it is a picture and not a drawing."""


@dataclass(frozen=True)
class Cut:
    """A gutter or edge: ``axis`` 0 divides rows; what lies from ``start`` to ``end`` belongs to no side."""

    axis: int
    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class Division:
    """Boxes in reading order, and the probability that there are as many panels as boxes."""

    boxes: tuple[Box, ...]
    confidence: float


def divide(image: np.ndarray, count: int) -> Division | None:
    """The likeliest division into a number of panels; None where there is none.

    Args:
        image: uint8 [y, x, 3].
        count: how many panels, at least 1.
    """
    blocks = _Blocks(image)
    whole = blocks.trimmed((0, 0, image.shape[1], image.shape[0]))
    options = blocks.divisions(whole, max(count + 2, 4))
    if count not in options:
        return None
    weights = {n: math.exp(score) * (_CAPTION_WEIGHT if n == count else 1) for n, (score, _) in options.items()}
    confidence = weights[count] / sum(weights.values())
    return Division(tuple(reading_order([blocks.body(box) for box in options[count][1]])), confidence)


def reading_order(boxes: list[Box], by_column: bool = False) -> list[Box]:
    """Boxes row by row where rows can be divided, else column by column; or the other way round."""
    if len(boxes) <= 1:
        return boxes
    for low, high in ((0, 2), (1, 3)) if by_column else ((1, 3), (0, 2)):
        ordered = sorted(boxes, key=lambda box, at=low: box[at])  # type: ignore[misc]
        groups = [[ordered[0]]]
        for box in ordered[1:]:
            end = max(each[high] for each in groups[-1])
            if box[low] >= end - 0.1 * min(end - groups[-1][0][low], box[high] - box[low]):
                groups.append([box])
            else:
                groups[-1].append(box)
        if len(groups) > 1:
            return [box for group in groups for box in reading_order(group, by_column)]
    return sorted(boxes, key=lambda box: (box[1], box[0]))


class _Blocks:
    """Blocks of an image with their cuts; profiles come from cumulative sums, in time linear in a block's edges."""

    def __init__(self, image: np.ndarray) -> None:
        self.height, self.width = image.shape[:2]
        self._page = _page_colour(image)
        colours = {self._page, (255, 255, 255), (0, 0, 0)}
        self._sums: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        for colour in sorted(colours):
            is_colour = np.ones(image.shape[:2], bool)
            for channel in range(3):
                is_colour &= np.abs(image[..., channel].astype(np.int16) - colour[channel]) <= _TOLERANCE
            self._sums[colour] = (_cumulated(is_colour, 1), _cumulated(is_colour, 0))
        grey = image.mean(axis=-1, dtype=np.float32)
        self._steps = {}
        for axis in (0, 1):
            steps = np.abs(np.diff(grey, axis=axis))
            self._steps[axis] = (
                _cumulated(steps, 1 - axis, np.float32),
                _cumulated(steps > _LEAST_STEP, 1 - axis),
            )
        whole = (0, 0, self.width, self.height)
        gutters = [cut.probability for axis in (0, 1) for cut in self._gutters(whole, axis)]
        self._edge_share = _EDGE_SHARES[max(gutters, default=0.0) < 0.5]
        self._known: dict[tuple[Box, int], dict[int, tuple[float, list[Box]]]] = {}

    def divisions(self, box: Box, most: int) -> dict[int, tuple[float, list[Box]]]:
        """By number of panels up to ``most``: logarithm of the best probability, and the boxes."""
        if (box, most) in self._known:
            return self._known[box, most]
        cuts = self.cuts(box)
        left_over = max((cut.probability for cut in cuts), default=0.0)
        options = {1: (math.log1p(-left_over), [box])}
        if most > 1:
            for cut in cuts:
                first, second = self._sides(box, cut)
                for (n, (score, boxes)), (m, (other_score, others)) in itertools.product(
                    self.divisions(first, most - 1).items(), self.divisions(second, most - 1).items()
                ):
                    total = math.log(cut.probability) + score + other_score
                    if n + m <= most and (n + m not in options or total > options[n + m][0]):
                        options[n + m] = (total, boxes + others)
        self._known[box, most] = options
        return options

    def cuts(self, box: Box) -> list[Cut]:
        """Possible cuts of a block."""
        return [
            cut
            for axis in (0, 1)
            for cut in sorted([*self._gutters(box, axis), *self._edges(box, axis)], key=lambda cut: -cut.probability)[
                :_MOST_CUTS
            ]
        ]

    def trimmed(self, box: Box) -> Box:
        """A box without margins of the page's colour; the box itself where it is all page."""
        for axis in (0, 1):
            filled = np.flatnonzero(self._share(box, axis, self._page) < 1)
            if not len(filled):
                return box
            box = _with_span(box, axis, box[1 - axis] + int(filled[0]), box[1 - axis] + int(filled[-1]) + 1)
        return box

    def body(self, box: Box) -> Box:
        """A box without what stands beside a picture, and without the letter above or beside a drawing."""
        for axis in (0, 1):
            pieces = _pieces(self._share(box, axis, self._page) >= 1)
            if len(pieces) < 2:
                continue
            start, end = max(pieces, key=lambda piece: piece[1] - piece[0])
            inner = self.trimmed(_with_span(box, axis, box[1 - axis] + start, box[1 - axis] + end))
            if self._solidity(inner) >= _SOLID:
                box = inner
            elif self._is_letter(box, axis, pieces[0]):
                box = self.trimmed(_with_span(box, axis, box[1 - axis] + pieces[1][0], box[3 - axis]))
        return box

    def _is_letter(self, box: Box, axis: int, piece: tuple[int, int]) -> bool:
        """Whether the first piece of a block is small both ways and stands in its corner."""
        left, top, right, bottom = self.trimmed(
            _with_span(box, axis, box[1 - axis] + piece[0], box[1 - axis] + piece[1])
        )
        most = 2 * self._least(axis)
        is_small = max(right - left, bottom - top) <= most and min(right - left, bottom - top) <= most / 2
        return is_small and left - box[0] <= most and top - box[1] <= most

    def _solidity(self, box: Box) -> float:
        return float(1 - self._share(box, 0, self._page).mean())

    def _sides(self, box: Box, cut: Cut) -> tuple[Box, Box]:
        low, high = (box[1], box[3]) if cut.axis == 0 else (box[0], box[2])
        return self.trimmed(_with_span(box, cut.axis, low, cut.start)), self.trimmed(
            _with_span(box, cut.axis, cut.end, high)
        )

    def _share(self, box: Box, axis: int, colour: tuple[int, ...]) -> np.ndarray:
        """Share of a colour in each row (axis 0) or column of a block."""
        return self._along(self._sums[colour][axis], box, axis)

    def _gutters(self, box: Box, axis: int) -> Iterator[Cut]:
        for colour in self._sums:
            share = self._share(box, axis, colour)
            for (first, second), gap in _gaps(_pieces(share >= 1), self._least(axis)):
                beside = (1 - share[max(0, first[1] - 3) : first[1]].min(), 1 - share[second[0] : second[0] + 3].min())
                is_page = colour == self._page
                evidence = _gutter_evidence(min(beside), gap, len(share), is_page)
                yield Cut(axis, gap[0] + box[1 - axis], gap[1] + box[1 - axis], _probability(evidence))

    def _edges(self, box: Box, axis: int) -> Iterator[Cut]:
        """Rows or columns where grey values jump all along a block of pictures, without a gutter."""
        from scipy import ndimage

        least = self._least(axis)
        page = self._share(box, axis, self._page)
        if len(page) < 2 * least or page.mean() > 1 - _SOLID:
            return
        jumps, jumping = (self._along(sums, box, axis)[:-1] for sums in self._steps[axis])
        footprint = np.ones(2 * (least // 2) + 1, bool)
        footprint[least // 2 - 1 : least // 2 + 2] = False
        nearby = ndimage.maximum_filter(jumps, footprint=footprint, mode="nearest")
        for place in range(least, len(jumps) - least):
            ratio = float(jumps[place] / max(nearby[place], 1))
            beside = max(page[place - 2 : place + 4])
            if ratio > 1.5 and jumping[place] > 0.5 and beside < 0.1:
                at = place + 1 + box[1 - axis]
                yield Cut(
                    axis, at, at, _probability(2 * (ratio - 3) + 5 * (float(jumping[place]) - 0.6), self._edge_share)
                )

    def _along(self, sums: np.ndarray, box: Box, axis: int) -> np.ndarray:
        """Means over each row (axis 0) or column of a block, from sums along it; the last of steps means nothing."""
        left, top, right, bottom = box
        if axis == 0:
            return (sums[top:bottom, right].astype(float) - sums[top:bottom, left]) / (right - left)
        return (sums[bottom, left:right].astype(float) - sums[top, left:right]) / (bottom - top)

    def _least(self, axis: int) -> int:
        return max(8, round(_LEAST_SHARE * (self.height, self.width)[axis]))


def _page_colour(image: np.ndarray) -> tuple[int, ...]:
    """The commonest colour of the image's border where it is flat, else white."""
    border = np.concatenate((image[0], image[-1], image[:, 0], image[:, -1]))
    values, counts = np.unique(border // 8, axis=0, return_counts=True)
    if counts.max() < 0.3 * counts.sum():
        return 255, 255, 255
    chosen = (border // 8 == values[counts.argmax()]).all(axis=1)
    return tuple(int(each) for each in np.median(border[chosen], axis=0))


def _cumulated(values: np.ndarray, axis: int, kind: type = np.uint16) -> np.ndarray:
    """Cumulative sums along an axis that begin with 0."""
    sums = np.zeros(tuple(n + (i == axis) for i, n in enumerate(values.shape)), kind)
    np.cumsum(values, axis=axis, dtype=kind, out=sums[:, 1:] if axis == 1 else sums[1:])
    return sums


def _with_span(box: Box, axis: int, start: int, end: int) -> Box:
    return (box[0], start, box[2], end) if axis == 0 else (start, box[1], end, box[3])


def _pieces(is_gutter: np.ndarray) -> list[tuple[int, int]]:
    """Runs between gutters."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], is_gutter, [True])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _gaps(
    pieces: list[tuple[int, int]], least: int
) -> Iterator[tuple[tuple[tuple[int, int], tuple[int, int]], tuple[int, int]]]:
    """Neighbours among the larger pieces, and the widest gap between them.

    Small pieces (letters, titles, numbers) stay on that side of the widest gap where they are.
    """
    large = [number for number, (start, end) in enumerate(pieces) if end - start >= least]
    for first, second in itertools.pairwise(large):
        between = [(pieces[n][1], pieces[n + 1][0]) for n in range(first, second)]
        yield (pieces[first], pieces[second]), max(between, key=lambda gap: gap[1] - gap[0])


def _gutter_evidence(beside: float, gap: tuple[int, int], length: int, is_page: bool) -> float:
    """Logarithm of the odds that a gutter divides panels, by logistic regression on drawn figures of 400 to 1,600 px.

    Args:
        beside: share of pixels right beside it that are not of its colour, on the emptier side: pictures end in full
            lines, drawings in a few strokes.
        gap: where it begins and ends.
        length: of the block that it divides; a gap as wide as what it divides off is none.
        is_page: whether its colour is the page's.
    """
    thickness, shorter = gap[1] - gap[0], min(gap[0], length - gap[1])
    return -4.1 + 8.5 * beside + 2.0 * math.log(thickness) + 1.4 * is_page - 8.7 * thickness / max(shorter, 1)


def _probability(evidence: float, most: float = 0.995) -> float:
    return most / (1 + math.exp(-evidence))
