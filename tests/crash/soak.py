"""`python -m tests.crash.soak --minutes 30 --seed 7` (`make soak MINUTES=30`): everything at once.

Every way in (JSON, and CBOR over HTTP/2), every promise, plain streams, ordered ones and
aggregates, two upstreams with foul weather and long outages of their own. First a storm: restarts
behind systemd's sockets, then by takeover, SIGKILL, SIGHUP with right and wrong configurations,
SIGSTOP, a wall clock that steps.
Then one long life with all of it but deaths, in which memory and open files are watched.
At the end all is recounted: what was promised is at its service, or a dead letter that the service
refused; each byte the same; nothing that was not sent; a record twice only where it may be; of each
client and key, records of ordered streams in their order; new records arrive. Exit 1 if not.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.crash.clients import Client, Doors, Session, connected
from tests.crash.ending import PAUSE_S, Ending, promised, see_to
from tests.crash.lag import Lag
from tests.crash.lives import Lives, Manner
from tests.crash.oracle import Call
from tests.crash.records import Source
from tests.crash.soak_plan import (
    BOTH,
    EU,
    EU_ORDERED,
    EU_PLAIN,
    KPL,
    LONG_LIFE,
    ORDERED,
    ORDERED_STREAMS,
    PLAIN,
    STORM,
    VISITOR,
    Configurations,
    Event,
    Settings,
    Tempo,
    clock_ahead_s,
    events,
)
from tests.crash.soak_service import Outages, Service
from tests.crash.soak_tell import HEAD, judge_growth, row, trends
from tests.crash.verdict import Verdict, judge_promises, judge_repeats, judge_service
from tests.crash.watch import MIB, Seen, Watch
from tests.kit.daemon import environment, write_config
from tests.kit.patience import PATIENCE_S
from tests.kit.skew import WallClock, why_not

STORM_PART = 0.4  # of the whole time; half of it behind systemd's sockets, half without
DRAINED_S = 240.0  # for what is left, at the end
CLIENT_S = 180.0  # that a client waits for an answer: longer than a halt and a drain
TAKEN = ("is in force", "nothing has changed")
CLIENTS = (
    *(("unix", PLAIN, "stored"), ("kinesis", PLAIN, "stored"), ("lines", PLAIN, "stored")),
    *(("unix", PLAIN, "delivered"), ("kinesis", PLAIN, "delivered"), ("lines", PLAIN, "accepted")),
    *(("unix", ORDERED, "stored"), ("kinesis", ORDERED, "stored"), ("lines", ORDERED, "stored")),
    *(("unix", KPL, "stored"), ("kinesis", KPL, "delivered"), ("lines", KPL, "accepted")),
    *(("unix", BOTH, "stored"), ("kinesis", BOTH, "stored")),
    *(("unix", EU_PLAIN, "stored"), ("kinesis", EU_PLAIN, "delivered")),
    *(("unix", EU_ORDERED, "stored"), ("lines", EU_ORDERED, "stored")),
    *(("kinesis", VISITOR, "stored"), ("unix", VISITOR, "stored")),
    *(("http2", PLAIN, "stored"), ("http2", ORDERED, "stored"), ("http2", EU_PLAIN, "delivered")),
)
KINDS = ("unix", "kinesis", "lines", "http2")
LINES = frozenset({"unix", "lines"})  # where a record may have no key
OUTAGES = {"default": Outages(240.0, 25.0), EU: Outages(120.0, 45.0)}


class Soak:
    """One run in one directory."""

    def __init__(
        self, directory: Path, seed: int, seconds: float, think_s: float, tempo: Tempo
    ) -> None:
        self.verdict = Verdict()
        self.seen: list[Seen] = []
        self.events: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.spool_bytes_most = 0
        self.lag = Lag()
        self.services: dict[str, Service] = {}
        self._seed = seed
        self._think_s = think_s
        self._tempo = tempo
        self._seconds = seconds
        self._dice = random.Random(f"soak {seed}")
        self._doors = Doors(str(directory / "kdaemon.sock"))
        self._directory = directory
        self._spool = directory / "spool"
        self._sources: dict[int, Source] = {}
        self._of: dict[str, dict[int, Source]] = {"default": {}, EU: {}}
        for number, (name, outages) in enumerate(OUTAGES.items()):
            self.services[name] = Service(self._of[name], seed + number, ORDERED_STREAMS, outages)
        self._clients: list[tuple[Client, Session]] = []
        for kind, stream, acknowledge in CLIENTS:
            self._add(kind, stream, acknowledge)
        self._wall = WallClock(directory)
        self.lives = Lives(directory, environment(**self._wall.variables), self._doors)
        self._ending = Ending(
            self._clients, self._sources, self.verdict.problems, DRAINED_S, self._is_taken
        )
        self._configurations: Configurations
        self._settings: Settings = {}
        self._watch: Watch | None = None
        self._talking: list[asyncio.Task[None]] = []

    def _add(self, kind: str, stream: str, acknowledge: str) -> tuple[Client, Session]:
        index = len(self._sources)
        source = Source(self._seed, index, stream, can_spread=kind in LINES)
        upstream = EU if stream.startswith(EU) else "default"
        self._sources[index] = self._of[upstream][index] = source
        is_taken = self.services[upstream].taken.__contains__
        added = connected(kind, source, acknowledge, self._think_s, is_taken, self._doors, CLIENT_S)
        self._clients.append(added)
        return added

    def _is_taken(self, record_id: int) -> bool:
        return any(record_id in each.taken for each in self.services.values())

    async def run(self) -> None:
        ports = {name: await each.start() for name, each in self.services.items()}
        places: Settings = {
            "spool.directory": str(self._spool),
            "listen.unix": self._doors.unix_path,
        }
        self._configurations = Configurations(self._dice, ports, places)
        feeling = asyncio.create_task(self._feel_lag())
        try:
            storm_s = self._seconds * STORM_PART / len(Manner)
            for manner in Manner:
                await self._begin(manner)
                await self._live(STORM, storm_s)
                await self._stop()
            await self._begin(Manner.ACTIVATED)
            await self._live(LONG_LIFE, self._seconds * (1 - STORM_PART))
            await self._end()
        finally:
            for task in (feeling, *self._talking):
                task.cancel()
            await asyncio.wait([feeling, *self._talking])
            await self._unwatch("")
            await self.lives.aclose()
            for service in self.services.values():
                await service.stop()
        self._judge()

    async def _feel_lag(self) -> None:
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            now_s = time.monotonic()
            self.lag.felt(now_s, now_s - asleep_s - PAUSE_S)

    # Lives

    async def _begin(self, manner: Manner) -> None:
        self._configurations.http = self.lives.set_manner(manner)
        self._write(self._configurations.whole())
        await self.lives.begin()
        self._watch_now(manner.value)
        if not self._talking:
            self._talking = [
                asyncio.create_task(each.run(session), name=f"client {each.source.index}")
                for each, session in self._clients
            ]

    async def _stop(self) -> None:
        await self._unwatch("SIGTERM")
        await self.lives.stop()

    def _write(self, settings: Settings) -> None:
        self._settings = settings
        write_config(self._directory, settings)

    def _watch_now(self, begun: str) -> None:
        self.seen.append(Seen(begun))
        self._watch = Watch(self.lives, self.seen[-1], self._spool)

    async def _unwatch(self, ended: str) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.seen.ended = ended
            self.spool_bytes_most = max(self.spool_bytes_most, watch.spool_bytes_most)
            await watch.stop()

    async def _live(self, kinds: tuple[Event, ...], seconds: float) -> None:
        """Events of these kinds, for so long."""
        until_s = time.monotonic() + seconds
        for event in events(self._dice, kinds):
            pause_s = self._dice.uniform(*self._tempo.between_s)
            left_s = until_s - time.monotonic()
            life = self.lives.life
            assert not await life.ends_within(max(0.0, min(pause_s, left_s))), life.tell("ended")
            see_to(self._talking)
            if left_s <= pause_s:
                return
            before = self._unreachable_count
            await self._happen(event)
            self.events[event.value] += 1
            if event is not Event.KILL and self._unreachable_count > before:
                problem = f"{event.value}: {self.lives.manner.value}: a connection was refused"
                self.verdict.problems.append(problem)

    @property
    def _unreachable_count(self) -> int:
        return sum(client.unreachable_count for client, _ in self._clients)

    async def _happen(self, event: Event) -> None:
        dice, lives = self._dice, self.lives
        match event:
            case Event.REPLACE | Event.KILL:
                is_kill = event is Event.KILL
                await self._unwatch("SIGKILL" if is_kill else lives.manner.value)
                await (lives.kill() if is_kill else lives.replace())
                self._watch_now("SIGKILL" if is_kill else lives.manner.value)
            case Event.RELOAD:
                self._write(self._configurations.right())
                said = await self._reload()
                if not said.endswith(TAKEN):
                    self.events["- put off, for records were under way"] += 1
            case Event.WRONG:
                before = self._settings
                write_config(self._directory, self._configurations.wrong())
                said = await self._reload()
                if said.endswith(TAKEN):
                    self.verdict.problems.append(f"a wrong configuration was taken: {said}")
                self._write(before)
            case Event.HALT:
                await lives.halt(dice.uniform(*self._tempo.halt_s))
            case Event.CLOCK:
                self._wall.set_ahead(clock_ahead_s(dice))

    async def _reload(self) -> str:
        """What the daemon says of it."""
        life = self.lives.life
        count = len(life.reloads)
        life.hang_up()
        until_s = time.monotonic() + PATIENCE_S
        while len(life.reloads) == count:
            assert time.monotonic() < until_s, life.tell("says nothing of a reload")
            await asyncio.sleep(PAUSE_S)
        return life.reloads[-1]

    # The end

    async def _end(self) -> None:
        """Fair weather, the right time, everything configured: what is left is delivered."""
        for service in self.services.values():
            await service.clear_up()
        self._wall.set_ahead(0.0)
        await self._stop()  # the long life
        await self._begin(Manner.ACTIVATED)
        life = self.lives.life
        await self._ending.hear_all(self._talking)
        await self._ending.wait_taken(life)
        fresh = [self._add("lines", EU_PLAIN, "delivered")]
        fresh += [self._add(kind, PLAIN, "delivered") for kind in KINDS]
        await self._ending.send_fresh(fresh)
        await self._ending.settled(life)
        await self._stop()

    def _judge(self) -> None:
        verdict = self.verdict
        taken = [each for service in self.services.values() for each in service.taken]
        letters = self._ending.letters(self._spool)
        judge_promises(verdict, list(promised(self._clients)), taken, letters)
        for service in self.services.values():
            judge_service(verdict, service)
        repeats = [each for service in self.services.values() for each in service.repeats]
        judge_repeats(verdict, repeats, self._calls(), self.lives.kills, self.lag)
        for client, _ in self._clients:
            verdict.problems.extend(f"a client: {text}" for text in client.promises.complaints)
            self.refused.update(client.promises.refused)
        verdict.problems.extend(f"a defect in the log: {text}" for text in self.lives.defects)
        verdict.problems.extend(judge_growth(self.long_life))

    def _calls(self) -> Iterator[Call]:
        for service in self.services.values():
            yield from service.calls

    @property
    def long_life(self) -> Seen:
        return self.seen[-2]  # the last one is that of the end

    @property
    def sent_count(self) -> int:
        return sum(source.sent_count for source in self._sources.values())


def summary(soak: Soak) -> str:
    verdict, lives, services = soak.verdict, soak.lives, soak.services.values()
    starts = sorted(lives.starts_s)
    calls = sum(service.wrong_clock_count for service in services)
    rows = {
        **{f"event: {name}": f"{count:,}" for name, count in sorted(soak.events.items())},
        "processes": ", ".join(f"{name} {count}" for name, count in sorted(lives.counts.items())),
        "start to ready": f"median {starts[len(starts) // 2]:.2f} s, most {starts[-1]:.2f} s",
        "long outages": ", ".join(
            f"{name} {each.outage_count}" for name, each in soak.services.items()
        ),
        "calls refused for their time of day": f"{calls:,}",
        "records sent": f"{soak.sent_count:,}",
        "acknowledged (`stored`, `delivered`)": f"{verdict.acknowledged_count:,}",
        "delivered": f"{verdict.taken_count:,}",
        "aggregates": f"{sum(service.aggregate_count for service in services):,}",
        "dead letters": f"{verdict.letter_count:,}",
        "refused": ", ".join(f"{code} {count:,}" for code, count in soak.refused.most_common())
        or "none",
        "lost": f"{len(verdict.lost):,}",
        "taken twice, in flight at an end or a halt": (
            f"{verdict.short_repeat_count + verdict.long_repeat_count:,}"
        ),
        "taken twice, the service did not say that it took them": (
            f"{verdict.untold_repeat_count:,}"
        ),
        "spool at most": f"{soak.spool_bytes_most / MIB:.0f} MiB",
        "this process was late by at most": f"{soak.lag.most_s * 1000:.0f} ms",
        **trends(soak.long_life, soak.seen),
    }
    lines = [HEAD, *(row(each) for each in soak.seen if each.samples)]
    lines += ["", "| | |", "|---|--:|", *(f"| {name} | {text} |" for name, text in rows.items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="(10)")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run; else a new one")
    parser.add_argument("--think", type=float, default=1.0, help="seconds between requests (1)")
    options = parser.parse_args()
    obstacle = why_not()
    if obstacle is not None:
        sys.exit(obstacle)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="kdaemon-soak-"))
    soak = Soak(directory, seed, options.minutes * 60, options.think, Tempo())
    asyncio.run(soak.run())
    print(summary(soak))
    problems = soak.verdict.problems
    if problems:
        print("\n".join(f"PROBLEM: {each}" for each in problems[:20]))
        sys.exit(f"{len(problems)} problems; what is left stands in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
