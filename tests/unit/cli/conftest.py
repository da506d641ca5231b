"""Commands of somebody without settings; and a spool, whose time stands still."""

import os
from pathlib import Path

import pytest

from kdaemon.system import SystemClock
from tests.kit.stores import NOW_MS

SETTINGS = ("KDAEMON_", "AWS_", "XDG_", "RUNTIME_")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ages in it do not depend on how long the suite takes."""
    monkeypatch.setattr(SystemClock, "wall_seconds", lambda: NOW_MS / 1000)
    return tmp_path / "spool"
