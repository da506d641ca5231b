"""The fixture `kinesis_sandbox`, which pytest finds where kdaemon is installed.

Imports pytest, which kdaemon itself does not need. So no other module imports this one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdaemon.testing import Sandbox


@pytest.fixture
def kinesis_sandbox() -> "Iterator[Sandbox]":
    """A Kinesis for this test alone, with the stream `demo` of one shard (`kdaemon.testing`)."""
    from kdaemon.testing import sandbox  # noqa: PLC0415 - only tests that use the fixture load it

    with sandbox() as running:
        yield running
