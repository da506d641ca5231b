"""All workers of a supervisor: started together, looked after, told and asked together.

About: how many there are, which spool each has, and who delivers what stands in spools that none of
them has: an heir, a process of its own that takes nothing in and ends when its spool is empty.
Must not know sockets, pages or signals.
Invariants: one process has a spool; a worker that fails in the first start ends the start, and one
that fails later is started again; at the end nobody is left.
Where it sits: supervisor.py -> here -> member.py.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
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

SLOTS = 1024  # of the board: workers, and heirs of as many as there ever were; ours, 2026-11-28
KILL_GRACE_S = 2.0  # from the order to stop at once to the end; ours, 2026-11-28


class Crew:
    """Of one supervisor."""

    def __init__(
        self,
        config: Config,
        sources: Sources,
        places: dict[str, tuple[str, str]] | None,
        on_serving: Callable[[], object],
    ) -> None:
        """`sources`: of the configuration in force. `places`: of embedded services. `on_serving`:
        some worker may take connections again.
        """
        self._count = config.worker_count
        self._root = config.spool.directory
        self._sources = sources
        self._places = places
        self._on_serving = on_serving
        self._changed = asyncio.Event()
        self._failed: Member | None = None  # in the first start
        self._is_started = False
        self._is_ending = False
        self._leaves_spool = False
        self._next_slot = self._count
        self._is_held = False  # who is started takes no records yet
        self.former: Former | None = None  # who is taken over from, until that has ended
        self.board = Board.make(SLOTS)
        # 0: whose spool is where a lone daemon has it.
        numbers = range(1, self._count + 1) if self._count > 1 else range(1)
        self.members = [
            Member(number, slot, self.board, self._assign, self._on_change)
            for slot, number in enumerate(numbers)
        ]
        self.heirs: list[Member] = []

    @property
    def all(self) -> list[Member]:
        return [*self.members, *self.heirs]

    @property
    def takers(self) -> list[Member]:
        """Who may be given connections."""
        return [each for each in self.members if each.can_take]

    @property
    def serving(self) -> list[Member]:
        """All that were started and were not told to end, heirs included."""
        return [each for each in self.all if each.state is State.SERVING]

    @property
    def open_count(self) -> int:
        """Connections."""
        return sum(each.open_count for each in self.members)

    @property
    def has_sandbox(self) -> bool:
        """Services are embedded in the supervisor."""
        return self._places is not None

    # The start

    async def prepare(self) -> None:
        """Until all could take records, and take none: while another daemon serves. Raises
        WorkerError; `stop` is owed anyway.
        """
        self._is_held = True
        await self._begun(State.ABLE)

    async def start(self) -> None:
        """Until all take records. As `prepare`."""
        self._is_held = False
        self._failed = None  # one that ended since was started again: the other daemon has ended
        self.tell({"go_on": True})
        await self._begun(State.SERVING)
        self._is_started = True

    async def _begun(self, state: State) -> None:
        """Begins all that have not begun, and waits until all have come so far."""
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
        """Spools with records that no worker has get an heir each; one that has one is left out."""
        if not self._root or self.former is not None:
            return
        from kdaemon.spool.shared import left_spools  # noqa: PLC0415 - of those who store something

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
        """Of the spool; "": there is none."""
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
        """Of the configuration that is in force now: who is started from now on has it."""
        self._sources = sources

    def released(self) -> None:
        """The daemon before has closed its spools."""
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
                member.renew()  # the configuration changed while it was started
        self._changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Or until one failed in the first start."""
        while not is_so() and self._failed is None:
            self._changed.clear()
            await self._changed.wait()

    # While it runs

    def look(self) -> None:
        """Once a second."""
        for member in self.all:
            member.look()

    def tell(self, fields: dict[str, Any]) -> None:
        for member in self.all:
            member.tell(fields)

    async def ask(
        self,
        name: str,
        *given: Any,
        whom: Iterable[Member] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> dict[Member, list[Any] | None]:
        """The answer of each that runs; None: it gave none."""
        asked = [
            each
            for each in (self.all if whom is None else whom)
            if each.state in {State.SERVING, State.LEAVING}
        ]

        async def one(member: Member) -> list[Any] | None:
            try:
                return await member.ask(name, *given, timeout_s=timeout_s)
            except NoAnswerError:
                return None

        return dict(zip(asked, await asyncio.gather(*map(one, asked)), strict=True))

    # The end

    def leave(self, *, leaves_spool: bool) -> None:
        """All are to drain and to end; none is started again."""
        self._is_ending = True
        for member in self.all:
            member.leave(leaves_spool=leaves_spool)

    async def ended(self) -> None:
        """Until nobody is left."""
        while not all(each.state is State.GONE for each in self.all):
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """All end at once."""
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
        """What those who ended have told of it, together."""
        sums: dict[str, int] = {}
        for member in self.all:
            for name, number in member.totals.items():
                sums[name] = sums.get(name, 0) + number
        return sums

    @property
    def exit_code(self) -> int:
        """1: somebody left something undelivered, or broke, or did not end in time."""
        return int(any(each.exit_code or each.is_running for each in self.all))
