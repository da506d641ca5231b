"""Each fuzz target over its seeds and some thousand inputs made of them: the same ones each time.

`make thorough` has two and a half times as many as `make test`; `make fuzz` goes on from there.
"""

import pytest

from tests.fuzz import engine, targets
from tests.fuzz.mutate import Mutator
from tests.kit.depth import examples

INPUTS = 2_500  # of each target in `make thorough`: about a second


@pytest.mark.parametrize("name", targets.target_names())
def test_no_input_breaks_a_promise(name: str) -> None:
    target = targets.load(name)
    count = examples(getattr(target, "TEST_INPUTS", INPUTS))
    assert engine.run_random(target, seed=8, input_count=count, seconds=None) == count


def test_inputs_are_the_same_for_the_same_seed() -> None:
    first, second = (Mutator(3, [b"abc", b"xyz"], [b"t"]) for _ in range(2))
    assert [first.next() for _ in range(50)] == [second.next() for _ in range(50)]
