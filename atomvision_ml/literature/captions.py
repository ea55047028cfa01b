"""Which words of a caption belong to which panel.

Belongs here: the distribution of the text over the panels that :mod:`.panel_labels` finds. Labels stand before their
text ("(a) STM image of …") or behind it ("STM (a) and STEM (b) images"), clause by clause; what stands before the
first label belongs to all, and so do closing remarks on the conditions of the figure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from atomvision_ml.literature.figures import plain_text
from atomvision_ml.literature.panel_labels import Mark, expand_labels, find_labels, in_order, references
from atomvision_ml.literature.tex import tex_to_text

__all__ = ["CaptionParts", "PanelText", "distribute", "expand_labels", "plain_caption"]

_TEX = re.compile(r"[\\$_{~]")
_PLANE = re.compile(r"(?<![_^])\{(-?\d-?\d-?\d(?:-?\d)?)\}")
_BAR = re.compile(r"\\(?:bar|overline)\s*\{?\s*(\d)\s*\}?")
_ONLINE = r"\((?:color|colour)[ -]online\)\.?"
_TITLE = re.compile(
    r"^(?:(?:Extended Data|Supplementary|Suppl\.|Supporting|Online)\s+)?(?:[Ff]ig(?:ure)?s?|FIG(?:URE)?S?)\.?"
    rf"\s*[A-Z]?\d+[A-Z]?\s*(?:{_ONLINE})?\s*(?:[.:|│—–-]+\s*)?(?:{_ONLINE}\s*)?"
)
_COLOR = re.compile(r"^\((?:color|colour)[ -]online\)\.?\s*", re.IGNORECASE)
_ABBREVIATIONS = ("Fig", "Figs", "Ref", "Refs", "Eq", "Eqs", "vs", "al", "ca", "cf", r"i\.e", r"e\.g")
_SENTENCE = re.compile(r"[.;?!](?=\s+\S|$)" + "".join(rf"(?<!\b{each}\.)" for each in _ABBREVIATIONS))
_REMARK = re.compile(_SENTENCE.pattern.replace("[.;?!]", "[.?!]"))
_OBJECT = re.compile(r"\s(?:of|on|in)\s|,")
_DETERMINER = re.compile(r"(?:the|an?|one|two|its|their|another)\b", re.IGNORECASE)
_OF_ALL = re.compile(
    r"(?<=[.;] )[Aa]ll (?:the )?(?:images|panels|micrographs|topographs|scans|frames|pictures)\b[^.;]*"
)
_COMMA = re.compile(r",\s*(?:and\s)?|\sand\s")
_EXCEPTION = re.compile(r"\bexcept\b", re.IGNORECASE)
_PLURAL = re.compile(r"\b(?:bars|images|all|each|both)\b", re.IGNORECASE)
_RESPECTIVELY = re.compile(r"\s*respectively\b")
_EDGE = " ,;:.-–—|("
_JOINING = re.compile(r"^(?:(?:\s|[,;.:])*(?:\b(?:and|while|whereas|but)\b)?)+\s*")
_ENDS_WITH_AND = re.compile(r"\band\s*$|&\s*$")
_IS_VALUE = re.compile(r"[\s,]*(?:and\s)?\s*(?:[a-zA-Zθ]\s?=\s?)?[-+±~]?\d[^A-Z]{0,8}[KVATM]?[^A-Z]{0,6}$")
_WORDS = re.compile(r"[^\W\d_]{2,}|\d")


@dataclass(frozen=True)
class PanelText:
    """The words that belong to one panel.

    Attributes:
        label: as written, without brackets; empty for a figure of one panel.
        text: its own words.
        confidence: 0 to 1; 1 for a figure without labels.
        shared: words of its sentence that it shares with its neighbours.
        remarks: closing remarks that name it, or speak of all panels.
    """

    label: str
    text: str
    confidence: float
    shared: str = ""
    remarks: str = ""


@dataclass(frozen=True)
class CaptionParts:
    """A caption divided.

    Attributes:
        preamble: what is said before the first label: of all panels.
        panels: one panel with an empty label where there are no labels.
    """

    preamble: str
    panels: tuple[PanelText, ...]


@dataclass
class _Words:
    """What is gathered for a label."""

    own: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class _Clause(NamedTuple):
    """A part of a sentence with the marks that stand in it."""

    start: int
    end: int
    marks: tuple[Mark, ...]
    is_leading: bool


def plain_caption(caption: str) -> str:
    """One line of plain text without remains of TeX or bold letters; sub- and superscripts as in the routes."""
    text = caption.replace("**", "").replace("ₓ", "x")
    if "{" in text and "\\" not in text:
        text = _PLANE.sub(r"\\{\1\\}", text)
    if _TEX.search(text):
        return tex_to_text(_BAR.sub(r"-\1", text))
    return plain_text(text)


def distribute(caption: str) -> CaptionParts:
    """Divide a caption among its panels.

    Args:
        caption: the whole caption; remains of TeX are taken away first.
    """
    text = _COLOR.sub("", _TITLE.sub("", plain_caption(caption)))
    marks = find_labels(text)
    if not marks:
        return CaptionParts(preamble="", panels=(PanelText(label="", text=text.strip(), confidence=1.0),))
    clauses = _clauses(text, marks)
    words = {label: _Words() for mark in marks for label in mark.labels}
    end = _end_of_sentence(text, clauses[-1])
    for number, clause in enumerate(clauses):
        limit = clauses[number + 1].start if number + 1 < len(clauses) else end
        (_divide_leading if clause.is_leading else _divide_trailing)(text, clause, limit, words)
    is_open = text[end - 1 : end] == ";"
    _divide_remarks(text[end:], clauses[-1], is_open, words)
    first = clauses[0]
    preamble = text[: first.marks[0].start if first.is_leading or _is_series(text, first) else first.start].strip(_EDGE)
    confidence = 0.95 if all(clause.is_leading for clause in clauses) else 0.8
    return CaptionParts(
        preamble=preamble,
        panels=tuple(
            PanelText(
                label=label,
                text=" ".join(each.own),
                shared=" ".join(each.shared),
                remarks=" ".join(each.remarks),
                confidence=confidence,
            )
            for label, each in ((label, words[label]) for label in in_order(words))
        ),
    )


def _clauses(text: str, marks: Sequence[Mark]) -> list[_Clause]:
    """The clauses that hold marks, each from the end of the sentence before it."""
    within = {place for mark in marks for place in range(mark.start + 1, mark.end + 1)}
    ends = [match.end() for match in _SENTENCE.finditer(text) if match.end() not in within]
    borders = [0, *ends, len(text)]
    clauses = []
    for start, end in itertools.pairwise(borders):
        inside = tuple(mark for mark in marks if start <= mark.start < end)
        if inside:
            clauses.append(_Clause(start, end, inside, _is_leading(text, inside, start, end)))
    return clauses


def _is_leading(text: str, marks: Sequence[Mark], start: int, end: int) -> bool:
    """Whether the labels stand before their text: the second and later ones open a clause, and words follow."""
    limits = [mark.start for mark in marks[1:]] + [end]
    follows = [bool(_WORDS.search(text[mark.end : limit])) for mark, limit in zip(marks, limits, strict=True)]
    if not follows[-1] and end < len(text) and text[marks[-1].end : end].strip() in (".", ""):
        follows[-1] = marks[-1].opens and len(marks) == 1 and text[marks[-1].end - 1] == "."
    if _RESPECTIVELY.match(text, marks[0].end) and len(marks) == 1:
        return False
    head = text[start : marks[0].start].rstrip()
    if len(marks) > 1 and head and not follows[-1]:
        return False
    if head.endswith(":") and all(follows):
        return True
    later = [mark.opens and has_words for mark, has_words in zip(marks[1:], follows[1:], strict=True)]
    if later:
        return 2 * sum(later) >= len(later) and follows[0]
    return follows[0] and (marks[0].opens or not _JOINING.fullmatch(text[marks[0].end : end][:4]))


def _end_of_sentence(text: str, clause: _Clause) -> int:
    return clause.end if clause.end else len(text)


def _divide_leading(text: str, clause: _Clause, limit: int, words: dict[str, _Words]) -> None:
    """Each label owns the text up to the next one; heads without an object share that of the last of the list."""
    marks = clause.marks
    head = text[clause.start : marks[0].start].strip(_EDGE)
    is_first = all(not each.own and not each.shared for each in words.values())
    ends = [mark.start for mark in marks[1:]] + [limit]
    pieces = [text[mark.end : end].strip(_EDGE) for mark, end in zip(marks, ends, strict=True)]
    for place, (mark, piece) in enumerate(zip(marks, pieces, strict=True)):
        shared = [] if is_first or not head else [head]
        for remark in _OF_ALL.findall(piece):
            piece = piece.replace(remark, "")
            for each in words.values():
                each.remarks.append(remark)
        own = _ENDS_WITH_AND.sub("", piece).strip(_EDGE) if piece.endswith(("and", "&")) else piece
        is_head = own != piece and not _OBJECT.search(piece) and not _DETERMINER.match(piece)
        if place + 1 < len(pieces) and is_head and not _DETERMINER.match(pieces[place + 1]):
            shared.append(pieces[place + 1])
        for label in mark.labels:
            words[label].own.append(own)
            words[label].shared += shared


def _divide_trailing(text: str, clause: _Clause, limit: int, words: dict[str, _Words]) -> None:
    """Each label owns the phrase before it; the rest of the sentence, and phrases before, are shared."""
    phrases, last = [], clause.start
    for mark in clause.marks:
        phrases.append(_JOINING.sub("", text[last : mark.start]).strip())
        last = mark.end
    rest = text[last:limit].strip(_EDGE)
    items = _listed(phrases[-1]) if len(clause.marks) == 1 else []
    labels = clause.marks[0].labels
    if len(items) == len(labels) > 1:
        for label, item in zip(labels, items, strict=True):
            words[label].own.append(item)
            words[label].shared.append(f"{phrases[-1]} {rest}".strip())
        return
    for place, mark in enumerate(clause.marks):
        for label in mark.labels:
            words[label].own.append(phrases[place])
            words[label].shared += [each for each in (*reversed(phrases[:place]), rest) if each]


def _is_series(text: str, clause: _Clause) -> bool:
    """Whether a clause deals out values ("STM at 5 K (a), 10 K (b)"): what stands before is said of all panels."""
    between = [text[mark.end : after.start] for mark, after in zip(clause.marks, clause.marks[1:], strict=False)]
    return bool(between) and all(_IS_VALUE.match(each) for each in between)


def _listed(phrase: str) -> list[str]:
    """The members of a list such as ``SEM, XRD and magnetisation of X``."""
    return [item for item in _COMMA.split(phrase.strip(_EDGE)) if item]


def _divide_remarks(tail: str, last: _Clause, is_open: bool, words: dict[str, _Words]) -> None:
    """What follows the last label's own clause: to the labels that it names, to all, or to the last panel.

    Where the labels stand behind their text it belongs to all. The rest of an open sentence belongs to the last panel.
    """
    start = 0
    for match in [*_REMARK.finditer(tail), None]:
        end = match.end() if match else len(tail)
        remark = tail[start:end].strip(" ,;:")
        is_rest, start = is_open and start == 0, end
        if not remark:
            continue
        is_for_most = _EXCEPTION.search(remark)
        named = (
            []
            if is_for_most
            else [label for _, labels in references(remark, words) for label in labels if label in words]
        )
        pattern = _PLURAL if is_rest else _conditions()
        if named:
            chosen = named
        elif pattern.search(remark) or not last.is_leading:
            chosen = list(words)
        else:
            for label in last.marks[-1].labels:
                words[label].own.append(remark)
            continue
        for label in dict.fromkeys(chosen):
            words[label].remarks.append(remark)


@cache
def _conditions() -> re.Pattern[str]:
    """Words of remarks on the conditions of a whole figure."""
    import yaml

    words = yaml.safe_load((Path(__file__).parent / "remarks.yaml").read_text(encoding="utf-8"))
    return re.compile(rf"\b(?:{'|'.join(words['conditions'])})\b", re.IGNORECASE)
