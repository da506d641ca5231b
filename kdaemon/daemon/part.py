"""What a daemon that is one of several workers has in the place of what a lone one has.

About: its listeners, whose turn it is to listen, the service manager, and who had its spool before.
Between each of these and the machine stands the supervisor.
Invariant: a worker binds nothing, passes nothing on and tells the service manager nothing by
itself.
Where it sits: worker.py makes it; daemon.py takes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdaemon.config import Config
from kdaemon.daemon.channel import Channel
from kdaemon.daemon.listeners import Listeners
from kdaemon.observe.notify import Notifier


class Before(Protocol):
    """Who may hold the spool still."""

    @property
    def pid(self) -> int: ...

    async def released(self) -> None:
        """Until that one has closed it, or is gone."""
        ...


class Turn(Protocol):
    """Whose turn it is to listen, as `Takeover` has it."""

    @property
    def has_to_wait(self) -> bool: ...

    @property
    def leaves_spool(self) -> bool: ...

    async def keep_order(self) -> None: ...

    async def take_turns(self) -> None: ...

    def close(self) -> None: ...

    def released(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """`before`: None: nobody. `look`: at each beat of the loop. `sandboxed`: the configuration that
    leads to the supervisor's embedded services, if there are some.
    """

    number: int
    listeners: Listeners
    turn: Turn
    notifier: Notifier
    before: Before | None
    look: Callable[[], object]
    sandboxed: Config | None


class BeforeUs:
    """The daemon before the supervisor: it says when that one let go of the spool."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._is_released = asyncio.Event()

    def let_go(self) -> None:
        self._is_released.set()

    async def released(self) -> None:
        await self._is_released.wait()


class WorkersTurn:
    """The supervisor's turn is that of its workers. `leaves_spool`: it has told so."""

    has_to_wait = False  # the supervisor has waited
    leaves_spool = False

    async def keep_order(self) -> None:
        pass

    async def take_turns(self) -> None:
        pass

    def close(self) -> None:
        pass

    def released(self) -> None:
        pass


class ToSupervisor(Notifier):
    """What is for the service manager goes to the supervisor, which speaks for all."""

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
    """What workers say, by number: once where all say the same."""
    texts = list(dict.fromkeys(text for _, text in reasons))
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"worker {number}: {text}" for number, text in reasons)
