"""Frames from their admission until their clients are told what became of them.

A `Pending` waits for its commit (`commit_queue.py` says which frames are next). When the commit has
returned or failed, the client is told, TOLD_A_TURN records in a turn of the loop. Knows the spooled
streams and the memory; no disk and no commit.
Invariants: a client is told exactly once, in the order of the disk; when it is told, or could not
be told, the memory of its frame is given back, and a stored frame is offered to its engine.
Bound: the memory budget.
Where it sits: `commits.py` says how each commit ended; `delivery.py` is offered the stored frames.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.http.turns import Later
from kdaemon.spool.spooled_stream import SpooledStream
from kdaemon.spool.spooled_streams import SpooledStreams

log = logging.getLogger("kdaemon.spool")

TOLD_A_TURN = 4_000
"""Records whose clients are told in a turn of the loop; each frame counts as FRAME_RECORDS more. To
tell one client and hand its frame over takes 20 us, and 0.5 us for each record. Ours,
2026-11-28."""

FRAME_RECORDS = 40

STORED = RecordResult(sequence_number="stored", shard_id="stored")
"""The result that a client gets for a stored record: true, and not to be taken for the
service's."""


@dataclass(slots=True, eq=False)
class Pending:
    """A frame that waits for its commit. The frame's callback answers the client.
    `footprint_bytes`: the memory of its records and of its payload. `row_bytes`: its row on disk.
    """

    spooled: SpooledStream
    frame: Frame
    payload: bytes
    footprint_bytes: int
    row_bytes: int
    frame_id: int = 0  # given when a commit takes it, so that ids grow in the order of the disk

    @property
    def stream(self) -> str:
        return self.spooled.target.name

    @property
    def client(self) -> int:
        return self.frame.client

    @property
    def payload_bytes(self) -> int:
        return len(self.payload)


class Ended:
    """The frames whose commit has ended, and whose clients are still to be told. `offer`: takes a
    stored frame on, as `Delivery.offer`; set before the first commit.
    """

    __slots__ = ("_is_turn_due", "_later", "_memory", "_streams", "_waiting", "offer")

    def __init__(
        self,
        streams: SpooledStreams,
        memory: ByteBudget,
        later: Later,
    ) -> None:
        """`later`: makes the rest go on in another turn of the loop."""
        self.offer: Callable[[SpooledStream, int, Frame, int], object]
        self._streams = streams
        self._memory = memory
        self._later = later
        # Each with its refusal; None: it is stored.
        self._waiting: deque[tuple[Pending, RecordResult | None]] = deque()
        self._is_turn_due = False  # to tell the rest

    def __bool__(self) -> bool:
        """Whether some clients are not told yet."""
        return bool(self._waiting)

    def add(self, batch: Iterable[Pending], refusal: RecordResult | None) -> None:
        """These frames were stored, or are refused; their clients are told, now or in a later
        turn.
        """
        self._waiting.extend((pending, refusal) for pending in batch)
        self._tell()

    def _tell(self) -> None:
        """Tells clients what became of their frames, in order, as many as one turn may."""
        if self._is_turn_due:
            return
        record_count = 0
        while self._waiting and record_count < TOLD_A_TURN:
            pending, refusal = self._waiting.popleft()
            frame, count = pending.frame, len(pending.frame.records)
            record_count += count + FRAME_RECORDS
            row_bytes = pending.row_bytes
            self._memory.give(pending.footprint_bytes)
            frame.results = [refusal or STORED] * count
            if refusal is not None:
                counters = pending.spooled.target.counters
                counters.spooled -= count
                counters.rejected[RefuseReason.SPOOL] += count
            if frame.on_settled is not None:
                try:
                    frame.on_settled(frame)
                except Exception:  # what is stored must go on, and others get their answers
                    log.exception("a client could not be told of its frame: a defect of kdaemon")
            if refusal is not None:
                self._streams.add(pending.spooled, -1, -row_bytes)
            else:
                self.offer(pending.spooled, pending.frame_id, frame, row_bytes)
        if self._waiting:
            self._is_turn_due = True
            self._later(self._tell_on)

    def _tell_on(self) -> None:
        self._is_turn_due = False
        self._tell()
