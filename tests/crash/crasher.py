"""Runs the daemon under load, kills it again and again, and recounts at the end.

The order of kills, their times and counts, the weather at the service and what clients send all
come from one seed. (What the machine makes of them does not: no two runs are alike.)
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.crash.clients import Client, Doors, Session, connected
from tests.crash.ending import PAUSE_S, Ending, promised, see_to
from tests.crash.lag import Lag
from tests.crash.oracle import Oracle
from tests.crash.plan import INNER_POINTS, ON_DISK, STOPPED, TWICE, Step
from tests.crash.process import Life
from tests.crash.records import Source
from tests.crash.report import Report
from tests.crash.verdict import READ_TIMEOUT_S, Kill, judge_promises, judge_repeats, judge_service
from tests.kit.daemon import environment, write_config
from tests.kit.power import PowerDisk
from tests.kit.template import STAGE, Stage

STREAMS = ("orders", "clicks")
ORDERED = "ledger"  # a stream that keeps the order of each key
RUN_S_MAX = 1.5  # from ready to a kill at random
START_S_MAX = 0.6  # from the start of a process to a kill during its start
DRAIN_S_MAX = 0.4  # from SIGTERM to SIGKILL
OPERATIONS_MAX = 3_000  # on the disk, in a life; a second of load is about a thousand
POINT_S_MAX = 20.0  # within which a named point is passed often enough, or it counts as missed
MISSED_ROUNDS = 3  # how often missed points are tried again
LOAD_RECORDS_MIN = 1500  # acknowledged before the end begins: there was a load
DRAINED_S = 120.0  # for the last life to deliver what is left
OLDER = {"send.connect_timeout_ms": 1000, "send.read_timeout_ms": int(READ_TIMEOUT_S * 1000)}
"""Settings that the version before this one has, where this one follows `call_timeout_ms`."""
KIB = 1024
MIB = 1024 * KIB


class Crasher:
    """One run in one directory."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        *,
        pace: float = 1.0,
        disk: PowerDisk | None = None,
        stages: Sequence[Stage] = (STAGE,),
        patience_s: float = DRAINED_S,
    ) -> None:
        """`pace`: how much faster clients send than the usual 2,000 to 3,000 records a second.
        `disk`: where the spool stands, if the power is to fail; its library is the stages'.
        `stages`: where lives run, in turn; the last life runs on the last one.
        `patience_s`: how long the last life may deliver nothing of what is left.
        """
        self.report = Report(seed)
        self.on_kill: Callable[[Report], object] = lambda _report: None
        self._directory = directory
        self._dice = random.Random(f"crasher {seed}")
        self._doors = Doors(str(directory / "kdaemon.sock"))
        self._sources: dict[int, Source] = {}
        self._lag = Lag()
        self._oracle = Oracle(self._sources, seed, frozenset({ORDERED}))
        self._clients: list[tuple[Client, Session]] = []
        self._patience_s = patience_s
        self._ending = Ending(
            self._clients,
            self._sources,
            self.report.problems,
            patience_s,
            self._oracle.taken.__contains__,
        )
        self._disk = disk
        self._stages = itertools.cycle(stages)
        self._last_stage = stages[-1]
        self._spool = (directory if disk is None else disk.root) / "spool"
        self._config = self._config_of_older = Path()
        self._older = directory / "config-of-older"
        self._older.mkdir()
        self._life: Life | None = None
        self._is_loss = False  # the death that comes
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
        self._add("unix", ORDERED, "stored", 0.15 / pace)
        self._add("lines", ORDERED, "stored", 0.15 / pace)

    def _add(
        self, kind: str, stream: str, acknowledge: str, think_s: float
    ) -> tuple[Client, Session]:
        index = len(self._sources)
        source = Source(self.report.seed, index, stream, can_spread=kind != "kinesis")
        self._sources[index] = source
        is_taken = self._oracle.taken.__contains__
        added = connected(kind, source, acknowledge, think_s, is_taken, self._doors)
        self._clients.append(added)
        return added

    def _settings(self, port: int) -> dict[str, object]:
        """Timeouts that fit the weather; little memory, so that the disk is read back."""
        return {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "memory_bytes_max": 16 * MIB,
            "listen.unix": self._doors.unix_path,
            "send.call_timeout_ms": int(READ_TIMEOUT_S * 1500),  # of which it is two thirds
            "default.deadline_ms": 3000,
            "default.request_bytes_max": 2 * MIB,
            "default.buffer_bytes_max": 6 * MIB,
            f"streams.{ORDERED}.ordering": "partition_key",
            f"streams.{ORDERED}.acknowledge": "stored",
            "spool.directory": str(self._spool),
            "spool.bytes_max": 256 * MIB,
            "spool.letters_bytes_max": 32 * MIB,
        }

    # A run

    async def run(self, steps: Iterable[Step]) -> Report:
        """Kills as the steps say; then the recount."""
        began_s = time.monotonic()
        port = await self._oracle.start()
        self._config = write_config(self._directory, self._settings(port))
        self._config_of_older = write_config(self._older, self._settings(port) | OLDER)
        talking = [
            asyncio.create_task(client.run(session), name=f"client {client.source.index}")
            for client, session in self._clients
        ]
        feeling = asyncio.create_task(self._feel_lag())
        try:
            for step in steps:
                await self._kill_at(step)
                see_to(talking)
                self.on_kill(self.report)
            for _ in range(MISSED_ROUNDS):  # a slow machine, or long foul weather
                passed = {kill.point for kill in self.report.kills}
                for point in [each for each in self.report.missed if each not in passed]:
                    await self._kill_at(Step(point))
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

    async def _feel_lag(self) -> None:
        """How busy the machine is, as far as it can be felt from here."""
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            now_s = time.monotonic()
            self._lag.felt(now_s, now_s - asleep_s - PAUSE_S)

    # Lives and deaths

    @asynccontextmanager
    async def _living(
        self, point: str = "", *, is_from_scratch: bool = False, is_last: bool = False
    ) -> AsyncIterator[Life]:
        """One life of the daemon: over, in one way or another, when the block is left."""
        death_at = 0
        if point == ON_DISK:
            # As many early ones (a start) as late ones.
            death_at, point = int(math.exp(self._dice.uniform(0.0, math.log(OPERATIONS_MAX)))), ""
        if point:
            count = self._dice.randint(1, INNER_POINTS[point])
            point = f"{point}:{count}:{self._dice.randrange(2**32)}"
        disk = {} if self._disk is None else self._disk.next_process(death_at)
        stage = self._last_stage if is_last else next(self._stages)
        life = await Life.start(
            self._config_of_older if stage.is_older else self._config,
            {**self._environment, **disk},
            point,
            is_from_scratch=is_from_scratch,
            stage=stage,
        )
        self._life = life
        following = asyncio.create_task(self._follow(life))
        try:
            yield life
        finally:
            following.cancel()
            await life.aclose()
            await asyncio.wait([following])
            if self._disk is not None:
                await asyncio.to_thread(self._see_to_disk, self._disk, life)
            self._note(life)

    def _see_to_disk(self, disk: PowerDisk, life: Life) -> None:
        """The process has ended. In a thread: what the daemon's clients feel is the daemon's."""
        if life.exit_code == 0:
            disk.check()
        if self._is_loss:
            disk.lose_power()
            self.report.forgotten_count = disk.forgotten_count
        else:
            disk.killed()

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

    async def _kill_at(self, step: Step) -> None:
        self._is_loss = step.is_loss
        match step.point:
            case "random":
                await self._kill_after(RUN_S_MAX, is_ready=True)
            case "starting":
                await self._kill_after(START_S_MAX, is_ready=False)
            case "after_send":
                await self._kill_by_oracle()
            case "draining":
                await self._kill_draining()
            case "stopped":  # STOPPED
                await self._stop()
            case "start_twice":  # TWICE
                await self._kill_inside(self._dice.choice(("inside_open", "after_open")), TWICE)
                await self._kill_after(START_S_MAX, is_ready=False, point=TWICE)
            case _:
                await self._kill_inside(step.point, step.point)

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

    async def _stop(self) -> None:
        """No death: it is asked to end, and given the time."""
        async with self._living() as life:
            assert await life.wait_ready(), life.tell("ended at its start")
            await life.ends_within(self._dice.uniform(0.0, RUN_S_MAX))
            life.terminate()
            code = await life.end()
            if code != 0:
                self.report.problems.append(life.tell(f"ended with {code}"))
            self.report.kills.append(Kill(STOPPED, time.monotonic(), window_s=0.0))

    async def _died(self, life: Life, point: str) -> None:
        code = await life.end()
        assert code == -9 or point == "draining", life.tell(f"ended by itself with {code}")
        self.report.kills.append(Kill(point, time.monotonic(), self._is_loss))

    # The end

    async def _recover(self, talking: list[asyncio.Task[None]]) -> None:
        """Faults stop; the last life delivers what is left, and what is new."""
        await self._oracle.clear_up()
        self._is_loss = False
        async with self._living(is_last=True) as life:
            assert await life.wait_ready(), life.tell("ended at its start")
            ready_s = time.monotonic()
            await life.ends_within(RUN_S_MAX / 2)  # load goes on for a while
            self._oracle.reshard()  # much is left on disk still
            until_s = time.monotonic() + self._patience_s
            while (
                len(list(promised(self._clients))) < LOAD_RECORDS_MIN and time.monotonic() < until_s
            ):
                await asyncio.sleep(PAUSE_S)
            await self._ending.hear_all(talking)
            await self._ending.wait_taken(life)
            self.report.drained_s = time.monotonic() - ready_s
            kinds = ("unix", "kinesis", "lines")
            fresh = [self._add(kind, STREAMS[0], "delivered", PAUSE_S) for kind in kinds]
            await self._ending.send_fresh(fresh)
            await self._ending.settled(life)
            life.terminate()
            code = await life.end()
            if code != 0:
                self.report.problems.append(life.tell(f"ended with {code} after all was delivered"))

    def _judge(self) -> None:
        report, oracle = self.report, self._oracle
        verdict = report.verdict
        letters = self._ending.letters(self._spool)
        judge_promises(verdict, list(promised(self._clients)), oracle.taken, letters)
        report.lag_s = self._lag.most_s
        judge_repeats(verdict, oracle.repeats, oracle.calls, report.kills, self._lag)
        judge_service(verdict, oracle)
        for client, _ in self._clients:
            complaints = client.promises.complaints
            verdict.problems.extend(f"a client: {text}" for text in complaints)
            report.refused.update(client.promises.refused)
        report.sent_count = sum(source.sent_count for source in self._sources.values())
        report.attempt_count = oracle.attempt_count
