"""What one of several workers has instead of the parts of a lone daemon.

About: the worker's listeners, its turn to listen, its service manager, and the process that had its
spool before. The supervisor stands between each of these and the machine.
Invariant: a worker binds nothing, passes nothing on and tells the service manager nothing by
itself.
Where it sits: worker.py makes it; daemon.py takes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdaemon.daemon.channel import Channel
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.sandboxed import SandboxAddresses
from kdaemon.daemon.takeover import Turn
from kdaemon.observe.notify import Notifier


class Before(Protocol):
    """The daemon before, which may still hold the spool."""

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    def has_spool(self, directory: str) -> bool:
        """Whether that daemon has, or waits for, the spool at `directory`."""
        ...

    async def released(self) -> None:
        """Returns when that daemon has closed its spool, or is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """`before`: None: there was no daemon before. `look`: is called at each beat of the loop.
    `places`: of the supervisor's embedded services; None: there are none.
    """

    number: int
    listeners: Listeners
    turn: Turn
    notifier: Notifier
    before: Before | None
    look: Callable[[], object]
    places: SandboxAddresses | None


@dataclass(frozen=True, slots=True)
class Former:
    """The daemon that the supervisor takes over from, as a worker has to know it. `has_spool`: that
    daemon has, or waits for, the directory above the workers' spools. `has_to_wait`: as `Turn`'s.
    """

    pid: int
    has_spool: bool
    has_to_wait: bool


class BeforeUs:
    """The daemon before the supervisor. The supervisor says when that daemon let go of the
    spool.
    """

    def __init__(self, former: Former) -> None:
        self.pid = former.pid
        self._has_spool = former.has_spool
        self._is_released = asyncio.Event()

    def has_spool(self, _directory: str) -> bool:
        """The supervisor has looked at the directory above the workers' spools."""
        return self._has_spool

    def let_go(self) -> None:
        """That daemon has closed its spools, or is gone."""
        self._is_released.set()

    async def released(self) -> None:
        """As `Before` has it."""
        await self._is_released.wait()


class WorkersTurn(Turn):
    """A worker's turn is its supervisor's. `leaves_spool`: the supervisor has told so."""

    def __init__(
        self, tell_able: Callable[[], object], *, has_to_wait: bool, is_held: bool
    ) -> None:
        """`tell_able`: tells the supervisor that this worker could take records. `is_held`: it
        takes none before `go_on`. That comes when the daemon before has ended, or may end while
        this worker serves.
        """
        self._tell_able = tell_able
        self._may_go_on = asyncio.Event()
        self._is_held = is_held
        self.has_to_wait = has_to_wait

    async def keep_order(self) -> None:
        if self._is_held:
            self._tell_able()
            await self._may_go_on.wait()

    def go_on(self) -> None:
        """The supervisor lets this worker take records."""
        self._may_go_on.set()


class ToSupervisor(Notifier):
    """Sends messages for the service manager to the supervisor, which speaks for all workers."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        super().__init__({})
        self._channel = channel

    def status(self, text: str) -> bool:
        self._channel.tell({"status": text})
        return True

    def extend_timeout(self, timeout_s: float) -> bool:
        self._channel.tell({"extend_s": timeout_s})
        return True


def in_words(reasons: Sequence[tuple[int, str]]) -> str:
    """The reasons that workers give, each with its number; one text if all give the same."""
    texts = list(dict.fromkeys(text for _, text in reasons))
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"worker {number}: {text}" for number, text in reasons)
