"""The disk behind `stored`: a frame is answered when the commit that holds it is on disk.

A frame goes this way: `put`; a commit (`commits.py`); the answer (`pending.py`); `delivery.py`. A
start uses the same path: frames on disk are read back as room allows. While the disk is in trouble,
`stored` is refused and nothing else is.

Queues: none of its own. Bound of the frames that wait: the memory budget, and `bytes_max` on disk;
full: `put` refuses.
Must not know: SQL, requests, or an engine's insides.
Invariant: a frame is answered exactly once, after its commit returned or failed; a client's frames
are answered in their order.
Where it sits: `streams/` puts frames; `store.py` is run in the thread; `delivery.py` is next.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from kdaemon.base.errors import SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.steps import Steps
from kdaemon.base.ticks import next_tick_s
from kdaemon.http.turns import Later, soon
from kdaemon.spool.codec import encode_records
from kdaemon.spool.commits import Commits
from kdaemon.spool.delivery import Delivery
from kdaemon.spool.held import letters_of
from kdaemon.spool.pending import Pending
from kdaemon.spool.recovery import STREAMS_A_TURN, take_up
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.space import Had, Space
from kdaemon.spool.spooled_stream import Target, WallClock, unix_ms, upstream_of
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.store import Store
from kdaemon.spool.thread import StoreThread

log = logging.getLogger("kdaemon.spool")

LOOK_INTERVAL_S = 5.0  # between two looks at the files. Ours
LOOKED_AFTER_S = 1.0  # a look's result is taken then, at a tick that wakes others too

T = TypeVar("T")


class Spool:
    """One store, one thread, all streams. Every method is sync and runs in the loop, except the
    coroutines. `streams`: what each has in the spool. `commits`: the counters, and why nothing can
    be stored now. `delivery`: what engines have of it.
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
        self._store_thread = StoreThread()
        self._loop = asyncio.get_running_loop()
        self.streams = SpooledStreams(memory)
        thread = self._store_thread
        self.commits = Commits(thread, clock, self.space, self.streams, memory, later)
        self.delivery = Delivery(thread, clock, self.commits.owed, self.streams, later)
        self._store: Store
        self._is_open = False
        self.waits_for: str | None = None  # the process that still has the directory
        self._look_timer: asyncio.TimerHandle | None = None
        self._looking: Future[None] | None = None  # its end is seen at a tick, and wakes nothing

    def wait_for(self, holder: str) -> None:
        """Another process, `holder`, has the directory for a while. Frames that are put wait in
        memory for a commit that comes after `open`, `recover` and `go_on`. A client that puts more
        than memory can take is refused, or is not read.
        """
        self.waits_for = holder
        self.commits.pause()

    def go_on(self) -> None:
        """The directory is ours: the frames that waited are committed, behind all that stands on
        disk.
        """
        self.waits_for = None
        self.commits.go_on()

    async def open(self) -> None:
        """Opens the store. Raises SpoolError: the directory is missing, in use, of a newer version,
        ...
        """
        self._store = await self._in_thread(self._open_store)
        self.delivery.open(self._store)
        self._is_open = True
        self.commits.open(self._store, self.delivery.offer)

    async def recover(self, find: Callable[[str], Target]) -> None:
        """Finds the streams of the frames on disk, and begins to read the frames back. `find`
        raises RefusedError for a stream that the configuration no longer takes: its frames stay.
        """
        self.space.measured(await self._in_thread(lambda: self._store.sizes))
        for stored in await self._in_thread(self._store.stored_totals):
            self.streams.found(stored)
        for _ in self._take_up(find, is_start=True):
            await asyncio.sleep(0)
        self._look_later(LOOK_INTERVAL_S)

    def take_up(self, find: Callable[[str], Target]) -> Steps[None]:
        """Another configuration may take streams that were not taken before: begins to read back
        the frames that were found of these. `find`: as for `recover`. Does nothing while
        another process still has the directory, for then `recover` comes later.
        """
        if self._is_open and self.waits_for is None:
            yield from self._take_up(find, is_start=False)

    def _take_up(self, find: Callable[[str], Target], *, is_start: bool) -> Steps[None]:
        taken = take_up(self.streams, unix_ms(self._clock), find, is_start=is_start)
        for number, spooled in enumerate(taken, 1):
            if spooled is not None:
                self.delivery.read_on(spooled)
            if not number % STREAMS_A_TURN:
                yield

    def put(self, target: Target, frame: Frame, *, is_listed: bool = True) -> bool:
        """Stores a frame. Its client is called back after the commit: with STORED results, or with
        errors if the disk did not take the frame. Returns False if there is no room; then nothing
        is counted or kept. Streams that are not listed have half of the disk, together; the streams
        of one upstream of several have three times what is left, together. Raises RefusedError
        while the disk is in trouble.
        """
        self.commits.refuse_in_trouble()
        byte_count, space = frame.byte_count, self.space
        had = self._had(target, is_listed=is_listed)
        if not target.drops_oldest and space.is_full(byte_count, had):
            return False  # before the records are encoded
        if not self._memory.has_room(frame.footprint_bytes):
            return False
        payload = encode_records(frame.records)
        row_bytes = frame_bytes(len(payload))
        if space.is_full(row_bytes, had):
            old = self.streams.find(target) if target.drops_oldest else None
            if old is None or not self._is_open or not self.delivery.drop_oldest(old, row_bytes):
                return False
        elif not target.drops_oldest and not space.may_have(frame.client, row_bytes, had):
            return False
        footprint_bytes = self.commits.take_memory(target.name, frame, payload)
        if not footprint_bytes:
            return False
        spooled = self.streams.get(target, is_listed=is_listed)
        self.streams.add(spooled, 1, row_bytes)
        counters, count = target.counters, len(frame.records)
        counters.receive(count, byte_count)
        counters.accept(count, byte_count)
        counters.spooled += count
        frame.accepted_ns = self._clock.now_ns()
        self.commits.add(Pending(spooled, frame, payload, footprint_bytes, row_bytes))
        return True

    def _had(self, target: Target, *, is_listed: bool) -> Had:
        """The bytes on disk of the unlisted streams, and of the stream's upstream, where these
        bound it.
        """
        streams = self.streams
        of_upstream = None
        if self.has_upstreams:
            of_upstream = streams.upstream_bytes[upstream_of(target.name)]
        return Had(None if is_listed else streams.unlisted_bytes, of_upstream)

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once when a commit may have made room, in memory or on disk."""
        self.commits.when_room(callback)

    def take_bytes_max(self, bytes_max: int) -> None:
        """Sets another bound for the disk. Where it is less than the pages in use, nothing is
        deleted, and no frame is taken until fewer pages are in use.
        """
        self.space.bytes_max = bytes_max
        self.commits.tell_of_room()

    def bury_dead_of(self, stream: str, frame: Frame) -> None:
        """Buries the dead records of a settled frame that is not in the spool (`accepted`)."""
        now_ms = unix_ms(self._clock)
        age_ms = (self._clock.now_ns() - frame.accepted_ns) // 1_000_000
        letters = letters_of(stream, frame, now_ms - age_ms, now_ms)
        dropped_count = self.commits.owed.bury(letters) if letters else 0
        if dropped_count:
            text = "dead letters are dropped: the spool takes none, and there is no memory for them"
            self.commits.alarms.letters_dropped(dropped_count, text)

    @property
    def is_empty(self) -> bool:
        """Whether no frame is on disk, not even of a stream that is not taken."""
        return not (self.streams.frame_count or self.streams.not_taken)

    def begin_drain(self) -> None:
        """Reads no more frames back: those on disk are safe there."""
        self.delivery.stop()
        if self.waits_for is not None and self.commits.trouble is None:
            text = "kdaemon ends before the process that has the spool gave it up"
            self.commits.failed([], SpoolError("busy", "spool", text))

    async def aclose(self) -> None:
        """Commits all that is owed, if the disk takes it, and closes the store."""
        self.begin_drain()
        if not self._is_open:
            while self.commits.ended:  # noqa: ASYNC110 - clients are told in turns of the loop
                await asyncio.sleep(0)
            self.commits.cancel_timer()
            self._store_thread.shutdown()
            return
        if self.waits_for is not None:  # the spool was just opened, and `go_on` was not called
            self.waits_for = None
            self.commits.trouble = None
            self.commits.go_on()
        if self._look_timer is not None:
            self._look_timer.cancel()
        self.delivery.note_progress()
        await self.commits.finish()
        trouble, frame_count = self.commits.trouble, self.streams.frame_count
        if trouble is not None and trouble.kind == "gone" and frame_count:
            fields = {"frames": frame_count, "error": str(trouble)}
            text = "the spool's files are gone: what is not delivered ends with this process"
            log.error(text, extra={"fields": fields})
        await self._in_thread(self._store.close)
        self._store_thread.shutdown()

    def _look(self) -> None:
        """Looks at the files, so that an idle daemon, too, tells that they are gone; in trouble,
        the probe looks.
        """
        if self._looking is None:
            self.commits.alarms.look_at_clock()
            if self.commits.trouble is None and not self.commits.is_under_way:
                self._looking = self._store_thread.submit(self._store.upkeep.look)
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
            self.commits.alarms.mended(self._store)
        elif (
            self.commits.trouble is None and not self.commits.is_under_way
        ):  # else a commit meets the same error
            self.commits.failed([], error)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._store_thread, call)
