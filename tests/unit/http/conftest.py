"""What tests of the HTTP room share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.kit.certificates import Files
from tests.unit.http.harness import Harness, Make


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
