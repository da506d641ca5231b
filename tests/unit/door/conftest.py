"""What a test made is closed at its end."""

from collections.abc import AsyncIterator

import pytest

from tests.kit.streams import close_opened


@pytest.fixture(autouse=True)
async def _streams_are_closed() -> AsyncIterator[None]:
    yield
    await close_opened()
