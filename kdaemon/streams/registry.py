"""The registry of streams: finds or opens the one engine of a stream, bounded in number.

What a client calls a stream by becomes an identity first (`identity.py`); the same identity is the
same engine. Listed streams are open from the start and stay open; their slots, half of the memory
and their place in the queue of control calls are theirs, whatever is asked for besides. Unlisted
streams share what is left: `streams_max` bounds them all, and for one more an idle one is closed,
one that turned out not to exist first. What a closed stream has counted is kept in `closed`, so
that totals never fall.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.description import StreamDescription, StreamTarget
from kdaemon.base.errors import RejectedRecord, ServiceError
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import parse_arn, partition_problem
from kdaemon.base.ports import Clock, Dice
from kdaemon.base.refused import Refused
from kdaemon.base.service import Service
from kdaemon.config import Config, StreamConfig
from kdaemon.engine import Engine, EngineSettings
from kdaemon.send.driver import Client, Describer, StreamDriver
from kdaemon.streams.identity import Identities, Identity, Meaning
from kdaemon.streams.stream import MS, Spool, Stream, Word

log = logging.getLogger("kdaemon.streams")

SPELLINGS_MAX = 10_000
"""Spellings that are remembered beside their stream; all are forgotten when there are more. Ours,
2026-11-28: a spelling is at most 2 KiB, and few streams have more than two."""

UNLISTED_PART = 2  # unlisted streams may hold one part in so many of the memory, if any are listed


class Streams:
    """Owned by the daemon; used by the doors, the spool and those who look."""

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
        part = UNLISTED_PART if config.streams else 1
        self._unlisted_memory = ByteBudget(memory.bytes_max // part, memory)
        self._spool = spool
        self._config = config
        self._client = client
        self._discovery = discovery
        self._clock = clock
        self._dice = dice
        self._identities = Identities(config)
        self._by_spelling: dict[str, Stream] = {}
        self._streams: dict[Identity, Stream] = {}
        self._drivers: dict[Stream, StreamDriver] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self.door = StreamCounters()  # records refused before their stream was known
        self.closed = StreamCounters()  # what streams have counted that are closed

    def find(self, spelling: str) -> Stream | Refused:
        """The stream that this name, ARN or path means; or why nobody may write to it here."""
        stream = self._by_spelling.get(spelling)
        return stream if stream is not None else self._resolve(spelling)

    def is_assumed(self, spelling: str) -> bool:
        """Whether this is an ARN of which nobody knows yet whether the daemon's account is meant:
        word of the stream that goes by the same name may tell.
        """
        meaning = self._identities.of(spelling)
        return meaning is not None and meaning.is_assumed and parse_arn(spelling) is not None

    def known(self, spelling: str | None) -> Stream | None:
        """The stream, if it is open already: to count what cannot be read under its name."""
        if spelling is None:
            return None
        stream = self._by_spelling.get(spelling)
        if stream is None:  # spellings are forgotten when there are many, or the account is learnt
            meaning = self._identities.of(spelling)
            stream = None if meaning is None else self._streams.get(meaning.identity)
        return stream

    def find_stored(self, name: str) -> Stream:
        """For the spool. Raises RejectedRecord for a stream that is not taken any more."""
        found = self.find(name)
        if isinstance(found, Refused):
            raise RejectedRecord(found.code, found.message)
        return found

    def is_listed(self, name: str) -> bool:
        """Whether the configuration names the stream that this means."""
        meaning = self._identities.of(name)
        return meaning is not None and self._identities.listed(meaning.identity) is not None

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
        """Records, since the start."""
        return self.closed.delivered + sum(each.counters.delivered for each in self._drivers)

    @property
    def spooled(self) -> int:
        """Records on disk and in no engine."""
        return sum(stream.counters.spooled for stream in self._drivers)

    @property
    def undelivered(self) -> int:
        """Records that are taken and neither delivered nor dead, or withdrawn by a drain's end."""
        return sum(
            each.buffered + each.in_flight + each.rejected[RejectReason.DRAINING]
            for each in (self.closed, *(stream.counters for stream in self._drivers))
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
        for stream in self._drivers:
            stream.close()
        await asyncio.gather(*(driver.aclose() for driver in self._drivers.values()))
        await asyncio.gather(*self._closing)

    # Finding

    def _resolve(self, spelling: str) -> Stream | Refused:
        meaning = self._identities.of(spelling)
        if meaning is not None and meaning.is_assumed and self._client.account_id:
            self._learn(self._client.account_id, "")
            meaning = self._identities.of(spelling)
        if meaning is None:
            return _no_name(spelling, self._config.traits)
        stream = self._streams.get(meaning.identity)
        config = self._identities.listed(meaning.identity)
        if config is not None and meaning.is_assumed and spelling != config.arn:
            refused = self._hold_to_listed(spelling, config, stream)
            if refused is not None:
                return refused
        if stream is None:
            opened = self._open(spelling, meaning, config)
            if isinstance(opened, Refused):
                return opened
            stream = opened
        elif parse_arn(spelling) is None:
            self._call_by_name(stream)
        if len(self._by_spelling) >= SPELLINGS_MAX:
            self._by_spelling.clear()
        self._by_spelling[spelling] = stream
        return stream

    def _hold_to_listed(
        self, spelling: str, config: StreamConfig, stream: Stream | None
    ) -> Refused | None:
        """An ARN of a listed stream's name, while nobody knows the daemon's own account: it is
        taken only where any stream is. It may be another account's.
        """
        if parse_arn(spelling) is None or self._config.accept_unlisted:
            return None
        is_asking = stream is not None and not stream.has_word
        return Refused(
            RejectReason.UNLISTED,
            "ServiceUnavailable" if is_asking else "ResourceNotFoundException",
            f"kdaemon does not know its own account{' yet' if is_asking else ''}, and this ARN of"
            f" stream {config.name} is not in its configuration: call the stream by its name, or"
            " list it by its ARN.",
            is_permanent=not is_asking,
        )

    def _open(
        self, spelling: str, meaning: Meaning, listed: StreamConfig | None
    ) -> Stream | Refused:
        identity = meaning.identity
        if listed is None and not self._config.accept_unlisted:
            return Refused(
                RejectReason.UNLISTED,
                "ResourceNotFoundException",
                f"Stream {spelling} is not listed in kdaemon's configuration: add [streams.NAME],"
                " or set accept_unlisted = true.",
                is_permanent=True,
            )
        if len(self._drivers) >= self._config.streams_max and not self._close_an_idle_one():
            return Refused(
                RejectReason.SLOTS,
                "LimitExceededException",
                f"kdaemon has {self._config.streams_max} streams in use (streams_max): stream"
                f" {spelling} is not taken now.",
                is_permanent=False,
            )
        config = listed
        if config is None:
            # An ARN of the daemon's own account is the same as the name; one that may be another's
            # is sent as the client wrote it.
            is_by_arn = meaning.is_assumed or identity.account
            arn = spelling if is_by_arn and parse_arn(spelling) is not None else ""
            config = replace(self._config.default, name=identity.name, arn=arn)
        name = self._name_sent(config, identity)
        target = StreamTarget(name, config.arn or None, is_listed=listed is not None)
        memory = self.memory if listed is not None else self._unlisted_memory
        settings = _engine_settings(config, self._config.traits)
        engine = Engine(settings, memory, self._dice, self._clock.now_ns())
        driver = StreamDriver(target, engine, self._client, self._discovery, self._clock)
        stream = Stream(
            config,
            self._config.traits,
            driver,
            self._clock,
            memory,
            self._spool,
            is_listed=listed is not None,
        )
        driver.on_described = lambda description: self._described(stream, driver, description)
        driver.on_missing = lambda error: _missing(stream, driver, error)
        driver.on_no_answer = lambda: stream.hear(Word.NO_ANSWER)
        if self._is_draining:
            driver.begin_drain()
        self._drivers[stream] = driver
        self._streams[identity] = stream
        return stream

    def _name_sent(self, config: StreamConfig, identity: Identity) -> str:
        """A listed name as it is written; at Yandex the whole path, whatever it was called by."""
        return config.name if self._config.traits.has_arns else identity.name

    # What the service tells

    def _described(
        self, stream: Stream, driver: StreamDriver, description: StreamDescription
    ) -> None:
        arn = parse_arn(description.stream_arn or "")
        if arn is not None and driver.target.arn is None:
            self._learn(arn.account, arn.region)
        stream.hear(Word.FOUND)

    def _learn(self, account: str, region: str) -> None:
        """The daemon's own account and region: what was assumed so far is put right."""
        if not self._identities.learn(account, region):
            return
        self._by_spelling.clear()
        moved: dict[Identity, Stream] = {}
        for identity, stream in list(self._streams.items()):
            arn = parse_arn(self._drivers[stream].target.arn or "")
            meaning = None if arn is None else self._identities.of(arn.text)
            if meaning is not None and meaning.identity != identity:
                del self._streams[identity]
                moved[meaning.identity] = stream
        for identity, stream in moved.items():  # when all have left the places that were not theirs
            self._streams.setdefault(identity, stream)

    def _call_by_name(self, stream: Stream) -> None:
        """A stream that was opened by an ARN is called by its name as well, and perhaps nobody
        knows whose account the ARN has. The name is the daemon's own: no client's ARN may lead the
        records of others to another account.
        """
        driver = self._drivers[stream]
        if driver.target.arn is not None and not stream.is_listed:
            driver.target = StreamTarget(driver.target.name)
            stream.doubt()  # what was told of the ARN does not tell whose account the name has
            text = "the stream is called by its name from now on, no more by the ARN of a client"
            log.warning(text, extra={"fields": {"stream": stream.name}})

    # Closing

    def _close_an_idle_one(self) -> bool:
        idle = [
            stream
            for stream in self._drivers
            if not (
                stream.is_listed
                or not stream.engine.is_idle
                or stream.counters.spooled
                or stream.is_waited_for
            )
        ]
        if not idle:
            return False
        missing = (each for each in idle if each.was_missing)
        self._close(next(missing, idle[0]))
        return True

    def _close(self, stream: Stream) -> None:
        driver = self._drivers.pop(stream)
        self._streams = {k: v for k, v in self._streams.items() if v is not stream}
        self._by_spelling = {k: v for k, v in self._by_spelling.items() if v is not stream}
        stream.close()
        self.closed.add(stream.counters)
        closing = asyncio.get_running_loop().create_task(driver.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _missing(stream: Stream, driver: StreamDriver, error: ServiceError) -> None:
    """The service has no such stream. Nothing is kept for one that nobody listed."""
    stream.hear(Word.NOT_FOUND)
    if not stream.is_listed:
        driver.give_up_missing(error)


def _no_name(spelling: str, service: Service) -> Refused:
    expected = (
        "1-128 letters, digits, `_`, `.` and `-`, or an ARN" if service.has_arns else "a path"
    )
    problem = partition_problem(spelling) if service.has_arns else None
    text = f"expected {expected}" if problem is None else f"this ARN {problem}"
    return Refused(
        RejectReason.UNLISTED,
        "ValidationException",
        f"This is no name or ARN of a stream ({len(spelling)} characters; not shown): {text}.",
        is_permanent=True,
    )


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
