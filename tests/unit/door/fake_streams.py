"""A stream in memory as a door sees it, and requests whose answers can be read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import RECORD_BYTES_MAX
from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import ANYBODY
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.refused import Refused
from kdaemon.config import StreamConfig
from kdaemon.door.door import Door
from kdaemon.http.request import HttpRequest
from kdaemon.streams import Streams
from kdaemon.wire.put import PutLimits
from tests.kit import cbor
from tests.kit.endpoints import CONTENT_TYPES

THROUGHPUT = "ProvisionedThroughputExceededException"
SHARD_FULL = RecordResult(error_code=THROUGHPUT, error_message="The shard's queue is full.")


class FakeStream:
    """Takes frames, as a StreamDriver would. `full_keys`: whose shard's queue is full; it counts
    what it refuses. `unavailable`, `line_acknowledge`: to be set by a test.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.acknowledge = Acknowledge(config.acknowledge)
        self.line_acknowledge = self.acknowledge
        self.deadline_ns = config.deadline_ms * 1_000_000
        self.record_bytes_max = RECORD_BYTES_MAX
        self.unavailable: ServiceError | None = None
        self.hold: ServiceError | None = None
        self.is_auto = False
        self.is_listed = True
        self.has_word = True
        self.was_missing = False
        self.has_spool = True
        self.key_bytes_max: int | None = None
        self.encryption_type = "NONE"
        self.memory = ByteBudget(config.buffer_bytes_max)
        self.withdrawn: list[Frame] = []
        self.full_keys: set[str] = set()
        self.is_memory_full = False
        self.taken: list[Frame] = []
        self.stored: list[Frame] = []
        self.counters = StreamCounters()

    @property
    def limits(self) -> PutLimits:
        return PutLimits(self.record_bytes_max, self.config.request_bytes_max)

    def refusal(self) -> ServiceError | None:
        return self.hold

    def withdraw(self, frame: Frame) -> None:
        self.withdrawn.append(frame)

    def dry_run(
        self, records: list[Record], told: Callable[[ServiceError], object], arn: str | None
    ) -> None:
        told(ServiceError("DryRunOperationException", "It would have been taken.", status=400))

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        full = [
            index
            for index, record in enumerate(frame.records)
            if self.is_memory_full or record.partition_key in self.full_keys
        ]
        if full and is_patient:
            return False
        byte_count = sum(frame.sizes[index] for index in full)
        self.counters.refuse(RejectReason.FULL, len(full), byte_count)
        if len(full) == len(frame.records):
            return False
        for index in full:
            frame.results[index] = SHARD_FULL
        frame.unsettled -= len(full)
        self.taken.append(frame)
        return True

    def store(self, frame: Frame) -> Refused | None:
        self.stored.append(frame)
        return None

    def bury_dead_of(self, frame: Frame) -> None:
        raise AssertionError("nothing settles here")

    def has_room(self, footprint_bytes: int, client: int) -> bool:
        return not self.is_memory_full

    def when_room(self, callback: Callable[[], object]) -> None:
        raise AssertionError("nobody waits here")

    def reject(self, reason: RejectReason, record_count: int, byte_count: int) -> None:
        self.counters.refuse(reason, record_count, byte_count)

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

    def config_of(self, name: str) -> StreamConfig:
        return self.stream.config

    def find(self, name: str) -> FakeStream | Refused:
        if name == "unknown":
            text = f"Stream {name} is not known."
            return Refused(RejectReason.UNLISTED, "ResourceNotFoundException", text, True)
        return self.stream

    def known(self, name: str | None) -> FakeStream | None:
        return None if name in (None, "unknown") else self.stream


class FakeClock:
    def now_ns(self) -> int:
        return 0


def door_over(streams: FakeStreams) -> Door:
    return Door(cast("Streams", streams), FakeClock())


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
