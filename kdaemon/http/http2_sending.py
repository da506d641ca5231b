"""Bodies of answers on their way, as far as the windows and the socket of one HTTP/2 connection
take them.

Knows windows, the socket's mark, and for how long and how much a client may leave unread. Must not
know what is answered, nor what comes in.
Invariants: answers take turns, a frame each, so that no answer waits for the end of another. Data
that has not left is charged to what arrives (arrivals.py), beyond 64 KiB a connection. Of an answer
in pieces one piece is kept at a time, and the next is asked for when it has left. The end of an
answer needs no window.
Where it sits: http2.py owns one. It calls `send` whenever something may leave, and `weigh` after
that.
"""

from collections.abc import Callable

from kdaemon.http.arrivals import Kept
from kdaemon.http.http2_core import Http2Core
from kdaemon.http.http2_frames import Effort
from kdaemon.http.http2_stream import Http2Stream
from kdaemon.http.hub import Hub
from kdaemon.http.pieces import PIECE_COST_BYTES, SENT_AT_ONCE_BYTES

# Bodies of answers are written in pieces of this size, so that the transport's own mark (64 KiB)
# can stop us. Ours, 2026-11-28.
GATHERED_BYTES_MAX = 64 * 1024

# While an answer waits for its client's window, so many bytes must leave within the time to write:
# as many as a client of HTTP/1.1 must read before more is written to it. Ours, 2026-11-28.
PROGRESS_BYTES = 16 * 1024


class Sending:
    """`is_paused`: the socket takes no more. `_streams`: answers that wait for a window, without
    those that wait for the next piece of their source.
    """

    __slots__ = (
        "_core",
        "_effort",
        "_hub",
        "_mark",
        "_sent_bytes",
        "_streams",
        "_unsent_bytes",
        "_unwritten",
        "is_paused",
    )

    def __init__(self, core: Http2Core, effort: Effort, hub: Hub) -> None:
        self._core = core
        self._effort = effort
        self._hub = hub
        self._streams: dict[int, Http2Stream] = {}
        self._unsent_bytes = 0
        self._sent_bytes = 0
        # When the client last took something, and how many bytes had been sent by then.
        self._mark = (hub.tick, 0)
        self._unwritten = Kept(hub.arrivals)
        self.is_paused = False

    def add(self, stream: Http2Stream, body: bytes) -> None:
        """Sends this body when windows and socket take it."""
        stream.rest = memoryview(body)
        self._unsent_bytes += len(body)
        self._streams[stream.id] = stream

    def ask(self, stream: Http2Stream) -> None:
        """An answer in pieces may have a next piece."""
        if stream.id not in self._streams:
            stream.since_tick = self._hub.tick
            self._streams[stream.id] = stream

    def forget(self, stream: Http2Stream) -> None:
        """The answer has left, or nobody will read it."""
        self._streams.pop(stream.id, None)
        self._unsent_bytes -= len(stream.rest)
        stream.rest = memoryview(b"")

    def send(
        self,
        write: Callable[[], object],
        finish: Callable[[Http2Stream], object],
        fail: Callable[[Http2Stream, Exception], object],
    ) -> bool:
        """Sends what may leave. `write`: writes what was sent to the socket, which may pause us.
        `finish`: called when all of an answer is sent. `fail`: called when its source raised. True:
        more may leave, in a later turn.
        """
        core, waiting = self._core, self._streams
        gathered_bytes = sent_bytes = stuck_count = 0
        while stuck_count < len(waiting) and not self.is_paused:
            if sent_bytes >= SENT_AT_ONCE_BYTES:
                break
            stream_id, stream = next(iter(waiting.items()))
            del waiting[stream_id]
            if stream.pieces is not None and not stream.rest:
                sent_bytes += PIECE_COST_BYTES
                if not self._take_piece(stream, finish, fail):
                    continue
            room = min(core.room_for(stream_id), GATHERED_BYTES_MAX)
            if room <= 0:
                waiting[stream_id] = stream
                stuck_count += 1
                continue
            stuck_count = 0
            piece, stream.rest = stream.rest[:room], stream.rest[room:]
            sent_bytes += len(piece)
            gathered_bytes += len(piece)
            self._unsent_bytes -= len(piece)
            is_last = not stream.rest and stream.pieces is None
            core.send_data(stream_id, piece, end_stream=is_last)
            if not is_last:
                stream.since_tick = self._hub.tick
                waiting[stream_id] = stream
            else:
                finish(stream)
            if gathered_bytes >= GATHERED_BYTES_MAX:
                gathered_bytes = 0
                write()
        self._sent_bytes += sent_bytes
        self._effort.pay_sent(sent_bytes)
        return sent_bytes >= SENT_AT_ONCE_BYTES and not self.is_paused

    def _take_piece(
        self,
        stream: Http2Stream,
        finish: Callable[[Http2Stream], object],
        fail: Callable[[Http2Stream, Exception], object],
    ) -> bool:
        """Asks for the next piece of an answer. False: there is none, or none yet."""
        assert stream.pieces is not None, "its answer is made in pieces"
        try:
            if self._hub.is_draining:
                stream.pieces.drain()
            piece = stream.pieces.take()
        except Exception as error:  # noqa: BLE001 - a source's defect must not end the daemon
            fail(stream, error)
            return False
        if piece is None:
            stream.pieces = None
            self._core.send_data(stream.id, b"", end_stream=True)
            finish(stream)
            return False
        stream.rest = memoryview(piece)
        self._unsent_bytes += len(piece)
        return bool(piece)

    def weigh(self, buffered_bytes: int, evict: Callable[[], object]) -> bool:
        """Charges data that cannot leave; `buffered_bytes` of it wait in front of the socket.
        False: there is no memory for it. `evict`: called when others need the memory.
        """
        byte_count = self._unsent_bytes + buffered_bytes
        if byte_count <= GATHERED_BYTES_MAX:
            byte_count = 0  # every connection may have so much uncharged
        if not byte_count and self._unwritten.is_empty:
            return True
        return self._unwritten.weigh(byte_count, evict, waits=True)

    def release(self) -> None:
        """Nothing will be sent any more."""
        self._streams.clear()
        self._unwritten.release()

    def pause(self) -> None:
        """The socket takes no more; the time in which the client must take something begins."""
        self.is_paused = True
        self._mark_taken()

    def is_late(self, tick: int) -> bool:
        """Called each sweep. Whether answers wait for the client and it takes too little of them.
        Answers in pieces are checked by `stuck` instead.
        """
        self._unwritten.tick()
        is_waiting = any(stream.pieces is None for stream in self._streams.values())
        if not (self.is_paused or is_waiting):
            self._mark_taken()
            return False
        since_tick, sent_bytes = self._mark
        if self._sent_bytes - sent_bytes >= PROGRESS_BYTES:
            self._mark_taken()
            return False
        return tick - since_tick > self._hub.write_ticks_max

    def stuck(self, tick: int) -> list[Http2Stream]:
        """Streams with answers in pieces of which their client has taken nothing for too long."""
        oldest = tick - self._hub.write_ticks_max
        return [
            stream
            for stream in self._streams.values()
            if stream.pieces is not None and stream.since_tick < oldest
        ]

    def _mark_taken(self) -> None:
        self._mark = (self._hub.tick, self._sent_bytes)
