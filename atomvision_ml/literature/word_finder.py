"""Many words, written as regular expressions, found in one pass.

Belongs here: the search alone. Python tries the alternatives of a pattern one by one at every place of a text; here
only those are tried that can begin with the character at that place, and only where a word begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_ATOM = re.compile(r"\\(?P<escaped>.)|\[(?P<listed>(?:\\.|[^\]])+)\]|(?P<plain>[^(|)])", re.DOTALL)
_ZERO_WIDTH = ("(?=", "(?!", "(?<")
_OPTIONAL = re.compile(r"[?*]|\{0")
_QUANTIFIER = re.compile(r"(?:[?*+]|\{[^}]*\})?")
_RANGE = re.compile(r"(.)-(.)")
_ANY = ""
"""Stands for every character."""


class WordFinder:
    """Finds the words of several kinds; of those that fit at one place the first in the order given wins.

    Args:
        kinds: name and patterns of each kind; a name may recur.
        unless: patterns of what is no word, whatever follows.

    Raises:
        ValueError: a pattern can begin with any character.
    """

    def __init__(self, kinds: Sequence[tuple[str, Sequence[str]]], unless: Sequence[str]):
        """The patterns are compiled here."""
        words = [(kind, word, first_characters(word)) for kind, group in kinds for word in group]
        if vague := [word for _, word, each in words if _ANY in each]:
            raise ValueError(f"a word must tell its first character; these do not: {', '.join(vague)}")
        firsts = {first for _, _, each in words for first in each}
        self._kinds: dict[str, tuple[str, ...]] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for first in firsts:
            chosen = [(kind, word) for kind, word, each in words if first in each]
            barred = "|".join(each for each in unless if first_characters(each) & {first, _ANY})
            groups = "|".join(f"(?:{word})()" for _, word in chosen)
            self._kinds[first] = ("", *(kind for kind, _ in chosen))
            self._patterns[first] = re.compile(rf"{f'(?!{barred})' if barred else ''}(?:{groups})(?!\w)")
        own = "".join(re.escape(first) for first in firsts if not first.isalnum())
        self._begins = re.compile(rf"\b\w|(?<!\w)[{own}]" if own else r"\b\w")

    def find(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and kind of each word, in the order of the text."""
        end = 0
        for begin in self._begins.finditer(text):
            start, first = begin.start(), begin[0]
            if start < end or first not in self._patterns:
                continue
            match = self._patterns[first].match(text, start)
            if match is not None:
                end = match.end()
                yield start, end, self._kinds[first][match.lastindex or 0]


def first_characters(pattern: str) -> frozenset[str]:
    """Characters that a match of a pattern can begin with; an empty string among them stands for every character."""
    return frozenset().union(*(_of_sequence(each) for each in _alternatives(pattern)))


def _of_sequence(pattern: str) -> set[str]:
    found: set[str] = set()
    while pattern:
        if pattern.startswith("("):
            end = _closing(pattern)
            inner, rest = pattern[:end], pattern[end:]
            is_empty = inner.startswith(_ZERO_WIDTH)
            own = set() if is_empty else set(first_characters(inner[1:-1].removeprefix("?:")))
        else:
            atom = _ATOM.match(pattern)
            assert atom is not None, pattern
            rest = pattern[atom.end() :]
            own = _of_atom(atom)
            is_empty = not own
        found |= own
        if not is_empty and not _OPTIONAL.match(rest):
            return found
        pattern = rest[_QUANTIFIER.match(rest).end() :]  # type: ignore[union-attr]
    return found | {_ANY}


def _of_atom(atom: re.Match[str]) -> set[str]:
    """Nothing where the atom has no width."""
    if atom["plain"]:
        return {".": {_ANY}, "^": set(), "$": set()}.get(atom["plain"], {atom["plain"]})
    if atom["escaped"]:
        return set() if atom["escaped"] == "b" else {_ANY} if atom["escaped"].isalpha() else {atom["escaped"]}
    listed = atom["listed"]
    if listed[0] == "^" or "\\" in listed:
        return {_ANY}
    ranges = {chr(code) for first, last in _RANGE.findall(listed) for code in range(ord(first), ord(last) + 1)}
    return ranges | set(_RANGE.sub("", listed))


def _alternatives(pattern: str) -> list[str]:
    """The pattern divided at the bars outside of brackets."""
    parts, start, place = [], 0, 0
    while place < len(pattern):
        if pattern[place] == "|":
            parts.append(pattern[start:place])
            start = place + 1
        place += _width(pattern[place:])
    return [*parts, pattern[start:]]


def _closing(pattern: str) -> int:
    """Where the bracket that a pattern begins with has ended."""
    place = 1
    while pattern[place] != ")":
        place += _width(pattern[place:])
    return place + 1


def _width(pattern: str) -> int:
    """Length of what a pattern begins with: a bracket as a whole, an escaped character, a single one."""
    if pattern.startswith("("):
        return _closing(pattern)
    atom = _ATOM.match(pattern)
    return atom.end() if atom else 1
