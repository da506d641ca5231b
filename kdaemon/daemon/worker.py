"""One of several workers: a daemon that gets its connections and orders from the supervisor.

About: the orders and questions to a worker, and its reports. It begins with its assignment: the
number of its part, and the texts that its configuration is made of. The texts are sent, so that all
workers have the same configuration, whatever the file says by now. Knows its ends of two channels
and the board; must not know other workers.
Invariants: a worker ends by an order, or when the supervisor is gone, and drains in either case.
Signals go to the supervisor, which passes on what they mean.
Where it sits: the command `worker` -> here -> daemon.py.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from kdaemon import __version__
from kdaemon.base.errors import ConfigError, WorkerError
from kdaemon.config.load import Loaded, Sources, load_sources
from kdaemon.config.parts import heir_of, part_of
from kdaemon.daemon.board import Board, Field
from kdaemon.daemon.change import Prepared
from kdaemon.daemon.channel import Channel
from kdaemon.daemon.daemon import Daemon
from kdaemon.daemon.handing import HandedListeners
from kdaemon.daemon.part import BeforeUs, Former, Part, ToSupervisor, WorkersTurn
from kdaemon.daemon.questions import Answer, answer_all, in_turn, stepped
from kdaemon.daemon.run import run_daemon
from kdaemon.observe.logs import LogHandler
from kdaemon.observe.slices import SLICE_NS, Page

log = logging.getLogger("kdaemon")

EMPTY_LOOK_S = 0.5  # how often an heir looks whether its spool is empty; ours, 2026-11-28


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is to be. `number`: its name; 0: its spool is where a lone daemon has one.
    `slot`: on the board. `directory`: of its spool; "": it has none. `is_heir`: no records come in,
    and it ends when its spool is empty. `places`: of the supervisor's embedded services. `former`:
    the daemon that is taken over from. `is_held`: it takes no records before the order to go on.
    `version`: of the supervisor.
    """

    number: int
    slot: int
    slots: int
    worker_count: int
    directory: str
    is_heir: bool
    sources: Sources
    places: dict[str, tuple[str, str]] | None = None
    former: Former | None = None
    is_held: bool = False
    version: str = __version__

    def encode(self) -> bytes:
        """For `decode` in the process of the worker."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Assignment":
        """Raises WorkerError: another version sent it, and means something else."""
        told = json.loads(data)
        version = told.get("version")
        try:
            flags = tuple((key, value) for key, value in told["sources"].pop("flags"))
            sources = Sources(flags=flags, **told.pop("sources"))
            places = told.pop("places")
            if places is not None:
                places = {name: tuple(place) for name, place in places.items()}
            former = told.pop("former")
            former = None if former is None else Former(**former)
            return cls(sources=sources, places=places, former=former, **told)
        except (KeyError, TypeError) as error:
            raise WorkerError(
                f"kdaemon was replaced while it runs: this worker is of version {__version__}, and "
                f"its supervisor is of version {version}; restart kdaemon"
            ) from error

    def load(self, sources: Sources) -> Loaded:
        """The part of this worker in the configuration that `sources` make. Raises ConfigError."""
        loaded = load_sources(sources, os.environ)
        whole = replace(loaded.config, worker_count=self.worker_count)
        part = heir_of if self.is_heir else part_of
        return replace(loaded, config=part(whole, directory=self.directory))


class Worker:
    """The worker that this process is."""

    def __init__(
        self,
        assignment: Assignment,
        loaded: Loaded,
        logs: LogHandler,
        told: socket.socket,
        asked: socket.socket,
        board: Board,
    ) -> None:
        """`told`, `asked`: this worker's ends of the channels. `loaded`: from `assignment.load`."""
        self._assignment = assignment
        self._config = loaded.config
        self._asked = asked
        self._board = board
        self._orders: asyncio.Queue[int] = asyncio.Queue()
        self._channel = Channel(told, self._on_told, self._on_end, self._on_connection)
        former = assignment.former
        self._turn = WorkersTurn(
            lambda: self._channel.tell({"able": True}),
            has_to_wait=former is not None and former.has_to_wait,
            is_held=assignment.is_held,
        )
        self._why_not_ready: str | None = "starting"
        self._prepared: tuple[Prepared, Loaded] | None = None
        self._before = None if former is None else BeforeUs(former)
        self._listeners = HandedListeners(self._config.listen, None)
        part = Part(
            assignment.number,
            self._listeners,
            self._turn,
            ToSupervisor(self._channel),
            self._before,
            self._look,
            assignment.places,
        )
        self.daemon = Daemon(loaded, logs, part=part)

    async def run(self) -> int:
        """Runs the daemon to its end; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._channel.start()
        if self._assignment.version != __version__:
            fields = {"version": __version__, "supervisor": self._assignment.version}
            text = "this worker is of another version than its supervisor: restart kdaemon"
            log.warning(text, extra={"fields": fields})
        # A snapshot is work and may be large, so one is made at a time. Changes go one by one.
        snapshots, changes = asyncio.Lock(), asyncio.Lock()
        answers: dict[str, Answer] = {
            "snapshot": in_turn(snapshots, self._snapshot),
            "tap": self._tap,
            "prepare": in_turn(changes, self._prepare),
            "commit": in_turn(changes, self._commit),
            "drop": in_turn(changes, self._drop),
        }
        answering = loop.create_task(answer_all(self._asked, answers))
        ready = loop.create_task(self._tell_ready())
        try:
            return await run_daemon(self.daemon, self._orders, with_sandbox=False)
        finally:
            answering.cancel()
            ready.cancel()
            self._tell_end()

    # What it is told

    def _on_told(self, fields: dict[str, Any]) -> None:
        match fields:
            case {"drain": leaves_spool}:
                self._turn.leaves_spool = leaves_spool
                self._orders.put_nowait(0)
            case {"leave": True}:
                self._listeners.leave()
            case {"stop": True} if self._drains:  # else the first order ends it
                self._orders.put_nowait(0)
            case {"released": True} if self._before is not None:
                self._before.let_go()
            case {"go_on": True}:
                self._turn.go_on()

    @property
    def _drains(self) -> bool:
        """Records were taken, and the drain is not over: an order can cut it."""
        return self.daemon.takes_records and self.daemon.left is None

    def _on_end(self) -> None:
        log.error("the supervisor is gone: this worker delivers what it has, and ends")
        self._listeners.leave()
        self._orders.put_nowait(0)

    def _on_connection(self, name: str, connection: socket.socket | None) -> None:
        if connection is not None:
            self._listeners.serve(name, connection)
        else:
            self._listeners.count_lost(name)
            log.warning("no file descriptor is left: a new connection was closed")
            # Until the next look, a second later at most.
            self._board.write(self._assignment.slot, Field.IS_READY, 0)
        self._board.add(self._assignment.slot, Field.TAKEN)
        self._write_open()

    # What it tells

    async def _tell_ready(self) -> None:
        await self.daemon.ready.wait()
        self._look()
        self._channel.tell({"ready": True})
        while self._assignment.is_heir:
            await asyncio.sleep(EMPTY_LOOK_S)
            if self.daemon.is_empty:
                self._channel.tell({"empty": True})
                self._orders.put_nowait(0)
                return

    def _look(self) -> None:
        """Writes the board. Is called once a second, in the loop that serves clients."""
        slot = self._assignment.slot
        self._board.add(slot, Field.BEATS)
        self._write_open()
        why = self.daemon.why_not_ready
        self._board.write(slot, Field.IS_READY, int(why is None))
        if why != self._why_not_ready:
            self._why_not_ready = why
            self._channel.tell({"not_ready": why})

    def _write_open(self) -> None:
        self._board.write(self._assignment.slot, Field.OPEN, self._listeners.open_count)

    def _tell_end(self) -> None:
        if self.daemon.totals:
            self._channel.tell({"ended": self.daemon.totals})

    # What it is asked

    async def _snapshot(self, shards_max: int | None, calm_max: int) -> AsyncIterator[Any]:
        """The first part is everything but the streams; then each stream is a part."""
        now_ns = self.daemon.clock.now_ns
        read = self.daemon.reader.read(shards_max, calm_max)
        snapshot = await stepped(read, now_ns, SLICE_NS)
        yield msgspec.structs.replace(snapshot, streams=())
        for stream in snapshot.streams:
            yield stream

    async def _tap(self, stream: str, with_data: bool) -> AsyncIterator[tuple[int, bytes]]:
        page: asyncio.Future[Page] = asyncio.get_running_loop().create_future()

        def give(given: Page) -> None:
            if not page.done():
                page.set_result(given)

        forget = self.daemon.taps.look(give, stream, with_data=with_data)
        try:
            given = await page
        finally:
            if forget is not None:
                forget()
        yield given.status, given.body

    async def _prepare(self, sources: Sources) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
        """The word "ready", or why not: "conflicts" with tables, "wrong" with problems."""
        await self._forget_prepared()
        try:
            loaded = await asyncio.to_thread(self._assignment.load, sources)
        except ConfigError as error:  # a file that the configuration names has changed meanwhile
            yield "wrong", tuple(map(str, error.problems))
            return
        prepared = await self.daemon.change.prepare(self._config, loaded.config)
        if not isinstance(prepared, Prepared):
            yield "conflicts", prepared
            return
        self._prepared = prepared, loaded
        yield "ready", ()

    async def _commit(self) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
        assert self._prepared is not None, "it was prepared"
        (prepared, loaded), self._prepared = self._prepared, None
        conflicts = await self.daemon.change.commit(prepared)
        if conflicts:
            yield "conflicts", conflicts
            return
        self._config = loaded.config
        self.daemon.take_config(loaded.config)
        yield "ready", ()

    async def _drop(self) -> AsyncIterator[None]:
        await self._forget_prepared()
        yield None

    async def _forget_prepared(self) -> None:
        before, self._prepared = self._prepared, None
        if before is not None:
            await self.daemon.change.drop(before[0])
