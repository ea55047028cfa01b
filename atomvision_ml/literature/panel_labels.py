"""Which marks of a caption name its panels.

Belongs here: the forms of labels, their ranges and lists, and what only looks like one. A label is met for the first
time where its panel is described; a later one only points ("the line in (a)"). The labels of a figure belong to one
alphabet and have no gap from its first letter on. Miller indices, equations and references are no labels.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Alphabet = Literal["lower", "upper", "roman", "Roman", "number"]

_ROMANS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_PLACES: dict[Alphabet, dict[str, int]] = {
    "roman": {numeral: place for place, numeral in enumerate(_ROMANS)},
    "Roman": {numeral.upper(): place for place, numeral in enumerate(_ROMANS)},
    "lower": {chr(ord("a") + place): place for place in range(26)},
    "upper": {chr(ord("A") + place): place for place in range(26)},
    "number": {str(place + 1): place for place in range(20)},
}
_NAMES = {alphabet: tuple(places) for alphabet, places in _PLACES.items()}

_ITEM = r"(?<!\w)(?:[ivx]{2,4}|[IVX]{2,4}|[A-Za-z]\d?|\d{1,2})(?![\w'′])"
_ITEMS = re.compile(_ITEM)
_JOINT = r"\s*(?:,\s*and\b|,|\band\b|&|-|–|—|\bto\b|\bthrough\b|\.\.\.|…)\s*"
_KINDS = (r"(?:[ivx]{2,4}|[ivx])", r"(?:[IVX]{2,4}|[IVX])", r"[a-z]\d?", r"[A-Z]\d?", r"\d{1,2}")
_GROUP = "(?:" + "|".join(rf"{kind}(?![\w'′])(?:{_JOINT}{kind}(?![\w'′]))*" for kind in _KINDS) + ")"
_PLACE = (
    r"(?:(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re)|first|second|third)"
    r"(?: (?:columns?|rows?|panels?|images?))?[:,]?\s)?"
)
_BRACKETED = re.compile(rf"[(\[]\s*{_PLACE}({_GROUP})\.?\s*[)\]]")
_JOINED = re.compile(rf"^{_JOINT}$")
_RANGE = re.compile(r"[-–—…]|\bto\b|\bthrough\b|\.\.\.")
_BARE = re.compile(
    r"(?<!\w)(?=(?:[A-Za-z]\d?|[ivx]{2,4}|[IVX]{2,4}|\d\d?)\b)"
    r"(?:^|(?<=[.;:,|?!)—–] )|(?<=[\])] )|(?<=[(\[])|(?<=\band )|(?<=[Pp]anel )|(?<=[Pp]anels ))(?<!\d, )"
    rf"({_GROUP})"
    r"(\)\s|\s?[,:/.]\s"
    r"|(?=\s(?:[A-Z0-9(]|respectively|as |in |after |before |the |and |gives?|shows?|are |is ))|$)"
)
_HALF = re.compile(rf"(?<=\w )({_GROUP})\)(?=\s\w)")
"""A label with its second bracket only, within a sentence."""
_PANEL = re.compile(rf"(?<!in )(?<!of )(?<!see )(?<!from )\b[Pp]anels? ({_GROUP})(?=\s[a-z])")
"""A label without brackets behind the word."""
_NO_LABEL_BEFORE = re.compile(
    r"\b(?:(?:eqs?|refs?|figs?)\.?|equations?|references?|figures?|tables?|(?<!cross[- ])sections?|supplementary)"
    r"\s*\d*\s*$",
)
_MARKER_BEFORE = re.compile(
    r"(?:\b(?:circles?|labell?ed|marked|points?|particles?|regions?|positions?|sites?|arrows?|windows?|grains?|spots?|"
    r"peaks?|lines?|squares?|boxes|numbered|denoted|indicated by)\.?\s*\d*\s*)$",
)
_NO_LABEL_AFTER = re.compile(r"\s*(?:denotes?|marks?|labels?|stands? for|indicates?|corresponds?|refers?)\b")
_POINTS = re.compile(
    r"(?:\b(?:in|of|from|see|as|by|with|than|to|between|for|like|within|at|per|panels?|insets?|parts?|both|the|box|"
    r"rectangle|along|around|on|over))\s*$",
)
_FUNCTION_WORD = re.compile(
    r"\s*(?:$|[.,;)\]]|(?:and|is|are|was|were|shows?|with|at|in|by|taken|recorded|for|along|respectively|as|that|which|on|"
    r"to|over|but|while|where)\b)"
)
_CLAUSE_SIGNS = ".;:,!?)]—–|("
_CLAUSE_WORD = re.compile(r"\b(?:and|while|whereas|but|or|plus)$|(?:^|[.;]\s)\s*panels?$")
_PANEL_BEFORE = re.compile(r"panels?\s*$")


_REACH = 16
_NOUN = r"(?!and|or|to|is|as|at|are|after|before|in|by|with|on|using|but|recorded|taken|shows?|measured)[a-z]{3}"
"""What makes an article of "a"."""


@dataclass(frozen=True)
class Mark:
    """A group of labels at a place of the text."""

    start: int
    end: int
    labels: tuple[str, ...]
    opens: bool
    """It stands at the beginning of a clause."""


def find_labels(text: str) -> list[Mark]:
    """The marks that name panels, in the order of the text; an empty list for a figure without labels.

    Args:
        text: plain text of a caption.
    """
    best: list[Mark] = []
    for marks in _readings(text):
        if _weight(marks) > _weight(best):
            best = marks
    return best


@lru_cache(maxsize=1024)
def expand_labels(group: str) -> tuple[str, ...]:
    """Labels of a group as it is written: ``a-c, e`` is a, b, c, e; ``a1–a3`` is a1, a2, a3."""
    items = list(_ITEMS.finditer(group))
    labels = [items[0][0]] if items else []
    for before, item in itertools.pairwise(items):
        joint = group[before.end() : item.start()]
        labels += _between(before[0], item[0]) if _RANGE.search(joint) else [item[0]]
    return tuple(dict.fromkeys(labels))


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels of one figure in the order of their alphabet."""
    chosen = list(labels)
    for alphabet in _PLACES:
        if all(_place(label, alphabet) is not None for label in chosen):
            return sorted(chosen, key=lambda label: (_place(label, alphabet) or 0, label))
    return chosen


def references(text: str, known: Iterable[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Groups of known labels anywhere in a text, with their places."""
    labels = tuple(known)
    if labels in ((), ("",)):
        return []
    return [
        (match.start(), expand_labels(match[1] or match[2] or match[3]))
        for match in _reference_pattern(labels).finditer(text)
    ]


@lru_cache(maxsize=256)
def _reference_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    item = rf"(?:{names})(?![\w'′])(?!(?<=\sa) {_NOUN})"
    group = rf"{item}(?:\)?{_JOINT}\(?{item})*"
    word = r"(?:[Pp]anels?|in|for|of|from|both)"
    return re.compile(rf"[(\[]({group})\.?[)\]]|\b{word}\s+({group})|(?:(?<=[:;,] )|(?<=^))({group})(?=[:,]? \d|,)")


def _readings(text: str) -> list[list[Mark]]:
    """The text read in each of the alphabets, in brackets or bare."""
    bracketed = _merged(text, [(match.start(), match.end(), match[1]) for match in _BRACKETED.finditer(text)])
    bare = [
        (match.start(1), match.end(), match[1])
        for match in _BARE.finditer(text)
        if not (match[2].startswith(")") and text[match.start(1) - 1 : match.start(1)] in ("(", "["))
    ]
    if ") " in text:
        bare = sorted({*bare, *_half_bracketed(text)})
    if "anel" in text:
        bare = sorted({*bare, *((match.start(1), match.end(), match[1]) for match in _PANEL.finditer(text))})
    readings = []
    bracketed_firsts, bare_firsts = ({group[0] for _, _, group in found} for found in (bracketed, bare))
    for alphabet, (first, *_) in _NAMES.items():
        if first in bracketed_firsts:
            readings.append(_continued(_defining(text, bracketed, alphabet), bare, alphabet))
        if first in bare_firsts:
            readings.append(_continued(_in_sequence(bare, alphabet), bracketed, alphabet))
    return readings


def _half_bracketed(text: str) -> list[tuple[int, int, str]]:
    """``a)`` where no bracket is open."""
    return [
        (match.start(1), match.end(), match[1])
        for match in _HALF.finditer(text)
        if text.rfind("(", 0, match.start()) <= text.rfind(")", 0, match.start())
    ]


def _continued(marks: list[Mark], others: Sequence[tuple[int, int, str]], alphabet: Alphabet) -> list[Mark]:
    """Marks of one form, and those of the other form that go on behind them."""
    if not marks:
        return []
    count = sum(len(mark.labels) for mark in marks)
    return marks + _in_sequence([each for each in others if each[0] > marks[-1].end], alphabet, count)


def _weight(marks: Sequence[Mark]) -> tuple[int, int]:
    """A reading with more labels is better, then one that begins earlier; one label alone is none."""
    count = sum(len(mark.labels) for mark in marks)
    return (count, -marks[0].start) if count > 1 else (0, 0)


def _merged(text: str, found: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """``(a) and (b)``, ``(a)–(c)`` and ``(c), (d)`` are one group each."""
    merged: list[tuple[int, int, str]] = []
    seen: set[str] = set()
    for start, end, group in found:
        if group[0].isdigit() and text[start] == "[":
            continue
        joint = text[merged[-1][1] : start] if merged else ""
        is_known = bool(merged) and seen.issuperset(expand_labels(merged[-1][2]))
        if merged and _JOINED.match(joint) and not (is_known and not seen & set(expand_labels(group))):
            merged[-1] = (merged[-1][0], end, f"{merged[-1][2]}{joint}{group}")
        else:
            if merged:
                seen.update(expand_labels(merged[-1][2]))
            merged.append((start, end, group))
    return merged


def _defining(text: str, found: Sequence[tuple[int, int, str]], alphabet: Alphabet) -> list[Mark]:
    """Marks in brackets that describe a panel for the first time."""
    marks: list[Mark] = []
    known: set[str] = set()
    opening = {
        label
        for start, end, group in found
        if _opens_clause(text[max(0, start - 8) : start].lower()) and not _FUNCTION_WORD.match(text[end : end + 16])
        for label in expand_labels(group)
    }
    for start, end, group in found:
        labels = expand_labels(group)
        if any(_place(label, alphabet) is None for label in labels) or known & set(labels):
            continue
        before, after = text[max(0, start - _REACH) : start].lower(), text[end : end + _REACH]
        if _is_no_label(text, before, after, start):
            continue
        mark = Mark(start, end, labels, _opens_clause(before))
        if not mark.opens and _FUNCTION_WORD.match(after) and _POINTS.search(before):
            places = {_place(label, alphabet) for label in known}
            is_next = _place(labels[0], alphabet) == next(place for place in range(99) if place not in places)
            if not is_next or opening & set(labels):
                continue
        known |= set(labels)
        marks.append(mark)
    return _without_gap(sorted(marks, key=lambda mark: mark.start), alphabet)


def _opens_clause(before: str) -> bool:
    """Whether a clause begins behind some words, which are in lower case."""
    head = before.rstrip()
    return not head or head[-1] in _CLAUSE_SIGNS or _CLAUSE_WORD.search(head) is not None


def _is_no_label(text: str, before: str, after: str, start: int) -> bool:
    if _NO_LABEL_BEFORE.search(before):
        return True
    if not text[start + 1].islower() and _MARKER_BEFORE.search(before):
        return True
    if _PANEL_BEFORE.search(before):
        return False
    if _NO_LABEL_AFTER.match(after):
        return True
    inside = text[:start]
    return inside.count("[") > inside.count("]") and text[start] != "["


def _in_sequence(found: Sequence[tuple[int, int, str]], alphabet: Alphabet, expected: int = 0) -> list[Mark]:
    """Marks without brackets: only in the strict order of the alphabet, from the expected one on."""
    marks: list[Mark] = []
    for start, end, group in found:
        labels = expand_labels(group)
        places = [-1 if (place := _place(label, alphabet)) is None else place for label in labels]
        steps = [place - before for place, before in zip(places, [expected - 1, *places], strict=False)]
        is_numbered = all(len(label) > 1 for label in labels) and alphabet in ("lower", "upper")
        if -1 in places or not all(step == 1 or (is_numbered and step == 0) for step in steps):
            continue
        marks.append(Mark(start, end, labels, True))
        expected = places[-1] + 1
    return marks


def _without_gap(marks: Sequence[Mark], alphabet: Alphabet) -> list[Mark]:
    places = {_place(label, alphabet) for mark in marks for label in mark.labels}
    count = next(place for place in range(99) if place not in places)
    return [mark for mark in marks if all((_place(label, alphabet) or 0) < count for label in mark.labels)]


def _place(label: str, alphabet: Alphabet) -> int | None:
    places = _PLACES[alphabet]
    if label in places:
        return places[label]
    return places.get(label[:-1]) if alphabet in ("lower", "upper") and label[-1:].isdigit() else None


def _between(first: str, last: str) -> list[str]:
    """The labels after the first up to the last; the last alone if they are not of one alphabet."""
    if len(first) == len(last) == 2 and first[0] == last[0] and (first + last)[1::2].isdigit():
        return [f"{first[0]}{number}" for number in range(int(first[1]) + 1, int(last[1]) + 1)]
    for alphabet, places in _PLACES.items():
        if first in places and last in places and places[first] < places[last]:
            return list(_NAMES[alphabet][places[first] + 1 : places[last] + 1])
    return [last]
