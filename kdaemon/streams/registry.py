"""The registry of streams: finds or opens the one engine of a stream, and bounds how many there
are.

The spelling by which a client calls a stream becomes an identity (`spellings.py`). One identity has
one engine, and an engine sends under one name or ARN for all its life. An ARN may mean a stream by
name only once the upstream's account is known (`owner.py`). An engine that was opened for the ARN
before that keeps its records until it is idle, so that no record overtakes them, and is then
closed.

Listed streams are open from the start and stay open. Their slots, half of the memory and their
places in the queue of control calls stay theirs, whatever other streams clients ask for. Unlisted
streams share the rest: to open one more, an idle unlisted one may be closed (`slots.py`). The
counts of a closed stream are kept by its upstream, so that totals never fall.
`loop_lag`: how late the event loop comes to work that is due, by the engines' wake-ups; the
heartbeat adds its own measurements.

Knows no request and no record.
Invariant: an identity has one engine at a time, by whatever spelling it is called.
Where it sits: the daemon owns it; the door and the spool find streams in it; `observe/` reads it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from kdaemon.base.counting import StreamCounters
from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.errors import RefusedError, ServiceError
from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.base.memory import ByteBudget, RestBudget
from kdaemon.base.names import parse_arn
from kdaemon.base.ports import Clock, Dice
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.config import Config, StreamConfig
from kdaemon.engine import Engine
from kdaemon.send.driver import Heard, StreamDriver
from kdaemon.streams.identity import Identity
from kdaemon.streams.inquiry import Word
from kdaemon.streams.laid_out import as_laid_out, engine_settings, is_like
from kdaemon.streams.slots import UPSTREAM_TIMES, Useless, in_the_way, no_slot
from kdaemon.streams.spellings import Spellings, no_name, not_listed
from kdaemon.streams.stream import Spool, Stream
from kdaemon.streams.upstream import Budgets, Reach, Upstream
from kdaemon.streams.upstreams import Upstreams

SPELLINGS_MAX = 10_000
"""Spellings that are remembered with their stream; when there are more, all are forgotten. Ours,
2026-11-28: a spelling is at most 2 KiB, and few streams have more than two."""

OPENED_A_STEP = 20  # listed streams opened in a step: 2 ms; ours, 2026-11-28

UNLISTED_PART = 2  # unlisted streams may have one of so many parts of memory, if any are listed


class Streams:
    """Owned by the daemon; used by the doors, the spool and the observers."""

    def __init__(
        self,
        config: Config,
        reaches: Mapping[str, Reach],
        clock: Clock,
        dice: Dice,
        memory: ByteBudget,
        spool: Spool | None = None,
    ) -> None:
        """`reaches`: how each of `config.upstream_names` is called."""
        self.memory = memory
        self._spool = spool
        self._clock = clock
        self._dice = dice
        # Found before by this spelling: nearly all requests are. The door reads it.
        self.by_spelling: dict[str, Stream] = {}
        self._streams: dict[Identity, Stream] = {}
        self._drivers: dict[Stream, StreamDriver] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._leaving: set[Stream] = set()  # a reload has no use for them: closed when idle
        self._useless = Useless()
        self._is_draining = False
        self.routes = _routes(config)
        self.loop_lag = Histogram(LAG_BOUNDS_NS)
        self.door = StreamCounters()  # records refused before their stream was known
        self._unlisted = ByteBudget(_unlisted_bytes(config, memory), memory)
        upstreams = {name: self._upstream(config, name, reach) for name, reach in reaches.items()}
        self.upstreams = Upstreams(config, upstreams)
        self.spellings = Spellings(self.upstreams)

    def _upstream(self, config: Config, name: str, reach: Reach) -> Upstream:
        return Upstream(
            config.upstream(name),
            list(config.listed_of(name).values()),
            reach,
            self._budgets(config),
            self._forget_spellings,
            may_assume=config.accept_unlisted,
        )

    def _budgets(self, config: Config) -> Budgets:
        """The memory budgets of one upstream. Of several upstreams, one that is down leaves memory
        to the others.
        """
        budgets = Budgets(self.memory, self._unlisted)
        if config.upstreams:
            return Budgets(*(RestBudget(each, UPSTREAM_TIMES) for each in budgets))
        return budgets

    def _forget_spellings(self) -> None:
        self.by_spelling.clear()

    def find(self, spelling: str) -> Stream | Refused:
        """The stream that this name, ARN or path means, opened if need be; or why no client may
        write to it here.
        """
        stream = self.by_spelling.get(spelling)
        return stream if stream is not None else self._resolve(spelling)

    def known(self, spelling: str | None) -> Stream | None:
        """The stream, if it is open already: used to count unreadable records under its name."""
        if spelling is None:
            return None
        stream = self.by_spelling.get(spelling)
        if stream is None:  # spellings are forgotten: too many, or the account was learnt
            identity = self.spellings.identity(spelling)
            stream = None if identity is None else self._streams.get(identity)
        return stream

    def config_of(self, spelling: str) -> StreamConfig:
        """The settings of the stream that this spelling means, as far as that can be told. Opens no
        stream.
        """
        stream = self.known(spelling)
        return self.spellings.config_of(spelling) if stream is None else stream.config

    def find_stored(self, name: str) -> Stream:
        """The stream of a name in the spool. Raises RefusedError for a stream that is not taken any
        more.
        """
        place = self.upstreams.stored(name)
        if place is None:
            text = f"stored for {name}, an upstream that is not configured any more"
            raise RefusedError("ResourceNotFoundException", text)
        identity = place.upstream.identities.stored(place.name)
        found: Stream | Refused = no_name(name, place.upstream.service)
        if identity is not None:
            found = self._at(place.upstream, identity)
        if isinstance(found, Refused):
            raise RefusedError(found.code, found.message)
        if found.name != name:  # at Yandex; the spool would look for its records by the new name
            text = f"stored as {name}, and now it is {found.name}: list it as it was, to deliver it"
            raise RefusedError("ResourceNotFoundException", text)
        return found

    def open_listed(self) -> Steps[None]:
        """Opens every stream that the configuration names, so that its shards are known and its
        metrics are there before its first record. In steps, for there may be a thousand.
        """
        for number, name in enumerate(self.upstreams.config.streams, 1):
            self.find(name)
            if not number % OPENED_A_STEP:
                yield

    def engines(self) -> Iterable[tuple[str, Engine]]:
        """Each engine with the name of its stream that is unique in the daemon: `@UPSTREAM/NAME`,
        or the name alone for a stream of the default upstream.
        """
        return [(stream.name, stream.engine) for stream in self._drivers]

    def audit(self) -> tuple[StreamDriver, ...]:
        """What drives the engines. Only for tests, whose time passes by hand."""
        return tuple(self._drivers.values())

    def begin_drain(self) -> None:
        """No record lingers from now on, also in engines that are opened later."""
        self._is_draining = True
        for driver in self._drivers.values():
            driver.begin_drain()

    @property
    def unsettled(self) -> int:
        """Records that are in an engine."""
        return sum(each.counters.buffered + each.counters.in_flight for each in self._drivers)

    async def finish_calls(self) -> None:
        """Makes no new call from now on; returns when the calls under way have ended."""
        await asyncio.gather(*(driver.finish_calls() for driver in self._drivers.values()))

    async def wait_idle(self) -> None:
        """Returns when every driver is idle."""
        await asyncio.gather(*(driver.wait_idle() for driver in self._drivers.values()))

    async def give_up(self) -> None:
        """Tells every client that still waits that the drain is over."""
        for driver in list(self._drivers.values()):
            await driver.give_up()

    async def aclose(self) -> None:
        """Closes all streams and upstreams, also streams that began to close before. Call it after
        the drain.
        """
        await asyncio.gather(*(each.aclose() for each in self.upstreams))
        for stream in self._drivers:
            stream.close()
        await asyncio.gather(*(driver.aclose() for driver in self._drivers.values()))
        await asyncio.gather(*self._closing)

    # Finding

    def meant(self, spelling: str) -> Stream | Refused:
        """As `find`, by what is known of the account now: for requests whose wait for the account
        is over.
        """
        place = self.upstreams.place(spelling)
        return place if isinstance(place, Refused) else self._meant(*place)

    def _meant(self, upstream: Upstream, name: str) -> Stream | Refused:
        identity = upstream.identities.of(name)
        if identity is None:
            return no_name(name, upstream.service)
        by_arn = upstream.identities.stored(name)
        old = self._streams.get(by_arn) if by_arn is not None and by_arn.account else None
        if old is not None and by_arn != identity:  # opened before the account was known
            if not old.is_idle:
                return old
            self._close(old)
        return self._at(upstream, identity)

    def _resolve(self, spelling: str) -> Stream | Refused:
        place = self.upstreams.place(spelling)
        if isinstance(place, Refused):
            return place
        upstream, name = place
        found = self._waited_in(upstream, name) or self._meant(upstream, name)
        if isinstance(found, Stream) and not found.inquiry.has_arns:
            identity = upstream.identities.of(name)
            if identity is not None and self._streams.get(identity) is found:
                if len(self.by_spelling) >= SPELLINGS_MAX:
                    self.by_spelling.clear()
                self.by_spelling[spelling] = found
        return found

    def _waited_in(self, upstream: Upstream, name: str) -> Stream | Refused | None:
        """The stream with whose requests one by this ARN must wait; None: it need not wait."""
        arn = parse_arn(name) if upstream.service.has_arns else None
        if arn is None:
            return None
        twin = upstream.twin(arn)
        if twin is not None:
            found = self._at(upstream, twin)
            if isinstance(found, Stream):
                upstream.begin_wait(found)
            return found
        stream = self._streams.get(Identity(arn.name, upstream=upstream.name))
        # A wait that was begun may still have other requests in it.
        return stream if stream is not None and stream.inquiry.has_arns else None

    def _at(self, upstream: Upstream, identity: Identity) -> Stream | Refused:
        stream = self._streams.get(identity)
        if stream is None:
            return self._open(upstream, identity)
        if not stream.is_listed and not self.upstreams.config.accept_unlisted:  # since a reload
            return not_listed(upstream, identity)
        return stream

    def _open(self, upstream: Upstream, identity: Identity) -> Stream | Refused:
        is_listed = upstream.identities.listed(identity) is not None
        if not is_listed and not self.upstreams.config.accept_unlisted:
            return not_listed(upstream, identity)
        all_config = self.upstreams.config
        closed = in_the_way(self._drivers, all_config, upstream.name, is_listed=is_listed)
        if closed is None:
            return no_slot(identity.name, len(self._drivers), all_config.streams_max)
        for each in closed:
            self._close(each)
        config = self.spellings.settings(upstream, identity)
        # A listed name as the configuration has it; at Yandex the whole path for any spelling.
        name = config.upstream_name or config.name if upstream.service.has_arns else identity.name
        target = StreamTarget(name, config.arn or None, is_listed, upstream.name)
        memory = upstream.budgets.all if is_listed else upstream.budgets.unlisted
        settings = engine_settings(config, upstream.service)
        units = all_config.billing.units
        engine = Engine(settings, memory, self._dice, self._clock.now_ns(), units)
        driver = StreamDriver(
            target, engine, upstream.client, upstream.discovery, self._clock, self.loop_lag
        )
        stream = Stream(config, upstream.service, driver, self._clock, memory, self._spool)
        driver.on_heard = partial(self._heard, stream, driver)
        if self._is_draining:
            driver.begin_drain()
        self._drivers[stream] = driver
        self._streams[identity] = stream
        return stream

    def _heard(self, stream: Stream, driver: StreamDriver, heard: Heard) -> None:
        """The service, or its silence, told of a stream. Records of an unlisted stream that it does
        not have are not kept.
        """
        upstream = self.upstreams[stream.target.upstream]
        word = Word.NO_ANSWER
        if isinstance(heard, ServiceError):
            word = Word.NOT_FOUND
            if not stream.is_listed:
                driver.give_up_missing(heard)
        elif heard is not None:
            word = Word.FOUND
            arn = parse_arn(heard.stream_arn or "")
            if arn is not None and not stream.config.arn:
                upstream.learn(Caller(arn.account, arn.region))  # asked for by its name: it is ours
        stream.inquiry.hear(word)
        upstream.look_for_silence()

    # Another configuration

    def conflicts(self, config: Config) -> tuple[str, ...]:
        """Tables of a new configuration that cannot come into force because of work that is under
        way: a stream that was not listed has records in queues of another layout; a stream that
        keeps order has records in the queues of another spelling; an upstream that a reload took
        away is still called. Changes nothing.
        """
        found = [f"upstreams.{name}" for name in self._called_yet() if name in config.upstreams]
        for upstream in self.upstreams.configured:
            if upstream.name not in config.upstream_names:
                continue
            listed = config.listed_of(upstream.name).values()
            identities = upstream.identities.relisted(listed)
            for identity, stream in self._streams.items():
                if identity.upstream == upstream.name and not stream.is_idle:
                    table = identities.listed(identity)
                    if table is None or is_like(stream.config, table, stream.service):
                        table = None
                        if stream.is_ordered:
                            table = identities.ordered_twin(identity, self._streams)
                    if table is not None:
                        found.append(f"streams.{table.name}")
        return tuple(found)

    def _called_yet(self) -> set[str]:
        """Upstreams that the configuration no longer has and that still have streams."""
        return {stream.target.upstream for stream in self._drivers} & self.upstreams.gone.keys()

    def take_config(self, config: Config, reaches: Mapping[str, Reach]) -> Steps[None]:
        """Puts another configuration in force, one that has no `conflicts`: in the first step for
        finding streams, then for one stream after the other. `reaches`: how each new upstream is
        called. No record that is queued, in flight or on disk is touched; a stream that is not
        taken any more delivers the records that it has.
        """
        is_alone = not self.upstreams.config.upstreams
        self.routes = _routes(config)
        self._unlisted.bytes_max = _unlisted_bytes(config, self.memory)
        for each in self.upstreams.configured:
            if each.name in config.upstream_names:
                identities = each.identities.relisted(config.listed_of(each.name).values())
                has_other = is_alone is bool(config.upstreams)
                budgets = self._budgets(config) if has_other else each.budgets
                for budget in budgets:
                    if isinstance(budget, RestBudget):
                        budget.bytes_max = budget.rest_of.bytes_max
                upstream = config.upstream(each.name)
                may_assume = config.accept_unlisted
                each.take_config(upstream, identities, budgets, may_assume=may_assume)
        upstreams = {
            name: self._upstream(config, name, reaches[name])
            if name in reaches
            else self.upstreams[name]
            for name in config.upstream_names
        }
        for name in reaches:
            if name in self.upstreams.gone:
                upstreams[name].closed = self.upstreams[name].closed
        self.upstreams.take_config(config, upstreams)
        self._forget_spellings()
        self._leaving.clear()
        yield
        for identity, stream in list(self._streams.items()):
            if stream in self._drivers:
                yield from self._retake(identity, stream)
                yield
        self.memory.tell_waiters()
        yield from self.open_listed()

    def _retake(self, identity: Identity, stream: Stream) -> Steps[None]:
        """Gives the stream the settings that it has in the configuration now in force, or closes
        it.
        """
        if identity.upstream not in self.upstreams:
            self._leave(stream)
            return
        upstream = self.upstreams[identity.upstream]
        is_listed = upstream.identities.listed(identity) is not None
        config = self.spellings.settings(upstream, identity)
        if not is_like(stream.config, config, stream.service):
            if self._leave(stream):
                return  # it is opened anew when a client asks for it
            config = as_laid_out(config, stream.config)
        if not is_listed and not self.upstreams.config.accept_unlisted and self._leave(stream):
            return
        memory = upstream.budgets.all if is_listed else upstream.budgets.unlisted
        stream.take_config(config, memory, is_listed=is_listed)
        yield from self._drivers[stream].take_settings(engine_settings(config, stream.service))

    def _leave(self, stream: Stream) -> bool:
        """Closes the stream now, and returns True; or has it closed when it is idle, and returns
        False.
        """
        if stream.is_idle:
            self._close(stream)
            return True
        self._leaving.add(stream)
        return False

    def look(self) -> None:
        """Closes the idle ones of the streams that a reload left behind, and streams that nobody
        has a use for; called every second or so.
        """
        for stream in [each for each in self._leaving if each.is_idle]:
            self._close(stream)
        for stream in self._useless.look(self._drivers, self._clock.now_ns()):
            self._close(stream)

    @property
    def left_upstreams(self) -> set[str]:
        """Upstreams that a reload took away and that have nothing left to deliver."""
        return self.upstreams.gone.keys() - self._called_yet()

    # Closing

    def _close(self, stream: Stream) -> None:
        driver = self._drivers.pop(stream)
        self._leaving.discard(stream)
        self._streams = {k: v for k, v in self._streams.items() if v is not stream}
        for spelling in [k for k, v in self.by_spelling.items() if v is stream]:
            del self.by_spelling[spelling]
        stream.close()
        self.upstreams[stream.target.upstream].close(stream)
        closing = asyncio.get_running_loop().create_task(driver.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _routes(config: Config) -> dict[str, str]:
    """By each spelling with which a raw line may call a listed stream: the name or ARN by which it
    is found.
    """
    routes = {name: each.arn or name for name, each in config.streams.items()}
    return routes | {each.arn: each.arn for each in config.streams.values() if each.arn}


def _unlisted_bytes(config: Config, memory: ByteBudget) -> int:
    return memory.bytes_max // (UNLISTED_PART if config.streams else 1)
