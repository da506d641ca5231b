"""What the services bill for records: their units, and the sizes of sent records.

AWS rounds up each record; Yandex rounds up all that one call brings to one shard. Both round to
whole KiB, so sizes are counted in classes of 1 KiB, and units follow exactly from the classes.
Pure: values and counts only. Bills for repeats (a call whose answer was lost) are not counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kdaemon.base.limits import KIB

PUT_PAYLOAD_KIB: Final = 25
"""KiB of a PUT payload unit, AWS provisioned: a record of 5 KB is one unit, of 45 KB two. Source:
aws.amazon.com/kinesis/data-streams/pricing, 2026-11-28. The page says 25 KB, and 40 units for 1 MB.
For on-demand streams it says that 1 KB is 1,024 bytes, and we read 25 KB in the same way."""

ON_DEMAND_KIB: Final = 1
"""KiB to which each record is rounded up, AWS on-demand: "rounded up to the nearest 1 KB (1,024
bytes)". Same source and date."""

YANDEX_PUT_KIB: Final = 40
"""KiB of a put unit, Yandex: data, partition keys and explicit hash keys of all records that one
call brings to one shard, rounded up. Source: `PUT_UNIT_SIZE` and `put_records_actor.h` in
ydb-platform/ydb, 2026-11-28."""


class BilledUnit(Enum):
    """AWS bills one of the first two, by the stream's mode. Both are counted, because the mode can
    change, and so that an operator can compare them.
    """

    PUT_PAYLOAD = "put_payload_units"
    ON_DEMAND = "on_demand_bytes"
    YANDEX_PUT = "yandex_put_units"


@dataclass(frozen=True, slots=True)
class UnitSizes:
    """The size of each unit, in whole KiB. All streams of a process have the same, from its start
    to its end: a counter of units cannot go on in another unit.
    """

    put_payload_kib: int = PUT_PAYLOAD_KIB
    on_demand_kib: int = ON_DEMAND_KIB
    yandex_put_kib: int = YANDEX_PUT_KIB


UNIT_SIZES: Final = UnitSizes()


class SentSizes:
    """The records that the service took of one stream, by size; an aggregate counts as one.

    `classes`: records by size in KiB, rounded up: at most 10,240 classes, since no record is larger
    than 10 MiB. `byte_count`: data + partition keys. `put_units`: if calls are rounded up. `units`:
    the size of each unit.
    """

    __slots__ = ("byte_count", "classes", "put_units", "units")

    def __init__(self, units: UnitSizes = UNIT_SIZES) -> None:
        self.units = units
        self.classes: Counter[int] = Counter()
        self.byte_count = 0
        self.put_units = 0

    def see(self, sizes: Sequence[int]) -> None:
        """Counts records of these sizes; the caller adds to `byte_count`."""
        self.classes.update([(size + KIB - 1) // KIB for size in sizes])

    def see_call(self, bytes_of_shards: Iterable[int]) -> None:
        """Counts a call, with its bytes for each shard, of a service that rounds these up."""
        unit_bytes = self.units.yandex_put_kib * KIB
        self.put_units += sum([-(-byte_count // unit_bytes) for byte_count in bytes_of_shards])

    def snapshot(self) -> dict[BilledUnit, int]:
        """The counts of all units."""
        classes, units = self.classes.items(), self.units
        put_payloads = sum(count * units_of(kib, units.put_payload_kib) for kib, count in classes)
        on_demand = sum(count * units_of(kib, units.on_demand_kib) for kib, count in classes)
        return {
            BilledUnit.PUT_PAYLOAD: put_payloads,
            BilledUnit.ON_DEMAND: on_demand * units.on_demand_kib * KIB,
            BilledUnit.YANDEX_PUT: self.put_units,
        }

    def add(self, other: "SentSizes") -> None:
        """Adds what another stream has sent, in units of the same sizes."""
        self.units = other.units
        self.classes.update(other.classes)
        self.byte_count += other.byte_count
        self.put_units += other.put_units


def units_of(kib: int, unit_kib: int) -> int:
    """How many units of `unit_kib` KiB a record of this class takes."""
    return -(-kib // unit_kib)


@dataclass(frozen=True, slots=True)
class Bill:
    """`units`: since the start, in the units that the service bills the stream in, or may bill it
    in. `saves`: the part of them, 0..1, that aggregates would have saved at most. `record_bytes`:
    the mean of a record as it was sent; None: nothing was sent, or calls are billed.
    """

    units: Mapping[BilledUnit, int]
    saves: Mapping[BilledUnit, float]
    record_bytes: float | None
