"""The simulated world with a disk: a real spool over a real store, in the world's time.

The spool's loop and its thread are the world's heap: a job of the thread runs when the one before
it is done, and takes `JOB_NS`. A `Life` is a daemon with one stream; `kill` ends it as a crash
does.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from kdaemon.base.admission import make_frame
from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import RefusedError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.service import AWS
from kdaemon.config import StreamConfig
from kdaemon.config.values import WhenFull
from kdaemon.engine import Engine
from kdaemon.send.dry_runs import DryRuns
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.streams import Stream
from tests.kit.streams import FakeService
from tests.kit.world import MS, SECOND, STREAM, World

JOB_NS = 5 * MS  # of the spool's thread: a commit, a read
MIB = 1024 * 1024


class Job:
    """What the thread does, as the future that the spool waits for."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._callbacks: list[Callable[[Any], object]] = []
        self._error: BaseException | None = None
        self._result: object = None
        self._is_run = False

    def run(self) -> None:
        if not self._is_run:
            self._is_run = True
            try:
                self._result = self._call()
            except Exception as error:  # noqa: BLE001 - told, as a future tells it
                self._error = error

    def tell(self) -> None:
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> object:
        if self._error is not None:
            raise self._error
        return self._result

    def __await__(self) -> Generator[None, None, object]:
        yield from ()
        self.run()
        return self.result()


class Timer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """What the spool asks of an asyncio loop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thread_free_ns = 0
        self.is_over = False

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.call_later(0, callback, *args)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer()

        def ring() -> None:
            if not (timer.is_cancelled or self.is_over):
                callback(*args)

        self._world.at(self._world.now_ns + round(seconds * SECOND), ring)
        return timer

    def time(self) -> float:
        return self._world.now_ns / SECOND

    def call_at(self, _at_s: float, _callback: Callable[[], object]) -> Timer:
        """The look after the files, by a thread of its own: it never comes here."""
        return Timer()

    def run_in_executor(self, _thread: object, call: Callable[..., object], *args: object) -> Job:
        job = Job(lambda: call(*args))
        begin_ns = max(self._world.now_ns, self._thread_free_ns)
        self._thread_free_ns = end_ns = begin_ns + JOB_NS

        def begin() -> None:
            if not self.is_over:
                job.run()

        self._world.at(begin_ns, begin)
        self._world.at(end_ns, lambda: None if self.is_over else job.tell())
        return job


class Driver:
    """The engine's shell, as `Stream` needs it."""

    def __init__(self, world: World, engine: Engine, loop: Loop) -> None:
        self.engine = engine
        self.target = StreamTarget(STREAM, is_listed=True)
        self.encryption_type = "NONE"
        self.dry_runs = DryRuns(self.target, FakeService())
        self._world = world
        self._loop = loop
        self._waiters: dict[Callable[[], object], None] = {}
        self._is_pump_due = False

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        is_taken = self.engine.handle_frame(frame, self._world.now_ns, is_patient=is_patient)
        self._pump_soon()
        return is_taken

    def submit_spooled(self, frame: Frame) -> bool:
        is_taken = self.engine.handle_spooled(frame, self._world.now_ns)
        self._pump_soon()
        return is_taken

    def when_room(self, callback: Callable[[], object]) -> None:
        self._waiters[callback] = None

    def tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter()

    def _pump_soon(self) -> None:
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        self._world.pump(self.engine)


class Life:
    """A daemon from its start to its end."""

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        memory_bytes_max: int = 256 * MIB,
        spool_bytes_max: int = 1024 * MIB,
        when_full: WhenFull = "reject",
    ) -> None:
        self.world = world
        self.memory = ByteBudget(memory_bytes_max)
        self.engine = world.add_engine(memory=self.memory)
        self.counters = self.engine.counters
        self.loop = Loop(world)
        self._stores: list[Store] = []
        self.driver = Driver(world, self.engine, self.loop)
        with mock.patch("asyncio.get_running_loop", return_value=self.loop):
            self.spool = Spool(
                self._open(directory),
                spool_bytes_max,
                self.memory,
                self,
                later=self.loop.call_soon,
            )
            done(self.spool.open())
        config = StreamConfig(
            STREAM,
            acknowledge="stored",
            buffer_bytes_max=world.settings.buffer_bytes_max,
            when_full=when_full,
        )
        self.stream = Stream(
            config,
            AWS,
            self.driver,  # type: ignore[arg-type]
            self,
            self.memory,
            self.spool,
        )
        done(self.spool.recover(lambda _: self.stream))

    def _open(self, directory: Path) -> Callable[[], Store]:
        def begin() -> Store:
            store = Store(
                str(directory), letters_bytes_max=64 * MIB, wall_ms=lambda: self.now_ns() // MS
            )
            self._stores.append(store)
            return store

        return begin

    def now_ns(self) -> int:
        return self.world.now_ns

    def wall_seconds(self) -> float:
        return self.world.now_ns / SECOND

    @property
    def frame_count(self) -> int:
        """Frames on disk that are not done with."""
        return self.spool.streams.frame_count

    def put(self, records: list[Record], told: Callable[[Frame], object] | None = None) -> bool:
        """A client's request; `told` hears what became of it."""
        sizes = [
            len(each.data) + (len(each.partition_key.encode()) or SPREAD_KEY_BYTES)
            for each in records
        ]
        frame = make_frame(records, sizes, Acknowledge.STORED, told, None)
        try:
            return self.spool.put(self.stream, frame)
        except RefusedError:
            return False

    def kill(self) -> None:
        """What the thread has not begun is not done; what was sent still arrives."""
        self.loop.is_over = True
        self.world.remove_engine(self.engine)
        for store in self._stores:
            store.close()


class DiskWorld(World):
    """A world whose engines tell their drivers what settles."""

    lives: list[Life]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lives = []

    def live(self, directory: Path, **limits: Any) -> Life:
        life = Life(self, directory, **limits)
        self.lives.append(life)
        return life

    def pump(self, engine: Engine) -> None:
        settled_count = len(self.settled)
        super().pump(engine)
        if len(self.settled) > settled_count:
            for life in self.lives:
                if life.engine is engine:
                    life.driver.tell_waiters()


def done(work: Awaitable[object]) -> None:
    """Runs a coroutine that waits for nothing but jobs."""
    with suppress(StopIteration):
        work.__await__().send(None)
        raise AssertionError("it waits for something else")
