"""Order per key through kills: what is stored reaches the service in the order in which it came,
over any number of lives, most of it by way of the disk, and nothing is lost.

The service is the sandbox, in this process; its faults change with each life. (The oracle of the
other crash tests keeps no order.)
"""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.system import SystemClock
from tests.crash.clients import Client, Doors, Http, Session, UnixLines
from tests.crash.process import Life
from tests.crash.records import Source, number_of, read_ident, shown
from tests.kit.daemon import environment, write_config

STREAM = "orders"
KILLS = 4
LOAD_S = 1.0  # from ready to the kill, at least
LOAD_RECORDS_MIN = 300  # acknowledged in each life, before the kill
DRAINED_S = 240.0  # for the last life to deliver what is left; a few seconds on an idle machine
PAUSE_S = 0.02  # between two looks at what cannot be waited for
MIB = 1024 * 1024
SHARD_RECORDS_PER_SECOND = 2_000
FAULTS = (
    Fault(kind=FaultKind.RECORD_FAILURE, fraction=0.2, calls=15),
    Fault(kind=FaultKind.RESET, calls=1),
    Fault(kind=FaultKind.RESET, is_written=True, calls=1),
    Fault(kind=FaultKind.RECORD_FAILURE, fraction=0.1, calls=15),
    Fault(kind=FaultKind.WRONG_COUNT, calls=1),
    Fault(kind=FaultKind.STATUS, status=503, calls=2),
    Fault(kind=FaultKind.LATENCY, latency_ms=150, calls=3),
)


def settings(url: str, doors: Doors, spool: Path) -> dict[str, object]:
    """Less memory than what comes, so that most of it is read back from the disk."""
    return {
        "endpoint_url": url,
        "region": "us-east-1",
        "memory_bytes_max": 16 * MIB,
        "listen.unix": doors.unix_path,
        "spool.directory": str(spool),
        "default.ordering": "partition_key",
        "default.acknowledge": "stored",
        "default.request_bytes_max": MIB,
        "default.buffer_bytes_max": 2 * MIB,
        "default.shard_records_per_second": SHARD_RECORDS_PER_SECOND,
    }


class Load:
    """Three clients, one on each way in. What one of them sends of a key, it sends in order."""

    def __init__(self, seed: int, doors: Doors) -> None:
        self.sources = [Source(seed, index, STREAM, can_spread=index != 1) for index in range(3)]
        self.clients = [
            Client(source, acknowledge="stored", think_s=0.03, is_taken=lambda _id: True)
            for source in self.sources
        ]
        unix, kinesis, lines = self.clients
        sessions: list[Session] = [
            UnixLines(unix, doors),
            Http(kinesis, doors, has_lines=False),
            Http(lines, doors, has_lines=True),
        ]
        self.talking = [
            asyncio.create_task(client.run(session))
            for client, session in zip(self.clients, sessions, strict=True)
        ]

    @property
    def promised(self) -> set[int]:
        return {one for client in self.clients for one in client.promises.kept}

    async def stop(self) -> None:
        for client in self.clients:
            client.stop()
        await asyncio.wait_for(asyncio.gather(*self.talking), DRAINED_S)

    async def cancel(self) -> None:
        for task in self.talking:
            task.cancel()
        await asyncio.wait(self.talking)


def log_of(service: Service, load: Load) -> list[int]:
    """Ids of all records that the service holds, in the order in which it wrote them."""
    stored = sorted(service.stored(STREAM), key=lambda one: one.sequence)
    idents = (read_ident(one.record.data) for one in stored)
    return [load.sources[index].id_of(number) for index, number in idents]


def assert_in_order(log: list[int], load: Load, where: str) -> None:
    """Of each client and key, the first occurrences are in the order sent."""
    last: dict[tuple[int, str], int] = {}
    for one in dict.fromkeys(log):
        number = number_of(one)
        (source,) = (each for each in load.sources if each.id_of(number) == one)
        key = source.make(number).key
        if key:
            before = last.get((source.index, key), -1)
            assert number > before, f"{where}: {shown(one)} of {key!r} after {before}"
            last[source.index, key] = number


async def die(config: Path, doors: Doors, load: Load) -> None:
    """One life under load, and its end."""
    promised_count = len(load.promised) + LOAD_RECORDS_MIN
    life = await Life.start(config, environment())
    try:
        assert await life.wait_ready(), life.tell("ended at its start")
        doors.http_port = life.ports["http"]
        assert not await life.ends_within(LOAD_S), life.tell("ended by itself")
        while len(load.promised) < promised_count:
            assert not await life.ends_within(PAUSE_S), life.tell("ended by itself")
        life.kill()
        assert await life.end() == -9
        assert not life.defects
    finally:
        await life.aclose()


async def deliver_the_rest(config: Path, doors: Doors, load: Load, service: Service) -> None:
    life = await Life.start(config, environment())
    try:
        assert await life.wait_ready(), life.tell("ended at its start")
        doors.http_port = life.ports["http"]
        await load.stop()
        async with asyncio.timeout(DRAINED_S):
            while not load.promised <= set(log_of(service, load)):
                await asyncio.sleep(PAUSE_S * 10)
        life.terminate()
        assert await life.end() == 0, life.tell("did not end well")
        assert not life.defects
    finally:
        await life.aclose()


@pytest.mark.timeout(600)  # seconds; some 8 on an idle machine with two cores
async def test_what_is_stored_keeps_its_order_through_kills(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    quota = Quota(SHARD_RECORDS_PER_SECOND, 4 * MIB)
    service = Service(SandboxSettings(quota=quota), random.Random(seed))
    service.create_stream(STREAM, 4)
    server = SandboxServer(service, SystemClock())
    await server.start(port=0)
    doors = Doors(str(tmp_path / "kdaemon.sock"))
    url = f"http://127.0.0.1:{server.port}"
    config = write_config(tmp_path, settings(url, doors, tmp_path / "spool"))
    load = Load(seed, doors)
    try:
        for _ in range(KILLS):
            service.clear_faults()
            service.add_faults(*FAULTS)
            await die(config, doors, load)
        service.clear_faults()
        await deliver_the_rest(config, doors, load, service)
    finally:
        await load.cancel()
        await server.aclose()
    log = log_of(service, load)
    assert_in_order(log, load, f"seed {seed}")
    assert load.promised <= set(log), f"seed {seed}: lost"
    assert not any(client.promises.complaints for client in load.clients), f"seed {seed}"
    repeats = Counter(log).total() - len(set(log))
    print(f"seed {seed}: {len(load.promised)} stored, {len(set(log))} taken, {repeats} repeats")
    assert len(load.promised) > 1_000, "there was a load"
