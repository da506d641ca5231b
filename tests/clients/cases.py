"""What goes well or wrong while a client puts, and what its user is told: a case each.

A case runs one client in front of a daemon on its defaults, in front of a sandbox that does what
the case says, and reads the stream back. `Outcome.problem` says what no client may see: a record
that was told as delivered and is not there, or is there twice though the daemon never counted a
record as in doubt.
"""

import contextlib
import itertools
import json
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.clients.program import Client, Program, Told
from tests.kit.certificates import Authority
from tests.kit.daemon import Daemon, running, sandbox
from tests.kit.endpoints import Endpoint, data_of
from tests.kit.patience import wait_for

SHARDS = 2
RECORDS = 10
FILLING = b"fillings, "  # what the memory of a stream is filled with
FULL_S = 10.0  # how long there is no room, for who goes on trying
OUTAGE_S = 27.0  # longer than all but one of the SDKs keep trying
PUT_EACH_S = 0.02  # while the daemon is started again, as an application does it

# As a user has it: what the kit sets for busy machines is set back.
DEFAULTS = {
    "default.deadline_ms": 5_000,
    "send.call_timeout_ms": 15_000,
    "drain.lame_duck_ms": 1_000,
    "drain.deadline_ms": 25_000,
}


@dataclass
class Outcome:
    """`ok`, `failed`: records by what their user was told. `read`: how often each is there.
    `doubted`: what the daemon counted as written perhaps, of which a client that tries again may
    write it twice: a call may always be in flight when a client's time is over.
    """

    ok: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    read: Counter[str] = field(default_factory=Counter)
    doubted: int = 0

    def add(self, records: list[tuple[str, str]], told: Told) -> None:
        for position, (_, text) in enumerate(records):
            is_failed = bool(told.error) or position in told.failed
            (self.failed if is_failed else self.ok).add(text)
        if told.error:
            self.errors.append(told.error)

    @property
    def lost(self) -> int:
        return len(self.ok - set(self.read))

    @property
    def repeated(self) -> int:
        return sum(count - 1 for count in self.read.values())

    @property
    def problem(self) -> str:
        """What must not be; "" if nothing."""
        if self.lost:
            return f"{self.lost} records were told as delivered and are not there"
        if self.repeated and not self.doubted:
            return f"{self.repeated} records are there again"
        return ""

    @property
    def words(self) -> str:
        """As a cell of a table."""
        told = [f"{len(self.ok)} ok"] if self.failed else ["ok"]
        if self.failed:
            there = len(self.failed & set(self.read))
            told.append(f"{len(self.failed)} told failed" + (f" ({there} there)" if there else ""))
        told += [f"{self.lost} LOST"] if self.lost else []
        told += [f"{self.repeated} twice"] if self.repeated else []
        return ", ".join(told)


class World:
    """A sandbox and a daemon in front of it, which can be started again at the same address."""

    def __init__(self, directory: Path, client: Client, settings: dict[str, object]) -> None:
        self._directory = directory
        self._client = client
        self._settings = {**DEFAULTS, **settings}
        self._certificate = Authority(directory).issue() if client.is_tls else None
        if self._certificate is not None:
            self._settings |= self._certificate.settings
        self.stream = "clients"
        if client.has_spool:
            self._settings["spool.directory"] = str(directory / "spool")
        if client.is_socket:
            table = f"streams.{self.stream}"
            self._settings |= {f"{table}.socket": self._socket, f"{table}.lines": "raw"}
        self._stack = contextlib.ExitStack()
        self._daemon_stack = contextlib.ExitStack()

    @property
    def _socket(self) -> str:
        return str(self._directory / "own.sock")

    @property
    def address(self) -> str:
        """What the client is given as its endpoint."""
        return self._socket if self._client.is_socket else self.daemon.url

    def __enter__(self) -> Self:
        url = self._stack.enter_context(sandbox(self.stream, SHARDS))
        self.endpoint = Endpoint("sandbox", url=url, put_url=url)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon_stack.close()
        self._stack.close()

    def start(self) -> None:
        self.daemon: Daemon = self._daemon_stack.enter_context(
            running(self._directory, self._settings, service=self.endpoint.url)
        )
        self._settings["listen.http"] = f"127.0.0.1:{self.daemon.port}"

    def stop(self) -> None:
        assert self.daemon.stop() == 0
        self._daemon_stack.close()

    def kill(self) -> None:
        self.daemon.signal(signal.SIGKILL)
        self._daemon_stack.close()

    def put_accepted(self, text: str) -> bool:
        """Gives the daemon a record of its own to hold; False when it is refused."""
        request = urllib.request.Request(
            f"{self.daemon.url}/v1/streams/{self.stream}/records",
            json.dumps({"data": text}).encode(),
            {"X-Kdaemon-Acknowledge": "accepted", "X-Kdaemon-Lines": "envelope"},
        )
        try:
            trust = None if self._certificate is None else self._certificate.client()
            with urllib.request.urlopen(request, context=trust) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def read(self, told: set[str]) -> Counter[str]:
        """What is in the stream when nothing is on its way any more, aggregates taken apart.
        `told`: is waited for, because a client may be told before the daemon has read it.
        """
        with contextlib.suppress(AssertionError):  # else it is lost, as the outcome says
            wait_for(lambda: told <= set(self._found()) or None, "what was told as delivered")
        wait_for(lambda: self._spooled == 0 or None, "an empty spool")
        self.daemon.wait_settled()
        return self._found()

    @property
    def _spooled(self) -> int:
        return self.daemon.counted("kdaemon_records_spooled")

    def _found(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for record in self.endpoint.read_stream(self.stream):
            found.update(self._texts_of(data_of(record)))
        return found

    def _texts_of(self, data: bytes) -> list[str]:
        return [] if data.startswith(FILLING) else self._client.texts_of(data)


def numbered(name: str, count: int = RECORDS) -> list[tuple[str, str]]:
    return [(f"key-{number}", f"{name}-{number}") for number in range(count)]


Run = Callable[[World, Program, Outcome], object]


@dataclass(frozen=True)
class Case:
    """`is_long`: too long for every run of the tests."""

    name: str
    title: str
    run: Run
    settings: dict[str, object] = field(default_factory=dict)
    is_long: bool = False
    all_go_well: bool = True


def _put(world: World, program: Program, outcome: Outcome, operation: str, count: int) -> None:
    records = numbered(operation, count)
    outcome.add(records, program.put(operation, world.stream, records))


def _after(fault: dict[str, object]) -> Run:
    """PutRecords while the service does something once or twice."""

    def run(world: World, program: Program, outcome: Outcome) -> None:
        world.daemon.inject(fault)
        _put(world, program, outcome, "PutRecords", RECORDS)

    return run


def _full(world: World, program: Program, outcome: Outcome) -> None:
    """The service throttles, and others have filled the memory of the stream."""
    world.daemon.inject({"kind": "throttle", "calls": None})
    while world.put_accepted(FILLING.decode() * 2_000):
        pass
    records = numbered("full")
    program.begin("PutRecords", world.stream, records)
    told = program.told_within(FULL_S)
    world.daemon.clear_faults()
    outcome.add(records, told or program.told())  # some try until there is room
    world.daemon.wait_settled()
    records = numbered("room")
    outcome.add(records, program.put("PutRecords", world.stream, records))
    assert outcome.ok, "there is room again, and nothing is taken"


def _outage(world: World, program: Program, outcome: Outcome) -> None:
    world.daemon.inject({"kind": "throttle", "calls": None})
    program.begin("PutRecords", world.stream, numbered("outage"))
    time.sleep(OUTAGE_S)
    world.daemon.clear_faults()
    outcome.add(numbered("outage"), program.told())


def _restart(world: World, program: Program, outcome: Outcome) -> None:
    """One record after another, while the daemon stops and another starts."""

    def restart() -> None:
        world.stop()
        world.start()

    def put(number: int) -> None:
        record = (f"key-{number}", f"restart-{number}")
        outcome.add([record], program.put("PutRecord", world.stream, [record]))

    numbers = itertools.count()
    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        while not restarted.done():
            put(next(numbers))
            time.sleep(PUT_EACH_S)
        restarted.result()
    last = next(numbers)
    put(last)
    assert f"restart-{last}" in outcome.ok, "the daemon is back, and takes nothing"


CASES = (
    Case("put_record", "PutRecord", lambda w, p, o: _put(w, p, o, "PutRecord", 1)),
    Case("put_records", "PutRecords", lambda w, p, o: _put(w, p, o, "PutRecords", RECORDS)),
    Case(
        "partial",
        "3 of 10 fail",
        _after({"kind": "record_failure", "indices": [1, 4, 7]}),
    ),
    Case("throttle", "2 calls throttled", _after({"kind": "throttle", "calls": 2})),
    Case("error", "a 500", _after({"kind": "status", "status": 500})),
    Case("lost_answer", "written, answer lost", _after({"kind": "reset", "is_written": True})),
    Case(
        "full",
        "no room, then room",
        _full,
        {"default.buffer_bytes_max": 1024 * 1024},
        all_go_well=False,
    ),
    Case("restart", "a restart", _restart, is_long=True, all_go_well=False),
    Case("outage", "27 s of throttling", _outage, is_long=True, all_go_well=False),
)


@contextlib.contextmanager
def opened(directory: Path, client: Client, case: Case) -> Iterator[tuple[World, Program]]:
    with (
        World(directory, client, case.settings) as world,
        Program(client, world.address) as program,
    ):
        yield world, program


def try_case(directory: Path, client: Client, case: Case) -> Outcome:
    """What one client's user sees of one case, and what is in the stream after it."""
    outcome = Outcome()
    with opened(directory, client, case) as (world, program):
        case.run(world, program, outcome)
        outcome.read = world.read(outcome.ok)
        outcome.doubted = world.daemon.counted("kdaemon_records_possible_duplicates_total")
    return outcome
