"""The Kinesis API over HTTP: turns a request into records for `admit`, and the outcome into an
answer.

Knows the wire form and the door. Must not know streams, shards, calls or sockets. A large body is
read in steps, one in each turn of the loop. An answer has the encoding of its request, JSON or
CBOR.
Invariant: every request is answered once: when it is refused, at once (`accepted`), or when its
frame settles or its time is over. A 200 says that at least one record got what its promise says. If
none did, the status says so, with the type that the service gave, because some clients look at
nothing but the status.
"""

from collections.abc import Collection
from typing import Final

from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.limits import KIB
from kdaemon.base.operations import OtherOperation
from kdaemon.base.record import RecordResult
from kdaemon.base.refused import Refused
from kdaemon.base.service import Service
from kdaemon.base.steps import Steps
from kdaemon.door.admission import DELIVERED, WAITED_FOR, Admission
from kdaemon.door.door import Door
from kdaemon.door.guard import as_stranger
from kdaemon.door.passthrough import Passthrough, not_passed_on
from kdaemon.door.promise import ACKNOWLEDGE_HEADER, SAID, read_acknowledge
from kdaemon.http.answer import headers_of
from kdaemon.http.request import CBOR_ALONE, NO_HEADERS, HttpRequest
from kdaemon.http.turns import Later, soon, work_in_turns
from kdaemon.wire.envelope import (
    AT_ONCE_BYTES_MAX,
    AnswerHeaders,
    Operation,
    encoding_of,
    operation_of,
    read_envelope,
)
from kdaemon.wire.explain import count_records
from kdaemon.wire.forms import FORMS, Form
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse, render
from kdaemon.wire.results import ACCEPTED, status_of

_CBOR: Final[Encoding] = Encoding.CBOR  # reading an attribute of an Enum costs four times a global

COUNTED_BYTES_MAX: Final = 256 * KIB
"""The largest body of an unknown sender whose records are counted for the metrics: 0.2 ms. A larger
body is not looked at. Ours, 2026-11-28."""


def widest_limits(services: Collection[Service]) -> PutLimits:
    """Limits that a request for a stream of any of these services must keep. If there are several,
    a client may write `@UPSTREAM/NAME`, which AWS does not allow as a name.
    """
    key_bytes = [each.partition_key_bytes_max for each in services]
    return PutLimits(
        record_bytes_max=max(each.record_bytes_max for each in services),
        request_bytes_max=max(each.request_bytes_max for each in services),
        partition_key_bytes_max=None if None in key_bytes else max(filter(None, key_bytes)),
        is_stream_name_free=len(services) > 1 or not all(each.has_arns for each in services),
    )


class KinesisDoor:
    """Answers the Kinesis API: PutRecord and PutRecords itself, all other operations by
    `Passthrough`.
    """

    def __init__(
        self,
        door: Door,
        widest: PutLimits,
        process_id: int,
        later: Later = soon,
        passthrough: Passthrough | None = None,
    ) -> None:
        """`widest`: the limits of a request while its stream is not known (`widest_limits`).
        `process_id`: 64 bits that make this process's request ids differ from another's. `later`:
        schedules the turns in which the rest of a large request is read. `passthrough`: handles
        other operations; None: they are refused.
        """
        self._door = door
        self._passthrough = passthrough
        self._later = later
        self._answer_headers = AnswerHeaders(process_id)
        # The stream is known only after parsing; `admit` checks its own limits.
        self._widest = widest

    def handle(self, request: HttpRequest) -> None:
        """Takes one request; answers now or when its records have settled."""
        lines = self._answer_headers.next()
        body = request.body
        try:
            operation = read_envelope(request.method, request.headers, body)
            form = FORMS.get(operation)
            if form is None:
                self._hand_over(request, operation, lines)
                return
            if len(body) > AT_ONCE_BYTES_MAX:
                work_in_turns(request, self._read(request, form, lines), self._later)
                return
            put = form.parse(body, self._widest)
        except ApiError as error:
            self._refuse_unread(request, error, lines)
            return
        self._admit(request, form, put, lines)

    def refuse_stranger(self, request: HttpRequest, refused: Refused) -> None:
        """Refuses a request whose sender is unknown. The body is looked at only to count its
        records, and not at all if it is large. A request that is no put brings no record.
        """
        encoding, operation = encoding_of(request.headers), operation_of(request.headers)
        if not isinstance(operation, OtherOperation):
            self._door.refuse(None, refused, _count_brought(request, encoding), 0)
        elif self._passthrough is not None:
            self._passthrough.note_stranger(operation)
        _refuse(request, as_stranger(refused), self._answer_headers.next(), encoding)

    def _hand_over(
        self, request: HttpRequest, operation: Operation | OtherOperation, lines: bytes
    ) -> None:
        """Handles a request that brings no records."""
        assert isinstance(operation, OtherOperation), "both puts have a form"
        if self._passthrough is None:
            refusal = not_passed_on(operation.name, ())
            _refuse(request, refusal, lines, encoding_of(request.headers))
        else:
            self._passthrough.handle(request, operation, headers_of(lines))

    def _read(self, request: HttpRequest, form: Form, lines: bytes) -> Steps[None]:
        """Reads a large body in steps, then admits its records."""
        try:
            put = yield from form.read(request.body, self._widest)
        except ApiError as error:
            self._refuse_unread(request, error, lines)
            return
        yield
        self._admit(request, form, put, lines)

    def _refuse_unread(self, request: HttpRequest, error: ApiError, lines: bytes) -> None:
        self._door.refuse_unread(error.stream, error.record_count, principal=request.principal)
        _refuse(request, error.refusal, lines, error.encoding)

    def _admit(self, request: HttpRequest, form: Form, put: PutRequest, lines: bytes) -> None:
        """Brings the records of a request that could be read to the door."""
        spelling = put.stream_arn or put.stream_name or ""
        asked = None
        if ACKNOWLEDGE_HEADER in request.headers:
            told = read_acknowledge(request.headers)
            if isinstance(told, Refused):
                self._door.refuse_unread(
                    spelling, len(put.sizes), put.byte_count, principal=request.principal
                )
                _refuse(request, refuse(told.code, told.message), lines, form.encoding)
                return
            asked = told
        # The body is parsed: while the request waits, only its records stay in memory.
        request.drop_body()
        request.headers = CBOR_ALONE if form.encoding is _CBOR else NO_HEADERS
        if put.is_dry_run:
            self._dry_run(request, form, spelling, put, lines)
            return
        waiting = _Waiting(self._door, request, form, spelling, lines)
        taken = self._door.admit(spelling, put, asked, waiting, request.client, request.principal)
        if isinstance(taken, Refused):
            _refuse(request, refuse(taken.code, taken.message), lines, form.encoding)
        elif isinstance(taken, Admission) and taken.frame.acknowledge is DELIVERED:
            if request.is_gone:  # the client went while its large body was read
                taken.withdraw()
            else:
                request.on_gone = taken.withdraw

    def _dry_run(
        self, request: HttpRequest, form: Form, spelling: str, put: PutRequest, lines: bytes
    ) -> None:
        """Asks the service what would become of the records, and answers with what it says."""

        def told(error: ServiceError) -> None:
            _refuse(request, refuse(error.code, error.message), lines, form.encoding)

        refused = self._door.dry_runs.ask(spelling, put, told, request.principal)
        if refused is not None:
            refusal = refuse(refused.code, refused.message)
            _refuse(request, refusal, lines, form.encoding)


class _Waiting:
    """A request whose records were brought to the door. The door calls it when they have settled.
    `spelling`: what the client calls the stream. `lines`: headers of the answer.
    """

    __slots__ = ("_door", "_form", "_lines", "_request", "_spelling")

    def __init__(
        self, door: Door, request: HttpRequest, form: Form, spelling: str, lines: bytes
    ) -> None:
        self._door = door
        self._request = request
        self._form = form
        self._spelling = spelling
        self._lines = lines

    def __call__(self, frame: Frame) -> None:
        """Answers a request whose frame has settled, or was refused whole after it was admitted."""
        request, form, lines = self._request, self._form, self._lines
        if frame.refusal is not None:
            _refuse(request, refuse(*frame.refusal), lines, form.encoding)
            return
        results: list[RecordResult] = frame.results  # type: ignore[assignment]  # settled: no None
        # On these promises a record without a result is taken.
        if frame.acknowledge not in WAITED_FOR:
            results = [ACCEPTED if result is None else result for result in frame.results]
        refusal = status_of(results)
        if refusal is not None:
            _refuse(request, refusal, lines, form.encoding)
            return
        body = form.encode(results, self._door.encryption_type(self._spelling))
        said = lines + SAID[frame.acknowledge]
        request.respond(200, body, content_type=form.content_type, lines=said)


def _count_brought(request: HttpRequest, encoding: Encoding) -> int:
    """How many records the request of an unknown sender has: as many as would be counted of a known
    sender. A body over COUNTED_BYTES_MAX is counted by its first byte alone.
    """
    body = request.body
    if len(body) > COUNTED_BYTES_MAX:
        body = body[:1]
    try:
        read_envelope(request.method, request.headers, body)
    except ApiError as error:
        return error.record_count
    return count_records(body)[0] if encoding is Encoding.JSON else 1


def _refuse(request: HttpRequest, refusal: Refusal, lines: bytes, encoding: Encoding) -> None:
    status, body, content_type = render(refusal, encoding)
    request.respond(status, body, content_type=content_type, lines=lines)
