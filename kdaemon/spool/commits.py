"""Commits: frames that gathered go to the disk together, with all that the disk is owed.

A commit runs in the store's thread; frames that come meanwhile go into the next one. While the disk
is in trouble nothing is stored; `trouble` says why, and a probe a second finds the end of it.

Queues: `_pending`, frames that wait for their commit, by turns (`commit_queue.py`). Bound: the
memory budget, and `bytes_max` on disk (`spool.py`); drained by commits, whose pace is the disk's.
`ended`, frames whose commit returned or failed and whose clients are not told yet.
Must not know: SQL, requests, or which frame an engine gets next.
Invariants: one commit is under way at a time; a frame ends exactly once, after its commit returned
or failed.
Where it sits: `spool.py` adds frames; `store.py` is run in the thread; `pending.py` tells clients.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from kdaemon.base.errors import RefusedError, SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.http.turns import Later
from kdaemon.http.waiters import call_back
from kdaemon.spool.alarms import Alarms
from kdaemon.spool.commit_queue import CommitQueue
from kdaemon.spool.counters import SpoolCounters
from kdaemon.spool.giving_back import GivingBack
from kdaemon.spool.owed import Owed
from kdaemon.spool.pending import Ended, Pending
from kdaemon.spool.space import Space
from kdaemon.spool.spooled_stream import SpooledStream, WallClock, unix_ms
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.store import Store
from kdaemon.spool.thread import StoreThread
from kdaemon.spool.values import Changes, Committed, NewFrame

log = logging.getLogger("kdaemon.spool")

SETTLE_DELAY_S = 0.05  # settled frames are deleted after it, or with an earlier commit
PROBE_INTERVAL_S = 1.0  # between two tries of a disk in trouble

_LASTING = ("busy", "gone")  # kinds of trouble that a last commit does not end


class Commits:
    """Of one store. Every method is sync and runs in the loop, except the coroutines. `trouble`:
    why nothing can be stored now; None: all is well.
    """

    def __init__(
        self,
        thread: StoreThread,
        clock: WallClock,
        space: Space,
        streams: SpooledStreams,
        memory: ByteBudget,
        later: Later,
    ) -> None:
        """`later`: makes work that takes more than a turn of the loop go on in another turn."""
        self._store_thread = thread
        self._clock = clock
        self._space = space
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._store: Store
        self._giving_back: GivingBack
        self._next_id = 0
        self._pending: CommitQueue[Pending] = CommitQueue()
        self._memory = memory
        self.owed = Owed(self._soon, memory)
        self.ended = Ended(streams, memory, later)
        self._quiet = asyncio.Event()  # no commit is under way
        self._quiet.set()
        self._timer: asyncio.TimerHandle | None = None
        self._probe_at_ns = 0
        # In the order of asking; each once, for on a full disk no commit may come for hours.
        self._room_waiters: dict[Callable[[], object], None] = {}
        self.trouble: SpoolError | None = None
        self.counters = SpoolCounters()
        self.alarms = Alarms(clock, self.counters)

    def open(self, store: Store, offer: Callable[[SpooledStream, int, Frame, int], object]) -> None:
        """Commits go to this store from now on. `offer`: takes a stored frame on."""
        self._store = store
        self._next_id = store.next_id
        self.ended.offer = offer
        self._giving_back = GivingBack(store, self._store_thread, self._space, self._given_back)
        self.alarms.mended(store)
        lack = store.upkeep.reserve.lack
        if lack is not None:  # told now, not only to the first client
            self.failed([], lack)
        self.alarms.opened(store)

    def pause(self) -> None:
        """Frames that are added wait until `go_on`."""
        self._quiet.clear()

    def go_on(self) -> None:
        self._quiet.set()
        if self.may_write:
            self.begin()
        elif self.trouble is not None:  # met before a commit could be tried
            self._probe_later()

    def refuse_in_trouble(self) -> None:
        """Raises RefusedError while the disk is in trouble, but lets a frame through, as a probe,
        once in PROBE_INTERVAL_S.
        """
        if self.trouble is None:
            return
        now_ns = self._clock.now_ns()
        if now_ns < self._probe_at_ns:
            raise RefusedError("ServiceUnavailable", f"Not stored: {self.trouble}")
        self._probe_at_ns = now_ns + int(PROBE_INTERVAL_S * 1e9)

    def take_memory(self, stream: str, frame: Frame, payload: bytes) -> int:
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

    def add(self, pending: Pending) -> None:
        """A frame for the next commit, which begins now unless one is under way."""
        self._space.uncommitted_bytes += pending.row_bytes
        self._pending.add(pending)
        self.begin()

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once when a commit may have made room, in memory or on disk, however often the
        caller asks meanwhile. The callback is kept: a session whose client has gone may still have
        lines.
        """
        self._room_waiters[callback] = None

    def tell_of_room(self) -> None:
        waiters, self._room_waiters = self._room_waiters, {}
        call_back(waiters)

    @property
    def is_under_way(self) -> bool:
        """Whether a commit is, or may not begin yet (`pause`)."""
        return not self._quiet.is_set()

    @property
    def is_written(self) -> bool:
        """Whether the disk knows all that it is owed: no commit is under way, and none is due."""
        return self._quiet.is_set() and self.owed.is_empty and not self.owed.unwritten

    @property
    def may_write(self) -> bool:
        """Whether something is to be written, and the disk takes it, as far as is known."""
        return self.trouble is None and bool(self._pending or not self.owed.is_empty)

    def cancel_timer(self) -> None:
        """No commit begins by itself any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def finish(self) -> None:
        """Commits all that is owed, if the disk takes it; all clients are told."""
        self._giving_back.stop()
        while self.is_under_way or self.ended or self.may_write:
            if self.may_write:
                self.begin()
            await self._quiet.wait()
            await asyncio.sleep(0)  # clients are told
        # The trouble may be over, though no probe has shown that. But a disk that another process
        # keeps locked would only delay the end.
        is_last_due = self.trouble is not None and self.trouble.kind not in _LASTING
        if is_last_due and not self.owed.is_empty:
            self.begin()
            while not self._quiet.is_set():  # a commit begins the next while more is owed
                await self._quiet.wait()
                await asyncio.sleep(0)
        self.cancel_timer()

    def _soon(self) -> None:
        if self._timer is None and self._quiet.is_set():
            self._timer = self._loop.call_later(SETTLE_DELAY_S, self.begin)

    def begin(self) -> None:
        """Hands the frames that gathered to the thread, as many as a commit takes, unless the last
        commit is still under way.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_under_way:
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
        self.owed.take_into(changes)
        self._quiet.clear()
        began_ns = self._clock.now_ns()
        commit = self._loop.run_in_executor(self._store_thread.first, self._store.commit, changes)
        commit.add_done_callback(partial(self._committed, batch, began_ns))

    def _committed(
        self,
        batch: list[Pending],
        began_ns: int,
        commit: "asyncio.Future[Committed]",
    ) -> None:
        self._quiet.set()
        for pending in batch:
            self._space.uncommitted_bytes -= pending.row_bytes
        error = commit.exception()
        if error is None:
            self.owed.written()
            self._succeeded(batch, commit.result(), began_ns)
        else:
            self.owed.put_back()
            self.failed(batch, error)
        self.tell_of_room()
        if self._pending or self.owed.has_more:
            self.begin()
        elif self.trouble is not None:
            self._probe_later()
        elif not self.owed.is_empty:
            self._soon()

    def _succeeded(self, batch: list[Pending], committed: Committed, began_ns: int) -> None:
        counters = self.counters
        counters.commit_duration_ns.observe(self._clock.now_ns() - began_ns)
        counters.commit_frames.observe(len(batch))
        self._space.measured(committed.sizes)
        self.alarms.letters_dropped(committed.letters_dropped)
        # Deletions succeed on a full disk (the store keeps a reserve), an empty commit on any disk.
        if self.trouble is not None and committed.has_proved:
            log.warning("the spool takes frames again")
            self.trouble = None
        self.alarms.mended(self._store)
        self.ended.add(batch, None)
        if not self._pending:
            self._give_back()

    def failed(self, batch: list[Pending], error: BaseException) -> None:
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
        self._space.uncommitted_bytes = 0
        self.ended.add((*batch, *waiting), refusal)

    def _probe_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PROBE_INTERVAL_S, self.begin)

    def _give_back(self) -> None:
        """Gives free pages back, with pauses while a backlog is read from the disk, unless the disk
        is in trouble: then its space may be needed at once.
        """
        if self._giving_back.is_due:
            is_slow = self.trouble is None and self._streams.is_passing_on
            self._giving_back.begin(after_pause=is_slow)

    def _given_back(self) -> None:
        if self._quiet.is_set():
            self._give_back()
