"""Raw lines at every way in: how they are asked for, what becomes of them, and what is told."""

import gzip
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Acknowledge
from kdaemon.base.limits import MIB
from kdaemon.base.refused import Refused
from kdaemon.door.door import Door
from kdaemon.door.line_forms import NOTHING_ASKED
from kdaemon.door.promise import weaker
from kdaemon.door.session import NdjsonSession
from kdaemon.door.spoken import raw_lines_to
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.opening import Lines
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.raw_lines import BLOCK_LINES_MAX, RAW_LINE_BYTES_MAX
from tests.kit.clock import HandClock
from tests.kit.doors import Doors, FakeTransport
from tests.kit.streams import FakeService, make_streams, turn
from tests.unit.door.fake_streams import make_request, read_answer

CONFIG = """
[streams.app]
lines = "raw"
partition_key_field = "user.id"
[streams.plain]
[streams.routed]
lines = "raw"
stream_field = "to"
[streams.quick]
acknowledge = "accepted"
"""
KEEPS_ORDER = "partition_key_field = 'id'\nordering = 'partition_key'\n"
USER = b'{"user":{"id":"u%d"},"n":%d}\n'


class Place(Doors):
    """A door over streams in memory, and connections to it as a listener makes them."""

    def __init__(self, text: str = CONFIG) -> None:
        self.service = FakeService()
        super().__init__(make_streams(self.service, text))

    async def open(self) -> "Place":
        await turn()
        return self

    async def send(self, *pieces: bytes, lines: Lines | None = None) -> FakeTransport:
        """Pieces of one connection, then its end."""
        transport: FakeTransport = self.any(lines)
        for piece in pieces:
            transport.protocol.data_received(piece)
            await turn()
        transport.protocol.eof_received()
        for _ in range(20):
            await turn()
        return transport

    def own_socket(self, stream: str = "app") -> Lines:
        return raw_lines_to(self.door, stream)

    async def post(self, stream: str, body: bytes, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = make_request(f"/v1/streams/{stream}/records", named, body)
        self.ndjson.handle(request)
        for _ in range(20):
            await turn()
        return read_answer(request)

    def sent(self, stream: str) -> list[bytes]:
        return [
            data for target, datas in self.service.calls if target.name == stream for data in datas
        ]

    def counted(self, stream: str) -> tuple[int, int]:
        counters = dict(self.streams.engines())[stream].counters
        return counters.lines_without_key, counters.lines_without_stream

    def refused(self, stream: str) -> int:
        return dict(self.streams.engines())[stream].counters.rejected[RefuseReason.INVALID]


@pytest.fixture
async def place() -> Place:
    return await Place().open()


# How they are asked for


async def test_a_streams_setting_makes_its_lines_raw(place: Place) -> None:
    answer = await place.post("app", USER % (1, 1) + b"plain text\r\n\n\xff\0\n")
    assert (answer.status, answer.body["acknowledged"]) == (200, 3)
    assert place.sent("app") == [(USER % (1, 1))[:-1], b"plain text", b"\xff\0"]
    assert place.counted("app") == (2, 0)


async def test_a_request_may_ask_for_raw_lines_and_for_a_key(place: Place) -> None:
    answer = await place.post(
        "plain",
        b'{"id":7}\n{"data":"x"}\n',
        X_Kdaemon_Lines=" RAW ",
        X_Kdaemon_Partition_Key_Field="id",
    )
    assert answer.status == 200
    assert place.sent("plain") == [b'{"id":7}', b'{"data":"x"}']
    assert place.counted("plain") == (1, 0)
    # and for envelopes, where they are raw
    answer = await place.post("app", b'{"data":"x"}\n', X_Kdaemon_Lines="envelope")
    assert place.sent("app") == [b"x"]
    # and for no key
    await place.post("app", b"text\n", X_Kdaemon_Partition_Key_Field="")
    assert place.counted("app") == (0, 0)


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"X_Kdaemon_Lines": "json"}, "must be envelope or raw"),
        ({"X_Kdaemon_Lines": "raw, raw"}, "must be envelope or raw"),
        ({"X_Kdaemon_Partition_Key_Field": "id"}, "is for raw lines"),
        ({"X_Kdaemon_Stream_Field": "id"}, "is for raw lines"),
        (
            {"X_Kdaemon_Lines": "raw", "X_Kdaemon_Partition_Key_Field": "a..b"},
            "A field is named by a path of at most 8 names",
        ),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_in_words(
    place: Place, headers: dict[str, str], part: str
) -> None:
    answer = await place.post("plain", b"one\ntwo\n", **headers)
    assert answer.status == 400
    assert part in answer.body["message"]
    assert place.refused("plain") == 2
    assert place.sent("plain") == []


async def test_a_header_that_is_no_text_is_refused(place: Place) -> None:
    request = make_request("/v1/streams/s/records", {}, b"x\n")
    request.headers = {b"x-kdaemon-partition-key-field": b"\xff"}
    place.ndjson.handle(request)
    assert read_answer(request).body["message"] == "The path of a field must be UTF-8."


async def test_of_a_compressed_body_no_byte_is_a_line(place: Place) -> None:
    body = gzip.compress(b"a\nb\n" * 1_000)
    request = make_request("/v1/streams/app/records", {"Content-Encoding": "gzip"}, body)
    place.ndjson.handle(request)
    assert read_answer(request).status == 415
    assert place.sent("app") == []


async def test_the_first_line_of_a_connection_may_ask_for_them(place: Place) -> None:
    setup = b'{"stream":"plain","lines":"raw","partition_key_field":"user.id"}\n'
    transport = await place.send(setup, USER % (1, 1) + b'{"data":', b'"x"}\nGET / HTTP/1.1\nlast')
    assert place.sent("plain") == [
        (USER % (1, 1))[:-1],
        b'{"data":"x"}',
        b"GET / HTTP/1.1",
        b"last",
    ]
    assert transport.lines()[-1] == {"acknowledged": 4}
    assert place.counted("plain") == (3, 0)


async def test_a_first_line_that_names_a_stream_of_raw_lines_is_enough(place: Place) -> None:
    await place.send(b'{"stream":"app"}\n', b"text\n")
    assert place.sent("app") == [b"text"]
    await place.send(b'{"stream":"app","lines":"envelope"}\n', b'{"data":"x"}\n')
    assert place.sent("app") == [b"text", b"x"]
    # A line's own `stream` says nothing of the lines: the connection has begun with envelopes.
    await place.send(b'{"stream":"app","data":"y"}\n')
    assert place.sent("app")[2:] == [b"y"]


@pytest.mark.parametrize(
    ("setup", "part"),
    [
        (b'{"lines":"raw"}\n', "Raw lines name no stream"),
        (b'{"partition_key_field":"id"}\n', "Raw lines name no stream"),
        (b'{"stream":"plain","partition_key_field":"id"}\n', "is for raw lines"),
        (b'{"stream":"plain","lines":"raw","stream_field":"."}\n', "A field is named by"),
        (b'{"stream":"plain","lines":"csv"}\n', "A first line without data"),
        (b'{"stream":"stdout","log":"a line of a container"}\n', '`lines` ("envelope" or "raw")'),
    ],
)
async def test_a_first_line_that_cannot_stand_ends_the_connection(
    place: Place, setup: bytes, part: str
) -> None:
    transport = await place.send(setup + b"one\ntwo\n")
    (told,) = transport.lines()
    assert told["rejected"] == 1
    assert part in told["message"]
    assert place.service.calls == []


async def test_the_settings_of_a_stream_that_is_not_open_yet_count_too() -> None:
    place = Place("[default]\nlines = 'raw'\n")
    form = place.door.line_form("anything", NOTHING_ASKED)
    assert isinstance(form, LineForm)
    assert form.is_raw
    assert not list(place.streams.engines())
    bad = place.door.line_form("no name", NOTHING_ASKED)  # which the door refuses then
    assert isinstance(bad, LineForm)


# Which stream


async def test_lines_go_to_the_listed_streams_that_they_name(place: Place) -> None:
    body = (
        b'{"to":"plain","n":1}\n{"to":"unlisted"}\n{"to":"quick"}\n\ntext\n{"to":"plain","n":2}\n'
    )
    answer = await place.post("routed", body)
    assert (answer.status, answer.body["acknowledged"]) == (200, 5)
    # Of what was taken, some is in memory only: the answer promises no more.
    assert answer.headers["x-kdaemon-acknowledge"] == "accepted"
    assert place.sent("plain") == [b'{"to":"plain","n":1}', b'{"to":"plain","n":2}']
    assert place.sent("quick") == [b'{"to":"quick"}']
    assert place.sent("routed") == [b'{"to":"unlisted"}', b"text"]
    assert place.counted("routed") == (0, 2)
    assert sorted(dict(place.streams.engines())) == ["app", "plain", "quick", "routed"]
    transport = await place.send(b'{"stream":"routed"}\n', body)
    assert transport.lines()[-1] == {"acknowledged": 5}
    assert len(place.sent("plain")) == 4


async def test_a_stream_that_takes_nothing_does_not_stop_the_others(place: Place) -> None:
    place.service.denied = {"plain"}
    body = b'{"to":"plain"}\n' + b"x" * 70_000 + b'\n{"to":"plain"}\n{"to":"quick"}\n'
    await place.post("plain", b'{"data":"x"}\n')
    answer = await place.post("routed", body)
    assert answer.status == 207
    assert [each["line"] for each in answer.body["rejected"]] == [1, 3]
    assert place.sent("quick") == [b'{"to":"quick"}']
    assert len(place.sent("routed")) == 1


def test_of_two_promises_the_weaker_holds_for_both() -> None:
    delivered, stored, accepted = (
        Acknowledge.DELIVERED,
        Acknowledge.STORED,
        Acknowledge.ACCEPTED,
    )
    assert weaker(None, stored) is stored
    assert weaker(delivered, stored) is weaker(stored, delivered) is stored
    assert weaker(accepted, stored) is weaker(delivered, accepted) is accepted


# What is too large


async def test_a_line_over_the_streams_limit_is_refused_alone(place: Place) -> None:
    long = b"x" * (MIB + 1)
    answer = await place.post("plain", b"one\n" + long + b"\nthree", X_Kdaemon_Lines="raw")
    assert answer.status == 207
    assert [each["line"] for each in answer.body["rejected"]] == [2]
    assert place.sent("plain") == [b"one", b"three"]


async def test_a_line_beyond_all_bounds_is_skipped_to_its_end(place: Place) -> None:
    transport = place.any()
    session = transport.protocol
    session.data_received(b'{"stream":"plain","lines":"raw"}\none\n')
    session = transport.protocol
    piece = b"x" * 256 * 1024
    for _ in range(4 * RAW_LINE_BYTES_MAX // len(piece)):
        session.data_received(piece)
        await turn()
        assert place.hub.bodies.bytes_taken <= RAW_LINE_BYTES_MAX + len(piece)
    assert place.hub.bodies.bytes_taken == 0
    session.data_received(b"end\nfour\n")
    for _ in range(10):
        await turn()
    told = transport.lines()
    assert told[0] == {"acknowledged": 1}
    assert told[1]["rejected"] == 3
    assert "this one is skipped" in told[1]["message"]
    assert told[-1] == {"acknowledged": 2}
    assert place.sent("plain") == [b"one", b"four"]
    assert place.refused("plain") == 1
    session.connection_lost(None)


@pytest.mark.pure("counts the calls of a method")
async def test_the_shortest_lines_are_taken_in_blocks_that_memory_bounds(place: Place) -> None:
    admitted: list[int] = []
    admit = place.door.admit

    def admitting(spelling: str, put: Any, *rest: Any, **named: Any) -> Any:
        admitted.append(len(put.sizes))
        return admit(spelling, put, *rest, **named)

    place.door.admit = admitting  # type: ignore[method-assign]
    setup = b'{"stream":"plain","lines":"raw","acknowledge":"accepted"}\n'
    transport = await place.send(setup + b"x\n" * 10_000)
    assert transport.lines()[-1] == {"acknowledged": 10_000}
    headers = {"X_Kdaemon_Lines": "raw", "X_Kdaemon_Acknowledge": "accepted"}
    answer = await place.post("plain", b"x\n" * 15_000, **headers)
    assert answer.body["acknowledged"] == 15_000
    assert sum(admitted) == 25_000
    assert max(admitted) <= BLOCK_LINES_MAX
    assert place.hub.bodies.bytes_taken == 0
    engine = dict(place.streams.engines())["plain"]
    assert place.streams.memory.bytes_taken == engine.ledger.footprint_bytes


async def test_a_large_body_gives_back_what_was_reserved_for_it(place: Place) -> None:
    lines = [b'{"to":"plain","id":%d}' % n if n % 3 else b"text" for n in range(20_000)]
    headers = {"X_Kdaemon_Partition_Key_Field": "id", "X_Kdaemon_Acknowledge": "accepted"}
    answer = await place.post("routed", b"\n".join(lines), **headers)
    assert (answer.status, answer.body["acknowledged"]) == (200, 20_000)
    engines = dict(place.streams.engines())
    assert [engines[name].counters.accepted for name in ("plain", "routed")] == [13_333, 6_667]
    held = sum(engine.ledger.footprint_bytes for engine in engines.values())
    assert place.streams.memory.bytes_taken == held


# A stream's own socket


async def test_on_a_streams_own_socket_everything_is_a_line_and_nothing_is_answered(
    place: Place,
) -> None:
    text = b"\xef\xbb\xbfGET / HTTP/1.1\r\n\r\n" + b'{"stream":"plain","acknowledge":"none"}\n'
    text += USER % (1, 1) + b'\x16\x03\x01\n{"data":"x"}\nlast'
    transport = await place.send(
        *(text[at : at + 7] for at in range(0, len(text), 7)), lines=place.own_socket()
    )
    assert place.sent("app") == [
        b"GET / HTTP/1.1",
        b'{"stream":"plain","acknowledge":"none"}',
        (USER % (1, 1))[:-1],
        b"\x16\x03\x01",
        b'{"data":"x"}',
        b"last",
    ]
    assert transport.write_count == 0
    assert transport.is_closed
    assert place.counted("app") == (5, 0)


@pytest.mark.parametrize("cut", [1, 3, 16, 100])
async def test_on_a_streams_own_socket_the_preface_of_http_2_is_a_line(
    place: Place, cut: int
) -> None:
    text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    await place.send(text[:cut], text[cut:] or b"\n", lines=place.own_socket())
    assert place.sent("app") == [b"PRI * HTTP/2.0", b"SM"]


async def test_what_was_written_to_it_is_delivered_though_the_client_goes_at_once(
    place: Place,
) -> None:
    """`cat file | nc`: nobody waits for a word, so nothing is withdrawn."""
    place.service.answer.clear()
    transport = place.any(place.own_socket())
    transport.protocol.data_received(b"one\ntwo\n")
    await turn()
    transport.protocol.connection_lost(None)
    transport.close()
    place.service.answer.set()
    for _ in range(10):
        await turn()
    assert place.sent("app") == [b"one", b"two"]
    assert dict(place.streams.engines())["app"].counters.delivered == 2


async def test_what_it_refuses_is_logged_with_its_stream_and_never_with_its_data(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kdaemon.door"):
        transport = await place.send(
            b"secret" * (MIB // 6) + b"secret\nnext\n", lines=place.own_socket()
        )
    assert transport.write_count == 0
    assert place.sent("app") == [b"next"]
    (record,) = caplog.records
    fields: Any = cast("Any", record).fields
    assert (fields["stream"], fields["lines"], fields["code"]) == ("app", 1, "ValidationException")
    assert "secret" not in str(record.__dict__)
    assert place.refused("app") == 1


async def test_a_log_that_stops_in_the_middle_of_a_line_is_waited_for(place: Place) -> None:
    transport = place.any(place.own_socket())
    session: NdjsonSession = transport.protocol
    session.data_received(b"")
    session = transport.protocol
    session.data_received(b"half")
    for tick in range(1_000):
        session.check_time(tick)
    assert not transport.is_closed
    session.data_received(b" a line\n")
    await turn()
    await turn()
    assert place.sent("app") == [b"half a line"]
    session.connection_lost(None)


@pytest.mark.parametrize(
    ("has_spool", "more", "promise"),
    [
        (False, "", Acknowledge.NONE),
        (True, "", Acknowledge.STORED),
        (True, "acknowledge = 'accepted'\n", Acknowledge.STORED),
        (True, KEEPS_ORDER, Acknowledge.NONE),
        (True, f"{KEEPS_ORDER}acknowledge = 'stored'\n", Acknowledge.STORED),
    ],
)
async def test_its_lines_are_stored_where_the_stream_stores(
    tmp_path: Path, has_spool: bool, more: str, promise: Acknowledge
) -> None:
    config = f"[spool]\ndirectory = '{tmp_path}'\n[streams.app]\nlines = 'raw'\n{more}"
    spool: Any = object() if has_spool else None  # it has nothing to do
    streams = make_streams(FakeService(), config, spool=spool)
    assert Door(streams, HandClock()).untold_promise("app") is promise


async def test_the_door_counts_for_a_stream_that_nobody_knows() -> None:
    place = Place("accept_unlisted = false\n[streams.a]\n[default]\nlines = 'raw'\n")
    place_form = place.door.line_form("b", NOTHING_ASKED)
    assert not isinstance(place_form, Refused)
    answer = await place.post("b", b"x\n", X_Kdaemon_Partition_Key_Field="id")
    assert answer.status == 404
    assert place.streams.door.lines_without_key == 1


async def test_a_half_line_gives_way_to_others_and_the_rest_of_the_log_goes_on(
    place: Place,
) -> None:
    place.hub = Hub(ConnectionLimits(bodies_bytes_max=1000))
    stalled = place.any(place.own_socket())
    stalled.protocol.data_received(b"one\n" + b"x" * 800)
    for tick in range(3):
        stalled.protocol.check_time(tick)
    other = place.any(place.own_socket())
    other.protocol.data_received(b"y" * 900)
    stalled.protocol.data_received(b"x" * 2000)  # nothing of it is kept
    assert place.hub.bodies.bytes_taken == 900
    other.protocol.data_received(b"y\n")
    stalled.protocol.data_received(b"x\nthree\n")
    for _ in range(10):
        await turn()
    assert sorted(place.sent("app")) == sorted([b"one", b"y" * 901, b"three"])
    assert place.refused("app") == 1
    assert not stalled.is_closed
    for each in (stalled, other):
        each.protocol.connection_lost(None)
    assert place.hub.bodies.bytes_taken == 0


async def test_lines_that_give_way_on_a_streams_own_socket_are_counted_and_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.hub = Hub(ConnectionLimits(bodies_bytes_max=10))
    transport = place.any(place.own_socket())
    place.hub.turns.later(lambda: None)  # others are working: these lines wait
    with caplog.at_level(logging.WARNING, "kdaemon.door"):
        transport.protocol.data_received(b"a line\nanother line\n" * 2000)
        for _ in range(10):
            await turn()
    assert transport.write_count == 0
    texts = [record.message for record in caplog.records]
    assert texts == ["a stream's own socket ends a connection"]
    engine = dict(place.streams.engines())["app"]
    assert engine.counters.rejected[RefuseReason.FULL] == 4000
    assert engine.counters.unaccounted() == 0
    transport.protocol.connection_lost(None)
