"""A figure as a paper's source tells it, whichever the route: HTML made by LaTeXML, or TeX.

Belongs here: the common form, and the plain text of captions.
"""

from __future__ import annotations

import re
import unicodedata

from pydantic import BaseModel, ConfigDict, Field

_SAME = {"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u223c": "~"}
_INVISIBLE = "\u2061\u2062\u2063\u2064\u200b\u200c\u200d\u2060\ufeff\u00ad"
_SPELLING = str.maketrans({**_SAME, **dict.fromkeys(_INVISIBLE, "")})
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_SUPERSCRIPT = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)")
_BARRED = re.compile("(\\d)[\u00af\u203e\u0304\u0305]")
"""A negative Miller index."""
_FROM_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_UNUSUAL = re.compile(f"[{''.join(map(chr, {**_SPELLING, **_DIGITS, **_FROM_SUPERSCRIPT}))}\u00af\u203e\u0304\u0305∘]")


class SubFigure(BaseModel):
    """A part of a figure that the source itself tells apart."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(description="Its letter, without brackets, in lower case; empty if it has none.")
    caption: str = Field(description="Its own caption, plain text.")
    images: tuple[str, ...] = Field(description="Addresses or members of the archive.")


class SourceFigure(BaseModel):
    """A figure and its caption."""

    model_config = ConfigDict(frozen=True)

    number: str = Field(description="As printed, e.g. `2`; its place in the paper where nothing is printed.")
    caption: str = Field(description="Plain text: subscripts on the line, superscripts after `^`.")
    images: tuple[str, ...] = Field(description="Images outside its sub-figures.")
    parts: tuple[SubFigure, ...] = ()
    n_missing_images: int = Field(default=0, description="Images that the source names but could not be made.")


def plain_text(text: str) -> str:
    """One line of text: Unicode in its composed form, one kind of minus and space, sub- and superscripts spelt out."""
    if text.isascii():
        return " ".join(text.split())
    if _UNUSUAL.search(text):
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[1].translate(_FROM_SUPERSCRIPT), text.translate(_DIGITS))
        text = _BARRED.sub(r"-\1", text.translate(_SPELLING)).replace("^∘", "°")
    return " ".join(unicodedata.normalize("NFC", text).split())
