"""Faults on request: what goes wrong with which call, and how many times.

Pure: this file decides; the server (or a simulation) carries out. A script is a queue: the oldest
fault that fits a call is taken; when its calls are used up, the next one has its turn. Knows
nothing of the contents of streams. Invariant: every matching call uses up exactly one call of
exactly one fault.
"""

from collections.abc import Iterable, Sequence
from enum import Enum

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.sandbox import yandex_words
from kdaemon.sandbox.settings import ACCOUNT

LATENCY_MS_MAX = 3_600_000  # an hour; ours: a larger number is a mistake in the unit
FAULT_COUNT_MAX = 10_000  # faults queued at once; ours, to bound memory
CODE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX = 128, 1024  # of a fault's own texts; ours, as well


INTERNAL_FAILURE = RecordResult(
    error_code="InternalFailure", error_message="Internal Service Failure"
)


class FaultKind(Enum):
    """What goes wrong. `W`: the kind heeds `is_written`."""

    LATENCY = "latency"  # only the delay: the records are written at once, the answer is late
    RESET = "reset"  # W: the connection is reset instead of an answer
    HANG = "hang"  # W: no answer, ever; the connection stays open
    STATUS = "status"  # W: HTTP `status` with an error body, of `code` if one is given
    UNPARSABLE_BODY = "unparsable_body"  # W: 200 with bytes that are not JSON
    EMPTY_BODY = "empty_body"  # W: 200 with no body
    THROTTLE = "throttle"  # 400 ProvisionedThroughputExceededException for the whole request
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - a fault's name; 400 ExpiredTokenException
    MISSING_STREAM = "missing_stream"  # 400 ResourceNotFoundException
    ACCESS_DENIED = "access_denied"  # 400 AccessDeniedException
    RECORD_FAILURE = "record_failure"  # some records fail: `indices` or `fraction`; of `code`
    WRONG_COUNT = "wrong_count"  # all is written, but the answer lacks its last result


_HEED_IS_WRITTEN = (
    FaultKind.RESET,
    FaultKind.HANG,
    FaultKind.STATUS,
    FaultKind.UNPARSABLE_BODY,
    FaultKind.EMPTY_BODY,
)
# Kinds about single records: only PutRecords can have them.
_RECORD_KINDS = (FaultKind.RECORD_FAILURE, FaultKind.WRONG_COUNT)
_WORDED = (FaultKind.STATUS, FaultKind.RECORD_FAILURE)  # kinds that may have texts of their own


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault of the script; also the JSON form of the control call.

    `calls`: how many matching calls it applies to; None: until it is cleared. `operation`: its name
    in the API. `stream`: None fits every stream. `latency_ms`: how late the answer (or the reset)
    comes, with any kind. `is_written`: whether the records are written although the client never
    learns that. `status`: 500 or 503, for kind `status`. For kind `record_failure`: `indices`
    (positions in the request), or `fraction` (chance of each record, by the service's dice). `code`
    and `message`: the service's words, for kinds `status` and `record_failure`; without a code the
    service says what it usually says for such a failure.
    """

    kind: FaultKind
    calls: int | None = 1
    operation: str = "PutRecords"
    stream: str | None = None
    latency_ms: int = 0
    is_written: bool = False
    status: int = 500
    fraction: float = 1.0
    indices: tuple[int, ...] = ()
    code: str | None = None
    message: str = ""

    def __post_init__(self) -> None:
        # msgspec turns a ValueError raised here into its own ValidationError while decoding.
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls is at least 1, or null for every call; found {self.calls}")
        if not 0 <= self.latency_ms <= LATENCY_MS_MAX:
            raise ValueError(f"latency_ms is 0 to {LATENCY_MS_MAX}; found {self.latency_ms}")
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction is 0 to 1; found {self.fraction}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"status is 400 to 599, usually 500 or 503; found {self.status}")
        if self.is_written and self.kind not in _HEED_IS_WRITTEN:
            raise ValueError(f"is_written says nothing about a fault of kind {self.kind.value}")
        if self.kind in _RECORD_KINDS and self.operation != "PutRecords":
            raise ValueError(f"{self.kind.value} applies to PutRecords only, not {self.operation}")
        self._check_words()

    def _check_words(self) -> None:
        if self.code is None:
            if self.message:
                raise ValueError("message needs a code that it goes with")
            return
        if self.kind not in _WORDED:
            raise ValueError(f"a fault of kind {self.kind.value} has no code of its own")
        if not 1 <= len(self.code) <= CODE_CHARACTERS_MAX:
            raise ValueError(f"code has 1 to {CODE_CHARACTERS_MAX} characters")
        if len(self.message) > TEXT_CHARACTERS_MAX:
            raise ValueError(f"message has at most {TEXT_CHARACTERS_MAX} characters")

    @property
    def writes_first(self) -> bool:
        """Whether the call does its work before the fault shows."""
        return self.is_written or self.kind in (
            FaultKind.LATENCY,
            FaultKind.RECORD_FAILURE,
            FaultKind.WRONG_COUNT,
        )


class _Scripted:
    __slots__ = ("calls_left", "fault")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.calls_left = fault.calls


class FaultScript:
    """The queue of faults, oldest first. It has FAULT_COUNT_MAX at most; more are refused."""

    def __init__(self) -> None:
        self._queue: list[_Scripted] = []

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, faults: Sequence[Fault]) -> None:
        """Appends all or none. Raises ValueError if the script would grow too long."""
        if len(self._queue) + len(faults) > FAULT_COUNT_MAX:
            raise ValueError(f"at most {FAULT_COUNT_MAX} faults can be queued; clear them first")
        self._queue.extend(map(_Scripted, faults))

    def clear(self) -> None:
        self._queue.clear()

    def pending(self) -> list[dict[str, object]]:
        """The faults that are left, each with its number of calls (None: until it is cleared)."""
        return [
            {**msgspec.to_builtins(scripted.fault), "calls": scripted.calls_left}
            for scripted in self._queue
        ]

    def take(self, operation: str, stream: str | None) -> Fault | None:
        """The fault of this call, which loses one of its calls; None: the call goes well."""
        for position, scripted in enumerate(self._queue):
            fault = scripted.fault
            if fault.operation != operation or fault.stream not in (None, stream):
                continue
            if scripted.calls_left is not None:
                scripted.calls_left -= 1
                if scripted.calls_left == 0:
                    del self._queue[position]
            return fault
        return None


def error_of(
    fault: Fault, stream: str | None, account: str = ACCOUNT, *, is_yandex: bool = False
) -> ServiceError | None:
    """The error with which a fault answers the whole request; None: the kind answers with none."""
    name = stream or "unknown"
    if fault.kind is FaultKind.STATUS and fault.code is not None:
        return ServiceError(fault.code, fault.message, status=fault.status)
    if is_yandex:
        return _error_at_yandex(fault, name)
    match fault.kind:
        case FaultKind.THROTTLE:
            return ServiceError(
                "ProvisionedThroughputExceededException",
                f"Rate exceeded for stream {name} under account {account}.",
                status=400,
            )
        case FaultKind.EXPIRED_TOKEN:
            return ServiceError(
                "ExpiredTokenException",
                "The security token included in the request is expired",
                status=400,
            )
        case FaultKind.MISSING_STREAM:
            return ServiceError(
                "ResourceNotFoundException",
                f"Stream {name} under account {account} not found.",
                status=400,
            )
        case FaultKind.ACCESS_DENIED:
            return ServiceError(
                "AccessDeniedException",
                f"User is not authorized to perform: kinesis:{fault.operation} on stream {name}",
                status=400,
            )
        case FaultKind.STATUS if fault.status == 503:
            return ServiceError("ServiceUnavailableException", "Service Unavailable", status=503)
        case FaultKind.STATUS if fault.status >= 500:
            return ServiceError(
                "InternalFailureException", "Internal Service Failure", status=fault.status
            )
        case FaultKind.STATUS:
            return ServiceError("ThrottlingException", "Rate exceeded", status=fault.status)
        case _:
            return None


def _error_at_yandex(fault: Fault, name: str) -> ServiceError | None:
    match fault.kind:
        case FaultKind.THROTTLE:
            return yandex_words.throttled_call()
        case FaultKind.EXPIRED_TOKEN:
            return yandex_words.expired_token()
        case FaultKind.MISSING_STREAM:
            return yandex_words.missing_stream(name)
        case FaultKind.ACCESS_DENIED:
            is_write = fault.operation in ("PutRecord", "PutRecords")
            return yandex_words.access_denied(name, is_write=is_write)
        case FaultKind.STATUS:
            return yandex_words.broken(fault.status)
        case _:
            return None


def failures_of(
    fault: Fault, record_count: int, dice: Dice | None, *, is_yandex: bool = False
) -> dict[int, RecordResult]:
    """The records of a request that fail, by index, with their results: the named records, or each
    by chance. `dice` may be None if nothing is left to chance: with indices, or a fraction of 1.
    """
    failure = yandex_words.INTERNAL_FAILURE if is_yandex else INTERNAL_FAILURE
    if fault.code is not None:
        nothing = "" if is_yandex else None
        failure = RecordResult(nothing, nothing, fault.code, fault.message or None)
    indices: Iterable[int] = fault.indices or range(record_count)
    if not fault.indices and dice is not None and fault.fraction < 1.0:
        indices = (index for index in indices if dice.random() < fault.fraction)
    return dict.fromkeys(indices, failure)
