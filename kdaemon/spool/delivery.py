"""From the disk to the engines: committed frames go on in order, and frames for which there was no
room are read back.

Decides which frames of a stream are next: a frame just committed, the records that were left behind
for a shard that has room again (`left.py`), or the next frames of the backlog. Counts the frames
that turn out to be damaged, dropped, or settled before. Knows streams, rows and the memory; no
client and no SQL.
Queues: none of its own; a record is in an engine, or on disk.
Invariants: the records of a stream for one shard reach its engine in the order of their frames'
ids; a frame's row is deleted only when each of its records is delivered or buried, in the
transaction of the deletion or in an earlier one that noted it.
Where it sits: between `spool.py` (commits) and the engines, to which `passing_on.py` hands frames
over.
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
from kdaemon.spool.owed import DONE, Owed
from kdaemon.spool.passing_on import PassingOn
from kdaemon.spool.progress import Progress
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.spooled_stream import Scan, SpooledStream, WallClock, unix_ms
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.store import Store
from kdaemon.spool.values import Dropped, ReadBack, StoredFrame

log = logging.getLogger("kdaemon.spool")

READ_AGAIN_S = 1.0  # at most, that a stream waits for room, or for a disk that failed
MS = 1_000_000  # nanoseconds in a millisecond

TURN_RECORDS = 800
"""Records that one stream hands over in a turn of the loop; each frame counts as FRAME_RECORDS
more. Reviving and routing so many takes 1 to 1.5 ms, and other streams wait for their turn. Ours,
2026-11-28."""

FRAME_RECORDS = 8

AGAIN_PARTS = 4
"""Records that were left are read in one of so many parts of a whole read, because only a part of
the records read is for the shards that are low. Ours, 2026-11-28."""

# After a read of which fewer than one of so many parts of the records were handed over, the stream
# pauses. The pause doubles each time, up to the maximum: then passing over 20 MiB/s takes a
# twentieth of a core. Ours, 2026-11-28.
FRUIT_PARTS = 16
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 0.2


class Delivery:
    """For all streams. Every method is sync and runs in the loop; reads run in the store's
    thread.
    """

    def __init__(
        self,
        thread: Executor,
        clock: WallClock,
        owed: Owed,
        streams: SpooledStreams,
        later: Later,
    ) -> None:
        """`later`: makes work that takes more than a turn of the loop go on in another turn."""
        self._later = later
        self._store: Store
        self._store_thread = thread
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._owed = owed
        self._streams = streams
        self._room = streams.room
        self._held = Held(owed)
        self._progress = Progress(self._held, later)
        self._passing_on = PassingOn(streams, self._held, clock, self._progress, self.read_on)
        self.is_stopped = False

    def open(self, store: Store) -> None:
        """Frames are read back from this store from now on."""
        self._store = store

    @property
    def held_records(self) -> int:
        """Records that are in an engine and on disk: safe, whatever becomes of the process."""
        return self._held.record_count

    @property
    def oldest_ms(self) -> int:
        """When the older of two frames was accepted: the one that an engine has had longest, and
        the one that has been left behind longest; 0: there is neither.
        """
        times = [row.accepted_ms for row in islice(self._held.rows.values(), 1)]
        oldest_left_ms = self._streams.oldest_left_ms
        if oldest_left_ms is not None:
            times.append(oldest_left_ms)
        return min(times, default=0)

    def offer(self, spooled: SpooledStream, frame_id: int, frame: Frame, row_bytes: int) -> None:
        """A frame was committed. It goes to the engine, if no older frame waits on disk and no
        frames of its stream are being dropped, for this frame may be one of those. Records that no
        engine takes stay on disk.
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
        self._streams.add(spooled, -1, 0)  # the frame waits for its commit no longer
        self.read_on(spooled)

    def read_on(self, spooled: SpooledStream) -> None:
        """Passes on the frames that were read ahead, then reads more of a stream's backlog, unless
        a read is under way or there is no room.
        """
        if spooled.is_reading or spooled.is_turn_due or self.is_stopped:
            return
        if spooled.is_waiting_for_room or spooled.is_pausing:
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
            self._store_thread,
            self._store.read,
            spooled.target.name,
            scan.at_id,
            byte_count,
            scan.until_id,
        )
        read.add_done_callback(partial(self._was_read, spooled, scan))

    def _pass_on_ahead(self, spooled: SpooledStream) -> bool:
        """Passes on the frames that were read ahead. Returns False if some of them stay, for
        now.
        """
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
            # From here on the engine has this memory, or it is taken back below.
            self._room.give_ahead(spooled.share, stored.footprint_bytes)
            age_ns = max(0, unix_ms(self._clock) - stored.accepted_ms) * MS
            row, part = revived(stored, taken, self._clock.now_ns() - age_ns)
            row = self._held.rows.get(stored.id, row)
            handed_count = self._passing_on.hand_over(spooled, row, part, is_again=scan.is_again)
            if handed_count is None:
                self._room.take_back(spooled.share, stored.footprint_bytes)
                if spooled.share.health is not Health.WELL:
                    self._let_go(spooled)  # others may need the memory; the frames stand on disk
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
        if spooled.scan is not None:  # it was not let go
            spooled.scan = None
            if scan.is_again:
                spooled.left.end(scan.end_id, spooled.position.read_until)
            else:
                spooled.position.read(scan.end_id)
        # Records that were left go little by little: their shard is low, and needs them now.
        parts = scan.record_count if scan.is_again else FRUIT_PARTS
        if scan.handed_count * parts >= scan.record_count:
            spooled.pause_s = 0.0
        else:
            most_s = PAUSE_S_MIN if scan.is_again else PAUSE_S_MAX
            spooled.pause_s = min(max(PAUSE_S_MIN, spooled.pause_s * 2), most_s)
            self._pause(spooled, spooled.pause_s)

    def _next_scan(self, spooled: SpooledStream) -> Scan | None:
        """Which frames to read next: those with records that were left for shards that are low now;
        then those that were not passed on yet, if any shard is low. None: no frames, for now.
        """
        position, left = spooled.position, spooled.left
        if spooled.is_passed_on:
            return None
        free_bytes = self._room.free_bytes(spooled.share)
        low = None
        if not left.is_empty or not spooled.target.is_calm(free_bytes):
            low = spooled.target.low_shards(left.queued, free_bytes)
        after_id = left.first_id if low is None else left.first_id_of(low[0])
        if after_id is not None:
            return Scan(after_id, position.read_until, is_again=True)
        if low is not None and (position.is_read or not low[0]):
            self._pause(spooled, min(max(PAUSE_S_MIN, low[1] / 1e9), READ_AGAIN_S))
            return None
        return Scan(position.read_until, position.last_id, is_again=False)

    def _next_turn(self, spooled: SpooledStream) -> None:
        spooled.is_turn_due = False
        self.read_on(spooled)
        self._streams.forget_if_empty(spooled)

    def _follow_map(self, spooled: SpooledStream) -> None:
        """When the shards change, frames with records that were left are read again before any
        frame behind them: records of one key in both may go to one shard now.
        """
        map_count = spooled.target.map_count
        if spooled.left.map_count != map_count:
            first_id = spooled.left.first_id
            spooled.left.forget(map_count)
            if first_id is not None:
                self._let_go(spooled)
                spooled.position.read_again(first_id)

    def note_progress(self) -> None:
        """Owes the disk the notes of delivered records of unfinished frames."""
        self._progress.note_all()

    def drop_oldest(self, spooled: SpooledStream, byte_count: int) -> bool:
        """Drops the frames that have waited on disk longest, to make room; they are counted, and
        logged with the reason. Returns False if the stream is being read just now: then its oldest
        frames are on their way.
        """
        if spooled.is_reading:
            return False
        self._let_go(spooled)  # the engine has no room for the frames, and they stand on disk
        spooled.is_reading = spooled.is_dropping = True  # no read meets dropped rows
        first_id = spooled.left.first_id
        after_id = spooled.position.read_until if first_id is None else first_id
        # Rows of which an engine has records, or some deliveries are not on disk, are kept.
        kept = self._held.kept() if after_id < spooled.counted_until else ()
        drop = self._loop.run_in_executor(
            self._store_thread,
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
            log.error("the spool cannot be read", extra={"fields": {"error": str(error)}})
            self._let_go(spooled)
            self._wait_for_room(spooled)
            return
        back = read.result()
        self._count_corrupt(spooled, back)
        if spooled.scan is not scan:  # the shards have changed meanwhile
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
        spooled.is_turn_due = True  # many reads may end in this turn
        self._later(partial(self._next_turn, spooled))

    def _taken_of(self, spooled: SpooledStream, stored: StoredFrame) -> int | None:
        """The bits of the records of a row that must not be sent; None: no record is to be sent."""
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
        self._owed.owe(stored.id, DONE)  # its note was written, its deletion was not
        self._streams.frame_count -= 1
        self._streams.add(spooled, 0, -frame_bytes(stored.byte_count))
        return None

    def _count_corrupt(self, spooled: SpooledStream, back: ReadBack) -> None:
        """Counts the damaged rows of a read, which are in quarantine now."""
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
        """Forgets the scan and all frames that were read ahead; they stand on disk."""
        spooled.ahead.clear()
        self._room.give_ahead(spooled.share, spooled.share.ahead_bytes)
        scan, spooled.scan = spooled.scan, None
        if scan is not None and scan.is_again:
            spooled.left.end(scan.at_id, spooled.position.read_until)

    def _wait_for_room(self, spooled: SpooledStream) -> None:
        """Waits until a record of this stream settles, or for READ_AGAIN_S: other streams may have
        the memory that is missing, or the disk may be in trouble.
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
        """Waits until shards are low; or only pauses, so that reads that hand nothing over take no
        core.
        """
        spooled.is_pausing = True
        if spooled.timer is not None:
            spooled.timer.cancel()
        spooled.timer = self._loop.call_later(seconds, self._waited, spooled)

    def _waited(self, spooled: SpooledStream) -> None:
        spooled.timer = None
        spooled.is_waiting_for_room = spooled.is_pausing = False
        self.read_on(spooled)

    def stop(self) -> None:
        """Reads no more frames back: those on disk are safe there."""
        self.is_stopped = True
        self._progress.stop()
        self._streams.stop()

    def _was_dropped(self, spooled: SpooledStream, drop: "asyncio.Future[Dropped]") -> None:
        spooled.is_reading = spooled.is_dropping = False
        if drop.cancelled():
            return
        # If the drop failed, the next commit meets the same disk, and tells the failure.
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
