"""Scores of the extractor on labelled captions (``docs/literature_labels.md``).

Belongs here: what is counted as right, the figures with Wilson intervals, and the list of failures. A panel counts only
under its exact label; the panels of a caption whose labels were missed are missed modalities and formulas.

    python -m atomvision_ml.literature.scoring [FILE] [--failures]
    python -m atomvision_ml.literature.scoring --titles FILE.json.zip --sample 100
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from atomvision_ml.literature.chemistry import reduced_formula
from atomvision_ml.literature.modality import techniques
from atomvision_ml.literature.understanding import FigureUnderstanding, understand

LABELLED = "captions.jsonl"
"""The open captions: measured as often as wanted."""

TARGETS = {
    "relevance_precision": 0.95,
    "relevance_recall": 0.95,
    "modality_precision": 0.95,
    "modality_recall": 0.90,
    "formula_precision": 0.90,
    "formula_recall": 0.80,
    "exact_label_sets": 0.85,
}

CONFIDENCE = 0.95
"""Of the Wilson intervals."""

Row = dict[str, Any]
Tally = dict[str, Counter[str]]
"""Right and all answers of each figure, ``{"modality_recall": {"right": 9, "all": 10}}``."""


@dataclass(frozen=True)
class CaptionReader:
    """A method that reads captions.

    Attributes:
        name: of the method, as in ``evaluation/metrics``.
        role: ``model``, or the kind of baseline: ``classical`` or ``trivial``.
        read: from the caption to what it says.
    """

    name: str
    role: str
    read: Callable[[str], FigureUnderstanding]


RULES = CaptionReader("caption_rules", "model", understand)
"""The extractor itself."""


def read_labelled(path: Path | None = None) -> list[Row]:
    """The labelled captions of a file; the open ones of the package where none is given."""
    source = path or files("atomvision_ml.literature") / "labelled" / LABELLED
    return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]


def score_rows(labelled: Sequence[Row], size: str = "full", reader: CaptionReader = RULES) -> list[Row]:
    """Figures of a method, as rows of ``evaluation/metrics``, of all captions and of each stratum.

    Args:
        labelled: captions with their truth.
        size: size of the graph that they stand in.
        reader: the method.

    Returns:
        Rows with 95 % Wilson intervals; panels of one caption are counted as if they were independent. ``value`` is
        None where nothing was to count.
    """
    answers = [(caption, reader.read(caption["caption"])) for caption in labelled]
    slices = {"all": answers}
    for stratum in sorted({caption["stratum"] for caption in labelled}):
        slices[stratum] = [answer for answer in answers if answer[0]["stratum"] == stratum]
    about = {"task": "captions", "model": reader.name, "model_id": reader.name, "role": reader.role}
    return [
        {**about, "size": size, "seed": 0, "slice": name, "metric": metric, **wilson(counts["right"], counts["all"])}
        for name, chosen in slices.items()
        for metric, counts in tally(chosen).items()
    ]


def tally(answers: Iterable[tuple[Row, FigureUnderstanding]]) -> Tally:
    """Right and all answers of each figure."""
    counts: Tally = {name: Counter() for name in TARGETS}
    for caption, found in answers:
        _count(counts, "relevance_precision", found.is_relevant, found.is_relevant and caption["is_relevant"])
        _count(counts, "relevance_recall", caption["is_relevant"], found.is_relevant and caption["is_relevant"])
        true_panels = {panel["label"]: panel for panel in caption["panels"]}
        panels = {panel.label: panel for panel in found.panels}
        _count(counts, "exact_label_sets", True, panels.keys() == true_panels.keys())
        for label in true_panels.keys() | panels.keys():
            truth, panel = true_panels.get(label), panels.get(label)
            true_name, name = truth and truth["modality"], panel and panel.modality
            _count(counts, "modality_recall", truth, name == true_name)
            _count(counts, "modality_precision", panel and truth, name == true_name)
            for kind in filter(None, {true_name, name}):
                _count(counts, f"modality_recall_{kind}", true_name == kind, name == kind)
                _count(counts, f"modality_precision_{kind}", name == kind and truth, true_name == kind)
            true_formulas, formulas = true_keys(truth), found_keys(panel)
            counts["formula_recall"].update(right=len(true_formulas & formulas), all=len(true_formulas))
            counts["formula_precision"].update(right=len(true_formulas & formulas), all=len(formulas))
            if truth and panel:
                _count_roles(counts, truth, panel)
            _count_facets_and_bars(counts, truth, panel)
    return counts


def wilson(right: int, count: int) -> Row:
    """A share with its 95 % Wilson interval: ``value``, ``low``, ``high`` (None of nothing) and ``n_items``."""
    from scipy.stats import binomtest

    if not count:
        return {"value": None, "low": None, "high": None, "n_items": 0}
    interval = binomtest(right, count).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return {"value": right / count, "low": float(interval.low), "high": float(interval.high), "n_items": count}


def true_keys(panel: Row | None) -> set[str]:
    """The labelled formulas of a panel, to compare as compositions."""
    return {formula_key(each["formula"]) for each in panel["formulas"]} if panel else set()


def found_keys(panel: Any) -> set[str]:
    """The extracted formulas of a panel, to compare as compositions."""
    return {formula_key(each.formula) for each in panel.materials} if panel else set()


def formula_key(formula: str) -> str:
    """Equal for formulas of equal composition, unknowns included; a chemical system is its own key."""
    return reduced_formula(formula) or formula


def title_report(path: Path, sample: int, seed: int = 1) -> list[str]:
    """Counts of the title filter, and a sample of its hits for a person to read.

    Args:
        path: a zip with one JSON file, titles by identifier in one or several parts.
        sample: how many hits.
        seed: of the sample.
    """
    with zipfile.ZipFile(path) as archive:
        parts = json.loads(archive.read(archive.namelist()[0])).values()
    plain = {key: " ".join(title.split()) for part in parts for key, title in part.items()}
    hits = {key: found for key, title in sorted(plain.items()) if (found := techniques(title))}
    counts = Counter(name for found in hits.values() for name in found)
    chosen = random.Random(seed).sample(list(hits), min(sample, len(hits)))
    lines = [f"{len(plain)} titles, {len(hits)} hits: {dict(counts.most_common())}"]
    return lines + [f"{key} {'/'.join(hits[key])} {plain[key]}" for key in chosen]


def failures(labelled: Iterable[Row]) -> list[str]:
    """What the extractor gets wrong, a line for each caption that has any mistake."""
    lines = []
    for caption in labelled:
        found = understand(caption["caption"])
        mistakes = _mistakes(caption, found)
        if mistakes:
            lines.append(f"{caption['id']} {caption['caption']}\n" + "\n".join(f"    {each}" for each in mistakes))
    return lines


def _mistakes(caption: Row, found: FigureUnderstanding) -> list[str]:
    mistakes = []
    if found.is_relevant != caption["is_relevant"]:
        mistakes.append(f"relevant: {found.is_relevant}")
    true_panels = {panel["label"]: panel for panel in caption["panels"]}
    panels = {panel.label: panel for panel in found.panels}
    if panels.keys() != true_panels.keys():
        mistakes.append(f"labels: {sorted(panels)} for {sorted(true_panels)}")
    for label in [label for label in true_panels if label in panels]:
        truth, panel = true_panels[label], panels[label]
        if panel.modality != truth["modality"]:
            mistakes.append(f"{label}: {panel.modality} for {truth['modality']} in {panel.text!r}")
        extra, missed = found_keys(panel) - true_keys(truth), true_keys(truth) - found_keys(panel)
        if extra or missed:
            mistakes.append(f"{label}: formulas +{sorted(extra)} -{sorted(missed)}")
        if _true_bar(truth) != _found_bar(panel):
            mistakes.append(f"{label}: scale bar {_found_bar(panel)} for {_true_bar(truth)}")
    return mistakes


def _count(counts: Tally, name: str, is_counted: Any, is_right: Any) -> None:
    if is_counted:
        counts.setdefault(name, Counter()).update(right=int(bool(is_right)), all=1)


def _count_roles(counts: Tally, truth: Row, panel: Any) -> None:
    roles: dict[str, set[str]] = {}
    for each in truth["formulas"]:
        roles.setdefault(formula_key(each["formula"]), set()).add(each["role"])
    for mention in panel.materials:
        key = formula_key(mention.formula)
        _count(counts, "role_accuracy", key in roles, mention.role in roles.get(key, ()))


def _count_facets_and_bars(counts: Tally, truth: Row | None, panel: Any) -> None:
    written = truth["facets"] if truth else []
    true_facets = {re.sub(r"^(.+)\((.+)\)$", _facet_key, facet) for facet in written}
    materials = panel.materials if panel else ()
    facets = {f"{formula_key(each.formula)}({each.facet})" for each in materials if each.facet}
    counts.setdefault("facet_recall", Counter()).update(right=len(true_facets & facets), all=len(true_facets))
    counts.setdefault("facet_precision", Counter()).update(right=len(true_facets & facets), all=len(facets))
    true_bar, bar = _true_bar(truth), _found_bar(panel)
    _count(counts, "scale_bar_recall", true_bar, true_bar == bar)
    _count(counts, "scale_bar_precision", bar, true_bar == bar)


def _facet_key(match: re.Match[str]) -> str:
    return f"{formula_key(match[1])}({match[2]})"


def _true_bar(panel: Row | None) -> tuple[float, str] | None:
    bar = panel.get("scale_bar") if panel else None
    return (float(bar["value"]), bar["unit"]) if bar else None


def _found_bar(panel: Any) -> tuple[float, str] | None:
    return (panel.scale_bar.value, panel.scale_bar.unit) if panel and panel.scale_bar else None


def _table(rows: Sequence[Row]) -> str:
    lines = [f"{'slice':<18}{'metric':<34}{'value':>7}  {'95 % interval':<16}{'n':>6}  target"]
    for row in rows:
        if row["value"] is None:
            continue
        target = TARGETS.get(row["metric"], "") if row["slice"] == "all" else ""
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"{row['slice']:<18}{row['metric']:<34}{row['value']:>7.3f}  {interval:<16}{row['n_items']:>6}  {target}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The scores as a table, and the failures on request."""
    parser = argparse.ArgumentParser(description="Scores of the caption extractor on labelled captions.")
    parser.add_argument("file", nargs="?", type=Path, help="labelled captions; the open ones of the package by default")
    parser.add_argument("--failures", action="store_true", help="list what is wrong")
    parser.add_argument("--titles", type=Path, help="zip of titles: run the title filter over them instead")
    parser.add_argument("--sample", type=int, default=0, help="hits of the title filter to show")
    chosen = parser.parse_args(arguments)
    if chosen.titles:
        print("\n".join(title_report(chosen.titles, chosen.sample)))
        return
    labelled = read_labelled(chosen.file)
    if chosen.failures:
        print("\n".join(failures(labelled)))
    print(_table(score_rows(labelled)))


if __name__ == "__main__":
    main()
