"""The registry of streams: finds or opens the one engine of a stream, bounded in number.

What a client calls a stream by becomes an identity first (`identity.py`); the same identity is the
same engine, and an engine is sent under one name or ARN for all its life. An ARN may mean a stream
by name only once the account is known (`owner.py`): what was opened for it before keeps its records
until it is idle, so that none overtakes them, and is then closed.

Listed streams are open from the start and stay open; their slots, half of the memory and their
place in the queue of control calls are theirs, whatever is asked for besides. Unlisted streams
share what is left: `streams_max` bounds them all, and for one more an idle one is closed, one that
turned out not to exist first. What a closed stream has counted is kept in `closed`, so that totals
never fall. `loop_lag`: how late the event loop comes to what is due, by the engines' wake-ups; the
heartbeat adds its own.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.description import Caller, StreamDescription, StreamTarget
from kdaemon.base.endpoint import region_of_endpoint
from kdaemon.base.errors import RejectedRecord, ServiceError
from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.base.limits import SHARD_BYTES_PER_SECOND
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import Arn, arn_of, parse_arn, partition_problem
from kdaemon.base.ports import Clock, Dice
from kdaemon.base.refused import Refused
from kdaemon.base.service import Service
from kdaemon.base.steps import Steps
from kdaemon.config import Config, StreamConfig
from kdaemon.engine import Engine, EngineSettings
from kdaemon.send.driver import Client, Describer, StreamDriver
from kdaemon.streams.identity import Identities, Identity
from kdaemon.streams.owner import Owner
from kdaemon.streams.stream import MS, Spool, Stream, Word

log = logging.getLogger("kdaemon.streams")

SPELLINGS_MAX = 10_000
"""Spellings that are remembered beside their stream; all are forgotten when there are more. Ours,
2026-11-28: a spelling is at most 2 KiB, and few streams have more than two."""

OPENED_A_STEP = 20  # listed streams: 2 ms; ours, 2026-11-28

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
        self._owner = Owner(client.caller, self._caller_told, self._end_lines, self._assume)
        self._first_arn: Arn | None = None  # by which a client called what may be ours
        self._keys_account = ""  # of the keys in use, as far as they tell
        client.on_new_keys = self._new_keys
        self._by_spelling: dict[str, Stream] = {}
        self._streams: dict[Identity, Stream] = {}
        self._drivers: dict[Stream, StreamDriver] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_draining = False
        # What a raw line may call a listed stream by, and how that stream is then called.
        self.routes = {name: each.arn or name for name, each in config.streams.items()}
        self.routes |= {each.arn: each.arn for each in config.streams.values() if each.arn}
        self.loop_lag = Histogram(LAG_BOUNDS_NS)
        self.door = StreamCounters()  # records refused before their stream was known
        self.closed = StreamCounters()  # what streams have counted that are closed
        self._learn(Caller(config.account_id))

    def find(self, spelling: str) -> Stream | Refused:
        """The stream that this name, ARN or path means; or why nobody may write to it here."""
        stream = self._by_spelling.get(spelling)
        return stream if stream is not None else self._resolve(spelling)

    def refusal_to_look(self, spelling: str) -> Refused | None:
        """Why nobody may ask the service here for the stream that this name, ARN or path means;
        None: it may be asked. Opens none. An ARN that may turn out to be a listed stream is the
        service's to judge.
        """
        identity = self._identities.of(spelling)
        if identity is None:
            return _no_name(spelling, self._config.traits)
        here = region_of_endpoint(self._config.endpoint_url)
        if here is not None and identity.region not in {"", here}:
            text = f"The stream is of {identity.region}, and endpoint_url is an endpoint of {here}."
            code = "InvalidArgumentException"
            return Refused(RejectReason.INVALID, code, text, is_permanent=True)
        widest = self._identities.widest(spelling)
        is_listed = any(each and self._identities.listed(each) for each in (identity, widest))
        return None if is_listed or self._config.accept_unlisted else self._not_listed(identity)

    def is_same(self, spelling: str, other: str) -> bool:
        """Whether two spellings certainly mean one stream. Opens none."""
        identity = self._identities.of(spelling)
        return identity is not None and identity == self._identities.of(other)

    def names_of(self, spelling: str, *, is_certain: bool) -> tuple[str, ...]:
        """The names by which somebody may have been allowed this stream; none: it can be none.
        Opens none. `is_certain`: an ARN that may be another account's stands for no name.
        """
        return self._identities.names(spelling, is_certain=is_certain)

    def are_distinct(self, spellings: Iterable[str]) -> bool:
        """Whether no two of these mean one stream, or may. Opens none: there may be hundreds, of a
        client that names what it likes.
        """
        identities = [each for each in map(self._identities.widest, spellings) if each is not None]
        return len(set(identities)) == len(identities)

    def known(self, spelling: str | None) -> Stream | None:
        """The stream, if it is open already: to count what cannot be read under its name."""
        if spelling is None:
            return None
        stream = self._by_spelling.get(spelling)
        if stream is None:  # spellings are forgotten when there are many, or the account is learnt
            identity = self._identities.of(spelling)
            stream = None if identity is None else self._streams.get(identity)
        return stream

    def config_of(self, spelling: str) -> StreamConfig:
        """The settings of the stream that this means, as far as that can be told. Opens none."""
        stream = self.known(spelling)
        if stream is not None:
            return stream.config
        identity = self._identities.of(spelling)
        if identity is None:
            return self._config.default
        return self._identities.listed(identity) or self._unlisted_config(identity)

    def find_stored(self, name: str) -> Stream:
        """For the spool. Raises RejectedRecord for a stream that is not taken any more."""
        identity = self._identities.stored(name)
        found = self._at(identity) if identity is not None else _no_name(name, self._config.traits)
        if isinstance(found, Refused):
            raise RejectedRecord(found.code, found.message)
        if found.name != name:  # at Yandex; the spool would look for the records by the new one
            text = f"stored as {name}, and now it is {found.name}: list it as it was, to deliver it"
            raise RejectedRecord("ResourceNotFoundException", text)
        return found

    def is_listed(self, name: str) -> bool:
        """Whether the configuration names the stream that the spool has under this name."""
        identity = self._identities.stored(name)
        return identity is not None and self._identities.listed(identity) is not None

    def open_listed(self) -> Steps[None]:
        """Opens every stream that the configuration names, so that its shards are known and its
        metrics are there before its first record. In steps: there may be a thousand.
        """
        for number, name in enumerate(self._config.streams, 1):
            self.find(name)
            if not number % OPENED_A_STEP:
                yield

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

    async def give_up(self) -> None:
        """Tells every client that still waits that the drain is over."""
        for driver in list(self._drivers.values()):
            await driver.give_up()

    async def aclose(self) -> None:
        await self._owner.aclose()
        for stream in self._drivers:
            stream.close()
        await asyncio.gather(*(driver.aclose() for driver in self._drivers.values()))
        await asyncio.gather(*self._closing)

    # Finding

    def meant(self, spelling: str) -> Stream | Refused:
        """As `find`, as far as it is known now: for requests whose wait for the account is over."""
        identity = self._identities.of(spelling)
        if identity is None:
            return _no_name(spelling, self._config.traits)
        by_arn = self._identities.stored(spelling)
        old = self._streams.get(by_arn) if by_arn is not None and by_arn.account else None
        if old is not None and by_arn != identity:  # opened before the account was known
            if not old.is_idle:
                return old
            self._close(old)
        return self._at(identity)

    def _resolve(self, spelling: str) -> Stream | Refused:
        found = self._line(spelling) or self.meant(spelling)
        if isinstance(found, Stream) and not found.is_line:
            identity = self._identities.of(spelling)
            if identity is not None and self._streams.get(identity) is found:
                if len(self._by_spelling) >= SPELLINGS_MAX:
                    self._by_spelling.clear()
                self._by_spelling[spelling] = found
        return found

    def _line(self, spelling: str) -> Stream | Refused | None:
        """The stream in whose line a request by this ARN has to stand; None: in none."""
        arn = parse_arn(spelling) if self._config.traits.has_arns else None
        if arn is None:
            return None
        if self._identities.may_be_ours(arn):
            self._owner.is_used = True
        twin = self._identities.twin(arn)
        if twin is not None and self._owner.ask():
            self._first_arn = self._first_arn or arn
            found = self._at(twin)
            if isinstance(found, Stream):
                found.begin_line()
            return found
        stream = self._streams.get(Identity(arn.name))  # others may stand there still
        return stream if stream is not None and stream.is_line else None

    def _at(self, identity: Identity) -> Stream | Refused:
        stream = self._streams.get(identity)
        return stream if stream is not None else self._open(identity)

    def _open(self, identity: Identity) -> Stream | Refused:
        listed = self._identities.listed(identity)
        if listed is None and not self._config.accept_unlisted:
            return self._not_listed(identity)
        if len(self._drivers) >= self._config.streams_max and not self._close_an_idle_one():
            return Refused(
                RejectReason.SLOTS,
                "LimitExceededException",
                f"kdaemon has {self._config.streams_max} streams in use (streams_max): stream"
                f" {identity.name} is not taken now.",
                is_permanent=False,
            )
        config = listed or self._unlisted_config(identity)
        # A listed name as it is written; at Yandex the whole path, whatever it was called by.
        name = config.name if self._config.traits.has_arns else identity.name
        target = StreamTarget(name, config.arn or None, is_listed=listed is not None)
        memory = self.memory if listed is not None else self._unlisted_memory
        settings = _engine_settings(config, self._config.traits)
        engine = Engine(settings, memory, self._dice, self._clock.now_ns())
        driver = StreamDriver(
            target, engine, self._client, self._discovery, self._clock, self.loop_lag
        )
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
        driver.on_missing = lambda error: self._missing(stream, driver, error)
        driver.on_no_answer = lambda: self._hear(stream, Word.NO_ANSWER)
        if self._is_draining:
            driver.begin_drain()
        self._drivers[stream] = driver
        self._streams[identity] = stream
        return stream

    def _unlisted_config(self, identity: Identity) -> StreamConfig:
        """[default]'s; of an ARN that may be the listed stream of the same name, that stream's, so
        that it keeps its promises and its order. But no aggregates: another account's readers may
        not take them apart.
        """
        if not identity.account:
            return replace(self._config.default, name=identity.name)
        arn = arn_of(identity.name, identity.account, identity.region)
        twin = self._identities.twin(arn)
        listed = None if twin is None else self._identities.listed(twin)
        if listed is not None:
            return replace(listed, arn=arn.text, aggregation="none")
        return replace(self._config.default, name=identity.name, arn=arn.text)

    def _not_listed(self, identity: Identity) -> Refused:
        text = (
            f"Stream {identity.name} is not listed in kdaemon's configuration: add [streams.NAME],"
            " or set accept_unlisted = true."
        )
        if identity.account:
            arn = arn_of(identity.name, identity.account, identity.region)
            text = f"Stream {arn.text} is not listed in kdaemon's configuration: list it by its ARN"
            text += ", or set accept_unlisted = true."
            if self._identities.twin(arn) is not None:
                text += " If it is kdaemon's own account's, set account_id, which is not known."
        return Refused(RejectReason.UNLISTED, "ResourceNotFoundException", text, is_permanent=True)

    # What the service tells

    def _described(
        self, stream: Stream, driver: StreamDriver, description: StreamDescription
    ) -> None:
        arn = parse_arn(description.stream_arn or "")
        if arn is not None and driver.target.arn is None:
            self._learn(Caller(arn.account, arn.region))
        self._hear(stream, Word.FOUND)

    def _missing(self, stream: Stream, driver: StreamDriver, error: ServiceError) -> None:
        """The service has no such stream. Nothing is kept for one that nobody listed."""
        self._hear(stream, Word.NOT_FOUND)
        if not stream.is_listed:
            driver.give_up_missing(error)

    def _hear(self, stream: Stream, word: Word) -> None:
        stream.hear(word)
        self._look_for_silence()

    # Whose the daemon's calls are

    def _new_keys(self, caller: Caller) -> None:
        """The calls are signed with other keys. What they tell is news only if it is new: what the
        service told weighs more than a variable.
        """
        is_news = caller.account != self._keys_account
        self._keys_account = caller.account
        if caller.account:
            self._learn(caller if is_news else Caller())
        elif self._owner.doubt():
            self._identities.forget()
            self._by_spelling.clear()
            self._learn(Caller(self._config.account_id, caller.region))

    def _caller_told(self, caller: Caller) -> None:
        """Credentials and STS said what they know."""
        self._learn(caller)
        self._look_for_silence()

    def _learn(self, caller: Caller) -> None:
        """The daemon's own account and region, as far as they are told."""
        if self._identities.learn(caller.account, caller.region):
            self._by_spelling.clear()
            wanted = self._config.account_id
            if wanted and caller.account not in {"", wanted}:
                log.error("account_id is wrong: kdaemon calls as account %s", caller.account)
        if self._identities.is_known:
            self._owner.told()

    def _assume(self) -> bool:
        """Beside a stand-in that describes nothing: the account that a client names is taken for
        ours, so that a stream keeps one pace and one order. Not where only listed streams may be
        written to: no client adds to them.
        """
        arn = self._first_arn
        if arn is None or not self._config.accept_unlisted:
            return False
        log.warning(
            "the service is a stand-in for AWS, and nobody tells kdaemon's own account: it is taken"
            " to be %s, because a client calls a stream by the ARN %s. Set account_id if it is"
            " another.",
            arn.account,
            arn.text,
        )
        self._learn(Caller(arn.account, arn.region))
        return True

    def _look_for_silence(self) -> None:
        """Nobody is left who could tell the account: no request needs to wait for it."""
        if self._owner.is_asking and self._owner.has_answered:
            lines = [stream for stream in self._drivers if stream.is_line]
            if all(stream.is_heard for stream in lines):
                self._owner.give_up()

    def _end_lines(self) -> None:
        for stream in list(self._drivers):
            if stream.is_line:
                stream.end_line()

    # Closing

    def _close_an_idle_one(self) -> bool:
        idle = [each for each in self._drivers if not each.is_listed and each.is_idle]
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
        told_quota_share=0.0
        if config.shard_bytes_per_second != SHARD_BYTES_PER_SECOND  # the operator knows better
        else config.share,
        first_share=config.first_share,
        buffer_bytes_max=config.buffer_bytes_max,
        max_age_ns=config.max_age_ms * MS or None,
        is_ordered=config.ordering == "partition_key",
        aggregate_bytes_max=config.aggregate_bytes_max if config.aggregation == "kpl" else 0,
        service=service,
        is_shard_atomic=service.is_shard_atomic,
    )
