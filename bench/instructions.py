"""Instructions of a record, counted: `python -m bench.instructions [WORK ...] [--before DIR]`.

The same fixed work in one process under valgrind, so that the figure hardly moves with what else
the machine does: from the bytes of connections through doors and an engine to the answers' bytes,
and the clients, who cost about a tenth. The service is a table of results: neither its client nor
any socket is in the figure. What its client costs is counted apart, by the call (`bench/calls.py`).
Each work is run for two and for four rounds; the difference is what two rounds cost, without the
start.
Instructions are not time: memory and system calls are not in them. Read it for what a change does
to the code's own cost, and measure with `bench.compare`. `--before`: another tree of the project,
to compare with. Without valgrind it says that it counts nothing, and exits with 0.
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple

from bench import calls
from bench.load import HttpConnection, NdjsonConnection
from bench.load_http2 import Http2Connection
from bench.records import (
    BATCH_RECORDS,
    FORMS,
    KEY_COUNT,
    STREAM,
    UNLIMITED,
    BenchRecord,
    in_parts,
    make_records,
    put_record_request,
    put_records_request,
)

_BODIES = 16  # distinct ones of 500 records
_SINGLES = 1_280  # distinct requests of one record
_READ_BYTES = 256 * 1024
_SETTLING_TURNS = 200
_TURNS = 3  # of the loop, which a call takes: others come meanwhile
_LOOK_S = 0.001  # seconds between two looks while only the spool's thread has something to do
_COUNTS = ("shards", "streams", "connections", "keys")  # of a Shape, and options
_ROUNDS = (2, 4)
_VALGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
_COUNTED = re.compile(r"I +refs: +([0-9,]+)")  # what cachegrind says at its end


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands around a work: `shards` of each stream, `streams` that requests go to in turn,
    `connections` (0: as many as the work has), `keys` of records, whether their order is kept, and
    what `promise` clients ask for.
    """

    shards: int = 16
    streams: int = 1
    connections: int = 0
    keys: int = KEY_COUNT
    is_ordered: bool = False
    promise: str = "delivered"

    def names(self) -> list[str]:
        """Of its streams."""
        return [STREAM, *(f"{STREAM}-{number}" for number in range(1, self.streams))]

    def flags(self) -> list[str]:
        """As the command line says it."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        said = [part for name, number in counts.items() for part in (f"--{name}", str(number))]
        said += ["--acknowledge", self.promise]
        return [*said, "--ordered"] if self.is_ordered else said


_USUAL = Shape()


class _Socket:
    """What a connection of bench.load writes goes to the daemon's protocol, which answers here.
    `asking`, `answered`: of all, those where something was sent, or answered, since the last look.
    """

    def __init__(self, asking: dict["_Socket", None], answered: dict["_Socket", None]) -> None:
        self.protocol: Any = None
        self.sent = bytearray()
        self.answers = bytearray()
        self._asking = asking
        self._answered = answered

    def send(self, data: bytes) -> int:
        self.sent += data
        self._asking[self] = None
        return len(data)

    def answer(self, data: Any) -> None:
        self.answers += data
        self._answered[self] = None

    def take(self) -> list[bytes]:
        """What was sent, as it is read."""
        data = bytes(self.sent)
        self.sent.clear()
        return [data[at : at + _READ_BYTES] for at in range(0, len(data), _READ_BYTES)]

    def recv(self, _: int) -> bytes:
        data = bytes(self.answers)
        self.answers.clear()
        return data


class _Transport(asyncio.Transport):
    """The daemon's side of the same."""

    def __init__(self, sock: _Socket) -> None:
        super().__init__()
        self._sock = sock

    def write(self, data: Any) -> None:
        self._sock.answer(data)

    def set_protocol(self, protocol: Any) -> None:
        self._sock.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class _Work(NamedTuple):
    """`payloads`: of one round, each of so many records. `connect`: one of the connections, for a
    promise.
    """

    payloads: Callable[[Shape], list[bytes]]
    payload_records: int
    connections: int
    connect: Callable[[Any, str], Any]


def _batches(encoding: str, shape: Shape) -> list[bytes]:
    made = list(make_records(_BODIES * BATCH_RECORDS, key_count=shape.keys))
    parts, names = in_parts(made, BATCH_RECORDS), shape.names()
    how = {"acknowledge": shape.promise, "encoding": encoding}
    return [
        put_records_request(
            parts[number % _BODIES], names[number % len(names)], number=number, **how
        )
        for number in range(max(_BODIES, len(names)))
    ]


def _singles(shape: Shape) -> list[bytes]:
    names, promise = shape.names(), shape.promise
    made = make_records(max(_SINGLES, len(names), shape.connections), key_count=shape.keys)
    return [
        put_record_request(record, names[number % len(names)], acknowledge=promise, number=number)
        for number, record in enumerate(made)
    ]


def _lines(form: str, shape: Shape) -> list[bytes]:
    write, _ = FORMS[form]
    records = make_records(_BODIES * BATCH_RECORDS, key_count=shape.keys)
    return list(map(b"".join, in_parts([write(record) for record in records], 100)))


def _http2(streams: int) -> Callable[[Any, str], Any]:
    return lambda sock, promise: Http2Connection(sock, promise, streams)


def _session(form: str) -> Callable[[Any, str], Any]:
    _, more = FORMS[form]
    return lambda sock, promise: NdjsonConnection(sock, STREAM, 4_000, promise, **more)


WORKS = {
    "put_records": _Work(partial(_batches, "json"), BATCH_RECORDS, 8, HttpConnection),
    "put_record": _Work(_singles, 1, 64, HttpConnection),
    "lines": _Work(partial(_lines, "envelope"), 100, 4, _session("envelope")),
    "raw_lines": _Work(partial(_lines, "raw_key"), 100, 4, _session("raw_key")),
    "cbor": _Work(partial(_batches, "cbor"), BATCH_RECORDS, 8, HttpConnection),
    "http2": _Work(partial(_batches, "json"), BATCH_RECORDS, 8, _http2(1)),
    "http2_single": _Work(_singles, 1, 64, _http2(1)),
    "http2_streams": _Work(_singles, 1, 1, _http2(64)),
}


_NAMES = (*WORKS, *calls.CALLS)


# --- the work itself, in a process of its own


def carry(name: str, shape: Shape, rounds: int) -> None:
    """Does so many rounds of one work."""
    import uvloop

    if name in calls.CALLS:
        uvloop.run(calls.carry(name, rounds))
        return
    work = WORKS[name]
    with ExitStack() as stack:
        directory = ""
        if shape.promise == "stored":
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="kdaemon-bench-"))
        uvloop.run(_carry(work, shape, work.payloads(shape), rounds, directory))


async def _carry(
    work: _Work, shape: Shape, payloads: list[bytes], rounds: int, directory: str
) -> None:
    """`directory`: of the spool; "": there is none."""
    from kdaemon.system import calm_collector

    records = make_records(_BODIES * BATCH_RECORDS, key_count=shape.keys)
    streams, config, clock, spool = open_streams(records, shape, directory)
    if spool is not None:
        await spool.open()
        await spool.recover(streams.find_stored)
    opened = _open_door(streams, config, clock)
    for _ in range(_SETTLING_TURNS):  # the shards are told, in steps
        await asyncio.sleep(0)
    # Only who has something to do is looked at: 5,000 that have not cost more than the daemon.
    asking: dict[_Socket, None] = {}
    answered: dict[_Socket, None] = {}
    sockets = [_Socket(asking, answered) for _ in range(shape.connections or work.connections)]
    connections = {sock: work.connect(sock, shape.promise) for sock in sockets}
    for sock in sockets:
        sock.protocol = opened()
        sock.protocol.connection_made(_Transport(sock))
    calm_collector()  # as the daemon does
    for _ in range(rounds):
        waiting = iter(payloads)
        owed = len(payloads) * work.payload_records
        free = list(connections.values())
        while owed:
            for connection in free:
                while connection.wants_to_start():
                    payload = next(waiting, None)
                    if payload is None:
                        break
                    connection.start(payload, work.payload_records)
            for sock in _taken(asking):
                for data in sock.take():
                    sock.protocol.data_received(data)
            await asyncio.sleep(0)
            free = [connections[sock] for sock in _taken(answered)]
            owed -= sum(connection.readable() for connection in free)
            if spool is not None and not (free or asking):
                await asyncio.sleep(_LOOK_S)
        while spool is not None and not (spool.is_empty and spool.commits.is_written):
            await asyncio.sleep(_LOOK_S)
    if spool is not None:
        await spool.aclose()
    if any(connection.failed for connection in connections.values()):
        raise RuntimeError("not every record was delivered")


def _taken(sockets: dict[_Socket, None]) -> list[_Socket]:
    found = list(sockets)
    sockets.clear()
    return found


def _make_spool(directory: str, memory: Any, clock: Any) -> Any:
    from kdaemon.spool.spool import Spool
    from kdaemon.spool.store import Store

    make: Any = getattr(Store, "open", Store)  # `open` in trees before 2026-11-29
    open_store = partial(make, directory, letters_bytes_max=1 << 20, wall_ms=lambda: 1)
    return Spool(open_store, 1 << 30, memory, clock)


def _open_door(streams: Any, config: Any, clock: Any) -> Callable[[], Any]:
    """What makes the protocols of new connections."""
    from kdaemon.door.door import Door
    from kdaemon.door.kinesis import KinesisDoor, widest_limits
    from kdaemon.door.ndjson import NdjsonDoor
    from kdaemon.door.routes import make_handler
    from kdaemon.door.spoken import lines_to
    from kdaemon.http.hub import ConnectionLimits, Hub
    from kdaemon.http.opening import Opening

    door = Door(streams, clock)
    handler = make_handler(KinesisDoor(door, widest_limits([config.traits]), 1), NdjsonDoor(door))
    # Time stands still for turns: under valgrind their 4 ms are a few requests.
    hub, lines = Hub(ConnectionLimits(), now_ns=lambda: 0), lines_to(door)
    return lambda: Opening(handler, hub, lines)


def open_streams(
    records: Iterator[BenchRecord], shape: Shape, directory: str = ""
) -> tuple[Any, Any, Any, Any]:
    """The streams, in front of a service that is a table for these records; their configuration,
    their clock, and their spool in `directory`, which is not open yet (None: they have none).
    """
    from kdaemon.base.description import Caller, OpenShard, StreamDescription
    from kdaemon.base.memory import ByteBudget
    from kdaemon.base.record import RecordResult
    from kdaemon.config import StreamConfig  # with `first_share` in trees before 2026-11-29
    from kdaemon.config.load import load_config
    from kdaemon.send.client import PutAnswer
    from kdaemon.streams import Streams
    from kdaemon.streams.upstream import Reach
    from kdaemon.system import SystemClock, SystemDice

    count = shape.shards
    starts = [2**128 * number // count for number in range(count + 1)]
    shards = [
        OpenShard(f"shardId-{number:012d}", starts[number], starts[number + 1] - 1)
        for number in range(count)
    ]
    results = {
        record.key: RecordResult(
            sequence_number="4965" + "0" * 52,
            shard_id=shards[bisect(starts, _hash(record.key)) - 1].shard_id,
        )
        for record in records
    }

    class Clock(SystemClock):
        """Does not go on: nothing is late, however slow valgrind is."""

        def now_ns(self) -> int:
            return 1_000_000_000

    class Service:
        account_id = "000000000000"
        is_ready = True
        on_new_keys = None
        credentials_end_s = None

        async def caller(self) -> Caller:
            return Caller("000000000000", "us-east-1")

        async def put_records(
            self, _target: Any, sent: Any, leave: Callable[[], bool] = lambda: True
        ) -> PutAnswer:
            leave()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            return PutAnswer([results[record.partition_key] for record in sent], "NONE")

        async def describe(self, _target: Any) -> StreamDescription:
            return StreamDescription(tuple(shards), 1 << 20, is_auto=False, stream_arn=None)

    text = f"shard_records_per_second = {UNLIMITED}\nshard_bytes_per_second = {UNLIMITED}\n" + (
        "only_writer = true" if hasattr(StreamConfig, "only_writer") else "first_share = 1.0"
    )
    if shape.is_ordered:
        text += '\nordering = "partition_key"'
    listed = "".join(f"[streams.{name}]\n" for name in shape.names())
    streams_max = max(100, shape.streams)
    config = load_config(text=f"streams_max = {streams_max}\n[default]\n{text}\n{listed}")
    clock, service = Clock(), Service()
    memory = ByteBudget(config.memory_bytes_max)
    called = {"default": Reach(service, service)}  # type: ignore[arg-type]
    spool = _make_spool(directory, memory, clock) if directory else None
    streams: Any = Streams(config, called, clock, SystemDice(), memory, spool)
    for _ in streams.open_listed() or ():
        pass
    return streams, config, clock, spool


def _hash(key: str) -> int:
    return int.from_bytes(md5(key.encode(), usedforsecurity=False).digest(), "big")


# --- counting it


def count(name: str, tree: Path, shape: Shape = _USUAL) -> float:
    """Instructions of a record of this work, or of a call, by the kdaemon of `tree`."""
    counts = [_run(name, tree, shape, rounds) for rounds in _ROUNDS]
    if name in calls.CALLS:
        pieces = calls.CALLS_A_ROUND[name]
    else:
        work = WORKS[name]
        pieces = len(work.payloads(shape)) * work.payload_records
    return (counts[1] - counts[0]) / (pieces * (_ROUNDS[1] - _ROUNDS[0]))


def _run(name: str, tree: Path, shape: Shape, rounds: int) -> int:
    child = [sys.executable, "-m", "bench.instructions", name, "--carry", str(rounds)]
    child += shape.flags()
    # The same in each run: nothing is compiled in one, and found in the next.
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*_VALGRIND, *child, "--before", str(tree)], env=env, capture_output=True, text=True
    )
    counted = _COUNTED.search(run.stderr)
    if run.returncode or counted is None:
        raise RuntimeError(f"{name} did not run:\n{run.stderr}")
    return int(counted[1].replace(",", ""))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description="Instructions of a record, counted."
    )
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(_NAMES)}")
    parser.add_argument("--before", type=Path, help="another tree, to compare with")
    parser.add_argument("--shards", type=int, default=_USUAL.shards, help="of each stream")
    parser.add_argument("--streams", type=int, default=_USUAL.streams)
    parser.add_argument("--connections", type=int, default=0, help="0: as the work has them")
    parser.add_argument("--keys", type=int, default=KEY_COUNT, help="distinct ones")
    parser.add_argument(
        "--acknowledge", choices=("delivered", "accepted", "stored"), default=_USUAL.promise
    )
    parser.add_argument("--ordered", action="store_true", help="order per key is kept")
    parser.add_argument("--carry", type=int, help=argparse.SUPPRESS)  # the child's side
    options = parser.parse_args()
    works = options.works or list(_NAMES)
    counts = {name: getattr(options, name) for name in _COUNTS}
    shape = Shape(**counts, is_ordered=options.ordered, promise=options.acknowledge)
    if not set(_NAMES) >= set(works):
        parser.error(f"a WORK is one of {', '.join(_NAMES)}")
    if options.carry is not None:
        sys.path.insert(0, str(options.before))
        carry(works[0], shape, options.carry)
        return 0
    if shutil.which("valgrind") is None:
        print("bench: skipped, there is no valgrind here, which counts instructions")
        return 0
    ours = Path.cwd()
    print("| work | before | now | now of before |\n|---|--:|--:|--:|")
    for name in works:
        now = count(name, ours, shape)
        before = None
        if options.before is not None:
            try:
                before = count(name, options.before.resolve(), shape)
            except RuntimeError as error:  # it may have no such door
                print(f"before: {str(error).splitlines()[0]}", file=sys.stderr)
        shown = "- | " if before is None else f"{before:,.0f} | "
        ratio = "-" if before is None else f"{now / before:.3f}"
        print(f"| {name} | {shown}{now:,.0f} | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
