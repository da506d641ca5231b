"""Makes an HTTP request into a call of the service, and its answer into bytes.

Pure. Uses the daemon's own reader of PutRecord(s) and its envelope checks (`wire/put.py`), so that
both sides of a test agree on the wire. Yandex has its own reader (`yandex.py`). Reading is separate
from doing, because a fault is chosen in between, by operation and stream.

Each operation is read and answered in JSON or in CBOR, as its content type says.

Bounds: only a body of up to CONTROL_BYTES_MAX is decoded to plain values. The reader of
PutRecord(s) has its own bounds, and reads large bodies in steps.

No signature is required: a user with curl gets an answer where AWS says MissingAuthenticationToken.
Where Yandex is imitated, a signature that is there is read (`yandex_auth.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import RECORD_BYTES_MAX_AWS
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps
from kdaemon.sandbox import yandex, yandex_words
from kdaemon.sandbox.event_stream import CONTENT_TYPE
from kdaemon.sandbox.faults import Fault
from kdaemon.sandbox.feed import Feed
from kdaemon.sandbox.operations import PUT_OPERATIONS, SUBSCRIBE
from kdaemon.sandbox.payload import CONTROL_BYTES_MAX, Payload
from kdaemon.sandbox.service import Service
from kdaemon.wire import cbor, envelope
from kdaemon.wire.envelope import AT_ONCE_BYTES_MAX, Operation, read_envelope
from kdaemon.wire.explain import UNREADABLE
from kdaemon.wire.forms import FORMS
from kdaemon.wire.limits import PutLimits, PutRequest, refuse_ordering, require_keys
from kdaemon.wire.refusals import ApiError, Encoding, api_error, refuse, render

JSON = Encoding.JSON.value
_TARGET_PREFIX = b"Kinesis_20131202."
_PUT_TARGET = _TARGET_PREFIX + b"PutRecords"  # stands for every operation in the envelope checks
_PUT_TARGETS = (_PUT_TARGET, _TARGET_PREFIX + b"PutRecord")
_SINGLE = (Operation.PUT_RECORD, Operation.PUT_RECORD_CBOR)

_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """An answer in bytes. The service stalls it until `stalled_until_ns`; 0: it does not. `feed`:
    the body comes message by message; None: it is `body`.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    stalled_until_ns: int = 0
    feed: Feed | None = None


Perform = Callable[[int, Fault | None], Reply]


class Call:
    """A request that was understood. `perform(now_ns, fault)` does it and returns the answer.

    `perform` raises ServiceError or ApiError if the service refuses; `refusal` makes an answer of
    either.
    """

    __slots__ = ("operation", "perform", "stream")

    def __init__(self, operation: str, stream: str | None, perform: Perform) -> None:
        self.operation = operation
        self.stream = stream
        self.perform = perform


def read_call(
    service: Service, method: str, path: str, headers: dict[bytes, bytes], body: bytes
) -> Steps[Call]:
    """Reads a request; header names are in lower case. Raises ApiError or ServiceError if it is
    refused. A body up to AT_ONCE_BYTES_MAX is read in one step.
    """
    if service.is_yandex:
        return (yield from _read_yandex(service, path, headers, body))
    operation = _read_operation(service, method, headers, body)
    if isinstance(operation, Operation):
        return (yield from _read_put(service, operation, body))
    encoding = encoding_of(service, headers)
    if operation == SUBSCRIBE:
        return _subscription(service, _payload(body, encoding), encoding)
    return _other_call(service, operation, _payload(body, encoding), encoding)


def encoding_of(service: Service, headers: dict[bytes, bytes]) -> Encoding:
    """The encoding of a request, and of its answer, unless it is refused for its encoding."""
    if service.is_yandex:
        return yandex.encoding_of(headers)
    return envelope.encoding_of(headers)


def refusal(
    error: ServiceError | ApiError,
    stalled_until_ns: int = 0,
    encoding: Encoding = Encoding.JSON,
) -> Reply:
    """The answer for an error. `encoding`: of the request."""
    if isinstance(error, ApiError):
        told_in = encoding if error.encoding is Encoding.JSON else error.encoding
        status, body, content_type = render(error.refusal, told_in)
        return Reply(status, body, content_type, stalled_until_ns)
    found = refuse(error.code, error.message or None, status=error.status)
    return Reply(*render(found, encoding), stalled_until_ns)


def _read_operation(
    service: Service, method: str, headers: dict[bytes, bytes], body: bytes
) -> Operation | str:
    """The name of an operation; for PutRecord(s) the typed operation."""
    target = headers.get(b"x-amz-target", b"")
    if target in _PUT_TARGETS:
        put = read_envelope(method, headers, body)
        assert isinstance(put, Operation), "both targets are of a put"
        return put
    operation = target.removeprefix(_TARGET_PREFIX).decode("latin-1")
    if target.startswith(_TARGET_PREFIX) and service.offers(operation):
        read_envelope(method, {**headers, b"x-amz-target": _PUT_TARGET}, body)
        return operation
    read_envelope(method, {**headers, b"x-amz-target": _PUT_TARGET}, body or b"{}")
    raise service.unknown_operation(operation)


def _read_put(service: Service, operation: Operation, body: bytes) -> Steps[Call]:
    form = FORMS[operation]
    if len(body) > AT_ONCE_BYTES_MAX:
        request = yield from form.read(body, _limits(service))
    else:
        request = form.parse(body, _limits(service))
    _check_keys(service, request)
    return _put_call(
        service, operation, request.stream, request.records, is_dry_run=request.is_dry_run
    )


def _check_keys(service: Service, request: PutRequest) -> None:
    """Raises ApiError for records that the stream does not take. Since AUTO, PartitionKey is
    optional in the service's model; streams that go by the key require it, and only they take
    SequenceNumberForOrdering [M].
    """
    try:
        is_auto = service.stream(request.stream).is_auto
    except ServiceError:
        is_auto = False
    if is_auto:
        refuse_ordering(request)
    else:
        require_keys(request)


def _put_call(
    service: Service,
    operation: Operation,
    stream: str,
    records: list[Record],
    *,
    is_dry_run: bool = False,
) -> Call:
    (name, encoding), form = operation.value, FORMS[operation]
    is_single = operation in _SINGLE

    def perform(now_ns: int, fault: Fault | None) -> Reply:
        if is_dry_run:
            service.dry_run(stream, fault)
        if is_single:
            taken = service.take_record(stream, records[0], now_ns, fault)
            if not taken.results[0].is_delivered:
                error = service.refusal_of(taken.results[0])
                return refusal(error, taken.stalled_until_ns, encoding)
        else:
            taken = service.take_records(stream, records, now_ns, fault)
        if service.is_yandex and not is_single:
            answer = yandex.encode_put_records(taken.results, encoding)
        else:
            answer = form.encode(taken.results, "NONE")
        return Reply(200, answer, form.content_type, taken.stalled_until_ns)

    return Call(name, stream, perform)


def _limits(service: Service) -> PutLimits:
    # The service checks a stream's own limit on records, once it has found the stream.
    return PutLimits(
        record_bytes_max=RECORD_BYTES_MAX_AWS,
        request_bytes_max=service.settings.request_limit_bytes,
        keyless_bytes=0,
    )


def _other_call(service: Service, operation: str, payload: Payload, encoding: Encoding) -> Call:
    encode = cbor.encode if encoding is Encoding.CBOR else _encode

    def perform(now_ns: int, fault: Fault | None) -> Reply:
        answer = service.handle(operation, payload, now_ns, fault)
        return Reply(200, encode(answer), encoding.value)

    return Call(operation, service.stream_in(payload), perform)


def _subscription(service: Service, payload: Payload, encoding: Encoding) -> Call:
    def perform(now_ns: int, fault: Fault | None) -> Reply:
        found = service.subscribe(payload, now_ns, fault)
        return Reply(200, b"", CONTENT_TYPE, feed=Feed(found, encoding))

    return Call(SUBSCRIBE, service.stream_in(payload), perform)


def _payload(body: bytes, encoding: Encoding) -> Payload:
    if len(body) > CONTROL_BYTES_MAX:
        text = f"The body of this operation may have {CONTROL_BYTES_MAX} bytes."
        raise api_error("SerializationException", text)
    is_cbor = encoding is Encoding.CBOR
    try:
        payload = cbor.decode(body) if is_cbor else msgspec.json.decode(body)
    except cbor.CborError as error:
        raise api_error("SerializationException", error.text) from None
    except UNREADABLE:
        raise api_error("SerializationException", "The body is not JSON.") from None
    if not isinstance(payload, dict):
        kind = "CBOR map" if is_cbor else "JSON object"
        raise api_error("SerializationException", f"The body must be a {kind}.")
    return Payload(payload)


def _read_yandex(
    service: Service, path: str, headers: dict[bytes, bytes], body: bytes
) -> Steps[Call]:
    """Yandex reads the body before it checks the client, and judges the body after that."""
    call = yield from _parse_yandex(service, path, headers, body)
    service.entrance.check(headers)
    return call if path in ("", "/") else _in_database(call)


def _in_database(call: Call) -> Call:
    """The URL names the database, which exists: so a missing path is the stream's."""
    perform, stream = call.perform, call.stream

    def perform_there(now_ns: int, fault: Fault | None) -> Reply:
        try:
            return perform(now_ns, fault)
        except ServiceError as error:
            if stream is None or error.message != yandex_words.missing_stream(stream).message:
                raise
        raise yandex_words.unknown_path(stream)

    return Call(call.operation, stream, perform_there)


def _parse_yandex(
    service: Service, path: str, headers: dict[bytes, bytes], body: bytes
) -> Steps[Call]:
    operation = yandex.read_operation(headers)
    encoding = yandex.encoding_of(headers)
    if not service.offers(operation):
        raise service.unknown_operation(operation)
    yandex.check_body(headers, body)
    if operation in PUT_OPERATIONS and len(body) > AT_ONCE_BYTES_MAX:
        if encoding is Encoding.JSON:
            yandex.weigh(body)
        yield
    if operation in PUT_OPERATIONS:
        parse = yandex.parse_put_records if operation == "PutRecords" else yandex.parse_put_record
        name, records = parse(body, encoding)
        put = Operation((operation, encoding))
        return _put_call(service, put, yandex.full_name(path, name), records)
    payload = yandex.read_payload(operation, body, encoding)
    short_name = payload.get("StreamName")
    if isinstance(short_name, str):
        payload["StreamName"] = yandex.full_name(path, short_name)
    return _other_call(service, operation, payload, encoding)
