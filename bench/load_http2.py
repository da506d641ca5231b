"""The load generator's connection of HTTP/2: prebuilt requests of HTTP/1.1, in frames.

Heads are compressed as a real client does: what is the same each time is in the table after the
first request; the signature, the date and the length are not. Windows of the server are kept to;
ours are as large as may be.
"""

import socket
import time
from collections import deque

from hpack.hpack import Encoder

from bench.load import RECEIVE_BYTES, SHARD_PREFIX, Writer, acknowledged_in

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_OUR_WINDOW = 2**30  # bytes; it is not opened again: no run has so many of answers
_SETTINGS = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x04" + _OUR_WINDOW.to_bytes(4, "big")
_UPDATE = b"\0\0\x04\x08\0\0\0\0\0" + (_OUR_WINDOW - 65_535).to_bytes(4, "big")
_PIECE_BYTES = 16 * 1024  # of a body, in one frame
# Of each request its own: in no table, so that a block that was sent before can be sent again.
_OWN = frozenset({b"amz-sdk-invocation-id", b"authorization", b"content-length", b"x-amz-date"})
_STATUS_200 = 0x88  # the first byte of such an answer's head: in the static table


class Http2Connection(Writer):
    """Up to `stream_count` requests in flight. `failed`: as of HttpConnection."""

    def __init__(self, sock: socket.socket, acknowledge: str, stream_count: int) -> None:
        super().__init__(sock)
        self._shard_prefix = SHARD_PREFIX[acknowledge]
        self._stream_count = stream_count
        self.failed = 0
        self.latencies_ns: list[int] = []
        self._answer = b""
        self._bodies: dict[int, list[bytes]] = {}  # of answers, the first byte of the head first
        self._open: dict[int, tuple[int, int]] = {}  # stream: its records, when it was sent
        self._encoder = Encoder()
        self._blocks: dict[bytes, bytes] = {}  # of heads that were sent before
        self._next_stream = 1
        self._window = 65_535  # bytes that the server takes
        self._waiting: deque[bytes] = deque()  # frames of bodies, for want of it
        self.write(_PREFACE + _SETTINGS + _UPDATE)

    def wants_to_start(self) -> bool:
        return len(self._open) < self._stream_count and not self._waiting

    def start(self, payload: bytes, record_count: int) -> None:
        head, _, body = payload.partition(b"\r\n\r\n")
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._open[stream] = (record_count, time.perf_counter_ns())
        block = self._blocks.get(head)
        if block is None:
            block = self._encode(head)
            if stream > 1:  # from here on the table stays as it is
                self._blocks[head] = block
        self.write(_frame(1, 0x4, stream, block))
        for at in range(0, len(body), _PIECE_BYTES):
            is_last = at + _PIECE_BYTES >= len(body)
            self._waiting.append(_frame(0, int(is_last), stream, body[at : at + _PIECE_BYTES]))
        self._send_waiting()

    def _encode(self, head: bytes) -> bytes:
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.split(b" ")
        fields = [(b":method", method), (b":scheme", b"http"), (b":path", path)]
        for line in lines:
            name, _, value = line.partition(b": ")
            name = name.lower()
            fields.append((b":authority" if name == b"host" else name, value))
        fields.sort(key=lambda field: not field[0].startswith(b":"))
        return self._encoder.encode([(*each, each[0] in _OWN) for each in fields])

    def _send_waiting(self) -> None:
        ready = []
        while self._waiting and len(self._waiting[0]) - 9 <= self._window:
            frame = self._waiting.popleft()
            self._window -= len(frame) - 9
            ready.append(frame)
        if ready:
            self.write(b"".join(ready))

    def readable(self) -> int:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection in the middle of the load")
        answer = self._answer + data if self._answer else data
        at = answered = 0
        while len(answer) - at >= 9:
            end = at + 9 + int.from_bytes(answer[at : at + 3], "big")
            if end > len(answer):
                break
            stream = int.from_bytes(answer[at + 5 : at + 9], "big")
            answered += self._take(answer[at + 3], answer[at + 4], stream, answer[at + 9 : end])
            at = end
        self._answer = answer[at:]
        return answered

    def _take(self, kind: int, flags: int, stream: int, content: bytes) -> int:
        if kind == 1:
            self._bodies[stream] = [b"HTTP/1.1 200" if content[0] == _STATUS_200 else b""]
        elif kind == 0:
            self._bodies[stream].append(content)
        elif kind == 8 and not stream:
            self._window += int.from_bytes(content, "big")
            self._send_waiting()
        elif kind == 4 and not flags:
            self.write(b"\0\0\0\x04\x01\0\0\0\0")  # acknowledged
        elif kind in {3, 7}:
            raise ConnectionError(f"the server gave up: {content!r}")
        if kind > 1 or not flags & 1:
            return 0
        answer = b"".join(self._bodies.pop(stream))
        record_count, sent_ns = self._open.pop(stream)
        self.latencies_ns.append(time.perf_counter_ns() - sent_ns)
        self.failed += record_count - acknowledged_in(answer, record_count, self._shard_prefix)
        return record_count


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return (
        len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content
    )
