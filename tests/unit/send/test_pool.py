"""Connections that carry records: kept, used again, and ended when nobody can believe them."""

import asyncio
import gc
import random
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import uvloop

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.record import Record
from kdaemon.send.arriving import Answer, Room
from kdaemon.send.bodies import Bodies
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.connection import PIECE_BYTES, Connection, Peer
from kdaemon.send.connection_slots import ConnectionSlots
from kdaemon.send.failures import CONNECT, OVERDUE, DialError
from kdaemon.send.pool import KEEPALIVE_S, Pool
from kdaemon.send.reader import AnswerReader
from tests.kit.certificates import Authority, Files
from tests.kit.clock import jump
from tests.kit.depth import some
from tests.kit.doors import FakeTransport
from tests.kit.patience import PATIENCE_S, until
from tests.unit.http.sources import no_collector
from tests.unit.send.scripted import (
    ORDERS,
    RECORDS,
    ScriptedService,
    answering_json,
    failure,
    hang,
    opened,
    raw_server,
)
from tests.unit.send.test_client_answers import OK, TAKEN, ended, read_request

ANSWER = OK % (len(TAKEN), TAKEN)

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peers:
    """Counts the connections of a conversation, and what was asked on each."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter, int], Awaitable[bool]]) -> None:
        self.asked: list[int] = []
        self._answer = answer

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(self.asked)
        self.asked.append(0)
        is_kept = True
        while is_kept:
            await read_request(reader)
            self.asked[at] += 1
            is_kept = await self._answer(writer, self.asked[at])


async def put_times(peers: Peers, times: int, between: Callable[[], object] = lambda: None) -> None:
    async with (
        raw_server(ended(peers.converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        for _ in range(times):
            assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
            between()
            for _ in range(5):
                await asyncio.sleep(0)


pytestmark = pytest.mark.usefixtures("aws_environment")


async def answer_and_keep(writer: asyncio.StreamWriter, _: int) -> bool:
    writer.write(ANSWER)
    await writer.drain()
    return True


async def test_one_connection_carries_one_call_after_another() -> None:
    peers = Peers(answer_and_keep)
    await put_times(peers, 4)
    assert peers.asked == [4]


async def test_one_that_was_idle_for_too_long_carries_none() -> None:
    peers = Peers(answer_and_keep)
    await put_times(peers, 3, lambda: jump(KEEPALIVE_S + 1))
    assert peers.asked == [1, 1, 1]


@pytest.mark.parametrize("says", [True, False])
async def test_one_that_the_service_closes_carries_none(says: bool) -> None:
    """It says so, or just does."""

    async def answer(writer: asyncio.StreamWriter, _: int) -> bool:
        close = b"\r\nConnection: close\r\nContent"
        writer.write(ANSWER.replace(b"\r\nContent", close) if says else ANSWER)
        await writer.drain()
        return False

    peers = Peers(answer)
    await put_times(peers, 3)
    assert peers.asked == [1, 1, 1]


async def test_a_kept_one_that_fails_may_have_written_and_the_call_is_not_made_again() -> None:
    async def answer(writer: asyncio.StreamWriter, count: int) -> bool:
        return count == 1 and await answer_and_keep(writer, count)

    peers = Peers(answer)
    async with (
        raw_server(ended(peers.converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        await client.put_records(ORDERS, RECORDS)
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert (error.trouble, error.was_sent) == (Trouble.CONNECTION_LOST, True)
        assert peers.asked == [2]
        await client.put_records(ORDERS, RECORDS)
    assert peers.asked == [2, 1]


async def test_calls_at_the_same_time_have_a_connection_each_and_no_more() -> None:
    peers = Peers(answer_and_keep)
    async with (
        raw_server(ended(peers.converse)) as url,
        opened(ClientSettings(endpoint_url=url, connections_max=3)) as client,
    ):
        await asyncio.gather(*(client.put_records(ORDERS, RECORDS) for _ in range(20)))
        assert client.audit().exchanges.pool.open_count == len(peers.asked) == 3
        assert client.audit().exchanges.slots.take()
    assert sum(peers.asked) == 20


async def test_both_kinds_of_connections_are_bounded_together(service: ScriptedService) -> None:
    service.script.append(hang)
    settings = ClientSettings(
        endpoint_url=service.url,
        connections_max=1,
        connect_timeout_s=PATIENCE_S,
        read_timeout_s=5 * PATIENCE_S,
        call_timeout_s=5 * PATIENCE_S,
    )
    async with opened(settings) as client:
        held = asyncio.create_task(client.put_records(ORDERS, RECORDS))
        while not service.received:
            await asyncio.sleep(0)
        for is_put in (False, True):
            call: Awaitable[object] = (
                client.put_records(ORDERS, RECORDS)
                if is_put
                else client.call("ListShards", {}, ORDERS)
            )
            asked = asyncio.create_task(failure(call))
            while not client.audit().exchanges.slots.waiting_count:
                await asyncio.sleep(0)
            jump(PATIENCE_S)
            error = await asked
            assert (error.trouble, error.was_sent) == (Trouble.CONNECT_TIMEOUT, False)
            assert error.message.endswith(": no connection in time")
        service.script.append(answering_json({}))
        later = asyncio.create_task(client.call("ListShards", {}, ORDERS))
        while not client.audit().exchanges.slots.waiting_count:
            await asyncio.sleep(0)
        held.cancel()
        assert await later == {}


@pytest.mark.parametrize("is_dialing", [True, False])
@pytest.mark.parametrize("is_put", [True, False])
async def test_a_call_whose_time_is_over_before_a_connection_is_there_was_not_sent(
    service: ScriptedService, *, is_put: bool, is_dialing: bool
) -> None:
    """It waits for one of those there are, or for one that is being made."""
    service.script.append(hang)
    settings = ClientSettings(
        endpoint_url=service.url,
        connections_max=1 + is_dialing,
        connect_timeout_s=5 * PATIENCE_S,
        read_timeout_s=5 * PATIENCE_S,
        call_timeout_s=PATIENCE_S,
    )
    async with opened(settings) as client:
        sent = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        while not service.received:
            await asyncio.sleep(0)
        dials = 0

        async def dial(*_: object, **__: object) -> Any:
            nonlocal dials
            dials += 1
            await asyncio.Event().wait()

        connector = client.audit().exchanges.posts.http.connector
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connector, "_resolve_host", dial)
            call: Awaitable[object] = (
                client.put_records(ORDERS, RECORDS)
                if is_put
                else client.call("ListShards", {}, ORDERS)
            )
            waits = asyncio.create_task(failure(call))
            while not (dials or client.audit().exchanges.slots.waiting_count):
                await asyncio.sleep(0)
            jump(PATIENCE_S)
            errors = [await sent, await waits]
        assert [error.trouble for error in errors] == [Trouble.CALL_TIMEOUT] * 2
        assert [error.was_sent for error in errors] == [True, False]
        assert "a connection" in errors[1].message
        assert not client.audit().exchanges.bodies.byte_count
        assert client.audit().exchanges.slots.take()


async def test_whoever_waits_when_the_client_is_closed_hears_that_the_call_is_lost(
    service: ScriptedService,
) -> None:
    service.script.append(hang)
    client = await ServiceClient.open(ClientSettings(endpoint_url=service.url))
    call = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
    while not service.received:
        await asyncio.sleep(0)
    await client.aclose()
    error = await call
    assert (error.trouble, error.was_sent) == (Trouble.CONNECTION_LOST, True)
    assert not client.audit().exchanges.pool.open_count
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.UNPREPARED, False)


async def test_a_call_that_is_recalled_leaves_its_connection_to_the_next() -> None:
    peers = Peers(answer_and_keep)
    async with (
        raw_server(ended(peers.converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        for is_wanted in (False, True, False, True):
            call = client.put_records(ORDERS, RECORDS, iter([is_wanted]).__next__)
            if is_wanted:
                await call
            else:
                error = await failure(call)
                assert (error.trouble, error.was_sent) == (Trouble.CONNECT_TIMEOUT, False)
        assert not client.audit().exchanges.bodies.byte_count
    assert peers.asked == [2]


async def test_what_was_not_asked_does_not_keep_a_connection_alive() -> None:
    peers = Peers(answer_and_keep)
    async with (
        raw_server(ended(peers.converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        await client.put_records(ORDERS, RECORDS)
        for _ in range(2):
            jump(KEEPALIVE_S * 2 / 3)
            await failure(client.put_records(ORDERS, RECORDS, lambda: False))
        await client.put_records(ORDERS, RECORDS)
    assert [each for each in peers.asked if each] == [1, 1]


async def test_an_answer_before_all_is_written_is_believed_and_ends_the_connection() -> None:
    is_first = True

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_first
        if not is_first:
            await answer_and_keep(writer, 1)
        is_first = False
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 413 No\r\nContent-Length: 22\r\n\r\n{"__type":"TooLarge!"}')
        await writer.drain()
        cast("asyncio.Transport", writer.transport).pause_reading()
        await asyncio.Event().wait()

    async with (
        raw_server(ended(converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        large = [Record(b"x" * 2**20, "k") for _ in range(8)]
        error = await failure(client.put_records(ORDERS, large))
        assert (error.code, error.status) == ("Http413", 413)
        assert not client.audit().exchanges.bodies.byte_count
        while client.audit().exchanges.pool.open_count:
            await asyncio.sleep(0)


async def test_a_limit_of_slots_that_is_lowered_takes_none_away_and_raised_lets_go_on() -> None:
    slots = ConnectionSlots(2)
    assert slots.take()
    assert slots.take()
    slots.set_limit(1)
    waiting = [asyncio.create_task(slots.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    slots.give()
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    slots.set_limit(3)
    await asyncio.sleep(0)
    assert [each.done() for each in waiting] == [True, True, False]
    slots.give()
    await waiting[2]


@pytest.mark.parametrize("seed", some(range(10)))
async def test_slots_are_never_more_than_the_limit_and_none_is_lost(seed: int) -> None:
    dice, slots = random.Random(seed), ConnectionSlots(3)
    used = 0

    async def use(go: asyncio.Event) -> None:
        nonlocal used
        if not slots.take():
            await slots.wait()
        used += 1
        assert used <= 3
        try:
            await go.wait()
        finally:
            used -= 1
            slots.give()

    calls: list[tuple[asyncio.Task[None], asyncio.Event]] = []
    for _ in range(300):
        at = dice.randrange(3)
        if at == 0 or not calls:
            go = asyncio.Event()
            calls.append((asyncio.create_task(use(go)), go))
        elif at == 1:
            dice.choice(calls)[1].set()
        else:
            dice.choice(calls)[0].cancel()
        if dice.randrange(2):
            await asyncio.sleep(0)
    for _, go in calls:
        go.set()
    await asyncio.gather(*(task for task, _ in calls), return_exceptions=True)
    assert [slots.take() for _ in range(4)] == [True, True, True, False]


# One connection.

END_S = 1e9  # of the call, by the loop's clock


class Kept:
    """In a pool's place."""

    def __init__(self) -> None:
        self.kept = 0
        self.due: list[float] = []

    def forget(self, _: Connection) -> None: ...
    def keep(self, _: Connection) -> None:
        self.kept += 1

    def watch(self, due_s: float) -> None:
        self.due.append(due_s)


class Transport(FakeTransport):
    def abort(self) -> None:
        self.is_closed = True


def connected() -> tuple[Connection, Transport, Kept]:
    pool, transport = Kept(), Transport()
    peer = Peer("host", 1, None)
    connection = Connection(pool, peer, asyncio.get_running_loop())
    connection.connection_made(transport)
    return connection, transport, pool


async def test_silence_counts_from_when_all_is_written() -> None:
    connection, transport, pool = connected()
    bodies = Bodies()
    connection.pause_writing()
    connection.send(b"head", b"body", bodies.add("s", 4), Room(10), 5.0, END_S)
    assert (connection.due_s, pool.due, bodies.byte_count) == (END_S, [END_S], 4)
    connection.resume_writing()
    assert len(pool.due) == 2
    assert connection.due_s == pool.due[1] < END_S
    assert not bodies.byte_count
    assert transport.take() == b"headbody"


async def test_what_is_said_while_a_body_is_written_does_not_begin_the_silence_after_it() -> None:
    connection, transport, pool = connected()
    connection.pause_writing()
    waiter = connection.send(b"head", b"body", Bodies().add("s", 4), Room(10_000), 5.0, END_S)
    connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (connection.due_s, pool.due) == (END_S, [END_S])
    connection.resume_writing()
    assert connection.due_s == pool.due[1] < END_S
    connection.data_received(ANSWER)
    assert isinstance(await waiter, Answer)
    assert not transport.is_closed


@pytest.mark.parametrize("is_read", [True, False])
async def test_the_end_of_a_call_ends_its_connection_whatever_comes_meanwhile(
    *, is_read: bool
) -> None:
    """An answer that comes by and by, and a body that the service does not read."""
    connection, transport, pool = connected()
    bodies, end_s = Bodies(), asyncio.get_running_loop().time() + 7.0
    if not is_read:
        connection.pause_writing()
    waiter = connection.send(b"h", b"b", bodies.add("s", 1), Room(10_000), 5.0, end_s)
    jump(4.0)
    connection.data_received(ANSWER[:20])
    assert connection.due_s == pool.due[-1] == end_s
    was_due = connection.is_due
    jump(3.0)
    assert (was_due, connection.is_due) == (False, True)
    connection.expire()
    assert await waiter is OVERDUE
    assert transport.is_closed
    assert not bodies.byte_count


async def test_a_large_body_is_written_as_the_transport_takes_it_and_never_twice() -> None:
    connection, transport, _ = connected()
    bodies = Bodies()
    body = random.Random(1).randbytes(3 * PIECE_BYTES + 17)
    transport.protocol = connection
    transport.pauses_when_written = 10
    connection.send(b"head", body, bodies.add("s", len(body)), Room(10), 5.0, END_S)
    while bodies.byte_count:
        assert connection.due_s == END_S
        transport.pauses_when_written = len(transport.written) + 10
        connection.resume_writing()
    assert transport.written == b"head" + body


async def test_who_has_gone_does_not_end_another_s_request() -> None:
    connection, transport, pool = connected()
    bodies = Bodies()
    gone = connection.send(b"h", b"b", bodies.add("s", 1), Room(10_000), 5.0, END_S)
    gone.cancel()
    connection.data_received(ANSWER)  # before whoever waited runs
    assert pool.kept == 1
    waiter = connection.send(b"h", b"b", bodies.add("s", 1), Room(10_000), 5.0, END_S)
    connection.drop(gone)
    assert not transport.is_closed
    connection.data_received(ANSWER)
    outcome = await waiter
    assert isinstance(outcome, Answer)
    connection.drop(waiter)
    assert not transport.is_closed


async def test_who_goes_while_the_answer_is_due_ends_the_connection() -> None:
    connection, transport, pool = connected()
    waiter = connection.send(b"h", b"b", Bodies().add("s", 1), Room(10_000), 5.0, END_S)
    connection.data_received(ANSWER[:20])
    connection.drop(waiter)
    assert transport.is_closed
    connection.data_received(ANSWER[20:])  # read before it was closed
    connection.connection_lost(None)
    assert not pool.kept
    assert not waiter.done()


@pytest.mark.parametrize("late", [ANSWER, b"x", b"\r\n"])
async def test_what_nobody_asked_for_ends_it(late: bytes) -> None:
    connection, transport, _ = connected()
    connection.data_received(late)
    assert transport.is_closed
    assert not connection.is_usable


async def test_a_connection_that_is_lost_needs_no_collector() -> None:
    connection, _, _ = connected()
    waiter = connection.send(b"h", b"b", Bodies().add("s", 1), Room(10_000), 5.0, END_S)
    connection.data_received(ANSWER)
    await waiter
    with no_collector():
        before = sum(isinstance(each, AnswerReader) for each in gc.get_objects())
        connection.connection_lost(None)
        del connection, waiter
        after = sum(isinstance(each, AnswerReader) for each in gc.get_objects())
    assert after == before - 1


async def test_no_outcome_is_an_exception_that_was_raised() -> None:
    """Its frames would know the request, and whatever keeps it would keep the records."""
    connection, _, _ = connected()
    waiter = connection.send(b"h", b"b", Bodies().add("s", 1), Room(10), 5.0, END_S)
    connection.data_received(OK % (1000, b"x" * 1000))
    outcome = await waiter
    assert isinstance(outcome, ServiceError)
    assert outcome.__traceback__ is None


# Connections that are being made.


class Dialed:
    """A way to a connection that is made, and whose caller goes, or that fails, before it is handed
    over. As under uvloop: nobody is told that such a connection is lost.
    """

    def __init__(self, ends_with: BaseException | None = None, *, tells: bool = False) -> None:
        self.transport = Transport()
        self.connection: Connection | None = None
        self.go = asyncio.Event()
        self.is_made = asyncio.Event()
        self._ends_with = ends_with
        self._tells = tells

    async def dial(self, _: Peer, factory: Callable[[], Connection]) -> Connection:
        self.connection = factory()
        self.connection.connection_made(self.transport)
        if self._tells:
            self.transport.is_closed = True
            self.connection.connection_lost(None)
        self.is_made.set()
        await self.go.wait()
        if self._ends_with is not None:
            raise self._ends_with
        return self.connection


PEER = Peer("host", 1, None)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("ends_with", [None, DialError(CONNECT), OSError(), RuntimeError()])
async def test_a_connection_that_nobody_got_is_not_waited_for(
    ends_with: BaseException | None, *, tells: bool
) -> None:
    """None: whoever asked for it is cancelled."""
    dialed = Dialed(ends_with, tells=tells)
    pool = Pool(dialed.dial)
    asked = asyncio.create_task(pool.open(PEER))
    await dialed.is_made.wait()
    if ends_with is None:
        asked.cancel()
    else:
        dialed.go.set()
    await asyncio.wait([asked])
    assert asked.cancelled() or asked.exception() is ends_with
    assert dialed.transport.is_closed
    assert not pool.open_count
    async with asyncio.timeout(PATIENCE_S):
        await pool.aclose()


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_connection_that_is_gone_when_it_is_handed_over_is_none(*, is_lost: bool) -> None:
    """Lost, or the pool is closed meanwhile."""
    dialed = Dialed(tells=is_lost)
    pool = Pool(dialed.dial)
    asked = asyncio.create_task(pool.open(PEER))
    await dialed.is_made.wait()
    if not is_lost:
        await pool.aclose()
    dialed.go.set()
    with pytest.raises(DialError):
        await asked
    assert dialed.transport.is_closed
    assert not pool.open_count


async def cancel_as_it_is_made(files: Files | None) -> None:
    """Whoever asked goes in the very turn in which the loop has made the connection."""
    gone = asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.transport.abort()
        gone.set()

    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
    server = await asyncio.start_server(ended(converse), "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = ClientSettings(
        endpoint_url=f"{'https' if files else 'http'}://{address}",
        ca_bundle=str(files.authority) if files else None,
    )
    client = await ServiceClient.open(settings)
    call = asyncio.create_task(client.put_records(ORDERS, RECORDS))
    made = Connection.connection_made

    def connection_made(connection: Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        call.cancel()

    async with asyncio.timeout(PATIENCE_S):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "connection_made", connection_made)
            await asyncio.wait([call])
        assert call.cancelled()
        assert not client.audit().exchanges.bodies.byte_count
        await gone.wait()  # the service hears of it, and does not wait
        await client.aclose()
    assert not client.audit().exchanges.pool.open_count
    server.close()
    await server.wait_closed()


@pytest.mark.pure("puts another method in the place of one")
@pytest.mark.parametrize("is_tls", [True, False])
@pytest.mark.parametrize("runs", [asyncio.run, uvloop.run])
def test_a_call_that_is_cancelled_as_its_connection_is_made_leaves_nothing_behind(
    runs: Callable[[Coroutine[Any, Any, None]], object], tmp_path: Path, *, is_tls: bool
) -> None:
    """Under uvloop nobody is told that such a connection is lost: whoever waits for all of them to
    go, at the end of the process, would wait for ever.
    """
    files = Authority(tmp_path).issue(names=("127.0.0.1",)) if is_tls else None
    runs(cancel_as_it_is_made(files))


# Over TLS.


async def put_over_tls(files: Files, *, says_end: bool) -> None:
    """A body of many pieces arrives whole, and a service that ends the connection, with a word or
    without, costs the next call a connection and nothing else.
    """
    bodies: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_request(reader))
        writer.write(ANSWER)
        for _ in range(5):  # uvloop writes at the end of a turn
            await asyncio.sleep(0)
        if says_end:
            writer.close()
        else:
            writer.transport.abort()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = await asyncio.start_server(ended(converse), "127.0.0.1", 0, ssl=context)
    settings = ClientSettings(
        endpoint_url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        ca_bundle=str(files.authority),
    )
    dice = random.Random(1)
    async with opened(settings) as client:
        for size in (10, 5 * PIECE_BYTES):
            records = [Record(dice.randbytes(size), "k") for _ in range(2)]
            assert len((await client.put_records(ORDERS, records)).records) == 2
            sent = msgspec.json.decode(bodies[-1])["Records"]
            assert [b64decode(each["Data"]) for each in sent] == [each.data for each in records]
            assert not client.audit().exchanges.bodies.byte_count
            await until(lambda: not client.audit().exchanges.pool.open_count)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("says_end", [True, False])
@pytest.mark.parametrize("runs", [asyncio.run, uvloop.run])
def test_records_go_over_tls(
    runs: Callable[[Coroutine[Any, Any, None]], object], tmp_path: Path, *, says_end: bool
) -> None:
    files = Authority(tmp_path).issue(names=("127.0.0.1",))
    runs(put_over_tls(files, says_end=says_end))
