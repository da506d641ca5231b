"""Workers whose processes are none."""

import os
from collections.abc import Callable

import pytest

from kdaemon.daemon import member as member_module


class FakeProcess:
    """One that ends when the test says so."""

    def __init__(
        self, _arguments: object, _descriptors: object, on_end: Callable[[int], object]
    ) -> None:
        self.pid = os.getpid()
        self.end = on_end
        self.is_killed = False

    def kill(self) -> None:
        self.is_killed = True


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """Those that members begin, in order."""
    made: list[FakeProcess] = []

    def begin(*given: object) -> FakeProcess:
        made.append(FakeProcess(*given))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(member_module, "Process", begin)
    return made
