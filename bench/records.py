"""The records every bench sends: 200 B of data, 12-character keys out of 100,000.

The same seed gives the same records in every process, so that the daemon and its peers carry the
same bytes. Data is printable ASCII: NDJSON carries it as text, the Kinesis API as base64, and both
must mean the same record. Knows nothing of sockets or processes.
"""

import base64
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any, TypeVar

T = TypeVar("T")

DATA_BYTES = 200  # bytes of data in each record
KEY_COUNT = 100_000  # distinct partition keys
BATCH_RECORDS = 500  # records: the most that one PutRecords call takes
STREAM = "bench"
UNLIMITED = 1_000_000_000
"""Records/s and bytes/s of a shard that must not be paced. A bucket's level at that rate is still a
machine word, as at a real quota; at 10**12, which stood here until 2026-11-29, each refill was
arithmetic on long integers, a tenth of a PutRecords of 500 on 1,000 shards."""

_USER_AGENT = (
    "Boto3/1.43.117 md/Botocore#1.43.117 ua/2.1 os/linux#6.8.0 md/arch#x86_64 lang/python#3.11.9 "
    "md/pyimpl#CPython m/b,Z,D,e cfg/retry-mode#legacy Botocore/1.43.117"
)
_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=BENCHBENCHBENCHBENCH/20261121/us-east-1/kinesis/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature="
)
_SEED = 20130101
_ALPHABET = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
_BYTE_TO_LETTER = bytes(_ALPHABET[value % len(_ALPHABET)] for value in range(256))


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """`key`: 12 ASCII letters and digits. `data`: printable ASCII, 200 bytes unless asked."""

    key: str
    data: bytes


def make_records(
    record_count: int,
    seed: int = _SEED,
    data_bytes: int = DATA_BYTES,
    key_count: int = KEY_COUNT,
) -> Iterator[BenchRecord]:
    """Yields `record_count` records; the same `seed` gives the same ones."""
    dice = random.Random(seed)
    for _ in range(record_count):
        key = f"key-{dice.randrange(key_count):08d}"
        yield BenchRecord(key, dice.randbytes(data_bytes).translate(_BYTE_TO_LETTER))


def put_records_body(records: Sequence[BenchRecord], stream: str = STREAM) -> bytes:
    """A `PutRecords` request body, spaced as botocore spaces it."""
    entries = ", ".join(
        f'{{"Data": "{base64.b64encode(record.data).decode()}", "PartitionKey": "{record.key}"}}'
        for record in records
    )
    return f'{{"StreamName": "{stream}", "Records": [{entries}]}}'.encode()


def put_records_cbor(records: Sequence[BenchRecord], stream: str = STREAM) -> bytes:
    """The same in CBOR, as the AWS SDKs for Java write it: maps and lists end with a break."""
    entries = b"".join(
        b"\xbf\x64Data%b\x6cPartitionKey%b\xff"
        % (_string(0x40, record.data), _string(0x60, record.key.encode()))
        for record in records
    )
    name = _string(0x60, stream.encode())
    return b"\xbf\x67Records\x9f%b\xff\x6aStreamName%b\xff" % (entries, name)


def _string(kind: int, value: bytes) -> bytes:
    """`kind`: the byte that an empty string of its type is."""
    size = len(value)
    if size < 24:
        return bytes((kind + size,)) + value
    info = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    return bytes((kind + 24 + info,)) + size.to_bytes(1 << info, "big") + value


def put_record_body(record: BenchRecord, stream: str = STREAM) -> bytes:
    """A `PutRecord` request body, spaced as botocore spaces it."""
    data = base64.b64encode(record.data).decode()
    return (
        f'{{"StreamName": "{stream}", "Data": "{data}", "PartitionKey": "{record.key}"}}'.encode()
    )


def ndjson_line(record: BenchRecord) -> bytes:
    """One record line of the Unix socket's NDJSON, newline included."""
    return f'{{"partition_key": "{record.key}", "data": "{record.data.decode()}"}}\n'.encode()


def envelope_line(record: BenchRecord) -> bytes:
    """The same without a key."""
    return b'{"data": "%b"}\n' % record.data


def raw_line(record: BenchRecord) -> bytes:
    """A line whose data is the line itself."""
    return record.data + b"\n"


def raw_json_line(record: BenchRecord) -> bytes:
    """One of the same size that is JSON, with the key in `user.id`."""
    start = f'{{"level": "info", "user": {{"id": "{record.key}", "roles": []}}, "text": "'.encode()
    return start + record.data[: len(record.data) - len(start) - 2] + b'"}\n'


FORMS: dict[str, tuple[Callable[[BenchRecord], bytes], dict[str, str]]] = {
    "envelope": (ndjson_line, {}),
    "envelope_keyless": (envelope_line, {}),
    "raw": (raw_line, {"lines": "raw"}),
    "raw_key": (raw_json_line, {"lines": "raw", "partition_key_field": "user.id"}),
}
"""Forms of lines: how one is written, and what the first line of a connection says of them."""


def request_head(
    operation: str,
    body_bytes: int,
    host: str = "127.0.0.1",
    acknowledge: str = "delivered",
    encoding: str = "json",
    number: int = 0,
) -> bytes:
    """The head that boto3 sends (header set, order and sizes); the signature is made up. Another
    promise than `delivered` is asked for by a header of kdaemon's own. `encoding`: of the body,
    json or cbor. `number`: of the request, whose signature and id are its own.
    """
    own = md5(b"%d" % number, usedforsecurity=False).hexdigest()
    asked = () if acknowledge == "delivered" else (f"X-Kdaemon-Acknowledge: {acknowledge}",)
    lines = (
        "POST / HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: identity",
        f"X-Amz-Target: Kinesis_20131202.{operation}",
        f"Content-Type: application/x-amz-{encoding}-1.1",
        f"User-Agent: {_USER_AGENT}",
        f"X-Amz-Date: 20261121T1200{number // 100 % 60:02}Z",
        f"Authorization: {_AUTHORIZATION}{own}{own}",
        f"amz-sdk-invocation-id: {own[:8]}-{own[8:12]}-{own[12:16]}-{own[16:20]}-{own[20:]}",
        "amz-sdk-request: attempt=1",
        *asked,
        f"Content-Length: {body_bytes}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def put_record_request(record: BenchRecord, stream: str = STREAM, **how: Any) -> bytes:
    """A whole PutRecord. `how`: as of `request_head`."""
    body = put_record_body(record, stream)
    return request_head("PutRecord", len(body), **how) + body


def put_records_request(records: Sequence[BenchRecord], stream: str = STREAM, **how: Any) -> bytes:
    """A whole PutRecords, as above."""
    encode = put_records_cbor if how.get("encoding") == "cbor" else put_records_body
    body = encode(records, stream)
    return request_head("PutRecords", len(body), **how) + body


def in_parts(items: Sequence[T], length: int) -> list[Sequence[T]]:
    """All of them in order, so many in each part; the last one may be shorter."""
    return [items[at : at + length] for at in range(0, len(items), length)]
