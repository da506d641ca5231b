"""The answers of one HTTP/1.1 connection on their way: in the order of the requests, and as far as
the client reads them.

Knows requests that were handed over, rendered answers, and how much the client leaves unread. Must
not know how requests are read, clocks, or how a connection ends.
Invariants: an answer leaves after those of all earlier requests, and nothing leaves behind an
answer that closes. Answers that become ready during one read are written together. What cannot
leave is charged to what arrives (arrivals.py), beyond 64 KiB a connection.
Where it sits: connection.py owns one; outflow.py has the one answer in pieces whose turn it is.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kdaemon.http.answer import Answer
from kdaemon.http.arrivals import Kept
from kdaemon.http.handlers import lose_pieces, tell_gone
from kdaemon.http.hub import Hub
from kdaemon.http.outflow import Outflow
from kdaemon.http.pieces import Pieces
from kdaemon.http.rendering import render, render_head
from kdaemon.http.request import HttpRequest
from kdaemon.http.transports import PROBE_S, Probe

if TYPE_CHECKING:
    from kdaemon.http.connection import HttpProtocol

# Answers gathered during one read are written when they reach this, so that the transport's own
# mark (64 KiB) can say stop before the rest of the read is handled. Our choice, 2026-11-21.
GATHERED_BYTES_MAX: Final = 64 * 1024

ANSWER_START = b"HTTP/1.1 "  # every answer that rendering.py makes begins with this


class Sending:
    """`is_paused`: the socket takes no more. `is_over`: an answer that closes is gathered, so no
    other follows. `gathered_bytes`: of answers that are ready to be written.

    `_pending`: requests handed over, in order, at most `pipeline_max`. `_outflow`: the answer in
    pieces to the first of these: one piece at a time is asked for, when the transport takes more.
    """

    __slots__ = (
        "_behind_bytes",
        "_connection",
        "_gathered",
        "_is_open",
        "_outflow",
        "_pending",
        "_pipeline_max",
        "_probe",
        "_transport",
        "_unwritten",
        "gathered_bytes",
        "hub",
        "is_over",
        "is_paused",
    )

    def __init__(self, connection: "HttpProtocol", hub: Hub) -> None:
        self.hub = hub
        self._connection: Any = connection
        self._transport: Any = None
        self._pipeline_max = hub.limits.pipeline_max
        # A list: taking the first of a few costs compiled code less than a method of deque's does.
        self._pending: list[HttpRequest] = []
        self._gathered: list[bytes] = []  # answers of this read, written together
        self.gathered_bytes = 0
        self._outflow: Outflow | None = None
        self._behind_bytes = 0  # of answers that are ready, and wait for those before them
        self._unwritten = Kept(hub.arrivals)  # memory of these, and of answers not read
        self._probe = Probe(ANSWER_START)
        self._is_open = True
        self.is_over = False
        self.is_paused = False

    def begin(self, transport: Any) -> None:
        """Answers go to this transport."""
        self._transport = transport

    # --- the requests that are owed an answer

    def add(self, request: HttpRequest) -> None:
        """The request is handed over: its answer comes after those of the requests before it."""
        self._pending.append(request)

    @property
    def owes(self) -> bool:
        """Some request has no answer yet, or one that has not left whole."""
        return bool(self._pending)

    @property
    def is_full(self) -> bool:
        """As many requests wait for an answer as may."""
        return len(self._pending) >= self._pipeline_max

    @property
    def takes_next(self) -> bool:
        """Whether another request may be handed over."""
        pending = self._pending
        return (
            len(pending) < self._pipeline_max
            and not self.is_paused
            and not (pending and pending[-1].blocks_next)
        )

    # --- what leaves

    def gather_ready(self, request: HttpRequest) -> bool:
        """Gathers the answers that may leave now that `request` has its answer. False: earlier
        requests are answered first.
        """
        pending = self._pending
        if not pending or pending[0] is not request:
            if request.answer is not None and self._is_open:
                self._behind_bytes += len(request.answer.body)
                self._weigh()
            return False
        while pending and not self.is_over:
            first = pending[0]
            answer = first.answer
            if answer is None:
                break
            if answer.pieces is not None:
                if not self._pass_pieces(first, answer, answer.pieces):
                    break
                continue
            pending.pop(0)
            if first is not request:
                self._behind_bytes -= len(answer.body)
                self._weigh()
            closes = first.closes or answer.closes or self.hub.is_draining
            has_body = first.method != "HEAD"
            is_large = len(answer.body) > GATHERED_BYTES_MAX
            self.gather(render(answer, closes, first.is_http_1_0, has_body and not is_large))
            if is_large and has_body:  # not copied: many clients may be given the same page
                self.gather(answer.body)
            self.is_over = closes
        return True

    def gather(self, data: bytes) -> None:
        """`write` writes these bytes, behind those that are gathered already."""
        self._gathered.append(data)
        self.gathered_bytes += len(data)

    def write(self) -> None:
        """Writes what is gathered; drops it if the connection is not open any more."""
        gathered = self._gathered
        if not gathered:
            return
        if self._probe.is_out:
            gathered[0] = self._probe.rest_of(gathered[0])
        if self._is_open:
            if len(gathered) > 1 and self.gathered_bytes <= 2 * GATHERED_BYTES_MAX:
                self._transport.write(b"".join(gathered))
            else:
                for piece in gathered:
                    self._transport.write(piece)
        gathered.clear()
        self.gathered_bytes = 0
        if self.is_paused:
            self._weigh()

    def _weigh(self) -> None:
        """Answers that cannot leave count as waiting bytes. When the memory for these is full, a
        client that does not read loses its connection.
        """
        if not self._is_open:
            return
        byte_count = self._behind_bytes
        if self.is_paused:
            byte_count += self._transport.get_write_buffer_size()
        if byte_count <= GATHERED_BYTES_MAX:
            byte_count = 0  # every connection may have so much
        reset = self._connection.reset
        if not self._unwritten.weigh(byte_count, reset, waits=True):
            asyncio.get_running_loop().call_soon(reset)  # not here: we may be inside `write`

    def pause(self) -> None:
        """The client does not read its answers."""
        self.is_paused = True
        self._weigh()

    def resume(self) -> None:
        """The client reads again."""
        self.is_paused = False
        self._weigh()
        self.look_at_pieces()

    def tick(self) -> None:
        """A sweep later."""
        self._unwritten.tick()

    # --- an answer in pieces

    def _pass_pieces(self, first: HttpRequest, answer: Answer, pieces: Pieces) -> bool:
        """Begins an answer in pieces when its turn has come. Returns True when the answer is whole:
        the answers behind it have their turn then, unless the answer closes.
        """
        outflow = self._outflow
        if outflow is None:
            is_chunked = not first.is_http_1_0
            closes = first.closes or answer.closes or self.hub.is_draining or not is_chunked
            self.gather(render_head(answer, closes=closes, is_chunked=is_chunked))
            outflow = self._outflow = Outflow(self, pieces, closes=closes, is_chunked=is_chunked)
            outflow.begin(has_body=first.method != "HEAD")
        if not outflow.is_whole:
            return False
        self._outflow = None
        self._pending.pop(0)
        self.is_over = outflow.closes or self.hub.is_draining
        return True

    @property
    def takes_more(self) -> bool:
        """Whether the client reads the answers."""
        return not self.is_paused and self._is_open

    def write_parts(self, *parts: bytes) -> None:
        """Writes parts of an answer in pieces."""
        for part in parts:
            self.gather(part)
        self.write()

    def end_pieces(self) -> None:
        """The answer in pieces is whole."""
        self._connection.flush_answers(self._pending[0])

    def look_at_pieces(self) -> None:
        """If an answer in pieces is on its way, it may go on, or should end: it looks, later."""
        if self._outflow is not None:
            self._outflow.send_later()

    def reset(self) -> None:
        """The answer in pieces cannot go on."""
        self._connection.reset()

    # --- a client that sends no more

    def send_probe(self, look: Callable[[], object]) -> None:
        """Finds out whether the client still reads. `look`: called when its kernel had time to say
        so.
        """
        if self.is_paused or not self._is_open:
            return
        if self._outflow is not None:
            if self._outflow.send_probe():
                asyncio.get_running_loop().call_later(PROBE_S, look)
        elif not self._probe.is_out:
            self.write()
            self._probe.send(self._transport, look)

    # --- the end

    def stop(self) -> None:
        """Nothing is written any more."""
        self._is_open = False

    def drop(self) -> None:
        """Nobody reads the answers that are still owed: their handlers and sources are told, and
        all memory is given back.
        """
        self._unwritten.release()
        self._behind_bytes = 0
        if self._outflow is not None:
            self._outflow.stop()
            self._outflow = None
        dropped = tuple(self._pending)
        self._pending.clear()
        for request in dropped:
            request.owner = None
            request.drop_body()
        for request in dropped:
            answer = request.answer
            if answer is None:
                tell_gone(self.hub.counters, request)
            elif answer.pieces is not None:
                lose_pieces(self.hub.counters, answer.pieces)

    def close(self) -> None:
        """The connection is lost. Breaks the reference cycle with it."""
        self.drop()
        self._connection = None
