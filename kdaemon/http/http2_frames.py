"""Finds the frames of HTTP/2 in a connection's bytes, and counts what frames cost (RFC 9113, 4 and
6). Pure.

Bytes in, whole frames out, one at a time, so that a connection can stop between any two frames.
Knows where a frame ends and where a block of headers ends. Must not know what a frame means; the
library does (http2_core.py).
Invariants: of input that is not whole, less than one frame is kept, and `byte_count` tells how
much. A frame of more than FRAME_BYTES_MAX, and a block of headers over its bound, is recognised
from its first bytes. Work that has no use is bounded by the work that has one.
Where it sits: http2.py reads frames here and hands them to http2_core.py.
"""

import struct
from dataclasses import dataclass

import msgspec

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # a client's first bytes (RFC 9113, 3.4)

(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)  # RFC 9113, 6.1 to 6.10
END_STREAM = 0x1  # a flag of DATA and HEADERS
END_HEADERS = 0x4  # a flag of HEADERS and CONTINUATION

HEAD_BYTES = 9  # bytes of a frame's head (RFC 9113, 4.1)
FRAME_BYTES_MAX = 16 * 1024  # beside its head: the least that may be announced (RFC 9113, 6.5.2)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR = 0x0, 0x1, 0x2  # RFC 9113, 7
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x6, 0x7, 0x8, 0xB
INADEQUATE_SECURITY = 0xC
NO_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # the frame with which either side begins, empty

PROBE = struct.pack(
    ">HBBBI8s", 0, 8, PING, 0, 0, b"kdaemon?"
)  # a PING; its answer is not looked at


def goaway(last_stream: int, code: int, text: str) -> bytes:
    """A GOAWAY frame; after it only what is owed is sent. `text`: for a human who reads the
    traffic.
    """
    told = text.encode()
    head = (8 + len(told)).to_bytes(3, "big") + struct.pack(">BBI", GOAWAY, 0, 0)
    return head + struct.pack(">II", last_stream, code) + told


class Frame(msgspec.Struct, frozen=True, gc=False):
    """`data`: the whole frame, with its head."""

    kind: int
    flags: int
    stream: int
    data: bytes

    @property
    def content_bytes(self) -> int:
        """Its size without its head."""
        return len(self.data) - HEAD_BYTES


@dataclass(frozen=True, slots=True)
class Broken:
    """Why the connection ends: an error code of HTTP/2, and a sentence. `is_flood`: the client does
    only what costs. `is_told`: the library has written the GOAWAY already.
    """

    code: int
    text: str
    is_flood: bool = False
    is_told: bool = False


class Frames:
    """What a client sent, frame by frame. The preface is no frame: it is read before.

    `in_block`: a block of headers has begun and not ended; no other frame may come in between.
    """

    __slots__ = ("_at", "_block_bytes", "_block_bytes_max", "_data", "in_block")

    def __init__(self, block_bytes_max: int) -> None:
        self._data = b""
        self._at = 0
        self._block_bytes_max = block_bytes_max
        self._block_bytes = 0
        self.in_block = False

    @property
    def byte_count(self) -> int:
        """Bytes that are kept: frames whose turn comes later, and a part of a frame."""
        return len(self._data) - self._at

    @property
    def block_bytes(self) -> int:
        """Bytes of an unfinished block of headers that have been given out already."""
        return self._block_bytes

    def add(self, data: bytes) -> None:
        """Adds one read behind what is kept."""
        self._data = self._data[self._at :] + data
        self._at = 0

    def clear(self) -> None:
        """Drops everything that is kept."""
        self._data = b""
        self._at = self._block_bytes = 0

    def has_next(self) -> bool:
        """Whether `next` would return something."""
        left = len(self._data) - self._at
        if left < HEAD_BYTES:
            return False
        size = self._size()
        return size > FRAME_BYTES_MAX or left >= HEAD_BYTES + size

    def next(self) -> Frame | Broken | None:
        """The next whole frame; None: there is none. Broken: the connection must end."""
        data, at = self._data, self._at
        if len(data) - at < HEAD_BYTES:
            return None
        size = self._size()
        if size > FRAME_BYTES_MAX:
            text = f"A frame may have up to {FRAME_BYTES_MAX} bytes; this one has {size}."
            return Broken(FRAME_SIZE_ERROR, text)
        end = at + HEAD_BYTES + size
        if len(data) < end:
            return None
        kind, flags = data[at + 3], data[at + 4]
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        if kind == HEADERS or (kind == CONTINUATION and self.in_block):
            self._block_bytes += size
            if self._block_bytes > self._block_bytes_max:
                text = f"A block of headers may have up to {self._block_bytes_max} bytes."
                return Broken(ENHANCE_YOUR_CALM, text, is_flood=True)
            self.in_block = not flags & END_HEADERS
            if not self.in_block:
                self._block_bytes = 0
        self._at = end
        return Frame(kind, flags, stream, data[at:end])

    def _size(self) -> int:
        return int.from_bytes(self._data[self._at : self._at + 3], "big")


# How much useless work a client may cause: the points of cost, less the points of payment. Ours,
# 2026-11-28: 128 resets or 1,024 empty frames in a row; no client of an SDK comes near a tenth of
# this.
DEBT_MAX = 1024
RESET_COST = 8  # a request was read, perhaps worked on, for nothing
CONTROL_BYTES = 64  # bytes of a frame without a body that cost as much as one more frame
ANSWER_PAYS = 8  # an answer pays for the frames that a careful client sends with it
# Bytes of an answer's body that pay a point: one WINDOW_UPDATE should cover as many.
SENT_BYTES_PAY = 1024
# Pays for a health check or two a second, and for a client that cancels all its requests.
TICK_PAYS = 64
SMALL_BYTES = 64  # a smaller frame of DATA counts as empty, unless it is the last


class Effort:
    """The useless work that a client causes: rapid resets, and frames that have no effect."""

    __slots__ = ("_debt",)

    def __init__(self) -> None:
        self._debt = 0

    def spend(self, frame: Frame) -> None:
        """A frame has come."""
        kind = frame.kind
        if kind == DATA:
            if frame.content_bytes < SMALL_BYTES and not frame.flags & END_STREAM:
                self._debt += 1
        elif kind != HEADERS:
            self._debt += 1 + frame.content_bytes // CONTROL_BYTES
            if kind == RST_STREAM:
                self._debt += RESET_COST - 1

    def spend_late(self) -> None:
        """A frame came for a stream that has ended. Some such frames are on their way for a moment,
        and then no more.
        """
        self._debt += 1

    def spend_reset(self) -> None:
        """The client made us reset a stream."""
        self._debt += RESET_COST

    def pay_answer(self) -> None:
        """An answer was sent."""
        self._pay(ANSWER_PAYS)

    def pay_sent(self, byte_count: int) -> None:
        """So many bytes of answers' bodies were sent."""
        self._pay(byte_count // SENT_BYTES_PAY)

    def tick(self) -> None:
        """A sweep later."""
        self._pay(TICK_PAYS)

    def _pay(self, points: int) -> None:
        self._debt = max(0, self._debt - points)

    @property
    def excess(self) -> Broken | None:
        """Why the connection is to end; None: it may stay."""
        if self._debt <= DEBT_MAX:
            return None
        text = "Too many resets, or frames that bring nothing on."
        return Broken(ENHANCE_YOUR_CALM, text, is_flood=True)
