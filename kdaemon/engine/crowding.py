"""Which shards' queues are full: a shard that is slower than what comes for it would take the
memory of the others. Part of the engine; pure.
"""

from kdaemon.base.admission import held_bytes
from kdaemon.base.record import RecordResult
from kdaemon.pack.run import Run
from kdaemon.settle.ledger import FrameLedger

CROWDED_PARTS = 2
"""A shard's queue may hold one of so many parts of the memory that is still free: one hot shard
fills a third of a stream's buffer at most, and ten of them five sixths (dynamic thresholds,
Choudhury and Hahne 1998)."""


def crowded(runs: list[Run], ledger: FrameLedger) -> list[Run]:
    """Those of a new frame's runs for whose shard there is no room: none while the ledger is calm
    in CROWDED_PARTS.
    """
    room = ledger.free_bytes() // CROWDED_PARTS
    return [
        run
        for run in runs
        if held_bytes(run.lane.backlog_records, run.lane.backlog_bytes)
        + held_bytes(len(run.indices), run.byte_count)
        > room
    ]


def shard_full(run: Run) -> RecordResult:
    """What the client is told of each record of such a run."""
    where = f"shard {run.lane.shard_id}" if run.lane.shard_id else "this stream"
    return RecordResult(
        error_code="ProvisionedThroughputExceededException",
        error_message=f"kdaemon's queue for {where} is full: more comes than it takes. Try again"
        " later; records for other shards are taken.",
    )
