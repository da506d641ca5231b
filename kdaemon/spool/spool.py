"""The disk behind `stored`: a frame is answered when the commit that holds it is on disk.

A frame goes this way: `put`; a commit in the spool's thread (all frames that gather meanwhile go
into the next commit); the answer; `delivery.py`. A start uses the same path: frames on disk are
read back as room allows. While the disk is in trouble, `stored` is refused and nothing else is;
`trouble` says why, and a probe a second finds the end of it.

Queues: `_pending`, frames that wait for their commit, by turns (`commit_queue.py`). Bound: the
memory budget, and `bytes_max` on disk; full: `put` refuses; drained by commits, whose pace is the
disk's. `_ended`, frames whose commit returned or failed and whose clients are not told yet,
TOLD_A_TURN records a turn of the loop; bound: the memory budget.
Must not know: SQL, requests, or an engine's insides.
Invariant: a frame is answered exactly once, after its commit returned or failed; a client's frames
are answered in their order.
Where it sits: `streams/` puts frames; `store.py` is run in the thread; `delivery.py` is next.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from kdaemon.base.errors import RefusedError, SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.base.ticks import next_tick_s
from kdaemon.http.turns import Later, soon
from kdaemon.spool.alarms import Alarms
from kdaemon.spool.codec import encode_records
from kdaemon.spool.commit_queue import CommitQueue
from kdaemon.spool.counters import SpoolCounters
from kdaemon.spool.delivery import Delivery
from kdaemon.spool.giving_back import GivingBack
from kdaemon.spool.held import letters_of
from kdaemon.spool.owed import Owed
from kdaemon.spool.pending import Ended, Pending
from kdaemon.spool.recovery import STREAMS_A_TURN, find_streams, take_up
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.space import Had, Space
from kdaemon.spool.spooled_stream import SpooledStream, Target, WallClock, unix_ms, upstream_of
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.store import Changes, Committed, NewFrame, Store
from kdaemon.spool.thread import StoreThread

log = logging.getLogger("kdaemon.spool")

SETTLE_DELAY_S = 0.05  # settled frames are deleted after it, or with an earlier commit
PROBE_INTERVAL_S = 1.0  # between two tries of a disk in trouble
LOOK_INTERVAL_S = 5.0  # between two looks at the files. Ours
LOOKED_AFTER_S = 1.0  # a look's result is taken then, at a tick that wakes others too

_LASTING = ("busy", "gone")  # kinds of trouble that a last commit does not end
T = TypeVar("T")


class Spool:
    """One store, one thread, all streams. Every method is sync and runs in the loop, except the
    coroutines.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        bytes_max: int,
        memory: ByteBudget,
        clock: WallClock,
        later: Later = soon,
        *,
        has_upstreams: bool = False,
    ) -> None:
        """`open_store` runs in the spool's thread. `bytes_max`: pages in use, of all streams
        together. `later`: makes work that takes more than a turn of the loop go on in another turn.
        `has_upstreams`: there are several upstreams, and none may have all of the disk.
        """
        self.has_upstreams = has_upstreams
        self._open_store = open_store
        self.space = Space(bytes_max)
        self._memory = memory
        self._clock = clock
        self._thread = StoreThread()
        self._loop = asyncio.get_running_loop()
        self._owed = Owed(self._commit_soon, memory)
        self._streams = SpooledStreams(memory)
        self._store: Store
        self._delivery: Delivery
        self._giving_back: GivingBack
        self._next_id = 0
        self._later = later
        self._pending: CommitQueue[Pending] = CommitQueue()
        self._ended = Ended(self._offer, self._streams, memory, later)
        self._is_open = False
        self.waits_for: str | None = None  # the process that still has the directory
        self._is_committing = False
        self._timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._looking: Future[None] | None = None  # its end is seen at a tick, and wakes nothing
        self._probe_at_ns = 0
        # In the order of asking; each once, for on a full disk no commit may come for hours.
        self._room_waiters: dict[Callable[[], object], None] = {}
        self._quiet = asyncio.Event()  # no commit is under way
        self._quiet.set()
        self.trouble: SpoolError | None = None  # why nothing can be stored now
        self.counters = SpoolCounters()
        self._alarms = Alarms(clock, self.counters)

    def wait_for(self, holder: str) -> None:
        """Another process, `holder`, has the directory for a while. Frames that are put wait in
        memory for a commit that comes after `open`, `recover` and `go_on`. A client that puts more
        than memory can take is refused, or is not read.
        """
        self.waits_for = holder
        self._is_committing = True
        self._quiet.clear()

    def go_on(self) -> None:
        """The directory is ours: the frames that waited are committed, behind all that stands on
        disk.
        """
        self.waits_for = None
        self._is_committing = False
        self._quiet.set()
        if self._may_write:
            self._commit()
        elif self.trouble is not None:  # met before a commit could be tried
            self._probe_later()

    async def open(self) -> None:
        """Opens the store. Raises SpoolError: the directory is missing, in use, of a newer version,
        ...
        """
        self._store = await self._in_thread(self._open_store)
        self._next_id = self._store.next_id
        self._delivery = Delivery(
            self._store,
            self._thread,
            self._clock,
            self._owed,
            self._streams,
            self._later,
        )
        self._giving_back = GivingBack(self._store, self._thread, self.space, self._given_back)
        self._is_open = True
        self._alarms.mended(self._store)
        if self._store.lack is not None:  # told now, not only to the first client
            self._failed([], self._store.lack)
        self._alarms.opened(self._store)

    async def recover(
        self, find: Callable[[str], Target], is_listed: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Finds the streams of the frames on disk, and begins to read the frames back. `find`
        raises RefusedError for a stream that the configuration no longer takes: its frames stay.
        `is_listed`: whether the configuration names the stream.
        """
        self.space.measured(await self._in_thread(lambda: self._store.sizes))
        stored = await self._in_thread(self._store.stored_totals)
        now_ms = unix_ms(self._clock)
        found: list[SpooledStream] = []
        for number, spooled in enumerate(
            find_streams(self._streams, stored, now_ms, find, is_listed), 1
        ):
            if spooled is not None:
                found.append(spooled)
            if not number % STREAMS_A_TURN:
                await asyncio.sleep(0)
        for number, spooled in enumerate(found, 1):
            self._delivery.read_on(spooled)
            if not number % STREAMS_A_TURN:
                await asyncio.sleep(0)
        self._look_later(LOOK_INTERVAL_S)

    def take_up(
        self, find: Callable[[str], Target], is_listed: Callable[[str], bool]
    ) -> Steps[None]:
        """Another configuration may take streams that were not taken before: begins to read back
        the frames that were found of these. `find`, `is_listed`: as for `recover`. Does nothing
        while another process still has the directory, for then `recover` comes later.
        """
        if not self._is_open or self.waits_for is not None:
            return
        for number, spooled in enumerate(
            take_up(self._streams, unix_ms(self._clock), find, is_listed), 1
        ):
            if spooled is not None:
                self._delivery.read_on(spooled)
            if not number % STREAMS_A_TURN:
                yield

    def put(self, target: Target, frame: Frame, *, is_listed: bool = True) -> bool:
        """Stores a frame. Its client is called back after the commit: with STORED results, or with
        errors if the disk did not take the frame. Returns False if there is no room; then nothing
        is counted or kept. Streams that are not listed have half of the disk, together; the streams
        of one upstream of several have three times what is left, together. Raises RefusedError
        while the disk is in trouble.
        """
        if self.trouble is not None:
            now_ns = self._clock.now_ns()
            if now_ns < self._probe_at_ns:
                raise RefusedError("ServiceUnavailable", f"Not stored: {self.trouble}")
            self._probe_at_ns = now_ns + int(PROBE_INTERVAL_S * 1e9)
        byte_count, space = frame.byte_count, self.space
        had = self._had(target, is_listed=is_listed)
        if not target.drops_oldest and space.is_full(byte_count, had):
            return False  # before the records are encoded
        if not self._memory.has_room(frame.footprint_bytes):
            return False
        payload = encode_records(frame.records)
        row_bytes = frame_bytes(len(payload))
        if space.is_full(row_bytes, had):
            old = self._streams.find(target) if target.drops_oldest else None
            if old is None or not self._is_open or not self._delivery.drop_oldest(old, row_bytes):
                return False
        elif not target.drops_oldest and not space.may_have(frame.client, row_bytes, had):
            return False
        footprint_bytes = self._take_memory(target.name, frame, payload)
        if not footprint_bytes:
            return False
        spooled = self._streams.get(target, is_listed=is_listed)
        self._streams.add(spooled, 1, row_bytes)
        counters, count = target.counters, len(frame.records)
        counters.receive(count, byte_count)
        counters.accept(count, byte_count)
        counters.spooled += count
        frame.accepted_ns = self._clock.now_ns()
        space.uncommitted_bytes += row_bytes
        self._pending.add(Pending(spooled, frame, payload, footprint_bytes, row_bytes))
        self._commit()
        return True

    def _had(self, target: Target, *, is_listed: bool) -> Had:
        """The bytes on disk of the unlisted streams, and of the stream's upstream, where these
        bound it.
        """
        streams = self._streams
        of_upstream = None
        if self.has_upstreams:
            of_upstream = streams.upstream_bytes[upstream_of(target.name)]
        return Had(None if is_listed else streams.unlisted_bytes, of_upstream)

    def _take_memory(self, stream: str, frame: Frame, payload: bytes) -> int:
        """Returns how much memory was taken; 0: there is none. While no other frame waits, a frame
        is written even if there is memory for its records alone: where little memory is set, a
        large frame could otherwise never be stored.
        """
        footprint_bytes = frame.footprint_bytes + len(payload)
        free_bytes = self._memory.free_bytes()
        if not self._pending.may_have(stream, frame.client, footprint_bytes, free_bytes):
            return 0
        if self._memory.take(footprint_bytes):
            return footprint_bytes
        if not self._pending and self._memory.take(frame.footprint_bytes):
            return frame.footprint_bytes
        return 0

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once when a commit may have made room, in memory or on disk, however often the
        caller asks meanwhile. The callback is kept: a session whose client has gone may still have
        lines.
        """
        self._room_waiters[callback] = None

    def take_bytes_max(self, bytes_max: int) -> None:
        """Sets another bound for the disk. Where it is less than the pages in use, nothing is
        deleted, and no frame is taken until fewer pages are in use.
        """
        self.space.bytes_max = bytes_max
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        waiters, self._room_waiters = self._room_waiters, {}
        for waiter in waiters:
            waiter()

    def bury_dead_of(self, stream: str, frame: Frame) -> None:
        """Buries the dead records of a settled frame that is not in the spool (`accepted`)."""
        now_ms = unix_ms(self._clock)
        age_ms = (self._clock.now_ns() - frame.accepted_ns) // 1_000_000
        letters = letters_of(stream, frame, now_ms - age_ms, now_ms)
        dropped_count = self._owed.bury(letters) if letters else 0
        if dropped_count:
            text = "dead letters are dropped: the spool takes none, and there is no memory for them"
            self._alarms.letters_dropped(dropped_count, text)

    @property
    def held_records(self) -> int:
        """Records that are in an engine and on disk."""
        return self._delivery.held_records if self._is_open else 0

    @property
    def corrupt_rows(self) -> int:
        """Frames found damaged since the start."""
        return self._streams.corrupt_count

    @property
    def frame_count(self) -> int:
        """Frames on disk."""
        return self._streams.frame_count

    @property
    def is_empty(self) -> bool:
        """Whether no frame is on disk, not even of a stream that is not taken."""
        return not (self.frame_count or self._streams.not_taken)

    @property
    def is_written(self) -> bool:
        """Whether the disk knows all that it is owed: no commit is under way, and none is due."""
        return not self._is_committing and self._owed.is_empty and not self._owed.unwritten

    def audit(self) -> SpooledStreams:
        """The streams, with what each has in hand. Only for tests, which add that up."""
        return self._streams

    @property
    def oldest_ms(self) -> int:
        """When the oldest frame in hand was accepted, in milliseconds since 1970; 0 if there is
        none.
        """
        return self._delivery.oldest_ms if self._is_open else 0

    def begin_drain(self) -> None:
        """Reads no more frames back: those on disk are safe there."""
        if self._is_open:
            self._delivery.stop()
        if self.waits_for is not None and self.trouble is None:
            text = "kdaemon ends before the process that has the spool gave it up"
            self._failed([], SpoolError("busy", "spool", text))

    async def aclose(self) -> None:
        """Commits all that is owed, if the disk takes it, and closes the store."""
        self.begin_drain()
        if not self._is_open:
            while self._ended:  # noqa: ASYNC110 - clients are told in turns of the loop
                await asyncio.sleep(0)  # clients are told
            if self._timer is not None:
                self._timer.cancel()
            self._thread.shutdown()
            return
        if self.waits_for is not None:  # the spool was just opened, and `go_on` was not called
            self.waits_for = self.trouble = None
            self._is_committing = False
            self._quiet.set()
        self._giving_back.stop()
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._delivery.note_progress()
        while self._is_committing or self._ended or self._may_write:
            if self._may_write:
                self._commit()
            await self._quiet.wait()
            await asyncio.sleep(0)  # clients are told
        if self._is_worth_a_last_commit():
            self._commit()
            while not self._quiet.is_set():  # a commit begins the next while more is owed
                await self._quiet.wait()
                await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
        if self.trouble is not None and self.trouble.kind == "gone" and self.frame_count:
            fields = {"frames": self.frame_count, "error": str(self.trouble)}
            text = "the spool's files are gone: what is not delivered ends with this process"
            log.error(text, extra={"fields": fields})
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    def _is_worth_a_last_commit(self) -> bool:
        """Whether something is owed to a disk whose trouble may be over, though no probe has shown
        that. A disk that another process keeps locked would only delay the end.
        """
        trouble = self.trouble
        return trouble is not None and trouble.kind not in _LASTING and not self._owed.is_empty

    @property
    def _may_write(self) -> bool:
        """Whether something is to be written, and the disk takes it, as far as is known."""
        return self.trouble is None and bool(self._pending or not self._owed.is_empty)

    # Commits

    def _offer(self, spooled: SpooledStream, frame_id: int, frame: Frame, row_bytes: int) -> None:
        self._delivery.offer(spooled, frame_id, frame, row_bytes)

    def _commit_soon(self) -> None:
        if self._timer is None and not self._is_committing:
            self._timer = self._loop.call_later(SETTLE_DELAY_S, self._commit)

    def _commit(self) -> None:
        """Hands the frames that gathered to the thread, as many as a commit takes, unless the last
        commit is still under way.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_committing:
            return
        batch = self._pending.take()
        for pending in batch:
            pending.frame_id = self._next_id
            self._next_id += 1
        now_ms = unix_ms(self._clock)
        changes = Changes(
            appended=[
                NewFrame(
                    one.frame_id,
                    one.spooled.target.name,
                    len(one.frame.records),
                    now_ms,
                    one.payload,
                )
                for one in batch
            ],
            probes=None if self.trouble is None else self.trouble.kind,
        )
        self._owed.take_into(changes)
        self._is_committing = True
        self._quiet.clear()
        began_ns = self._clock.now_ns()
        commit = self._loop.run_in_executor(self._thread.first, self._store.commit, changes)
        commit.add_done_callback(partial(self._committed, batch, began_ns))

    def _committed(
        self,
        batch: list[Pending],
        began_ns: int,
        commit: "asyncio.Future[Committed]",
    ) -> None:
        self._is_committing = False
        self._quiet.set()
        for pending in batch:
            self.space.uncommitted_bytes -= pending.row_bytes
        error = commit.exception()
        if error is None:
            self._owed.written()
            self._succeeded(batch, commit.result(), began_ns)
        else:
            self._owed.put_back()
            self._failed(batch, error)
        self._tell_of_room()
        if self._pending or self._owed.has_more:
            self._commit()
        elif self.trouble is not None:
            self._probe_later()
        elif not self._owed.is_empty:
            self._commit_soon()

    def _succeeded(self, batch: list[Pending], committed: Committed, began_ns: int) -> None:
        counters = self.counters
        counters.commit_duration_ns.observe(self._clock.now_ns() - began_ns)
        counters.commit_frames.observe(len(batch))
        self.space.measured(committed.sizes)
        self._alarms.letters_dropped(committed.letters_dropped)
        # Deletions succeed on a full disk (the store keeps a reserve), an empty commit on any disk.
        if self.trouble is not None and committed.has_proved:
            log.warning("the spool takes frames again")
            self.trouble = None
        self._alarms.mended(self._store)
        self._ended.add(batch, None)
        if not self._pending:
            self._give_back()

    def _failed(self, batch: list[Pending], error: BaseException) -> None:
        """Nothing of the commit was applied: its frames are refused, as are those that wait; all
        that was owed is still owed.
        """
        self.counters.commit_failures += 1
        trouble = error if isinstance(error, SpoolError) else SpoolError("io", "spool", str(error))
        if self.trouble is None or self.trouble.kind != trouble.kind:  # each cause is told once
            log.error("the spool takes no frames", extra={"fields": {"error": str(trouble)}})
        self.trouble = trouble
        self._probe_at_ns = self._clock.now_ns() + int(PROBE_INTERVAL_S * 1e9)
        self._probe_later()
        text = f"Not stored: {trouble}"
        refusal = RecordResult(error_code="ServiceUnavailable", error_message=text)
        waiting = self._pending.take_all()
        self.space.uncommitted_bytes = 0
        self._ended.add((*batch, *waiting), refusal)

    def _probe_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PROBE_INTERVAL_S, self._commit)

    def _look(self) -> None:
        """Looks at the files, so that an idle daemon, too, tells that they are gone; in trouble,
        the probe looks.
        """
        if self._looking is None:
            self._alarms.look_at_clock()
            if self.trouble is None and not self._is_committing:
                self._looking = self._thread.submit(self._store.look)
        elif self._looking.done():
            looking, self._looking = self._looking, None
            self._looked(looking)
        is_out = self._looking is not None
        self._look_later(min(LOOKED_AFTER_S, LOOK_INTERVAL_S) if is_out else LOOK_INTERVAL_S)

    def _look_later(self, interval_s: float) -> None:
        at_s = next_tick_s(self._loop.time(), interval_s)
        self._look_timer = self._loop.call_at(at_s, self._look)

    def _looked(self, look: Future[None]) -> None:
        error = look.exception()
        if error is None:
            self._alarms.mended(self._store)
        elif self.trouble is None and not self._is_committing:  # else a commit meets the same error
            self._failed([], error)

    def _give_back(self) -> None:
        """Gives free pages back, with pauses while a backlog is read from the disk, unless the disk
        is in trouble: then its space may be needed at once.
        """
        if self._giving_back.is_due:
            is_slow = self.trouble is None and self._streams.is_passing_on
            self._giving_back.begin(after_pause=is_slow)

    def _given_back(self) -> None:
        if not self._is_committing:
            self._give_back()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, call)
