"""What a soak does to the daemon, and with which configurations: pure, from dice.

Each round has every event once, in an order of its own, so that a short run has all of them, too.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

MIB = 1024 * 1024
EU = "eu"  # the other upstream
PLAIN, ORDERED, KPL, BOTH = "plain", "ordered", "kpl", "kpl-ordered"
EU_PLAIN, EU_ORDERED = "eu-plain", "eu-ordered"
VISITOR = "visitor"  # its table comes and goes
ORDERED_STREAMS = frozenset({ORDERED, BOTH, EU_ORDERED})

Settings = dict[str, object]


class Event(Enum):
    REPLACE = "a restart"  # by the manner of the time
    KILL = "SIGKILL"
    RELOAD = "a right configuration"
    WRONG = "a wrong configuration"
    HALT = "SIGSTOP"
    CLOCK = "a step of the clock"


STORM = (Event.REPLACE, Event.REPLACE, Event.KILL, *(each for each in Event))
LONG_LIFE = (Event.RELOAD, Event.RELOAD, Event.WRONG, Event.HALT, Event.CLOCK, Event.CLOCK)


@dataclass(frozen=True, slots=True)
class Tempo:
    """How long things last, in seconds: between two events, a halt."""

    between_s: tuple[float, float] = (4.0, 15.0)
    halt_s: tuple[float, float] = (1.0, 55.0)


def events(dice: random.Random, kinds: tuple[Event, ...]) -> Iterator[Event]:
    """Without end; the first of these kinds is the first to happen."""
    yield kinds[0]
    while True:
        yield from dice.sample(kinds, len(kinds))


def clock_ahead_s(dice: random.Random) -> float:
    """Of the daemon's wall clock: right again, a little off, or so far off that nothing that it
    signs is taken.
    """
    kind = dice.randrange(4)
    if kind == 0:
        return 0.0
    most_s = 4 * 3600.0 if kind == 3 else 200.0
    return dice.choice((-1.0, 1.0)) * dice.uniform(1.0, most_s)


class Configurations:
    """`ports`: of the two services. The settings that need a restart are the same in all."""

    def __init__(self, dice: random.Random, ports: dict[str, int], places: Settings) -> None:
        """`places`: the spool and the Unix socket."""
        self.http = ""
        self._dice = dice
        self._ports = ports
        self._places = places

    def whole(self) -> Settings:
        """Everything is in it."""
        return {**self._fixed(), **_live(self._dice), **_VISITOR, **self._eu()}

    def right(self) -> Settings:
        """One that a daemon takes with a reload. Without the other upstream its streams would be
        taken for unlisted ones of the default upstream, so these are not accepted then.
        """
        settings = {**self._fixed(), **_live(self._dice)}
        if self._dice.random() < 0.5:
            settings |= _VISITOR
        has_eu = self._dice.random() < 0.7
        if has_eu:
            settings |= self._eu()
        return {"accept_unlisted": has_eu and self._dice.random() < 0.7, **settings}

    def wrong(self) -> Settings:
        """One that a daemon refuses, or that it could only begin with."""
        return self.whole() | dict([self._dice.choice(_WRONG)])

    def _fixed(self) -> Settings:
        port = self._ports["default"]
        return {
            **self._places,
            "listen.http": self.http,
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "account_id": "000000000000",
            "memory_bytes_max": 64 * MIB,
            "drain.lame_duck_ms": 300,
            "drain.deadline_ms": 4_000,
            "send.call_timeout_ms": 3_000,
            "spool.bytes_max": 512 * MIB,
            "default.request_bytes_max": 2 * MIB,
            "default.buffer_bytes_max": 16 * MIB,
            "streams.plain.lines": "envelope",
            "streams.ordered.ordering": "partition_key",
            "streams.ordered.acknowledge": "stored",
            "streams.kpl.aggregation": "kpl",
            "streams.kpl-ordered.aggregation": "kpl",
            "streams.kpl-ordered.ordering": "partition_key",
            "streams.kpl-ordered.acknowledge": "stored",
        }

    def _eu(self) -> Settings:
        port = self._ports[EU]
        return {
            "upstreams.eu.region": "eu-central-1",
            "upstreams.eu.account_id": "111111111111",
            "upstreams.eu.endpoint_url": f"http://127.0.0.1:{port}",
            "streams.eu-plain.upstream": EU,
            "streams.eu-ordered.upstream": EU,
            "streams.eu-ordered.ordering": "partition_key",
            "streams.eu-ordered.acknowledge": "stored",
        }


_VISITOR: Settings = {"streams.visitor.linger_ms": 90}
_WRONG: tuple[tuple[str, object], ...] = (
    ("default.linger_ms", "soon"),
    ("default.no_such_setting", 1),
    ("streams.plain.linger_ms", -1),
    ("streams.plain.upstream", "nowhere"),
    ("spool.directory", "/nowhere/spool"),
    ("metrics.emf_namespace", "Soak"),
    ("default.ordering", "partition_key"),
)


def _live(dice: random.Random) -> Settings:
    return {
        "default.deadline_ms": dice.choice((2_500, 3_000, 4_000)),
        "default.linger_ms": dice.choice((0, 20, 100)),
        "default.in_flight_max": dice.choice((1, 4, 16)),
        "default.batch_bytes_max": dice.choice((2**18, 5 * MIB)),
        "default.only_writer": dice.choice((False, True)),
    }
