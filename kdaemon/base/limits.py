"""Limits of the two services: value, unit, source, date checked.

Sources: [M] botocore 1.43.117 service model kinesis/2013-12-02, [AD] AWS developer guide,
[YS] ydb-platform/ydb source (`put_records_actor.h`), [YD] Yandex Cloud documentation.
All checked 2026-11-21. Limits that differ between services or streams are configured; these are
their defaults and bounds.
"""

KIB = 1024
MIB = 1024 * KIB

RECORDS_PER_CALL_MAX = 500  # records in one PutRecords [M][YS]
REQUEST_BYTES_MAX = (
    5 * MIB
)  # data + partition keys of one PutRecords: Yandex [YS], AWS before 2025-10
REQUEST_BYTES_MAX_AWS = 10 * MIB  # the same, AWS since 2025-10 [M]
RECORD_BYTES_MAX = 1 * MIB  # data + partition key, a stream's default MaxRecordSizeInKiB [M]
RECORD_BYTES_MAX_AWS = 10 * MIB  # the highest MaxRecordSizeInKiB a stream can have [M]
PARTITION_KEY_CHARACTERS_MAX = 256  # Unicode characters at AWS [M]
PARTITION_KEY_BYTES_MAX_YANDEX = 256  # UTF-8 bytes at Yandex [YS]
HASH_KEY_MAX = 2**128 - 1  # explicit hash keys and shard ranges are 0..this, inclusive [M]
HASH_KEY_PATTERN = r"^(0|([1-9]\d{0,38}))$"  # explicit hash key [M]
SHARD_RECORDS_PER_SECOND = 1000  # write quota of a shard [AD][YD]
SHARD_BYTES_PER_SECOND = 1 * MIB  # write quota of a shard, keys included [AD][YD]
SPREAD_KEY_BYTES = 6  # the longest key that is given to a record without one; ours, 2026-11-21
