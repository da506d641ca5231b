"""From the disk to the engines: what is committed goes on in order, what did not fit is read back.

Sits between `spool.py` (commits) and the engines, to which `passing_on.py` hands frames over. Says
what of a stream is next: a frame just committed, what was left behind for a shard that has room
again (`left.py`), or the next of the backlog; and counts what of it turns out to be damaged,
dropped, or settled before. Queues: none of its own; a record is in an engine, or on disk.
Invariants: the records of a stream for one shard reach its engine in the order of their frames'
ids; a frame's row is deleted only when each of its records is delivered or is buried, in that
transaction or with a note of it in an earlier one.
"""

import asyncio
import logging
from concurrent.futures import Executor
from functools import partial
from itertools import islice

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import DropReason
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.engine.health import Health
from kdaemon.http.turns import Later
from kdaemon.spool.codec import settled_bits
from kdaemon.spool.held import Held, Part, Row, frames_bytes, revived
from kdaemon.spool.owed import Owed
from kdaemon.spool.passing_on import PassingOn
from kdaemon.spool.progress import Progress
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.spooled_stream import Scan, SpooledStream, WallClock, unix_ms
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.store import Dropped, ReadBack, Store, StoredFrame

log = logging.getLogger("kdaemon.spool")

READ_AGAIN_S = 1.0  # how long a stream waits for room, or for a disk that failed, at most
MS = 1_000_000  # nanoseconds in a millisecond

TURN_RECORDS = 800
"""Records that one stream hands over in a turn of the loop, a frame counted as FRAME_RECORDS of
them: reviving and routing them takes 1 to 1.5 ms, and other streams wait for their turn. Ours,
2026-11-28."""

FRAME_RECORDS = 8

AGAIN_PARTS = 4
"""What was left is read in one of so many parts of a read: of what is read, a part only is for the
shards that are low. Ours, 2026-11-28."""

FRUIT_PARTS = 16  # a read of which fewer than one of so many parts of the records go is followed by
PAUSE_S_MIN = 0.05  # a pause, which doubles each time,
PAUSE_S_MAX = 0.2  # up to this: passing over 20 MiB/s takes a twentieth of a core. Ours, 2026-11-28


class Delivery:
    """Of all streams. Every method is sync, in the loop; reads run in the store's thread."""

    def __init__(
        self,
        store: Store,
        thread: Executor,
        clock: WallClock,
        owed: Owed,
        streams: SpooledStreams,
        later: Later,
    ) -> None:
        """`later`: has what takes more than a turn of the loop go on in another one."""
        self._later = later
        self._store = store
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._owed = owed
        self._streams = streams
        self._room = streams.room
        self._held = Held(owed)
        self._progress = Progress(self._held, later)
        self._passing_on = PassingOn(streams, self._held, clock, self._progress, self.read_on)
        self.is_stopped = False

    @property
    def held_records(self) -> int:
        """Records that an engine has and the disk too: safe, whatever becomes of the process."""
        return self._held.record_count

    @property
    def oldest_ms(self) -> int:
        """When the frame was accepted that an engine has had longest, or that has been left behind
        longest; 0: there is none.
        """
        times = [row.accepted_ms for row in islice(self._held.rows.values(), 1)]
        oldest_left_ms = self._streams.oldest_left_ms
        if oldest_left_ms is not None:
            times.append(oldest_left_ms)
        return min(times, default=0)

    def offer(self, spooled: SpooledStream, frame_id: int, frame: Frame, row_bytes: int) -> None:
        """A frame was committed: it goes to the engine, if nothing older waits on disk, and nothing
        is being dropped: that may be this very frame. What is left of it stands on disk.
        """
        self._streams.frame_count += 1
        own = make_frame(frame.records, frame.sizes, Acknowledge.STORED, None, None, frame.client)
        own.accepted_ns = frame.accepted_ns
        count = len(frame.records)
        spooled.share.health = spooled.target.health
        self._follow_map(spooled)
        is_passed = (
            spooled.position.is_read
            and frame_id > spooled.position.read_until  # else it was dropped before it was told
            and not spooled.is_dropping
            and self._room.has(spooled.share, own.footprint_bytes)
            and self._passing_on.hand_over(
                spooled,
                Row(frame_id, unix_ms(self._clock), count, row_bytes, count),
                Part(own, range(count)),
                is_again=False,
            )
            is not None
        )
        if is_passed:
            spooled.counted_until = frame_id
        spooled.position.committed(frame_id, is_passed=is_passed)
        self._streams.add(spooled, -1, 0)  # it waits for its commit no longer
        self.read_on(spooled)

    def read_on(self, spooled: SpooledStream) -> None:
        """Passes on what was read ahead, then reads more of a stream's backlog, unless it is read
        already or there is no room.
        """
        if (
            spooled.is_reading
            or spooled.is_waiting_for_room
            or spooled.is_turn_due
            or self.is_stopped
        ):
            return
        if spooled.is_pausing:
            return
        spooled.share.health = spooled.target.health
        self._follow_map(spooled)
        if not self._pass_on_ahead(spooled):
            return
        scan = self._next_scan(spooled)
        if scan is None:
            return
        byte_count = self._room.take_ahead(spooled.share, AGAIN_PARTS if scan.is_again else 1)
        if not byte_count:
            self._wait_for_room(spooled)
            return
        if scan.is_again:
            spooled.left.begin(scan.at_id)
        spooled.scan = scan
        spooled.is_reading = True
        read = self._loop.run_in_executor(
            self._thread,
            self._store.read,
            spooled.target.name,
            scan.at_id,
            byte_count,
            scan.until_id,
        )
        read.add_done_callback(partial(self._was_read, spooled, scan))

    def _pass_on_ahead(self, spooled: SpooledStream) -> bool:
        """False: not all of it was, for now."""
        scan = spooled.scan
        if scan is None:
            return True
        record_count = 0
        while spooled.ahead:
            if record_count > TURN_RECORDS:
                spooled.is_turn_due = True
                self._later(partial(self._next_turn, spooled))
                return False
            if scan.is_again and spooled.left.is_all_left:
                self._let_go(spooled)
                break
            stored, taken = spooled.ahead[0]
            # It is the engine's from here on, or ours still.
            self._room.give_ahead(spooled.share, stored.footprint_bytes)
            row, part = revived(stored, taken, self._accepted_ns(stored))
            row = self._held.rows.get(stored.id, row)
            handed_count = self._passing_on.hand_over(spooled, row, part, is_again=scan.is_again)
            if handed_count is None:
                self._room.take_back(spooled.share, stored.footprint_bytes)
                if spooled.share.health is not Health.WELL:
                    self._let_go(spooled)  # others may need the memory, and it stands on disk
                self._wait_for_room(spooled)
                return False
            spooled.ahead.popleft()
            scan.handed_count += handed_count
            scan.at_id = stored.id
            if not scan.is_again:
                spooled.position.read(stored.id)
            record_count += len(stored.records) + FRAME_RECORDS
        self._end_scan(spooled, scan)
        return not spooled.is_pausing

    def _end_scan(self, spooled: SpooledStream, scan: Scan) -> None:
        if spooled.scan is not None:  # not let go
            spooled.scan = None
            if scan.is_again:
                spooled.left.end(scan.end_id, spooled.position.read_until)
            else:
                spooled.position.read(scan.end_id)
        # What was left is handed over little by little: the shard is low, and needs it now.
        parts = scan.record_count if scan.is_again else FRUIT_PARTS
        if scan.handed_count * parts >= scan.record_count:
            spooled.pause_s = 0.0
        else:
            most_s = PAUSE_S_MIN if scan.is_again else PAUSE_S_MAX
            spooled.pause_s = min(max(PAUSE_S_MIN, spooled.pause_s * 2), most_s)
            self._pause(spooled, spooled.pause_s)

    def _next_scan(self, spooled: SpooledStream) -> Scan | None:
        """What is to be read next: what was left for shards that are low now, then what was not
        passed on yet, if any shard is low. None: nothing, for now.
        """
        backlog, left = spooled.position, spooled.left
        if spooled.is_passed_on:
            return None
        free_bytes = self._room.free_bytes(spooled.share)
        low = None
        if not left.is_empty or not spooled.target.is_calm(free_bytes):
            low = spooled.target.low_shards(left.queued, free_bytes)
        after_id = left.first_id if low is None else left.first_id_of(low[0])
        if after_id is not None:
            return Scan(after_id, backlog.read_until, is_again=True)
        if low is not None and (backlog.is_read or not low[0]):
            self._pause(spooled, min(max(PAUSE_S_MIN, low[1] / 1e9), READ_AGAIN_S))
            return None
        return Scan(backlog.read_until, backlog.last_id, is_again=False)

    def _next_turn(self, spooled: SpooledStream) -> None:
        spooled.is_turn_due = False
        self.read_on(spooled)
        self._streams.forget_if_empty(spooled)

    def _follow_map(self, spooled: SpooledStream) -> None:
        """When the shards change, what was left is read again before anything that stands behind
        it: of some keys, records on both sides may go to one shard now.
        """
        map_count = spooled.target.map_count
        if spooled.left.map_count != map_count:
            first_id = spooled.left.first_id
            spooled.left.forget(map_count)
            if first_id is not None:
                self._let_go(spooled)
                spooled.position.read_again(first_id)

    def note_progress(self) -> None:
        """Notes what is delivered of unfinished frames."""
        self._progress.note_all()

    def drop_oldest(self, spooled: SpooledStream, byte_count: int) -> bool:
        """Makes room by what has waited on disk longest; counted, and logged by its reason. False
        if the stream is being read just now: the oldest are then on their way.
        """
        if spooled.is_reading:
            return False
        self._let_go(spooled)  # the engine has no room for them, and they stand on disk
        spooled.is_reading = spooled.is_dropping = True  # no read meets rows that are being dropped
        first_id = spooled.left.first_id
        after_id = spooled.position.read_until if first_id is None else first_id
        # What an engine has, or what is delivered and the disk does not know of, is not dropped.
        kept = self._held.kept() if after_id < spooled.counted_until else ()
        drop = self._loop.run_in_executor(
            self._thread,
            partial(
                self._store.drop_oldest,
                spooled.target.name,
                byte_count,
                after_id=after_id,
                kept=kept,
            ),
        )
        drop.add_done_callback(partial(self._was_dropped, spooled))
        return True

    def _was_read(
        self, spooled: SpooledStream, scan: Scan, read: "asyncio.Future[ReadBack]"
    ) -> None:
        spooled.is_reading = False
        if read.cancelled() or self.is_stopped:
            self._let_go(spooled)
            return
        error = read.exception()
        if error is not None:
            log.error("the spool cannot be read", extra={"fields": {"why": str(error)}})
            self._let_go(spooled)
            self._wait_for_room(spooled)
            return
        back = read.result()
        self._count_corrupt(spooled, back)
        if spooled.scan is not scan:  # the shards have changed since
            self._let_go(spooled)
            self.read_on(spooled)
            return
        scan.end_id = scan.until_id if back.is_end else back.last_id
        ahead = [
            (stored, taken)
            for stored in back.frames
            if (taken := self._taken_of(spooled, stored)) is not None
        ]
        byte_count = sum(stored.footprint_bytes for stored, _ in ahead)
        if not self._room.was_read(spooled.share, byte_count):
            self._let_go(spooled)
            self._wait_for_room(spooled)
            return
        scan.record_count = sum(len(stored.records) for stored in back.frames)
        spooled.ahead.extend(ahead)
        spooled.is_turn_due = True  # reads of many streams may end in this turn
        self._later(partial(self._next_turn, spooled))

    def _taken_of(self, spooled: SpooledStream, stored: StoredFrame) -> int | None:
        """The bits of what is not to be sent of a row; None: nothing of it is."""
        count = len(stored.records)
        settled = 0 if stored.settled is None else settled_bits(stored.settled, count)
        if stored.id > spooled.counted_until:
            spooled.counted_until = stored.id
            counters, settled_count = spooled.target.counters, settled.bit_count()
            counters.spooled -= settled_count
            counters.recovered_settled += settled_count
        taken = self._held.taken_of(stored.id, settled, count)
        if taken is None or taken.bit_count() < count:
            return taken
        self._owed.settle(stored.id, ())  # the note of it was written, its deletion was not
        self._streams.frame_count -= 1
        self._streams.add(spooled, 0, -frame_bytes(stored.byte_count))
        return None

    def _count_corrupt(self, spooled: SpooledStream, back: ReadBack) -> None:
        """Damaged rows are in quarantine."""
        if not back.corrupt_count:
            return
        spared_frames, spared_records = self._held.spare(back.corrupt, spooled.counted_until)
        record_count = back.corrupt_record_count - spared_records
        counters = spooled.target.counters
        counters.spooled -= record_count
        counters.dropped[DropReason.CORRUPT] += record_count
        self._streams.corrupt_count += back.corrupt_count
        self._streams.frame_count -= back.corrupt_count - spared_frames
        fields = {"stream": spooled.target.name, "frames": back.corrupt_count}
        log.error("damaged frames are in quarantine, not delivered", extra={"fields": fields})

    def _let_go(self, spooled: SpooledStream) -> None:
        """Keeps nothing of what was read, or was to be: all of it stands on disk."""
        spooled.ahead.clear()
        self._room.give_ahead(spooled.share, spooled.share.ahead_bytes)
        scan, spooled.scan = spooled.scan, None
        if scan is not None and scan.is_again:
            spooled.left.end(scan.at_id, spooled.position.read_until)

    def _wait_for_room(self, spooled: SpooledStream) -> None:
        """Until something of this stream settles, or for a while: other streams may hold the memory
        that is missing, or the disk may be in trouble.
        """
        spooled.is_waiting_for_room = True
        if not spooled.is_called_back:
            spooled.is_called_back = True
            spooled.target.when_settled(partial(self._something_settled, spooled))
        if spooled.timer is None:
            spooled.timer = self._loop.call_later(READ_AGAIN_S, self._waited, spooled)

    def _something_settled(self, spooled: SpooledStream) -> None:
        spooled.is_called_back = False
        spooled.is_waiting_for_room = False
        self.read_on(spooled)

    def _pause(self, spooled: SpooledStream, seconds: float) -> None:
        """Until shards are low, or so that a disk of which nothing goes takes no core."""
        spooled.is_pausing = True
        if spooled.timer is not None:
            spooled.timer.cancel()
        spooled.timer = self._loop.call_later(seconds, self._waited, spooled)

    def _waited(self, spooled: SpooledStream) -> None:
        spooled.timer = None
        spooled.is_waiting_for_room = spooled.is_pausing = False
        self.read_on(spooled)

    def stop(self) -> None:
        """Reads nothing more back: what is on disk is safe there."""
        self.is_stopped = True
        self._progress.stop()
        self._streams.stop()

    def _accepted_ns(self, stored: StoredFrame) -> int:
        age_ns = max(0, unix_ms(self._clock) - stored.accepted_ms) * MS
        return self._clock.now_ns() - age_ns

    def _was_dropped(self, spooled: SpooledStream, drop: "asyncio.Future[Dropped]") -> None:
        spooled.is_reading = spooled.is_dropping = False
        if drop.cancelled():
            return
        # If it failed, the commit that follows meets the same disk, and says so.
        dropped = None if drop.exception() is not None else drop.result()
        if dropped is not None and dropped.record_count:
            counters, record_count = spooled.target.counters, dropped.record_count
            for row in dropped.partly_settled:
                record_count -= row.settled_count
                if row.frame_id > spooled.counted_until:
                    counters.spooled -= row.settled_count
                    counters.recovered_settled += row.settled_count
            counters.spooled -= record_count
            counters.dropped[DropReason.SPOOL_FULL] += record_count
            self._streams.frame_count -= dropped.frame_count
            spooled.position.read(dropped.last_id)
            self._streams.add(spooled, 0, -frames_bytes(dropped.frame_count, dropped.byte_count))
            fields = {"stream": spooled.target.name, "records": record_count}
            log.error("the spool is full: the oldest records are dropped", extra={"fields": fields})
        self.read_on(spooled)
