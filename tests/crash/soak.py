"""`python -m tests.crash.soak --minutes 30`: everything on, for as long as one likes.

Both doors, every promise, plain streams, ordered ones and aggregates; foul weather at the service
and long outages; two restarts, one by `kill -9`; scrapes all the while. At the end every record is
recounted: what was promised is at the service, or a dead letter that the service refused; of each
client and key, records of ordered streams came first in the order in which they were sent.
Tells how resident memory went (its slope in the last and longest life), and how long the daemon
took to answer a probe. Exit 1 if a promise was broken.
"""

import argparse
import asyncio
import base64
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.store import Store
from tests.crash.clients import Client, Doors, Session, connected
from tests.crash.oracle import FAIR_S, FOUL_S, Call, Oracle, Weather
from tests.crash.process import Life
from tests.crash.records import Source, number_of, read_ident, shown
from tests.crash.verdict import Verdict, judge_promises
from tests.kit.aggregates import python_reads
from tests.kit.daemon import Metrics, environment, get, write_config

MIB = 1024 * 1024
MAGIC = b"\xf3\x89\x9a\xc2"  # how an aggregate begins
# Parts of the whole; the first ends by SIGKILL, the others by SIGTERM.
LIVES = (1 / 6, 1 / 6, 2 / 3)
OUTAGE_EVERY_S, OUTAGE_S = 240.0, 25.0  # long ones, beside those of the weather
PROBE_S, SCRAPE_S, STATUS_S = 0.25, 5.0, 30.0
WARM_S = 60.0  # of a life before its slope counts
DRAINED_S = 240.0
AFTER_S = 12.0  # the end: what a load has left in memory is looked at then
PAUSE_S = 0.05
PLAIN, ORDERED, KPL, BOTH = "plain", "ordered", "kpl", "kpl-ordered"
CLIENTS = (
    *(("unix", PLAIN, "stored"), ("kinesis", PLAIN, "stored"), ("lines", PLAIN, "stored")),
    *(("unix", PLAIN, "delivered"), ("kinesis", PLAIN, "delivered"), ("lines", PLAIN, "accepted")),
    *(("unix", ORDERED, "stored"), ("kinesis", ORDERED, "stored"), ("lines", ORDERED, "stored")),
    *(("unix", KPL, "stored"), ("kinesis", KPL, "delivered"), ("lines", KPL, "accepted")),
    *(("unix", BOTH, "stored"), ("kinesis", BOTH, "stored")),
)


class Service(Oracle):
    """The oracle, which reads aggregates too, and has long outages. An aggregate has an id of its
    own below 0 while a call is looked at; what is in it is taken in its place.
    """

    def __init__(self, sources: dict[int, Source], seed: int) -> None:
        super().__init__(sources, seed)
        self.aggregate_count = 0
        self._inside: dict[int, list[int]] = {}

    async def _change(self) -> None:
        foul = list(FOUL_S)
        outage_at_s = time.monotonic() + OUTAGE_EVERY_S / 2
        while True:
            self.weather = Weather.FAIR
            await asyncio.sleep(self._dice.uniform(*FAIR_S))
            if time.monotonic() >= outage_at_s:
                outage_at_s += OUTAGE_EVERY_S
                self.weather, lasts_s = Weather.OUTAGE, OUTAGE_S
            else:
                self._begin(self._dice.choice(foul))
                lasts_s = self._dice.uniform(*FOUL_S[self.weather])
            if self.weather is Weather.OUTAGE:
                self._abort_all()
            await asyncio.sleep(lasts_s)

    def _identify(self, stream: str, entry: dict[str, Any]) -> int | None:
        data = base64.b64decode(entry["Data"], validate=True)
        if not data.startswith(MAGIC):
            return super()._identify(stream, entry)
        ids: list[int] = []
        for key, hash_key, inner in python_reads(data):
            user = {"Data": base64.b64encode(inner).decode(), "PartitionKey": key}
            if hash_key:
                user["ExplicitHashKey"] = hash_key
            record_id = super()._identify(stream, user)
            if record_id is None:
                return None
            ids.append(record_id)
        self.aggregate_count += 1
        aggregate_id = -(10**12) - self.aggregate_count
        self._inside[aggregate_id] = ids
        return aggregate_id

    async def _put_records(self, *arguments: Any) -> bool:
        try:
            return await super()._put_records(*arguments)
        finally:
            if len(self._inside) > 10_000:  # of calls that were answered long ago
                self._inside.clear()

    def _take(self, call: Call, ids: list[int | None]) -> None:
        users: list[int | None] = []
        for each in ids:
            assert each is not None
            users += self._inside.pop(each, [each])
        super()._take(call, users)


@dataclass
class Sample:
    """Of the daemon at one scrape: seconds into the life, and bytes."""

    at_s: float
    rss: int
    held: int


@dataclass
class LifeSeen:
    ends_by: str
    samples: list[Sample] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    scrapes_s: list[float] = field(default_factory=list)

    def slope_mib_per_hour(self) -> float:
        """Of resident memory, by least squares; 0 where there is too little to tell."""
        settled = [each for each in self.samples if each.at_s >= WARM_S]
        if len(settled) < 10:
            return 0.0
        line = statistics.linear_regression(
            [each.at_s for each in settled], [each.rss for each in settled]
        )
        return line.slope * 3600 / MIB


class Soak:
    """One run in one directory."""

    def __init__(self, directory: Path, seed: int, minutes: float, think_s: float) -> None:
        self.lives: list[LifeSeen] = []
        self.verdict = Verdict()
        self.refused: Counter[str] = Counter()
        self.spool_bytes_most = 0
        self.lag_s = 0.0
        self._directory = directory
        self._spool = directory / "spool"
        self._seconds = minutes * 60
        self._doors = Doors(str(directory / "kdaemon.sock"))
        self._sources: dict[int, Source] = {}
        self.service = Service(self._sources, seed)
        self._clients: list[tuple[Client, Session]] = []
        for index, (kind, stream, acknowledge) in enumerate(CLIENTS):
            source = Source(seed, index, stream, can_spread=kind != "kinesis")
            self._sources[index] = source
            is_taken = self.service.taken.__contains__
            each = connected(kind, source, acknowledge, think_s, is_taken, self._doors)
            self._clients.append(each)

    def _settings(self, port: int) -> dict[str, object]:
        return {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "memory_bytes_max": 64 * MIB,
            "listen.unix": self._doors.unix_path,
            "send.connect_timeout_ms": 1000,
            "send.read_timeout_ms": 2000,
            "send.call_timeout_ms": 4000,
            "send.control_calls_per_second": 50.0,
            "default.deadline_ms": 3000,
            "default.request_bytes_max": 2 * MIB,
            "default.buffer_bytes_max": 16 * MIB,
            "spool.directory": str(self._spool),
            "spool.bytes_max": 512 * MIB,
            "streams.plain.share": 1.0,
            "streams.ordered.ordering": "partition_key",
            "streams.ordered.acknowledge": "stored",
            "streams.kpl.aggregation": "kpl",
            "streams.kpl-ordered.aggregation": "kpl",
            "streams.kpl-ordered.ordering": "partition_key",
            "streams.kpl-ordered.acknowledge": "stored",
        }

    async def run(self) -> None:
        port = await self.service.start()
        config = write_config(self._directory, self._settings(port))
        talking = [asyncio.create_task(each.run(session)) for each, session in self._clients]
        feeling = asyncio.create_task(self._feel_lag())
        try:
            for number, part in enumerate(LIVES):
                is_last = number == len(LIVES) - 1
                await self._live(config, part * self._seconds, talking, number, is_last=is_last)
        finally:
            for client, _ in self._clients:
                client.stop()
            for task in (feeling, *talking):
                task.cancel()
            await asyncio.wait([feeling, *talking])
            await self.service.stop()
        self._judge()

    async def _feel_lag(self) -> None:
        """How late this process is served, which its figures hold."""
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            self.lag_s = max(self.lag_s, time.monotonic() - asleep_s - PAUSE_S)

    async def _live(
        self,
        config: Path,
        seconds: float,
        talking: list[asyncio.Task[None]],
        number: int,
        *,
        is_last: bool,
    ) -> None:
        """One life of the daemon."""
        seen = LifeSeen("SIGTERM" if number else "SIGKILL")
        self.lives.append(seen)
        life = await Life.start(config, environment(), is_from_scratch=True)
        watching: list[asyncio.Task[None]] = []
        try:
            assert await life.wait_ready(), life.tell("ended at its start")
            self._doors.http_port = life.ports["http"]
            admin = f"http://127.0.0.1:{life.ports['admin']}"
            watching = [
                asyncio.create_task(self._scrape(life, admin, seen)),
                asyncio.create_task(self._probe(admin, seen)),
                asyncio.create_task(self._look_at_page(admin)),
            ]
            assert not await life.ends_within(seconds), life.tell("ended by itself")
            for task in [*watching, *talking]:
                if task.done():
                    task.result()
            self.tell(seen)
            if is_last:
                await self._recover(life, admin, talking)
            if number:
                life.terminate()
                assert await life.end() == 0, life.tell("did not end well")
            else:
                life.kill()
                await life.end()
        finally:
            for task in watching:
                task.cancel()
            await life.aclose()
        self.verdict.problems.extend(f"a defect in the log: {text}" for text in life.defects)

    async def _scrape(self, life: Life, admin: str, seen: LifeSeen) -> None:
        began_s = time.monotonic()
        while True:
            asked_s = time.monotonic()
            status, text = await asyncio.to_thread(get, admin + "/metrics")
            assert status == 200, text
            seen.scrapes_s.append(time.monotonic() - asked_s)
            held = Metrics(text).total("kdaemon_memory_held_bytes")
            resident = rss_bytes(life.pid)
            seen.samples.append(Sample(time.monotonic() - began_s, resident, held))
            sizes = [path.stat().st_size for path in self._spool.glob("*") if path.is_file()]
            self.spool_bytes_most = max(self.spool_bytes_most, sum(sizes))
            await asyncio.sleep(SCRAPE_S)

    async def _probe(self, admin: str, seen: LifeSeen) -> None:
        while True:
            asked_s = time.monotonic()
            status, text = await asyncio.to_thread(get, admin + "/livez")
            assert status == 200, text
            seen.probes_s.append(time.monotonic() - asked_s)
            await asyncio.sleep(PROBE_S)

    async def _look_at_page(self, admin: str) -> None:
        while True:
            for path in ("/statusz", "/", "/readyz"):
                await asyncio.to_thread(get, admin + path)
            await asyncio.sleep(STATUS_S)

    async def _recover(self, life: Life, admin: str, talking: list[asyncio.Task[None]]) -> None:
        """Fair weather; what is left is delivered."""
        await self.service.clear_up()
        for client, _ in self._clients:
            client.stop()
        _, late = await asyncio.wait(talking, timeout=DRAINED_S)
        if late:
            self.verdict.problems.append(f"{len(late)} clients still wait for answers")
        until_s = time.monotonic() + DRAINED_S
        waiting = ("buffered", "in_flight", "spooled")
        while time.monotonic() < until_s:
            metrics = Metrics((await asyncio.to_thread(get, admin + "/metrics"))[1])
            if not any(metrics.total(f"kdaemon_records_{name}") for name in waiting):
                break
            await asyncio.sleep(PAUSE_S * 10)
        for name in (*waiting, "unaccounted"):
            if count := metrics.total(f"kdaemon_records_{name}"):
                self.verdict.problems.append(f"at the end {name} is {count}")
        dropped = metrics.total("kdaemon_records_dropped_total")
        if dropped:
            self.verdict.problems.append(f"{dropped} records were dropped")
        await asyncio.sleep(AFTER_S)
        print(f"{AFTER_S:g} s after the end: {rss_bytes(life.pid) / MIB:.0f} MiB", flush=True)

    # The end

    def _promised(self) -> Iterator[int]:
        for client, _ in self._clients:
            if client.acknowledge in {"stored", "delivered"}:
                yield from client.promises.kept

    def _judge(self) -> None:
        verdict, service = self.verdict, self.service
        judge_promises(verdict, list(self._promised()), service.taken, self._letters())
        if service.stranger_count:
            texts = "; ".join(service.strangers)
            verdict.problems.append(f"never sent, or not so: {service.stranger_count}: {texts}")
        last: dict[tuple[int, str], int] = {}
        for one in service.taken:  # in the order of first writes
            if one < 0:
                continue
            source = self._source_of(one)
            number = number_of(one)
            key = source.make(number).key if source.stream in {ORDERED, BOTH} else ""
            if key:
                before = last.get((source.index, key), -1)
                if number < before:
                    verdict.problems.append(f"{shown(one)} of {key!r} came after {before}")
                last[source.index, key] = number
        for client, _ in self._clients:
            verdict.problems.extend(client.promises.complaints)
            self.refused.update(client.promises.refused)

    def _source_of(self, record_id: int) -> Source:
        return self._sources[int(shown(record_id).partition(".")[0])]

    def _letters(self) -> list[int]:
        view = Store.open_for_reading(str(self._spool))
        try:
            left = [f"{each.stream}: {each.frame_count}" for each in view.backlogs()]
            if left:
                self.verdict.problems.append(f"frames are left in the spool: {', '.join(left)}")
            idents = [read_ident(each.data) for each in view.letters.select(LetterFilter())]
            return [self._sources[index].id_of(number) for index, number in idents]
        finally:
            view.close()

    # Telling

    def tell(self, seen: LifeSeen) -> None:
        """One life, in the form of bench/RESULTS.md."""
        rss = [each.rss / MIB for each in seen.samples]
        above = max((each.rss - each.held) / MIB for each in seen.samples)
        probes = sorted(each * 1000 for each in seen.probes_s)
        print(
            f"| {seen.samples[-1].at_s / 60:.0f} min, {seen.ends_by}"
            f" | {rss[0]:.0f} | {max(rss):.0f}"
            f" | {above:.0f} | {rss[-1]:.0f} | {seen.slope_mib_per_hour():+.1f}"
            f" | {probes[len(probes) // 2]:.1f} | {probes[len(probes) * 99 // 100]:.0f}"
            f" | {probes[-1]:.0f} | {max(seen.scrapes_s) * 1000:.0f} |",
            flush=True,
        )

    def summary(self) -> str:
        verdict, service = self.verdict, self.service
        sent = sum(source.sent_count for source in self._sources.values())
        refused = ", ".join(f"{code} {count}" for code, count in self.refused.most_common())
        acknowledged, taken = verdict.acknowledged_count, verdict.taken_count
        lost, dead = len(verdict.lost), verdict.letter_count
        return (
            f"records sent {sent}, acknowledged (not `accepted`) {acknowledged}, taken {taken},"
            f" dead {dead}, lost {lost}\n"
            f"aggregates {service.aggregate_count}, records taken again {len(service.repeats)},"
            f" refused: {refused or 'none'}\n"
            f"spool at most {self.spool_bytes_most / MIB:.0f} MiB; this process was late by at most"
            f" {self.lag_s * 1000:.0f} ms"
        )


HEAD = (
    "| life | RSS at first, MiB | most | most above held | at its end | slope, MiB/h"
    " | /livez p50 ms | p99 | worst | worst scrape ms |\n|---|" + "--:|" * 9
)


def rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--think", type=float, default=1.0, help="seconds between requests, about")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}\n{HEAD}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="kdaemon-soak-"))
    soak = Soak(directory, seed, options.minutes, options.think)
    asyncio.run(soak.run())
    print(soak.summary())
    problems = soak.verdict.problems
    if problems:
        print("\n".join(problems[:20]))
        sys.exit(f"{len(problems)} problems; what is left stands in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
