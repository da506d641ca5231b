"""All workers of a supervisor: started, watched, told and asked together.

About: how many workers there are, and which spool each has. A spool with records that no worker has
gets an heir: a process of its own that takes no records in, delivers what the spool has, and ends
when the spool is empty. Must not know sockets, pages or signals.
Invariants: one process has a spool; a worker that fails in the first start ends the start, and a
worker that fails later is started again; at the end no process is left.
Where it sits: supervisor.py -> here -> member.py.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kdaemon.base.errors import SpoolError, WorkerError
from kdaemon.config import Config
from kdaemon.config.load import Sources
from kdaemon.daemon.board import Board
from kdaemon.daemon.member import Member, Move, State
from kdaemon.daemon.part import Former
from kdaemon.daemon.questions import ANSWER_TIMEOUT_S, NoAnswerError
from kdaemon.daemon.worker import Assignment

log = logging.getLogger("kdaemon")

SLOTS = 1024  # of the board: the workers, and all heirs that ever were; ours, 2026-11-28
KILL_GRACE_S = 2.0  # between the order to stop at once and the kill; ours, 2026-11-28


@dataclass(frozen=True, slots=True)
class Answered:
    """The parts of a worker's answer. `why_not`: why there is none; None: there is one."""

    parts: list[Any]
    why_not: str | None = None


class Crew:
    """The workers and heirs of one supervisor."""

    def __init__(
        self,
        config: Config,
        sources: Sources,
        places: dict[str, tuple[str, str]] | None,
        on_serving: Callable[[], object],
    ) -> None:
        """`sources`: the texts of the configuration in force. `places`: of embedded services; None:
        there are none. `on_serving`: is called when a worker may take connections again.
        """
        self._count = config.worker_count
        self._root = config.spool.directory
        self._sources = sources
        self._places = places
        self._on_serving = on_serving
        self._changed = asyncio.Event()
        self._failed: Member | None = None  # the first worker that ended during the first start
        self._is_started = False
        self._is_ending = False
        self._leaves_spool = False
        self._next_slot = self._count
        self._is_held = False  # workers that start now take no records yet
        self.former: Former | None = None  # the daemon before, until its spools are closed
        self.board = Board.make(SLOTS)
        # A lone worker has number 0: its spool is where a lone daemon has one.
        numbers = range(1, self._count + 1) if self._count > 1 else range(1)
        self.members = [
            Member(number, slot, self.board, self._assign, self._on_change)
            for slot, number in enumerate(numbers)
        ]
        self.heirs: list[Member] = []

    @property
    def all(self) -> list[Member]:
        """The workers and the heirs."""
        return [*self.members, *self.heirs]

    @property
    def takers(self) -> list[Member]:
        """The workers that may be given connections."""
        return [each for each in self.members if each.can_take]

    @property
    def serving(self) -> list[Member]:
        """The workers and heirs that serve now: started, and not told to end."""
        return [each for each in self.all if each.state is State.SERVING]

    @property
    def open_count(self) -> int:
        """Connections that the workers have."""
        return sum(each.open_count for each in self.members)

    @property
    def has_sandbox(self) -> bool:
        """Whether services are embedded in the supervisor."""
        return self._places is not None

    # The start

    async def prepare(self) -> None:
        """Starts all workers, and returns when each could take records. None takes any yet: another
        daemon still serves. Raises WorkerError; the caller calls `stop` in any case.
        """
        self._is_held = True
        await self._begun(State.ABLE)

    async def start(self) -> None:
        """Returns when all workers take records. Raises as `prepare`."""
        self._is_held = False
        # A worker that ended since `prepare` was started again; the other daemon has ended.
        self._failed = None
        self.tell({"go_on": True})
        await self._begun(State.SERVING)
        self._is_started = True

    async def _begun(self, state: State) -> None:
        """Starts all processes that were never started, and waits until all workers are in
        `state`.
        """
        self.inherit()
        try:
            for member in self.all:
                if member.state is State.WAITING and member.pid == 0:
                    member.begin()
        except OSError as error:
            raise WorkerError(f"no process can be had: {error.strerror}") from error
        await self._until(lambda: all(each.state is state for each in self.members))
        if self._failed is not None:
            raise WorkerError(f"worker {self._failed.number} ended: its lines above say why")

    def inherit(self) -> None:
        """Makes an heir for each spool that has records and no worker; one that has an heir is left
        out.
        """
        if not self._root or self.former is not None:
            return
        from kdaemon.spool.shared import left_spools  # noqa: PLC0415 - only for a spool

        kept = [self.directory_of(each.number) for each in self.members]
        for number in left_spools(self._root, kept):
            if any(each.number == number for each in self.heirs) or self._next_slot >= SLOTS:
                continue
            heir = Member(
                number, self._next_slot, self.board, self._assign, self._on_change, is_heir=True
            )
            self._next_slot += 1
            self.heirs.append(heir)
            fields = {"directory": self.directory_of(number)}
            text = "a spool that no worker has holds records: a process of its own delivers them"
            log.info(text, extra={"fields": fields})
            if self._is_started:
                heir.begin()

    def directory_of(self, number: int) -> str:
        """The directory of a worker's spool; "": it has none."""
        if not self._root or number == 0:
            return self._root
        from kdaemon.spool.shared import worker_directory  # noqa: PLC0415 - as above

        return worker_directory(self._root, number)

    def _assign(self, member: Member) -> Assignment:
        member.sources = self._sources
        return Assignment(
            number=member.number,
            slot=member.slot,
            slots=SLOTS,
            worker_count=self._count,
            directory=self.directory_of(member.number),
            is_heir=member.is_heir,
            sources=self._sources,
            places=self._places,
            former=self.former,
            is_held=self._is_held,
        )

    def take_sources(self, sources: Sources) -> None:
        """`sources`: of the configuration in force now, for the processes that start later."""
        self._sources = sources

    def released(self) -> None:
        """The daemon that we took over from has closed its spools."""
        self.former = None
        self.tell({"released": True})
        try:
            self.inherit()
        except (SpoolError, OSError) as error:
            log.warning("spools that no worker has could not be looked at: %s", error)

    def _on_change(self, member: Member, move: Move) -> None:
        is_early = not self._is_started and not self._is_ending
        if move is Move.ENDED and is_early and not member.is_heir and self._failed is None:
            self._failed = member
        if member.is_heir and member.state is State.GONE and not self._is_ending:
            text = "what stood in the spool of a worker that is no more is delivered"
            log.info(text, extra={"fields": {"spool": member.number}})
            self.heirs.remove(member)
        if move is Move.READY:
            self._on_serving()
            if member.sources is not self._sources and member.state is State.SERVING:
                member.renew()  # the configuration changed while this worker started
        self._changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Waits until `is_so()`, or until a worker failed in the first start."""
        while not is_so() and self._failed is None:
            self._changed.clear()
            await self._changed.wait()

    # While it runs

    def look(self) -> None:
        """Is called once a second."""
        for member in self.all:
            member.look()

    def tell(self, fields: dict[str, Any]) -> None:
        """Tells all whose process runs."""
        for member in self.all:
            member.tell(fields)

    async def ask(
        self,
        name: str,
        *given: Any,
        whom: Iterable[Member] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> dict[Member, Answered]:
        """The answer of each that can be asked, of `whom` or of all."""
        asked = [each for each in (self.all if whom is None else whom) if each.is_askable]

        async def one(member: Member) -> Answered:
            try:
                return Answered(await member.ask(name, *given, timeout_s=timeout_s))
            except NoAnswerError as error:
                return Answered([], str(error))

        return dict(zip(asked, await asyncio.gather(*map(one, asked)), strict=True))

    # The end

    def leave(self, *, leaves_spool: bool) -> None:
        """Tells all to drain and to end; none is started again."""
        self._is_ending = True
        for member in self.all:
            member.leave(leaves_spool=leaves_spool)

    async def ended(self) -> None:
        """Returns when no process is left."""
        while not all(each.state is State.GONE for each in self.all):
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """Ends all processes: by an order, and by a kill after KILL_GRACE_S."""
        self.leave(leaves_spool=False)
        self.tell({"stop": True})
        try:
            async with asyncio.timeout(KILL_GRACE_S):
                await self.ended()
        except TimeoutError:
            for member in self.all:
                member.kill()
            await self.ended()

    @property
    def totals(self) -> dict[str, int]:
        """The sums of the totals that each process told at its end."""
        sums: dict[str, int] = {}
        for member in self.all:
            for name, number in member.totals.items():
                sums[name] = sums.get(name, 0) + number
        return sums

    @property
    def exit_code(self) -> int:
        """1: some process left records undelivered, or broke, or did not end in time; else 0."""
        return int(any(each.exit_code or each.is_running for each in self.all))
