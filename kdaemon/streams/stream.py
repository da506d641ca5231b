"""One stream, as its clients' side and the spool see it.

Beside the engine's work it decides which acknowledgement is meant where a client does not choose,
whether the stream exists, and how its frames get to the disk. A missing stream is refused at once,
whatever its client waits for. Knows nothing of requests or connections.
Where it sits: `registry.py` opens it; the door puts frames to it, and the spool delivers to it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from kdaemon.base.counters import RefuseReason
from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import RefusedError, ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import Qualified
from kdaemon.base.ports import Clock
from kdaemon.base.record import Record
from kdaemon.base.refused import Refused
from kdaemon.base.service import Service
from kdaemon.config import StreamConfig
from kdaemon.engine import Engine
from kdaemon.engine.health import Health
from kdaemon.engine.ways import Queued, Way
from kdaemon.http.waiters import call_back
from kdaemon.send.dry_runs import DryRuns
from kdaemon.streams.inquiry import Asker, Existence, Inquiry
from kdaemon.streams.laid_out import called
from kdaemon.wire.limits import PutLimits

MS = 1_000_000  # nanoseconds in a millisecond

CALM_PARTS = 4
"""A stream is calm while it has at most one of so many parts of the memory that its stored records
may have: its frames are then read as they stand on disk. Ours, 2026-11-28."""


class Spool(Protocol):
    """Stores frames before they are delivered (`spool/spool.py`)."""

    def put(self, target: "Stream", frame: Frame, *, is_listed: bool) -> bool: ...
    def when_room(self, callback: Callable[[], object]) -> None: ...
    def bury_dead_of(self, stream: str, frame: Frame) -> None: ...


class Driver(Asker, Protocol):
    """What a stream needs of `send/driver.py`, which says what each method does. A seam: tests have
    scripted drivers, also in the compiled build, where a parameter takes its declared class alone.
    """

    engine: Engine
    target: StreamTarget
    encryption_type: str
    dry_runs: DryRuns

    @property
    def is_idle(self) -> bool: ...
    def submit(self, frame: Frame, is_patient: bool = False) -> bool: ...
    def submit_spooled(self, frame: Frame) -> bool: ...
    def withdraw(self, frame: Frame) -> None: ...
    def when_room(self, callback: Callable[[], object]) -> None: ...
    def doubt_limits(self) -> None: ...


class Stream:
    """One stream. `name`: unique in the daemon, as the spool has it. `service`: the one that the
    stream lives at. `is_listed`: the configuration names it. `memory`: the budget that its records
    take from.
    """

    def __init__(
        self,
        config: StreamConfig,
        service: Service,
        driver: Driver,
        clock: Clock,
        memory: ByteBudget,
        spool: Spool | None,
    ) -> None:
        self.config = config
        self.target = driver.target
        self.name = Qualified(self.target.upstream, called(config)).text
        self.service = service
        self.engine = driver.engine
        self.counters = driver.engine.counters
        self.memory = memory
        self.is_listed = is_listed = driver.target.is_listed
        self.key_bytes_max = service.partition_key_bytes_max
        self.acknowledge = Acknowledge(config.acknowledge)
        self.line_acknowledge = line_acknowledge(config, has_spool=spool is not None)
        self.deadline_ns = config.deadline_ms * MS  # from admission
        self.submit = driver.submit  # bound once: it is called for every request
        self._spool = spool
        self._driver = driver
        self._clock = clock
        self.inquiry = Inquiry(self.name, driver, clock, is_listed=is_listed)
        self._memory_waiters: dict[Callable[[], object], None] = {}  # each once, in order
        self._deadline_timer: asyncio.TimerHandle | None = None

    def take_config(self, config: StreamConfig, memory: ByteBudget, *, is_listed: bool) -> None:
        """Takes other settings of the same stream, from now on. The footprint of its frames moves
        to `memory`. A lower `deadline_ms` is in force once no client is left that was promised
        more: an engine ends frames in the order in which they came.
        """
        self.config = config
        self.acknowledge = Acknowledge(config.acknowledge)
        self.line_acknowledge = line_acknowledge(config, has_spool=self.has_spool)
        if is_listed and not self.is_listed:
            self.inquiry.take_to_be_there()
            self.engine.take_to_be_there()
        self.is_listed = is_listed
        self.target = self._driver.target = replace(self.target, is_listed=is_listed)
        if memory is not self.memory:
            self.engine.ledger.move(memory)
            self.memory = memory
        self._take_deadline(config.deadline_ms * MS)

    def _take_deadline(self, deadline_ns: int) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if deadline_ns >= self.deadline_ns:
            self.deadline_ns = deadline_ns
            return
        loop = asyncio.get_running_loop()
        wait_s = (self.deadline_ns - deadline_ns) / 1e9
        self._deadline_timer = loop.call_later(wait_s, self._take_lower_deadline, deadline_ns)

    def _take_lower_deadline(self, deadline_ns: int) -> None:
        self._deadline_timer = None
        self.deadline_ns = deadline_ns

    @property
    def record_bytes_max(self) -> int:
        """As far as is known now."""
        return self.engine.record_bytes_max

    @property
    def limits(self) -> PutLimits:
        """The limits of a request and its records, as far as they are known now."""
        return PutLimits(self.record_bytes_max, self.config.request_bytes_max, self.key_bytes_max)

    @property
    def encryption_type(self) -> str:
        """The service's word, in its last answer, for how it encrypts this stream's records."""
        return self._driver.encryption_type

    @property
    def is_auto(self) -> bool:
        """Whether the service spreads the records itself, so that a record needs no key."""
        return self.engine.is_auto

    @property
    def unavailable(self) -> ServiceError | None:
        """Why no record is taken at all now, whatever its client waits for; None: records are
        taken.
        """
        return self.engine.unavailable

    @property
    def drops_oldest(self) -> bool:
        """Whether a full spool drops its oldest records for new ones."""
        return self.config.when_full == "drop_oldest"

    @property
    def is_ordered(self) -> bool:
        """Whether the records of one key keep their order."""
        return self.config.ordering != "none"

    @property
    def has_spool(self) -> bool:
        return self._spool is not None

    # Whether the stream exists

    def existence(self) -> Existence:
        """Whether the stream exists, as of now. An old look-up that did not find it begins anew
        here. A listed stream that is missing is on hold: calls that probe tell when it is there.
        """
        if not self.is_listed:
            self.inquiry.look_again()
        return self.inquiry.existence

    def refusal(self) -> ServiceError | None:
        """Why a client that waits should be refused at once (the stream is missing, say); None: it
        should not.
        """
        return self.engine.refusal_at(self._clock.now_ns()) if self.engine.hold else None

    def missing(self) -> ServiceError | None:
        """Why the records of every client are refused: an unlisted stream that the service does not
        have; None: they are not refused.
        """
        if self.is_listed or self.existence() is not Existence.MISSING:
            return None
        return self.engine.missing

    @property
    def is_idle(self) -> bool:
        """Whether no record of it is queued, in flight or on disk, and no client waits for it."""
        return self._driver.is_idle and not self.counters.spooled and not self.is_waited_for

    @property
    def is_useless(self) -> bool:
        """Whether nothing would be lost without it: only a client has written its name, and no
        record is kept for it. It is missing; or nothing was ever delivered, and its hold has no
        end, because no record is left that could try whether it is over.
        """
        engine = self.engine
        is_of_use = engine.missing is None and (engine.hold is None or self.counters.delivered > 0)
        return not (self.is_listed or is_of_use) and self.is_idle

    @property
    def is_waited_for(self) -> bool:
        """Whether clients wait for word of it, or for the service's answer to a dry run."""
        return self.inquiry.is_waited_in or self._driver.dry_runs.is_asking

    # Taking records

    def store(self, frame: Frame) -> Refused | None:
        """Takes a checked frame to disk; its client is called back after the commit. Returns the
        refusal if the frame cannot be stored; then nothing was taken.
        """
        count, buffer_bytes_max = frame.footprint_bytes, self.config.buffer_bytes_max
        assert self._spool is not None, "nobody was promised a disk where there is none"
        if count > buffer_bytes_max:
            return Refused(
                RefuseReason.SPOOL,
                "ValidationException",
                f"These records take {count} bytes of memory to deliver, and the stream has"
                f" {buffer_bytes_max} in all (buffer_bytes_max).",
                is_permanent=True,
            )
        try:
            is_taken = self._spool.put(self, frame, is_listed=self.is_listed)
        except RefusedError as error:
            return Refused(RefuseReason.SPOOL, error.code, error.message, is_permanent=False)
        return None if is_taken else NO_ROOM_ON_DISK

    def bury_dead_of(self, frame: Frame) -> None:
        """An `accepted` frame is settled: its dead records become dead letters, if there is a
        spool.
        """
        if self._spool is not None:
            self._spool.bury_dead_of(self.name, frame)

    def submit_spooled(self, frame: Frame) -> bool:
        """Takes a frame that stands in the spool, and returns True, while half of the memory that
        the stream may have is free: the other half is for clients that wait.
        """
        if self.engine.ledger.footprint_bytes > self.config.buffer_bytes_max // 2:
            return False
        return self._driver.submit_spooled(frame)

    @property
    def health(self) -> Health:
        """As the engine's: whether the stream's calls succeed."""
        return self.engine.health

    @property
    def map_count(self) -> int:
        """As the engine's: the count of the map of shards by which `ways` goes."""
        return self.engine.ways.map_count

    def is_calm(self, free_bytes: int) -> bool:
        """Whether the stream has a small part of the memory that it may have, so that no shard can
        have taken much of it.
        """
        footprint_bytes = self.engine.ledger.footprint_bytes
        return footprint_bytes * CALM_PARTS <= footprint_bytes + self._spool_room(free_bytes)

    def is_crowded(self, free_bytes: int) -> bool:
        """As the engine's: whether a shard may be full."""
        return self.engine.ways.is_crowded(self._spool_room(free_bytes))

    def ways(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        """As the engine's: where the records of a frame in the spool would go. `free_bytes`: of
        memory, that the spool may still give to the stream.
        """
        return self.engine.ways.of(frame, queued, self._spool_room(free_bytes))

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        """As the engine's: the shards for which the spool is to be read."""
        return self.engine.ways.low_shards(queued, self._spool_room(free_bytes))

    def _spool_room(self, free_bytes: int) -> int:
        """How much memory frames of the spool may still take."""
        footprint_bytes = self.engine.ledger.footprint_bytes
        return min(free_bytes, self.config.buffer_bytes_max // 2 - footprint_bytes)

    def withdraw(self, frame: Frame) -> None:
        """The client of this frame has gone: records of the frame that are still queued are not
        sent.
        """
        self._driver.withdraw(frame)

    def dry_run(
        self, records: list[Record], told: Callable[[ServiceError], object], arn: str | None
    ) -> None:
        """Asks the service what would become of these records; `told` gets its answer once. `arn`:
        the ARN by which the client called the stream; None: it used the name.
        """
        self._driver.dry_runs.ask(records, told, self.deadline_ns / 1e9, arn)

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Calls back once when a record has settled."""
        self._driver.when_room(callback)

    def has_room(self, footprint_bytes: int, client: int) -> bool:
        """Whether records of this client could have so much memory now."""
        return self.engine.has_room(footprint_bytes, client)

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once (or twice: for memory and for disk) when there may be room again. A
        stream that has no record settles none: other streams have the memory that it lacks, so it
        waits for theirs.
        """
        if self.engine.is_idle:
            if not self._memory_waiters:
                call_soon = asyncio.get_running_loop().call_soon
                self.memory.when_given(lambda: call_soon(self._tell_memory_waiters))
            self._memory_waiters[callback] = None
        else:
            self._driver.when_room(callback)
        if self._spool is not None:
            self._spool.when_room(callback)

    def _tell_memory_waiters(self) -> None:
        waiters, self._memory_waiters = self._memory_waiters, {}
        call_back(waiters, self.name)

    def refuse(self, reason: RefuseReason, record_count: int, byte_count: int) -> None:
        """Counts records that were refused at the door. The limit that they broke may be out of
        date: then the service is asked for it again.
        """
        self.counters.refuse(reason, record_count, byte_count)
        if reason is RefuseReason.INVALID:
            self._driver.doubt_limits()

    def close(self) -> None:
        """Ends its timers: the stream waits for nothing any more."""
        self.inquiry.close()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()


NO_ROOM_ON_DISK = Refused(
    RefuseReason.FULL,
    "ProvisionedThroughputExceededException",
    "The spool is full: nothing was taken. Try again later.",
    is_permanent=False,
)


def line_acknowledge(config: StreamConfig, *, has_spool: bool) -> Acknowledge:
    """The acknowledgement of lines for which the client chooses none: `stored` where there is a
    spool, for a client that writes lines often goes away without an answer. But a stream that keeps
    order has one path for all its records: that of its `acknowledge`.
    """
    if has_spool and config.ordering == "none":
        return Acknowledge.STORED
    return Acknowledge(config.acknowledge)
