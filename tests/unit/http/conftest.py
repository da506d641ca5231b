"""What tests of the HTTP room share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.http.harness import Harness, Make


@pytest.fixture
async def harness() -> AsyncIterator[Make]:
    made: list[Harness] = []

    def make(*args: Any, **kwargs: Any) -> Harness:
        made.append(Harness(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.lose()
    for one in made:
        await one.hub.aclose(0)
