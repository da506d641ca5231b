"""One PutRecords call, for `bench.instructions`: what it costs to encode, sign, send and read.

The service is a protocol in the same process that answers with bytes made before; it reads whole
requests by their length; with its socket and the loop it costs some 30,000 instructions a call.
Calls go over loopback, one after another: with several at once the turns of the loop would differ
from run to run.
"""

import asyncio
import os
from itertools import islice
from typing import Any, cast

from bench.records import make_records

CALLS = {"call": 1, "call_500": 500}
"""Works, by how many records a call of each has. They count instructions of a call."""

CALLS_A_ROUND = {"call": 4_096, "call_500": 256}  # the start's own differences are divided by them

_LIMIT_S = 600.0  # valgrind is slow, and slower on a busy machine

_HEAD = (
    b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\n"
    b"x-amz-id-2: 0123456789abcdef0123456789abcdef0123456789abcdef\r\n"
    b"Date: Sat, 28 Nov 2026 00:00:00 GMT\r\nContent-Type: application/x-amz-json-1.1\r\n"
    b"Content-Length: %d\r\n\r\n"
)
_ENTRY = b'{"SequenceNumber":"%056d","ShardId":"shardId-000000000007"}'


class _Service(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._got = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        got = self._got
        got += data
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = got[:end].lower()
        length = int(head[head.index(b"content-length:") + 15 :].partition(b"\r")[0])
        if len(got) >= end + 4 + length:
            got.clear()
            assert self._transport is not None
            self._transport.write(self._answer)


async def carry(name: str, rounds: int) -> None:
    """Makes so many rounds of calls."""
    from kdaemon.base.description import StreamTarget
    from kdaemon.base.record import Record
    from kdaemon.send.client import ServiceClient
    from kdaemon.send.settings import ClientSettings

    for variable in [each for each in os.environ if each.startswith("AWS_")]:
        del os.environ[variable]
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    record_count = CALLS[name]
    entries = b",".join(_ENTRY % number for number in range(record_count))
    body = b'{"FailedRecordCount":0,"EncryptionType":"NONE","Records":[' + entries + b"]}"
    answer = _HEAD % len(body) + body
    server = await asyncio.get_running_loop().create_server(
        lambda: _Service(answer), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    settings = ClientSettings(
        endpoint_url=f"http://127.0.0.1:{port}",
        region="us-east-1",
        proxy_url="",
        connect_timeout_s=_LIMIT_S,
        call_timeout_s=_LIMIT_S,
    )
    client = await ServiceClient.open(settings)
    target = StreamTarget("bench")
    records: Any = [
        Record(each.data, each.key) for each in islice(make_records(record_count), record_count)
    ]

    for _ in range(rounds * CALLS_A_ROUND[name]):
        answered = await client.put_records(target, records, lambda: True)
        assert len(answered.records) == record_count
    await client.aclose()
    server.close()
