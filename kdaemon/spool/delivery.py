"""From the disk to the engines: hands frames over in order, reads back what did not fit, settles.

Sits between `spool.py` (commits) and the engines. Queues: none of its own; a frame is in an engine,
or on disk. Invariants: the frames of a stream reach its engine in the order of their ids; a frame's
row is deleted only when each of its records is delivered or is buried in the same transaction.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import DeadReason, DropReason, StreamCounters
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Clock
from kdaemon.http.turns import Later
from kdaemon.spool.backlog import Backlog
from kdaemon.spool.codec import CorruptFrame, encode_settled, settled_indices
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.owed import Owed
from kdaemon.spool.room import Room, Share
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.store import Dropped, ReadBack, Store, StoredFrame

log = logging.getLogger("kdaemon.spool")

PROGRESS_INTERVAL_S = 0.25  # how often partly delivered frames are noted, while there are any held
PROGRESS_A_TURN = 5_000  # held frames, and records of noted ones, a turn of the loop: 1 ms. Ours
READ_AGAIN_S = 1.0  # how long a lane waits for room, or for a disk that failed, at most
MS = 1_000_000  # nanoseconds in a millisecond

TURN_RECORDS = 800
"""Records that one stream hands over in a turn of the loop, a frame counted as FRAME_RECORDS of
them: reviving and routing them takes 1 to 1.5 ms, and other streams wait for their turn. Ours,
2026-11-28."""

FRAME_RECORDS = 8


class WallClock(Clock, Protocol):
    """Monotonic time, and the time of day for what is kept on disk."""

    def wall_seconds(self) -> float: ...


class Target(Protocol):
    """A stream that is stored for and delivered to (`streams.py`)."""

    @property
    def name(self) -> str: ...

    @property
    def counters(self) -> StreamCounters: ...

    @property
    def drops_oldest(self) -> bool:
        """Whether a full spool makes room by dropping what has waited longest."""
        ...

    def submit_spooled(self, frame: Frame) -> bool:
        """Takes a frame that stands in the spool; False if there is no room for it."""
        ...

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Calls back once when something has settled and there may be room."""
        ...


@dataclass(slots=True, eq=False)
class Held:
    """A frame that its engine has. `positions[i]`: which record of the row its record i is.
    `noted`: how many of its records were settled when that was last noted on disk.
    """

    frame_id: int
    lane: "Lane"
    frame: Frame
    accepted_ms: int
    record_count: int  # of the row
    row_bytes: int
    positions: list[int] | range
    noted: int = 0


@dataclass(slots=True, eq=False)
class Lane:
    """One stream's frames between disk and engine. `share`: what these have of the memory. `ahead`:
    read, and not handed over yet; bound: one read. `in_hand`: frames that wait for their commit, or
    that its engine has. `stored_bytes`: of its rows, about.
    """

    target: Target
    share: Share
    backlog: Backlog = field(default_factory=Backlog)
    ahead: deque[StoredFrame] = field(default_factory=deque)
    in_hand: int = 0
    stored_bytes: int = 0
    is_reading: bool = False
    is_waiting_for_room: bool = False
    is_turn_due: bool = False  # the rest of `ahead` in the next turn
    is_called_back: bool = False  # when something settles; asked for once at a time
    timer: asyncio.TimerHandle | None = None  # the end of a wait


class Delivery:
    """All lanes. Every method is sync, in the loop; reads run in the store's thread."""

    def __init__(
        self,
        store: Store,
        thread: Executor,
        loop: asyncio.AbstractEventLoop,
        clock: WallClock,
        owed: Owed,
        memory: ByteBudget,
        later: Later,
    ) -> None:
        """`later`: has what takes more than a turn of the loop go on in another one."""
        self._later = later
        self._progress_timer: asyncio.TimerHandle | None = None
        self._store = store
        self._thread = thread
        self._loop = loop
        self._clock = clock
        self._owed = owed
        self._room = Room(memory)
        self._held: dict[int, Held] = {}
        self._lanes: dict[str, Lane] = {}
        self.frame_count = 0  # on disk, of streams that are taken
        self.unlisted_bytes = (
            0  # of the rows of streams that are not listed, and of those not taken
        )
        self.corrupt_rows = 0
        self.is_stopped = False

    def lane(self, target: Target, *, is_listed: bool) -> Lane:
        """The stream's lane; one with nothing on disk if it is new."""
        lane = self._lanes.get(target.name)
        if lane is None:
            lane = self._lanes[target.name] = Lane(target, Share(is_listed))
        elif lane.target is not target:  # it was closed while idle, and opened again
            lane.target = target
            lane.is_called_back = False  # who was asked is gone
        if lane.share.is_listed is not is_listed:
            self.unlisted_bytes += -lane.stored_bytes if is_listed else lane.stored_bytes
            self._room.move(lane.share, is_listed=is_listed)
        return lane

    def find(self, target: Target) -> Lane | None:
        """The stream's lane; None if nothing of it stands here. Makes none."""
        return self._lanes.get(target.name)

    def add(self, lane: Lane, frame_count: int, byte_count: int) -> None:
        """Rows come (or go: less than 0), and frames in hand. A lane with nothing is forgotten."""
        lane.in_hand += frame_count
        byte_count = max(byte_count, -lane.stored_bytes)  # what was found at start is an estimate
        lane.stored_bytes += byte_count
        if not lane.share.is_listed:
            self.unlisted_bytes += byte_count
        if frame_count <= 0:
            self._forget_if_empty(lane)

    def _forget_if_empty(self, lane: Lane) -> None:
        if lane.in_hand or lane.ahead or lane.is_reading or not lane.backlog.is_empty:
            return
        if self._lanes.get(lane.target.name) is lane:
            del self._lanes[lane.target.name]
            if lane.timer is not None:
                lane.timer.cancel()
            if not lane.share.is_listed:
                self.unlisted_bytes -= lane.stored_bytes  # of rows that were found damaged
                lane.stored_bytes = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock.wall_seconds() * 1000)

    @property
    def held_records(self) -> int:
        """Records that an engine has and the disk too: safe, whatever becomes of the process."""
        return sum(held.frame.unsettled for held in self._held.values())

    @property
    def oldest_ms(self) -> int:
        """When the frame that an engine has had longest was accepted; 0: none has one."""
        for held in self._held.values():
            return held.accepted_ms
        return 0

    def offer(self, lane: Lane, frame_id: int, frame: Frame, row_bytes: int) -> None:
        """A frame was committed: it goes to the engine, if nothing older waits on disk, and nothing
        is being dropped: that may be this very frame.
        """
        self.frame_count += 1
        own = make_frame(frame.records, frame.sizes, Acknowledge.STORED, None, None, frame.client)
        own.accepted_ns = frame.accepted_ns
        count = len(frame.records)
        held = Held(frame_id, lane, own, self.now_ms(), count, row_bytes, range(count))
        is_taken = (
            lane.backlog.is_empty
            and frame_id > lane.backlog.read_until  # else it was dropped before it was told
            and not lane.is_reading
            and self._room.has(lane.share, own.held_bytes)
            and self._hand_over(held)
        )
        lane.backlog.committed(frame_id, is_taken=is_taken)
        self.add(lane, -1, 0)  # it waits for its commit no longer
        self.read_on(lane)

    def read_on(self, lane: Lane) -> None:
        """Hands over what was read ahead, then reads more of a stream's backlog, unless it is read
        already or there is no room.
        """
        if lane.is_reading or lane.is_waiting_for_room or lane.is_turn_due or self.is_stopped:
            return
        record_count = 0
        while lane.ahead:
            if record_count > TURN_RECORDS:
                lane.is_turn_due = True
                self._later(partial(self._next_turn, lane))
                return
            stored = lane.ahead[0]
            # It is the engine's from here on, or ours still.
            self._room.give_ahead(lane.share, stored.held_bytes)
            if not self._hand_over(self._revive(lane, stored)):
                self._room.take_back(lane.share, stored.held_bytes)
                self._wait_for_room(lane)
                return
            lane.ahead.popleft()
            lane.backlog.read(stored.id)
            record_count += len(stored.records) + FRAME_RECORDS
        if lane.backlog.is_empty:
            return
        byte_count = self._room.take_ahead(lane.share)
        if not byte_count:
            self._wait_for_room(lane)
            return
        lane.is_reading = True
        after_id, until_id = lane.backlog.read_until, lane.backlog.last_id
        read = self._loop.run_in_executor(
            self._thread, self._store.read, lane.target.name, after_id, byte_count
        )
        read.add_done_callback(partial(self._was_read, lane, until_id))

    def _next_turn(self, lane: Lane) -> None:
        lane.is_turn_due = False
        self.read_on(lane)
        self._forget_if_empty(lane)

    def note_progress(self) -> None:
        """Notes what is delivered of unfinished frames, so that a crash sends only the rest."""
        for held in self._held.values():
            self._note(held)

    def _begin_noting(self) -> None:
        self._progress_timer = None
        self._note_some(deque(self._held.values()))

    def _note_some(self, looked_at: deque[Held]) -> None:
        """A part of them in this turn of the loop; the next look at all begins after the last."""
        if self.is_stopped:
            return
        pieces = 0
        while looked_at and pieces < PROGRESS_A_TURN:
            held = looked_at.popleft()
            pieces += 1
            if held.frame_id in self._held and self._note(held):
                pieces += held.record_count
        if looked_at:
            self._later(partial(self._note_some, looked_at))
        else:
            self._expect_progress()

    def _expect_progress(self) -> None:
        """While nothing is held, nothing is looked at."""
        if self._held and self._progress_timer is None and not self.is_stopped:
            timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._begin_noting)
            self._progress_timer = timer

    def _note(self, held: Held) -> bool:
        """False: there is nothing new of it."""
        frame = held.frame
        settled_count = len(frame.records) - frame.unsettled
        if settled_count <= held.noted:
            return False
        held.noted = settled_count
        # Dead ones stay open: their letters are written when the frame settles, not before.
        still_open = {
            held.positions[index]
            for index, result in enumerate(frame.results)
            if result is None or not result.is_delivered
        }
        settled = [i for i in range(held.record_count) if i not in still_open]
        self._owed.note(held.frame_id, encode_settled(settled, held.record_count))
        return True

    def drop_oldest(self, lane: Lane, byte_count: int) -> bool:
        """Makes room by what has waited on disk longest; counted, and logged by its reason. False
        if the stream is being read just now: the oldest are then on their way.
        """
        if lane.is_reading:
            return False
        self._let_go(lane)  # the engine has no room for them, and they stand on disk
        lane.is_reading = True  # no read meets rows that are being dropped
        drop = self._loop.run_in_executor(
            self._thread,
            partial(
                self._store.drop_oldest,
                lane.target.name,
                byte_count,
                after_id=lane.backlog.read_until,
            ),
        )
        drop.add_done_callback(partial(self._was_dropped, lane))
        return True

    def _hand_over(self, held: Held) -> bool:
        held.frame.on_settled = partial(self._settled, held)
        if not held.lane.target.submit_spooled(held.frame):
            held.frame.on_settled = None  # no cycle holds data
            return False
        self._held[held.frame_id] = held
        if self._progress_timer is None:
            self._expect_progress()
        held.lane.in_hand += 1
        self._room.add(held.lane.share, held.frame.held_bytes)
        settled_count = held.record_count - len(held.positions)
        if settled_count:
            counters = held.lane.target.counters
            counters.spooled -= settled_count
            counters.settled_before += settled_count
        return True

    def _settled(self, held: Held, frame: Frame) -> None:
        """Every record of it is delivered or dead."""
        frame.on_settled = None  # the cycle held -> frame -> held would wait for the collector
        del self._held[held.frame_id]
        self._room.add(held.lane.share, -frame.held_bytes)
        self.frame_count -= 1
        letters = letters_of(held.lane.target.name, frame, held.accepted_ms, self.now_ms())
        self._owed.settle(held.frame_id, letters)
        self.read_on(held.lane)
        self.add(held.lane, -1, -held.row_bytes)

    def _was_read(self, lane: Lane, until_id: int, read: "asyncio.Future[ReadBack]") -> None:
        lane.is_reading = False
        if read.cancelled() or self.is_stopped:
            self._let_go(lane)
            return
        error = read.exception()
        if error is not None:
            log.error("the spool cannot be read", extra={"fields": {"why": str(error)}})
            self._let_go(lane)
            self._wait_for_room(lane)
            return
        back = read.result()
        # Newer ones are committed, and offered in their turn.
        frames = [stored for stored in back.frames if stored.id <= until_id]
        if back.corrupt_count:
            counters = lane.target.counters
            counters.spooled -= back.corrupt_record_count
            counters.dropped[DropReason.CORRUPT] += back.corrupt_record_count
            self.corrupt_rows += back.corrupt_count
            self.frame_count -= back.corrupt_count
            fields = {"stream": lane.target.name, "frames": back.corrupt_count}
            log.error("damaged frames are in quarantine, not delivered", extra={"fields": fields})
        byte_count = sum(stored.held_bytes for stored in frames)
        if not self._room.was_read(lane.share, byte_count):
            self._wait_for_room(lane)
            return
        lane.ahead.extend(frames)
        if not frames:
            lane.backlog.read(until_id if back.is_end else min(until_id, back.last_id))
        lane.is_turn_due = True  # reads of many streams may end in this turn
        self._later(partial(self._next_turn, lane))

    def _let_go(self, lane: Lane) -> None:
        """Keeps nothing of what was read, or was to be: all of it stands on disk."""
        lane.ahead.clear()
        self._room.give_ahead(lane.share, lane.share.ahead_bytes)

    def _wait_for_room(self, lane: Lane) -> None:
        """Until something of this stream settles, or for a while: other streams may hold the memory
        that is missing, or the disk may be in trouble.
        """
        lane.is_waiting_for_room = True
        if not lane.is_called_back:
            lane.is_called_back = True
            lane.target.when_settled(partial(self._something_settled, lane))
        if lane.timer is None:
            lane.timer = self._loop.call_later(READ_AGAIN_S, self._waited, lane)

    def _something_settled(self, lane: Lane) -> None:
        lane.is_called_back = False
        lane.is_waiting_for_room = False
        self.read_on(lane)

    def _waited(self, lane: Lane) -> None:
        lane.timer = None
        lane.is_waiting_for_room = False
        self.read_on(lane)

    def stop(self) -> None:
        """Reads nothing more back: what is on disk is safe there."""
        self.is_stopped = True
        if self._progress_timer is not None:
            self._progress_timer.cancel()
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()

    def _revive(self, lane: Lane, stored: StoredFrame) -> Held:
        """A row as the engine takes it: without the records that are known to be settled."""
        records = stored.records
        positions: list[int] | range = range(len(records))
        if stored.settled is not None:
            try:
                settled = set(settled_indices(stored.settled, len(records)))
            except CorruptFrame:
                settled = set()  # nothing is known: all are sent, some perhaps again
            positions = [index for index in positions if index not in settled]
            records = [records[index] for index in positions]
        sizes = [
            len(record.data) + (len(record.partition_key.encode()) or SPREAD_KEY_BYTES)
            for record in records
        ]
        frame = make_frame(records, sizes, Acknowledge.STORED, None, None)
        age_ns = max(0, self.now_ms() - stored.accepted_ms) * MS
        frame.accepted_ns = self._clock.now_ns() - age_ns
        row_bytes = frame_bytes(stored.byte_count)
        return Held(
            stored.id, lane, frame, stored.accepted_ms, len(stored.records), row_bytes, positions
        )

    def _was_dropped(self, lane: Lane, drop: "asyncio.Future[Dropped]") -> None:
        lane.is_reading = False
        if drop.cancelled():
            return
        # If it failed, the commit that follows meets the same disk, and says so.
        dropped = None if drop.exception() is not None else drop.result()
        if dropped is not None and dropped.record_count:
            counters = lane.target.counters
            counters.spooled -= dropped.record_count
            counters.dropped[DropReason.SPOOL_FULL] += dropped.record_count
            self.frame_count -= dropped.frame_count
            lane.backlog.read(dropped.last_id)
            self.add(lane, 0, -frames_bytes(dropped.frame_count, dropped.byte_count))
            fields = {"stream": lane.target.name, "records": dropped.record_count}
            log.error("the spool is full: the oldest records are dropped", extra={"fields": fields})
        self.read_on(lane)


def frames_bytes(frame_count: int, payload_bytes: int) -> int:
    """What frames take of the disk, of which only the sum is known."""
    return frame_count * frame_bytes(payload_bytes // frame_count) if frame_count else 0


def letters_of(stream: str, frame: Frame, first_ms: int, last_ms: int) -> list[DeadLetter]:
    """The dead records of a settled frame, each with its reason."""
    attempts = frame.attempt_counts or {}
    reasons = frame.history.dead_reasons if frame.history is not None else {}
    letters = []
    for index, (record, result) in enumerate(zip(frame.records, frame.results, strict=True)):
        if result is not None and not result.is_delivered:
            letters.append(
                DeadLetter(
                    stream=stream,
                    partition_key=record.partition_key,
                    explicit_hash_key=record.explicit_hash_key,
                    data=record.data,
                    reason=reasons.get(index, DeadReason.POISON).value,
                    code=result.error_code or "",
                    message=result.error_message or "",
                    attempts=attempts.get(index, 0),
                    first_ms=first_ms,
                    last_ms=last_ms,
                )
            )
    return letters
