"""Formulas as they are written, and the compositions that they mean.

Belongs here: the grammar of a formula (fractions, unknowns, brackets) and its normal forms. Elements are ASE's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from ase.data import chemical_symbols

_HEAVIEST = 98
_SYMBOLS = chemical_symbols[1 : _HEAVIEST + 1]


def _element_pattern() -> str:
    """All symbols, gathered by their first letter: ``A[cg…]|B[ae…]?|…``."""
    second: dict[str, str] = {}
    for symbol in _SYMBOLS:
        second[symbol[0]] = second.get(symbol[0], "") + symbol[1:]
    return "|".join(
        f"{first}{f'[{rest}]' if rest else ''}{'?' if rest and first in _SYMBOLS else ''}"
        for first, rest in sorted(second.items())
    )


ELEMENT = f"(?:{_element_pattern()})"
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_UNKNOWN = r"[xyzδ]"
AMOUNT = rf"(?:(?:{_NUMBER}(?:/\d+)?{_UNKNOWN}?|{_UNKNOWN})(?:[-+±](?:0?\.\d+|{_NUMBER}?{_UNKNOWN}))*)"
_UNIT = rf"{ELEMENT}{AMOUNT}?"
_INNER = rf"[(\[](?:{_UNIT})+[)\]]{AMOUNT}?"
_MIXED = rf"\({ELEMENT}(?:,\s?{ELEMENT})+\){AMOUNT}?"
_OUTER = rf"[(\[](?:{_UNIT}|{_INNER}){{1,12}}[)\]]{AMOUNT}?"
FORMULA = rf"(?:{_UNIT}|{_MIXED}|{_OUTER})+"
"""A whole formula as a pattern; brackets are nested twice at most."""

_PART = re.compile(rf"({ELEMENT})({AMOUNT})?|([(\[])|([)\]])({AMOUNT})?|(.)", re.DOTALL)
_ELEMENTS = re.compile(ELEMENT)
_TERM = re.compile(rf"([-+±]?)({_NUMBER})?(?:/(\d+))?({_UNKNOWN})?")
_MIXED_SITE = re.compile(_MIXED)
_GUEST = re.compile(rf"({ELEMENT})\(({ELEMENT})\)")
_LAYERS = re.compile(r"\(([^()]+)\)[\d.]*")
_ALL_LAYERS = re.compile(rf"(?:\([^()]+\){AMOUNT}?){{2,}}")

Amount = dict[str, float]
"""A linear expression: the number under ``""``, factors of unknowns under their letters."""


def elements_of(formula: str) -> list[str]:
    """The symbols in a text that is known to be a formula, in its order."""
    return _ELEMENTS.findall(formula)


@lru_cache(maxsize=4096)
def has_unknown(formula: str) -> bool:
    """Whether a formula has an unknown such as x or δ."""
    return re.search(_UNKNOWN, _ELEMENTS.sub("", formula)) is not None


def composition(formula: str) -> dict[str, float] | None:
    """Amounts by element, brackets multiplied out; None if it is no formula of known elements.

    An unknown (``x``, ``1-x``, ``±δ``) counts as if it were not written; a lone one as 1.
    """
    amounts = _amounts(formula)
    if amounts is None:
        return None
    return {element: amount.get("", 0.0) or 1.0 for element, amount in amounts.items()}


@lru_cache(maxsize=4096)
def normalised_formula(formula: str) -> str | None:
    """Elements in the order written, brackets multiplied out, integers without common divisor, unknowns kept.

    ``Ca(OH)2`` is CaO2H2, ``Mo2S4`` MoS2, ``Pb(Mg1/3Nb2/3)O3`` PbMg0.333Nb0.667O3. A mixed site without numbers gives
    the chemical system, sorted: ``(La,Sr)MnO3`` is La-Mn-O-Sr.

    Returns:
        None if it is no formula.
    """
    if _MIXED_SITE.search(formula) or _GUEST.fullmatch(formula):
        elements = _ELEMENTS.findall(formula)
        return "-".join(sorted(set(elements)))
    amounts = _amounts(formula)
    if amounts is None:
        return None
    if any(set(amount) == {""} and amount[""] <= 0 for amount in amounts.values()):
        return None
    _reduce(amounts)
    return "".join(f"{element}{_written(amount)}" for element, amount in amounts.items())


def reduced_formula(formula: str) -> str | None:
    """As :func:`normalised_formula` with the elements in alphabetical order: the key that materials are matched by."""
    normal = normalised_formula(formula)
    if normal is None or ("-" in normal and _amounts(normal) is None):
        return normal
    amounts = _amounts(normal) or {}
    return "".join(f"{element}{_written(amount)}" for element, amount in sorted(amounts.items()))


def members(formula: str) -> list[str]:
    """The layers of a formula such as ``(PbSe)1.14(NbSe2)1``; the formula alone if it has none."""
    if not formula.startswith("(") or not _ALL_LAYERS.fullmatch(formula):
        return [formula]
    layers = _LAYERS.findall(formula)
    return layers if all(len(composition(layer) or {}) > 1 for layer in layers) else [formula]


def chemical_system(text: str) -> str | None:
    """The elements of a dashed name such as ``Ti-6Al-4V``, sorted and joined by dashes; None if one recurs."""
    elements = _ELEMENTS.findall(text)
    return "-".join(sorted(elements)) if len(set(elements)) == len(elements) > 1 else None


def _amounts(formula: str) -> dict[str, Amount] | None:
    stack: list[dict[str, Amount]] = [{}]
    for element, amount, opening, closing, factor, other in _PART.findall(formula):
        if element:
            _add(stack[-1], element, _amount(amount))
        elif opening:
            stack.append({})
        elif closing and len(stack) > 1:
            times = _amount(factor)
            for name, inner in stack.pop().items():
                product = _product(inner, times)
                if product is None:
                    return None
                _add(stack[-1], name, product)
        else:
            return None
        if other:
            return None
    return stack[0] if len(stack) == 1 and stack[0] else None


def _amount(written: str) -> Amount:
    if not written:
        return {"": 1.0}
    total: Amount = {}
    for sign, number, divisor, unknown in _TERM.findall(written):
        if not number and not unknown:
            continue
        value = (float(number) if number else 1.0) / (float(divisor or 1) or 1.0)
        total[unknown] = total.get(unknown, 0.0) + (-value if sign == "-" else value)
    return total


def _add(amounts: dict[str, Amount], element: str, amount: Amount) -> None:
    known = amounts.setdefault(element, {})
    for name, value in amount.items():
        known[name] = known.get(name, 0.0) + value


def _product(first: Amount, second: Amount) -> Amount | None:
    """None if it is no linear expression any more."""
    if set(second) - {""}:
        first, second = second, first
    if set(second) - {""}:
        return None
    return {name: value * second.get("", 0.0) for name, value in first.items()}


def _reduce(amounts: dict[str, Amount]) -> None:
    """Integers are divided by their common divisor."""
    if any(set(amount) != {""} or amount[""] != round(amount[""]) for amount in amounts.values()):
        return
    divisor = gcd(*(round(amount[""]) for amount in amounts.values()))
    for amount in amounts.values():
        amount[""] /= divisor


def _written(amount: Amount) -> str:
    number = amount.get("", 0.0)
    unknowns = [(name, value) for name, value in amount.items() if name and value]
    if not unknowns:
        return "" if number == 1 else f"{round(number, 3):.10g}"
    text = f"{round(number, 3):.10g}" if number else ""
    for name, value in unknowns:
        size = "" if abs(value) == 1 else f"{abs(value):g}"
        text += f"{'-' if value < 0 else '+' if text else ''}{size}{name}"
    return text
