"""All streams in use: finds or opens the engine of a name or ARN, bounded in number.

Two names of one stream (its name, its ARN) lead to one engine, so that its shards are paced once;
the ARN is learnt from the service. Bound: `streams_max` streams; for one more an idle one is
closed, and if none is idle the newcomer is refused.
"""

import asyncio
from collections.abc import Callable, Iterable

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.description import StreamDescription, StreamTarget
from kdaemon.base.errors import RejectedRecord, ServiceError
from kdaemon.base.frame import Acknowledge
from kdaemon.base.memory import MemoryBudget
from kdaemon.base.ports import Clock, Dice
from kdaemon.config import Config, StreamConfig
from kdaemon.engine import Engine, EngineSettings
from kdaemon.send.driver import Client, Describer, StreamDriver

MS = 1_000_000  # nanoseconds in a millisecond


class Stream:
    """One stream as its clients' side sees it."""

    __slots__ = ("_clock", "_driver", "acknowledge", "config", "deadline_ns", "engine", "submit")

    def __init__(self, config: StreamConfig, driver: StreamDriver, clock: Clock) -> None:
        self.config = config
        self.engine = driver.engine
        self.acknowledge = Acknowledge(config.acknowledge)
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

    def has_room(self, held_bytes: int) -> bool:
        return self.engine.ledger.has_room(held_bytes)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Calls back once when there may be room again."""
        self._driver.when_room(callback)

    def reject(self, reason: RejectReason, record_count: int, byte_count: int) -> None:
        """Counts records that were refused at the door."""
        counters = self.engine.counters
        counters.received += record_count
        counters.received_bytes += byte_count
        counters.rejected[reason] += record_count


class Streams:
    """The registry. Owned by the daemon; used by the listeners' side."""

    def __init__(
        self, config: Config, client: Client, discovery: Describer, clock: Clock, dice: Dice
    ) -> None:
        self._config = config
        self._client = client
        self._discovery = discovery
        self._clock = clock
        self._dice = dice
        self._by_name: dict[str, Stream] = {}  # names and ARNs as clients write them
        self._drivers: dict[Stream, StreamDriver] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self.memory = MemoryBudget(config.memory_bytes_max)
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
        engine = Engine(_engine_settings(config), self.memory, self._dice, self._clock.now_ns())
        driver = StreamDriver(target, engine, self._client, self._discovery, self._clock)
        stream = Stream(config, driver, self._clock)
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
            if stream.engine.is_idle and stream.config.name not in self._config.streams:
                del self._drivers[stream]
                self._by_name = {k: v for k, v in self._by_name.items() if v is not stream}
                closing = asyncio.get_running_loop().create_task(driver.aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                return True
        return False


def _engine_settings(config: StreamConfig) -> EngineSettings:
    return EngineSettings(
        batch_records_max=config.batch_records_max,
        batch_bytes_max=config.batch_bytes_max,
        record_bytes_max=config.record_bytes_max,
        linger_ns=config.linger_ms * MS,
        in_flight_max=config.in_flight_max,
        shard_records_per_second=max(1, round(config.shard_records_per_second * config.share)),
        shard_bytes_per_second=max(1, round(config.shard_bytes_per_second * config.share)),
        buffer_bytes_max=config.buffer_bytes_max,
    )
