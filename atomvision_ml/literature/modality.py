"""What kind of picture a panel is, from words alone; and whether a figure or a paper is about such pictures.

Belongs here: the words of each modality, the context that decides of words such as "topography" and "image", and the
guards against namesakes: STEM education and stem cells, STM for short-term memory, SEM for a standard error, TEM00
modes, AFM for antiferromagnetic. The words are in ``modalities.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.captions import CaptionParts, PanelText
from atomvision_ml.literature.panel_labels import references

Modality = Literal["STM", "STEM", "HRTEM", "TEM", "SEM", "AFM", "diffraction", "plot", "schematic", "other"]

MICROSCOPY: tuple[Modality, ...] = ("STM", "STEM", "HRTEM", "TEM")
"""What the corpus is about."""

IMAGES: tuple[Modality, ...] = (*MICROSCOPY, "SEM", "AFM", "other")
"""What an unnamed image can be."""

_OPEN = ("probe", "field", "fine", "image", "motif")
_INSET = re.compile(r"\([^()]*\b[Ii]nsets?\b[^()]*\)|\b[Ii]nsets?\b[^.;]*(?:[.;]|$)")
_CONDITION_ONLY = re.compile(r"[\W\d]*(?:\b[A-Za-z]{1,3}\b[\W\d]*)*$")


class PanelModality(BaseModel):
    """What a panel is said to be."""

    model_config = ConfigDict(frozen=True)

    label: str
    modality: Modality
    confidence: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class _Hit:
    """A word of a modality, or one whose modality is open."""

    start: int
    end: int
    kind: str
    word: str


def without_namesakes(text: str) -> str:
    """The text without words that only look like a modality."""
    vocabulary = _vocabulary()
    return vocabulary.namesakes.sub(" ", text) if vocabulary.suspicious.search(text) else text


def modalities(text: str) -> list[Modality]:
    """The modalities that a text names, in the order in which they are named first."""
    return list(dict.fromkeys(hit.kind for hit in _hits(text) if hit.kind not in _OPEN))  # type: ignore[misc]


def panel_modalities(parts: CaptionParts) -> list[PanelModality]:
    """The modality of each panel: of its own words, else of what is said of all or of the panel that it refers to.

    Args:
        parts: the caption, divided.
    """
    preamble = _hits(parts.preamble)
    labels = [panel.label for panel in parts.panels]
    found: dict[str, PanelModality] = {}
    for panel in parts.panels:
        found[panel.label] = _panel_modality(panel, preamble, found, labels)
    return list(found.values())


def is_relevant(text: str) -> bool:
    """Whether a text (abstract, title, caption) speaks of STM, STEM, HRTEM or TEM, and not of a namesake."""
    return any(name in MICROSCOPY for name in modalities(text))


def is_biological(text: str) -> bool:
    """Whether a caption speaks of viruses, proteins and the like: no material."""
    return _vocabulary().biology.search(text) is not None


def is_relevant_figure(parts: CaptionParts, panels: Sequence[PanelModality]) -> bool:
    """Whether a figure has at least one STM, STEM, HRTEM or TEM image of a material.

    Args:
        parts: the caption, divided.
        panels: the modalities of its panels.
    """
    if not any(panel.modality in MICROSCOPY for panel in panels):
        return False
    return not any(is_biological(text) for text in (parts.preamble, *(panel.text for panel in parts.panels)))


def _panel_modality(
    panel: PanelText, preamble: Sequence[_Hit], found: dict[str, PanelModality], labels: Sequence[str]
) -> PanelModality:
    own = _hits(_INSET.sub(" ", panel.text))
    shared = _hits(panel.shared)
    around = [*shared, *preamble]
    first = own[0] if own else None
    if first is not None and first.kind not in _OPEN:
        alone = len({hit.kind for hit in own if hit.kind not in _OPEN}) == 1
        return _named(panel, first.kind, 0.95 if alone else 0.85)
    if first is not None and (name := _in_context(first, own, around, panel, found, labels)):
        return _named(panel, name, 0.8)
    if name := _referred(panel, found, labels) if own or "(" in panel.text else None:
        return _named(panel, name, 0.7)
    for hits, confidence in ((shared, 0.8), (preamble, 0.8), (_hits(panel.remarks), 0.6)):
        if name := _first_closed(hits) or _first_open(hits):
            return _named(panel, name, confidence)
    if found:
        return _named(panel, list(found.values())[-1].modality, 0.5)
    return _named(panel, "other", 0.3)


def _named(panel: PanelText, name: str, confidence: float) -> PanelModality:
    return PanelModality(label=panel.label, modality=name, confidence=confidence)  # type: ignore[arg-type]


def _in_context(
    hit: _Hit,
    own: Sequence[_Hit],
    around: Sequence[_Hit],
    panel: PanelText,
    found: dict[str, PanelModality],
    labels: Sequence[str],
) -> str | None:
    """What a word means whose modality is open, beside the words around it and the panels before."""
    known = [each.kind for each in (*own, *around) if each.kind not in _OPEN]
    before = [each.modality for each in found.values()]
    images = [kind for kind in known if kind in IMAGES]
    if hit.kind == "probe":
        probes = [kind for kind in (*known, *reversed(before)) if kind in ("STM", "AFM")]
        return probes[0] if probes else _referred(panel, found, labels) or (images[0] if images else "STM")
    if hit.kind == "field":
        electron = [kind for kind in (*known, *reversed(before)) if kind in ("STEM", "TEM", "HRTEM", "other")]
        return "STEM" if electron[:1] == ["STEM"] else "other" if electron[:1] == ["other"] else "TEM"
    if hit.kind == "fine":
        micro = [kind for kind in (*known, *reversed(before)) if kind in IMAGES and kind != "other"]
        return {"TEM": "HRTEM"}.get(micro[0], micro[0]) if micro else "HRTEM"
    if hit.kind == "image":
        own_images = [each.kind for each in own if each.kind in IMAGES]
        later = [each.kind for each in own if each.kind in ("field", "fine", "probe")]
        if own_images:
            return own_images[0]
        if later:
            return _in_context(next(each for each in own if each.kind in later), own, around, panel, found, labels)
        return (
            _referred(panel, found, labels)
            or next(iter(images), None)
            or _first_open(around)
            or next((name for name in reversed(before) if name in IMAGES), None)
        )
    if any(each.kind == "image" for each in own) or _referred(panel, found, labels) in MICROSCOPY:
        image = next((each for each in own if each.kind == "image"), _Hit(0, 0, "image", ""))
        if hit.word.lower().startswith(("calc", "comp", "tight")):
            return _in_context(image, [each for each in own if each.kind != "motif"], around, panel, found, labels)
    closed = _first_closed(own)
    return closed or next(
        (reading for word, reading in _vocabulary().readings.items() if hit.word.lower().startswith(word)), None
    )


def _referred(panel: PanelText, found: dict[str, PanelModality], labels: Sequence[str]) -> str | None:
    """The modality of the image that the words of a panel refer to."""
    for _, group in references(panel.text, labels):
        for label in group:
            if label != panel.label and label in found and found[label].modality in IMAGES:
                return found[label].modality
    return None


def _first_closed(hits: Sequence[_Hit]) -> str | None:
    return next((hit.kind for hit in hits if hit.kind not in _OPEN), None)


def _first_open(hits: Sequence[_Hit]) -> str | None:
    """What the first open word means where nothing else is said."""
    meanings = {"probe": "STM", "field": "TEM", "fine": "HRTEM"}
    return next((meanings[hit.kind] for hit in hits if hit.kind in meanings), None)


def _hits(text: str) -> list[_Hit]:
    """The words of modalities in a text, in its order; what lies within a longer one is left out."""
    if not text:
        return []
    clean = without_namesakes(text)
    found = []
    lower = clean.translate(_LOWER)
    for pattern, kinds, searched in _vocabulary().searches:
        for match in pattern.finditer(lower if searched == "lower" else clean):
            found.append(_Hit(match.start(), match.end(), kinds[match.lastindex or 0], match[0]))
    hits: list[_Hit] = []
    for hit in sorted(found, key=lambda each: (each.start, -each.end)):
        if not hits or hit.start >= hits[-1].end:
            hits.append(hit)
    return hits


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class _Vocabulary:
    """The words, compiled."""

    searches: tuple[tuple[re.Pattern[str], dict[int, str], str], ...]
    namesakes: re.Pattern[str]
    suspicious: re.Pattern[str]
    biology: re.Pattern[str]
    readings: dict[str, str]


@cache
def _vocabulary() -> _Vocabulary:
    import yaml

    words: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "modalities.yaml").read_text(encoding="utf-8"))
    searches = []
    for searched in ("lower", "as written"):
        groups = []
        for each in words["modalities"]:
            chosen = [word for word in each["words"] if (word == word.lower()) == (searched == "lower")]
            if chosen:
                groups.append((each["is"], "|".join(chosen)))
        pattern = "|".join(f"({alternatives})" for _, alternatives in groups)
        kinds = {number: name for number, (name, _) in enumerate(groups, 1)}
        searches.append((re.compile(rf"(?<!\w)(?:{pattern})(?!\w)"), kinds, searched))
    return _Vocabulary(
        searches=tuple(searches),
        namesakes=re.compile("|".join(words["namesakes"])),
        suspicious=re.compile(r"[Ss]tem|STEM|S[TE]M|TEM|AFM|s\.e\.m|[Mm]emory|[Aa]ntiferro|TEM|Hermite|lectromag|[Ss]tandard"),
        biology=re.compile(rf"\b(?:{'|'.join(words['biology'])})\b", re.IGNORECASE),
        readings=words["readings"],
    )
