"""Which words of a caption belong to which panel.

Belongs here: panel labels, their ranges and lists, and the distribution of the text. A label opens a clause ("(a) STM
image of …"), or stands behind what it names ("STM (a) and STEM (b) images"). Labels that only point ("the line in
(a)"), Miller indices and equations are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_ITEM = r"(?:[A-Za-z]'?\d?|[ivx]{2,4})"
_BETWEEN = r"\s*(?:,\s*and|,|and|&|-|–|—|to|\.\.\.|…)\s*"
_GROUP = re.compile(rf"[(\[]\s*({_ITEM}(?:{_BETWEEN}{_ITEM})*)\s*[)\]]")
_JOINED = re.compile(r"^\s*(?:,\s*and|,|and|&|-|–|—|to|through)\s*$")
_OPEN = re.compile(rf"(?:(?<=^)|(?<=[.;:]\s))({_ITEM}(?:{_BETWEEN}{_ITEM})*)(\)|,|:|\.)\s+(?=\S)")
_POINTS = re.compile(
    r"(?:\b(?:in|of|from|see|as|by|with|than|to|between|for|like|within|at|per|panels?|figs?\.?|figures?|inset|ref\.?|refs\.?|eqs?\.?"
    r"|images?|parts?|both|the|box|rectangle|along)|\d)\s*$",
    re.IGNORECASE,
)
_CLAUSE_START = re.compile(r"(?:^|[.;:,!?)\]—–]|\b(?:and|while|whereas|but|or))\s*$", re.IGNORECASE)


class PanelText(BaseModel):
    """The words that belong to one panel."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(description="Lower case, without brackets; empty for a figure of one panel.")
    text: str
    confidence: float = Field(ge=0, le=1, description="1 for a label that opens a clause in the order of the alphabet.")


class CaptionParts(BaseModel):
    """A caption divided."""

    model_config = ConfigDict(frozen=True)

    preamble: str = Field(description="What is said before the first label: of all panels.")
    panels: tuple[PanelText, ...] = Field(description="One panel with an empty label where there are no labels.")


@dataclass(frozen=True)
class _Mark:
    """A group of labels at a place of the text."""

    start: int
    end: int
    labels: tuple[str, ...]
    opens: bool
    points: bool


def distribute(caption: str) -> CaptionParts:
    """Divide a caption among its panels.

    Args:
        caption: plain text of the whole caption.
    """
    marks = _in_order(_marks(caption))
    if not marks:
        return CaptionParts(preamble="", panels=(PanelText(label="", text=caption.strip(), confidence=1.0),))
    defining = [mark for mark in marks if mark.opens]
    is_leading = bool(defining) and defining[0].start <= marks[0].start
    chosen = defining if is_leading else marks
    pieces = _leading(caption, chosen) if is_leading else _trailing(caption, chosen)
    preamble = caption[: chosen[0].start].strip(" ,;:") if is_leading else ""
    labels = sorted({label for _, mark in pieces for label in mark.labels}, key=_rank)
    expected = [chr(ord("a") + place) for place in range(len(labels))]
    is_alphabet = labels == expected or labels == list(_ROMAN[: len(labels)])
    confidence = (0.95 if is_leading else 0.8) if is_alphabet else 0.5
    panels = [
        PanelText(
            label=label,
            text=" ".join(text for text, mark in pieces if label in mark.labels).strip(),
            confidence=confidence,
        )
        for label in labels
    ]
    return CaptionParts(preamble=preamble, panels=tuple(panels))


def expand_labels(group: str) -> tuple[str, ...]:
    """Labels of a group as it is written, in lower case: ``a-c, e`` is a, b, c, e."""
    items = re.findall(_ITEM, re.sub(r"\b(?:and|to|through)\b", lambda match: "-" if match[0] != "and" else ",", group))
    joints = re.split(_ITEM, re.sub(r"\b(?:to|through)\b", "-", re.sub(r"\band\b", ",", group)))[1:-1]
    labels = [items[0].lower()] if items else []
    for joint, item in zip(joints, items[1:], strict=False):
        last, new = labels[-1], item.lower()
        if re.search(r"[-–—…]|\.\.\.", joint) and len(last) == len(new) == 1 and last < new:
            labels += [chr(code) for code in range(ord(last) + 1, ord(new) + 1)]
        else:
            labels.append(new)
    return tuple(dict.fromkeys(labels))


def _marks(caption: str) -> list[_Mark]:
    found = [(match.start(), match.end(), match[1]) for match in _GROUP.finditer(caption)]
    if not found:
        found = [(match.start(1), match.end(2), match[1]) for match in _OPEN.finditer(caption)]
        return [_Mark(start, end, expand_labels(group), True, False) for start, end, group in found]
    marks: list[_Mark] = []
    for start, end, group in found:
        before = caption[:start]
        joint = caption[marks[-1].end : start] if marks else ""
        if marks and _JOINED.match(joint):
            merged = f"{_written(marks[-1].labels)}{joint}{group}"
            marks[-1] = _Mark(marks[-1].start, end, expand_labels(merged), marks[-1].opens, marks[-1].points)
            continue
        opens = bool(_CLAUSE_START.search(before)) and not re.search(r"\d\s*,\s*$", before)
        marks.append(_Mark(start, end, expand_labels(group), opens, bool(_POINTS.search(before))))
    return marks


def _written(labels: tuple[str, ...]) -> str:
    return ",".join(labels)


def _in_order(marks: list[_Mark]) -> list[_Mark]:
    """Marks that name panels: they do not only point, and their labels belong to one alphabet that begins with a."""
    naming = [mark for mark in marks if not mark.points]
    labels = {label for mark in naming for label in mark.labels}
    if "a" not in labels and "i" not in labels and "a1" not in labels:
        return []
    return naming


def _leading(caption: str, marks: list[_Mark]) -> list[tuple[str, _Mark]]:
    """Each label owns the text up to the next one; shared remarks at the end are divided by the labels in them."""
    pieces = []
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        pieces.append((caption[mark.end : after.start if after else len(caption)].strip(" ,;:"), mark))
    return pieces


def _trailing(caption: str, marks: list[_Mark]) -> list[tuple[str, _Mark]]:
    """Each label owns the clause before it, and all own what follows the last one."""
    pieces, last = [], 0
    rest = caption[marks[-1].end :].strip(" ,;:")
    for mark in marks:
        clause = re.sub(r"^(?:\s*(?:and|,|;|\.)\s*)+", "", caption[last : mark.start]).strip()
        pieces.append((f"{clause} {rest}".strip(), mark))
        last = mark.end
    return pieces


def _rank(label: str) -> tuple[int, str]:
    return (_ROMAN.index(label), "") if label in _ROMAN and len(label) > 1 else (0, label)
