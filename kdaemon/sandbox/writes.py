"""Takes records: checks a whole request, finds each record's shard, checks its quota, stores.

Pure. The services differ in their refusals and in their throttling. AWS judges each record by
itself; for a stream that spreads its records (AUTO), any shard with quota will do. Yandex takes or
refuses all records of a shard together, and may stall them until the shard has quota. At both, one
invalid record refuses its whole request before anything is stored.
Where it sits: between `service.py` and `shards.py`.

The hot path of the sandbox: about 2 microseconds a record.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

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

THROTTLED = "ProvisionedThroughputExceededException"
UNITS_WAIT_NS = 1_000_000_000  # Yandex: the longest wait of a call for request units [YS]
# Yandex: a call costs 1 unit, and one for each block of this size [YS].
REQUEST_UNIT_BYTES = 4 * KIB


class Written(NamedTuple):
    """What became of a request. `retained_bytes`: memory of the stored records. `stalled_until_ns`:
    the `now_ns` of the call, or later if the service stalls the answer.
    """

    results: list[RecordResult]
    retained_bytes: int
    stalled_until_ns: int


_is_hash_key = re.compile(HASH_KEY_PATTERN, re.ASCII).fullmatch


def put_aws(
    stream: Stream,
    records: list[Record],
    now_ns: int,
    *,
    account: str,
    request_bytes_max: int,
    failed: Mapping[int, RecordResult],
) -> Written:
    """Results have the length and order of `records`. `failed`: results, by index, of the records
    that a fault makes fail. A stream that is AUTO ignores keys, which may be empty: each record
    goes to the next open shard in turn that has quota for it, and is throttled if none has.

    ServiceError if the request is refused; then nothing is stored and no quota is spent.
    """
    targets, sizes = _route_aws(stream, records, request_bytes_max)
    results: list[RecordResult] = []
    retained_bytes = 0
    shards, turn = stream.open_shards, stream.next_turn
    refused_bytes_min = 1 << 62  # AUTO: no shard had room for a record of this size at this time
    if stream.is_auto:
        stream.next_turn += len(records)
    for index, (record, target, size) in enumerate(zip(records, targets, sizes, strict=True)):
        if index in failed:
            results.append(failed[index])
            continue
        asked: Iterable[Shard] = (target,)
        if stream.is_auto:
            count = len(shards) if size < refused_bytes_min else 0
            asked = (shards[(turn + index + step) % len(shards)] for step in range(count))
        for shard in asked:
            if shard.limiter.take(1, size, now_ns):
                results.append(shard.append(record, now_ns))
                retained_bytes += size + STORED_OVERHEAD_BYTES
                break
        else:
            refused_bytes_min = min(refused_bytes_min, size)
            results.append(_throttled(stream, target, account))
    return Written(results, retained_bytes, now_ns)


def _throttled(stream: Stream, shard: Shard, account: str) -> RecordResult:
    shard.throttled_count += 1
    message = (
        f"Rate exceeded for shard {shard.shard_id} in stream {stream.name} under account {account}."
    )
    return RecordResult(None, None, THROTTLED, message)


def _route_aws(
    stream: Stream, records: list[Record], request_bytes_max: int
) -> tuple[list[Shard], list[int]]:
    """Each record's shard (AUTO: the shard whose turn it is) and its size (data + UTF-8 key,
    bytes). ServiceError for the first fault.
    """
    if not 1 <= len(records) <= RECORDS_PER_CALL_MAX:
        bound = "greater than or equal to 1" if not records else "less than or equal to 500"
        raise _invalid("records", f"Member must have length {bound}")
    targets: list[Shard] = []
    sizes: list[int] = []
    record_bytes_max, is_auto = stream.record_bytes_max, stream.is_auto
    shard_of, shards, turn = stream.shard_of, stream.open_shards, stream.next_turn
    for index, record in enumerate(records):
        key = record.partition_key
        encoded_key = key.encode()
        size = len(record.data) + len(encoded_key)
        if not (key or is_auto) or len(key) > PARTITION_KEY_CHARACTERS_MAX:
            raise _key_refusal(key, index)
        if size > record_bytes_max:
            raise _size_refusal(stream, index)
        sizes.append(size)
        explicit = record.explicit_hash_key
        if is_auto:
            targets.append(shards[(turn + index) % len(shards)])
        elif explicit is None:
            targets.append(shard_of(hash_key_of(encoded_key)))
        else:
            targets.append(shard_of(_explicit_aws(explicit, index)))
    if sum(sizes) > request_bytes_max:
        raise _request_refusal(request_bytes_max)
    return targets, sizes


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
    failed: Mapping[int, RecordResult],
    quota_wait_ns: int | None,
) -> Written:
    """As `put_aws`, but a shard's records are taken all or none, and one index in `failed` fails
    its whole shard. The answer is stalled if the call waits for request units, or (with a
    `quota_wait_ns`) for quota of its shards.
    """
    total_bytes = _check_yandex(records, request_bytes_max)
    payload_bytes = total_bytes + sum(len(record.explicit_hash_key or "") for record in records)
    units = 1 + -(-payload_bytes // REQUEST_UNIT_BYTES)
    if stream.request_units is not None:
        deadline_ns = now_ns + UNITS_WAIT_NS
        units_ns = stream.request_units.take_by(units, now_ns, deadline_ns)
        if units_ns is None:
            return Written([yandex_words.OUT_OF_UNITS] * len(records), 0, deadline_ns)
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
        failure = next((failed[index] for index in indices if index in failed), None)
        if failure is not None:
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
    return Written(results, retained_bytes, stalled_until_ns)


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
