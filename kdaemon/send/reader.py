"""Reads the answers of one connection, one to each request, as their bytes come.

Knows HTTP/1.1 (llhttp parses a head; here is what an answer may have). Must not know sockets, calls
or what an answer means. It takes what aiohttp takes of an answer and refuses what aiohttp refuses:
`tests/unit/send/test_reader.py` gives both the same bytes, in any cut.
Invariants: an answer whose announced end did not arrive is no answer; only a body that announced
none ends with the connection; nothing that arrives behind an answer changes it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import httptools

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB
from kdaemon.send.answers import Answer, BodySoFar, Room
from kdaemon.send.failures import UNREADABLE, Failed

HEAD_BYTES_MAX: Final = 64 * KIB  # ours: of a head that comes in pieces; the services' have 0.5
FIELD_BYTES_MAX: Final = 8190  # of a header, and of a status line; aiohttp 3.14's default
FIELDS_MAX: Final = 128  # the same
INTERIM_ANSWERS_MAX: Final = 8  # ours: a service sends none; a proxy sends one or two; 2026-11-28
FRAMING: Final = 8  # ours: as many bytes may come for each byte of a body, as chunks


class Fields(Mapping[str, str]):
    """The headers of an answer, by their names in any case. Who delivers looks at none of them."""

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


class _Refused(Exception):  # noqa: N818 - it ends llhttp's work, nobody else sees it
    pass


class AnswerReader:
    """`begin` when a request is written, `feed` with all that comes until there is an outcome.
    `is_kept`: whether the connection may carry another request after that. `is_head_read`: of the
    answer that is due.
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
        """The next answer is due, and may have so much."""
        self.is_kept = False
        self._room = room
        self._body = BodySoFar(0, room)  # of no answer yet
        self._outcome: Answer | ServiceError | None = None
        self._interim_count = 0
        self._received = 0
        self._received_max = HEAD_BYTES_MAX
        self.is_head_read = False

    def feed(self, data: bytes) -> Answer | ServiceError | Failed | None:
        """What came of the request, once that is known."""
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
            return UNREADABLE  # also of what came behind a whole answer: something is out of step
        if self._outcome is None:
            self._received += len(data)
            if self._received > self._received_max:
                self.is_kept = False
                return UNREADABLE
        return self._outcome

    def end(self) -> Answer | None:
        """The connection has ended before there was an outcome. An answer, if that is how one ends:
        a body without a length.
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
        """Breaks the cycle with the parser, so that no collector is needed."""
        self._parser = None

    def _answer(self) -> Answer:
        return Answer(self._status, self._body.read(), Fields(self._pairs))

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._outcome is not None:
            self.is_kept = False  # nobody asked for a second answer
        self._pairs = []
        self._field_count = 0
        self.is_head_read = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of the head, or one behind a body in chunks, which nobody asks for."""
        self._field_count += 1
        size = len(name) + len(value)
        if size > FIELD_BYTES_MAX or self._field_count > FIELDS_MAX or b"\0" in value:
            raise _Refused
        if not self.is_head_read:
            self._pairs.append((name, value))

    def on_headers_complete(self) -> None:
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
