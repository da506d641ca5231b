"""Who asks, in front of the doors; and who may write to which stream, by each way in."""

import asyncio
import json
import os
import socket
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.principal import ANYBODY, NOBODY, Principal, Rights
from kdaemon.door import access
from kdaemon.door.access import UNSIGNED, Peers, Signed
from kdaemon.door.guard import DENIED, Guard, Strangers
from kdaemon.door.principals import Principals
from kdaemon.door.routes import make_handler
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.request import HttpRequest
from kdaemon.wire import claim
from kdaemon.wire.signature import AccessKey, sign
from tests.kit.accounts import OTHERS, OURS, WAYS, Place, arn, bytes_of, is_success
from tests.kit.doors import FakeTransport
from tests.kit.streams import FakeService, turn

NOW_S = 1_795_880_096
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FILE = f"""
[shop]
streams = ["s", "app-*"]
keys = [{{ id = "AKIASHOP", secret = "{SECRET}" }}]
users = [7]
groups = [8]
"""
JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"
MIB = 1024 * 1024
KEY = AccessKey(SECRET)


@pytest.fixture
def principals(tmp_path: Path) -> Principals:
    path = tmp_path / "principals.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return Principals(str(path), lambda: NOW_S)


class Guarded(Place):
    """A daemon's doors behind one of the guards. `asked`: what was asked, in order."""

    def __init__(self, principals: Principals, *, is_signed: bool = True) -> None:
        fast = "[streams.s]\nshard_bytes_per_second = 100_000_000\nonly_writer = true\n"
        super().__init__(fast, FakeService())
        self.strangers = Strangers(lambda: NOW_S)
        guard: Guard = Peers(principals, self.strangers)
        if is_signed:
            guard = Signed(principals, self.strangers, lambda: NOW_S, self.hub.turns.later)
        self.handler = make_handler(self.kinesis, self.ndjson, guard)
        self.hub.who, self.hub.early = guard.who, guard.early

    def open(self, transport: FakeTransport | None = None) -> FakeTransport:
        found: FakeTransport = self.any(transport=transport)
        return found

    @property
    def rejected(self) -> dict[str, int]:
        counted = self.streams.door.rejected.items()
        return {reason.value: count for reason, count in counted if count}


def signed(way: str, spelling: str, *data: bytes, key_id: str = "AKIASHOP", **more: Any) -> bytes:
    """A request of this way, signed."""
    raw = bytes_of(way, spelling, list(data), "delivered")
    return sign_bytes(raw, key_id=key_id, **more)


def sign_bytes(raw: bytes, *, key_id: str = "AKIASHOP", time_s: int = NOW_S) -> bytes:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(b": ") for each in lines)}
    del headers[b"content-length"]
    path = line.split(b" ")[1].decode()
    added = sign(key_id, KEY, "us-east-1", time_s, "POST", path, headers, body)
    more = b"".join(f"{name}: {value}\r\n".encode() for name, value in added.items())
    return head + b"\r\n" + more + b"\r\n" + body


def answer(transport: FakeTransport) -> tuple[int, dict[str, Any]]:
    head, _, body = transport.take().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed, of bodies."""
    sizes: list[int] = []

    class Counting:
        def __init__(self, data: Any = b"") -> None:
            self._hash = sha256()
            self.update(data)

        def update(self, data: Any) -> None:
            if data:
                sizes.append(len(data))
            self._hash.update(data)

        def hexdigest(self) -> str:
            return self._hash.hexdigest()

    monkeypatch.setattr(access, "sha256", Counting)
    return sizes


# --- signatures


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords", "lines"])
async def test_a_signed_request_is_taken_and_nothing_else(
    way: str, principals: Principals, hashed: list[int]
) -> None:
    place = Guarded(principals)
    client = place.open()
    client.protocol.data_received(signed(way, "s", b"AAAA"))
    await place.settle()
    assert answer(client)[0] == 200
    assert len(hashed) == 1
    plain = bytes_of(way, "s", [b"AAAA", b"BBBB"][: 1 if way == "PutRecord" else 2], "delivered")
    good = signed(way, "s", b"AAAA")
    for bad, code, is_hashed in (
        (plain, "MissingAuthenticationTokenException", False),
        (good.replace(b"Credential=", b"Cred="), "IncompleteSignatureException", False),
        (signed(way, "s", b"AAAA", key_id="AKIANONE"), "UnrecognizedClientException", False),
        (signed(way, "s", b"AAAA", time_s=NOW_S - 301), "InvalidSignatureException", False),
        (signed(way, "s", b"AAAA", time_s=NOW_S + 301), "InvalidSignatureException", False),
        (good[:-8] + b"X" + good[-7:], "InvalidSignatureException", True),
        (good.replace(b"Acknowledge: delivered", b"Acknowledge: accepted"),
         "InvalidSignatureException", True),
    ):  # fmt: skip
        hashed.clear()
        before = place.streams.door.received
        client.protocol.data_received(bad)
        status, said = answer(client)
        assert (status, said["__type"]) == (400, code), said
        assert bool(hashed) is is_hashed
        is_two = b"BBBB" in bad or b"QkJC" in bad
        assert place.streams.door.received - before == 1 + is_two
    assert place.written() == {OURS: [b"AAAA"]}
    assert set(place.rejected) == {"unauthenticated"}


async def test_a_refusal_is_written_as_its_client_writes(principals: Principals) -> None:
    place = Guarded(principals)
    client = place.open()
    raw = bytes_of("PutRecord", "s", [b"a"], "delivered")
    client.protocol.data_received(raw.replace(JSON, CBOR))
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert b"Content-Type: application/x-amz-cbor-1.1" in head
    assert b"MissingAuthenticationTokenException" in body
    client.protocol.data_received(b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(client)[1]["rejected_count"] == 0
    client.protocol.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(client)[1]["__type"] == "MissingAuthenticationTokenException"


_STRANGE = b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"


@pytest.mark.parametrize(
    ("request_line", "headers", "body"),
    [
        (b"POST /", b"X-Amz-Target: Kinesis_20131202.ListStreams\r\n", b"{}"),
        (b"POST /", b"X-Amz-Target: Kinesis_20131202.GetRecords\r\n", b'{"ShardIterator": "x"}'),
        (b"POST /", b"X-Amz-Target: Kinesis_20131202.CreateStream\r\n", b'{"Records": [1, 2]}'),
        (b"POST /", b"X-Amz-Target: Kinesis_20131202.Nothing\r\n", b"{}"),
        (b"POST /", b"X-Amz-Target: DynamoDB_20120810.PutItem\r\n", b"{}"),
        (b"POST /", b"", b"{}"),
        (b"POST /", b"X-Amz-Target: Kinesis_20131202.PutRecord\r\n", b""),
        (b"GET /", b"", b""),
        (b"GET /v1/streams/s/records", b"", b""),
        (b"POST /v1/streams/s/records", b"", b""),
        (b"POST /v1/nowhere", b"", b""),
    ],
)
@pytest.mark.parametrize("is_signed", [True, False], ids=["signatures", "peers"])
async def test_a_stranger_whose_request_is_no_put_brings_no_record(
    principals: Principals, is_signed: bool, request_line: bytes, headers: bytes, body: bytes
) -> None:
    place = Guarded(principals, is_signed=is_signed)
    client = place.open()
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    client.protocol.data_received(request_line + _STRANGE + headers + length + body)
    assert answer(client)[0] in {400, 403}
    assert place.streams.door.received == 0
    assert place.rejected == {}


async def test_lines_cannot_be_signed(principals: Principals) -> None:
    place = Guarded(principals)
    client = place.open()
    client.protocol.data_received(b'\n{"stream":"s","data":"a"}\n{"stream":"s","data":"b"}\n')
    said = client.lines()
    assert [(each["rejected"], each["code"]) for each in said] == [(2, "AccessDeniedException")]
    assert "Lines cannot be signed" in said[0]["message"]
    assert client.has_written_eof
    assert place.rejected == {"unauthenticated": 2}
    assert place.hub.counters.refused["unauthenticated"] == 1
    assert place.stream("s").counters.received == 0


@pytest.mark.parametrize("way", ["PutRecord", "lines"])
@pytest.mark.parametrize("is_good", [True, False])
async def test_a_large_body_is_hashed_in_turns(
    way: str, is_good: bool, principals: Principals, hashed: list[int]
) -> None:
    place = Guarded(principals)
    client = place.open()
    big = b"A" * 900_000
    raw = bytes_of("PutRecord", "s", [big], "delivered")
    if way == "lines":
        raw = bytes_of("lines", "s", [big] * 3, "delivered")
    request = sign_bytes(raw)
    if not is_good:
        request = request[:-100] + b"R" + request[-99:]
    per_turn: list[int] = []
    other = place.open()
    for at in range(0, len(request), 200_000):
        client.protocol.data_received(request[at : at + 200_000])
    client.protocol.data_received(signed("PutRecord", "s", b"next"))
    other.protocol.data_received(signed("PutRecord", "s", b"other"))
    for _ in range(400):
        hashed.clear()
        await asyncio.sleep(0)
        per_turn.append(sum(hashed))
    await place.settle()
    assert max(per_turn, default=0) <= access.HASHED_AT_ONCE_BYTES + 1000
    heard = client.take()
    statuses = [part[:3] for part in heard.split(b"HTTP/1.1 ")[1:]]
    assert statuses == ([b"200", b"200"] if is_good else [b"400", b"200"])
    assert place.hub.bodies.bytes_taken == 0
    records = place.written()[OURS]
    assert records[-1] == b"next" or b"other" in records
    if is_good:
        assert records.index(big) < records.index(b"next"), "the next one of a connection waits"
    assert place.hub.counters.handler_failures == 0


@pytest.mark.parametrize("is_good", [True, False])
async def test_a_client_that_goes_while_its_body_is_hashed_leaves_nothing_behind(
    principals: Principals, is_good: bool, hashed: list[int]
) -> None:
    place = Guarded(principals)
    client = place.open()
    request = sign_bytes(bytes_of("lines", "s", [b"A" * 900_000] * 3, "delivered"))
    if not is_good:
        request = request[:-10] + b"B" + request[-9:]
    for at in range(0, len(request), 60_000):
        client.protocol.data_received(request[at : at + 60_000])
        await asyncio.sleep(0)
        if hashed:
            break
    assert 0 < sum(hashed) < 2_700_000, "all has come, and not all is hashed"
    assert place.hub.bodies.bytes_taken > 0
    client.protocol.connection_lost(None)
    for _ in range(400):
        await asyncio.sleep(0)
    await place.settle()
    assert place.hub.bodies.bytes_taken == 0
    assert place.streams.memory.bytes_taken == 0
    assert place.written() == {}
    assert place.hub.counters.handler_failures == 0


async def test_a_defect_behind_the_guard_is_an_answer_and_frees_the_connection(
    principals: Principals,
) -> None:
    place = Guarded(principals)
    guard = Signed(principals, place.strangers, lambda: NOW_S, place.hub.turns.later)

    def broken(request: HttpRequest) -> None:
        raise ValueError("a defect")

    def handler(request: HttpRequest) -> None:
        guard.check(request, broken, lambda *_: None)

    protocol, client = HttpProtocol(handler, hub=place.hub), FakeTransport()
    client.protocol = protocol
    protocol.connection_made(client)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    request = sign_bytes(bytes_of("lines", "s", [b"A" * 900_000] * 3, "delivered"))
    for at in range(0, len(request), 200_000):
        protocol.data_received(request[at : at + 200_000])
    protocol.data_received(signed("lines", "s", b"a"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert client.take().count(b"HTTP/1.1 500 ") == 2
    assert place.hub.bodies.bytes_taken == 0


@pytest.mark.parametrize("framing", ["length", "chunked", "expect"])
@pytest.mark.parametrize("step", [50, 20_000])
@pytest.mark.parametrize("kind", ["signed", "strange", "peer", "strange peer"])
async def test_a_body_of_a_stranger_is_refused_before_it_is_taken_in(
    kind: str, step: int, framing: str, principals: Principals
) -> None:
    place = Guarded(principals, is_signed="peer" not in kind)
    sock = Sock(8 if kind == "strange peer" else 7, 1)
    client = place.open(UnixTransport(sock) if "peer" in kind else FakeTransport())
    raw = bytes_of("lines", "s", [b"A" * 30_000] * 3, "delivered")
    if kind == "signed":
        raw = sign_bytes(raw)
    head, _, body = raw.partition(b"\r\n\r\n")
    if framing == "expect":
        head += b"\r\nExpect: 100-continue"
    elif framing == "chunked":
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head += b"\r\n\r\n"
    for at in range(0, len(head), step):
        client.protocol.data_received(head[at : at + step])
    if kind in ("strange", "strange peer"):
        sent = 0
        while not client.has_written_eof and sent < len(body):
            client.protocol.data_received(body[sent : sent + step])
            sent += step
        assert sent <= step, "one read shows that there are more"
        status, said = answer(client)
        expected = (403, DENIED) if "peer" in kind else (400, claim.MISSING.code)
        assert (status, said["__type"]) == expected
        assert place.hub.counters.refused["unauthenticated"] == 1
        assert place.hub.bodies.bytes_taken == 0
    else:
        assert client.take() == (b"HTTP/1.1 100 Continue\r\n\r\n" if framing == "expect" else b"")
        for at in range(0, len(body), step):
            client.protocol.data_received(body[at : at + step])
        for _ in range(100):
            await asyncio.sleep(0)
        await place.settle()
        assert answer(client)[0] == 200


async def test_refusals_of_strangers_are_a_line_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1000.0]
    strangers = Strangers(lambda: now[0])
    strangers.look()
    for _ in range(500):
        strangers.note("MissingAuthenticationTokenException")
        strangers.look()
    assert len(caplog.records) == 1
    now[0] += 60
    strangers.look()
    strangers.look()
    assert len(caplog.records) == 2
    told = [each.__dict__["fields"]["refused"] for each in caplog.records]
    assert told == [1, 499]
    strangers.note("x")
    now[0] -= 1000  # a clock that is set back keeps nothing quiet
    strangers.look()
    assert len(caplog.records) == 3


# --- the user at the other end of a Unix socket


class UnixTransport(FakeTransport):
    def __init__(self, sock: Any) -> None:
        super().__init__()
        self.sock = sock

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" else default


class Sock:
    """Who the kernel says is there."""

    family = socket.AF_UNIX

    def __init__(self, uid: int, gid: int) -> None:
        self.told = struct.pack("iII", 4711, uid, gid)

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return self.told[:size]

    def fileno(self) -> int:
        return -1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("uid", "gid", "is_known"), [(7, 1, True), (1, 8, True), (8, 7, False)])
async def test_a_peer_is_known_by_his_user_or_his_group(
    way: str, uid: int, gid: int, is_known: bool, principals: Principals
) -> None:
    place = Guarded(principals, is_signed=False)
    client = place.open(UnixTransport(Sock(uid, gid)))
    client.protocol.data_received(bytes_of(way, "s", [b"AAAA"], "delivered"))
    await place.settle()
    if is_known:
        assert is_success(client)
        assert place.written() == {OURS: [b"AAAA"]}
    elif way == "session":
        said = client.lines()
        assert [each["code"] for each in said] == ["AccessDeniedException"]
        assert "uid 8, gid 7 may not write here" in said[0]["message"]
        assert client.has_written_eof
    else:
        status, body = answer(client)
        assert (status, body["__type"]) == (403, "AccessDeniedException")
        assert "uid 8, gid 7 may not write here" in body["message"]
    assert place.rejected == ({} if is_known else {"unauthenticated": 1})
    assert [each.name for each in place.service.described] == ["s"]
    assert place.stream("s").counters.received == is_known


async def test_a_user_who_is_struck_off_is_refused_on_his_open_connection(
    principals: Principals,
) -> None:
    place = Guarded(principals, is_signed=False)
    lines = place.open(UnixTransport(Sock(7, 1)))
    http = place.open(UnixTransport(Sock(7, 1)))
    lines.protocol.data_received(bytes_of("session", "s", [b"a"], "delivered"))
    http.protocol.data_received(bytes_of("PutRecord", "s", [b"AAAA"], "delivered"))
    await place.settle()
    assert lines.lines() == [{"acknowledged": 1}]
    assert answer(http)[0] == 200
    path = Path(principals.path)
    path.write_text(FILE.replace("users = [7]", "users = [9]"))
    principals.look()
    assert principals.reading is not None
    await principals.reading
    await turn()
    lines.protocol.data_received(bytes_of("session", "s", [b"a"], "delivered"))
    http.protocol.data_received(bytes_of("PutRecord", "s", [b"AAAA"], "delivered"))
    await turn()
    assert [each["code"] for each in lines.lines()] == ["AccessDeniedException"]
    assert answer(http)[0] == 403


def test_whoever_has_no_socket_is_nobody(principals: Principals) -> None:
    peers = Peers(principals, Strangers(lambda: 0.0))
    assert peers.who(FakeTransport()) is NOBODY
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peers.who(UnixTransport(ours)).name == f"uid {os.geteuid()}, gid {os.getegid()}"
    with socket.socket() as tcp:
        assert peers.who(UnixTransport(tcp)) is NOBODY


# --- which streams


def may(*patterns: str) -> Principal:
    names = frozenset(each for each in patterns if not each.endswith("*"))
    prefixes = tuple(each[:-1] for each in patterns if each.endswith("*"))
    return Principal("shop", Rights(names, prefixes))


async def put(
    place: Place, principal: Principal, way: str, spelling: str, asked: str = "delivered"
) -> bool:
    place.hub.who = lambda _: principal
    client = place.put(way, spelling, b"AAAA", asked=asked)
    await place.settle()
    if not is_success(client):
        said = client.written.decode()
        assert "AccessDeniedException" in said
        text = "User: shop is not authorized to perform: kinesis:PutRecords on resource: "
        assert text + spelling in said
    return is_success(client)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ["delivered", "accepted"])
async def test_a_principal_writes_where_he_may_and_nothing_is_opened_where_not(
    way: str, asked: str
) -> None:
    place = Place("[streams.listed]\n", FakeService())
    shop = may("s", "app-*")
    opened = place.engines()
    for spelling in ("t", "listed", "apps", "S", "nothing"):
        assert not await put(place, shop, way, spelling, asked), spelling
    assert place.engines() == opened == ["listed"]
    assert [each.name for each in place.service.described] == ["listed"]
    for spelling in ("s", "app-1"):
        assert await put(place, shop, way, spelling, asked), spelling
    door = place.streams.door
    assert {each.value: n for each, n in door.rejected.items() if n} == {"forbidden": 5}
    assert place.stream("listed").counters.received == 0
    assert door.unaccounted() == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_name_is_of_the_daemons_own_account(way: str) -> None:
    place = Place(f"account_id = '{OURS}'\n", FakeService())
    assert await put(place, may("s"), way, arn(OURS))
    assert not await put(place, may("s"), way, arn(OTHERS))
    assert await put(place, may(arn(OTHERS)), way, arn(OTHERS))
    assert await put(place, may(arn(OTHERS)[:-1] + "*"), way, arn(OTHERS))
    assert await put(place, may(arn(OURS)), way, "s")
    assert not await put(place, may(arn(OTHERS)), way, "s")


@pytest.mark.parametrize("way", WAYS)
async def test_a_listed_stream_is_meant_by_its_name(way: str) -> None:
    text = f"account_id = '{OURS}'\n[streams.\"{arn(OTHERS)}\"]\n"
    place = Place(text, FakeService())
    assert await put(place, may("s"), way, "s")
    assert await put(place, may("s"), way, arn(OTHERS))
    assert await put(place, may(arn(OTHERS)), way, "s")
    assert not await put(place, may("s"), way, arn(OURS))
    assert list(place.written()) == [OTHERS]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("account", "may_write"), [(OURS, True), (OTHERS, False)])
async def test_an_arn_whose_account_is_not_known_yet_is_judged_when_it_is(
    way: str, account: str, may_write: bool
) -> None:
    """A right to `s` is none to the `s` of another account, however early the request comes."""
    place = Place("", FakeService())
    place.service.account_id = OURS
    assert await put(place, may("s"), way, arn(account)) is may_write
    assert list(place.written()) == ([OURS] if may_write else [])


@pytest.mark.parametrize("way", WAYS)
async def test_where_nobody_tells_the_account_an_arn_stands_for_no_name(way: str) -> None:
    """Then an ARN is sent by ARN, whoever's it is: the first one after a wait, others at once."""
    place = Place("", FakeService())
    for _ in range(2):
        assert not await put(place, may("s"), way, arn(OTHERS))
    assert await put(place, may(arn(OTHERS)), way, arn(OTHERS))
    assert list(place.written()) == [OTHERS]
    assert not await put(place, may("s"), way, arn(OTHERS))


async def test_what_cannot_be_read_counts_nothing_for_a_stream_of_others() -> None:
    place = Place("[streams.t]\n", FakeService())
    place.hub.who = lambda _: may("s")
    for way in ("PutRecords", "lines"):
        raw = bytes_of(way, "t", [b"AAAA"], "delivered")
        for good, bad in ((b'"PartitionKey": "k"', b'"PartitionKey": 777'), (b'"data"', b'"dat0"')):
            raw = raw.replace(good, bad)
        client = place.connect(way)
        client.protocol.data_received(raw)
        assert not is_success(client)
    assert place.stream("t").counters.received == 0
    assert place.streams.door.received == 2


@pytest.mark.parametrize("broken", [b"{x}\n", b"{}\n", b"[1]\n"])
async def test_a_line_that_cannot_be_read_counts_nothing_where_its_client_may_write_no_more(
    broken: bytes,
) -> None:
    """The file of principals was read again while it was connected."""
    place, shop = Place("[streams.t]\n", FakeService()), may("t")
    place.hub.who = lambda _: shop
    client = place.connect("session")
    client.protocol.data_received(b'{"stream":"t"}\n')
    shop.become(may("s"))
    client.protocol.data_received(broken)
    assert [each["rejected"] for each in client.lines()] == [2]
    assert place.stream("t").counters.received == 0
    assert place.streams.door.rejected[RefuseReason.INVALID] == 1


async def test_raw_lines_count_nothing_for_a_stream_of_others() -> None:
    place = Place("[streams.t]\nlines = 'raw'\npartition_key_field = 'id'\n", FakeService())
    place.hub.who = lambda _: may("s")
    client = place.connect("lines")
    client.protocol.data_received(
        b"POST /v1/streams/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n{}\n"
    )
    assert answer(client)[1]["__type"] == "AccessDeniedException"
    counters = place.stream("t").counters
    assert (counters.received, counters.lines_without_key) == (0, 0)
    assert place.streams.door.lines_without_key == 1


async def test_a_setup_line_for_a_stream_of_others_ends_the_connection() -> None:
    place = Place("[streams.t]\n", FakeService())
    place.hub.who = lambda _: may("s")
    client = place.connect("session")
    client.protocol.data_received(b'{"stream":"t"}\n{"data":"a"}\n{"data":"b"}\n')
    await place.settle(2)
    assert [each["code"] for each in client.lines()] == ["AccessDeniedException"]
    assert client.has_written_eof
    assert place.streams.door.rejected[RefuseReason.FORBIDDEN] == 3
    assert place.streams.door.unaccounted() == 0


async def test_of_lines_for_several_streams_only_the_forbidden_are_refused() -> None:
    place = Place("", FakeService())
    place.hub.who = lambda _: may("s")
    client = place.connect("session")
    client.protocol.data_received(
        b'{"stream":"t","data":"a"}\n{"stream":"s","data":"b"}\n{"stream":"t","data":"c"}\n'
    )
    await place.settle(3)
    said = client.lines()
    assert [each.get("rejected") for each in said] == [1, 3, None]
    assert place.engines() == ["s"]


async def test_a_client_that_goes_opens_no_stream_that_it_may_not_write_to() -> None:
    """Its lines wait behind one whose stream nobody knows yet."""
    place = Place("", FakeService())
    place.service.sts.clear()
    place.hub.who = lambda _: may("s")
    client = place.connect("session")
    client.protocol.data_received(
        b'{"stream":"%b","data":"a"}\n{"stream":"t","data":"a"}\n' % arn(OURS).encode()
    )
    await turn()
    assert client.take() == b""
    client.protocol.connection_lost(None)
    await place.settle(2)
    assert place.engines() == ["s"]
    assert place.streams.door.unaccounted() == 0


@pytest.mark.parametrize("byte_count", [10, 200_000])
async def test_a_body_for_a_stream_of_others_is_refused_whole(byte_count: int) -> None:
    place = Place("", FakeService())
    place.hub.who = lambda _: may("s")
    client = place.connect("lines")
    lines = bytes_of("lines", "t", [b"a" * byte_count] * 3, "delivered")
    client.protocol.data_received(lines)
    await place.settle(3)
    status, body = answer(client)
    assert (status, body["__type"]) == (400, "AccessDeniedException")
    assert place.streams.door.rejected[RefuseReason.FORBIDDEN] == 3
    assert place.engines() == []
    assert place.streams.memory.bytes_taken == 0


async def dry_run(place: Place, spelling: str) -> FakeTransport:
    """The connection on which a principal that may write to `s` asks for a dry run."""
    place.hub.who = lambda _: may("s")
    client = place.connect("PutRecord")
    raw = bytes_of("PutRecord", spelling, [b"AAAA"], "delivered")
    head, _, body = raw.partition(b"\r\n\r\n")
    body = body.replace(b"{", b'{"DryRun": true, ', 1)
    head = head.replace(b"Content-Length: %d" % (len(body) - 16), b"Content-Length: %d" % len(body))
    client.protocol.data_received(head + b"\r\n\r\n" + body)
    await turn()
    return client


async def test_a_dry_run_needs_the_right_too() -> None:
    place = Place("", FakeService())
    client = await dry_run(place, "t")
    assert answer(client)[1]["__type"] == "AccessDeniedException"
    assert place.engines() == []


async def test_a_dry_run_by_an_arn_of_who_knows_which_account_needs_a_right_to_this_arn() -> None:
    """A right to `s` is none to the `s` of another account, also before the account is known."""
    place = Place("", FakeService())
    client = await dry_run(place, arn(OTHERS))
    assert answer(client)[1]["__type"] == "AccessDeniedException"
    assert not place.service.dry_runs


def test_who_is_not_asked_for_is_nobody() -> None:
    """A way in that forgets to ask who comes lets nobody in."""
    for principal in (NOBODY, UNSIGNED):
        assert not principal.is_known
        assert not principal.rights.cover(("s", ""))
    assert ANYBODY.is_known
    protocol = HttpProtocol(lambda _: None, Hub(ConnectionLimits()))
    assert cast("Any", protocol).principal is NOBODY
