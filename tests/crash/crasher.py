"""Runs the daemon under load, kills it again and again, and recounts at the end.

The order of kills, their times and counts, the weather at the service and what clients send all
come from one seed. (What the machine makes of them does not: no two runs are alike.)
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.store import Store
from tests.crash.clients import Client, Doors, Http, Session, UnixLines
from tests.crash.oracle import Oracle
from tests.crash.process import Life
from tests.crash.records import Source, is_poison, read_ident
from tests.crash.verdict import READ_TIMEOUT_S, Kill, Verdict, judge_promises, judge_repeats
from tests.kit.daemon import Metrics, environment, get, write_config

STREAMS = ("orders", "clicks")
RUN_S_MAX = 1.5  # from ready to a kill at random
START_S_MAX = 0.6  # from the start of a process to a kill during its start
DRAIN_S_MAX = 0.4  # from SIGTERM to SIGKILL
POINT_S_MAX = 20.0  # within which a named point is passed often enough, or it counts as missed
MISSED_ROUNDS = 3  # how often missed points are tried again
LOAD_RECORDS_MIN = 1500  # acknowledged before the end begins: there was a load
DRAINED_S = 120.0  # for the last life to deliver what is left
PAUSE_S = 0.05  # between two looks at what cannot be waited for
SLACK_FACTOR = 10.0
"""Of how late this process was served at most: how late the daemon may be, whose way to the disk is
a timer, some turns of its loop, a thread and an fsync, each served by the same machine."""
KIB = 1024
MIB = 1024 * KIB

# Named points inside the daemon, and how often each is passed at most before it strikes.
INNER_POINTS: dict[str, int] = {
    "before_commit": 60,
    "inside_commit": 60,
    "after_commit": 60,  # the frame is on disk, and its client not told
    "before_send": 30,  # the client is told
    "after_response": 30,
    "before_delete": 20,
    "inside_delete": 20,
    "after_delete": 20,
    "before_burial": 1,
    "after_burial": 1,
    "before_read": 1,  # of what an earlier life left, mostly
    "inside_open": 1,
    "after_open": 1,
}
TWICE = "start_twice"  # killed while it starts, and while it starts again
OUTER_POINTS = ("random", "starting", "after_send", "draining", TWICE)
POINTS = (*INNER_POINTS, *OUTER_POINTS)


@dataclass(slots=True)
class Report:
    """Figures of a run, and its verdict."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)  # points that were not passed in time
    starts_s: list[float] = field(default_factory=list)  # start to ready
    spool_bytes_most: int = 0
    sent_count: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    attempt_count: int = 0
    duration_s: float = 0.0
    drained_s: float = 0.0  # from the last start to the last delivery
    lag_s: float = 0.0  # how late this process was served at most
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def problems(self) -> list[str]:
        return self.verdict.problems


class Crasher:
    """One run in one directory."""

    def __init__(self, directory: Path, seed: int, *, pace: float = 1.0) -> None:
        """`pace`: how much faster clients send than the usual 2,000 to 3,000 records a second."""
        self.report = Report(seed)
        self.on_kill: Callable[[Report], None] = lambda _report: None
        self._directory = directory
        self._dice = random.Random(f"crasher {seed}")
        self._doors = Doors(str(directory / "kdaemon.sock"))
        self._sources: dict[int, Source] = {}
        self._oracle = Oracle(self._sources, seed)
        self._clients: list[tuple[Client, Session]] = []
        self._spool = directory / "spool"
        self._config = Path()
        self._life: Life | None = None
        self._environment = environment()
        self._make_clients(pace)

    # What takes part

    def _make_clients(self, pace: float) -> None:
        """Some that hold `stored` to account on each way in, and two that ask for other words."""
        self._add("unix", STREAMS[0], "stored", 0.10 / pace)
        self._add("unix", STREAMS[1], "stored", 0.15 / pace)
        self._add("kinesis", STREAMS[0], "stored", 0.06 / pace)
        self._add("kinesis", STREAMS[1], "stored", 0.06 / pace)
        self._add("lines", STREAMS[1], "stored", 0.08 / pace)
        self._add("kinesis", STREAMS[0], "delivered", 0.2 / pace)
        self._add("unix", STREAMS[0], "accepted", 0.5 / pace)

    def _add(self, kind: str, stream: str, acknowledge: str, think_s: float) -> Client:
        index = len(self._sources)
        source = Source(self.report.seed, index, stream, can_spread=kind != "kinesis")
        self._sources[index] = source
        client = Client(
            source,
            acknowledge=acknowledge,
            think_s=think_s,
            is_taken=self._oracle.taken.__contains__,
        )
        session: Session
        if kind == "unix":
            session = UnixLines(client, self._doors)
        else:
            session = Http(client, self._doors, has_lines=kind == "lines")
        self._clients.append((client, session))
        return client

    def _settings(self, port: int) -> dict[str, object]:
        """Timeouts that fit the weather; little memory, so that the disk is read back."""
        return {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "memory_bytes_max": 16 * MIB,
            "listen.unix": self._doors.unix_path,
            "send.connect_timeout_ms": 1000,
            "send.read_timeout_ms": int(READ_TIMEOUT_S * 1000),
            "send.call_timeout_ms": 4000,
            "send.control_calls_per_second": 50.0,
            "default.deadline_ms": 3000,
            "default.request_bytes_max": 2 * MIB,
            "default.buffer_bytes_max": 6 * MIB,
            "spool.directory": str(self._spool),
            "spool.bytes_max": 256 * MIB,
            "spool.letters_bytes_max": 32 * MIB,
        }

    # A run

    async def run(self, points: Iterable[str]) -> Report:
        """One kill for each of `points`, or two where the point says so; then the recount."""
        began_s = time.monotonic()
        port = await self._oracle.start()
        self._config = write_config(self._directory, self._settings(port))
        talking = [
            asyncio.create_task(client.run(session), name=f"client {client.source.index}")
            for client, session in self._clients
        ]
        feeling = asyncio.create_task(self._feel_lag())
        try:
            for point in points:
                await self._kill_at(point)
                self._see_to(talking)
                self.on_kill(self.report)
            for _ in range(MISSED_ROUNDS):  # a slow machine, or long foul weather
                passed = {kill.point for kill in self.report.kills}
                for point in [each for each in self.report.missed if each not in passed]:
                    await self._kill_at(point)
            await self._recover(talking)
        finally:
            for task in (feeling, *talking):
                task.cancel()
            await asyncio.wait([feeling, *talking])
            if self._life is not None:
                await self._life.aclose()
            await self._oracle.stop()
        self.report.duration_s = time.monotonic() - began_s
        self._judge()
        return self.report

    def _see_to(self, talking: list[asyncio.Task[None]]) -> None:
        """A client that fell over is a defect of the test, and is heard of at once."""
        for task in talking:
            if task.done():
                task.result()

    async def _feel_lag(self) -> None:
        """How busy the machine is, as far as it can be felt from here."""
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            late_s = time.monotonic() - asleep_s - PAUSE_S
            self.report.lag_s = max(self.report.lag_s, late_s)

    # Lives and deaths

    @asynccontextmanager
    async def _living(
        self, point: str = "", *, is_from_scratch: bool = False
    ) -> AsyncIterator[Life]:
        """One life of the daemon: over, in one way or another, when the block is left."""
        if point:
            count = self._dice.randint(1, INNER_POINTS[point])
            point = f"{point}:{count}:{self._dice.randrange(2**32)}"
        life = await Life.start(
            self._config, self._environment, point, is_from_scratch=is_from_scratch
        )
        self._life = life
        following = asyncio.create_task(self._follow(life))
        try:
            yield life
        finally:
            following.cancel()
            await life.aclose()
            await asyncio.wait([following])
            self._note(life)

    async def _follow(self, life: Life) -> None:
        """Tells the clients where it listens; the Unix socket's path never changes."""
        while "http" not in life.ports:
            await asyncio.sleep(PAUSE_S / 5)
        self._doors.http_port = life.ports["http"]

    def _note(self, life: Life) -> None:
        report = self.report
        if life.ready_s:
            report.starts_s.append(life.ready_s)
        report.problems.extend(f"a defect in the log: {text}" for text in life.defects)
        sizes = [path.stat().st_size for path in self._spool.glob("*") if path.is_file()]
        report.spool_bytes_most = max(report.spool_bytes_most, sum(sizes))

    async def _kill_at(self, point: str) -> None:
        match point:
            case "random":
                await self._kill_after(RUN_S_MAX, is_ready=True)
            case "starting":
                await self._kill_after(START_S_MAX, is_ready=False)
            case "after_send":
                await self._kill_by_oracle()
            case "draining":
                await self._kill_draining()
            case "start_twice":
                await self._kill_inside(self._dice.choice(("inside_open", "after_open")), TWICE)
                await self._kill_after(START_S_MAX, is_ready=False, point=TWICE)
            case _:
                await self._kill_inside(point, point)

    async def _kill_after(self, most_s: float, *, is_ready: bool, point: str = "") -> None:
        async with self._living(is_from_scratch=not is_ready) as life:
            if is_ready:
                assert await life.wait_ready(), life.tell("ended at its start")
            assert not await life.ends_within(self._dice.uniform(0.0, most_s)), life.tell("ended")
            life.kill()
            await self._died(life, point or ("random" if is_ready else "starting"))

    async def _kill_inside(self, point: str, name: str) -> None:
        """The process strikes itself, at a point of its own code."""
        async with self._living(point) as life:
            if not await life.ends_within(POINT_S_MAX + self._dice.uniform(0.0, 1.0)):
                self.report.missed[name] += 1
                life.kill()
                name = "random"
            await self._died(life, name)

    async def _kill_by_oracle(self) -> None:
        """The service has taken a call and says so to nobody."""
        async with self._living() as life:
            assert await life.wait_ready(), life.tell("ended at its start")
            await life.ends_within(self._dice.uniform(0.0, RUN_S_MAX))
            self._oracle.before_answer = life.kill
            name = "after_send"
            if not await life.ends_within(POINT_S_MAX):
                self.report.missed[name] += 1
                life.kill()
                name = "random"
            self._oracle.before_answer = None
            await self._died(life, name)

    async def _kill_draining(self) -> None:
        async with self._living() as life:
            assert await life.wait_ready(), life.tell("ended at its start")
            await life.ends_within(self._dice.uniform(0.0, RUN_S_MAX))
            life.terminate()
            await life.ends_within(self._dice.uniform(0.0, DRAIN_S_MAX))
            life.kill()
            await self._died(life, "draining")

    async def _died(self, life: Life, point: str) -> None:
        code = await life.end()
        assert code == -9 or point == "draining", life.tell(f"ended by itself with {code}")
        self.report.kills.append(Kill(point, time.monotonic()))

    # The end

    async def _recover(self, talking: list[asyncio.Task[None]]) -> None:
        """Faults stop; the last life delivers what is left, and what is new."""
        await self._oracle.clear_up()
        async with self._living() as life:
            assert await life.wait_ready(), life.tell("ended at its start")
            ready_s = time.monotonic()
            await life.ends_within(RUN_S_MAX / 2)  # load goes on for a while
            until_s = time.monotonic() + DRAINED_S
            while len(list(self._promised())) < LOAD_RECORDS_MIN and time.monotonic() < until_s:
                await asyncio.sleep(PAUSE_S)
            for client, _ in self._clients:
                client.stop()
            _, late = await asyncio.wait(talking, timeout=DRAINED_S)
            self._see_to(talking)
            if late:
                names = ", ".join(task.get_name() for task in late)
                self.report.problems.append(f"still waiting for answers: {names}")
            await self._wait_taken(life)
            self.report.drained_s = time.monotonic() - ready_s
            await self._send_fresh()
            self._look_at_metrics(await self._wait_settled(life))
            life.terminate()
            code = await life.end()
            if code != 0:
                self.report.problems.append(life.tell(f"ended with {code} after all was delivered"))

    async def _wait_taken(self, life: Life) -> None:
        """Until all that was promised is in the service, but for what it refuses; or time is up:
        then the recount says what is missing.
        """
        missing = [each for each in self._promised() if not is_poison(each)]
        until_s = time.monotonic() + DRAINED_S
        taken = self._oracle.taken
        while missing and time.monotonic() < until_s and not life.has_ended:
            missing = [each for each in missing if each not in taken]
            await asyncio.sleep(PAUSE_S)

    async def _send_fresh(self) -> None:
        """Liveness: new records, on each way in, arrive."""
        first = len(self._clients)
        for kind in ("unix", "kinesis", "lines"):
            self._add(kind, STREAMS[0], "delivered", PAUSE_S)
        for client, session in self._clients[first:]:
            talking = asyncio.create_task(client.run(session))
            until_s = time.monotonic() + DRAINED_S
            while not client.promises.kept and time.monotonic() < until_s:
                await asyncio.sleep(PAUSE_S)
            client.stop()
            await asyncio.wait([talking], timeout=DRAINED_S)
            if not client.promises.kept:
                self.report.problems.append(f"no fresh record by source {client.source.index}")

    async def _wait_settled(self, life: Life) -> Metrics:
        names = ("kdaemon_records_buffered", "kdaemon_records_in_flight")
        until_s = time.monotonic() + DRAINED_S
        url = f"http://127.0.0.1:{life.ports['admin']}/metrics"
        while True:
            status, text = await asyncio.to_thread(get, url)
            assert status == 200, life.tell(f"answers a scrape with {status}: {text}")
            metrics = Metrics(text)
            if not any(metrics.total(name) for name in names) or time.monotonic() > until_s:
                return metrics
            await asyncio.sleep(PAUSE_S)

    def _look_at_metrics(self, metrics: Metrics) -> None:
        for name in ("records_unaccounted", "records_buffered", "records_in_flight"):
            count = metrics.total(f"kdaemon_{name}")
            if count:
                self.report.problems.append(f"at the end {name} is {count}")

    def _promised(self) -> Iterator[int]:
        for client, _ in self._clients:
            if client.acknowledge in {"stored", "delivered"}:
                yield from client.promises.kept

    def _judge(self) -> None:
        report, oracle = self.report, self._oracle
        verdict = report.verdict
        judge_promises(verdict, list(self._promised()), oracle.taken, self._letters())
        slack_s = SLACK_FACTOR * report.lag_s
        judge_repeats(verdict, oracle.repeats, oracle.calls, report.kills, slack_s)
        if oracle.stranger_count:
            texts = "; ".join(oracle.strangers)
            verdict.problems.append(f"never sent, or not so: {oracle.stranger_count}: {texts}")
        for client, _ in self._clients:
            verdict.problems.extend(client.promises.complaints)
            report.refused.update(client.promises.refused)
        report.sent_count = sum(source.sent_count for source in self._sources.values())
        report.attempt_count = oracle.attempt_count

    def _letters(self) -> list[int]:
        """Ids of the dead letters that the stopped daemon left, each of them whole; and nothing
        else may be left.
        """
        view = Store.open_for_reading(str(self._spool))
        try:
            left = [f"{each.stream}: {each.frame_count}" for each in view.backlogs()]
            if left:
                self.report.problems.append(f"frames are left in the spool: {', '.join(left)}")
            found = []
            for letter in view.letters.select(LetterFilter()):
                index, number = read_ident(letter.data)
                source = self._sources[index]
                is_same = (letter.data, letter.stream) == (source.make(number).data, source.stream)
                if not is_same or not letter.is_intact:
                    self.report.problems.append(f"dead letter {index}.{number} is another")
                found.append(source.id_of(number))
            return found
        finally:
            view.close()


def schedule(seed: int, kill_count: int, points: Iterable[str]) -> Iterator[str]:
    """Every point in turn, each round in another order, until there are so many kills."""
    dice = random.Random(f"schedule {seed}")
    left = kill_count
    while left > 0:
        turn = list(points)
        dice.shuffle(turn)
        for point in turn:
            if left > 0:
                yield point
            left -= 2 if point == TWICE else 1
