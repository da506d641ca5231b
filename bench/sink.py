"""The cheapest stand-in for the service: takes PutRecords, answers at once, and counts.

Run as its own process: `python -m bench.sink [--port 0] [--unix PATH] [--map static|none] [--tls
CERTIFICATE KEY]`; the first line of its output is `ready PORT`. With --tls that port speaks TLS,
and the second one that it names does not. It checks nothing and throttles nothing (that is the
sandbox's work): it exists so that what a bench measures is the process under test.

`--map none` refuses ListShards and Describe* (AccessDeniedException), so a producer predicts
nothing; answers are then prebuilt and records are counted, not parsed. `--map static` describes
16 shards and answers each record with the shard that its key hashes to.
Invariant: the answer has as many entries as the request had records, every sequence number is new.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import Sequence
from functools import partial
from typing import cast

import msgspec
import uvloop

SHARD_COUNT = 16
_HASH_KEYS = 2**128
_KEY_MARK = b'"PartitionKey":'  # once a record: in a string its quotes would be escaped
_CALL_MARK = b"@call@@@@@@@@@@@"
_SEQUENCE_PREFIX = b"4967" + b"1" * 32  # with 16 digits of call and 4 of position: 56 digits
_ENTRIES_MAX = 500
_DENIED = json.dumps({"__type": "AccessDeniedException", "message": "not authorized"}).encode()
_UNKNOWN = json.dumps({"__type": "UnknownOperationException"}).encode()
_HEAD = (
    b"HTTP/1.1 %d %s\r\nx-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\n"
    b"Content-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n"
)


class _Entry(msgspec.Struct, gc=False):
    PartitionKey: str
    ExplicitHashKey: str | None = None


class _PutRecords(msgspec.Struct, gc=False):
    Records: list[_Entry]


class Answers:
    """Answer bodies, prebuilt; only the call's number is filled in. Pure but for its counters."""

    def __init__(self, *, has_map: bool) -> None:
        self.has_map = has_map
        self.record_count = 0
        self.call_count = 0
        self._shard_of_key: dict[str, int] = {}
        self._decode_many = msgspec.json.Decoder(_PutRecords).decode
        self._decode_one = msgspec.json.Decoder(_Entry).decode
        self._bodies: dict[int, bytes] = {}
        # fragments[position][shard]: one whole entry but for the number of the call
        self._fragments = [
            [_entry(position, shard) for shard in range(SHARD_COUNT)]
            for position in range(_ENTRIES_MAX)
        ]
        self._described = {
            b"ListShards": json.dumps({"Shards": _shards()}).encode(),
            b"DescribeStreamSummary": json.dumps({"StreamDescriptionSummary": _summary()}).encode(),
            b"DescribeStream": json.dumps(
                {"StreamDescription": {**_summary(), "Shards": _shards(), "HasMoreShards": False}},
            ).encode(),
        }

    def answer(self, operation: bytes, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        if operation == b"PutRecords":
            return 200, self._put_records(body)
        if operation == b"PutRecord":
            return 200, self._put_record(body)
        if operation in self._described:
            return (200, self._described[operation]) if self.has_map else (400, _DENIED)
        return 400, _UNKNOWN

    def _put_records(self, body: bytes) -> bytes:
        self.call_count += 1
        if self.has_map:
            records = self._decode_many(body).Records
            self.record_count += len(records)
            template = self._join([self._shard(r.PartitionKey, r.ExplicitHashKey) for r in records])
        else:
            entry_count = body.count(_KEY_MARK)
            self.record_count += entry_count
            template = self._bodies.get(entry_count) or self._prebuild(entry_count)
        return template.replace(_CALL_MARK, b"%016d" % self.call_count)

    def _put_record(self, body: bytes) -> bytes:
        self.call_count += 1
        self.record_count += 1
        shard = 0
        if self.has_map:
            record = self._decode_one(body)
            shard = self._shard(record.PartitionKey, record.ExplicitHashKey)
        entry = self._fragments[0][shard].replace(_CALL_MARK, b"%016d" % self.call_count)
        return entry[:-1] + b',"EncryptionType":"NONE"}'

    def _shard(self, key: str, explicit_hash_key: str | None) -> int:
        if explicit_hash_key is not None:
            return int(explicit_hash_key) * SHARD_COUNT // _HASH_KEYS
        shard = self._shard_of_key.get(key)
        if shard is None:
            digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
            shard = int.from_bytes(digest, "big") * SHARD_COUNT // _HASH_KEYS
            if len(self._shard_of_key) < 1_000_000:
                self._shard_of_key[key] = shard
        return shard

    def _prebuild(self, entry_count: int) -> bytes:
        body = self._join([position % SHARD_COUNT for position in range(entry_count)])
        self._bodies[entry_count] = body
        return body

    def _join(self, shards: Sequence[int]) -> bytes:
        entries = b",".join(
            [fragments[shard] for fragments, shard in zip(self._fragments, shards, strict=False)],
        )
        return b'{"FailedRecordCount":0,"EncryptionType":"NONE","Records":[' + entries + b"]}"


class SinkProtocol(asyncio.Protocol):
    """HTTP/1.1 by hand: keep-alive, Content-Length, pipelining in order. One per connection."""

    def __init__(self, answers: Answers, latency_s: float) -> None:
        self._answers = answers
        self._latency_s = latency_s
        self._pieces: list[bytes] = []
        self._held = 0  # bytes in _pieces
        self._needed = 0  # bytes of the request under way, head included; 0: its head is not whole
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but no subclass

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._needed:
            return
        buffer = b"".join(self._pieces) if len(self._pieces) > 1 else data
        buffer = self._take_requests(buffer)
        self._pieces = [buffer] if buffer else []
        self._held = len(buffer)

    def _take_requests(self, buffer: bytes) -> bytes:
        """Answers every whole request in `buffer`; returns what is left of it."""
        while True:
            self._needed = 0
            head_end = buffer.find(b"\r\n\r\n") + 4
            if head_end == 3:
                return buffer
            head = buffer[:head_end].lower()
            body_bytes = 0
            at = head.find(b"\r\ncontent-length:")
            if at >= 0:
                body_bytes = int(head[at + 17 : head.find(b"\r\n", at + 17)])
            self._needed = head_end + body_bytes
            if len(buffer) < self._needed:
                return buffer
            self._answer(buffer, head, head_end, self._needed)
            buffer = buffer[self._needed :]

    def _answer(self, buffer: bytes, head: bytes, head_end: int, end: int) -> None:
        if head.startswith(b"get /count"):
            answers = self._answers
            counts = {"records": answers.record_count, "calls": answers.call_count}
            self._write(200, json.dumps(counts).encode())
            return
        at = head.find(b"kinesis_20131202.")
        operation = buffer[at + 17 : head.find(b"\r\n", at)] if at >= 0 else b""
        status, body = self._answers.answer(operation, buffer[head_end:end])
        if self._latency_s:
            # equal delays fire in the order they were asked for: pipelined answers keep theirs
            asyncio.get_running_loop().call_later(
                self._latency_s, partial(self._write, status, body)
            )
        else:
            self._write(status, body)

    def _write(self, status: int, body: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            reason = b"OK" if status == 200 else b"Bad Request"
            self._transport.write(_HEAD % (status, reason, len(body)) + body)


def _entry(position: int, shard: int) -> bytes:
    sequence = _SEQUENCE_PREFIX + _CALL_MARK + b"%04d" % position
    return b'{"SequenceNumber":"%b","ShardId":"shardId-%012d"}' % (sequence, shard)


def _shards() -> list[dict[str, object]]:
    width = _HASH_KEYS // SHARD_COUNT
    return [
        {
            "ShardId": f"shardId-{index:012d}",
            "HashKeyRange": {
                "StartingHashKey": str(index * width),
                "EndingHashKey": str((index + 1) * width - 1),
            },
            "SequenceNumberRange": {"StartingSequenceNumber": str(10**55 + index)},
        }
        for index in range(SHARD_COUNT)
    ]


def _summary() -> dict[str, object]:
    return {
        "StreamName": "bench",
        "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/bench",
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_000.0,
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
        "OpenShardCount": SHARD_COUNT,
        "ConsumerCount": 0,
        "MaxRecordSizeInKiB": 1024,
    }


async def serve(
    port: int,
    unix_path: str | None,
    answers: Answers,
    latency_s: float,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Listens until it is cancelled."""
    loop = asyncio.get_running_loop()
    make = partial(SinkProtocol, answers, latency_s)
    server = await loop.create_server(make, "127.0.0.1", port, backlog=256, ssl=tls)
    servers = [server]
    if unix_path is not None:
        await loop.create_unix_server(make, unix_path)
    if tls is not None:
        servers.append(await loop.create_server(make, "127.0.0.1", 0))
    ports = (str(each.sockets[0].getsockname()[1]) for each in servers)
    print(f"ready {' '.join(ports)}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes PutRecords, answers at once, counts.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unix", help="also listen on this Unix socket")
    parser.add_argument("--map", choices=("static", "none"), default="static")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every answer")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files")
    options = parser.parse_args()
    context = None
    if options.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
    answers = Answers(has_map=options.map == "static")
    uvloop.run(serve(options.port, options.unix, answers, options.latency_ms / 1000, context))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
