"""A PutRecord(s) request that could be read, and its limits. Pure.

Checks the API's constraints that the decoder does not check, and the limits of a stream, each with
the service's refusal. Knows no bytes of a body, no stream's state, no queue.

Invariant: a check changes nothing, and its refusal says how many records were refused with it.
Where it sits: `put.py` asks through `measured.py`, the door once the stream is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from kdaemon.base.counters import RefuseReason
from kdaemon.base.limits import (
    HASH_KEY_MAX,
    MIB,
    RECORD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    SPREAD_KEY_BYTES,
)
from kdaemon.base.names import ARN_CHARACTERS_MAX, parse_arn
from kdaemon.base.record import Record
from kdaemon.base.refused import Refused
from kdaemon.wire.explain import (
    HASH_KEY_DIGITS_MAX,
    HASH_KEY_MUST,
    SEQUENCE_NUMBER_DIGITS_MAX,
    SEQUENCE_NUMBER_MUST,
    hash_key_error,
    is_decimal,
    stream_problems,
)
from kdaemon.wire.refusals import (
    VALIDATION_ERRORS_MAX,
    ApiError,
    api_error,
    constraint,
    echo,
    validation_error,
)


@dataclass(frozen=True, slots=True)
class PutLimits:
    """The limits of a request to one stream. Bytes are those of data and partition key (UTF-8)."""

    record_bytes_max: int = RECORD_BYTES_MAX
    request_bytes_max: int = REQUEST_BYTES_MAX
    # In UTF-8; Yandex counts bytes (256), AWS characters.
    partition_key_bytes_max: int | None = None
    is_stream_name_free: bool = False  # Yandex: names are paths, and AWS's pattern does not apply
    keyless_bytes: int = SPREAD_KEY_BYTES  # the bytes that a missing key counts


class Put:
    """Records that were read, in whatever form, and are to be admitted together.

    `sizes`: bytes of data + partition key (UTF-8), of the same length and order as `records`;
    `byte_count`: their sum. `depends_on_kind`: whether the records are valid only in a stream of
    one kind (AUTO or not). `is_reserved`: memory was reserved for the records, and given back just
    before they are admitted. `refused_count`: records that came with them and were refused one by
    one, for a limit (`check_limits`). A class and no Protocol: an attribute of a compiled class is
    read in a few instructions, one of a Protocol in 160.
    """

    __slots__ = (
        "byte_count",
        "depends_on_kind",
        "is_reserved",
        "records",
        "refused_count",
        "sizes",
    )

    def __init__(
        self, records: list[Record], sizes: list[int], byte_count: int, depends_on_kind: bool
    ) -> None:
        self.records = records
        self.sizes = sizes
        self.byte_count = byte_count
        self.depends_on_kind = depends_on_kind
        self.is_reserved = False
        self.refused_count = 0

    def check_kind(self, *, is_auto: bool) -> Refused | None:
        """Why a stream of this kind (AUTO or not) refuses the records; None: it does not."""
        raise NotImplementedError

    def check_limits(self, limits: PutLimits) -> Refused | None:
        """Checks the records against these limits. Where the form refuses record by record, the
        refused ones leave `records` and grow `refused_count`, and None is returned. Where the form
        refuses all together, the refusal is returned.
        """
        raise NotImplementedError


class PutRequest(Put):
    """A PutRecords request, or a PutRecord request with its one record.

    At least one of `stream_name` and `stream_arn` is there; if both are, they name the same stream.
    `keyless_count`: how many records came without a key; their key is empty here. Only a stream
    that is AUTO takes them: see `require_keys`. `is_single`: the request is a PutRecord. One
    invalid record refuses the whole request: `refused_count` stays 0.
    """

    __slots__ = (
        "is_dry_run",
        "is_single",
        "keyless_count",
        "sequence_number_for_ordering",
        "stream_arn",
        "stream_name",
    )

    def __init__(
        self,
        stream_name: str | None,
        stream_arn: str | None,
        records: list[Record],
        sizes: list[int],
        byte_count: int,
        is_dry_run: bool,
        sequence_number_for_ordering: str | None = None,
        keyless_count: int = 0,
        is_single: bool = False,
    ) -> None:
        depends_on_kind = keyless_count > 0 or sequence_number_for_ordering is not None
        super().__init__(records, sizes, byte_count, depends_on_kind)
        self.stream_name = stream_name
        self.stream_arn = stream_arn
        self.is_dry_run = is_dry_run
        self.sequence_number_for_ordering = sequence_number_for_ordering
        self.keyless_count = keyless_count
        self.is_single = is_single

    def check_kind(self, *, is_auto: bool) -> Refused | None:
        """As in `Put`. A stream that is AUTO takes no order, any other one no missing key."""
        try:
            if is_auto:
                refuse_ordering(self)
            else:
                require_keys(self)
        except ApiError as error:
            return refused_by(error)
        return None

    def check_limits(self, limits: PutLimits) -> Refused | None:
        """As in `Put`, of all records together."""
        try:
            check_sizes(self, limits)
        except ApiError as error:
            return refused_by(error)
        return None

    @property
    def stream(self) -> str:
        """The stream's name; if there is an ARN, the name in it."""
        if self.stream_arn is not None:
            return _stream_of_arn(self.stream_arn)
        assert self.stream_name is not None
        return self.stream_name


def check_members(request: PutRequest, limits: PutLimits, hash_keys: Sequence[str | None]) -> None:
    """Holds the names, numbers and ARNs of a request to the constraints of the API."""
    name, arn = request.stream_name, request.stream_arn
    problems = [
        *islice(_hash_key_problems(request, hash_keys), VALIDATION_ERRORS_MAX),
        *_ordering_problems(request.sequence_number_for_ordering),
        *stream_problems(name, arn, is_stream_name_free=limits.is_stream_name_free),
    ]
    if problems:
        raise error_of(request, validation_error(problems))
    for key in hash_keys:
        if key is not None and int(key) > HASH_KEY_MAX:
            raise error_of(request, hash_key_error(key))
    if name is not None and arn is not None and name not in (arn, _stream_of_arn(arn)):
        text = (
            f"StreamARN names the stream {echo(_stream_of_arn(arn))}, and StreamName "
            f"{echo(name)}; give one of the two, or the same stream."
        )
        raise error_of(request, api_error("InvalidArgumentException", text))


def _hash_key_problems(request: PutRequest, hash_keys: Sequence[str | None]) -> Iterator[str]:
    for number, key in enumerate(hash_keys, 1):
        if key is not None and not is_decimal(key, HASH_KEY_DIGITS_MAX):
            yield constraint(key, _path(request, number, "explicitHashKey"), HASH_KEY_MUST)


def _ordering_problems(number: str | None) -> Iterator[str]:
    if number is not None and not is_decimal(number, SEQUENCE_NUMBER_DIGITS_MAX):
        yield constraint(number, "sequenceNumberForOrdering", SEQUENCE_NUMBER_MUST)


def _path(request: PutRequest, number: int, member: str) -> str:
    """The place of a member of record `number` (from 1), as the service writes it."""
    return member if request.is_single else f"records.{number}.member.{member}"


def error_of(request: PutRequest, error: ApiError) -> ApiError:
    """`error`, with the counts and the stream of a request that could be read."""
    error.record_count = len(request.records)
    stream = request.stream_arn or request.stream_name
    error.stream = stream if stream is None or len(stream) <= ARN_CHARACTERS_MAX else None
    return error


def _stream_of_arn(arn: str) -> str:
    parsed = parse_arn(arn)
    return arn if parsed is None else parsed.name  # Yandex: an ARN is the stream's path


def require_keys(request: PutRequest) -> None:
    """Raises ApiError, in the service's words, if a record has no partition key: for a stream that
    goes by keys.
    """
    if not request.keyless_count:
        return
    problems = (
        constraint(None, _path(request, number, "partitionKey"), "not be null")
        for number, record in enumerate(request.records, 1)
        if not record.partition_key
    )
    raise error_of(request, validation_error(list(islice(problems, VALIDATION_ERRORS_MAX))))


def refuse_ordering(request: PutRequest) -> None:
    """Raises ApiError if there is a SequenceNumberForOrdering: for a stream that is AUTO, which has
    no order [M]. AWS's text is not known.
    """
    if request.sequence_number_for_ordering is not None:
        text = "SequenceNumberForOrdering is not supported for streams that distribute records."
        raise error_of(request, api_error("InvalidArgumentException", text))


def refused_by(error: ApiError) -> Refused:
    """An error of the wire, as the door counts it."""
    refusal = error.refusal
    message = refusal.message or ""
    return Refused(RefuseReason.INVALID, refusal.code, message, refusal.is_permanent)


def check_sizes(request: PutRequest, limits: PutLimits) -> None:
    """Checks a stream's limits of size. Raises ApiError and leaves the request unchanged.

    The parsers call it, and again any caller that then finds smaller limits for the stream.
    """
    request_bytes = request.byte_count
    # If the request is within the limit of one record, no record is over it.
    if request_bytes > limits.record_bytes_max or limits.partition_key_bytes_max is not None:
        problems = list(islice(_size_problems(request, limits), VALIDATION_ERRORS_MAX))
        if problems:
            raise error_of(request, validation_error(problems))
    if request_bytes > limits.request_bytes_max:
        text = f"Records size exceeds {limits.request_bytes_max / MIB:g} MB limit"
        raise error_of(request, api_error("InvalidArgumentException", text))


def _size_problems(request: PutRequest, limits: PutLimits) -> Iterator[str]:
    record_bytes_max, key_bytes_max = limits.record_bytes_max, limits.partition_key_bytes_max
    numbered = list(enumerate(zip(request.records, request.sizes, strict=True), 1))
    for number, (record, size) in numbered:
        if size > record_bytes_max:
            yield _size_problem(record, size, _path(request, number, "data"), record_bytes_max)
    if key_bytes_max is not None:
        for number, (record, size) in numbered:
            if size - len(record.data) > key_bytes_max:
                must = f"have no more than {key_bytes_max} bytes in UTF-8"
                path = _path(request, number, "partitionKey")
                yield constraint(record.partition_key, path, must)


def _size_problem(record: Record, size: int, path: str, size_max: int) -> str:
    """AWS's text of 2025-12 for data over the limit; our text where the key takes the record over
    it.
    """
    if len(record.data) > size_max:
        must, why = size_max, "."
    else:
        must = size_max - (size - len(record.data))
        why = f" (of the {size_max} bytes of a record its partition key takes the rest)."
    return (
        f"Value at '{path}' failed to satisfy constraint: "
        f"Member must have length less than or equal to {must}{why}"
    )
