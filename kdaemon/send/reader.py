"""Reads the answers of one connection, one for each request, as their bytes arrive.

Knows HTTP/1.1 (llhttp parses the head; the limits are here). Must not know sockets, calls or what
an answer means. This reader takes and refuses the same answers as aiohttp:
`tests/unit/send/test_reader.py` gives both the same bytes, cut at any place.
Invariants: an answer whose announced end did not arrive is no answer. Only a body without an
announced length ends with the connection. Nothing that arrives after an answer changes it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import httptools

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB
from kdaemon.send.arriving import Answer, BodySoFar, Room
from kdaemon.send.failures import UNREADABLE, Failed

# Ours: of a head that comes in pieces; the services' heads have 0.5.
HEAD_BYTES_MAX: Final = 64 * KIB
FIELD_BYTES_MAX: Final = 8190  # of a header or a status line; aiohttp 3.14's default
FIELDS_MAX: Final = 128  # aiohttp 3.14's default
INTERIM_ANSWERS_MAX: Final = 8  # ours: a service sends none; a proxy sends one or two; 2026-11-28
FRAMING: Final = 8  # ours: as chunks, a body may take this many bytes for each of its own


class Fields(Mapping[str, str]):
    """The headers of an answer; names match in any case. A delivery looks at none of them."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode()
        for each, value in self._pairs:
            if each.lower() == wanted:
                return value.rstrip(b" \t").decode("utf-8", "surrogateescape")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name.decode("latin-1").lower(): None for name, _ in self._pairs})

    def __len__(self) -> int:
        return len(list(iter(self)))


class _Refused(Exception):  # noqa: N818 - ends llhttp's work; no other code sees it
    pass


class AnswerReader:
    """Call `begin` when a request is written, then `feed` with all bytes until there is an outcome.
    `is_kept`: whether the connection may carry another request after that. `is_head_read`: whether
    the head of the expected answer was read.
    """

    __slots__ = (
        *("_body", "_field_count", "_interim_count", "_is_interim", "_outcome", "_pairs"),
        *("_parser", "_received", "_received_max", "_room", "_status"),
        *("is_head_read", "is_kept"),
    )

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # as aiohttp 3.14 reads answers
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._pairs: list[tuple[bytes, bytes]] = []
        self._field_count = 0
        self._is_interim = False
        self._status = 0
        self.begin(Room(0))

    def begin(self, room: Room) -> None:
        """Expects the next answer, which may take as much as `room` says."""
        self.is_kept = False
        self._room = room
        self._body = BodySoFar(0, room)  # there is no answer yet
        self._outcome: Answer | ServiceError | None = None
        self._interim_count = 0
        self._received = 0
        self._received_max = HEAD_BYTES_MAX
        self.is_head_read = False

    def feed(self, data: bytes) -> Answer | ServiceError | Failed | None:
        """The outcome of the request, once it is known."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_kept = False
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
                error.__context__, _Refused
            ):
                raise  # a defect of ours
            self.is_kept = False
            return UNREADABLE  # also for bytes after a whole answer: the two sides are out of step
        if self._outcome is None:
            self._received += len(data)
            if self._received > self._received_max:
                self.is_kept = False
                return UNREADABLE
        return self._outcome

    def end(self) -> Answer | None:
        """The connection has ended before there was an outcome. Returns the answer if its body had
        no announced length: such a body ends with the connection.
        """
        if not self.is_head_read:
            return None
        lower = [(name.rstrip().lower(), value) for name, value in self._pairs]  # as llhttp does
        codings = b",".join(value for name, value in lower if name == b"transfer-encoding")
        is_chunked = codings.lower().rpartition(b",")[2].strip(b" ") == b"chunked"
        if is_chunked or any(name == b"content-length" for name, _ in lower):
            return None
        return self._answer()

    def close(self) -> None:
        """Breaks the cycle with the parser, so that no garbage collection is needed."""
        self._parser = None

    def _answer(self) -> Answer:
        return Answer(self._status, self._body.read(), Fields(self._pairs))

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self._outcome is not None:
            self.is_kept = False  # there was no request for a second answer
        self._pairs = []
        self._field_count = 0
        self.is_head_read = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after a body in chunks; trailers are checked and ignored."""
        self._field_count += 1
        size = len(name) + len(value)
        if size > FIELD_BYTES_MAX or self._field_count > FIELDS_MAX or value.find(b"\0") >= 0:
            raise _Refused
        if not self.is_head_read:
            self._pairs.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is read. An interim answer (1xx) is counted, and refused beyond the limit; any
        other one sets the status, and bounds the bytes that may follow.
        """
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200 and status != 101
        if self._outcome is not None:
            return
        if status < 100:
            raise _Refused
        if self._is_interim:
            self._interim_count += 1
            if self._interim_count > INTERIM_ANSWERS_MAX:
                raise _Refused
            return
        self._status = status
        self.is_head_read = True
        self._body = BodySoFar(status, self._room)
        self._received_max = HEAD_BYTES_MAX + FRAMING * self._body.bytes_max

    def on_body(self, block: bytes) -> None:
        if self._outcome is not None:
            return
        problem = self._body.add(block)
        if problem is not None:
            self._outcome = problem
        elif self._body.is_enough:
            self._outcome = self._answer()

    def on_message_complete(self) -> None:
        if self._outcome is None and not self._is_interim:
            self._outcome = self._answer()
            self.is_kept = self._parser.should_keep_alive() and self._status != 101
