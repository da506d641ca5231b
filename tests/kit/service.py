"""A service in the test's own process that answers as it is told, and keeps nothing.

For tests of what the daemon leaves behind: whatever holds a client's data after an exchange with
it is the daemon's. Knows PutRecords and ListShards; everything else is refused.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Said = tuple[int, object]
"""Status and members of an answer."""

Answering = Callable[[list[bytes]], Said | None]
"""What is said of these data. None: nothing, and the connection is reset."""


def take_all(data: list[bytes]) -> Said:
    results = [{"SequenceNumber": "1", "ShardId": "shardId-000000000000"} for _ in data]
    return 200, {"FailedRecordCount": 0, "Records": results}


def refuse(code: str, status: int = 400) -> Answering:
    """All of a call, by this code."""
    return lambda _: (status, {"__type": code, "message": "No."})


def fail_records(code: str) -> Answering:
    """Each record of a call, by this code."""

    def answer(data: list[bytes]) -> Said:
        results = [{"ErrorCode": code, "ErrorMessage": "No."} for _ in data]
        return 200, {"FailedRecordCount": len(data), "Records": results}

    return answer


def reset(_data: list[bytes]) -> None:
    """The connection ends in place of an answer."""


class Service:
    """`answers`: how PutRecords is answered; `is_silent`: not at all, until it is set back."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: Answering = take_all
        self.is_silent = False
        self._connections: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    async def listen(self) -> None:
        """From now on it can be reached, always at the same place."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def go_away(self) -> None:
        """Nobody listens there, and all connections end."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for transport in list(self._connections):
            transport.abort()

    def connected(self, transport: asyncio.Transport) -> None:
        self._connections.add(transport)

    def disconnected(self, transport: asyncio.Transport) -> None:
        self._connections.discard(transport)

    def say(self, operation: str, body: bytes) -> Said | None:
        if operation == "ListShards":
            hash_keys = {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)}
            shard = {
                "ShardId": "shardId-000000000000",
                "HashKeyRange": hash_keys,
                "SequenceNumberRange": {"StartingSequenceNumber": "1"},
            }
            return 200, {"Shards": [shard]}
        if operation != "PutRecords":
            return 400, {"__type": "AccessDeniedException", "message": "No."}
        members = json.loads(body)
        if members.get("DryRun"):
            return 400, {"__type": "DryRunOperationException", "message": "It would have."}
        return self.answers([base64.b64decode(each["Data"]) for each in members["Records"]])


class _Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._service.connected(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._service.disconnected(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._transport is None:
            return
        headers = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        if len(body) < int(headers["content-length"]):
            return
        self._buffer = b""
        if self._service.is_silent:
            return
        operation = head.partition(b"Kinesis_20131202.")[2].partition(b"\r\n")[0].decode()
        said = self._service.say(operation, body)
        if said is None:
            self._transport.abort()
            return
        status, members = said
        text = json.dumps(members).encode()
        self._transport.write(
            b"HTTP/1.1 %d Said\r\nContent-Type: application/x-amz-json-1.1\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (status, len(text), text)
        )


@asynccontextmanager
async def answering() -> AsyncIterator[Service]:
    """One on loopback."""
    service = Service()
    await service.listen()
    try:
        yield service
    finally:
        await service.go_away()
