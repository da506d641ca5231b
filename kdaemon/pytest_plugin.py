"""The fixture `kinesis_sandbox`, which pytest finds where kdaemon is installed.

Knows pytest, which kdaemon itself does not need: nothing else imports this.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdaemon.testing import Sandbox


@pytest.fixture
def kinesis_sandbox() -> "Iterator[Sandbox]":
    """A Kinesis of this test's own, with the stream `demo` of one shard (`kdaemon.testing`)."""
    from kdaemon.testing import sandbox  # noqa: PLC0415 - who does not ask for it loads none of it

    with sandbox() as running:
        yield running
