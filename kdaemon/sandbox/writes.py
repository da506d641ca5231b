"""Takes records: checks a whole request, finds each record's shard, checks its quota, stores.

Pure. There are three paths, which differ in their refusals and in their throttling. AWS judges each
record by itself. For a stream that spreads its records (AUTO), AWS does the same, and any shard
with quota will do. Yandex takes or refuses all records of a shard together, and may stall them
until the shard has quota. In all paths one invalid record refuses its whole request before anything
is stored. Sits between `service.py` and `shards.py`.

The hot path of the sandbox: about 2 microseconds a record.
"""

import re

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import (
    HASH_KEY_MAX,
    HASH_KEY_PATTERN,
    KIB,
    MIB,
    PARTITION_KEY_BYTES_MAX_YANDEX,
    PARTITION_KEY_CHARACTERS_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_CALL_MAX,
)
from kdaemon.base.record import Record, RecordResult
from kdaemon.sandbox import yandex_words
from kdaemon.sandbox.shards import STORED_OVERHEAD_BYTES, Shard, Stream, hash_key_of
from kdaemon.sandbox.yandex_words import invalid
from kdaemon.wire.refusals import echo

# The results, and the memory of the stored records in bytes.
Written = tuple[list[RecordResult], int]

THROTTLED = "ProvisionedThroughputExceededException"
UNITS_WAIT_NS = 1_000_000_000  # Yandex: the longest wait of a call for request units [YS]
# Yandex: a call costs 1 unit, and one for each block of this size [YS].
REQUEST_UNIT_BYTES = 4 * KIB


_is_hash_key = re.compile(HASH_KEY_PATTERN, re.ASCII).fullmatch


def put_aws(
    stream: Stream,
    records: list[Record],
    now_ns: int,
    *,
    account: str,
    request_bytes_max: int,
    failing: frozenset[int],
    failure: RecordResult,
) -> Written:
    """Results have the length and order of `records`. `failing`: indices that get `failure`
    instead.

    ServiceError if the request is refused; then nothing is stored and no quota is spent.
    """
    targets, sizes = _route_aws(stream, records, request_bytes_max)
    results: list[RecordResult] = []
    retained_bytes = 0
    for index, (record, shard, size) in enumerate(zip(records, targets, sizes, strict=True)):
        if index in failing:
            results.append(failure)
        elif shard.limiter.take(1, size, now_ns):
            results.append(shard.append(record, now_ns))
            retained_bytes += size + STORED_OVERHEAD_BYTES
        else:
            results.append(_throttled(stream, shard, account))
    return results, retained_bytes


def put_auto(
    stream: Stream,
    records: list[Record],
    now_ns: int,
    *,
    account: str,
    request_bytes_max: int,
    failing: frozenset[int],
    failure: RecordResult,
) -> Written:
    """As `put_aws`, for a stream that is AUTO: keys are ignored and may be empty. Each record goes
    to the next open shard in turn that has quota for it, and is throttled if none has.
    """
    sizes = _check_auto(stream, records, request_bytes_max)
    shards = stream.open_shards
    results: list[RecordResult] = []
    retained_bytes = 0
    refused_bytes_min = 1 << 62  # no shard had room for a record of this size at this time
    for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
        turn = stream.next_turn
        stream.next_turn = turn + 1
        if index in failing:
            results.append(failure)
            continue
        tried = len(shards) if size < refused_bytes_min else 0
        for offset in range(tried):
            shard = shards[(turn + offset) % len(shards)]
            if shard.limiter.take(1, size, now_ns):
                results.append(shard.append(record, now_ns))
                retained_bytes += size + STORED_OVERHEAD_BYTES
                break
        else:
            refused_bytes_min = min(refused_bytes_min, size)
            results.append(_throttled(stream, shards[turn % len(shards)], account))
    return results, retained_bytes


def _throttled(stream: Stream, shard: Shard, account: str) -> RecordResult:
    shard.throttled_count += 1
    message = (
        f"Rate exceeded for shard {shard.shard_id} in stream {stream.name} under account {account}."
    )
    return RecordResult(None, None, THROTTLED, message)


def _check_auto(stream: Stream, records: list[Record], request_bytes_max: int) -> list[int]:
    """Sizes as in `_route_aws`. ServiceError for the first fault."""
    _check_count(records)
    sizes = [len(record.data) + len(record.partition_key.encode()) for record in records]
    for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
        if len(record.partition_key) > PARTITION_KEY_CHARACTERS_MAX:
            raise _key_refusal(record.partition_key, index)
        if size > stream.record_bytes_max:
            raise _size_refusal(stream, index)
    if sum(sizes) > request_bytes_max:
        raise _request_refusal(request_bytes_max)
    return sizes


def _route_aws(
    stream: Stream, records: list[Record], request_bytes_max: int
) -> tuple[list[Shard], list[int]]:
    """Each record's shard and its size (data + UTF-8 key, bytes). ServiceError for the first
    fault.
    """
    _check_count(records)
    targets: list[Shard] = []
    sizes: list[int] = []
    record_bytes_max = stream.record_bytes_max
    shard_of = stream.shard_of
    for index, record in enumerate(records):
        key = record.partition_key
        encoded_key = key.encode()
        size = len(record.data) + len(encoded_key)
        if not key or len(key) > PARTITION_KEY_CHARACTERS_MAX:
            raise _key_refusal(key, index)
        if size > record_bytes_max:
            raise _size_refusal(stream, index)
        sizes.append(size)
        explicit = record.explicit_hash_key
        targets.append(
            shard_of(
                hash_key_of(encoded_key) if explicit is None else _explicit_aws(explicit, index)
            )
        )
    if sum(sizes) > request_bytes_max:
        raise _request_refusal(request_bytes_max)
    return targets, sizes


def _check_count(records: list[Record]) -> None:
    if not 1 <= len(records) <= RECORDS_PER_CALL_MAX:
        bound = "greater than or equal to 1" if not records else "less than or equal to 500"
        raise _invalid("records", f"Member must have length {bound}")


def _key_refusal(key: str, index: int) -> ServiceError:
    bound = "less than or equal to 256" if key else "greater than or equal to 1"
    return _invalid(f"records.{index + 1}.member.partitionKey", f"Member must have length {bound}")


def _size_refusal(stream: Stream, index: int) -> ServiceError:
    return _invalid(
        f"records.{index + 1}.member.data",
        f"Member must have length less than or equal to {stream.record_bytes_max}",
    )


def _request_refusal(request_bytes_max: int) -> ServiceError:
    return ServiceError(
        "InvalidArgumentException",
        f"Records size exceeds {request_bytes_max // MIB} MB limit",
        status=400,
    )


def _explicit_aws(explicit: str, index: int) -> int:
    if not _is_hash_key(explicit):
        raise _invalid(
            f"records.{index + 1}.member.explicitHashKey",
            r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})",
        )
    hash_key = int(explicit)
    if hash_key > HASH_KEY_MAX:
        raise ServiceError(
            "InvalidArgumentException",
            "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
            f"Specified value was {explicit}",
            status=400,
        )
    return hash_key


def _invalid(member: str, constraint: str) -> ServiceError:
    # AWS's newest answers do not repeat the value (2025-12), which also keeps data out of errors.
    return ServiceError(
        "ValidationException",
        f"1 validation error detected: Value at '{member}' failed to satisfy constraint: "
        f"{constraint}.",
        status=400,
    )


def put_yandex(
    stream: Stream,
    records: list[Record],
    now_ns: int,
    *,
    request_bytes_max: int,
    failing: frozenset[int],
    failure: RecordResult,
    quota_wait_ns: int | None,
) -> tuple[list[RecordResult], int, int]:
    """As `put_aws`, but a shard's records are taken all or none, and one index in `failing` fails
    its whole shard.

    The third value is the time until which the service stalls its answer: `now_ns`, or later if the
    call waits for request units, or (with a `quota_wait_ns`) for quota of its shards.
    """
    total_bytes = _check_yandex(records, request_bytes_max)
    payload_bytes = total_bytes + sum(len(record.explicit_hash_key or "") for record in records)
    units = 1 + -(-payload_bytes // REQUEST_UNIT_BYTES)
    if stream.request_units is not None:
        deadline_ns = now_ns + UNITS_WAIT_NS
        units_ns = stream.request_units.take_by(units, now_ns, deadline_ns)
        if units_ns is None:
            return [yandex_words.OUT_OF_UNITS] * len(records), 0, deadline_ns
        now_ns = units_ns  # the call reaches its shards then
    indices_by_shard: dict[Shard, list[int]] = {}
    for index, record in enumerate(records):
        explicit = record.explicit_hash_key  # an empty one counts as none [YS]
        hash_key = int(explicit) if explicit else hash_key_of(record.partition_key.encode())
        indices_by_shard.setdefault(stream.shard_of(hash_key), []).append(index)
    results = [yandex_words.OVERLOADED] * len(records)
    retained_bytes = 0
    stalled_until_ns = now_ns
    for shard, indices in indices_by_shard.items():
        size = sum(
            len(records[index].data) + len(records[index].partition_key.encode())
            for index in indices
        )
        if not failing.isdisjoint(indices):
            for index in indices:
                results[index] = failure
            continue
        is_granted, decided_ns = _ask_quota(shard, len(indices), size, now_ns, quota_wait_ns)
        stalled_until_ns = max(stalled_until_ns, decided_ns)
        if is_granted:
            for index in indices:
                results[index] = shard.append(records[index], decided_ns)
            retained_bytes += size + len(indices) * STORED_OVERHEAD_BYTES
        else:
            shard.throttled_count += len(indices)
    return results, retained_bytes, stalled_until_ns


def _ask_quota(
    shard: Shard, record_count: int, byte_count: int, now_ns: int, quota_wait_ns: int | None
) -> tuple[bool, int]:
    """Whether the shard takes a write, and when that is decided.

    A shard's queue is first in, first out, and its quota is known, so both can be told at once. The
    write at the head waits as long as it must; the deadline is for writes behind it [YS:
    `partition_write.cpp`].
    """
    if quota_wait_ns is None:
        return shard.limiter.take(record_count, byte_count, now_ns), now_ns
    head_ns = max(now_ns, shard.granted_ns)
    if head_ns - now_ns >= quota_wait_ns:
        return False, now_ns + quota_wait_ns
    shard.granted_ns = shard.limiter.grant(record_count, byte_count, head_ns)
    return True, shard.granted_ns


def _check_yandex(records: list[Record], request_bytes_max: int) -> int:
    """Bytes of data and keys. ServiceError in the order of the service's own checks [YS]. A list
    without records passes.
    """
    if len(records) > RECORDS_PER_CALL_MAX:
        raise invalid(
            f"Too many records in a single PutRecords request: {len(records)} > "
            f"{RECORDS_PER_CALL_MAX}"
        )
    total_bytes = 0
    for record in records:
        key_bytes = len(record.partition_key.encode())
        total_bytes += key_bytes + len(record.data)
        if not key_bytes:
            raise invalid("Empty partition key")
        if len(record.data) > RECORD_BYTES_MAX:
            raise invalid(
                f"Data of size of {len(record.data)} bytes exceed limit of {RECORD_BYTES_MAX} bytes"
            )
        if key_bytes > PARTITION_KEY_BYTES_MAX_YANDEX:
            raise invalid(f"Partition key is too long: {echo(record.partition_key)}")
        explicit = record.explicit_hash_key
        if explicit and (not _is_hash_key(explicit) or int(explicit) > HASH_KEY_MAX):
            raise invalid(f"{echo(explicit)} is not a valid 128 bit decimal")
    if total_bytes > request_bytes_max:
        raise invalid(
            f"Total size of PutRecords request of {total_bytes} bytes exceed limit of "
            f"{request_bytes_max} bytes"
        )
    return total_bytes
