"""What tests of the pure rooms make by hand: frames, answers, shards, loaded dice."""

from collections.abc import Iterable

from kdaemon.base.description import Capacity, OpenShard, StreamDescription
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import HASH_KEY_MAX, SPREAD_KEY_BYTES
from kdaemon.base.record import Record, RecordResult

MS = 1_000_000
SECOND = 1_000_000_000


class LoadedDice:
    """Rolls what it is told, then the last again. In [0, 1)."""

    def __init__(self, *rolls: float) -> None:
        self._rolls = list(rolls)
        self.roll_count = 0

    def random(self) -> float:
        self.roll_count += 1
        return self._rolls.pop(0) if len(self._rolls) > 1 else self._rolls[0]


def make_frame(
    records: Iterable[Record],
    *,
    deadline_ns: int | None = None,
    footprint_bytes: int | None = None,
) -> Frame:
    """A frame with the sizes that the service would count; holds 100 bytes a record besides."""
    records = list(records)
    sizes = [
        len(record.data) + (len(record.partition_key.encode()) or SPREAD_KEY_BYTES)
        for record in records
    ]
    frame = Frame(records, sizes, Acknowledge.DELIVERED, None)
    frame.footprint_bytes = (
        sum(sizes) + 100 * len(records) if footprint_bytes is None else footprint_bytes
    )
    frame.deadline_ns = deadline_ns
    return frame


def sized_frame(sizes: Iterable[int], *, deadline_ns: int | None = None) -> Frame:
    """A frame of records of these sizes (data + a key of one character), each at least 1."""
    return make_frame([Record(bytes(size - 1), "k") for size in sizes], deadline_ns=deadline_ns)


def delivered(shard_id: str = "shard-0", number: int = 1) -> RecordResult:
    return RecordResult(sequence_number=str(number), shard_id=shard_id)


def failed(code: str = "ProvisionedThroughputExceededException") -> RecordResult:
    return RecordResult(error_code=code, error_message="no")


def even_shards(count: int) -> tuple[OpenShard, ...]:
    """`count` shards over all hash keys, named shard-0 and on."""
    starts = [number * (HASH_KEY_MAX + 1) // count for number in range(count + 1)]
    return tuple(
        OpenShard(f"shard-{number}", starts[number], starts[number + 1] - 1)
        for number in range(count)
    )


def describe(
    shards: tuple[OpenShard, ...] | None,
    *,
    is_auto: bool = False,
    record_bytes_max: int | None = None,
    has_record_readers: bool | None = None,
    capacity: Capacity | None = None,
    shard_bytes_per_second: int | None = None,
) -> StreamDescription:
    return StreamDescription(
        shards,
        record_bytes_max,
        is_auto,
        None,
        has_record_readers=has_record_readers,
        capacity=capacity,
        shard_bytes_per_second=shard_bytes_per_second,
    )
