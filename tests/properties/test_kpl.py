"""Aggregates of any records: what others read and write, and never larger than counted on."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdaemon.base.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX
from kdaemon.base.record import Record
from kdaemon.pack import kpl
from tests.kit.aggregates import python_reads, python_writes, triples
from tests.kit.depth import examples

EXAMPLES = settings(deadline=None, print_blob=True, max_examples=examples(150))

# Any Unicode but lone surrogates, which have no UTF-8 and so no way in.
CHARACTERS = st.characters(exclude_categories=["Cs"])
KEYS = st.text(CHARACTERS, min_size=1, max_size=PARTITION_KEY_CHARACTERS_MAX) | st.sampled_from(
    ["a", "0", "k" * 127, "k" * 128, "é" * 64, "🔑" * 256]
)
HASH_KEYS = st.integers(0, HASH_KEY_MAX) | st.sampled_from([0, 1, HASH_KEY_MAX - 1, HASH_KEY_MAX])
# Lengths near which a varint grows, beside any short data.
LENGTHS = st.sampled_from([118, 124, 128, 4_095, 4_096, 16_370, 16_377, 16_380, 16_384, 60_000])
DATA = st.binary(max_size=300) | LENGTHS.map(bytes)


@st.composite
def record_lists(draw: st.DrawFn) -> list[Record]:
    """Of one kind, with repeated keys, at times many times over: within AGGREGATE_BYTES_MAX."""
    is_explicit = draw(st.booleans())
    hash_keys = HASH_KEYS.map(str) if is_explicit else st.none()
    drawn = draw(st.lists(st.builds(Record, DATA, KEYS, hash_keys), min_size=1, max_size=12))
    records = drawn * draw(st.sampled_from([1, 1, 3, 50]))
    # The bound of any of them, the fixed part included once for each, is less than this.
    counts = [len(each.data) + 4 * PARTITION_KEY_CHARACTERS_MAX + 500 for each in records]
    room = kpl.AGGREGATE_BYTES_MAX
    kept = []
    for record, count in zip(records, counts, strict=True):
        room -= count
        if room < 0:
            break
        kept.append(record)
    return kept


@EXAMPLES
@given(records=record_lists())
@example(records=[Record(b"", "a")])
def test_an_aggregate_is_what_others_write_and_read(records: list[Record]) -> None:
    written = kpl.encode_aggregate(records)
    assert written == python_writes(records)
    assert python_reads(written) == triples(records)


@EXAMPLES
@given(records=record_lists())
def test_an_aggregate_is_never_larger_than_its_bound(records: list[Record]) -> None:
    sizes = [len(each.data) + len(each.partition_key.encode()) for each in records]
    count = len(records)
    fixed = count * kpl.RECORD_OVERHEAD_BYTES_MAX + kpl.AGGREGATE_OVERHEAD_BYTES
    explicit = {each.explicit_hash_key for each in records} - {None}
    by_key = len(explicit) * kpl.EXPLICIT_KEY_BYTES_MAX
    by_record = count * kpl.EXPLICIT_INDEX_BYTES_MAX if explicit else 0
    written = len(kpl.encode_aggregate(records))
    assert written <= sum(sizes) + fixed + by_key + by_record
    by_count = count * kpl.EXPLICIT_OVERHEAD_BYTES_MAX if explicit else 0
    assert by_key + by_record <= by_count


@EXAMPLES
@given(records=record_lists())
def test_the_outer_hash_key_is_the_first_inner_one(records: list[Record]) -> None:
    inner = kpl.hash_keys(records)
    assert len(inner) == len(records)
    assert kpl.outer_hash_key(records) == str(inner[0])
