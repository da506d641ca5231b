"""What a test made is closed at its end."""

from collections.abc import AsyncIterator

import pytest

from tests.kit.streams import closed_at_the_end


@pytest.fixture(autouse=True)
async def _streams_are_closed() -> AsyncIterator[None]:
    async with closed_at_the_end():
        yield
