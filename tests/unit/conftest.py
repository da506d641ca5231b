"""For all tests of one room: event loops of both kinds, and what nobody may change."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from kdaemon.http.answer import CBOR
from kdaemon.http.request import CBOR_ALONE, NO_HEADERS


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine in a loop of its own, once in asyncio's and once in uvloop's."""

    def run_in_loop(main: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run_in_loop


@pytest.fixture(autouse=True)
def _shared_headers_are_not_written_to() -> Iterator[None]:
    """All requests that wait share these two."""
    yield
    assert not NO_HEADERS
    assert CBOR_ALONE == {b"content-type": CBOR}
