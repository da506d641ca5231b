"""What a test opened is closed at its end."""

from collections.abc import Iterator

import pytest

from tests.kit.stores import closed_at_the_end


@pytest.fixture(autouse=True)
def _stores_are_closed() -> Iterator[None]:
    with closed_at_the_end():
        yield
