"""A stream in memory as a door sees it, and requests whose answers can be read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import ANYBODY
from kdaemon.base.record import RecordResult
from kdaemon.base.refused import Refused
from kdaemon.config import StreamConfig
from kdaemon.door.door import Door
from kdaemon.http.request import HttpRequest
from kdaemon.streams import Stream, Streams
from tests.kit import cbor
from tests.kit.clock import HandClock
from tests.kit.endpoints import CONTENT_TYPES
from tests.kit.scripted import ScriptedDriver, scripted_stream

THROUGHPUT = "ProvisionedThroughputExceededException"
SHARD_FULL = RecordResult(error_code=THROUGHPUT, error_message="The shard's queue is full.")


class _Driver(ScriptedDriver):
    """Takes frames as `FakeStream` says."""

    def __init__(self, config: StreamConfig, memory: ByteBudget) -> None:
        super().__init__(config, memory)
        self.full_keys: set[str] = set()
        self.is_memory_full = False
        self.taken: list[Frame] = []

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        full = [
            index
            for index, record in enumerate(frame.records)
            if self.is_memory_full or record.partition_key in self.full_keys
        ]
        if full and is_patient:
            return False
        byte_count = sum(frame.sizes[index] for index in full)
        self.engine.counters.refuse(RefuseReason.FULL, len(full), byte_count)
        if len(full) == len(frame.records):
            return False
        for index in full:
            frame.results[index] = SHARD_FULL
        frame.unsettled -= len(full)
        self.taken.append(frame)
        return True


class _Spool:
    """Takes every frame."""

    def __init__(self) -> None:
        self.stored: list[Frame] = []

    def put(self, target: Stream, frame: Frame, *, is_listed: bool) -> bool:
        self.stored.append(frame)
        return True

    def when_room(self, callback: Callable[[], object]) -> None:
        raise AssertionError("nobody waits here")

    def bury_dead_of(self, stream: str, frame: Frame) -> None:
        raise AssertionError("nothing settles here")


class FakeStream:
    """A real stream over a scripted driver. `full_keys`: whose shard's queue is full; it counts
    what it refuses. `unavailable`, `is_memory_full`: to be set by a test.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._memory = ByteBudget(config.buffer_bytes_max)
        self._driver = _Driver(config, self._memory)
        self._spool = _Spool()
        self.stream = scripted_stream(config, self._driver, self._memory, self._spool)
        self.stream.line_acknowledge = self.stream.acknowledge  # though there is a spool
        self.config = config
        self.counters = self.stream.counters
        self.taken = self._driver.taken
        self.stored = self._spool.stored
        self.withdrawn = self._driver.withdrawn

    @property
    def unavailable(self) -> ServiceError | None:
        return self._driver.engine.unavailable

    @unavailable.setter
    def unavailable(self, why: ServiceError | None) -> None:
        self._driver.engine.unavailable = why

    @property
    def full_keys(self) -> set[str]:
        return self._driver.full_keys

    @full_keys.setter
    def full_keys(self, keys: set[str]) -> None:
        self._driver.full_keys = keys

    @property
    def is_memory_full(self) -> bool:
        return self._driver.is_memory_full

    @is_memory_full.setter
    def is_memory_full(self, is_full: bool) -> None:
        if is_full and not self._driver.is_memory_full:
            assert self._memory.take(self._memory.free_bytes())
        elif not is_full and self._driver.is_memory_full:
            self._memory.give(self._memory.bytes_taken)
        self._driver.is_memory_full = is_full

    @property
    def rejected(self) -> dict[str, int]:
        """Refused records by reason; what is 0 is left out."""
        return {reason.value: n for reason, n in self.counters.rejected.items() if n}


class FakeStreams:
    """Has one stream, by whatever name but "unknown"."""

    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.door = StreamCounters()
        self.routes: dict[str, str] = {}
        self.spellings: Any = None  # whoever asks has all rights
        self.by_spelling: dict[str, Stream] = {}

    def config_of(self, name: str) -> StreamConfig:
        return self.stream.config

    def find(self, name: str) -> Stream | Refused:
        if name == "unknown":
            text = f"Stream {name} is not known."
            return Refused(RefuseReason.UNLISTED, "ResourceNotFoundException", text, True)
        return self.stream.stream

    def known(self, name: str | None) -> Stream | None:
        return None if name in (None, "unknown") else self.stream.stream


def door_over(streams: FakeStreams) -> Door:
    return Door(cast("Streams", streams), HandClock())


class FakeOwner:
    """A connection that keeps answers for the test."""

    is_last_answer = False
    client = 1
    principal = ANYBODY

    def flush_answers(self, request: HttpRequest) -> None:
        pass

    def go_on(self) -> None:
        pass

    def reset(self) -> None:
        raise AssertionError("nobody resets here")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any = field(repr=False)


def make_request(
    path: str, headers: dict[str, str], body: bytes, method: str = "POST"
) -> HttpRequest:
    raw = {name.lower().encode(): value.encode() for name, value in headers.items()}
    return HttpRequest(FakeOwner(), method, path, "", raw, body, False, False)


def read_answer(request: HttpRequest) -> Answer:
    answer = request.answer
    assert answer is not None, "there is no answer yet"
    headers = {name.decode().lower(): value.decode() for name, value in answer.all_headers()}
    is_cbor = answer.content_type == CONTENT_TYPES["cbor"].encode()
    body = cbor.members_of(answer.body) if is_cbor else json.loads(answer.body)
    return Answer(answer.status, headers, body)


def api_request(
    operation: str, members: dict[str, Any], acknowledge: str | None, encoding: str
) -> HttpRequest:
    """A call of the Kinesis API. `encoding`: json, or cbor as the SDKs for Java write it."""
    headers = {
        "Content-Type": CONTENT_TYPES[encoding],
        "X-Amz-Target": f"Kinesis_20131202.{operation}",
    }
    if acknowledge is not None:
        headers["X-Kdaemon-Acknowledge"] = acknowledge
    body = json.dumps(members).encode()
    if encoding == "cbor":
        body = cbor.java(cbor.of_json(members))
    return make_request("/", headers, body)
