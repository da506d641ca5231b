"""A stand-in for the service that remembers what it took, and fails by a seeded script.

Shares no code with kdaemon and none with its sandbox: HTTP, base64, MD5 and JSON from the standard
library. It answers PutRecords, ListShards and DescribeStreamSummary. Fair and foul weather take
turns; the dice decide which kind and for how long. Every record it takes is made anew from its id
and compared. It keeps no quotas: what throttles here is the weather. Now and then its shards are
others, and the answers and ListShards say so.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from tests.crash.records import Source, ident_of, is_poison, read_ident, shown

SHARD_COUNTS = (16, 12)  # of the first map of the shards, of the second, of the first again
RESHARD_FRACTION = 0.3  # of the times of fair weather begin with another map
HASH_KEYS = 2**128
FAIR_S = (0.2, 1.2)  # how long fair weather lasts
STRANGERS_MAX = 20  # of those a report shows
PARTIAL_FRACTION = 0.3  # of records, in weather that fails some
HOT_SHARDS = 8  # that take nothing while they are hot


class Weather(Enum):
    """What a call meets. "Taken" ones were written although the answer does not say so."""

    FAIR = "fair"
    SLOW = "slow"
    PARTIAL = "partial failures"
    THROTTLE = "call throttled"
    HOT = "some shards throttle all, the others take all"
    ERROR_500 = "500, taken or not"
    UNAVAILABLE = "503, not taken"
    RESET_BEFORE = "reset, not taken"
    RESET_AFTER = "reset, taken"
    TORN = "half an answer, taken"
    HANG = "no answer, taken"
    UNREADABLE = "200 that cannot be read, taken"
    WRONG_COUNT = "200 with a result too few, taken"
    OUTAGE = "outage"


FOUL_S: Mapping[Weather, tuple[float, float]] = {  # how long each lasts, in seconds
    Weather.SLOW: (0.2, 0.8),
    Weather.PARTIAL: (0.2, 1.0),
    Weather.THROTTLE: (0.1, 0.5),
    Weather.HOT: (1.0, 3.0),  # until what is left on disk for them is more than their queues take
    Weather.ERROR_500: (0.1, 0.5),
    Weather.UNAVAILABLE: (0.1, 0.5),
    Weather.RESET_BEFORE: (0.1, 0.3),
    Weather.RESET_AFTER: (0.1, 0.3),
    Weather.TORN: (0.1, 0.3),
    Weather.HANG: (0.05, 0.1),
    Weather.UNREADABLE: (0.1, 0.3),
    Weather.WRONG_COUNT: (0.1, 0.3),
    Weather.OUTAGE: (0.5, 3.0),
}
_UNTOLD = {  # taken, and the daemon cannot know
    Weather.ERROR_500,
    Weather.RESET_AFTER,
    Weather.TORN,
    Weather.HANG,
    Weather.UNREADABLE,
    Weather.WRONG_COUNT,
}


class Call:
    """One PutRecords that wrote something. Times are `time.monotonic`'s seconds.

    `is_untold`: the answer, if any, did not say that it was taken; `untold_ids`: the same of single
    records. `answered_at` is infinite until the answer is on its way.
    """

    __slots__ = ("answered_at", "is_untold", "record_count", "untold_ids", "written_at")

    def __init__(self, record_count: int, *, is_untold: bool) -> None:
        self.written_at = time.monotonic()
        self.answered_at = math.inf
        self.record_count = record_count
        self.is_untold = is_untold
        self.untold_ids: set[int] = set()


class Oracle:
    """The service, on a port of its own from `start` to `stop`.

    `taken`: record id -> the call that wrote it last. `repeats`: (id, the call that wrote it
    before, the call that wrote it again). `strangers`: records that were never sent, or not so.
    `turned`: records of an ordered stream that came after a later one of their client and key.
    """

    def __init__(
        self, sources: Mapping[int, Source], seed: int, ordered: frozenset[str] = frozenset()
    ) -> None:
        self.sources = sources
        self.taken: dict[int, Call] = {}
        self.repeats: list[tuple[int, Call, Call]] = []
        self.calls: list[Call] = []
        self.attempt_count = 0  # records in PutRecords calls that were read whole
        self.strangers: list[str] = []
        self.stranger_count = 0
        self.turned: list[str] = []
        self.turned_count = 0
        self.weather = Weather.FAIR
        self._hot_shards: frozenset[str] = frozenset()
        self.map_count = 0  # of the maps of the shards before this one
        self.weather_calls: Counter[Weather] = Counter()
        self.before_answer: Callable[[], object] | None = None  # once, with a call that was taken
        self._dice = random.Random(f"oracle {seed}")
        self._ordered = ordered
        self._last: dict[tuple[int, str], int] = {}  # of ordered streams, by client and key
        self._sequence = 0
        self._server: asyncio.Server | None = None
        self._changing: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> int:
        """Listens, and lets the weather change; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**16)
        self._changing = asyncio.create_task(self._change())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def clear_up(self) -> None:
        """Fair weather from now on."""
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.wait([self._changing])
            self._changing = None
        self.weather = Weather.FAIR

    async def stop(self) -> None:
        await self.clear_up()
        if self._server is not None:
            self._server.close()
        self._abort_all()
        if self._connections:
            await asyncio.wait(list(self._connections))
        if self._server is not None:
            await self._server.wait_closed()

    # The weather

    async def _change(self) -> None:
        foul = list(FOUL_S)
        while True:
            self.weather = Weather.FAIR
            if self._dice.random() < RESHARD_FRACTION:
                self.reshard()
            await asyncio.sleep(self._dice.uniform(*FAIR_S))
            self._begin(self._dice.choice(foul))
            if self.weather is Weather.OUTAGE:
                self._abort_all()
            await asyncio.sleep(self._dice.uniform(*FOUL_S[self.weather]))

    def _begin(self, weather: Weather) -> None:
        """Another weather; each has hot shards of its own."""
        self.weather = weather
        self._hot_shards = frozenset(
            self._name(index) for index in self._dice.sample(range(self._shard_count), HOT_SHARDS)
        )

    def reshard(self) -> None:
        """All its shards are closed, and others have their ranges."""
        self.map_count += 1

    def _abort_all(self) -> None:
        for writer in self._connections.values():
            _reset(writer)

    # Connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            while await self._serve_request(reader, writer):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            del self._connections[task]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Reads and answers one request; False when the connection is done with."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.partition(": ")[::2] for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        refusal = self._refusal(headers)
        if refusal is not None:
            self._answer(writer, 400, refusal)
            return True
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        weather = self.weather
        if weather is Weather.OUTAGE:
            _reset(writer)
            return False
        if operation != "putrecords":
            self._answer(writer, *self._control(operation, json.loads(body), weather))
            return True
        self.weather_calls[weather] += 1
        return await self._put_records(reader, writer, json.loads(body), weather)

    def _refusal(self, headers: Mapping[str, str]) -> bytes | None:
        """Of a call, whatever it asks; None: it is looked at. There is none here."""

    def _answer(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.1\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    # PutRecords

    async def _put_records(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: dict[str, Any],
        weather: Weather,
    ) -> bool:
        stream, entries = request["StreamName"], request["Records"]
        self.attempt_count += len(entries)
        if weather is Weather.RESET_BEFORE:
            _reset(writer)
            return False
        if weather is Weather.UNAVAILABLE:
            self._answer(writer, 503, b"")
            return True
        if weather is Weather.THROTTLE:
            self._answer(writer, 400, _error("ProvisionedThroughputExceededException"))
            return True
        ids = [self._identify(stream, entry) for entry in entries]
        if any(record_id is None for record_id in ids):
            self._answer(writer, 400, _error("ValidationException"))
            return True
        call = Call(len(ids), is_untold=weather in _UNTOLD)
        answer = self._write(call, entries, ids, weather)
        if self.before_answer is not None and weather in {Weather.FAIR, Weather.SLOW}:
            hook, self.before_answer = self.before_answer, None
            hook()
        is_kept = await self._tell(reader, writer, weather, answer)
        call.answered_at = time.monotonic()
        return is_kept

    def _identify(self, stream: str, entry: dict[str, Any]) -> int | None:
        """A record's id, after comparing all of it; None if the service refuses it for itself.
        A stranger is written down, taken, and has a negative id.
        """
        data = base64.b64decode(entry["Data"], validate=True)
        try:
            index, number = read_ident(data)
            source = self.sources[index]
        except (ValueError, KeyError):
            return self._stranger(f"{data[:40]!r}: no record of ours")
        if number >= source.sent_count:
            return self._stranger(f"{index}.{number}: not sent")
        sample = source.make(number)
        given = (entry["PartitionKey"], entry.get("ExplicitHashKey"))
        if data != sample.data or stream != source.stream:
            return self._stranger(f"{index}.{number}: other data, or stream {stream}")
        is_same_key = given == (sample.key, sample.explicit_hash_key) if sample.key else all(given)
        if not is_same_key:
            return self._stranger(f"{index}.{number}: other keys: {given}")
        record_id = source.id_of(number)
        return None if is_poison(record_id) else record_id

    def _stranger(self, text: str) -> int:
        self.stranger_count += 1
        if len(self.strangers) < STRANGERS_MAX:
            self.strangers.append(text)
        return -self.stranger_count

    def _write(
        self, call: Call, entries: list[dict[str, Any]], ids: list[int | None], weather: Weather
    ) -> bytes:
        """Takes what this weather takes; the answer to it, if there is to be one."""
        if weather is Weather.ERROR_500:
            if self._dice.random() < 0.5:
                self._take(call, ids)
            return _error("InternalFailure")
        results: list[dict[str, str]] = []
        is_partial = weather is Weather.PARTIAL
        hot = self._hot_shards if weather is Weather.HOT else frozenset()
        for entry, record_id in zip(entries, ids, strict=True):
            assert record_id is not None
            roll = self._dice.random() if is_partial else 1.0
            shard = self._shard(entry)
            if roll < PARTIAL_FRACTION / 2 or shard in hot:
                code = "ProvisionedThroughputExceededException"
                results.append({"ErrorCode": code, "ErrorMessage": "slow down"})
                continue
            if roll < PARTIAL_FRACTION:
                if roll < PARTIAL_FRACTION * 3 / 4:
                    self._take(call, [record_id], is_untold=True)
                results.append({"ErrorCode": "InternalFailure", "ErrorMessage": "ours"})
                continue
            self._take(call, [record_id])
            self._sequence += 1
            results.append({"SequenceNumber": f"{self._sequence:056d}", "ShardId": shard})
        failed = sum("ErrorCode" in result for result in results)
        if weather is Weather.WRONG_COUNT:
            results.pop()
        return json.dumps({"FailedRecordCount": failed, "Records": results}).encode()

    def _take(self, call: Call, ids: list[int | None], *, is_untold: bool = False) -> None:
        """`is_untold`: its result will not say so."""
        if not self.calls or self.calls[-1] is not call:
            self.calls.append(call)
        taken = self.taken
        for record_id in ids:
            assert record_id is not None
            if is_untold:
                call.untold_ids.add(record_id)
            earlier = taken.get(record_id)
            if earlier is not None:
                self.repeats.append((record_id, earlier, call))
            elif self._ordered and record_id > 0:
                self._look_at_order(record_id)
            taken[record_id] = call

    def _look_at_order(self, record_id: int) -> None:
        index, number = ident_of(record_id)
        source = self.sources[index]
        key = source.make(number).key if source.stream in self._ordered else ""
        if not key:
            return
        last = self._last.get((index, key), -1)
        if number > last:
            self._last[index, key] = number
            return
        self.turned_count += 1
        if len(self.turned) < STRANGERS_MAX:
            self.turned.append(f"{shown(record_id)} of {key!r} after {last}")

    async def _tell(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        weather: Weather,
        answer: bytes,
    ) -> bool:
        """The answer, as the weather lets it through; False when the connection is done with."""
        match weather:
            case Weather.RESET_AFTER:
                _reset(writer)
                return False
            case Weather.TORN:
                writer.write(b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(answer))
                writer.write(answer[: len(answer) // 2])
                return False
            case Weather.HANG:
                await reader.read(1)  # until the daemon gives up or is gone
                return False
            case Weather.SLOW:
                await asyncio.sleep(self._dice.uniform(0.05, 0.4))
                self._answer(writer, 200, answer)
            case Weather.ERROR_500:
                self._answer(writer, 500, answer)
            case Weather.UNREADABLE:
                self._answer(writer, 200, b"<html>welcome</html>")
            case _:
                self._answer(writer, 200, answer)
        return True

    # What a daemon asks at its start

    def _control(
        self, operation: str, request: dict[str, Any], weather: Weather
    ) -> tuple[int, bytes]:
        if weather in {Weather.THROTTLE, Weather.PARTIAL}:
            return 400, _error("LimitExceededException")
        if weather in {Weather.ERROR_500, Weather.UNAVAILABLE}:
            return 503, b""
        stream = request["StreamName"]
        if operation == "listshards":
            return 200, json.dumps({"Shards": self._shards()}).encode()
        if operation == "describestreamsummary":
            return 200, self._summary(stream)
        return 400, _error("UnknownOperationException")

    # Its shards

    @property
    def _shard_count(self) -> int:
        return SHARD_COUNTS[self.map_count % len(SHARD_COUNTS)]

    def _name(self, index: int) -> str:
        return f"shardId-{100 * self.map_count + index:012d}"

    def _shard(self, entry: dict[str, Any]) -> str:
        explicit = entry.get("ExplicitHashKey")
        if explicit is not None:
            hash_key = int(explicit)
        else:
            key = entry["PartitionKey"].encode()
            hash_key = int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest(), "big")
        return self._name(hash_key * self._shard_count // HASH_KEYS)

    def _shards(self) -> list[dict[str, object]]:
        firsts = [-(-index * HASH_KEYS // self._shard_count) for index in range(self._shard_count)]
        ends = [*firsts[1:], HASH_KEYS]
        return [
            {
                "ShardId": self._name(index),
                "HashKeyRange": {"StartingHashKey": str(first), "EndingHashKey": str(end - 1)},
                "SequenceNumberRange": {"StartingSequenceNumber": "1"},
            }
            for index, (first, end) in enumerate(zip(firsts, ends, strict=True))
        ]

    def _summary(self, stream: str) -> bytes:
        summary = {
            "StreamName": stream,
            "StreamARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/{stream}",
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1_700_000_000.0,
            "EnhancedMonitoring": [],
            "OpenShardCount": self._shard_count,
            "MaxRecordSizeInKiB": 1024,
        }
        return json.dumps({"StreamDescriptionSummary": summary}).encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a TCP reset, as a proxy or a host that dies does."""
    if not writer.is_closing():
        option = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        writer.transport.abort()


def _error(code: str) -> bytes:
    return json.dumps({"__type": code, "message": f"{code} of the crash test"}).encode()
