"""Chemistry in captions: formulas, named materials, facets, and the part that each plays.

Belongs here: finding and normalising. A formula is two or more elements, or one with a number; a lone symbol counts
only beside evidence ("Au film", "Si(111)"), because In, As, I and He are also English words and STM is not sulphur,
tritium and a metal. Elements and their symbols are ASE's.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["sample", "substrate", "tip", "support"]

_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_VARIABLE = r"(?:\d-[xyz](?![a-z])|[xyzδ](?![a-z])|[-±+][xyzδ](?![a-z]))"
_ELEMENT = r"[A-Z][a-z]?"
_TOKEN = re.compile(
    rf"(?<![A-Za-z0-9^_.])((?:(?:{_ELEMENT}|[(\[])(?:{_ELEMENT}|[()\[\]]|{_VARIABLE}|{_NUMBER})*))(?![a-z])"
)
_PART = re.compile(rf"({_ELEMENT})({_NUMBER})?|([(\[])|([)\]])({_NUMBER})?|(.)")
_FACET = re.compile(r"(?<![A-Za-z])([A-Z][A-Za-z0-9.]*?)\s?[({\[]\s?(-?\d\s?-?\d\s?-?\d(?:\s?-?\d)?)\s?[)}\]]")
_ION = re.compile(r"\^\d*[+-]")
_SUBSTRATE = re.compile(
    r"\b(?:on|onto|atop|over|by|substrate of)\s+(?:an?\s+|the\s+)?(?:[\w-]+\s+){0,2}$", re.IGNORECASE
)
_SUBSTRATE_AFTER = re.compile(r"^(?:\s?[({\[][-\d\s]+[)}\]])?\s*(?:substrates?|supports?)\b")
_TIP_AFTER = re.compile(r"^\s*(?:\w+\s+)?tips?\b")
_SUPPORT_AFTER = re.compile(r"^\s*(?:\w+\s+)?(?:grids?|membranes?|support films?|TEM grids?)\b")


class Mention(BaseModel):
    """A material named in a text."""

    model_config = ConfigDict(frozen=True)

    formula: str = Field(description="Elements in the order written, fractions kept, brackets multiplied out.")
    raw: str = Field(description="As written.")
    name: str | None = Field(default=None, description="The name, where it is not a formula.")
    role: Role
    facet: str | None = Field(default=None, description="Miller indices of its surface, e.g. `111`.")
    start: int = Field(description="Where it stands in the text.")
    is_variable: bool = Field(default=False, description="It has an unknown such as x or δ.")


def find_materials(text: str) -> list[Mention]:
    """Materials named in a plain text, in the order of the text.

    Args:
        text: plain text as :func:`atomvision_ml.literature.figures.plain_text` makes it.
    """
    found = [*_named(text), *_formulas(text)]
    taken: list[tuple[int, int]] = []
    kept = []
    for mention in sorted(found, key=lambda each: (each.start, -len(each.raw))):
        span = (mention.start, mention.start + len(mention.raw))
        if all(span[1] <= start or span[0] >= end for start, end in taken):
            taken.append(span)
            kept.append(mention)
    return kept


def composition(formula: str) -> dict[str, float] | None:
    """Amounts by element; None if it is no formula of known elements. Brackets are multiplied out.

    An unknown (``x``, ``1-x``, ``±δ``) counts as if it were not written.
    """
    stack: list[Counter[str]] = [Counter()]
    for element, amount, opening, closing, factor, other in _PART.findall(re.sub(_VARIABLE, "", formula)):
        if element:
            if element not in _elements():
                return None
            stack[-1][element] += float(amount or 1)  # type: ignore[assignment]
        elif opening:
            stack.append(Counter())
        elif closing:
            if len(stack) < 2:
                return None
            inner = stack.pop()
            for name, value in inner.items():
                stack[-1][name] += value * float(factor or 1)  # type: ignore[assignment]
        elif other:
            return None
    return dict(stack[0]) if len(stack) == 1 and stack[0] else None


def normalised_formula(formula: str) -> str | None:
    """The formula with brackets multiplied out and amounts in their shortest form; None if it is no formula."""
    amounts = composition(formula)
    if amounts is None or any(value <= 0 for value in amounts.values()):
        return None
    return "".join(f"{element}{'' if value == 1 else f'{value:g}'}" for element, value in amounts.items())


def reduced_formula(formula: str) -> str | None:
    """Elements in alphabetical order with amounts without common divisor: the key that materials are matched by."""
    amounts = composition(formula)
    if amounts is None:
        return None
    divisor = 0
    for value in amounts.values():
        divisor = gcd(divisor, round(value)) if value == round(value) else 1
    return "".join(
        f"{element}{'' if value / (divisor or 1) == 1 else f'{value / (divisor or 1):g}'}"
        for element, value in sorted(amounts.items())
    )


def _formulas(text: str) -> list[Mention]:
    mentions = []
    for match in _TOKEN.finditer(text):
        raw = _trimmed(match[1])
        start, end = match.start(1), match.start(1) + len(raw)
        formula = normalised_formula(raw)
        before, after = text[:start], text[end:]
        if formula is None or (raw in _words()["never"] and not _facet(after)):
            continue
        if _ION.match(after) or not _is_material(raw, before, after):
            continue
        mentions.append(
            Mention(
                formula=formula,
                raw=raw,
                role=_role(before, after),
                facet=_facet(after),
                start=start,
                is_variable=bool(re.search(r"[xyzδ]", re.sub(_ELEMENT, "", raw))),
            )
        )
    return mentions


def _named(text: str) -> list[Mention]:
    return [
        Mention(
            formula=_words()["names"][match[0].lower()],
            raw=match[0],
            name=match[0].lower(),
            role=_role(text[: match.start()], text[match.end() :]),
            facet=_facet(text[match.end() :]),
            start=match.start(),
        )
        for match in _name_pattern().finditer(text)
    ]


def _is_material(raw: str, before: str, after: str) -> bool:
    if len(composition(raw) or {}) > 1:
        return not re.fullmatch(r"[A-Z]{2,}", raw) or raw in _words()["capitals"]
    if _facet(after):
        return True
    if any(character.isdigit() for character in raw):
        return raw in _words()["molecules"]
    begins = not before.strip() or before.rstrip().endswith((".", ":", ")"))
    if raw in _words()["words"] and begins:
        return False
    return bool(_evidence("after").match(after) or _evidence("before").search(before))


def _trimmed(token: str) -> str:
    """Without an opening bracket that never closes, and what follows it: ``Si(`` of ``Si(111)``."""
    token = re.sub(r"[(\[]\d+[)\]].*$", "", token)
    for opening, closing in ("()", "[]"):
        while token.count(opening) > token.count(closing):
            token = token[: token.rindex(opening)]
        if token.count(closing) > token.count(opening):
            token = token[: token.index(closing)]
    return token


def _role(before: str, after: str) -> Role:
    if _TIP_AFTER.match(after):
        return "tip"
    if _SUPPORT_AFTER.match(after):
        return "support"
    return "substrate" if _SUBSTRATE.search(before) or _SUBSTRATE_AFTER.match(after) else "sample"


def _facet(after: str) -> str | None:
    match = re.match(r"^\s?[({\[]\s?(-?\d\s?-?\d\s?-?\d(?:\s?-?\d)?)\s?[)}\]]", after)
    return match[1].replace(" ", "") if match else None


@cache
def _elements() -> frozenset[str]:
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:])


@cache
def _words() -> dict[str, Any]:
    import yaml

    return yaml.safe_load((Path(__file__).parent / "chemistry.yaml").read_text(encoding="utf-8"))


@cache
def _name_pattern() -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in sorted(_words()["names"], key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z])(?:{names})(?![A-Za-z])", re.IGNORECASE)


@cache
def _evidence(side: Literal["before", "after"]) -> re.Pattern[str]:
    words = "|".join(_words()[f"evidence_{side}"])
    return re.compile(rf"^[\s-]*(?:{words})\b" if side == "after" else rf"\b(?:{words})\s+$")
