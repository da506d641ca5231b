"""The sandbox service: its streams take, throttle, reshard and return records as Kinesis or Yandex.

Pure: time is an argument, dice are passed in, nothing is awaited. The HTTP server, the simulations
and the tests all drive this one object. Other files do the work: `operations.py` (a table of the
operations), `writes.py` (records in), `reads.py` (records out), `control.py` (streams and shards),
`consumers.py` and `subscription.py` (pushing a shard's records), `tags.py` (tags and limits), and
`faults.py` (what goes wrong). Errors are ServiceError with the service's code, message and HTTP
status.

Where the service stalls a write until its shard has quota (Yandex with `quota_wait_ms`), nothing
waits here: `take_records` returns the results at once, and the time until which they are stalled.
The server and the simulations let that time pass.

Invariant: an operation that raises has changed nothing, except that a fault with `is_written` wrote
first.
"""

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import RECORD_BYTES_MAX
from kdaemon.base.ports import Dice
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import YANDEX
from kdaemon.sandbox import changes, consumers, writes, yandex_words
from kdaemon.sandbox.catalogue import Catalogue
from kdaemon.sandbox.faults import (
    Fault,
    FaultKind,
    FaultScript,
    error_of,
    failures_of,
)
from kdaemon.sandbox.operations import (
    NOT_AT_YANDEX,
    OPERATIONS,
    PUT_OPERATIONS,
    READ_OPERATIONS,
    SUBSCRIBE,
)
from kdaemon.sandbox.payload import Payload, refuse
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.sandbox.shards import StoredRecord, Stream
from kdaemon.sandbox.subscription import Subscription, subscribe
from kdaemon.sandbox.yandex_auth import Entrance

DRY_RUN_TEXT = "The request would have succeeded, but DryRun was set. Nothing was done."
"""A dry run that would succeed is answered with an error [M]; AWS's own text is not known."""


class Taken(NamedTuple):
    """An answer to PutRecords: one result for each record, in order, and when it may be given.

    `stalled_until_ns`: the `now_ns` of the call, or later if the service stalls the answer. A taken
    record counts as arrived when its shard had quota for it, at `stalled_until_ns` at the latest.
    """

    results: list[RecordResult]
    stalled_until_ns: int


class Service:
    """One imitated service with all its streams.

    Bounds: `settings.retained_bytes_max` for records, `shard_count_max`, `stream_count_max`, and
    `FAULT_COUNT_MAX` for the script. `dice` are used only for faults by fraction. `now_ns` in every
    call is of one clock that never goes back; with `wall_offset_ns` added it is in nanoseconds
    since 1970.
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        dice: Dice | None = None,
        wall_offset_ns: int = 0,
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._catalogue = Catalogue(self.settings, wall_offset_ns)
        self._script = FaultScript()
        self._dice = dice
        wait_ms = self.settings.quota_wait_ms
        self._quota_wait_ns = None if wait_ms is None else wait_ms * 1_000_000
        self.entrance = Entrance()  # checks tokens and signatures; Yandex only
        self.call_counts: dict[str, int] = {}  # by operation: calls that were answered or failed

    @property
    def is_yandex(self) -> bool:
        return self.settings.service is YANDEX

    @property
    def stream_names(self) -> list[str]:
        return sorted(self._catalogue.streams)

    def set_wall_offset_ns(self, wall_offset_ns: int) -> None:
        """Sets what is added to `now_ns` for nanoseconds since 1970; the server does at its
        start.
        """
        self._catalogue.wall_offset_ns = wall_offset_ns

    def create_stream(
        self,
        name: str,
        shard_count: int,
        now_ns: int = 0,
        *,
        record_bytes_max: int = RECORD_BYTES_MAX,
        quota: Quota | None = None,
        is_auto: bool = False,
        can_split: bool = False,
    ) -> Stream:
        """Makes a stream, for Python callers. It is ACTIVE at once. ServiceError if it exists.

        `is_auto` (AWS; then on demand) and `can_split` (Yandex): see `Stream`.
        """
        return self._catalogue.create(
            name,
            shard_count,
            now_ns,
            record_bytes_max=record_bytes_max,
            quota=quota,
            is_on_demand=is_auto,
            is_auto=is_auto,
            can_split=can_split,
        )

    def stream(self, name: str) -> Stream:
        """The stream itself, for tests and status. ServiceError if there is none."""
        return self._catalogue.find(name)

    def stored(self, name: str) -> list[StoredRecord]:
        """Every retained record of a stream, shard after shard, each shard in its order."""
        return [stored for shard in self.stream(name).shards for stored in shard.log]

    def split_shard(self, stream_name: str, shard_id: str, now_ns: int) -> None:
        """The service halves a shard by itself, as auto-partitioning does (and AWS on demand).
        ServiceError for an unknown or closed shard, and for a static stream.
        """
        changes.split_unasked(self._catalogue, self.stream(stream_name), shard_id, now_ns)

    def set_quota(self, quota: Quota, now_ns: int, stream: str | None = None) -> None:
        """Sets the quota of one stream, or of all present ones, at once; none of it is
        spent yet.
        """
        streams = (
            list(self._catalogue.streams.values()) if stream is None else [self.stream(stream)]
        )
        for each in streams:
            each.set_quota(quota, now_ns)

    def accept_tokens(self, tokens: list[str] | None, *, is_required: bool = False) -> None:
        """Yandex: only these IAM tokens are accepted from now on, as if all others had expired;
        None: any. `is_required`: a client that sends neither a token nor a signature is refused.
        Raises ValueError.
        """
        if not self.is_yandex:
            raise ValueError("only Yandex takes IAM tokens")
        self.entrance.accept(tokens, is_required=is_required)

    def add_faults(self, *faults: Fault) -> None:
        """Appends to the script. ValueError if it is full, if the imitated service has not the
        operation, or if dice are needed and missing.
        """
        for fault in faults:
            if not self.offers(fault.operation):
                raise ValueError(f"there is no operation {fault.operation!r} that could fail")
            by_chance = fault.kind is FaultKind.RECORD_FAILURE and not fault.indices
            if by_chance and fault.fraction < 1.0 and self._dice is None:
                raise ValueError("a fault by fraction needs dice: give the Service some")
        self._script.add(faults)

    def clear_faults(self) -> None:
        self._script.clear()

    def pending_faults(self) -> list[dict[str, object]]:
        """The faults that are left, oldest first, with their numbers of calls."""
        return self._script.pending()

    def next_fault(self, operation: str, stream: str | None) -> Fault | None:
        """The fault of this call, which loses one of its calls; None: the call goes well.

        The caller carries the fault out: it passes the fault to `put_record(s)` or `handle`, which
        raise and write as the fault says, and does itself what is below HTTP (delay, reset, hang,
        garbled body).
        """
        return self._script.take(operation, stream)

    def put_records(
        self, stream_name: str, records: list[Record], now_ns: int, fault: Fault | None = None
    ) -> list[RecordResult]:
        """One result for each record, in order; one fewer under a `wrong_count` fault.

        ServiceError if the whole request is refused. The records are kept, not copied. For callers
        to whom the time of the answer does not matter; see `take_records`.
        """
        return self.take_records(stream_name, records, now_ns, fault).results

    def take_records(
        self, stream_name: str, records: list[Record], now_ns: int, fault: Fault | None = None
    ) -> Taken:
        """As `put_records`, with the time until which the service stalls the answer."""
        late_error = self._begin("PutRecords", fault, stream_name)
        taken = self._put(stream_name, records, now_ns, fault)
        if late_error is not None:
            raise late_error
        if fault is not None and fault.kind is FaultKind.WRONG_COUNT:
            taken.results.pop()
        return taken

    def put_record(
        self, stream_name: str, record: Record, now_ns: int, fault: Fault | None = None
    ) -> RecordResult:
        """A delivered result. A throttled record is an error of the whole call."""
        (result,), _ = self.take_record(stream_name, record, now_ns, fault)
        if not result.is_delivered:
            raise self.refusal_of(result)
        return result

    def take_record(
        self, stream_name: str, record: Record, now_ns: int, fault: Fault | None = None
    ) -> Taken:
        """As `put_record`, with the time until which the service stalls the answer. Here a
        throttled record is the one result; `refusal_of` makes the error of it.
        """
        late_error = self._begin("PutRecord", fault, stream_name)
        try:
            taken = self._put(stream_name, [record], now_ns, None)
        except ServiceError as error:
            # This call has no list of records: the member is `data`, not `records.1.member.data`.
            text = error.message.replace("records.1.member.", "")
            raise ServiceError(error.code, text, status=error.status) from None
        if late_error is not None and taken.results[0].is_delivered:
            raise late_error
        return taken

    def refusal_of(self, result: RecordResult) -> ServiceError:
        """A failed result of PutRecord as the error of its whole call."""
        assert result.error_code is not None, "only a failed result is a refusal"
        if self.is_yandex:
            return yandex_words.refusal_of(result)
        return refuse(result.error_code, result.error_message or "")

    def _put(
        self, stream_name: str, records: list[Record], now_ns: int, fault: Fault | None
    ) -> Taken:
        stream = self._catalogue.find(stream_name)
        failed: dict[int, RecordResult] = {}
        if fault is not None and fault.kind is FaultKind.RECORD_FAILURE:
            failed = failures_of(fault, len(records), self._dice, is_yandex=self.is_yandex)
        limit = self.settings.request_limit_bytes
        if self.is_yandex:
            written = writes.put_yandex(
                stream,
                records,
                now_ns,
                request_bytes_max=limit,
                failed=failed,
                quota_wait_ns=self._quota_wait_ns,
            )
        else:
            written = writes.put_aws(
                stream,
                records,
                now_ns,
                account=self.settings.account,
                request_bytes_max=limit,
                failed=failed,
            )
        self._catalogue.retain(written.retained_bytes)
        if stream.consumers:
            stream.changed()
        return Taken(written.results, written.stalled_until_ns)

    def dry_run(self, stream_name: str, fault: Fault | None = None) -> NoReturn:
        """What would become of records. A request that would succeed is answered with an error that
        says so [M]; nothing is written.
        """
        self.stream(stream_name)
        error = self._error_of(fault, stream_name)
        raise error or refuse("DryRunOperationException", DRY_RUN_TEXT)

    def handle(
        self,
        operation: str,
        payload: Mapping[str, object],
        now_ns: int,
        fault: Fault | None = None,
    ) -> dict[str, object]:
        """Every operation but PutRecord(s), which come typed, and SubscribeToShard (`subscribe`).
        Bytes in the answer are base64 on the wire.

        ServiceError: UnknownOperationException (Yandex: InvalidAction) for an operation that is not
        offered.
        """
        perform = OPERATIONS.get(operation)
        if perform is None or not self.offers(operation):
            raise self.unknown_operation(operation)
        members = Payload(payload)
        late_error = self._begin(operation, fault, self.stream_in(members) if fault else None)
        answer = perform(self._catalogue, members, now_ns)
        if late_error is not None:
            raise late_error
        if operation in READ_OPERATIONS and members.get("DryRun") is True:
            raise refuse("DryRunOperationException", DRY_RUN_TEXT)
        return answer

    def subscribe(
        self, payload: Mapping[str, object], now_ns: int, fault: Fault | None = None
    ) -> Subscription:
        """SubscribeToShard: a new subscription. Raises ServiceError."""
        members = Payload(payload)
        late_error = self._begin(SUBSCRIBE, fault, self.stream_in(members) if fault else None)
        found = subscribe(self._catalogue, members, now_ns)
        if late_error is not None:
            raise late_error
        if members.get("DryRun") is True:
            raise refuse("DryRunOperationException", DRY_RUN_TEXT)
        return found

    def offers(self, operation: str) -> bool:
        """Whether the imitated service has the operation."""
        if operation in PUT_OPERATIONS:
            return True
        is_known = operation in OPERATIONS or operation == SUBSCRIBE
        return is_known and not (self.is_yandex and operation in NOT_AT_YANDEX)

    def unknown_operation(self, operation: str) -> ServiceError:
        """The error of the imitated service for an unknown operation."""
        if not self.is_yandex:
            return refuse("UnknownOperationException", "")
        if not operation:
            return refuse("MissingAction", "No action was specified")
        return refuse("InvalidAction", f'Unknown method name "{operation}"')

    def stream_in(self, payload: Mapping[str, object]) -> str | None:
        """The stream that a control or reading call names, to choose its fault; None: it names
        none.
        """
        members = Payload(payload)
        name = self._catalogue.name_in(members)
        return consumers.stream_named_in(members) if name is None else name

    def state(self) -> dict[str, object]:
        """Streams, shards and counts, for people and tests; no data and no keys."""
        proofs = {"requests_with": self.entrance.counts} if self.is_yandex else {}
        return {
            "service": self.settings.service.name,
            "calls": self.call_counts,
            **proofs,
            "faults": self.pending_faults(),
            "retained_bytes": self._catalogue.retained_bytes,
            "retained_bytes_max": self.settings.retained_bytes_max,
            "streams": {
                name: _stream_state(stream) for name, stream in self._catalogue.streams.items()
            },
        }

    def _begin(
        self, operation: str, fault: Fault | None, stream: str | None
    ) -> ServiceError | None:
        """Counts a call. Raises the error of its fault, or returns the error if the call does its
        work first.
        """
        self.call_counts[operation] = self.call_counts.get(operation, 0) + 1
        error = self._error_of(fault, stream)
        if error is not None and fault is not None and not fault.writes_first:
            raise error
        return error

    def _error_of(self, fault: Fault | None, stream: str | None) -> ServiceError | None:
        if fault is None:
            return None
        return error_of(fault, stream, self.settings.account, is_yandex=self.is_yandex)


def _stream_state(stream: Stream) -> dict[str, object]:
    return {
        "open_shard_count": len(stream.open_shards),
        "records_per_second": stream.quota.records_per_second,
        "bytes_per_second": stream.quota.bytes_per_second,
        "record_bytes_max": stream.record_bytes_max,
        "is_auto": stream.is_auto,
        "consumers": {  # each with the shards that it reads now
            name: [stream.shards[index].shard_id for index in sorted(consumer.readers)]
            for name, consumer in stream.consumers.items()
        },
        "shards": [
            {
                "shard_id": shard.shard_id,
                "is_open": shard.is_open,
                "written": shard.written_count,
                "throttled": shard.throttled_count,
                "retained": len(shard.log),
            }
            for shard in stream.shards
        ],
    }
