"""What tests of the HTTP room share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.kit.certificates import Files
from tests.unit.http.harness import Harness, Make
from tests.unit.http.http2_harness import Http2Harness, Make2, MakeRaw, RawHarness


@pytest.fixture(params=["plain", "tls"])
async def harness(request: pytest.FixtureRequest, certificate: Files) -> AsyncIterator[Make]:
    """A connection in memory, once in clear and once through TLS."""
    made: list[Harness] = []
    files = certificate if request.param == "tls" else None

    def make(*args: Any, **kwargs: Any) -> Harness:
        made.append(Harness(*args, files=files, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.lose()
    for one in made:
        await one.hub.aclose(0)


@pytest.fixture
async def http2() -> AsyncIterator[Make2]:
    made: list[Http2Harness] = []

    def make(*args: Any, **kwargs: Any) -> Http2Harness:
        made.append(Http2Harness(*args, **kwargs))
        return made[-1]

    yield make
    await _end(made)


@pytest.fixture
async def raw() -> AsyncIterator[MakeRaw]:
    made: list[Http2Harness] = []

    def make(*args: Any, **kwargs: Any) -> RawHarness:
        one = RawHarness(*args, **kwargs)
        made.append(one)
        return one

    yield make
    await _end(made)


async def _end(made: list[Http2Harness]) -> None:
    for one in made:
        one.lose()
    for one in made:
        await one.hub.aclose(0)
        assert one.hub.counters.handler_failures == one.failures
        assert not one.hub.bodies.bytes_taken, "what a lost connection held is given back"
