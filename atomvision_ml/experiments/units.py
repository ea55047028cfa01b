"""Units as microscopes write them, and numbers converted between them.

Belongs here: spellings and factors. A unit is always read with the wanted one in view, so that ``A`` is an ångström
beside nanometres and an ampere beside picoamperes.
"""

from __future__ import annotations

import math
import re

_PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "c": 1e-2, "": 1.0, "k": 1e3, "M": 1e6}

_LENGTHS = {f"{prefix}m": factor for prefix, factor in _PREFIXES.items() if prefix != "M"} | {
    "A": 1e-10,
    "angstrom": 1e-10,
    "angstroms": 1e-10,
    "ang": 1e-10,
    "micron": 1e-6,
    "microns": 1e-6,
    "micrometer": 1e-6,
    "micrometre": 1e-6,
    "nanometer": 1e-9,
    "nanometre": 1e-9,
    "nanometers": 1e-9,
    "picometer": 1e-12,
    "picometre": 1e-12,
    "millimeter": 1e-3,
    "millimetre": 1e-3,
    "meter": 1.0,
    "metre": 1.0,
    "meters": 1.0,
    "inch": 0.0254,
    "in": 0.0254,
}
_ANGLES = {
    "rad": 1.0,
    "mrad": 1e-3,
    "urad": 1e-6,
    "deg": math.pi / 180,
    "degree": math.pi / 180,
    "degrees": math.pi / 180,
    "°": math.pi / 180,
}


def _prefixed(unit: str) -> dict[str, float]:
    return {prefix + unit: factor for prefix, factor in _PREFIXES.items()}


_TABLES: tuple[dict[str, float], ...] = (
    _LENGTHS,
    {f"1/{unit}": 1 / factor for unit, factor in _LENGTHS.items()},
    _ANGLES,
    _prefixed("V") | {"eV": 1.0, "keV": 1e3},
    _prefixed("A"),
    _prefixed("s") | {"sec": 1.0, "second": 1.0, "seconds": 1.0, "min": 60.0, "h": 3600.0},
    _prefixed("K"),
    {"e/A2": 1.0, "e/nm2": 0.01, "e/m2": 1e-20},
    {"x": 1.0, "": 1.0, "X": 1.0, "kx": 1e3, "KX": 1e3, "Mx": 1e6, "1": 1.0},
)

_SPELLINGS = str.maketrans("\u00b5\u03bc\u212b\u00c5", "uuAA")
"""Both mu, both Å."""
_INVERSE = re.compile(r"^(\w+?)(?:\^|\*\*)?-1$")
_QUANTITY = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


class UnitError(ValueError):
    """A unit is unknown or measures something else; the message names it."""


def normalised(unit: str) -> str:
    """A unit's spelling in this module: ``µm`` and ``[u_m]`` are ``um``, ``nm^-1`` and ``1 / nm`` are ``1/nm``."""
    text = unit.strip().strip("[]").replace("_", "").replace(" ", "")
    text = (
        text.replace("\u00b5", "u")
        .replace("\u03bc", "u")
        .replace("\u212b", "A")
        .replace("\u00c5", "A")
        .replace("⁻¹", "-1")
    )
    inverse = _INVERSE.match(text)
    if inverse:
        return f"1/{inverse.group(1)}"
    return text


def convert(value: float, unit: str, wanted: str) -> float:
    """A number in another unit of the same kind.

    Args:
        value: the number.
        unit: its unit, in any known spelling.
        wanted: the unit that is wanted, in this module's spelling.

    Raises:
        UnitError: the unit is unknown or measures something else.
    """
    known = normalised(unit)
    for table in _TABLES:
        if wanted in table:
            factor = table.get(known, table.get(known.lower()))
            if factor is not None:
                # Dividing by the inverse keeps exact decimal ratios exact: 300000 V are 300.0 kV.
                ratio = factor / table[wanted]
                return value * ratio if ratio >= 1 else value / (table[wanted] / factor)
    raise UnitError(f"unit {unit!r} cannot be converted to {wanted!r}")


def quantity(text: str) -> tuple[float, str] | None:
    """The number and the unit of a text such as ``80 kV``; None if it does not begin with a number."""
    found = _QUANTITY.match(text)
    return (float(found.group(1)), found.group(2)) if found else None
