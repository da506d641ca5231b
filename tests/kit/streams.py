"""A registry of streams over a service in memory: no network, and time that a test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kdaemon.base.description import Caller, OpenShard, StreamDescription, StreamTarget
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.refused import Refused
from kdaemon.base.steps import at_once
from kdaemon.config.load import load_config
from kdaemon.send.client import PutAnswer
from kdaemon.streams import Stream, Streams
from kdaemon.streams.upstream import Reach
from tests.kit.clock import HandClock

MIB = 1024 * 1024
MISSING = ServiceError("ResourceNotFoundException", "Stream not found.", status=400)
DENIED = ServiceError("AccessDeniedException", "Not for you.", status=400)
DELIVERED = RecordResult(sequence_number="1", shard_id="shardId-0")


class FixedDice:
    def random(self) -> float:
        return 0.5


class FakeService:
    """`missing`: names that it does not have. `denied`: it tells of these, and takes no call.
    `arn_of`: what it tells of a stream; "" tells nothing. `is_silent`: it answers no question for
    streams; `word`: it answers when this is set. `answer`: it answers calls when this is set.
    `calls`: what was put, in order. `account_id`: what credentials or STS tell when `sts` is set;
    None: they do not know, or fail by `sts_error`.
    """

    def __init__(self) -> None:
        self.account_id: str | None = None
        self.region = "eu-central-1"
        self.is_stand_in = False
        self.sts = asyncio.Event()
        self.sts.set()
        self.sts_error: ServiceError | None = None
        self.asked_count = 0  # of questions for the account
        self.on_new_keys: Callable[[Caller], object] | None = None
        self.is_ready = True
        self.credentials_end_s: float | None = None
        self.endpoint = Endpoint()
        self.missing: set[str] = set()
        self.denied: set[str] = set()
        self.arn_of: Callable[[StreamTarget], str] = lambda _: ""
        self.describe_error: ServiceError | None = None
        self.record_code = ""  # with which every record fails
        self.encryption_type = "NONE"
        self.is_auto = False
        self.is_silent = False
        self.word = asyncio.Event()
        self.word.set()
        self.answer = asyncio.Event()
        self.answer.set()
        self.is_stalled = False
        self.described: list[StreamTarget] = []
        self.calls: list[tuple[StreamTarget, list[bytes]]] = []
        self.dry_runs: list[StreamTarget] = []

    async def caller(self) -> Caller:
        self.asked_count += 1
        await self.sts.wait()
        if self.sts_error is not None:
            raise self.sts_error
        return Caller(self.account_id or "", self.region, self.is_stand_in)

    async def put_records(
        self, target: StreamTarget, records: list[Record], leave: Callable[[], bool]
    ) -> PutAnswer:
        assert leave()
        self.calls.append((target, [record.data for record in records]))
        if self.is_stalled:
            await asyncio.Event().wait()
        await self.answer.wait()
        if target.name in self.missing:
            raise MISSING
        if target.name in self.denied:
            raise DENIED
        result = DELIVERED
        if self.record_code:
            result = RecordResult(error_code=self.record_code, error_message="Failed.")
        return PutAnswer([result] * len(records), self.encryption_type)

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError:
        self.dry_runs.append(target)
        await self.answer.wait()
        return ServiceError("DryRunOperationException", "It would have.", status=400)

    async def describe(self, target: StreamTarget) -> StreamDescription:
        self.described.append(target)
        if self.is_silent:
            await asyncio.Event().wait()
        await self.word.wait()
        if target.name in self.missing:
            raise MISSING
        if self.describe_error is not None:
            raise self.describe_error
        shards = (OpenShard("shardId-0", 0, HASH_KEY_MAX),)
        arn = self.arn_of(target)
        return StreamDescription(
            shards,
            1 * MIB,
            is_auto=self.is_auto,
            stream_arn=arn or None,
            encryption_type=self.encryption_type,
        )


def reaches(**services: FakeService) -> dict[str, Reach]:
    """How these upstreams are called."""
    return {name: Reach(service, service) for name, service in services.items()}


def make_streams(
    service: FakeService,
    text: str = "",
    *,
    clock: HandClock | None = None,
    spool: Any = None,
    **others: FakeService,
) -> Streams:
    """A registry with this configuration, its listed streams open. `others`: services of its
    upstreams beside the default one.
    """
    config = load_config(text=text)
    memory = ByteBudget(config.memory_bytes_max)
    called = reaches(default=service, **others)
    streams = Streams(config, called, clock or HandClock(), FixedDice(), memory, spool)
    at_once(streams.open_listed())
    if _opened:
        _opened[-1].append((asyncio.get_running_loop(), streams))
    return streams


_opened: list[list[tuple[asyncio.AbstractEventLoop, Streams]]] = []  # of those who close them


@asynccontextmanager
async def closed_at_the_end() -> AsyncIterator[None]:
    """Closes what is made in this loop meanwhile, whatever becomes of the test."""
    _opened.append([])
    try:
        yield
    finally:
        loop = asyncio.get_running_loop()
        for made_in, streams in _opened.pop():
            if made_in is loop:
                await streams.aclose()


def found(streams: Streams, spelling: str) -> Stream:
    stream = streams.find(spelling)
    assert isinstance(stream, Stream), stream
    return stream


def refused(streams: Streams, spelling: str) -> Refused:
    answer = streams.find(spelling)
    assert isinstance(answer, Refused), answer
    return answer


async def turn(times: int = 20) -> None:
    """Lets everything that is ready run."""
    for _ in range(times):
        await asyncio.sleep(0)
