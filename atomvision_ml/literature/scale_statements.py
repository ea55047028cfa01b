"""Scale bars that a caption states in words.

Belongs here: statements such as "Scale bars, 5 nm (a), 2 nm (b)". Widths of images, error bars and colour bars are
none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.captions import CaptionParts, distribute
from atomvision_ml.literature.modality import PanelModality, panel_modalities
from atomvision_ml.literature.panel_labels import references

_UNITS = {"Å": "angstrom", "A": "angstrom", "nm": "nm", "µm": "um", "μm": "um", "um": "um", "mm": "mm"}
_INVERSE = {"Å": "1/angstrom", "A": "1/angstrom", "nm": "1/nm"}
_VALUE = re.compile(r"(\d+(?:\.\d+)?)\s?(1/)?(nm|Å|[µμu]m|mm|A(?=\^?-1))(\s?\^?[-–]\s?1)?(?!\w|\^2)")
_STATEMENT = re.compile(r"(?:\b[Ss]cale[- ]?)?\b[Bb]ars?\b")
_OTHER_BAR = re.compile(
    r"\b(?:[Ee]rror|[Cc]olou?r|[Gg]r[ae]y|[Hh]all|[Hh]eat|[Hh]eight|[Ii]nsets?)[- ]?(?:scale )?[Bb]ars?\b"
    r"|\([^()]*\binset\b[^()]*\)|\btop to bottom\b"
)
_EXCEPTION = re.compile(r"\bexcept\b")
_ENDS = re.compile(r"(?<=[.?!])\s+(?=\S)")
_PICTURES_WITHOUT = ("plot", "schematic")


class ScaleBar(BaseModel):
    """A length that a scale bar stands for."""

    model_config = ConfigDict(frozen=True)

    value: float = Field(gt=0)
    unit: str = Field(description="angstrom, nm, um, mm, 1/nm or 1/angstrom.")


def stated_scale_bars(text: str) -> dict[str, ScaleBar]:
    """Scale bars by panel label, where a caption states them.

    Args:
        text: the whole caption.
    """
    parts = distribute(text)
    return scale_bars_of(parts, panel_modalities(parts))


def scale_bars_of(parts: CaptionParts, modalities: Sequence[PanelModality]) -> dict[str, ScaleBar]:
    """As :func:`stated_scale_bars`, of a caption that is divided already.

    A statement with labels goes to them, one inside a panel's words to that panel, a closing one to all panels that
    are neither plot nor schematic; as many values as panels are dealt out in order.
    """
    labels = [panel.label for panel in parts.panels]
    pictures = [each.label for each in modalities if each.modality not in _PICTURES_WITHOUT]
    bars: dict[str, ScaleBar] = _stated(parts.preamble, labels, pictures)
    for panel in parts.panels:
        own = _stated(panel.text, labels, [panel.label])
        bars |= own
    for panel in parts.panels:
        for text in (panel.shared, panel.remarks):
            stated = _stated(text, labels, pictures if panel.label in pictures else [])
            if panel.label in stated and panel.label not in bars:
                bars[panel.label] = stated[panel.label]
    return bars


def _stated(text: str, labels: Sequence[str], default: Sequence[str]) -> dict[str, ScaleBar]:
    """What the statements of a text say; those without labels to the default ones."""
    if "bar" not in text and "Bar" not in text:
        return {}
    found: dict[str, ScaleBar] = {}
    for sentence in _ENDS.split(text):
        statement = _STATEMENT.search(sentence)
        if statement is None or _OTHER_BAR.search(sentence):
            continue
        values = _values(sentence, statement.start())
        stated, *others = _EXCEPTION.split(sentence[statement.start() :], maxsplit=1)
        without = {label for other in others for _, group in references(other, labels) for label in group}
        groups = [group for _, group in references(stated, labels)] if labels != [""] else []
        found |= _dealt(values, groups, [label for label in default if label not in without], labels)
    return found


def _values(sentence: str, start: int) -> list[ScaleBar]:
    """The lengths of a statement: behind the word, or just before it ("10 µm bar")."""
    matches = list(_VALUE.finditer(sentence, start)) or list(_VALUE.finditer(sentence[max(0, start - 12) : start]))
    bars = []
    for match in matches:
        inverse = bool(match[2] or match[4])
        unit = (_INVERSE if inverse else _UNITS).get(match[3])
        if unit and float(match[1]) > 0:
            bars.append(ScaleBar(value=float(match[1]), unit=unit))
    return bars


def _dealt(
    values: Sequence[ScaleBar], groups: Sequence[Sequence[str]], default: Sequence[str], labels: Sequence[str]
) -> dict[str, ScaleBar]:
    flat = [label for group in groups for label in group]
    if not values:
        return {}
    if groups and len(groups) == len(values):
        return {label: value for group, value in zip(groups, values, strict=True) for label in group}
    if flat and len(flat) == len(values):
        return dict(zip(flat, values, strict=True))
    if flat and len(values) == 1:
        return dict.fromkeys(flat, values[0])
    if len(default) > 1 and len(labels) == len(values):
        return dict(zip(labels, values, strict=True))
    if len(default) == len(values):
        return dict(zip(default, values, strict=True))
    return dict.fromkeys(default, values[0]) if len(values) == 1 or len(default) == 1 else {}
