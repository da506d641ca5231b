"""The Kinesis API behind HTTP: a request -> records -> a frame -> the answer, when it settles.

Knows the wire form and what a stream offers its clients; nothing of shards, calls or sockets.
Invariant: every request is answered once: refused at the door, at once (`accepted`), or when its
frame settles or its time is over (`delivered`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import RejectReason
from kdaemon.base.errors import RejectedRecord
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.ports import Clock
from kdaemon.base.record import RecordResult
from kdaemon.config import Config
from kdaemon.door.ports import Stream, Streams
from kdaemon.http.request import HttpRequest
from kdaemon.wire.put import (
    ACCEPTED,
    AnswerHeaders,
    ApiError,
    Operation,
    PutLimits,
    PutRequest,
    api_error,
    check_sizes,
    encode_put_record,
    encode_put_records,
    parse_put_record,
    parse_put_records,
    read_envelope,
    require_keys,
)
from kdaemon.wire.refusals import render

ACKNOWLEDGE_HEADER = b"x-kdaemon-acknowledge"
"""In a request: how this one is to be acknowledged. In an answer: that it was not `delivered`."""

AnswerHeader = tuple[tuple[bytes, bytes], ...]

_ACCEPTED_HEADERS = ((ACKNOWLEDGE_HEADER, b"accepted"),)
_STORED_HEADERS = ((ACKNOWLEDGE_HEADER, b"stored"),)
_ACKNOWLEDGE = {each.value.encode(): each for each in Acknowledge}
_FULL = RecordResult(
    error_code="ProvisionedThroughputExceededException",
    error_message="kdaemon has no room for this stream's records now: try again later.",
)


class KinesisGateway:
    """Answers the Kinesis API: PutRecord and PutRecords."""

    def __init__(self, streams: Streams, config: Config, clock: Clock, process_id: int) -> None:
        """`process_id`: 64 bits that tell this process's request ids from another's."""
        self._streams = streams
        self._clock = clock
        self._answer_headers = AnswerHeaders(process_id)
        service = config.traits
        # The stream is known only after parsing: parse by the widest limits, then apply its own.
        self._widest = PutLimits(
            record_bytes_max=service.record_bytes_max,
            request_bytes_max=service.request_bytes_max,
            partition_key_bytes_max=service.partition_key_bytes_max,
            is_stream_name_free=not service.has_arns,
        )

    def handle(self, request: HttpRequest) -> None:
        """Takes one request; answers now or when its records have settled."""
        headers = self._answer_headers.next()
        try:
            form = _FORMS[read_envelope(request.method, request.headers, request.body)]
            self._put(request, form, form.parse(request.body, self._widest), headers)
        except ApiError as error:
            _respond_error(request, error, headers)

    def _put(
        self, request: HttpRequest, form: "_Form", put: PutRequest, headers: AnswerHeader
    ) -> None:
        sizes = put.sizes
        try:
            stream = self._streams.find(put.stream_arn or put.stream_name or "")
        except RejectedRecord as error:
            self._streams.door.refuse(RejectReason.UNLISTED, len(sizes), sum(sizes))
            raise api_error(error.code, error.message) from None
        self._check(stream, put)
        asked = request.headers.get(ACKNOWLEDGE_HEADER)
        acknowledge = stream.acknowledge
        if asked is not None:
            acknowledge = chosen(stream, asked, len(sizes), sum(sizes))
        # Parsed: while the request waits, its records are all that is held of it.
        request.body = b""
        request.headers = {}
        if acknowledge is Acknowledge.STORED:
            self._store(request, form, put, stream, headers + _STORED_HEADERS)
            return
        if acknowledge is not Acknowledge.DELIVERED:
            frame = make_frame(put.records, sizes, acknowledge, stream.bury_dead_of, None)
            body = form.encode(_accept(stream, frame))
            request.respond(200, body, headers=headers + _ACCEPTED_HEADERS)
            return
        refusal = stream.refusal()
        if refusal is not None:
            stream.reject(RejectReason.MISSING_STREAM, len(sizes), sum(sizes))
            raise api_error(refusal.code, refusal.message)
        answer = partial(_answer, request, headers, form.encode)
        deadline_ns = self._clock.now_ns() + stream.deadline_ns
        frame = make_frame(put.records, sizes, acknowledge, answer, deadline_ns)
        if not stream.submit(frame):
            frame.results = [_FULL] * len(sizes)
            answer(frame)

    def _store(
        self,
        request: HttpRequest,
        form: "_Form",
        put: PutRequest,
        stream: Stream,
        headers: AnswerHeader,
    ) -> None:
        """To disk; answered after the commit."""
        sizes = put.sizes
        answer = partial(_answer, request, headers, form.encode)
        frame = make_frame(put.records, sizes, Acknowledge.STORED, answer, None)
        try:
            is_taken = stream.store(frame)
        except RejectedRecord as error:
            stream.reject(RejectReason.SPOOL, len(sizes), sum(sizes))
            raise api_error(error.code, error.message) from None
        if not is_taken:
            stream.reject(RejectReason.FULL, len(sizes), sum(sizes))
            frame.results = [_FULL] * len(sizes)
            answer(frame)

    def _check(self, stream: Stream, put: PutRequest) -> None:
        """Holds the request to the stream's state and its own limits; raises ApiError."""
        total = sum(put.sizes)
        unavailable = stream.unavailable
        if unavailable is not None:
            stream.reject(RejectReason.UNAVAILABLE, len(put.sizes), total)
            raise api_error(unavailable.code, unavailable.message)
        try:
            require_keys(put)
        except ApiError:
            stream.reject(RejectReason.INVALID, len(put.sizes), total)
            raise
        request_bytes_max = stream.config.request_bytes_max
        record_bytes_max = stream.record_bytes_max
        if total > record_bytes_max or total > request_bytes_max:
            is_free = self._widest.is_stream_name_free
            limits = PutLimits(record_bytes_max, request_bytes_max, None, is_free)
            try:
                check_sizes(put, limits)
            except ApiError:
                stream.reject(RejectReason.INVALID, len(put.sizes), total)
                raise
        if put.is_dry_run:
            raise api_error(
                "DryRunOperationException", "The request would have been taken; it was a dry run."
            )


def _accept(stream: Stream, frame: Frame) -> list[RecordResult]:
    """Submits a frame whose client does not wait; what it is told of each record."""
    count = len(frame.records)
    if not stream.submit(frame):
        return [_FULL] * count
    if frame.unsettled == count:
        return [ACCEPTED] * count
    return [ACCEPTED if result is None else result for result in frame.results]


def _answer(
    request: HttpRequest,
    headers: AnswerHeader,
    encode: Callable[[list[RecordResult]], bytes],
    frame: Frame,
) -> None:
    """What a client that waited is told, all results being there."""
    try:
        if frame.refusal is not None:
            raise api_error(*frame.refusal)
        body = encode(frame.results)  # type: ignore[arg-type]  # settled: no None is left
    except ApiError as error:
        _respond_error(request, error, headers)
    else:
        request.respond(200, body, headers=headers)


@dataclass(frozen=True, slots=True)
class _Form:
    """What differs between the two operations."""

    parse: Callable[[bytes, PutLimits], PutRequest]
    encode: Callable[[list[RecordResult]], bytes]  # raises ApiError: PutRecord fails whole


_FORMS = {
    Operation.PUT_RECORDS: _Form(parse_put_records, encode_put_records),
    Operation.PUT_RECORD: _Form(parse_put_record, lambda results: encode_put_record(results[0])),
}


def chosen(stream: Stream, text: bytes, record_count: int, byte_count: int) -> Acknowledge:
    """The value of an acknowledge header. Raises ApiError, and counts the records as refused, if it
    is none of the words or not to be had of this stream.
    """
    try:
        return _acknowledge_of(stream, text)
    except RejectedRecord as error:
        stream.reject(RejectReason.INVALID, record_count, byte_count)
        raise api_error(error.code, error.message) from None


def _acknowledge_of(stream: Stream, text: bytes) -> Acknowledge:
    acknowledge = _ACKNOWLEDGE.get(text.strip().lower())
    if acknowledge is None:
        raise RejectedRecord(
            "InvalidArgumentException",
            "X-Kdaemon-Acknowledge must be delivered, stored, accepted or none.",
        )
    hold_to_path(stream, acknowledge)
    return acknowledge


def hold_to_path(stream: Stream, asked: Acknowledge) -> None:
    """Raises RejectedRecord if the records would leave the one path of a stream that keeps order:
    through the disk, or through memory alone.
    """
    is_stored = stream.acknowledge is Acknowledge.STORED
    if stream.config.ordering == "none" or (asked is Acknowledge.STORED) is is_stored:
        return
    ways = '"stored"' if is_stored else '"delivered", "accepted" or "none"'
    remedy = '"delivered" or "accepted"' if is_stored else '"stored"'
    raise RejectedRecord(
        "InvalidArgumentException",
        f'The acknowledgement "{asked.value}" was asked for, and this stream keeps the order of'
        f' each partition key (ordering = "{stream.config.ordering}"), where a record in memory'
        f" could overtake an older one on disk. Ask for {ways}, or leave the choice out; or"
        f" set acknowledge = {remedy} for all records of the stream in kdaemon's configuration.",
    )


def _respond_error(request: HttpRequest, error: ApiError, headers: AnswerHeader) -> None:
    status, body, content_type = render(error.refusal, error.encoding)
    request.respond(status, body, content_type=content_type, headers=headers)
