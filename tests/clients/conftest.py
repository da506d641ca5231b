"""One daemon with its embedded sandbox for all of these tests; each test has streams of its own."""

import itertools
from collections.abc import Iterator

import pytest

from tests.kit.daemon import Daemon, running
from tests.kit.endpoints import Endpoint

SHARD_COUNT = 4
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("clients")
    settings = {
        "listen.unix": str(directory / "k.sock"),
        "sandbox.shard_records_per_second": 100_000,
        "default.shard_records_per_second": 100_000,
    }
    with running(directory, settings) as daemon:
        yield daemon
        assert not [line for line in daemon.log if line["level"] == "error"]
        assert daemon.stop() == 0


@pytest.fixture
def endpoint(daemon: Daemon) -> Endpoint:
    """The sandbox to make and read streams, the daemon to put."""
    return Endpoint.of(daemon)


@pytest.fixture
def stream(endpoint: Endpoint) -> str:
    return endpoint.make_stream(f"clients-{next(_numbers)}", SHARD_COUNT)
