"""Whose records are refused because too many of their records wait.

A shard that is slower than its input would take the memory of the other shards; a client that sends
more than its shard takes would take the room of the other clients. Knows runs, lanes, their pace
and the ledger's free memory; nothing of calls. Part of the engine; pure.
Invariant: a client with little waiting is not refused because of the records of others. Where it
sits: the engine asks for each new frame, after the frame is routed and before it is taken.
"""

from kdaemon.base.admission import RECORD_FOOTPRINT_BYTES, footprint_bytes
from kdaemon.base.limits import MIB
from kdaemon.base.record import RecordResult
from kdaemon.pace.bucket import NS_PER_SECOND
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.settle.ledger import FrameLedger

CROWDED_PARTS = 2
"""The queue of one shard may have the memory that is still free, divided by this: one hot shard
fills at most a third of a stream's buffer, and ten of them five sixths (dynamic thresholds,
Choudhury and Hahne 1998)."""

QUEUE_NS_MAX = 30_000_000_000
"""30 s of a shard's pace: the most that a client may have queued for the shard; less if the client
waits for less time. Ours, 2026-11-28."""

LONG_RECORDS = 2_000
LONG_BYTES = 2 * MIB
"""A shorter queue is never too long: two seconds of a shard's quota, so that a shard whose share is
still growing takes a burst. Ours, 2026-11-28."""


LONG_HELD_BYTES = min(LONG_BYTES, LONG_RECORDS * RECORD_FOOTPRINT_BYTES)
"""Bytes of memory: a stream that holds less than this has no long queue."""


def has_long_queue(runs: list[Run]) -> bool:
    """Whether more than a burst waits for one of the runs' shards: mostly not."""
    for run in runs:
        lane = run.lane
        if (
            lane.queued_bytes + lane.waiting_bytes > LONG_BYTES
            or lane.queued_records + lane.waiting_records > LONG_RECORDS
        ):
            return True
    return False


def crowded(runs: list[Run], ledger: FrameLedger) -> set[Run]:
    """The runs of a new frame for whose shard there is no room: none while the ledger is calm in
    CROWDED_PARTS, and none of a client that has less there than the other clients.
    """
    room = ledger.free_bytes() // CROWDED_PARTS
    return {run for run in runs if _backlog(run) > room and not _has_less(run)}


def _backlog(run: Run) -> int:
    """The memory of all records that wait for the run's shard, with the run."""
    lane = run.lane
    return footprint_bytes(
        lane.backlog_records + len(run.indices), lane.backlog_bytes + run.byte_count
    )


def _has_less(run: Run) -> bool:
    """Whether the run's client, with this run, has less of its shard's queue than the other
    clients.
    """
    lane = run.lane
    records, byte_count = lane.part_of(run.frame.client)
    part = footprint_bytes(records + len(run.indices), byte_count + run.byte_count)
    return part * (lane.client_count + 1) < _backlog(run)


def overdue(runs: list[Run], packer: Packer, now_ns: int) -> set[Run]:
    """The runs of a new frame whose client has more queued for their shard than the shard takes in
    QUEUE_NS_MAX, or before the client's deadline.
    """
    is_joined = packer.aggregate_bytes_max > 0  # a shard does not count records in aggregates
    deadline_ns = runs[0].frame.deadline_ns
    patience_ns = QUEUE_NS_MAX
    if deadline_ns is not None:
        patience_ns = min(patience_ns, deadline_ns - now_ns)
    over: set[Run] = set()
    for run in runs:
        client = run.frame.client
        if not client:
            continue  # there is no client that could be asked to wait
        records, byte_count = run.lane.part_of(client)
        records += len(run.indices)
        byte_count += run.byte_count
        records_per_second, bytes_per_second = _ceilings(run, packer)
        bytes_max = max(LONG_BYTES, bytes_per_second * patience_ns // NS_PER_SECOND)
        records_max = max(LONG_RECORDS, records_per_second * patience_ns // NS_PER_SECOND)
        if byte_count > bytes_max or (records > records_max and not is_joined):
            over.add(run)
    return over


def _ceilings(run: Run, packer: Packer) -> tuple[int, int]:
    """The most records and bytes a second that may leave the run's lane; all shards together take
    what a keyless run has.
    """
    is_keyless = run.lane is packer.keyless_lane
    lane, shard_count = (packer.lanes[0], len(packer.lanes)) if is_keyless else (run.lane, 1)
    records, byte_count = lane.budget.quotas
    return records.ceiling * shard_count, byte_count.ceiling * shard_count


def shard_full(run: Run) -> RecordResult:
    """The result that the client is told for each record of such a run."""
    where = f"shard {run.lane.shard_id}" if run.lane.shard_id else "this stream"
    return RecordResult(
        error_code="ProvisionedThroughputExceededException",
        error_message=f"kdaemon's queue for {where} is full: more comes than it takes. Try again"
        " later; records for other shards are taken.",
    )
