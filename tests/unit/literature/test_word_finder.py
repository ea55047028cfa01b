"""Many patterns in one pass: the same finds as one great alternation."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature.word_finder import START, WordFinder, beginnings

KINDS = [
    ("plot", ["spectr(?:um|a)", "(?:line )?profiles?", "θ-2θ", r"I\(V\)"]),
    ("image", ["images?", "^same", "(?:bright|dark)[- ]field", "[XM]-?ray images?"]),
    ("map", ["(?<!x)maps?(?= of)", "[23]D maps?"]),
]
UNLESS = ["the", r"\d+(?!D)"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("maps?", "map"),
        ("(?:a|[bc]d)e", "ae bde cde"),
        ("(?:x )?yz", "x_y yz"),
        (r"a?b*\(", "ab a( b ("),
        (r"^(?<!k)\bq", "^q"),
        ("[0-2]+x", "0 1 2"),
        (r"k\w+", "k"),
        ("(?:ab?)?c", "abc ac c"),
    ],
)
def test_beginnings(pattern: str, expected: str) -> None:
    assert beginnings(pattern) == {each.replace("_", " ").replace("^", START) for each in expected.split()}


def test_a_word_that_can_begin_with_anything_is_refused() -> None:
    assert "" in beginnings(r"\w+") & beginnings("(?:a|.)b") & beginnings("a?")
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
