"""The depth of a run is one number, which every property test asks for (tests/kit/depth.py)."""

import re
from pathlib import Path

from tests.kit.depth import EXAMPLES, EXAMPLES_MIN, examples, share, some

TESTS = Path(__file__).resolve().parents[2]
LITERAL = re.compile(r"\bmax_examples=\d")


def test_no_test_says_how_many_examples_it_tries_whatever_the_depth() -> None:
    found = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if "node_modules" not in path.parts and LITERAL.search(path.read_text())
    ]
    assert found == [], "max_examples=examples(...)"


def test_each_depth_tries_something() -> None:
    assert share() in {count / EXAMPLES["thorough"] for count in EXAMPLES.values()}
    assert examples(1) == 1
    assert examples(1_000) == round(1_000 * share()) >= EXAMPLES_MIN
    assert list(some([7])) == [7]
