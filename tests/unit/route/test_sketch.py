"""The sketch finds the heaviest keys of known skew, within its bounds, and where to split."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

import pytest

from kdaemon.base.description import OpenShard
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.route.sketch import KEYS_MAX, RECORD_BYTES, SLICES, Key, KeySketch
from tests.kit.depth import some

WHOLE = OpenShard("shard-0", 0, HASH_KEY_MAX)
FRAME = 200  # records
Draws = Callable[[random.Random, int], list[str]]


def see(sketch: KeySketch, keys: list[str], size: int = 200) -> None:
    for at in range(0, len(keys), FRAME):
        some = [Record(b"", key) for key in keys[at : at + FRAME]]
        sketch.see(some, [size] * len(some), range(len(some)))


def zipf(exponent: float, key_count: int) -> Draws:
    def draws(dice: random.Random, count: int) -> list[str]:
        edges = list(accumulate(1 / rank**exponent for rank in range(1, key_count + 1)))
        return [f"key-{at}" for at in dice.choices(range(key_count), cum_weights=edges, k=count)]

    return draws


def one_heavy(part: float, key_count: int) -> Draws:
    def draws(dice: random.Random, count: int) -> list[str]:
        return [
            "heavy" if dice.random() < part else f"key-{dice.randrange(key_count)}"
            for _ in range(count)
        ]

    return draws


def uniform(key_count: int) -> Draws:
    return one_heavy(0, key_count)


@pytest.mark.parametrize("seed", some(range(5)))
@pytest.mark.parametrize(
    "draws",
    [zipf(1.0, 2_000), zipf(1.1, 100_000), zipf(1.2, 100_000), zipf(1.5, 1_000_000)],
    ids=["1.0", "1.1", "1.2", "1.5"],
)
def test_of_zipf_s_law_nineteen_of_twenty_of_the_ten_heaviest_are_found(
    draws: Draws, seed: int
) -> None:
    print("seed", seed)
    seen = draws(random.Random(seed), 100_000)
    sketch = KeySketch(WHOLE)
    see(sketch, seen)
    counts = Counter(seen)
    tenth = counts.most_common(10)[-1][1]
    found = sketch.heaviest(10)
    right = sum(counts[str(each.key)] >= tenth for each in found)  # of equals, any will do
    assert right / 10 >= 0.95
    for each in found:
        true = counts[str(each.key)] / len(seen)
        assert true - 2 / KEYS_MAX <= each.records_part <= true + 1e-9
        assert each.bytes_part == pytest.approx(each.records_part)


@pytest.mark.parametrize("seed", some(range(5)))
def test_one_heavy_key_among_many_is_found_with_its_part(seed: int) -> None:
    print("seed", seed)
    sketch = KeySketch(WHOLE)
    see(sketch, one_heavy(0.61, 1_000_000)(random.Random(seed), 50_000))
    first, *others = sketch.heaviest(10)
    assert first.key == "heavy"
    assert first.records_part == pytest.approx(0.61, abs=0.01)
    assert all(each.records_part < 0.005 for each in others)


@pytest.mark.parametrize("seed", some(range(5)))
def test_of_few_equal_keys_all_are_told_exactly(seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    seen = uniform(KEYS_MAX)(dice, 50_000)
    sketch = KeySketch(WHOLE)
    see(sketch, seen)
    top = Counter(seen).most_common(10)
    assert sorted(each.records_part for each in sketch.heaviest(10)) == sorted(
        count / len(seen) for _, count in top
    )


@pytest.mark.parametrize("seed", some(range(5)))
def test_of_many_equal_keys_none_is_called_heavy(seed: int) -> None:
    print("seed", seed)
    sketch = KeySketch(WHOLE)
    see(sketch, uniform(1_000_000)(random.Random(seed), 50_000))
    assert all(each.records_part < 0.001 for each in sketch.heaviest(10))
    split = sketch.split()
    assert split is not None
    assert split.part_below == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("seed", some(range(20)))
def test_what_is_heavier_than_the_bound_is_always_there(seed: int) -> None:
    """In whatever order it comes, and of whatever size: against exact counts."""
    print("seed", seed)
    dice = random.Random(seed)
    sketch = KeySketch(WHOLE)
    weights: Counter[Key] = Counter()
    for _ in range(dice.randrange(5, 60)):
        some: list[Record] = []
        sizes: list[int] = []
        for _ in range(FRAME):
            explicit = str(dice.randrange(50)) if dice.random() < 0.1 else None
            key = f"k{int(dice.paretovariate(0.5)) % 50_000}"
            some.append(Record(b"", key, explicit))
            sizes.append(dice.choice([1, 100, 50_000]))
        if dice.random() < 0.1:  # the adversary: new keys only
            some = [Record(b"", f"new-{dice.random()}") for _ in some]
        sketch.see(some, sizes, range(FRAME))
        for record, size in zip(some, sizes, strict=True):
            key_of: Key = record.partition_key
            if record.explicit_hash_key is not None:
                key_of = int(record.explicit_hash_key)
            weights[key_of] += size + RECORD_BYTES
    found = sketch.audit()
    assert len(found) <= KEYS_MAX
    bound = weights.total() * 2 / KEYS_MAX
    for key_of, weight in weights.items():
        assert found.get(key_of, 0) <= weight
        if weight > bound:
            assert found[key_of] >= weight - bound


def test_an_explicit_hash_key_is_a_key_of_its_own_and_a_text_of_its_digits_another() -> None:
    sketch = KeySketch(WHOLE)
    records = [Record(b"", "17", "17"), Record(b"", "a", "017"), Record(b"", "17")]
    sketch.see(records, [10, 10, 10], [0, 1, 2])
    assert {each.key for each in sketch.heaviest(10)} == {17, "17"}
    assert sketch.heaviest(1)[0].records_part == pytest.approx(2 / 3)


def test_only_the_records_that_are_named_count() -> None:
    sketch = KeySketch(WHOLE)
    sketch.see([Record(b"", "a"), Record(b"", "b")], [10, 30], [1])
    assert [(each.key, each.bytes_part) for each in sketch.heaviest(10)] == [("b", 1.0)]
    assert (sketch.records, sketch.byte_count) == (1, 30)


def test_the_past_is_forgotten_by_halves() -> None:
    sketch = KeySketch(WHOLE)
    see(sketch, ["old"] * 100)
    for _ in range(4):
        sketch.decay()
        see(sketch, ["new"] * 100)
    assert [each.key for each in sketch.heaviest(10)] == ["new", "old"]
    assert sketch.records == 100 / 16 + 100 * (1 / 8 + 1 / 4 + 1 / 2 + 1)


@pytest.mark.parametrize("width", [1, 2, 3, 255, 256, 257, 1000, 2**127])
@pytest.mark.parametrize("seed", some(range(5)))
def test_a_split_is_inside_the_range_and_halves_what_came(width: int, seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    first = dice.randrange(2**126)
    sketch = KeySketch(OpenShard("shard-7", first, first + width - 1))
    places = [first + dice.randrange(width) for _ in range(2_000)]
    records = [Record(b"", "k", str(place)) for place in places]
    sketch.see(records, [100] * 2_000, range(2_000))
    split = sketch.split()
    if width == 1:
        assert split is None
        return
    assert split is not None
    assert first < split.hash_key < first + width
    below = sum(place < split.hash_key for place in places) / len(places)
    few = width <= KEYS_MAX  # keys: then all are known, else some of those that are forgotten
    assert below == pytest.approx(split.part_below, abs=1e-9 if few else 0.06)
    assert abs(below - 0.5) <= max(1 / SLICES, 1 / width) + 0.06


def test_the_heaviest_key_is_left_alone_by_a_split_where_that_halves() -> None:
    sketch = KeySketch(OpenShard("shard-7", 0, 1023))
    records = [Record(b"", "k", "1000")] * 50 + [Record(b"", "k", str(at)) for at in range(50)]
    sketch.see(records, [100] * 100, range(100))
    split = sketch.split()
    assert split is not None
    assert 50 <= split.hash_key <= 1000
    assert split.part_below == 0.5


def test_nothing_came_and_nothing_is_told() -> None:
    sketch = KeySketch(WHOLE)
    assert sketch.heaviest(10) == []
    assert sketch.split() is None
