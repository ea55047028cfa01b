"""Many words, written as regular expressions, found in one pass.

Belongs here: the search alone. Python tries the alternatives of a pattern one by one at every place of a text; here
only those are tried that can begin with the three characters at that place, and only where one of them can begin.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_ATOM = re.compile(r"\\(?P<escaped>.)|\[(?P<listed>(?:\\.|[^\]])+)\]|(?P<plain>[^(|)])", re.DOTALL)
_ZERO_WIDTH = ("(?=", "(?!", "(?<")
_OPTIONAL = re.compile(r"[?*]|\{0")
_QUANTIFIER = re.compile(r"(?:[?*+]|\{[^}]*\})?")
_RANGE = re.compile(r"(.)-(.)")
_ANY = ""
"""Stands for every character."""

START = "\x02"
"""Stands for the beginning of the text, where a pattern says ``^``."""

_KNOWN = 3
"""How many first characters choose among the words."""

_Beginning = tuple[str, bool]
"""Up to that many characters, and whether they are all that was matched so far, so that more is known to follow."""


class WordFinder:
    """Finds the words of several kinds; of those that fit at one place the first in the order given wins.

    Args:
        kinds: name and patterns of each kind; a name may recur.
        unless: patterns of what is no word, whatever follows.

    Raises:
        ValueError: a pattern can begin with any character.
    """

    def __init__(self, kinds: Sequence[tuple[str, Sequence[str]]], unless: Sequence[str] = ()):
        """The patterns are compiled here."""
        self._words = [(kind, word, beginnings(word)) for kind, group in kinds for word in group]
        if vague := [word for _, word, each in self._words if _ANY in each]:
            raise ValueError(f"a word must tell its first character; these do not: {', '.join(vague)}")
        self._unless = [(each, beginnings(each)) for each in unless]
        self._searches: dict[str, _Search] = {}
        self._compiled: dict[tuple[str, ...], _Search] = {}
        known = {each for _, _, group in self._words for each in group}
        self._begins = re.compile(rf"(?<!\w)(?={_any_of(known)})")

    def find(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and kind of each word, in the order of the text."""
        end, searches = 0, self._searches
        for begin in self._begins.finditer(text):
            start = begin.start()
            if start < end:
                continue
            first = text[start : start + _KNOWN] if start else START + text[:_KNOWN]
            search = searches.get(first) or self._search(first)
            match = search.pattern.match(text, start)
            if match is not None:
                end = match.end()
                yield start, end, search.kinds[match.lastindex or 0]

    def _search(self, first: str) -> _Search:
        """What is tried where a text goes on with some characters (fewer at its end)."""
        fitting = {each[:length] for each in (first, first.removeprefix(START)) for length in range(len(each) + 1)}
        chosen = [(kind, word) for kind, word, each in self._words if each & fitting]
        barred = [word for word, each in self._unless if each & fitting]
        key = (*barred, "", *(word for _, word in chosen))
        if key not in self._compiled:
            groups = "|".join(f"(?:{word})()" for _, word in chosen)
            never = f"(?!{'|'.join(barred)})" if barred else ""
            pattern = re.compile(rf"{never}(?:{groups})(?!\w)")
            self._compiled[key] = _Search(pattern, ("", *(kind for kind, _ in chosen)))
        self._searches[first] = self._compiled[key]
        return self._searches[first]


@dataclass(frozen=True)
class _Search:
    """The words that can begin with some characters, and their kinds by number of the group behind each."""

    pattern: re.Pattern[str]
    kinds: tuple[str, ...]


def beginnings(pattern: str) -> frozenset[str]:
    """What a match of a pattern can begin with: three characters, or fewer where anything may follow.

    An empty string among them stands for every character.
    """
    return frozenset(text for text, _ in _of_pattern(pattern))


def _of_pattern(pattern: str) -> set[_Beginning]:
    return set().union(*(_of_sequence(each) for each in _alternatives(pattern)))


def _of_sequence(pattern: str) -> set[_Beginning]:
    found: set[_Beginning] = {("", True)}
    while pattern and any(goes_on for _, goes_on in found):
        if pattern.startswith("("):
            rest = pattern[_closing(pattern) :]
            inner = pattern[: _closing(pattern)]
            own = {("", True)} if inner.startswith(_ZERO_WIDTH) else _of_pattern(inner[1:-1].removeprefix("?:"))
        else:
            atom = _ATOM.match(pattern)
            assert atom is not None, pattern
            rest = pattern[atom.end() :]
            own = {(first, first != _ANY) for first in _of_atom(atom)} or {("", True)}
        quantifier = _QUANTIFIER.match(rest)[0]  # type: ignore[index]
        if quantifier not in ("", "?"):
            own = {(text, False) for text, _ in own}
        if _OPTIONAL.match(rest):
            own = own | {("", True)}
        found = {joined for each in found for joined in _joined(each, own)}
        pattern = rest[len(quantifier) :]
    return found


def _joined(before: _Beginning, after: set[_Beginning]) -> set[_Beginning]:
    text, goes_on = before
    if not goes_on:
        return {before}
    return {((text + more)[:_KNOWN], can and len(text + more) < _KNOWN) for more, can in after}


def _of_atom(atom: re.Match[str]) -> set[str]:
    """Nothing where the atom has no width."""
    if atom["plain"]:
        return {".": {_ANY}, "^": {START}, "$": set()}.get(atom["plain"], {atom["plain"]})
    if atom["escaped"]:
        return set() if atom["escaped"] == "b" else {_ANY} if atom["escaped"].isalpha() else {atom["escaped"]}
    listed = atom["listed"]
    if listed[0] == "^" or "\\" in listed:
        return {_ANY}
    ranges = {chr(code) for first, last in _RANGE.findall(listed) for code in range(ord(first), ord(last) + 1)}
    return ranges | set(_RANGE.sub("", listed))


def _any_of(texts: Iterable[str]) -> str:
    """A pattern of some beginnings, gathered by their first characters."""
    ends: defaultdict[str, set[str]] = defaultdict(set)
    for text in texts:
        if not text:
            return ""
        ends["^" if text[0] == START else re.escape(text[0])].add(text[1:])
    return f"(?:{'|'.join(first + _any_of(ends[first]) for first in sorted(ends))})"


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
