"""Fixtures: a daemon of the test's own, and one that a module's tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.daemon import Daemon, running, sandbox

Run = Callable[..., Daemon]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a daemon with these settings, over an embedded sandbox or `service=URL`; killed at
    the end of the test.
    """
    with ExitStack() as stack:

        def start(settings: dict[str, object] | None = None, **more: Any) -> Daemon:
            return stack.enter_context(running(tmp_path, settings, **more))

        yield start


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test enters or calls back, at its end."""
    with ExitStack() as found:
        yield found


@pytest.fixture
def one_shard() -> Iterator[str]:
    """A service of its own, with the stream `demo` of one shard; its URL."""
    with sandbox("demo", 1) as url:
        yield url
