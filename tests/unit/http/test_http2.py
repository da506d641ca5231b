"""HTTP/2 on a transport in memory, the library's client on the other side."""

import asyncio
import gc
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived
from h2.settings import SettingCodes

from kdaemon.base.memory import ByteBudget
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.http2 import Http2Protocol
from kdaemon.http.http2_core import WINDOW_BYTES
from kdaemon.http.http2_frames import CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, PREFACE
from kdaemon.http.http2_sending import GATHERED_BYTES_MAX
from kdaemon.http.http2_stream import STREAM_BYTES, Http2Stream
from kdaemon.http.hub import ConnectionLimits, ConnectionPlaces, Hub
from kdaemon.http.request import HttpRequest
from tests.unit.http.http2_harness import Make2, MakeRaw, data, fields, frame

# --- a request and its answer


async def test_a_request_reaches_the_handler_whole(http2: Make2) -> None:
    one = http2()
    await one.ask(b"hello", fields(b"POST", b"/a/b?c=d", (b"x-amz-target", b"T")))
    (request,) = one.requests
    assert (request.method, request.path, request.query) == ("POST", "/a/b", "c=d")
    assert request.headers == {b"host": b"localhost", b"x-amz-target": b"T"}
    assert request.body == b"hello"


async def test_the_answer_has_its_length_type_and_headers_in_lower_case(http2: Make2) -> None:
    one = http2()
    answer = await one.ask()
    one.requests[0].respond(400, b"{}", content_type=b"text/x", headers=((b"X-A", b"1"),))
    await one.receive()
    assert answer.fields == {
        b":status": b"400",
        b"content-type": b"text/x",
        b"content-length": b"2",
        b"x-a": b"1",
    }
    assert (answer.body, answer.is_whole, answer.reset_code) == (b"{}", True, None)


async def test_bytes_one_at_a_time_are_the_same_request(http2: Make2) -> None:
    one = http2(echoes=True)
    one.begin(fields(b"POST", b"/x", (b"content-length", b"5")))
    one.put(1, b"hello")
    sent = one.client.data_to_send()
    for i in range(len(sent)):
        one.feed(sent[i : i + 1])
    await one.receive()
    assert one.answers[1].body == b"hello"
    assert one.bodies == [b"hello"]


async def test_answers_leave_as_they_come_whatever_the_order_of_requests(http2: Make2) -> None:
    one = http2()
    for _ in range(3):
        await one.ask()
    for i in (2, 0, 1):
        one.requests[i].respond(200, b"%d" % i)
        await one.receive()
        assert one.answers[2 * i + 1].body == b"%d" % i


async def test_answers_of_one_turn_are_one_write(http2: Make2) -> None:
    one = http2()
    for _ in range(3):
        await one.ask()
    before = one.transport.write_count
    for request in one.requests:
        request.respond(200, b"x")
    await one.receive()
    assert one.transport.write_count == before + 1


async def test_head_is_answered_with_the_length_and_without_the_body(http2: Make2) -> None:
    one = http2()
    answer = await one.ask(headers=fields(b"HEAD"))
    one.requests[0].respond(200, b"hello")
    await one.receive()
    assert answer.fields[b"content-length"] == b"5"
    assert (answer.body, answer.is_whole) == (b"", True)


async def test_an_empty_answer_ends_with_its_headers(http2: Make2) -> None:
    one = http2()
    answer = await one.ask()
    one.requests[0].respond(204, b"")
    await one.receive()
    assert (answer.status, answer.is_whole) == (204, True)


async def test_a_client_that_waits_for_continue_gets_it(http2: Make2) -> None:
    one = http2(echoes=True)
    stream = one.begin(fields(b"POST", b"/", (b"expect", b"100-continue")))
    await one.send()
    assert one.answers[stream].informed == 1
    one.put(stream, b"hello")
    await one.send()
    assert one.answers[stream].body == b"hello"


async def test_a_client_that_expects_and_has_no_body_gets_no_continue(http2: Make2) -> None:
    one = http2(echoes=True)
    answer = await one.ask(headers=fields(b"POST", b"/", (b"expect", b"100-continue")))
    assert (answer.informed, answer.status) == (0, 200)


async def test_a_second_answer_raises_and_an_answer_to_nobody_is_nothing(http2: Make2) -> None:
    one = http2()
    await one.ask()
    await one.ask()
    first, second = one.requests
    first.respond(200, b"x")
    with pytest.raises(RuntimeError):
        first.respond(200, b"x")
    one.client.reset_stream(3)
    await one.send()
    second.respond(200, b"x")
    assert not one.transport.written
    assert second.answer is None


async def test_a_defect_of_the_handler_costs_its_own_request(http2: Make2) -> None:
    one = http2()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def fail(request: HttpRequest) -> None:
        raise ValueError

    one.on_request = fail
    answer = await one.ask()
    assert answer.status == 500
    one.on_request, one.echoes, one.failures = None, True, 1
    assert (await one.ask(b"x")).body == b"x"


async def test_what_is_announced_is_what_the_listener_has(http2: Make2) -> None:
    one = http2(ConnectionLimits(pipeline_max=7, head_bytes_max=5000))
    await one.send()
    settings = one.client.remote_settings
    assert settings.max_concurrent_streams == 7
    assert settings.max_header_list_size == 5000
    assert settings.initial_window_size == WINDOW_BYTES
    assert settings.max_frame_size == 16 * 1024
    assert settings.header_table_size == 4096
    assert not settings.enable_push
    assert one.client.outbound_flow_control_window == WINDOW_BYTES


async def test_one_connection_is_one_client_whatever_its_streams(http2: Make2) -> None:
    hub = Hub(ConnectionLimits())
    one, other = http2(hub=hub), http2(hub=hub)
    for each in (one, one, other):
        await each.ask()
    numbers = [request.client for request in (*one.requests, *other.requests)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert (hub.counters.opened, hub.counters.open) == (2, 2)


# --- the opening


@pytest.mark.parametrize("step", [1, 5, 23, 24, 25, 100])
async def test_the_preface_may_come_in_pieces(http2: Make2, step: int) -> None:
    one = http2(echoes=True)
    one.begin(fields(), ends=True)
    sent = one.client.data_to_send()
    for at in range(0, len(sent), step):
        one.feed(sent[at : at + step])
    await one.receive()
    assert one.answers[1].status == 200


@pytest.mark.parametrize("byte_count", [1, 3, 15, 23])
async def test_what_only_begins_as_the_preface_is_http_1_1(http2: Make2, byte_count: int) -> None:
    one = http2()
    one.feed(PREFACE[:byte_count])
    assert not one.transport.written
    one.feed(b"OST / HTTP/1.1\r\nHost: localhost\r\n\r\n" if byte_count == 1 else b"?")
    assert isinstance(one.transport.protocol, HttpProtocol)
    assert bool(one.requests) is (byte_count == 1)


async def test_half_a_preface_is_a_head_that_is_late_or_cut_off(http2: Make2) -> None:
    one, other = http2(), http2()
    one.feed(b"PRI")
    for _ in range(3 * one.hub.head_ticks_max):
        one.hub.sweep()
        await asyncio.sleep(0)
    assert b"408" in one.transport.take()
    other.feed(b"PRI")
    other.transport.protocol.eof_received()
    assert b"400" in other.transport.take()
    assert other.hub.counters.refused["truncated"] == 1


# --- bodies, and windows both ways


async def test_a_body_larger_than_any_window_arrives_whole(http2: Make2) -> None:
    one = http2(echoes=True)
    body = bytes(range(256)) * 4 * 4096  # 4 MiB
    stream = one.begin(fields(b"POST", b"/", (b"content-length", b"%d" % len(body))))
    at = 0
    while at < len(body):
        room = min(one.client.local_flow_control_window(stream), one.client.max_outbound_frame_size)
        assert room, "more may be sent before all is there"
        piece = body[at : at + room]
        at += len(piece)
        one.client.send_data(stream, piece, end_stream=at == len(body))
        await one.send()
    for _ in range(500):
        if one.answers[stream].is_whole:
            break
        await one.send()
    assert one.answers[stream].body == body
    assert one.hub.bodies.bytes_taken == 0


async def test_an_answer_leaves_as_its_client_opens_windows(http2: Make2) -> None:
    one = http2(settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = one.begin(fields(), ends=True)
    await one.send()
    one.requests[0].respond(200, b"0123456789abcdef")
    await one.receive()
    assert one.answers[stream].body == b"0123456789"
    await one.send()  # the client has acknowledged what it read
    assert one.answers[stream].body == b"0123456789abcdef"
    assert one.answers[stream].is_whole


async def test_answers_share_what_the_connection_may_send(http2: Make2) -> None:
    """Nobody waits for the end of another one's page."""
    one = http2()
    for _ in range(2):
        await one.ask()
    for request in one.requests:
        request.respond(200, bytes(100_000))
    for _ in range(5):
        await asyncio.sleep(0)
    events = one.client.receive_data(one.transport.take())
    got = {1: 0, 3: 0}
    for event in events:
        if isinstance(event, DataReceived):
            got[event.stream_id] += len(event.data or b"")
    assert sum(got.values()) == 65_535
    assert abs(got[1] - got[3]) <= 16 * 1024


async def test_a_client_that_is_written_to_and_does_not_read_is_not_read(http2: Make2) -> None:
    one = http2(echoes=True, settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    await one.ask()
    one.client.increment_flow_control_window(2**20)
    await one.send()
    one.transport.pauses_when_written = GATHERED_BYTES_MAX - 1
    one.begin(fields(), stream=3)
    one.put(3, bytes(200_000))
    one.feed(one.client.data_to_send())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not one.transport.reads()
    assert len(one.transport.written) < 2 * GATHERED_BYTES_MAX
    one.protocol.resume_writing()
    assert one.transport.reads()
    await one.receive()
    assert len(one.answers[3].body) == 200_000


async def test_one_who_opens_no_window_is_cut_off_in_time(http2: Make2) -> None:
    one = http2(settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await one.ask()
    one.requests[0].respond(200, b"hello")
    for _ in range(one.hub.write_ticks_max):
        one.hub.sweep()
        await asyncio.sleep(0)
    assert not one.transport.is_closing()
    for _ in range(3):
        one.hub.sweep()
        await asyncio.sleep(0)
    assert one.transport.abort_count
    assert one.hub.counters.timed_out["write"] == 1


async def test_one_who_opens_windows_byte_by_byte_is_cut_off_too(http2: Make2) -> None:
    one = http2(settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await one.ask()
    one.requests[0].respond(200, bytes(10_000))
    for _ in range(one.hub.write_ticks_max + 3):
        if one.transport.is_closed:
            break
        one.client.increment_flow_control_window(1, 1)
        await one.send()
        one.hub.sweep()
        await asyncio.sleep(0)
    assert one.hub.counters.timed_out["write"] == 1


async def test_answers_that_are_not_taken_count_and_their_client_goes_when_memory_is_full(
    http2: Make2,
) -> None:
    hub = Hub(ConnectionLimits(), arrivals=Arrivals(ByteBudget(300_000)))
    one = http2(hub=hub, settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    for _ in range(4):
        await one.ask()
    one.requests[0].respond(200, bytes(100_000))
    await one.receive()
    assert hub.bodies.bytes_taken == 100_000
    for request in one.requests[1:]:
        request.respond(200, bytes(100_000))
    await one.receive()
    assert one.transport.abort_count


# --- what arrives


async def test_what_is_not_whole_is_charged_and_given_back(http2: Make2) -> None:
    one = http2()
    stream = one.begin(fields(b"POST", b"/", (b"x", b"y" * 1000)))
    one.put(stream, bytes(50_000), ends=False)
    await one.send()
    assert 51_000 < one.hub.bodies.bytes_taken - STREAM_BYTES < 52_000
    one.put(stream, b"end")
    await one.send()
    assert one.hub.bodies.bytes_taken > 50_000, "the request has it"
    one.requests[0].drop_body()
    assert one.hub.bodies.bytes_taken == 0


async def test_a_request_that_is_whole_in_one_read_is_not_charged(http2: Make2) -> None:
    one = http2(hub=Hub(ConnectionLimits(), arrivals=Arrivals(ByteBudget(20_000))))
    assert one.hub.bodies.take(20_000)
    await one.ask(bytes(10_000))
    assert one.bodies == [bytes(10_000)]
    one.hub.bodies.give(20_000)


async def test_where_memory_is_full_who_stalls_is_refused_alone(http2: Make2) -> None:
    hub = Hub(ConnectionLimits(), arrivals=Arrivals(ByteBudget(100_000)))
    one, other = http2(hub=hub), http2(hub=hub)
    stalled = one.begin(fields())
    one.put(stalled, bytes(60_000), ends=False)
    await one.send()
    for _ in range(3):
        hub.sweep()
    stream = other.begin(fields())
    other.put(stream, bytes(60_000), ends=False)
    await other.send()
    other.put(stream, b"end")
    await other.send()
    assert len(other.requests) == 1
    await one.receive()
    assert one.answers[stalled].status == 503
    assert one.answers[stalled].fields[b"retry-after"] == b"1"
    assert one.goaway is None
    await one.ask(b"x")
    assert len(one.requests) == 1
    other.requests[0].respond(200, b"")
    one.requests[0].respond(200, b"")


async def test_a_part_of_a_frame_that_has_no_room_ends_the_connection_with_a_reason(
    raw: MakeRaw,
) -> None:
    one = raw(hub=Hub(ConnectionLimits(), arrivals=Arrivals(ByteBudget(1000))))
    one.feed(one.request(1))
    one.feed(data(3, bytes(10_000))[:5000])
    await one.read()
    assert one.code == ErrorCodes.ENHANCE_YOUR_CALM
    assert one.refused() == {"bodies_full": 1}
    assert not one.transport.has_ended(), "what was asked is answered first"
    one.requests[0].respond(200, b"")
    await one.read()
    assert one.transport.has_ended()


# --- turns and order


async def test_a_connection_that_sends_much_does_its_part_and_others_have_their_turn(
    http2: Make2,
) -> None:
    hub = Hub(ConnectionLimits(pipeline_max=10_000))
    greedy, other = http2(hub=hub), http2(hub=hub, echoes=True)
    await greedy.send()
    for _ in range(500):
        greedy.begin(fields(), ends=True)
    greedy.feed(greedy.client.data_to_send())
    assert len(greedy.requests) <= 64 + 8
    assert not greedy.transport.reads()
    other.begin(fields(), ends=True)
    other.feed(other.client.data_to_send())
    assert len(other.requests) == 1, "one request waits for nobody"
    for _ in range(600):
        if len(greedy.requests) == 500:
            break
        await asyncio.sleep(0)
    assert len(greedy.requests) == 500
    await other.receive()
    assert other.answers[1].status == 200
    await asyncio.sleep(0)
    assert greedy.transport.reads()


async def test_requests_are_handed_over_in_the_order_in_which_they_were_whole(
    http2: Make2,
) -> None:
    one = http2()
    streams = [one.begin(fields(b"POST", b"/%d" % i)) for i in range(3)]
    for stream in (streams[1], streams[2], streams[0]):
        one.put(stream, b"x")
    await one.send()
    assert [request.path for request in one.requests] == ["/1", "/2", "/0"]


async def test_no_request_overtakes_one_that_is_still_being_taken_in(http2: Make2) -> None:
    one = http2()

    def hold(request: HttpRequest) -> None:
        request.blocks_next = request.path == "/0"

    one.on_request = hold
    for i in range(3):
        one.begin(fields(b"POST", b"/%d" % i), ends=True)
    await one.send()
    assert [request.path for request in one.requests] == ["/0"]
    assert not one.transport.reads()
    one.requests[0].let_next()
    await one.receive()
    assert [request.path for request in one.requests] == ["/0", "/1", "/2"]
    assert one.transport.reads()


async def test_a_request_that_holds_others_back_and_is_given_up_lets_them_go(
    http2: Make2,
) -> None:
    one = http2()

    def hold(request: HttpRequest) -> None:
        request.blocks_next = request.path == "/0"

    one.on_request = hold
    for i in range(2):
        one.begin(fields(b"POST", b"/%d" % i), ends=True)
    await one.send()
    one.requests[0].abort()
    await one.receive()
    assert [request.path for request in one.requests] == ["/0", "/1"]
    one.requests[0].let_next()


# --- clients that go


async def test_a_reset_stream_is_a_client_that_is_gone(http2: Make2) -> None:
    one = http2()
    await one.ask()
    await one.ask()
    one.client.reset_stream(1)
    await one.send()
    assert one.gone == [one.requests[0]]
    assert one.requests[0].is_gone
    assert not one.requests[1].is_gone
    one.requests[1].respond(200, b"x")
    await one.receive()
    assert one.answers[3].body == b"x"


async def test_a_lost_connection_is_told_for_each_request_that_is_owed(http2: Make2) -> None:
    one = http2()
    for _ in range(3):
        await one.ask()
    one.requests[1].respond(200, b"x")
    one.lose()
    assert one.gone == [one.requests[0], one.requests[2]]
    assert all(request.is_gone for request in one.gone)


async def test_a_reset_while_the_answer_leaves_ends_it(http2: Make2) -> None:
    one = http2(settings={SettingCodes.INITIAL_WINDOW_SIZE: 1})
    await one.ask()
    one.requests[0].respond(200, b"hello")
    await one.receive()
    one.client.reset_stream(1)
    await one.send()
    assert not one.gone, "it was answered"
    assert one.hub.counters.handler_failures == 0
    one.echoes = True
    assert (await one.ask()).status == 200


async def test_an_abort_resets_the_stream_alone(http2: Make2) -> None:
    one = http2()
    answer = await one.ask()
    await one.ask()
    one.requests[0].abort()
    await one.receive()
    assert answer.reset_code == ErrorCodes.INTERNAL_ERROR
    assert one.gone == [one.requests[0]]
    one.requests[1].respond(200, b"")
    await one.receive()
    assert one.answers[3].status == 200


async def test_a_client_that_sends_no_more_is_answered_and_looked_for(http2: Make2) -> None:
    one = http2()
    await one.ask()
    unfinished = one.begin(fields())
    await one.send()
    assert one.protocol.eof_received(), "the connection stays half open"
    one.requests[0].respond(200, b"hello")
    await one.receive()
    assert one.answers[1].body == b"hello"
    assert one.answers[unfinished].status == 400
    assert one.refused() == {"truncated": 1}
    assert one.transport.is_closed
    assert b"kdaemon?" in b"".join(getattr(e, "ping_data", b"") or b"" for e in one.told)


async def test_a_client_that_says_goaway_is_answered_and_left(raw: MakeRaw) -> None:
    one = raw()
    one.feed(one.request(1) + frame(GOAWAY, 0, 0, bytes(8)))
    await one.read()
    assert not one.transport.has_ended()
    one.requests[0].respond(200, b"hello")
    await one.read()
    assert [each[3] for each in one.of_kind(DATA)] == [b"hello"]
    assert one.transport.has_ended()


# --- the end


async def test_a_drain_says_goaway_finishes_what_has_begun_and_closes(http2: Make2) -> None:
    one = http2()
    await one.ask()
    unfinished = one.begin(fields())
    await one.send()
    one.hub.close_idle()
    await one.receive()
    assert one.goaway is not None
    assert one.goaway.error_code == ErrorCodes.NO_ERROR
    assert one.goaway.last_stream_id == unfinished
    assert not one.transport.has_ended()
    one.requests[0].respond(200, b"first")
    one.feed(data(unfinished, b"x", ends=True))
    for _ in range(5):
        await asyncio.sleep(0)
    one.requests[1].respond(200, b"second")
    for _ in range(5):
        await asyncio.sleep(0)
    written = one.transport.take()
    assert b"first" in written
    assert b"second" in written
    assert one.transport.has_ended()


async def test_what_begins_after_goaway_is_refused_and_may_be_tried_elsewhere(
    raw: MakeRaw,
) -> None:
    one = raw()
    one.feed(one.request(1))
    one.hub.close_idle()
    one.feed(one.request(3))
    await one.read()
    assert one.resets() == {3: ErrorCodes.REFUSED_STREAM}
    assert len(one.requests) == 1
    one.requests[0].respond(200, b"")
    await one.read()
    assert one.transport.has_ended()


async def test_one_who_comes_in_a_drain_is_answered_once(raw: MakeRaw) -> None:
    """As in HTTP/1.1: the listener may still be open for a while."""
    one = raw(echoes=True)
    one.hub.close_idle()
    late = raw(echoes=True, hub=one.hub)
    await late.read()
    assert not late.of_kind(GOAWAY)
    late.feed(late.request(1) + late.request(3))
    await late.read()
    assert len(late.requests) == 2
    assert late.code == ErrorCodes.NO_ERROR
    assert late.transport.has_ended()


async def test_an_end_that_comes_too_late_raises_nothing(raw: MakeRaw) -> None:
    """The client's kernel has told ours that it is gone, and ours not yet the loop."""

    def fail() -> None:
        raise OSError(107, "Transport endpoint is not connected")

    one = raw()
    one.transport.write_eof = fail  # type: ignore[method-assign]
    one.feed(frame(HEADERS, 0, 0))
    assert one.transport.is_closed


async def test_the_last_answer_has_the_time_to_write_and_not_that_to_linger(raw: MakeRaw) -> None:
    one = raw()
    one.feed(one.request(1) + frame(GOAWAY, 0, 0, bytes(8)))
    one.transport.pauses_when_written = 0
    one.requests[0].respond(200, b"hello")
    for _ in range(one.hub.discard_ticks_max + 3):
        one.hub.sweep()
        await asyncio.sleep(0)
    assert not one.transport.is_closing()
    one.protocol.resume_writing()
    await one.read()
    assert [each[3] for each in one.of_kind(DATA)] == [b"hello"]


async def test_an_idle_connection_is_told_and_closed_by_a_drain_and_in_time(http2: Make2) -> None:
    one, other = http2(echoes=True), http2(echoes=True)
    for each in (one, other):
        await each.ask()
    one.hub.close_idle()
    await one.receive()
    assert one.goaway is not None
    assert one.transport.has_ended()
    assert one.transport.reads(), "what the client was writing is thrown away"
    for _ in range(other.hub.idle_ticks_max + 2):
        if other.transport.has_ended():
            break
        other.client.ping(b"12345678")  # keeps nobody's place
        await other.send()
        other.hub.sweep()
        await asyncio.sleep(0)
    await other.receive()
    assert other.goaway is not None
    assert other.goaway.error_code == ErrorCodes.NO_ERROR
    assert other.hub.counters.timed_out["idle"] == 1


async def test_a_body_that_is_late_is_answered_on_its_stream(http2: Make2) -> None:
    one = http2(ConnectionLimits(body_timeout_s=5))
    late = one.begin(fields())
    one.put(late, bytes(60_000), ends=False)
    await one.send()
    for _ in range(7):
        one.hub.sweep()
        await asyncio.sleep(0)
    await one.receive()
    assert one.answers[late].status == 408
    assert one.answers[late].reset_code is None
    assert one.hub.counters.timed_out["body"] == 1
    assert not one.transport.has_ended()
    assert one.hub.bodies.bytes_taken == 0


async def test_a_body_that_comes_too_slowly_is_answered_on_its_stream(http2: Make2) -> None:
    one = http2()
    slow = one.begin(fields())
    await one.send()
    for _ in range(20):
        if one.answers.get(slow) is not None:
            break
        one.put(slow, bytes(200), ends=False)
        await one.send()
        one.hub.sweep()
        await asyncio.sleep(0)
    await one.receive()
    assert one.answers[slow].status == 408
    assert b"fast enough" in one.answers[slow].body


async def test_headers_that_do_not_end_are_late(raw: MakeRaw) -> None:
    one = raw()
    one.feed(one.request(1))
    one.feed(frame(HEADERS, END_STREAM, 3, one.encoder.encode(fields(b"GET"))))
    for _ in range(one.hub.head_ticks_max + 2):
        one.feed(frame(CONTINUATION, 0, 3))  # another one does not help
        one.hub.sweep()
        await asyncio.sleep(0)
    await one.read()
    assert one.hub.counters.timed_out["head"] == 1
    assert one.code == ErrorCodes.NO_ERROR
    assert not one.transport.has_ended(), "the first one is owed its answer"
    one.requests[0].respond(200, b"")
    await one.read()
    assert one.transport.has_ended()


@pytest.mark.parametrize("sent", [b"", b"\0\0\0"], ids=["nothing", "half a frame"])
async def test_a_client_that_does_not_go_on_after_the_preface_is_late(
    raw: MakeRaw, sent: bytes
) -> None:
    one = raw(has_begun=False)
    one.feed(PREFACE + sent)
    for _ in range(one.hub.head_ticks_max + 2):
        one.hub.sweep()
        await asyncio.sleep(0)
    assert one.hub.counters.timed_out["head"] == 1
    assert one.transport.has_ended()


async def test_who_only_holds_a_connection_gives_its_place_to_others(http2: Make2) -> None:
    places = ConnectionPlaces(2)
    hub = Hub(ConnectionLimits(), places=places)
    idle, busy = http2(hub=hub), http2(hub=hub)
    await idle.send()
    await busy.ask()
    hub.sweep()
    newcomer = http2(hub=hub, echoes=True)
    await idle.receive()
    assert idle.goaway is not None
    assert idle.transport.is_closed
    assert not busy.transport.is_closed
    assert (await newcomer.ask()).status == 200
    busy.requests[0].respond(200, b"")


async def test_at_the_end_all_is_reset_and_told(http2: Make2) -> None:
    one = http2()
    await one.ask()
    one.protocol.reset()
    assert one.transport.abort_count == 1
    one.lose()
    assert one.gone == one.requests
    one.requests[0].respond(200, b"")
    one.hub.sweep()


async def test_a_connection_that_is_lost_leaves_nothing_for_the_collector(http2: Make2) -> None:
    one = http2(echoes=True)
    await one.ask(b"hello")
    gc.collect()
    protocol = one.protocol
    one.lose()
    one.requests.clear()
    one.headers.clear()
    one.transport.set_protocol(one.transport.protocol.__class__.__mro__[1]())
    del protocol
    gc.disable()
    try:
        left = [each for each in gc.get_objects() if isinstance(each, Http2Protocol)]
        assert not left
    finally:
        gc.enable()


@pytest.mark.pure("puts a defect in the place of a method")
async def test_a_defect_of_ours_while_a_frame_is_used_ends_its_connection(
    raw: MakeRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = raw()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    one.failures = 1

    def fail(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(Http2Stream, "begin", fail)
    one.feed(one.request(1))
    await one.read()
    assert one.code == 2  # INTERNAL_ERROR
    assert one.transport.has_ended()
    assert len(told) == 1


def test_the_library_is_not_there_before_somebody_speaks_http_2() -> None:
    """An idle daemon does not pay for it."""
    import subprocess
    import sys

    code = (
        "import sys, kdaemon.http.server, kdaemon.door.routes\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('h2', 'hpack')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
