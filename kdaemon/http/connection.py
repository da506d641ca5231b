"""The HTTP/1.1 listener: bytes of a connection in, whole requests to a handler, answers in order.

It knows HTTP and nothing of what is asked: no stream, record or metric belongs here. The Kinesis
API, the NDJSON route, the sandbox and the admin pages are handlers behind the same listener;
`unix.py` hands it connections that begin with a letter.

Invariant: whatever a client sends, one connection holds at most one read (256 KiB) of raw input,
one body of `body_bytes_max` and `pipeline_max` requests without an answer, and all bodies that are
still arriving share one `ByteBudget`. No task and no timer per connection or request: one coarse
sweep cuts off who is slow.

Where it sits: socket -> HttpProtocol (RequestReader) -> HttpRequest -> handler -> respond.
"""

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from typing import Any

from kdaemon.base.memory import ByteBudget
from kdaemon.http.hub import HttpCounters, HttpHub, HttpLimits
from kdaemon.http.reader import SLICE_BYTES, Phase, RequestReader
from kdaemon.http.request import HttpHandler, HttpRequest, error_body, http_2_goodbye

__all__ = [
    "HttpCounters",
    "HttpHandler",
    "HttpHub",
    "HttpLimits",
    "HttpProtocol",
    "HttpRequest",
    "HttpServer",
    "serve_http",
]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Answers gathered during one read are written when they reach this, so that the transport's own
# mark (64 KiB) can say stop before the rest of the read is handled. Our choice, 2026-11-21.
GATHERED_BYTES_MAX = 64 * 1024

LISTEN_BACKLOG = 1024  # connections the kernel keeps while the loop is busy; ours, 2026-11-21


class State(Enum):
    """The writing side of a connection; what is being read is the reader's `Phase`."""

    OPEN = "open"
    LINGERING = (
        "lingering"  # the last answer is written; input is thrown away until the client closes
    )
    CLOSED = "closed"


_MOVES = {
    State.OPEN: {State.LINGERING, State.CLOSED},
    State.LINGERING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # lost after it was closed or reset
}


class HttpProtocol(asyncio.Protocol):
    """One connection. Nothing a client does makes its methods raise.

    Queues, all drained by `_pump` when answers leave or the client reads them:
    `_pending`: requests handed over, in order, at most `pipeline_max`; when full, reading stops.
    `_waiting`: requests parsed and not handed over; those of one slice.
    `_unread`: raw input; one read.
    """

    __slots__ = (
        "_gathered",
        "_gathered_bytes",
        "_handler",
        "_has_eof",
        "_is_feeding",
        "_is_reading",
        "_is_writing_paused",
        "_pending",
        "_pipeline_max",
        "_reader",
        "_state",
        "_transport",
        "_unread",
        "_waiting",
        "hub",
    )

    def __init__(
        self, handler: HttpHandler, limits: HttpLimits | None = None, hub: HttpHub | None = None
    ) -> None:
        """`hub`: shared by the connections of a listener; without one the connection is alone."""
        self.hub = HttpHub(limits or HttpLimits()) if hub is None else hub
        self._handler = handler
        self._pipeline_max = self.hub.limits.pipeline_max
        self._transport: Any = None
        self._reader = RequestReader(self, self.hub)
        self._state = State.OPEN
        self._pending: deque[HttpRequest] = deque()
        self._waiting: deque[HttpRequest] = deque()
        self._unread: memoryview | None = None
        self._gathered: list[bytes] = []  # answers of this read, written together
        self._gathered_bytes = 0
        self._is_feeding = False
        self._is_reading = True
        self._is_writing_paused = False
        self._has_eof = False

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """A connection that the hub knows already, its first bytes read by somebody else."""
        self._transport = transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.take_over(transport)
        if not self.hub.attach(self):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._move(State.CLOSED)
        self.hub.detach(self)
        self._drop_requests()
        self._reader.close()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader.phase is Phase.ENDED:
            return  # nothing more is taken from this client
        if len(data) <= SLICE_BYTES and self._unread is None and not self._waiting:
            self._is_feeding = True
            reader.feed(data)
            self._is_feeding = False
            if reader.owes_continue:
                self._continue()
            if self._gathered:
                self._write_gathered()
            if len(self._pending) >= self._pipeline_max or self._waiting:
                self._regulate_reading()
        else:
            if self._unread is not None:  # a transport may deliver once more after a pause
                data = bytes(self._unread) + data
            self._unread = memoryview(data)
            self._pump()

    def eof_received(self) -> bool:
        """The client sends no more. While it is owed answers the connection stays half open."""
        self._has_eof = True
        if self._unread is None and not self._waiting:
            self._reader.finish()
        return bool(self._pending or self._waiting) and self._state is State.OPEN

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._reader.since_tick = self.hub.tick
        self._regulate_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._reader.since_tick = self.hub.tick
        self._pump()

    # --- the reader's calls

    def take(
        self,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        body: bytes,
        closes: bool,
        is_http_1_0: bool,
    ) -> None:
        """A whole request: handed over now if the pipeline has room."""
        request = HttpRequest(self, method, path, query, headers, body, closes, is_http_1_0)
        if self._waiting or self._is_writing_paused or len(self._pending) >= self._pipeline_max:
            self._waiting.append(request)
        else:
            self._dispatch(request)

    def refuse(
        self,
        reason: str,
        status: int,
        code: str,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Answers an error after what is still owed, and closes. Counted by its reason."""
        self.hub.counters.refused[reason] += 1
        self._end_with(status, error_body(code, message), headers)

    def refuse_http_2(self) -> None:
        """Tells an HTTP/2 client in its own frames, so that its error names cause and remedy."""
        self.hub.counters.refused["http2"] += 1
        self._gather(http_2_goodbye())
        self._write_gathered()
        self._close()

    # --- handing over

    def _pump(self) -> None:
        """Hands over what waits and feeds what is unread, as far as pipeline and client allow."""
        if self._is_feeding:
            return
        self._is_feeding = True
        reader = self._reader
        while (
            self._state is State.OPEN
            and not self._is_writing_paused
            and len(self._pending) < self._pipeline_max
        ):
            if self._waiting:
                self._dispatch(self._waiting.popleft())
            elif self._unread is not None and reader.phase is not Phase.ENDED:
                size = reader.feed_bytes_wanted
                piece = self._unread[:size]
                self._unread = self._unread[size:] if len(self._unread) > size else None
                reader.feed(piece)
            else:
                self._unread = None
                break
        self._is_feeding = False
        if reader.owes_continue:
            self._continue()
        self._write_gathered()
        if self._has_eof and self._unread is None and not self._waiting:
            reader.finish()
            if not self._pending:
                self._close()
        self._regulate_reading()

    def _dispatch(self, request: HttpRequest) -> None:
        self._pending.append(request)
        if request.answer is not None:  # a refusal that waited for its turn
            self.flush_answers(request)
            return
        try:
            self._handler(request)
        except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
            self.hub.counters.handler_failures += 1
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": f"the handler of {request.method} {request.path} failed",
                    "exception": error,
                }
            )
            if request.answer is None:
                text = "kdaemon failed to handle this request; its log says why."
                request.respond(500, error_body("InternalFailure", text))

    def _regulate_reading(self) -> None:
        """Reads exactly while more could be handed over, or to see the client go."""
        wants = self._reader.phase is Phase.ENDED or not (
            self._is_writing_paused
            or self._waiting
            or self._unread is not None
            or len(self._pending) >= self._pipeline_max
        )
        if wants is self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wants
        if wants:
            self._reader.since_tick = self.hub.tick  # the time we did not read is not the client's
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end_with(
        self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """The last answer of this connection, after those that are owed."""
        self._reader.end()
        self._unread = None
        request = HttpRequest(self, "", "", "", {}, b"", closes=True, is_http_1_0=False)
        (self._waiting or self._pending).append(request)
        request.respond(status, body, headers=headers)

    # --- answering

    @property
    def is_last_answer(self) -> bool:
        return self.hub.is_draining

    def flush_answers(self, request: HttpRequest) -> None:
        """Writes what may leave now that `request` has its answer, in request order."""
        pending = self._pending
        if not pending or pending[0] is not request:
            return  # its turn comes when those before it are answered
        while pending:
            answer = pending[0].answer
            if answer is None:
                break
            self._gather(answer)
            if pending.popleft().closes:
                self._write_gathered()
                self._close()
                return
        self._reader.since_tick = self.hub.tick
        if self._is_feeding:
            if self._gathered_bytes >= GATHERED_BYTES_MAX:
                self._write_gathered()
            return
        if self._reader.owes_continue:
            self._continue()
        self._write_gathered()
        if not self._is_reading or self._waiting or self._has_eof:
            self._pump()

    def _continue(self) -> None:
        """Tells the client to send its body, unless answers to earlier requests go first."""
        if not self._pending and not self._waiting and self._state is State.OPEN:
            self._reader.owes_continue = False
            self._gather(CONTINUE)

    def _gather(self, answer: bytes) -> None:
        self._gathered.append(answer)
        self._gathered_bytes += len(answer)

    def _write_gathered(self) -> None:
        gathered = self._gathered
        if gathered:
            answers = gathered[0] if len(gathered) == 1 else b"".join(gathered)
            gathered.clear()
            self._gathered_bytes = 0
            if self._state is State.OPEN:
                self._transport.write(answers)

    # --- the end

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a connection cannot go from {self._state} to {state}")
        self._state = state

    def _drop_requests(self) -> None:
        for request in (*self._pending, *self._waiting):
            request.owner = None
        self._pending.clear()
        self._waiting.clear()
        self._unread = None

    def _close(self) -> None:
        """Nothing more is owed.

        If the client may still be sending, its input is thrown away for a while: closing with
        unread input resets the connection, and the client would not get to see its answer.
        """
        self._reader.end()
        self._drop_requests()
        if self._state is not State.OPEN:
            return
        self._reader.since_tick = self.hub.tick
        if self._has_eof or self._transport.is_closing() or not self._transport.can_write_eof():
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.LINGERING)
            self._transport.write_eof()
            self._regulate_reading()

    def reset(self) -> None:
        """Ends the connection at once, with a reset where the transport is TCP."""
        self._reader.end()
        self._move(State.CLOSED)
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Closes a connection that is between requests and owed nothing."""
        if self._reader.phase is Phase.IDLE and not self._pending and not self._waiting:
            self._reader.end()
            self._move(State.CLOSED)
            self._transport.close()

    def check_time(self, tick: int) -> None:
        """Cuts off a client that takes longer than its phase allows. Called by every sweep."""
        hub, phase = self.hub, self._reader.phase
        ticks = tick - self._reader.since_tick
        if self._is_writing_paused:
            if ticks > hub.write_ticks_max:
                hub.counters.timed_out["write"] += 1
                self.reset()
        elif self._state is not State.OPEN:
            if ticks > hub.linger_ticks_max:
                self.reset()
        elif phase is Phase.IDLE:
            if ticks > hub.idle_ticks_max and not self._pending and not self._waiting:
                hub.counters.timed_out["idle"] += 1
                self.close_if_idle()
        elif not self._is_reading:
            return  # it is we who make the client wait
        elif phase is Phase.HEAD and ticks > hub.head_ticks_max:
            self._time_out("head", "The request line and headers", hub.limits.head_timeout_s)
        elif phase is Phase.BODY and ticks > hub.body_ticks_max:
            self._time_out("body", "The body", hub.limits.body_timeout_s)

    def _time_out(self, what: str, part: str, limit_s: float) -> None:
        self.hub.counters.timed_out[what] += 1
        text = f"{part} did not arrive within {limit_s:g} seconds."
        self._end_with(408, error_body("RequestTimeoutException", text))


class HttpServer:
    """A listening socket and its connections."""

    def __init__(self, server: asyncio.Server, hub: HttpHub) -> None:
        self._server = server
        self.hub = hub
        self.counters = hub.counters
        self.host, self.port = server.sockets[0].getsockname()[:2]

    def close_listener(self) -> None:
        """Takes no new connections; those that are open go on. Closing twice is nothing."""
        self._server.close()

    def close_idle(self) -> None:
        """Closes connections between requests; every answer from now on closes its connection."""
        self.hub.close_idle()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stops listening; open requests have `grace_s` seconds, then they are cut off."""
        self.close_listener()
        await self.hub.aclose(grace_s)
        await self._server.wait_closed()


async def serve_http(
    handler: HttpHandler,
    host: str,
    port: int,
    limits: HttpLimits | None = None,
    *,
    bodies: ByteBudget | None = None,
) -> HttpServer:
    """Listens on `host`:`port` (0: the system chooses, see `.port`). Raises OSError if it cannot.

    `bodies`: one budget for several listeners; by default the listener has its own.
    """
    hub = HttpHub(limits or HttpLimits(), bodies)
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpProtocol(handler, hub=hub), host, port, backlog=LISTEN_BACKLOG
    )
    return HttpServer(server, hub)
