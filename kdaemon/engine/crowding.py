"""Whose records are refused because too much of theirs waits: a shard that is slower than what
comes for it would take the memory of the others, and a client that sends more than its shard takes
the room of the other clients. Part of the engine; pure.

Invariant: who has little waiting is not refused for what others have. Where it sits: the engine
asks for each new frame, after it is routed and before it is taken.
"""

from kdaemon.base.admission import RECORD_FOOTPRINT_BYTES, footprint_bytes
from kdaemon.base.limits import MIB
from kdaemon.base.record import RecordResult
from kdaemon.pace.bucket import NS_PER_SECOND
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.settle.ledger import FrameLedger

CROWDED_PARTS = 2
"""A shard's queue may hold one of so many parts of the memory that is still free: one hot shard
fills a third of a stream's buffer at most, and ten of them five sixths (dynamic thresholds,
Choudhury and Hahne 1998)."""

QUEUE_NS_MAX = 30_000_000_000
"""30 s of what a shard may take: so much a client may have queued for it, unless it waits for less
long. Ours, 2026-11-28."""

LONG_RECORDS = 2_000
LONG_BYTES = 2 * MIB
"""A queue that is shorter is nobody's too long: two seconds of a shard's quota, so that a shard
whose share is still growing takes a burst. Ours, 2026-11-28."""


LONG_HELD_BYTES = min(LONG_BYTES, LONG_RECORDS * RECORD_FOOTPRINT_BYTES)
"""Bytes of memory: who holds less than that has no long queue."""


def has_long_queue(runs: list[Run]) -> bool:
    """Whether more than a burst waits for one of the shards: most often not."""
    for run in runs:
        lane = run.lane
        if (
            lane.queued_bytes + lane.waiting_bytes > LONG_BYTES
            or lane.queued_records + lane.waiting_records > LONG_RECORDS
        ):
            return True
    return False


def crowded(runs: list[Run], ledger: FrameLedger) -> set[Run]:
    """Those of a new frame's runs for whose shard there is no room: none while the ledger is calm
    in CROWDED_PARTS, and none of a client that has less than the others there.
    """
    room = ledger.free_bytes() // CROWDED_PARTS
    return {run for run in runs if _backlog(run) > room and not _has_less(run)}


def _backlog(run: Run) -> int:
    """Memory of what waits for the run's shard, with the run."""
    lane = run.lane
    return footprint_bytes(
        lane.backlog_records + len(run.indices), lane.backlog_bytes + run.byte_count
    )


def _has_less(run: Run) -> bool:
    """Whether the run's client, with this run, has less than others have of its shard's queue."""
    lane = run.lane
    records, byte_count = lane.part_of(run.frame.client)
    part = footprint_bytes(records + len(run.indices), byte_count + run.byte_count)
    return part * (lane.client_count + 1) < _backlog(run)


def overdue(runs: list[Run], packer: Packer, now_ns: int, *, is_joined: bool) -> set[Run]:
    """Those of a new frame's runs whose client has more queued for their shard than it takes in
    QUEUE_NS_MAX, or before the client's deadline. `is_joined`: into aggregates, where a shard does
    not count records.
    """
    deadline_ns = runs[0].frame.deadline_ns
    patience_ns = QUEUE_NS_MAX
    if deadline_ns is not None:
        patience_ns = min(patience_ns, deadline_ns - now_ns)
    over: set[Run] = set()
    for run in runs:
        client = run.frame.client
        if not client:
            continue  # nobody who could be asked to wait
        records, byte_count = run.lane.part_of(client)
        records += len(run.indices)
        byte_count += run.byte_count
        records_per_second, bytes_per_second = packer.pace_of(run.lane)
        bytes_max = max(LONG_BYTES, bytes_per_second * patience_ns // NS_PER_SECOND)
        records_max = max(LONG_RECORDS, records_per_second * patience_ns // NS_PER_SECOND)
        if byte_count > bytes_max or (records > records_max and not is_joined):
            over.add(run)
    return over


def shard_full(run: Run) -> RecordResult:
    """What the client is told of each record of such a run."""
    where = f"shard {run.lane.shard_id}" if run.lane.shard_id else "this stream"
    return RecordResult(
        error_code="ProvisionedThroughputExceededException",
        error_message=f"kdaemon's queue for {where} is full: more comes than it takes. Try again"
        " later; records for other shards are taken.",
    )
