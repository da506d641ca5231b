"""What ends a daemon, and what each signal asks for."""

import asyncio
import logging
from collections.abc import Coroutine

import pytest

from kdaemon.daemon.run import run_daemon


class Stand:
    """Stands in for a daemon that is up, and is told to end twice: the second signal comes so many
    turns of the loop after the drain, which has nothing to do. `events`: in their order.
    """

    held_spool = ""
    takes_records = True

    def __init__(self, turns: int) -> None:
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self.signals.put_nowait(0)
        self.events: list[str] = []
        self._turns = turns

    async def start(self, *, with_sandbox: bool) -> None:
        pass

    async def drain(self) -> int:
        self._after(self._turns)
        return 0

    def close(self) -> Coroutine[None, None, None]:
        self.events.append("close")  # begun, if not run yet
        return self._close()

    async def _close(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def _after(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._after, turns - 1)
            return
        self.events.append("signal")
        self.signals.put_nowait(0)


@pytest.mark.parametrize("turns", range(8))
async def test_a_signal_is_about_what_runs_when_it_comes(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker is told to drain and to stop at once, and its drain may end between the two. The
    second signal then cuts nothing, and says nothing of a disk that hangs.
    """
    stand = Stand(turns)
    with caplog.at_level(logging.INFO, "kdaemon"):
        await run_daemon(stand, stand.signals, with_sandbox=False)
    is_left = any(text.startswith("not all could be closed") for text in caplog.messages)
    assert is_left is (stand.events == ["close", "signal"])
