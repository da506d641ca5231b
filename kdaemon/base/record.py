"""What moves through the daemon: a record, and the service's result for it.

Both are msgspec Structs whose wire names are the Kinesis API's, so that the same object is decoded
from a client's request, queued, and encoded into `PutRecords`, without a copy in between. Knows
nothing of queues, shards or time.
"""

from typing import Annotated

import msgspec

from kdaemon.base.limits import PARTITION_KEY_CHARACTERS_MAX

# Decoding checks it in the same pass, at no cost; a record that code makes is not checked.
PartitionKey = Annotated[str, msgspec.Meta(min_length=1, max_length=PARTITION_KEY_CHARACTERS_MAX)]


class Record(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={
        "data": "Data",
        "partition_key": "PartitionKey",
        "explicit_hash_key": "ExplicitHashKey",
    },
):
    """One record as the service takes it.

    `data`: 0 bytes to the stream's record limit (counted with the key); base64 on the wire.
    `partition_key`: 1-256 characters. `explicit_hash_key`: a decimal in 0..2**128-1, or None.
    Limits are checked at the door (`wire/put.py`, `wire/lines.py`).
    """

    data: bytes
    partition_key: PartitionKey
    explicit_hash_key: str | None = None


class RecordResult(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={
        "sequence_number": "SequenceNumber",
        "shard_id": "ShardId",
        "error_code": "ErrorCode",
        "error_message": "ErrorMessage",
    },
):
    """One entry of a PutRecords answer: delivered (sequence number and shard), or failed (code,
    message).

    Decoded from the service's answer and encoded into the client's as it is. A null and an empty
    string count as absent: YDS sends `"SequenceNumber": ""` with a failure, kinesis-mock sends
    `"ErrorCode": null` with a success.
    """

    sequence_number: str | None = None
    shard_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    @property
    def is_delivered(self) -> bool:
        return bool(self.sequence_number) and not self.error_code
