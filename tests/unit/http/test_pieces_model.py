"""Answers in pieces under whatever client and source do, in any order, against a small model."""

import asyncio
from dataclasses import dataclass, field

import h11
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.request import HttpRequest
from tests.kit.depth import examples
from tests.unit.http.harness import GET, Harness
from tests.unit.http.http2_harness import Http2Harness, fields
from tests.unit.http.sources import Script, turns

steps = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(1, 3000)),
        st.tuples(st.sampled_from(["pause", "resume", "sweep", "turn", "half close", "ask"])),
        st.tuples(st.sampled_from(["end", "fail", "drain", "go"])),
    ),
    max_size=25,
)
LIMITS = ConnectionLimits(
    write_timeout_s=3, idle_timeout_s=3, discard_timeout_s=3, head_timeout_s=3
)


@dataclass
class Model:
    """What the source was made to say."""

    given: bytes = b""
    has_end: bool = False
    has_failed: bool = False
    script: Script = field(default_factory=Script)

    def step(self, step: tuple[object, ...]) -> None:
        """Of the source's side."""
        is_over = self.has_end or self.has_failed
        if step[0] == "give" and isinstance(step[1], int) and not is_over:
            piece = bytes([97 + len(self.given) % 26]) * step[1]
            self.given += piece
            self.script.ready.append(piece)
        elif step[0] == "end" and not is_over:
            self.has_end = True
            self.script.ready.append(None)
        elif step[0] == "fail" and not is_over:
            self.has_failed = True
            self.script.ready.append(ValueError("a defect"))
        if self.script.pieces is not None:
            self.script.pieces.wake()

    def check(self, body: bytes, is_whole: bool) -> None:
        told = self.script.told
        assert self.given.startswith(body), "what comes is what was made, in order"
        assert told.count("gone") <= 1
        assert told.count("drain") <= 1
        if is_whole:
            assert self.has_end
            assert body == self.given
            assert "gone" not in told
        if self.has_failed:
            assert not is_whole


def read_http_1(data: bytes) -> tuple[bytes, bool]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    body = b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return body, True
        elif not isinstance(event, h11.Response):
            return body, False


async def run_http_1(plan: list[tuple[object, ...]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    model, one = Model(), Harness(hub=Hub(LIMITS))
    one.feed(GET)
    model.script.begin(one.requests[0])
    is_paused = is_gone = False
    received = b""
    for step in plan:
        await turns(6)
        received += one.transport.take()
        if is_gone or one.transport.has_ended():
            break
        if step[0] == "pause" and not is_paused:
            is_paused = True
            one.protocol.pause_writing()
        elif step[0] == "resume" and is_paused:
            is_paused = False
            one.protocol.resume_writing()
        elif step[0] == "sweep":
            one.hub.sweep()
        elif step[0] == "half close":
            one.protocol.eof_received()
        elif step[0] == "ask" and len(one.requests) < 3:
            one.protocol.data_received(GET)
        elif step[0] == "drain":
            one.hub.close_idle()
        elif step[0] == "go":
            is_gone = True
            one.lose()
        model.step(step)
    if is_paused and not is_gone and not one.transport.is_closed:
        one.protocol.resume_writing()
    await turns(6)
    received += one.transport.take()
    body, is_whole = read_http_1(received)
    model.check(body, is_whole)
    if model.has_end and not is_gone and not one.transport.abort_count:
        assert is_whole, "what was made arrives"
    if not is_gone:
        one.lose()
    await turns(6)
    assert is_whole or model.script.told[-1:] == ["gone"]
    assert not one.hub.bodies.bytes_taken
    await one.hub.aclose(0)


async def run_http_2(plan: list[tuple[object, ...]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    model = Model()
    window = {SettingCodes.INITIAL_WINDOW_SIZE: 1000 if len(plan) % 3 else 65_535}
    one = Http2Harness(hub=Hub(LIMITS), echoes=True, settings=window)

    def begin(request: HttpRequest) -> None:
        model.script.begin(request)

    one.on_request = begin
    stream = one.begin(fields(b"GET"), ends=True)
    await one.send()
    one.on_request = None
    is_paused = is_gone = is_drained = False
    for step in plan:
        if is_drained:  # the library's client reads nothing after GOAWAY
            await turns(6)
        else:
            await (one.receive() if is_paused else one.send())
        if is_gone or one.transport.has_ended():
            break
        if step[0] == "pause" and not is_paused:
            is_paused = True
            one.protocol.pause_writing()
        elif step[0] == "resume" and is_paused:
            is_paused = False
            one.protocol.resume_writing()
        elif step[0] == "sweep":
            one.hub.sweep()
        elif step[0] == "ask" and not is_drained and not is_paused and one.goaway is None:
            one.begin(fields(b"GET"), ends=True)
        elif step[0] == "drain":
            is_drained = True
            one.hub.close_idle()
        elif step[0] == "go" and not is_drained and one.goaway is None:
            is_gone = True
            answer = one.answers[stream]
            if len(plan) % 2 or answer.is_whole or answer.reset_code is not None:
                one.lose()
            else:
                one.client.reset_stream(stream)
                await one.send()
        model.step(step)
    if is_paused and not one.transport.is_closed and not is_gone:
        one.protocol.resume_writing()
    if not is_drained and one.goaway is None:
        await one.send()
        await one.send()
    answer = one.answers[stream]
    model.check(answer.body, answer.is_whole)
    if model.has_failed and answer.reset_code is not None:
        assert not answer.is_whole
    await turns(6)
    one.lose()
    assert answer.is_whole or is_drained or model.script.told[-1:] == ["gone"]
    assert not one.hub.bodies.bytes_taken
    await one.hub.aclose(0)


_settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(60)
)


@_settings
@given(steps)
def test_an_answer_in_pieces_is_told_as_modelled_over_http_1(
    plan: list[tuple[object, ...]],
) -> None:
    asyncio.run(run_http_1(plan))


@_settings
@given(steps)
def test_an_answer_in_pieces_is_told_as_modelled_over_http_2(
    plan: list[tuple[object, ...]],
) -> None:
    asyncio.run(run_http_2(plan))
