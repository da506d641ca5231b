"""A transport that writes into memory, and what tests of listeners share."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import Principal
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.refused import Refused
from kdaemon.config import StreamConfig
from kdaemon.door.admission import GAVE_WAY, WAITED_FOR, Admission
from kdaemon.door.block import Block
from kdaemon.door.door import Door
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.line_forms import Asked, form_of
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.routes import make_handler
from kdaemon.door.session import NdjsonSession
from kdaemon.door.spoken import lines_to
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.opening import Lines, Opening
from kdaemon.streams import Streams
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.line_shapes import Parsed
from tests.kit.clock import HandClock
from tests.kit.scripted import ScriptedDriver, scripted_stream


class FakeTransport(asyncio.Transport):
    """Delivers nothing by itself: a test calls the protocol. `is_full` makes the client slow."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self._is_reading = True
        self.has_written_eof = False
        self.abort_count = 0
        self.is_closed = False
        self.write_count = 0
        self.protocol: Any = None
        self.pauses_when_written: int | None = None  # bytes; None: the client reads everything

    def write(self, data: Any) -> None:
        assert not self.has_written_eof, "written after the end"
        assert not self.is_closed, "written after close"
        self.written += data
        self.write_count += 1
        if self.pauses_when_written is not None and len(self.written) > self.pauses_when_written:
            self.pauses_when_written = None
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.take().splitlines()]

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_written_eof = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True
        self.abort_count += 1

    def pause_reading(self) -> None:
        assert self._is_reading
        self._is_reading = False

    def resume_reading(self) -> None:
        assert not self._is_reading
        self._is_reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    # Methods, because a type checker takes an attribute for unchanged between two asserts.

    def reads(self) -> bool:
        return self._is_reading

    def has_ended(self) -> bool:
        return self.is_closed or self.has_written_eof


@dataclass
class Submitted:
    stream: str
    records: list[Record]
    numbers_of_try: int
    frame: Frame
    on_settled: Callable[[Frame], object]

    def settle(self, *results: RecordResult) -> None:
        self.frame.results = list(results) or [DELIVERED] * len(self.frame.records)
        self.on_settled(self.frame)


SHARD_FULL = RecordResult(error_code="ProvisionedThroughputExceededException", error_message="Hot.")
DELIVERED = RecordResult(sequence_number="1", shard_id="shardId-000000000000")


class FakeDoor:
    """Takes everything for any stream but "unknown"; settles when told to."""

    def __init__(self, limits: PutLimits | None = None) -> None:
        self.limits = limits or PutLimits()
        self.config = StreamConfig()
        self.routes: dict[str, str] = {}
        self.without_key = 0
        self.without_stream = 0
        self.submitted: list[Submitted] = []
        self.has_room = True
        self.full_keys: set[str] = set()  # records with these are refused out of their frame
        self.settles_at_once: Callable[[Callable[[], object]], object] | None = None
        self.waiting: list[Callable[[], object]] = []
        self.rejected_count = 0
        self.gone_count = 0
        self.gave_way_count = 0
        memory = ByteBudget(self.config.buffer_bytes_max)
        driver = ScriptedDriver(self.config, memory)
        self._stream = scripted_stream(self.config, driver, memory)
        self.withdrawn = driver.withdrawn
        self.tries = 0

    def limits_of(
        self, stream: str, asked: Acknowledge | None, principal: Principal
    ) -> PutLimits | Refused:
        if stream == "unknown":
            return UNKNOWN
        if stream == "ordered" and asked is Acknowledge.STORED:
            text = "This stream keeps order."
            return Refused(RefuseReason.INVALID, "InvalidArgumentException", text, True)
        return self.limits

    def line_form(self, stream: str, asked: Asked) -> LineForm | Refused:
        return form_of(self.config, asked, self.routes)

    def note_raw(self, stream: str, parsed: Parsed, principal: Principal) -> None:
        self.without_key += parsed.without_key
        self.without_stream += parsed.without_stream

    def untold_promise(self, stream: str) -> Acknowledge:
        return Acknowledge.NONE

    def has_synonyms(self, spellings: Iterable[str | None]) -> bool:
        assert len(list(spellings)) > 1
        return False

    def admit(
        self,
        stream: str,
        block: Block,
        asked: Acknowledge | None,
        on_settled: Callable[[Frame], object],
        client: int,
        principal: Principal,
        *,
        is_patient: bool,
    ) -> Admission | Refused | None:
        assert is_patient
        self.tries += 1
        assert len(block.records) == len(block.sizes) > 0
        if stream == "unknown":
            self.rejected_count += len(block.sizes)
            return UNKNOWN
        if not self.has_room:
            return None
        told = len(block.oversized)
        block.check_limits(self.limits)
        self.rejected_count += len(block.oversized) - told
        records = block.records
        frame = Frame(records, block.sizes, asked or Acknowledge.DELIVERED, on_settled)
        for index, record in enumerate(records):
            if record.partition_key in self.full_keys:
                frame.results[index] = SHARD_FULL
                frame.unsettled -= 1
        if not records:
            on_settled(frame)
        else:
            one = Submitted(stream, records, self.tries, frame, on_settled)
            self.submitted.append(one)
            if frame.acknowledge not in WAITED_FOR:
                on_settled(frame)
            elif self.settles_at_once and frame.acknowledge is Acknowledge.DELIVERED:
                self.settles_at_once(one.settle)
        return Admission(frame, self._stream)

    def is_waited_for(self, stream: str, asked: Acknowledge | None, principal: Principal) -> bool:
        return asked in (None, Acknowledge.DELIVERED)

    def when_room(self, stream: str, callback: Callable[[], object]) -> None:
        self.waiting.append(callback)

    def make_room(self) -> None:
        self.has_room = True
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()

    def refuse(
        self, stream: str | None, refused: Refused, record_count: int, byte_count: int
    ) -> None:
        if refused.reason is RefuseReason.CLIENT_GONE:
            self.gone_count += record_count
        else:
            assert refused is GAVE_WAY
            self.gave_way_count += record_count

    def refuse_unread(
        self, stream: str | None, record_count: int, byte_count: int = 0, *, principal: Principal
    ) -> None:
        self.rejected_count += record_count

    @property
    def data(self) -> list[bytes]:
        return [record.data for one in self.submitted for record in one.records]


UNKNOWN = Refused(
    RefuseReason.UNLISTED, "ResourceNotFoundException", "Stream unknown is not known.", True
)


class Doors:
    """Every way in over these streams, and connections as a listener makes them."""

    def __init__(self, streams: Streams, clock: HandClock | None = None, **how: Any) -> None:
        """`how`: of the Kinesis door."""
        self.streams = streams
        self.door = Door(streams, clock or HandClock())
        limits = widest_limits([each.service for each in streams.upstreams])
        self.kinesis = KinesisDoor(self.door, limits, 1, **how)
        self.ndjson = NdjsonDoor(self.door)
        self.handler = make_handler(self.kinesis, self.ndjson)
        self.hub = Hub(ConnectionLimits())

    def http(self) -> FakeTransport:
        return attached(HttpProtocol(self.handler, hub=self.hub))

    def session(self) -> FakeTransport:
        return open_session(self.door, self.hub)[1]

    def any(self, lines: Lines | None = None, transport: FakeTransport | None = None) -> Any:
        """Its first bytes decide what it speaks. `lines`: if not those of all streams."""
        opening = Opening(self.handler, self.hub, lines or lines_to(self.door))
        return attached(opening, transport)


def attached(protocol: asyncio.Protocol, transport: FakeTransport | None = None) -> FakeTransport:
    """The transport of a connection that this protocol has."""
    transport = transport or FakeTransport()
    transport.protocol = protocol
    protocol.connection_made(transport)
    return transport


def open_session(door: Door, hub: Hub | None = None) -> tuple[NdjsonSession, FakeTransport]:
    """A connection of lines at `door`, on a transport in memory."""
    session, transport = NdjsonSession(door, hub or Hub(ConnectionLimits())), FakeTransport()
    transport.protocol = session
    session.take_over(transport)
    return session, transport
