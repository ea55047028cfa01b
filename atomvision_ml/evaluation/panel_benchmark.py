"""How well panels and scale bars are read back from drawn composite figures, beside simple readers.

Belongs here: what counts as right, the figures with Wilson intervals, their baselines, and the list of failures.

    python -m atomvision_ml.evaluation.panel_benchmark [--figures N] [--micrographs N] [--seed S] [--failures]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atomvision_ml.evaluation.panel_composites import (
    Composite,
    CompositeParameters,
    TrueBar,
    draw_composite,
    draw_micrograph,
)
from atomvision_ml.literature.panel_images import PanelReading, read_panels
from atomvision_ml.literature.scale_bars import ScaleBarReading, read_scale_bar
from atomvision_ml.literature.scoring import wilson
from atomvision_ml.literature.text_reading import Box, ReadText, open_text_reader

Row = dict[str, Any]
PanelReader = Callable[[np.ndarray, Sequence[str]], list[PanelReading]]
BarReader = Callable[[np.ndarray], ScaleBarReading | None]

LEAST_OVERLAP = 0.9
"""Intersection over union from which a box is right."""

TOLERANCE = 0.02
"""Relative error up to which a length is right; a bar's end is known to a pixel at best."""

_CONDITIONAL = ("box_iou_0.9_of_matched", "nm_within_2_percent_of_read")
"""Figures over what a reader answered at all: of interest for one reader, not to compare several."""
_OF_TEXT = ("nm_within_2_percent", "pixel_size", "no_length_of_reciprocal_bar")
"""Figures that are not measured where texts are not read."""


@dataclass(frozen=True)
class Answer:
    """One thing to be read: what was counted, whether it was right, and of which figure or micrograph it is."""

    metric: str
    is_right: bool
    group: str
    text: str


def panel_metric_rows(size: str, n_figures: int = 24, n_micrographs: int = 60, seed: int = 0) -> list[Row]:
    """Rows of ``evaluation/metrics`` of the tasks ``panels`` and ``scale_bars``; of lengths only with the extra ocr.

    Args:
        size: size of the graph that they stand in.
        n_figures: composite figures drawn.
        n_micrographs: single micrographs drawn.
        seed: of the drawings.
    """
    read_text = open_text_reader()
    figures = [draw_composite(np.random.default_rng([seed, 0, n])) for n in range(n_figures)]
    micrographs = [draw_micrograph(np.random.default_rng([seed, 1, n])) for n in range(n_micrographs)]
    panel_readers: dict[tuple[str, str], PanelReader] = {
        ("panel_reader", "model"): lambda image, labels: read_panels(image, labels, {}, read_text),
        ("even_grid", "classical"): even_grid,
        ("whole_image", "trivial"): whole_image,
    }
    bar_readers: dict[tuple[str, str], BarReader] = {
        ("panel_reader", "model"): lambda image: read_scale_bar(image, read_text),
        ("longest_run", "classical"): longest_run,
        ("no_bar", "trivial"): lambda image: None,
    }
    rows = []
    for (model, role), panel_reader in panel_readers.items():
        answers = [answer for figure in figures for answer in panel_answers(figure, panel_reader)]
        rows += _rows("panels", model, role, size, answers)
    for (model, role), bar_reader in bar_readers.items():
        answers = [answer for image, bar in micrographs for answer in bar_answers(image, bar, bar_reader)]
        if read_text is None:
            answers = [answer for answer in answers if answer.metric not in _OF_TEXT]
        rows += _rows("scale_bars", model, role, size, answers)
    return rows


def panel_answers(figure: Composite, read: PanelReader) -> Iterator[Answer]:
    """What a reader makes of one figure: boxes under their letters, kinds of picture, and figures wholly right."""
    readings = {each.label: each for each in read(figure.image, [panel.label for panel in figure.panels])}
    rights = []
    for panel in figure.panels:
        reading = readings[panel.label]
        overlap = intersection_over_union(panel.box, reading.box_px) if reading.box_px else 0.0
        rights.append(overlap >= LEAST_OVERLAP)
        text = f"{panel.label or 'single'} {panel.box} read {reading.box_px} {reading.image_status} IoU {overlap:.2f}"
        yield Answer("box_iou_0.9", rights[-1], figure.gutter, text)
        yield Answer("kind", reading.image_kind == panel.kind, panel.kind, f"{panel.label} {panel.kind}: {reading}")
        if reading.image_status == "matched" and len(figure.panels) > 1:
            yield Answer("box_iou_0.9_of_matched", rights[-1], figure.gutter, text)
    yield Answer("all_boxes_of_figure", all(rights), figure.gutter, f"{len(figure.panels)} panels")


def bar_answers(image: np.ndarray, truth: TrueBar | None, read: BarReader) -> Iterator[Answer]:
    """What a reader makes of one micrograph: the bar in px, its length in nm, both, and bars that are not there."""
    bar = read(image)
    said = f"{bar.length_px:.1f} px, {bar.length_nm} nm, {bar.confidence:.2f}" if bar else "no bar"
    if truth is None:
        yield Answer("no_false_bar", bar is None, "without bar", said)
        return
    text = f"{truth.text!r}, {truth.length_px:.1f} px: {said}"
    is_found = bar is not None and abs(bar.length_px - truth.length_px) <= max(1.5, TOLERANCE * truth.length_px)
    yield Answer("px_within_2_percent", is_found, "with bar", text)
    if truth.length_nm is None:
        yield Answer("no_length_of_reciprocal_bar", bar is None or bar.length_nm is None, "reciprocal", text)
        return
    is_read = bar is not None and bar.length_nm is not None and _is_close(bar.length_nm, truth.length_nm)
    yield Answer("nm_within_2_percent", is_read, "with bar", text)
    yield Answer("pixel_size", is_read and is_found, "with bar", text)
    if bar is not None and bar.length_nm is not None:
        yield Answer("nm_within_2_percent_of_read", is_read, "with bar", text)


def even_grid(image: np.ndarray, labels: Sequence[str]) -> list[PanelReading]:
    """Baseline: equal cells, as many columns as make them squarest."""
    height, width = image.shape[:2]
    count = len(labels)
    columns = min(range(1, count + 1), key=lambda n: abs(np.log(width / n / (height / -(-count // n)))))
    rows = -(-count // columns)
    readings = []
    for number, label in enumerate(labels):
        row, column = divmod(number, columns)
        left, right = (each * width // columns for each in (column, column + 1))
        top, bottom = (each * height // rows for each in (row, row + 1))
        readings.append(PanelReading(label, "matched", (left, top, right, bottom), 0.0, "micrograph"))
    return readings


def whole_image(image: np.ndarray, labels: Sequence[str]) -> list[PanelReading]:
    """Baseline: every panel is the whole image, a micrograph."""
    height, width = image.shape[:2]
    return [PanelReading(label, "matched", (0, 0, width, height), 0.0, "micrograph") for label in labels]


def longest_run(image: np.ndarray) -> ScaleBarReading | None:
    """Baseline: the longest horizontal run of white or black in the lower third, without its text."""
    grey = image.mean(axis=-1)
    best: tuple[int, Box] = (0, (0, 0, 0, 0))
    for row in range(2 * len(grey) // 3, len(grey)):
        for extreme in (grey[row] >= 250, grey[row] <= 5):
            edges = np.flatnonzero(np.diff(np.concatenate(([0], extreme, [0]))))
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                best = max(best, (int(end - start), (int(start), row, int(end), row + 1)))
    return ScaleBarReading(best[1], float(best[0]), None, False, 0.0) if best[0] > 0 else None


def intersection_over_union(first: Box, second: Box) -> float:
    """Shared area of two boxes by that of both."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0, across) * max(0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared) if areas > shared else 0.0


def _is_close(value: float, truth: float) -> bool:
    return abs(value - truth) <= TOLERANCE * truth


def _rows(task: str, model: str, role: str, size: str, answers: Sequence[Answer]) -> list[Row]:
    about = {"task": task, "model": model, "model_id": model, "role": role, "size": size, "seed": 0, "slice": "all"}
    counted = _counts([answer for answer in answers if answer.metric not in _CONDITIONAL], "metric")
    return [{**about, "metric": metric, **wilson(*counts)} for metric, counts in counted.items()]


def _counts(answers: Sequence[Answer], key: str) -> dict[str, tuple[int, int]]:
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for answer in answers:
        name = getattr(answer, key)
        right[name] += answer.is_right
        total[name] += 1
    return {name: (right[name], total[name]) for name in total}


def main(arguments: Sequence[str] | None = None) -> None:
    """The figures as a table, and the failures on request."""
    parser = argparse.ArgumentParser(description="Panels and scale bars read back from drawn figures.")
    parser.add_argument("--figures", type=int, default=200, help="composite figures")
    parser.add_argument("--micrographs", type=int, default=400, help="single micrographs")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings")
    parser.add_argument("--font", action="append", default=[], help="font file to write with; may be repeated")
    parser.add_argument("--no-text", action="store_true", help="do not read texts, as without the extra ocr")
    parser.add_argument("--failures", action="store_true", help="list what is wrong")
    chosen = parser.parse_args(arguments)
    read_text = None if chosen.no_text else open_text_reader()
    if read_text is None:
        print("Texts are not read.")
    parameters = CompositeParameters(fonts=tuple(chosen.font))
    for task, numbered in (
        ("panels", _figure_answers(chosen.figures, chosen.seed, parameters, read_text)),
        ("scale_bars", _micrograph_answers(chosen.micrographs, chosen.seed, parameters, read_text)),
    ):
        answers = []
        for number, answer in numbered:
            answers.append(answer)
            if chosen.failures and not answer.is_right:
                print(f"{task} {number} {answer.metric} [{answer.group}] {answer.text}", flush=True)
        _print(task, answers)


def _print(task: str, answers: Sequence[Answer]) -> None:
    groups = [("all", answers)]
    for name in sorted({answer.group for answer in answers}):
        groups.append((name, [answer for answer in answers if answer.group == name]))
    for name, chosen in groups:
        for metric, counts in _counts(chosen, "metric").items():
            share = wilson(*counts)
            interval = f"{share['low']:.3f} to {share['high']:.3f}"
            print(f"{task:<12}{name:<14}{metric:<30}{share['value']:>7.3f}  {interval:<16}{counts[1]:>6}")


def _figure_answers(
    count: int, seed: int, parameters: CompositeParameters, read_text: ReadText | None
) -> Iterator[tuple[int, Answer]]:
    for number in range(count):
        figure = draw_composite(np.random.default_rng([seed, 0, number]), parameters)
        for answer in panel_answers(figure, lambda image, labels: read_panels(image, labels, {}, read_text)):
            yield number, answer


def _micrograph_answers(
    count: int, seed: int, parameters: CompositeParameters, read_text: ReadText | None
) -> Iterator[tuple[int, Answer]]:
    for number in range(count):
        image, bar = draw_micrograph(np.random.default_rng([seed, 1, number]), parameters)
        for answer in bar_answers(image, bar, lambda image: read_scale_bar(image, read_text)):
            yield number, answer


if __name__ == "__main__":
    main()
