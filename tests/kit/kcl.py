"""A reader as KCL is one: takes aggregates apart, and drops whole those that do not belong.

KCL's rule (services.md C.1): if the hash key of one record in an aggregate lies outside the range
of the shard that the aggregate is in, the aggregate is discarded with no error. The message is
parsed with the schema that aws-kinesis-agg ships, not with code of ours.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from hashlib import md5

from kdaemon.base.record import Record
from kdaemon.sandbox.shards import Stream

_path = list(sys.path)
from aws_kinesis_agg.deaggregator import (  # type: ignore[import-untyped]  # noqa: E402
    messages_pb2,
)

sys.path[:] = _path  # it puts itself in front, with modules of common names

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16


def inner_records(data: bytes) -> list[Record] | None:
    """The records of an aggregate; None for data that is none."""
    if not data.startswith(MAGIC):
        return None
    body, digest = data[len(MAGIC) : -DIGEST_BYTES], data[-DIGEST_BYTES:]
    if md5(body, usedforsecurity=False).digest() != digest:
        return None
    parsed = messages_pb2.AggregatedRecord.FromString(body)
    keys, hash_keys = parsed.partition_key_table, parsed.explicit_hash_key_table
    return [
        Record(
            each.data,
            keys[each.partition_key_index],
            hash_keys[each.explicit_hash_key_index]
            if each.HasField("explicit_hash_key_index")
            else None,
        )
        for each in parsed.records
    ]


def hash_key_of(record: Record) -> int:
    if record.explicit_hash_key is not None:
        return int(record.explicit_hash_key)
    digest = md5(record.partition_key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


@dataclass
class Read:
    """What a stream holds, as such a reader sees it. `kept`: user records, by data; `dropped`: the
    same of aggregates that it discards. `widths`: how many each aggregate carries.
    """

    kept: Counter[bytes] = field(default_factory=Counter)
    dropped: Counter[bytes] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    plain: int = 0
    aggregate_bytes_max: int = 0  # of the largest: data + partition key

    def take(self, record: Record, first_hash_key: int, last_hash_key: int) -> None:
        """One record of a shard with this range (both ends inclusive)."""
        inner = inner_records(record.data)
        if inner is None:
            self.kept[record.data] += 1
            self.plain += 1
            return
        explicit = {each.explicit_hash_key is not None for each in inner}
        assert len(explicit) == 1, "kinds are mixed: other readers would mistake hash keys"
        self.widths.append(len(inner))
        size = len(record.data) + len(record.partition_key.encode())
        self.aggregate_bytes_max = max(self.aggregate_bytes_max, size)
        is_kept = all(first_hash_key <= hash_key_of(each) <= last_hash_key for each in inner)
        (self.kept if is_kept else self.dropped).update(each.data for each in inner)


def read(stream: Stream) -> Read:
    """Every record of every shard, closed ones included, by the range that the shard has."""
    found = Read()
    for shard in stream.shards:
        for stored in shard.log:
            found.take(stored.record, shard.starting_hash_key, shard.ending_hash_key)
    return found
