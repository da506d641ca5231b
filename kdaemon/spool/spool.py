"""The disk behind `stored`: a frame is answered when the commit that holds it is on disk.

put -> commit (in a thread; all that gathered meanwhile goes into the next one) -> answer ->
`delivery.py`. Start-up is the ordinary path: what is on disk is read back as room allows. The
disk's own trouble refuses `stored` and nothing else; `trouble` tells it, a probe a second ends it.

Queue: `_pending`, frames that wait for their commit. Bound: the memory budget, and `bytes_max` on
disk; full: `put` says no; drained by commits, which the disk itself paces.
Invariant: a frame is answered exactly once, after its commit returned or failed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kdaemon.base.counters import RejectReason
from kdaemon.base.errors import RejectedRecord, SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.histogram import BATCH_RECORDS_BOUNDS, LATENCY_BOUNDS_NS, Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.spool.backlog import Backlog
from kdaemon.spool.codec import encode_records
from kdaemon.spool.delivery import Delivery
from kdaemon.spool.held import frames_bytes, letters_of
from kdaemon.spool.lane import Lane, Target, WallClock
from kdaemon.spool.owed import Owed
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.store import Changes, Committed, NewFrame, Store

log = logging.getLogger("kdaemon.spool")

COMMIT_BYTES_MAX = 8 * 1024 * 1024  # of payload in one transaction: bounds the wait of the next
SETTLE_DELAY_S = 0.05  # settled frames are deleted by then, or with the next commit
PROGRESS_INTERVAL_S = 0.25  # how often partly delivered frames are noted
PROBE_INTERVAL_S = 1.0  # how often a disk in trouble is tried
CLOCK_JUMP_MS = 60_000  # a clock that is set by less is no news: ages are kept in hours. Ours
LOOK_INTERVAL_S = 5.0  # how often the files are looked after while nothing is committed. Ours
TELL_LETTERS_S = 60  # how often dropped dead letters are logged, at most. Ours
UNLISTED_PARTS = 2  # streams that are not listed have one of so many parts of the disk, together
GIVE_BACK_BYTES = 16 * 1024 * 1024  # free pages that are worth giving back to the file system
GIVE_BACK_PAGES = 100  # at a time: a commit waits some 10 ms for it (measured 2026-11-21)

STORED = RecordResult(sequence_number="stored", shard_id="stored")
"""What a client hears of a stored record: true, and impossible to take for a real answer."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Pending:
    """A frame that waits for its commit. Its callback answers the client."""

    frame_id: int
    lane: Lane
    frame: Frame
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Sizes:
    """After a commit: pages in use, files as they are, and what the commit says of itself."""

    live_bytes: int
    file_bytes: int
    committed: Committed


class SpoolCounters:
    """For metrics."""

    def __init__(self) -> None:
        self.live_bytes = 0  # as of the last commit
        self.file_bytes = 0
        self.commit_failures = 0
        self.restorations = 0  # of files that were taken away
        self.letters_dropped = 0
        self.commit_duration_ns = Histogram(LATENCY_BOUNDS_NS)
        self.commit_frames = Histogram(BATCH_RECORDS_BOUNDS)


class Spool:
    """One store, one thread, all streams. Every method but the coroutines is sync, in the loop."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        bytes_max: int,
        memory: ByteBudget,
        clock: WallClock,
    ) -> None:
        """`open_store` runs in the spool's thread. `bytes_max`: pages in use, all streams."""
        self._open_store = open_store
        self.bytes_max = bytes_max
        self._memory = memory
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._loop = asyncio.get_running_loop()
        self._owed = Owed(self._commit_soon)
        self._store: Store
        self._delivery: Delivery
        self._next_id = 0
        self._pending: deque[_Pending] = deque()
        self._uncommitted_bytes = 0
        self._is_committing = False
        self._is_giving_back = False
        self._timer: asyncio.TimerHandle | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._probe_at_ns = 0
        self._letters_told = 0  # of the dropped ones, those in the log
        self._tell_letters_ns = 0
        self._clock_ahead_ms = self._ahead_ms()
        # In the order in which they asked; each once, for a full disk may see no commit for hours.
        self._room_waiters: dict[Callable[[], None], None] = {}
        self._quiet = asyncio.Event()  # no commit is under way
        self._quiet.set()
        self.trouble: SpoolError | None = None  # why nothing can be stored now
        self.counters = SpoolCounters()

    async def open(self) -> None:
        """Opens the store. Raises SpoolError: directory missing, in use, of a newer version, ..."""
        self._store = await self._in_thread(self._open_store)
        self._next_id = self._store.next_id
        self._delivery = Delivery(
            self._store, self._thread, self._loop, self._clock, self._owed, self._memory
        )
        self._tell_set_aside()
        if self._store.lack is not None:  # not only when the first client asks
            self._failed([], self._store.lack)
        if self._store.warning is not None:
            log.warning("the spool's directory", extra={"fields": {"why": self._store.warning}})
        if self._store.mended_count:
            fields = {"bytes": self._store.mended_count}
            log.warning("damaged bytes of the spool's log are mended", extra={"fields": fields})
        if self._store.is_emptied:
            log.error("the spool's database was found empty, or gone: what it held is lost")

    async def recover(
        self, find: Callable[[str], Target], is_listed: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Finds the streams of what stands on disk, and begins to read it back. `find` raises
        RejectedRecord for a stream that the configuration no longer takes: its frames stay.
        `is_listed`: whether the configuration names the stream.
        """
        sizes = await self._in_thread(lambda: self._measure(Committed(0)))
        self.counters.live_bytes, self.counters.file_bytes = sizes.live_bytes, sizes.file_bytes
        for stored in await self._in_thread(self._store.backlogs):
            row_bytes = frames_bytes(stored.frame_count, stored.byte_count)
            age_ms = self._delivery.now_ms() - stored.oldest_ms
            fields = {"stream": stored.stream, "records": stored.record_count}
            if age_ms < -CLOCK_JUMP_MS:
                text = "records in the spool are from the future: the clock was set back"
                behind = {**fields, "by_seconds": -age_ms // 1000}
                log.warning(text, extra={"fields": behind})
            try:
                target = find(stored.stream)
            except RejectedRecord as error:
                text = "records of a stream that is not taken any more stay in the spool"
                log.warning(text, extra={"fields": {**fields, "why": error.message}})
                self._delivery.unlisted_bytes += row_bytes
                continue
            found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
            log.info("records found in the spool", extra={"fields": found})
            self._delivery.frame_count += stored.frame_count
            target.counters.recovered += stored.record_count
            target.counters.spooled += stored.record_count
            lane = self._delivery.lane(target, is_listed=is_listed(stored.stream))
            lane.backlog = Backlog(read_until=stored.first_id - 1, last_id=stored.last_id)
            self._delivery.add(lane, 0, row_bytes)
            self._delivery.read_on(lane)
        self._progress_timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._note_progress)
        self._look_timer = self._loop.call_later(LOOK_INTERVAL_S, self._look)

    def put(self, target: Target, frame: Frame, *, is_listed: bool = True) -> bool:
        """Stores a frame; its client is called back after the commit: with STORED results, or with
        errors if the disk did not take it. False, and nothing is counted or kept, if there is no
        room: streams that are not listed have half of the disk, together. Raises RejectedRecord
        while the disk is in trouble.
        """
        if self.trouble is not None:
            now_ns = self._clock.now_ns()
            if now_ns < self._probe_at_ns:
                raise RejectedRecord("ServiceUnavailable", f"Not stored: {self.trouble}")
            self._probe_at_ns = now_ns + int(PROBE_INTERVAL_S * 1e9)
        byte_count = frame.byte_count
        if not target.drops_oldest and self._is_full(byte_count, is_listed=is_listed):
            return False  # without a look at the records
        payload = encode_records(frame.records)
        row_bytes = frame_bytes(len(payload))
        if self._is_full(row_bytes, is_listed=is_listed):
            old = self._delivery.find(target) if target.drops_oldest else None
            if old is None or not self._delivery.drop_oldest(old, row_bytes):
                return False
        if not self._memory.take(frame.held_bytes):
            return False
        lane = self._delivery.lane(target, is_listed=is_listed)
        self._delivery.add(lane, 1, row_bytes)
        counters, count = target.counters, len(frame.records)
        counters.receive(count, byte_count)
        counters.accept(count, byte_count)
        counters.spooled += count
        frame.accepted_ns = self._clock.now_ns()
        self._uncommitted_bytes += row_bytes
        self._pending.append(_Pending(self._next_id, lane, frame, payload))
        self._next_id += 1
        self._commit()
        return True

    def _is_full(self, byte_count: int, *, is_listed: bool) -> bool:
        if self.counters.live_bytes + self._uncommitted_bytes + byte_count > self.bytes_max:
            return True
        unlisted_bytes_max = self.bytes_max // UNLISTED_PARTS
        return not is_listed and self._delivery.unlisted_bytes + byte_count > unlisted_bytes_max

    def when_room(self, callback: Callable[[], None]) -> None:
        """Calls back once when a commit may have made room, in memory or on disk; however often it
        was asked meanwhile. Keeps who asked: a session whose client has gone may still have lines.
        """
        self._room_waiters[callback] = None

    def bury_dead_of(self, stream: str, frame: Frame) -> None:
        """The dead records of a settled frame that is not in the spool (`accepted`)."""
        now_ms = self._delivery.now_ms()
        age_ms = (self._clock.now_ns() - frame.accepted_ns) // 1_000_000
        letters = letters_of(stream, frame, now_ms - age_ms, now_ms)
        if letters:
            self._owed.bury(letters)

    @property
    def held_records(self) -> int:
        """Records that an engine has and the disk too."""
        return self._delivery.held_records

    @property
    def corrupt_rows(self) -> int:
        """Frames found damaged since the start."""
        return self._delivery.corrupt_rows

    @property
    def frame_count(self) -> int:
        """Frames on disk."""
        return self._delivery.frame_count

    @property
    def oldest_ms(self) -> int:
        """When the oldest frame in hand was accepted, since 1970; 0 if there is none."""
        return self._delivery.oldest_ms

    def begin_drain(self) -> None:
        """Reads nothing more back: what is on disk is safe there."""
        self._delivery.stop()

    async def aclose(self) -> None:
        """Commits what is owed, if the disk lets us, and closes the store."""
        self.begin_drain()
        for timer in (self._progress_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._delivery.note_progress()
        while self._is_committing or (
            (self._pending or not self._owed.is_empty) and not self.trouble
        ):
            self._commit()
            await self._quiet.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self.trouble is not None and self.trouble.kind == "gone" and self.frame_count:
            fields = {"frames": self.frame_count, "why": str(self.trouble)}
            text = "the spool's files are gone: what was stored and is not delivered ends with this"
            log.error("%s process", text, extra={"fields": fields})
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    # Commits

    def _commit_soon(self) -> None:
        if self._timer is None and not self._is_committing:
            self._timer = self._loop.call_later(SETTLE_DELAY_S, self._commit)

    def _commit(self) -> None:
        """Hands all that gathered to the thread, unless it is still at the last commit."""
        if self._is_committing:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Pending] = []
        byte_count = 0
        while self._pending and byte_count < COMMIT_BYTES_MAX:
            pending = self._pending.popleft()
            batch.append(pending)
            byte_count += len(pending.payload)
        now_ms = self._delivery.now_ms()
        changes = Changes(
            appended=[
                NewFrame(
                    one.frame_id, one.lane.target.name, len(one.frame.records), now_ms, one.payload
                )
                for one in batch
            ],
            probes=None if self.trouble is None else self.trouble.kind,
        )
        self._owed.take_into(changes)
        self._is_committing = True
        self._quiet.clear()
        began_ns = self._clock.now_ns()
        commit = self._loop.run_in_executor(self._thread, self._commit_in_thread, changes)
        commit.add_done_callback(partial(self._committed, batch, changes, began_ns))

    def _commit_in_thread(self, changes: Changes) -> _Sizes:
        return self._measure(self._store.commit(changes))

    def _measure(self, committed: Committed) -> _Sizes:
        return _Sizes(self._store.live_bytes, self._store.size_bytes, committed)

    def _committed(
        self,
        batch: list[_Pending],
        changes: Changes,
        began_ns: int,
        commit: "asyncio.Future[_Sizes]",
    ) -> None:
        self._is_committing = False
        self._quiet.set()
        for pending in batch:
            self._memory.give(pending.frame.held_bytes)
            self._uncommitted_bytes -= frame_bytes(len(pending.payload))
        error = commit.exception()
        if error is None:
            self._owed.written(changes)
            self._succeeded(batch, commit.result(), began_ns)
        else:
            self._owed.put_back(changes)
            self._failed(batch, error)
        waiters, self._room_waiters = self._room_waiters, {}
        for waiter in waiters:
            waiter()
        if self._pending:
            self._commit()
        elif self.trouble is not None:
            self._probe_later()
        elif not self._owed.is_empty:
            self._commit_soon()

    def _succeeded(self, batch: list[_Pending], sizes: _Sizes, began_ns: int) -> None:
        counters = self.counters
        counters.commit_duration_ns.observe(self._clock.now_ns() - began_ns)
        counters.commit_frames.observe(len(batch))
        counters.live_bytes, counters.file_bytes = sizes.live_bytes, sizes.file_bytes
        self._tell_letters_dropped(sizes.committed.letters_dropped)
        # Deletions pass on a full disk (the store keeps a reserve), an empty commit on any.
        if self.trouble is not None and sizes.committed.has_proved:
            log.warning("the spool takes frames again")
            self.trouble = None
        self._tell_set_aside()
        for pending in batch:
            frame = pending.frame
            frame.results = [STORED] * len(frame.records)
            if frame.on_settled is not None:
                frame.on_settled(frame)
            row_bytes = frame_bytes(len(pending.payload))
            self._delivery.offer(pending.lane, pending.frame_id, frame, row_bytes)
        if not self._pending:
            self._give_back()

    def _failed(self, batch: list[_Pending], error: BaseException) -> None:
        """Nothing of the commit was applied: frames are refused, what was owed is owed still."""
        self.counters.commit_failures += 1
        trouble = error if isinstance(error, SpoolError) else SpoolError("io", "spool", str(error))
        if self.trouble is None or self.trouble.kind != trouble.kind:  # another cause, another word
            log.error("the spool takes no frames", extra={"fields": {"why": str(trouble)}})
        self.trouble = trouble
        self._probe_at_ns = self._clock.now_ns() + int(PROBE_INTERVAL_S * 1e9)
        self._probe_later()
        refused = [*batch, *self._pending]
        for pending in self._pending:
            self._memory.give(pending.frame.held_bytes)
            self._uncommitted_bytes -= frame_bytes(len(pending.payload))
        self._pending.clear()
        result = RecordResult(
            error_code="ServiceUnavailable", error_message=f"Not stored: {trouble}"
        )
        for pending in refused:
            frame, counters = pending.frame, pending.lane.target.counters
            self._delivery.add(pending.lane, -1, -frame_bytes(len(pending.payload)))
            counters.spooled -= len(frame.records)
            counters.rejected[RejectReason.SPOOL] += len(frame.records)
            frame.results = [result] * len(frame.records)
            if frame.on_settled is not None:
                frame.on_settled(frame)

    def _probe_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PROBE_INTERVAL_S, self._commit)

    def _look(self) -> None:
        """An idle daemon, too, says that its files are gone; in trouble, the probe looks."""
        self._tell_clock()
        if self.trouble is None and not self._is_committing:
            look = self._loop.run_in_executor(self._thread, self._store.look)
            look.add_done_callback(self._looked)
        self._look_timer = self._loop.call_later(LOOK_INTERVAL_S, self._look)

    def _ahead_ms(self) -> int:
        """The time of day less the time that only goes on."""
        return int(self._clock.wall_seconds() * 1000) - self._clock.now_ns() // 1_000_000

    def _tell_clock(self) -> None:
        """A clock that was set makes what is stored older, or younger, than it is."""
        ahead_ms = self._ahead_ms()
        jump_ms = ahead_ms - self._clock_ahead_ms
        self._clock_ahead_ms = ahead_ms
        if abs(jump_ms) >= CLOCK_JUMP_MS:
            fields = {"by_seconds": jump_ms // 1000}
            text = "the clock was set: what is stored counts as so much older (max_age_ms)"
            log.warning(text, extra={"fields": fields})

    def _looked(self, look: "asyncio.Future[None]") -> None:
        if look.cancelled():
            return
        error = look.exception()
        if error is None:
            self._tell_set_aside()
        elif self.trouble is None and not self._is_committing:  # else a commit meets the same
            self._failed([], error)

    def _give_back(self) -> None:
        """Space that settled frames left, a little at a time, while nobody waits for the disk."""
        free_bytes = self.counters.file_bytes - self.counters.live_bytes
        if not self._is_giving_back and free_bytes > GIVE_BACK_BYTES:
            self._is_giving_back = True
            give = self._loop.run_in_executor(self._thread, self._give_back_in_thread)
            give.add_done_callback(self._given_back)

    def _give_back_in_thread(self) -> _Sizes:
        self._store.give_back(GIVE_BACK_PAGES)
        return self._measure(Committed(0))

    def _given_back(self, give: "asyncio.Future[_Sizes]") -> None:
        self._is_giving_back = False
        error = give.exception()
        if error is not None:
            log.warning("space cannot be given back", extra={"fields": {"why": str(error)}})
            return
        before_bytes, sizes = self.counters.file_bytes, give.result()
        self.counters.live_bytes, self.counters.file_bytes = sizes.live_bytes, sizes.file_bytes
        if sizes.file_bytes < before_bytes and not self._is_committing:
            self._give_back()

    def _note_progress(self) -> None:
        self._delivery.note_progress()
        self._progress_timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._note_progress)

    def _tell_set_aside(self) -> None:
        if self._store.set_aside is not None:
            fields = {"kept_as": self._store.set_aside, "saved_frames": self._store.salvaged_count}
            log.error(
                "the spool's database was damaged: a new one is begun", extra={"fields": fields}
            )
            self._store.set_aside = None
        if self._store.restored is not None:
            self.counters.restorations += 1
            text = "files of the spool were taken away, and are made again"
            log.error(text, extra={"fields": {"what": self._store.restored}})
            self._store.restored = None

    def _tell_letters_dropped(self, count: int) -> None:
        """Each is counted; a line a minute at most says so, with the number since the last."""
        self.counters.letters_dropped += count
        now_ns = self._clock.now_ns()
        if self.counters.letters_dropped > self._letters_told and now_ns >= self._tell_letters_ns:
            fields = {"letters": self.counters.letters_dropped - self._letters_told}
            text = "dead letters are dropped for newer ones: export them, or raise"
            log.error("%s spool.letters_bytes_max", text, extra={"fields": fields})
            self._letters_told = self.counters.letters_dropped
            self._tell_letters_ns = now_ns + TELL_LETTERS_S * 1_000_000_000

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, call)
