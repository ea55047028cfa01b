"""Chemistry in captions: formulas, named materials, facets, and the part that each plays.

Belongs here: finding. A formula has two or more elements; a lone symbol counts only beside evidence ("Au film",
"Si(111)"), because In, As, I and He are also English words, and constituents of a compound ("Ti columns"), dopants and
spectral lines are no materials. The words are in ``chemistry.yaml``, the grammar of formulas in :mod:`.formulas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.formulas import (
    ELEMENT,
    FORMULA,
    chemical_system,
    composition,
    elements_of,
    has_unknown,
    members,
    normalised_formula,
    reduced_formula,
)
from atomvision_ml.literature.word_finder import WordFinder

__all__ = [
    "Mention",
    "Role",
    "composition",
    "constituents_of",
    "find_materials",
    "normalised_formula",
    "reduced_formula",
]

Role = Literal["sample", "substrate", "tip", "support"]

_REACH, _NEAR = 28, 10
"""Characters before and after a material that tell what it is, and those of a dose or a stack."""
_TOKEN = re.compile(rf"(?<![A-Za-z0-9^_.\\])(?:0?\.\d+)?({FORMULA})(?:Tx|Tz)?(?![A-Za-z'′]|\d)")
_SYSTEM = re.compile(
    rf"(?<![A-Za-z0-9^_.–-])(?=[A-Z][a-z]?[-–])({ELEMENT}(?:[-–](?:\d+(?:\.\d+)?)?{ELEMENT})+)"
    r"(?![A-Za-z0-9])"
)
_FACET = re.compile(r"\s?[({\[]\s?(-?\d\s?-?\d\s?-?\d(?:\s?-?\d)?)\s?[)}\]]")
_ION = re.compile(r"\^\d*[+-]|[+](?![-\w])")
_STACK_BEFORE = re.compile(r"[\w)}\]]\s?[/@]\s?$|\w\s?//\s?$")
_STACK_AFTER = re.compile(r"\s?[/@]\s?[A-Za-z(]")
_ENCLOSED = re.compile(r"[(\[][^()\[\]]+[)\]]")
_DOSE = re.compile(r"(?:\d\s?m?M|\bL of|\d\s?%|\bppm(?: of)?|\d\s?(?:mbar|[mµ]?bar|Torr|Pa|kPa))\s+$")
_PRESSURE = re.compile(r"\s?(?:gas|atmosphere|vapou?r|pressure|electrolyte|solution|exposure|plasma|flow|dos)")
_MOLECULE = re.compile(r"\s?(?:molecules?|ad)")
_DASHED = re.compile(r"-[A-Z]")
_WORD = re.compile(r"[^\W_]+")


class Mention(BaseModel):
    """A material named in a text."""

    model_config = ConfigDict(frozen=True)

    formula: str = Field(description="As normalised_formula gives it; a chemical system such as `Al-Cu` for an alloy.")
    raw: str = Field(description="As written.")
    name: str | None = Field(default=None, description="The name, where it is not a formula.")
    role: Role
    facet: str | None = Field(default=None, description="Miller indices of its surface, e.g. `111`.")
    start: int = Field(description="Where it stands in the text.")
    is_variable: bool = Field(default=False, description="It has an unknown such as x or δ.")


class _Find(NamedTuple):
    start: int
    end: int
    formula: str
    name: str | None = None


def find_materials(text: str, constituents: frozenset[str] | None = None) -> list[Mention]:
    """Materials named in a plain text, in the order of the text.

    Args:
        text: plain text as :func:`atomvision_ml.literature.captions.plain_caption` makes it.
        constituents: elements of the compounds of the whole caption, by :func:`constituents_of`; of the text itself
            where nothing is given. "Ti columns" of a titanate are no titanium.
    """
    known = constituents_of(text) if constituents is None else constituents
    mentions: list[Mention] = []
    end = 0
    for find in sorted([*_named(text, known), *_formulas(text, known)], key=lambda each: (each.start, -each.end)):
        if find.start < end:
            continue
        end = find.end
        before, after = text[max(0, find.start - _REACH) : find.start], text[find.end : find.end + _REACH]
        raw = text[find.start : find.end]
        facet = _facet(after)
        for member in members(find.formula) if find.name is None else [find.formula]:
            formula = member if find.name or _DASHED.search(member) else normalised_formula(member)
            if formula:
                mentions.append(
                    Mention(
                        formula=formula,
                        raw=raw,
                        name=find.name,
                        role=_role(before, after),
                        facet=facet,
                        start=find.start,
                        is_variable=has_unknown(formula),
                    )
                )
    return mentions


def constituents_of(text: str) -> frozenset[str]:
    """Elements of the compounds that a text names by formula."""
    found: set[str] = set()
    for match in _tokens(text):
        elements = set(elements_of(match[1]))
        if len(elements) > 1 and _is_written_compound(match[1]):
            found |= elements
    return frozenset(found)


@lru_cache(maxsize=64)
def _tokens(text: str) -> tuple[re.Match[str], ...]:
    """What is written like a formula, wanted twice of each text."""
    return tuple(_TOKEN.finditer(text))


def _formulas(text: str, constituents: frozenset[str]) -> Iterator[_Find]:
    systems = [
        (match.start(), match.end(), system)
        for match in (_SYSTEM.finditer(text) if "-" in text or "–" in text else ())
        if (system := chemical_system(match[1])) and _is_alloy(match[1], text[match.end() : match.end() + _REACH])
    ]
    for start, end, system in systems:
        yield _Find(start, end, system)
    for match in _tokens(text):
        raw = match[1]
        if not raw or any(start <= match.start(1) < end for start, end, _ in systems):
            continue
        start, end = match.start(1), match.start(1) + len(raw)
        if _ENCLOSED.fullmatch(raw) and "," not in raw:
            raw, start, end = raw[1:-1], start + 1, end - 1
        before, after = text[max(0, start - _REACH) : start], text[end : end + _REACH]
        if _is_material(raw, before, after, constituents):
            yield _Find(start, end, raw)


def _named(text: str, constituents: frozenset[str]) -> Iterator[_Find]:
    formulas = _words()["names"]
    for start, end, name in _names().find(text.lower()):
        before, after = text[max(0, start - _REACH) : start], text[end : end + _REACH]
        if not _is_part(before, after, set(elements_of(formulas[name])), constituents):
            yield _Find(start, end, formulas[name], name.replace("-", " "))


def _is_written_compound(raw: str) -> bool:
    raw = raw.strip("()[]")
    if raw in _words()["never"]:
        return False
    return not (raw.isupper() and raw.isalpha()) or raw in _words()["capitals"]


def _is_material(raw: str, before: str, after: str, constituents: frozenset[str]) -> bool:
    elements = set(elements_of(raw))
    facet = _facet(after)
    if len(elements) > 1:
        if not _is_written_compound(raw) or _ION.match(after):
            return False
        if raw in _words()["chemicals"] and not facet and not _MOLECULE.match(after):
            return False
        if _patterns()["no_compound_after"].match(after):
            return False
        return not _DOSE.search(before[-_NEAR:]) and not _PRESSURE.match(after)
    if raw in _words()["molecules"]:
        return True
    if any(not character.isalpha() for character in raw):
        return len(raw) > 2 and _is_stacked(before, after)
    return _is_element(raw, before, after, facet is not None, constituents)


def _is_element(symbol: str, before: str, after: str, has_facet: bool, constituents: frozenset[str]) -> bool:
    """Whether a lone symbol is a material."""
    patterns = _patterns()
    if has_facet:
        return not after.startswith(" [") and (len(symbol) > 1 or after[:1] == "(")
    if _ION.match(after) or _is_part(before, after, {symbol}, constituents):
        return False
    if patterns["strong_after"].match(after):
        return not (symbol in _words()["words"] and not before.strip())
    if _is_stacked(before, after):
        return not (len(symbol) == 1 and symbol != "C")
    if len(symbol) == 1 or (symbol in _words()["words"] and not before.rstrip()[-1:].isalpha()):
        return False
    if symbol in constituents:
        return bool(patterns["strong_before"].search(before))
    return bool(
        patterns["weak_after"].match(after)
        or patterns["strong_before"].search(before)
        or patterns["weak_before"].search(before)
    )


def _is_stacked(before: str, after: str) -> bool:
    """Whether a material stands in a stack such as "Fe/MgO"."""
    return bool(_STACK_BEFORE.search(before[-_NEAR:]) or _STACK_AFTER.match(after))


def _is_part(before: str, after: str, elements: set[str], constituents: frozenset[str]) -> bool:
    """Whether the words around make an element a dopant, a constituent or a spectral line."""
    patterns = _patterns()
    if len(elements) != 1:
        return False
    if patterns["part_after"].match(after) or patterns["part_before"].search(before):
        return True
    return elements <= constituents and bool(patterns["constituent_after"].match(after))


def _is_alloy(written: str, after: str) -> bool:
    """Whether elements joined by dashes are an alloy, and no bond, edge or curve."""
    elements = elements_of(written)
    if any(element == "O" for element in elements) or _patterns()["bond_after"].match(after):
        return False
    return any(len(element) == 2 for element in elements)


def _role(before: str, after: str) -> Role:
    patterns, before, after = _patterns(), before.lower(), after.lower()
    if patterns["tip_after"].match(after) or patterns["tip_before"].search(before):
        return "tip"
    if patterns["support_after"].match(after) or patterns["support_before"].search(before):
        return "support"
    if patterns["substrate_before"].search(before) or patterns["substrate_after"].match(after):
        return "substrate"
    return "sample"


def _facet(after: str) -> str | None:
    match = _FACET.match(after)
    return match[1].replace(" ", "") if match else None


@cache
def _words() -> dict[str, Any]:
    import yaml

    words = yaml.safe_load((Path(__file__).parent / "chemistry.yaml").read_text(encoding="utf-8"))
    return {key: value if isinstance(value, dict) else frozenset(value) for key, value in words.items()}


@cache
def _names() -> WordFinder:
    """The named materials; of names that begin alike the longest counts, whatever joins its words."""
    names = sorted(_words()["names"], key=lambda name: -len(_WORD.findall(name)))
    return WordFinder([(name, ["[^a-z0-9]+".join(_WORD.findall(name))]) for name in names])


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Contexts by name: those that follow a material are matched from its end, the others up to its beginning.

    Those of roles are in lower case.
    """
    contexts: dict[str, list[str]] = _words()["contexts"]
    return {
        name: re.compile(rf"(?:{'|'.join(words)})" if name.endswith("_after") else rf"(?:{'|'.join(words)})$")
        for name, words in contexts.items()
    }
