"""All streams in use: finds or opens the engine of a name or ARN, bounded in number.

Two names of one stream (its name, its ARN) lead to one engine, so that its shards are paced once;
the ARN is learnt from the service. Bound: `streams_max` streams; for one more an idle one is
closed, and if none is idle the newcomer is refused.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.description import StreamDescription, StreamTarget
from kdaemon.base.errors import RejectedRecord, ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import is_path, is_stream_name, parse_arn
from kdaemon.base.ports import Clock, Dice
from kdaemon.base.service import Service
from kdaemon.config import Config, StreamConfig
from kdaemon.engine import Engine, EngineSettings
from kdaemon.send.driver import Client, Describer, StreamDriver

MS = 1_000_000  # nanoseconds in a millisecond


class Spool(Protocol):
    """What stores frames before they are delivered (`spool/spool.py`)."""

    def put(self, target: "Stream", frame: Frame) -> bool: ...
    def when_room(self, callback: Callable[[], None]) -> None: ...
    def bury_dead_of(self, stream: str, frame: Frame) -> None: ...


class Stream:
    """One stream as its clients' side, and the spool, see it."""

    __slots__ = (
        "_clock",
        "_driver",
        "_spool",
        "acknowledge",
        "config",
        "counters",
        "deadline_ns",
        "engine",
        "submit",
        "unix_acknowledge",
    )

    def __init__(
        self, config: StreamConfig, driver: StreamDriver, clock: Clock, spool: Spool | None
    ) -> None:
        self.config = config
        self.engine = driver.engine
        self.counters = driver.engine.counters
        self.acknowledge = Acknowledge(config.acknowledge)
        self.unix_acknowledge = unix_acknowledge(config, has_spool=spool is not None)
        self._spool = spool
        self.deadline_ns = config.deadline_ms * MS  # from admission
        self.submit = driver.submit  # bound once: it is called for every request
        self._driver = driver
        self._clock = clock

    @property
    def name(self) -> str:
        return self.config.arn or self.config.name

    @property
    def record_bytes_max(self) -> int:
        return self.engine.record_bytes_max

    def refusal(self) -> ServiceError | None:
        """Why a waiting client should hear no at once (the stream is missing)."""
        return self.engine.refuses(self._clock.now_ns()) if self.engine.hold else None

    @property
    def unavailable(self) -> ServiceError | None:
        """Why no record is taken at all now, whatever its client waits for."""
        return self.engine.unavailable

    @property
    def drops_oldest(self) -> bool:
        return self.config.when_full == "drop_oldest"

    def store(self, frame: Frame) -> bool:
        """Takes a checked frame to disk: its client is called back after the commit. False, and
        nothing was taken, if there is no room. Raises RejectedRecord if there is no spool, or its
        disk is in trouble.
        """
        if self._spool is None:
            raise RejectedRecord(
                "InvalidArgumentException",
                "There is no spool to store in: set spool.directory in kdaemon's configuration.",
            )
        if frame.held_bytes > self.config.buffer_bytes_max:
            raise RejectedRecord(
                "ValidationException",
                f"These records take {frame.held_bytes} bytes of memory to deliver, and"
                f" the stream has {self.config.buffer_bytes_max} in all (buffer_bytes_max).",
            )
        return self._spool.put(self, frame)

    def bury_dead_of(self, frame: Frame) -> None:
        """An `accepted` frame is settled: its dead records go to the dead letters, if there is a
        spool to keep them.
        """
        if self._spool is not None:
            self._spool.bury_dead_of(self.name, frame)

    def submit_spooled(self, frame: Frame) -> bool:
        """Takes a frame that stands in the spool while half of what the stream may hold is free:
        that is for clients that wait.
        """
        if self.engine.ledger.held_bytes > self.config.buffer_bytes_max // 2:
            return False
        return self._driver.submit_spooled(frame)

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Calls back once when something has settled."""
        self._driver.when_room(callback)

    def has_room(self, held_bytes: int) -> bool:
        return self.engine.ledger.has_room(held_bytes)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Calls back once (or twice: memory, disk) when there may be room again."""
        self._driver.when_room(callback)
        if self._spool is not None:
            self._spool.when_room(callback)

    def reject(self, reason: RejectReason, record_count: int, byte_count: int) -> None:
        """Counts records that were refused at the door; the limit that they broke may be old."""
        self.counters.refuse(reason, record_count, byte_count)
        if reason is RejectReason.INVALID:
            self._driver.doubt_limits()


class Streams:
    """The registry. Owned by the daemon; used by the listeners' side."""

    def __init__(
        self,
        config: Config,
        client: Client,
        discovery: Describer,
        clock: Clock,
        dice: Dice,
        memory: ByteBudget,
        spool: Spool | None = None,
    ) -> None:
        self.memory = memory
        self._spool = spool
        self._config = config
        self._client = client
        self._discovery = discovery
        self._clock = clock
        self._dice = dice
        self._by_name: dict[str, Stream] = {}  # names and ARNs as clients write them
        self._drivers: dict[Stream, StreamDriver] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self.door = StreamCounters()  # records refused before their stream was known

    def find(self, name: str) -> Stream:
        """The stream of this name or ARN. Raises RejectedRecord if nobody may write to it here."""
        stream = self._by_name.get(name)
        return stream if stream is not None else self._open(name)

    def open_listed(self) -> None:
        """Opens every stream that the configuration names, so that its shards are known and its
        metrics are there before its first record.
        """
        for name in self._config.streams:
            self.find(name)

    def engines(self) -> Iterable[tuple[str, Engine]]:
        return [(stream.name, stream.engine) for stream in self._drivers]

    @property
    def delivered(self) -> int:
        """Records, of the streams that are open."""
        return sum(stream.engine.counters.delivered for stream in self._drivers)

    @property
    def spooled(self) -> int:
        """Records on disk and in no engine."""
        return sum(stream.counters.spooled for stream in self._drivers)

    @property
    def undelivered(self) -> int:
        """Records that are taken and neither delivered nor dead, or withdrawn by a drain's end."""
        return sum(
            each.buffered + each.in_flight + each.rejected[RejectReason.DRAINING]
            for each in (stream.engine.counters for stream in self._drivers)
        )

    def begin_drain(self) -> None:
        self._is_draining = True
        for driver in self._drivers.values():
            driver.begin_drain()

    async def wait_idle(self) -> None:
        await asyncio.gather(*(driver.wait_idle() for driver in self._drivers.values()))

    def give_up(self) -> None:
        for driver in self._drivers.values():
            driver.give_up()

    async def aclose(self) -> None:
        await asyncio.gather(*(driver.aclose() for driver in self._drivers.values()))
        await asyncio.gather(*self._closing)

    def _open(self, name: str) -> Stream:
        if name not in self._config.streams and not _may_exist(name, self._config.traits):
            raise RejectedRecord(
                "ValidationException",
                f"This is no name or ARN of a stream ({len(name)} characters; not shown): expected"
                " 1-128 letters, digits, `_`, `.` and `-`, or an ARN.",
            )
        config = self._config.stream(name)
        if config is None:
            raise RejectedRecord(
                "ResourceNotFoundException",
                f"Stream {name} is not listed in kdaemon's configuration: add [streams.NAME], or"
                " set accept_unlisted = true.",
            )
        for stream in self._drivers:
            if stream.config.name == config.name and stream.config.arn == config.arn:
                self._by_name[name] = stream
                return stream
        if len(self._drivers) >= self._config.streams_max and not self._close_an_idle_one():
            raise RejectedRecord(
                "LimitExceededException",
                f"kdaemon has {self._config.streams_max} streams in use (streams_max): stream"
                f" {name} is not taken.",
            )
        target = StreamTarget(config.name, config.arn or None)
        settings = _engine_settings(config, self._config.traits)
        engine = Engine(settings, self.memory, self._dice, self._clock.now_ns())
        driver = StreamDriver(target, engine, self._client, self._discovery, self._clock)
        stream = Stream(config, driver, self._clock, self._spool)
        driver.on_described = lambda description: self._alias(stream, description)
        if self._is_draining:
            driver.begin_drain()
        self._drivers[stream] = driver
        self._by_name[name] = stream
        return stream

    def _alias(self, stream: Stream, description: StreamDescription) -> None:
        """The service told the ARN: a client that uses it means this stream."""
        if description.stream_arn is not None:
            self._by_name.setdefault(description.stream_arn, stream)

    def _close_an_idle_one(self) -> bool:
        for stream, driver in self._drivers.items():
            is_idle = stream.engine.is_idle and not stream.counters.spooled
            if is_idle and stream.config.name not in self._config.streams:
                del self._drivers[stream]
                self._by_name = {k: v for k, v in self._by_name.items() if v is not stream}
                closing = asyncio.get_running_loop().create_task(driver.aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                return True
        return False


def _may_exist(name: str, service: Service) -> bool:
    """Whether the service can have a stream of this name or ARN. What no stream can be called must
    not become a label, a log line or an engine here, whoever asks for it.
    """
    if not service.has_arns:
        return is_path(name)
    return is_stream_name(name) or parse_arn(name) is not None


def _engine_settings(config: StreamConfig, service: Service) -> EngineSettings:
    return EngineSettings(
        batch_records_max=config.batch_records_max,
        batch_bytes_max=config.batch_bytes_max,
        record_bytes_max=config.record_bytes_max,
        linger_ns=config.linger_ms * MS,
        in_flight_max=config.in_flight_max,
        shard_records_per_second=max(1, round(config.shard_records_per_second * config.share)),
        shard_bytes_per_second=max(1, round(config.shard_bytes_per_second * config.share)),
        first_share=config.first_share,
        buffer_bytes_max=config.buffer_bytes_max,
        max_age_ns=config.max_age_ms * MS or None,
        is_ordered=config.ordering == "partition_key",
        aggregate_bytes_max=config.aggregate_bytes_max if config.aggregation == "kpl" else 0,
        service=service,
        is_shard_atomic=service.is_shard_atomic,
    )


def unix_acknowledge(config: StreamConfig, *, has_spool: bool) -> Acknowledge:
    """What an acknowledgement on the Unix socket means where the client does not choose.

    "auto" is `stored` where that can be; but a stream that keeps order has one path for all its
    records, the one that `acknowledge` takes.
    """
    if config.unix_acknowledge != "auto":
        return Acknowledge(config.unix_acknowledge)
    if has_spool and config.ordering == "none":
        return Acknowledge.STORED
    return Acknowledge(config.acknowledge)
