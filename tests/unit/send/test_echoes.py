"""What a service repeats of a record is not shown, wherever in its text and however often."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.send.answers import shown

# As one pattern each would have it, which is plain to read and takes too long.
PATTERNS = (
    (re.compile(r"Value .*? at '(?=[\w.]+' failed)", re.DOTALL), "Value (not shown) at '"),
    (re.compile(r"Specified value was .*", re.DOTALL), "Specified value is not shown"),
    (re.compile(r"Partition key is too long: .*", re.DOTALL), "Partition key is too long"),
    (re.compile(r"'.*?' can not be converted", re.DOTALL), "A value can not be converted"),
    (re.compile(r"\S* is not a valid 128 bit"), "A hash key is not a valid 128 bit"),
)
PARTS = st.sampled_from(
    [
        *("Value ", "'", " at '", "records.1.member.data", "' failed", "k", " ", "x y", "; "),
        *("Specified value was ", "Partition key is too long: ", "' can not be converted"),
        *(" is not a valid 128 bit", "7"),
    ]
)


@given(st.lists(PARTS, max_size=12).map("".join))
def test_the_text_is_what_the_patterns_leave_of_it(text: str) -> None:
    expected = text
    for pattern, plain in PATTERNS:
        expected = pattern.sub(plain, expected)
    assert shown(text) == expected.strip().split("\n", 1)[0][:600]


@pytest.mark.parametrize("part", ["'", "Value ", "x", "'a", " at '", "Value ' at '", "' can "])
def test_a_text_that_begins_to_quote_everywhere_is_no_trouble(part: str) -> None:
    text = (part * 8192)[:8192]
    assert shown(text) == text.strip()[:600]
