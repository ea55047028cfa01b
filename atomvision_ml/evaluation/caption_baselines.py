"""Simple readers of captions, which the extractor must beat: key words, and always the most frequent answer.

Belongs here: what stands beside the extractor in the task ``captions`` of ``evaluation/metrics``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ase.data import chemical_symbols

from atomvision_ml.literature.chemistry import Mention
from atomvision_ml.literature.scale_statements import ScaleBar
from atomvision_ml.literature.scoring import CaptionReader
from atomvision_ml.literature.understanding import FigureUnderstanding, Panel

Row = dict[str, Any]

_KEY_WORDS = (
    ("STM", r"STM|scanning tunnell?ing|topograph"),
    ("STEM", r"STEM|HAADF|ABF|Z-contrast|annular"),
    ("HRTEM", r"HRTEM|HREM|high-resolution"),
    ("diffraction", r"SAED|LEED|RHEED|FFT|Fourier|diffraction"),
    ("TEM", r"TEM|transmission electron|bright-field|dark-field"),
    ("SEM", r"SEM|scanning electron|secondary electron"),
    ("AFM", r"AFM|KPFM|MFM|atomic force|force micro"),
    ("schematic", r"schematic|model|structure|sketch|illustration|diagram"),
    ("plot", r"spectr|plot|curve|profile|histogram|dependence|versus|as a function|distribution|XRD"),
    ("other", r"EDX|EDS|EELS|map|optical|photograph|image"),
)
_MODALITIES = {name: re.compile(rf"\b(?:{words})") for name, words in _KEY_WORDS}
_MICROSCOPY = ("STM", "STEM", "HRTEM", "TEM")
_LABELS = re.compile(
    r"\(([A-Za-z])(?:(?:\s?([-–])\s?|,\s?)([A-Za-z]))?\)|(?:^|[.;] )([A-Za-z])(?:([-–])([A-Za-z]))?[,:)] "
)
_ELEMENT = "|".join(sorted(chemical_symbols[1:99], key=len, reverse=True))
_FORMULA = re.compile(rf"(?<![A-Za-z])((?:(?:{_ELEMENT})(?:\d+(?:\.\d+)?)?){{2,}})(?:\((\d{{3,4}})\))?(?![a-z])")
_SYMBOL = re.compile(rf"(?<![A-Za-z])({_ELEMENT})\((\d{{3,4}})\)")
_BAR = re.compile(r"[Ss]cale bars?\D{0,12}(\d+(?:\.\d+)?)\s?(nm|µm|μm|Å)")
_UNITS = {"nm": "nm", "µm": "um", "μm": "um", "Å": "angstrom"}


def key_words(caption: str) -> FigureUnderstanding:
    """Letters as panels, the first key word as modality, runs of element symbols as formulas.

    Args:
        caption: the whole caption.
    """
    preamble, texts = _divided(caption)
    bar = _BAR.search(caption)
    panels = [_panel(label, text, preamble, bar) for label, text in texts.items()]
    is_relevant = any(panel.modality in _MICROSCOPY for panel in panels)
    return FigureUnderstanding(preamble=preamble, is_relevant=is_relevant, panels=tuple(panels))


def most_frequent(labelled: Sequence[Row]) -> CaptionReader:
    """The reader that always gives the most frequent answer, whatever the caption.

    Args:
        labelled: captions with their truth, in which the answers are counted.
    """
    panels = [panel for caption in labelled for panel in caption["panels"]]
    labels = _commonest(tuple(panel["label"] for panel in caption["panels"]) for caption in labelled)
    formula, role = _commonest((each["formula"], each["role"]) for panel in panels for each in panel["formulas"])
    found = Mention(formula=formula, raw=formula, role=role, start=0)
    modality = _commonest(panel["modality"] for panel in panels)
    answer = FigureUnderstanding(
        preamble="",
        is_relevant=_commonest(caption["is_relevant"] for caption in labelled),
        panels=tuple(_made(label, "", modality, (found,)) for label in labels),
    )
    return CaptionReader("most_frequent", "trivial", lambda caption: answer)


def caption_baselines(labelled: Sequence[Row]) -> list[CaptionReader]:
    """All baselines of the task, the trivial one counted in the same captions, which flatters it."""
    return [CaptionReader("key_words", "classical", key_words), most_frequent(labelled)]


def _divided(caption: str) -> tuple[str, dict[str, str]]:
    """What stands before the first letter, and the text up to the next letter by letter."""
    marks = list(_LABELS.finditer(caption))
    if not marks:
        return "", {"": caption}
    ends = [mark.start() for mark in marks[1:]] + [len(caption)]
    texts: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        for label in _letters(mark):
            texts.setdefault(label, caption[mark.end() : end])
    return caption[: marks[0].start()], texts


def _letters(mark: re.Match[str]) -> list[str]:
    first, dash, last = mark[1] or mark[4], mark[2] or mark[5], mark[3] or mark[6]
    if dash and first < last:
        return [chr(code) for code in range(ord(first), ord(last) + 1)]
    return [first, last] if last else [first]


def _panel(label: str, text: str, preamble: str, bar: re.Match[str] | None) -> Panel:
    modality = _first_modality(text) or _first_modality(preamble) or "plot"
    is_picture = bar is not None and modality not in ("plot", "schematic")
    scale = ScaleBar(value=float(bar[1]), unit=_UNITS[bar[2]]) if bar and is_picture and float(bar[1]) else None
    return _made(label, text, modality, tuple(_mentions(f"{preamble} {text}")), scale)


def _first_modality(text: str) -> str | None:
    places = {name: match.start() for name, words in _MODALITIES.items() if (match := words.search(text))}
    return min(places, key=places.__getitem__, default=None)


def _mentions(text: str) -> Iterable[Mention]:
    found = sorted([*_FORMULA.finditer(text), *_SYMBOL.finditer(text)], key=lambda match: match.start())
    for match in found:
        is_substrate = text[: match.start()].endswith((" on ", " on the "))
        yield Mention(
            formula=match[1],
            raw=match[1],
            role="substrate" if is_substrate else "sample",
            facet=match[2],
            start=match.start(),
        )


def _made(
    label: str, text: str, modality: str, materials: tuple[Mention, ...], scale_bar: ScaleBar | None = None
) -> Panel:
    return Panel(
        label=label,
        text=text,
        label_confidence=0.5,
        modality=modality,  # type: ignore[arg-type]
        modality_confidence=0.5,
        materials=materials,
        scale_bar=scale_bar,
    )


def _commonest(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
