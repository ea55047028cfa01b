"""Many patterns in one pass: the same finds as one great alternation."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature.word_finder import WordFinder, first_characters

KINDS = [
    ("plot", ["spectr(?:um|a)", "(?:line )?profiles?", "θ-2θ", r"I\(V\)"]),
    ("image", ["images?", "^same", "(?:bright|dark)[- ]field", "[XM]-?ray images?"]),
    ("map", ["(?<!x)maps?(?= of)", "[23]D maps?"]),
]
UNLESS = ["the", r"\d+(?!D)"]


@pytest.mark.parametrize(
    ("pattern", "firsts"),
    [
        ("maps?", "m"),
        ("(?:a|[bc]d)e", "abc"),
        ("(?:x )?yz", "xy"),
        (r"a?b*\(", "ab("),
        (r"^(?<!k)\bq", "q"),
        ("[0-3]+", "0123"),
    ],
)
def test_first_characters(pattern: str, firsts: str) -> None:
    assert first_characters(pattern) == set(firsts)


def test_a_word_that_can_begin_with_anything_is_refused() -> None:
    assert "" in first_characters(r"\w+") & first_characters("(?:a|.)b") & first_characters("a?")
    with pytest.raises(ValueError, match=r"first character.*\\w\+ maps"):
        WordFinder([("map", ["maps", r"\w+ maps"])], unless=())


_PIECES = [
    "spectrum",
    "line ",
    "profile",
    "s",
    "θ-2θ",
    "I(V)",
    "same",
    "bright-field",
    "3D ",
    "map",
    " of ",
    "the",
    "-",
    "2",
]


@given(text=st.lists(st.sampled_from([*_PIECES, " ", "-", "2", "X-ray images", "xmaps"]), max_size=12).map("".join))
@settings(max_examples=200, deadline=None)
def test_finds_are_those_of_one_alternation(text: str) -> None:
    groups = "|".join(f"({'|'.join(words)})" for _, words in KINDS)
    whole = re.compile(rf"(?<!\w)(?!{'|'.join(UNLESS)})(?:{groups})(?!\w)")
    expected = [(match.start(), match.end(), KINDS[match.lastindex - 1][0]) for match in whole.finditer(text)]
    assert list(WordFinder(KINDS, unless=UNLESS).find(text)) == expected
