"""No cycle holds data: what is done with is gone at once, whatever became of it.

A whole daemon in this process, its collector off, in front of a service that answers as it is told.
Each load is carried twice: what is made once is made the first time. What the second leaves to the
collector, and what is alive at its end, must hold no record, no frame, no body and no batch.
"""

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
import socket
import types
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.config.load import Sources, load_sources
from kdaemon.daemon.daemon import Daemon
from kdaemon.door.block import Block
from kdaemon.observe.logs import LogHandler
from kdaemon.pack.batch import Batch
from kdaemon.send.posts import Body
from kdaemon.spool.held import Part, Row
from kdaemon.spool.letters import DeadLetter
from kdaemon.system import SystemClock
from tests.kit import service as say
from tests.kit.daemon import environment
from tests.kit.patience import PATIENCE_S
from tests.kit.service import Service, answering
from tests.kit.sockets import connected, read_all

T = TypeVar("T")

MARK = b"a client's data"  # three bytes make four characters: it is found in base64, too
MARKS = (MARK, b64encode(MARK))
RECORDS = 20
MIB = 1024 * 1024
CLIENTS = 32  # at once, at most
RELEASED_S = 5.0  # for what is alive still: a commit, a timer of aiohttp
HEAD = b"Host: localhost\r\nConnection: close\r\n"
WAITING = re.compile(r"^kdaemon_records_(buffered|in_flight|spooled)\{[^}]*\} [1-9]", re.MULTILINE)
HOLDERS = (Frame, Batch, Block, Body, Part, Row, DeadLetter, Record)

SETTINGS = """
endpoint_url = "{url}"
region = "us-east-1"
streams_max = 8
[listen]
http = ""
admin = "127.0.0.1:0"
unix = "{directory}/k.sock"
[spool]
directory = "{directory}/spool"
[drain]
lame_duck_ms = 0
deadline_ms = 1000
[send]
call_timeout_ms = 300
[default]
shard_records_per_second = 1000000000
shard_bytes_per_second = 1000000000
linger_ms = 0
deadline_ms = 40000
[streams.plain]
[streams.hasty]
deadline_ms = 150
[streams.aging]
max_age_ms = 200
[streams.small]
buffer_bytes_max = 1048576
request_bytes_max = 300000
record_bytes_max = 300000
[streams.ordered]
ordering = "partition_key"
acknowledge = "stored"
[streams.kpl]
aggregation = "kpl"
"""


class _Places(logging.Handler):
    """Where the daemon listens, as its log tells."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "listening":
            fields = record.__dict__["fields"]
            self.at[fields["listener"]] = fields["at"]


@dataclass
class Place:
    """A daemon, the service behind it, and how clients reach it."""

    daemon: Daemon
    service: Service
    at: dict[str, str]
    clients: ThreadPoolExecutor  # not the loop's own, which the daemon needs for what it loads

    def connect(self, listener: str = "unix") -> socket.socket:
        return connected(self.at[listener])

    async def ask(self, request: bytes, listener: str = "unix") -> bytes:
        """The answer to one request, after which the connection ends."""

        def exchange() -> bytes:
            with self.connect(listener) as client:
                client.sendall(request)
                return read_all(client)

        return await self._at_work(exchange)

    async def speak(self, said: bytes) -> None:
        """A session of lines, to its end."""

        def converse() -> None:
            with self.connect() as client:
                client.sendall(said)
                client.shutdown(socket.SHUT_WR)
                read_all(client)

        await self._at_work(converse)

    async def leave(self, said: bytes) -> None:
        """Says this, and is gone."""

        def converse() -> None:
            with self.connect() as client:
                client.sendall(said)

        await self._at_work(converse)

    async def _at_work(self, client: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.clients, client)

    async def page(self, path: str) -> str:
        """An admin page."""
        text = await self.ask(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HEAD), "admin")
        return text.decode()

    async def settled(self) -> None:
        """Returns when nothing is in memory, on its way or on disk."""
        async with asyncio.timeout(PATIENCE_S):
            while WAITING.search(await self.page("/metrics")):
                await asyncio.sleep(0.01)

    async def carry(self, stream: str, promise: str) -> None:
        """Records of every kind of client at once, to their answers."""
        await asyncio.gather(*(self.ask(each) for each in requests(stream, promise)))
        await self.speak(lines(stream, promise))


def http(path: str, body: bytes, *headers: str) -> bytes:
    text = "".join(f"{header}\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        HEAD,
        text.encode(),
        len(body),
        body,
    )


def put(stream: str, promise: str, count: int = RECORDS, **members: object) -> bytes:
    """A PutRecords."""
    entries = [{"Data": text(base64=True), "PartitionKey": f"k{n % 5}"} for n in range(count)]
    body = json.dumps({"StreamName": stream, "Records": entries, **members}).encode()
    return kinesis("PutRecords", body, promise)


def kinesis(operation: str, body: bytes, promise: str) -> bytes:
    return http(
        "/",
        body,
        "Content-Type: application/x-amz-json-1.1",
        f"X-Amz-Target: Kinesis_20131202.{operation}",
        f"X-Kdaemon-Acknowledge: {promise}",
    )


def put_one(stream: str, promise: str) -> bytes:
    """A PutRecord."""
    members = {"StreamName": stream, "Data": text(base64=True), "PartitionKey": "k"}
    return kinesis("PutRecord", json.dumps(members).encode(), promise)


def records(count: int = RECORDS) -> bytes:
    line = b'{"data":"%b","partition_key":"k%d"}\n'
    return b"".join(line % (text().encode(), number % 5) for number in range(count))


def requests(stream: str, promise: str) -> list[bytes]:
    """One of each form over HTTP."""
    path = f"/v1/streams/{stream}/records"
    body = http(path, records(), f"X-Kdaemon-Acknowledge: {promise}")
    return [put(stream, promise), put_one(stream, promise), body]


def lines(stream: str, promise: str) -> bytes:
    """A session of lines."""
    return json.dumps({"stream": stream, "acknowledge": promise}).encode() + b"\n" + records()


def text(*, base64: bool = False) -> str:
    """A record's data; made anew each time, so that no test holds it."""
    data = MARK + b"." * 285
    return (b64encode(data) if base64 else data).decode()


# Loads: each brings records in, sees to it that all becomes of them that is to become, and ends
# when the daemon has nothing left.

Load = Callable[[Place], Awaitable[None]]


WAYS = (
    *(("plain", "delivered"), ("plain", "stored"), ("plain", "accepted"), ("ordered", "stored")),
    *(("kpl", "delivered"), ("kpl", "stored"), ("kpl", "accepted")),
)
"""Streams and promises."""


async def carried(place: Place) -> None:
    """All is well."""
    await asyncio.gather(*(place.carry(*way) for way in WAYS))


def failing(answer: say.Answering, times: int = 15) -> Load:
    """The first calls fail in this way, all others are taken."""

    async def load(place: Place) -> None:
        left = times

        def answers(data: list[bytes]) -> say.Said | None:
            nonlocal left
            left -= 1
            return answer(data) if left >= 0 else say.take_all(data)

        place.service.answers = answers
        await carried(place)

    return load


async def poisoned(place: Place) -> None:
    """One record of many is what the service refuses a whole call for: calls are halved."""

    def answers(data: list[bytes]) -> say.Said:
        is_bad = any(each.endswith(b"!") for each in data)
        return (
            (400, {"__type": "ValidationException", "message": "No."})
            if is_bad
            else (say.take_all(data))
        )

    place.service.answers = answers
    good = put("plain", "stored")
    bad = good.replace(text(base64=True)[-4:].encode(), b64encode(b"..!"), 1)
    await place.ask(bad)
    await place.ask(bad.replace(b"stored", b"accepted"))
    await place.ask(bad.replace(b"Acknowledge: stored", b"Acknowledge: delivered"))


async def expired(place: Place) -> None:
    """The service says nothing until nobody waits any more."""
    place.service.is_silent = True
    for request in requests("hasty", "delivered"):
        await place.ask(request)
    await place.leave(lines("hasty", "delivered"))
    place.service.is_silent = False


async def aged(place: Place) -> None:
    """What nobody waits for grows too old."""
    place.service.answers = say.fail_records("ProvisionedThroughputExceededException")
    for promise in ("accepted", "stored"):
        await place.carry("aging", promise)
    await place.settled()


async def refused(place: Place) -> None:
    """At the door, in every way."""
    large = text() * 8_000  # above a record's limit
    for promise in ("delivered", "stored", "accepted"):
        await place.speak(lines("plain", promise) + b"no line\n" + records())
        await place.speak(lines("plain", promise) + b'{"data":"%b"}\n' % large.encode())
        await place.ask(kinesis("PutRecords", put("plain", promise)[-900:], promise))
        body = json.dumps({"StreamName": "plain", "Records": [{"Data": text()}]}).encode()
        await place.ask(kinesis("PutRecords", body, promise))
        members = {"StreamName": "plain", "Data": large[: 2 * MIB], "PartitionKey": "k"}
        await place.ask(kinesis("PutRecord", json.dumps(members).encode(), promise))
        await place.ask(kinesis("Nothing", put_one("plain", promise), promise))
        await place.ask(put("no name!", promise))
        await place.ask(http("/v1/nowhere", records()))


async def full(place: Place) -> None:
    """More than the stream may hold, while the service is silent."""
    place.service.is_silent = True
    answers = [await place.ask(put("small", "accepted", 300)) for _ in range(10)]
    assert b"ProvisionedThroughputExceeded" in answers[-1]
    await place.leave(lines("small", "accepted") + records(300))
    for _ in range(10):
        await place.ask(put("small", "stored", 300))
    place.service.is_silent = False


async def cut_off(place: Place) -> None:
    """Clients go away in the middle of what they say."""
    for promise in ("delivered", "stored", "accepted"):
        for said in (*requests("plain", promise), lines("plain", promise)):
            for part in (len(said) // 2, len(said) - 5):
                await place.leave(said[:part])


async def left(place: Place) -> None:
    """Clients go away while the service is silent, before they are answered."""
    place.service.is_silent = True
    for promise in ("delivered", "stored", "accepted"):
        for said in (*requests("plain", promise), lines("plain", promise)):
            await place.leave(said)
    place.service.is_silent = False


async def asked_dry(place: Place) -> None:
    await place.ask(put("plain", "delivered", DryRun=True))
    await place.leave(put("plain", "delivered", DryRun=True))


async def displaced(place: Place) -> None:
    """More streams than may be open: idle ones are closed for newer ones."""
    for number in range(8):
        await place.carry(f"unlisted-{number}", "stored" if number % 2 else "delivered")
        await place.settled()


async def looked_at(place: Place) -> None:
    place.service.is_silent = True
    await place.leave(put("plain", "accepted"))
    for path in ("/", "/metrics", "/statusz", "/readyz", "/livez", "/nothing"):
        await place.page(path)
    place.service.is_silent = False


async def out_of_reach(place: Place) -> None:
    """Nobody listens where the service was, and then it is back."""
    await place.service.go_away()
    for promise in ("delivered", "stored", "accepted"):
        for request in requests("hasty", promise):
            await place.ask(request)
        await place.leave(lines("hasty", promise))
    await place.service.listen()


LOADS: dict[str, Load] = {
    "carried": carried,
    "held": failing(say.refuse("AccessDeniedException"), 5),
    "throttled": failing(say.fail_records("ProvisionedThroughputExceededException")),
    "throttled as a whole": failing(say.refuse("LimitExceededException")),
    "failed": failing(say.refuse("InternalFailure", 500)),
    "failed each": failing(say.fail_records("InternalFailure")),
    "reset": failing(say.reset),
    "dead": failing(say.refuse("ValidationException"), 10_000),
    "dead each": failing(say.fail_records("ValidationException"), 10_000),
    "of the wrong count": failing(lambda _: say.take_all([b""]), 5),
    "unreadable": failing(lambda _: (200, []), 5),
    "poisoned": poisoned,
    "expired": expired,
    "aged": aged,
    "refused": refused,
    "full": full,
    "cut off": cut_off,
    "left": left,
    "asked dry": asked_dry,
    "displaced": displaced,
    "looked at": looked_at,
    "out of reach": out_of_reach,
}


# What is looked for


def is_ours(each: object) -> bool:
    """Whether it is, or refers to, a client's data."""
    return isinstance(each, HOLDERS) or any(
        isinstance(found, Record) or is_marked(found) for found in gc.get_referents(each)
    )


def is_marked(each: object) -> bool:
    if isinstance(each, str):
        return len(each) > 100 and (MARKS[0].decode() in each or MARKS[1].decode() in each)
    return isinstance(each, bytes | bytearray) and len(each) > 100 and any(m in each for m in MARKS)


def described(each: object) -> str:
    """For people: its type, and what it holds or runs."""
    if isinstance(each, types.FrameType):
        return f"frame of {each.f_code.co_qualname}"
    if isinstance(each, BaseException):
        return f"{type(each).__name__}: {each}"
    names = {type(found).__qualname__ for found in gc.get_referents(each)}
    return f"{type(each).__qualname__} of {', '.join(sorted(names))}"


@asynccontextmanager
async def a_place(service: Service, directory: Path) -> AsyncIterator[Place]:
    """A daemon that is ready; closed at the end."""
    handler, places = LogHandler(io.StringIO(), SystemClock(), is_json=True), _Places()
    logger = logging.getLogger("kdaemon")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.addHandler(places)
    loaded = load_sources(Sources(SETTINGS.format(url=service.url, directory=directory)), {})
    daemon = Daemon(loaded, handler)
    try:
        await daemon.start(with_sandbox=False)
        with ThreadPoolExecutor(CLIENTS) as clients:
            yield Place(daemon, service, places.at, clients)
        await daemon.drain()
    finally:
        await daemon.close()
        logger.setLevel(level)
        logger.removeHandler(handler)
        logger.removeHandler(places)
        handler.close()


@pytest.fixture(scope="module")
def silent_collector() -> Iterator[None]:
    """It is off, and keeps what it finds when it is asked. What was there before these tests, and
    what a daemon made until it was ready, is none of its business, and cost it half a minute.
    """
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.set_threshold(*threshold)
        gc.unfreeze()
        gc.enable()
        gc.collect()


@pytest.fixture
def collector(silent_collector: None) -> None:
    """It has found what the test before left."""
    gc.collect()
    gc.garbage.clear()


async def assert_nothing_is_held() -> None:
    """In no cycle, and, soon, nowhere."""
    gc.collect()
    is_held = any(is_ours(each) for each in gc.garbage)
    garbage = "\n".join(sorted({described(each) for each in gc.garbage}))
    gc.garbage.clear()
    assert not is_held, f"only the collector finds these:\n{garbage}"

    def held() -> list[object]:
        return [each for each in gc.get_objects() if is_ours(each)]

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RELEASED_S):
            while held():
                await asyncio.sleep(0.05)
    assert [described(each) for each in held()] == []


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.usefixtures("collector")
async def test_what_is_done_with_is_held_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    async with answering() as service, a_place(service, tmp_path) as place:
        for _ in range(2):
            service.answers = say.take_all
            await load(place)
            service.answers = say.take_all
            await place.settled()
            await assert_nothing_is_held()


@pytest.mark.usefixtures("collector")
async def test_what_was_read_back_is_held_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    async with answering() as service:
        for _ in range(2):
            service.answers = say.refuse("AccessDeniedException")
            async with a_place(service, tmp_path) as place:
                for stream in ("plain", "ordered", "kpl"):
                    await place.carry(stream, "stored")
            gc.collect()  # what the end of a daemon leaves goes with the process
            gc.garbage.clear()
            service.answers = say.take_all
            async with a_place(service, tmp_path) as place:
                await place.settled()
                await assert_nothing_is_held()
