"""Counts what a call was billed, when the call is answered, and estimates what aggregates would
save.

Counts the records that the service took, as they were sent: an aggregate is one record, and an
invented key counts. A record counts though its client was told already, and though it landed on the
wrong shard. Must not change a batch; the counts are those of `base/billing.py`.
Invariant: a record of an answered call is counted once, if its result says delivered. Cost: of
frames whose records are all of 1 KiB or less, C's `max` once; else 60 ns a record.
Flow: settlement.py -> here -> counters -> here -> observe/status.py.
"""

from kdaemon.base.billing import (
    Bill,
    BilledUnit,
    SentSizes,
    units_of,
)
from kdaemon.base.description import Capacity
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Frame
from kdaemon.base.limits import KIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.pack.batch import Batch
from kdaemon.pack.kpl import AGGREGATE_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES_MAX

AGGREGATE_BYTES_USUAL = 51_200
"""50 KiB: the KPL's default AggregationMaxSize and ours, 2026-11-21. The saving of a stream that
has no aggregates is estimated with this size."""


def bill_of(
    sent: SentSizes, settings: EngineSettings, capacity: Capacity | None, *, is_auto: bool
) -> Bill:
    """The bill of the records that a stream has sent so far."""
    service = settings.service
    if service.bills_by_call:
        billed = [BilledUnit.YANDEX_PUT]
    elif capacity is None:  # the service did not tell the stream's mode
        billed = [BilledUnit.PUT_PAYLOAD, BilledUnit.ON_DEMAND]
    else:
        billed = [BilledUnit.ON_DEMAND if capacity.is_on_demand else BilledUnit.PUT_PAYLOAD]
    can_save = service.can_aggregate and not (is_auto or settings.aggregate_bytes_max)
    units, count = sent.snapshot(), sent.classes.total()
    saves: dict[BilledUnit, float] = {}
    for unit in billed if can_save else ():
        saved = aggregation_saves(sent, unit, AGGREGATE_BYTES_USUAL)
        if saved is not None:
            saves[unit] = saved
    return Bill(
        {unit: units[unit] for unit in billed}, saves, sent.byte_count / count if count else None
    )


def bill_records(
    sent: SentSizes, batch: Batch, results: list[RecordResult], *, is_whole: bool, is_named: bool
) -> None:
    """Counts an answered call of a service that rounds up each record. `results`: one for each
    record that was sent. `is_whole`: all were delivered. `is_named`: some may have gone out with
    other keys.
    """
    if not is_whole or batch.widths is not None:
        sizes = [
            _size(record)
            for record, result in zip(batch.records, results, strict=True)
            if result.is_delivered
        ]
        sent.byte_count += sum(sizes)
        sent.see(sizes)
        return
    sent.byte_count += batch.byte_count
    if batch.byte_count <= KIB:
        sent.classes[1] += batch.record_count
        return
    if max(map(_largest, batch.frames)) <= KIB:
        sent.classes[1] += batch.record_count
        return
    small_count = offset = 0
    for run in batch.runs:
        count = len(run.indices)
        if run.byte_count <= KIB or _largest(run.frame) <= KIB:
            small_count += count
        elif is_named:  # the size set aside for a missing key is above that of the invented key
            sent.see([_size(record) for record in batch.records[offset : offset + count]])
        else:
            sizes = run.frame.sizes
            sent.see([sizes[index] for index in run.indices])
        offset += count
    if small_count:
        sent.classes[1] += small_count


def bill_call(sent: SentSizes, batch: Batch, results: list[RecordResult]) -> None:
    """Counts an answered call of a service that rounds up the bytes that a call brings to a
    shard.
    """
    bytes_of: dict[str | None, int] = {}
    for record, result in zip(batch.records, results, strict=True):
        if result.is_delivered:
            size = _size(record) + len(record.explicit_hash_key or "")
            bytes_of[result.shard_id] = bytes_of.get(result.shard_id, 0) + size
    sent.see_call(bytes_of.values())


def aggregation_saves(sent: SentSizes, unit: BilledUnit, aggregate_bytes_max: int) -> float | None:
    """The part of the bill that full aggregates of this size would have saved, 0..1. None: nothing
    was sent, or the unit knows no aggregates. Records that are too large for an aggregate stay as
    they are. An upper bound: an aggregate that had to leave early is not full.
    """
    if unit is BilledUnit.YANDEX_PUT or not sent.classes:
        return None
    is_on_demand = unit is BilledUnit.ON_DEMAND
    unit_kib = sent.units.on_demand_kib if is_on_demand else sent.units.put_payload_kib
    room = aggregate_bytes_max - AGGREGATE_OVERHEAD_BYTES - RECORD_OVERHEAD_BYTES_MAX
    alone = {kib: count for kib, count in sent.classes.items() if kib * KIB > room}
    alone_bytes = sum(kib * count for kib, count in alone.items()) * KIB
    joined_count = sent.classes.total() - sum(alone.values())
    if not joined_count:
        return 0.0
    overhead_bytes = joined_count * RECORD_OVERHEAD_BYTES_MAX
    joined_bytes = max(joined_count, sent.byte_count - alone_bytes) + overhead_bytes
    aggregates, rest = divmod(joined_bytes, room)
    billed = sum(count * units_of(kib, unit_kib) for kib, count in sent.classes.items())
    would_be = (
        sum(count * units_of(kib, unit_kib) for kib, count in alone.items())
        + aggregates * _units(aggregate_bytes_max, unit_kib)
        + (_units(rest + AGGREGATE_OVERHEAD_BYTES, unit_kib) if rest else 0)
    )
    return max(0.0, 1 - would_be / billed)


def _largest(frame: Frame) -> int:
    """The size of the frame's largest record, worked out once and kept for the frame's other
    runs.
    """
    if not frame.size_max:
        frame.size_max = max(frame.sizes)
    return frame.size_max


def _units(byte_count: int, unit_kib: int) -> int:
    return -(-byte_count // (unit_kib * KIB))


def _size(record: Record) -> int:
    return len(record.data) + len(record.partition_key.encode())
