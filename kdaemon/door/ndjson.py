"""NDJSON behind HTTP and the Unix socket: lines -> records -> frames -> what became of each line.

`handle` answers `POST /v1/streams/{stream}/records`; the rest is the `Intake` of the Unix socket's
sessions. The two differ in one thing: HTTP answers by the stream's deadline and refuses when there
is no room (503); a socket waits, and is not read meanwhile.
"""

from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

import msgspec

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import RejectReason
from kdaemon.base.errors import RejectedRecord
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.ports import Clock
from kdaemon.base.record import Record
from kdaemon.config import Config
from kdaemon.door.kinesis import ACKNOWLEDGE_HEADER, chosen, hold_to_path
from kdaemon.door.ports import Stream, Streams
from kdaemon.http.request import HttpRequest, error_body
from kdaemon.wire.lines import (
    FULL,
    NOTHING_TAKEN,
    Lines,
    Rejected,
    parse_lines,
    refuse_oversized,
    refused_at_once,
)
from kdaemon.wire.put import ApiError, PutLimits
from kdaemon.wire.refusals import render

JSON = b"application/json"
PATH_PREFIX = "/v1/streams/"
PATH_SUFFIX = "/records"
RETRY_AFTER = ((b"Retry-After", b"1"),)  # seconds: shards are paced by the second


class Answer(msgspec.Struct):
    """The body: how many records were acknowledged, and each line that was not, by its number."""

    acknowledged: int
    rejected: list[Rejected]


_encode = msgspec.json.Encoder().encode


class NdjsonGateway:
    """Takes lines for streams. An `Intake` for sessions, a handler for HTTP requests."""

    def __init__(self, streams: Streams, config: Config, clock: Clock) -> None:
        self._streams = streams
        self._clock = clock
        self._key_bytes_max = config.traits.partition_key_bytes_max

    # HTTP

    def handle(self, request: HttpRequest) -> None:
        """One request of lines, all for the stream that the path names."""
        if request.method != "POST":
            _refuse(request, 405, "MethodNotAllowed", "Records are put with POST.")
            return
        if request.headers.get(b"content-encoding", b"identity") != b"identity":
            _refuse(request, 415, "UnsupportedMediaType", "Send the lines as they are, uncoded.")
            return
        name = unquote(request.path[len(PATH_PREFIX) : -len(PATH_SUFFIX)])
        parsed = parse_lines(request.body, 1, name, is_start=True)
        request.body = b""
        rejected = parsed.rejected
        untold_count = parsed.rejected_count - len(rejected)
        for other, lines in parsed.by_stream.items():
            if other != name:
                text = "This request is for another stream; put the record under its own path."
                rejected += [Rejected(n, "ValidationException", text) for n in lines.numbers]
        lines = parsed.by_stream.get(name) or Lines([], [], [])
        count = len(lines.records) + len(rejected) + untold_count
        byte_count = sum(lines.sizes)
        try:
            stream = self._streams.find(name)
        except RejectedRecord as error:
            self._streams.door.refuse(RejectReason.UNLISTED, count, byte_count)
            status = 429 if error.code == "LimitExceededException" else 404
            _refuse(request, status, error.code, error.message)
            return
        unavailable = stream.unavailable
        if unavailable is not None:
            stream.reject(RejectReason.UNAVAILABLE, count, byte_count)
            _refuse(request, 400, unavailable.code, unavailable.message)
            return
        acknowledge = stream.acknowledge
        asked = request.headers.get(ACKNOWLEDGE_HEADER)
        try:
            if asked is not None:
                acknowledge = chosen(stream, asked, count, byte_count)
        except ApiError as error:
            status, body, content_type = render(error.refusal, error.encoding)
            request.respond(status, body, content_type=content_type)
            return
        rejected += refuse_oversized(lines, self._limits(stream))
        if rejected:
            stream.reject(RejectReason.INVALID, len(rejected) + untold_count, 0)
        self._put(request, stream, lines, rejected, acknowledge)

    def _put(
        self,
        request: HttpRequest,
        stream: Stream,
        lines: Lines,
        rejected: list[Rejected],
        acknowledge: Acknowledge,
    ) -> None:
        if not lines.records:
            _respond(request, 0, rejected)
            return
        if acknowledge is Acknowledge.STORED:
            self._store(request, stream, lines, rejected)
            return
        if acknowledge is not Acknowledge.DELIVERED:
            bury = stream.bury_dead_of
            frame = make_frame(lines.records, lines.sizes, acknowledge, bury, None)
            if stream.submit(frame):
                refused = refused_at_once(lines.numbers, frame.results)
                _respond(request, len(lines.numbers) - len(refused), rejected + refused)
            else:
                _refuse_full(request)
            return
        refusal = stream.refusal()
        if refusal is not None:
            stream.reject(RejectReason.MISSING_STREAM, len(lines.records), sum(lines.sizes))
            _refuse(request, 404, refusal.code, refusal.message)
            return
        deadline_ns = self._clock.now_ns() + stream.deadline_ns
        answer = partial(_answer, request, lines.numbers, rejected)
        frame = make_frame(lines.records, lines.sizes, acknowledge, answer, deadline_ns)
        if not stream.submit(frame):
            _refuse_full(request)

    def _store(
        self, request: HttpRequest, stream: Stream, lines: Lines, rejected: list[Rejected]
    ) -> None:
        """To disk; answered after the commit."""
        count, byte_count = len(lines.records), sum(lines.sizes)
        answer = partial(_answer, request, lines.numbers, rejected)
        frame = make_frame(lines.records, lines.sizes, Acknowledge.STORED, answer, None)
        try:
            is_taken = stream.store(frame)
        except RejectedRecord as error:
            stream.reject(RejectReason.SPOOL, count, byte_count)
            _refuse(request, 503, error.code, error.message)
            return
        if not is_taken:
            stream.reject(RejectReason.FULL, count, byte_count)
            _refuse_full(request)

    # Intake

    def limits_of(self, stream: str, acknowledge: Acknowledge | None = None) -> PutLimits:
        """What one record of this stream may hold. Raises RejectedRecord if it is not taken, or not
        on the promise of this acknowledgement (None: the stream's own).
        """
        found = self._streams.find(stream)
        if acknowledge is not None:
            hold_to_path(found, acknowledge)
        return self._limits(found)

    def submit(
        self,
        stream: str,
        records: list[Record],
        sizes: list[int],
        acknowledge: Acknowledge | None,
        on_settled: Callable[[Frame], None],
    ) -> Frame | None:
        """Takes a session's records; None, and nothing is counted or taken, if there is no room."""
        count, byte_count = len(records), sum(sizes)
        found = self._find(stream, count, byte_count)
        unavailable = found.unavailable
        if unavailable is not None:
            found.reject(RejectReason.UNAVAILABLE, count, byte_count)
            raise RejectedRecord(unavailable.code, unavailable.message)
        if acknowledge is not None:
            try:
                hold_to_path(found, acknowledge)
            except RejectedRecord:
                found.reject(RejectReason.INVALID, count, byte_count)
                raise
        meant = acknowledge or found.unix_acknowledge
        if meant is Acknowledge.STORED:
            frame = make_frame(records, sizes, meant, on_settled, None)
            return self._store_for_session(found, frame)
        is_waiting = meant is Acknowledge.DELIVERED
        refusal = found.refusal() if is_waiting else None
        if refusal is not None:
            found.reject(RejectReason.MISSING_STREAM, count, byte_count)
            raise RejectedRecord(refusal.code, refusal.message)
        callback = on_settled if is_waiting else found.bury_dead_of
        frame = make_frame(records, sizes, meant, callback, None)
        return frame if self._submit_for_session(found, frame) else None

    def _submit_for_session(self, stream: Stream, frame: Frame) -> bool:
        """To memory. A session whose stream blocks is held back until all of it fits; one whose
        stream rejects is told which records were refused.
        """
        buffer_bytes_max = stream.config.buffer_bytes_max
        if frame.held_bytes > buffer_bytes_max:
            stream.reject(RejectReason.FULL, len(frame.records), sum(frame.sizes))
            raise RejectedRecord(
                "ValidationException",
                f"These records take {frame.held_bytes} bytes of memory, and the stream has"
                f" {buffer_bytes_max} in all (buffer_bytes_max).",
            )
        if not _rejects(stream):
            return stream.has_room(frame.held_bytes) and stream.submit(frame, is_patient=True)
        if not stream.submit(frame):
            raise RejectedRecord(FULL, NOTHING_TAKEN)
        return True

    def _store_for_session(self, stream: Stream, frame: Frame) -> Frame | None:
        count, byte_count = len(frame.records), sum(frame.sizes)
        try:
            if stream.store(frame):
                return frame
        except RejectedRecord:
            stream.reject(RejectReason.SPOOL, count, byte_count)
            raise
        if not _rejects(stream):
            return None
        stream.reject(RejectReason.FULL, count, byte_count)
        raise RejectedRecord(FULL, "The spool is full.")

    def when_room(self, stream: str, callback: Callable[[], None]) -> None:
        """Calls back once when `submit` is worth another try."""
        self._streams.find(stream).when_room(callback)

    def count_rejected(self, stream: str | None, record_count: int, byte_count: int) -> None:
        """Lines that the session refused."""
        if stream is None:
            self._streams.door.refuse(RejectReason.INVALID, record_count, byte_count)
            return
        try:
            self._streams.find(stream).reject(RejectReason.INVALID, record_count, byte_count)
        except RejectedRecord:
            self._streams.door.refuse(RejectReason.UNLISTED, record_count, byte_count)

    def _find(self, stream: str, record_count: int, byte_count: int) -> Stream:
        try:
            return self._streams.find(stream)
        except RejectedRecord:
            self._streams.door.refuse(RejectReason.UNLISTED, record_count, byte_count)
            raise

    def _limits(self, stream: Stream) -> PutLimits:
        return PutLimits(
            stream.record_bytes_max, stream.config.request_bytes_max, self._key_bytes_max
        )


def _rejects(stream: Stream) -> bool:
    """Whether a session is told no when there is no room, rather than not read."""
    return stream.config.when_full == "reject"


def _answer(
    request: HttpRequest, numbers: list[int], rejected: list[Rejected], frame: Frame
) -> None:
    """What became of a request's lines."""
    if frame.refusal is not None:
        code, message = frame.refusal
        _refuse(request, 404 if code == "ResourceNotFoundException" else 400, code, message)
        return
    acknowledged = 0
    for number, result in zip(numbers, frame.results, strict=True):
        assert result is not None, "settled, and without a result"
        if result.is_delivered:
            acknowledged += 1
        else:
            code = result.error_code or "InternalFailure"
            rejected.append(Rejected(number, code, result.error_message or code))
    _respond(request, acknowledged, rejected)


def _respond(request: HttpRequest, acknowledged: int, rejected: list[Rejected]) -> None:
    """200 when every line was taken, 207 when not: who looks only at the status must notice."""
    rejected.sort(key=lambda each: each.line)
    body = _encode(Answer(acknowledged, rejected))
    request.respond(207 if rejected else 200, body, content_type=JSON)


def _refuse(request: HttpRequest, status: int, code: str, message: str) -> None:
    request.respond(status, error_body(code, message), content_type=JSON)


def _refuse_full(request: HttpRequest) -> None:
    body = error_body(FULL, NOTHING_TAKEN)
    request.respond(503, body, content_type=JSON, headers=RETRY_AFTER)
