"""The Kinesis API behind HTTP: a request to `admit`, and what came of it back to an answer.

Knows the wire form and the door; nothing of streams, shards, calls or sockets.
A large body is read in steps, one a turn of the loop. An answer is written in what its request was
written in, JSON or CBOR.
Invariant: every request is answered once: refused, at once (`accepted`), or when its frame settles
or its time is over. A 200 says that at least one record is what its promise says. Where none is,
the status says so, with the type that the service gave: a client that looks at nothing else must
not take a failure for a success.
"""

from collections.abc import Collection
from functools import partial
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
from kdaemon.http.request import CBOR_ALONE, HttpRequest
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

Headers = tuple[tuple[bytes, bytes], ...]

_CBOR: Final[Encoding] = Encoding.CBOR  # an attribute of an Enum costs four times a global

COUNTED_BYTES_MAX: Final = 256 * KIB
"""Of a body whose records are counted for the metrics though nobody knows who sends it: 0.2 ms.
Ours, 2026-11-28."""


def widest_limits(services: Collection[Service]) -> PutLimits:
    """What a request for a stream of any of these may be. Where there are several, a client may
    write `@UPSTREAM/NAME`, which is no name to AWS.
    """
    key_bytes = [each.partition_key_bytes_max for each in services]
    return PutLimits(
        record_bytes_max=max(each.record_bytes_max for each in services),
        request_bytes_max=max(each.request_bytes_max for each in services),
        partition_key_bytes_max=None if None in key_bytes else max(filter(None, key_bytes)),
        is_stream_name_free=len(services) > 1 or not all(each.has_arns for each in services),
    )


class KinesisDoor:
    """Answers the Kinesis API: PutRecord and PutRecords itself, all else by `Passthrough`."""

    def __init__(
        self,
        door: Door,
        widest: PutLimits,
        process_id: int,
        later: Later = soon,
        passthrough: Passthrough | None = None,
    ) -> None:
        """`widest`: what a request may be before its stream is known (`widest_limits`).
        `process_id`: 64 bits that tell this process's request ids from another's. `later`: how the
        rest of a large request comes to its turn. `passthrough`: what becomes of other operations;
        None: they are refused.
        """
        self._door = door
        self._passthrough = passthrough
        self._later = later
        self._answer_headers = AnswerHeaders(process_id)
        self._widest = widest  # the stream is known only after parsing; `admit` has its own limits

    def handle(self, request: HttpRequest) -> None:
        """Takes one request; answers now or when its records have settled."""
        headers = self._answer_headers.next()
        body = request.body
        try:
            operation = read_envelope(request.method, request.headers, body)
            form = FORMS.get(operation)
            if form is None:
                self._hand_over(request, operation, headers)
                return
            if len(body) > AT_ONCE_BYTES_MAX:
                work_in_turns(request, self._read(request, form, headers), self._later)
                return
            put = form.parse(body, self._widest)
        except ApiError as error:
            self._refuse_unread(request, error, headers)
            return
        self._admit(request, form, put, headers)

    def refuse_stranger(self, request: HttpRequest, refused: Refused) -> None:
        """Answers who has not shown who he is. What he brings is looked at no further than to count
        it, and not even that if it is large. A request that is no put brings no record.
        """
        encoding, operation = encoding_of(request.headers), operation_of(request.headers)
        if not isinstance(operation, OtherOperation):
            self._door.refuse(None, refused, _count_brought(request, encoding), 0)
        elif self._passthrough is not None:
            self._passthrough.note_stranger(operation)
        _refuse(request, as_stranger(refused), self._answer_headers.next(), encoding)

    def _hand_over(
        self, request: HttpRequest, operation: Operation | OtherOperation, headers: Headers
    ) -> None:
        """A request that brings no records."""
        assert isinstance(operation, OtherOperation), "both puts have a form"
        if self._passthrough is None:
            refusal = not_passed_on(operation.name, ())
            _refuse(request, refusal, headers, encoding_of(request.headers))
        else:
            self._passthrough.handle(request, operation, headers)

    def _read(self, request: HttpRequest, form: Form, headers: Headers) -> Steps[None]:
        """A request whose body is large."""
        try:
            put = yield from form.read(request.body, self._widest)
        except ApiError as error:
            self._refuse_unread(request, error, headers)
            return
        yield
        self._admit(request, form, put, headers)

    def _refuse_unread(self, request: HttpRequest, error: ApiError, headers: Headers) -> None:
        self._door.refuse_unread(error.stream, error.record_count, principal=request.principal)
        _refuse(request, error.refusal, headers, error.encoding)

    def _admit(self, request: HttpRequest, form: Form, put: PutRequest, headers: Headers) -> None:
        """A request that could be read."""
        spelling = put.stream_arn or put.stream_name or ""
        asked = None
        if ACKNOWLEDGE_HEADER in request.headers:
            told = read_acknowledge(request.headers)
            if isinstance(told, Refused):
                self._door.refuse_unread(
                    spelling, len(put.sizes), put.byte_count, principal=request.principal
                )
                _refuse(request, refuse(told.code, told.message), headers, form.encoding)
                return
            asked = told
        # Parsed: while the request waits, its records are all that is held of it.
        request.drop_body()
        request.headers = CBOR_ALONE if form.encoding is _CBOR else {}
        if put.is_dry_run:
            self._dry_run(request, form, spelling, put, headers)
            return
        answer = partial(self._answer, request, form, spelling, headers)
        taken = self._door.admit(spelling, put, asked, answer, request.client, request.principal)
        if isinstance(taken, Refused):
            _refuse(request, refuse(taken.code, taken.message), headers, form.encoding)
        elif isinstance(taken, Admission) and taken.frame.acknowledge is DELIVERED:
            if request.is_gone:  # while its large body was read
                taken.withdraw()
            else:
                request.on_gone = taken.withdraw

    def _dry_run(
        self, request: HttpRequest, form: Form, spelling: str, put: PutRequest, headers: Headers
    ) -> None:
        """The service's own word on what would become of the records."""

        def told(error: ServiceError) -> None:
            _refuse(request, refuse(error.code, error.message), headers, form.encoding)

        refused = self._door.dry_run(spelling, put, told, request.principal)
        if refused is not None:
            refusal = refuse(refused.code, refused.message)
            _refuse(request, refusal, headers, form.encoding)

    def _answer(
        self, request: HttpRequest, form: Form, spelling: str, headers: Headers, frame: Frame
    ) -> None:
        """All of a frame's results are there, or it was refused whole after all."""
        if frame.refusal is not None:
            _refuse(request, refuse(*frame.refusal), headers, form.encoding)
            return
        results: list[RecordResult] = frame.results  # type: ignore[assignment]  # settled: no None
        if frame.acknowledge not in WAITED_FOR:  # a record without a result is taken
            results = [ACCEPTED if result is None else result for result in frame.results]
        refusal = status_of(results)
        if refusal is not None:
            _refuse(request, refusal, headers, form.encoding)
            return
        body = form.encode(results, self._door.encryption_type(spelling))
        said = headers + SAID[frame.acknowledge]
        request.respond(200, body, content_type=form.content_type, headers=said)


def _count_brought(request: HttpRequest, encoding: Encoding) -> int:
    """How many records a stranger brings: as many as are counted of others who send the same."""
    body = request.body
    if len(body) > COUNTED_BYTES_MAX:
        body = body[:1]
    try:
        read_envelope(request.method, request.headers, body)
    except ApiError as error:
        return error.record_count
    return count_records(body)[0] if encoding is Encoding.JSON else 1


def _refuse(request: HttpRequest, refusal: Refusal, headers: Headers, encoding: Encoding) -> None:
    status, body, content_type = render(refusal, encoding)
    request.respond(status, body, content_type=content_type, headers=headers)
