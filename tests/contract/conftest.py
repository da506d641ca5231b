"""Starts each service once a session, and gives each test a stream of its own on each of them.

A test that takes `endpoint` runs against all of them; a test of producing (`test_produce.py`,
`test_refusals.py`) also against `daemon`: its records are put to a kdaemon and read from the
sandbox behind it. The sandbox and the daemon are called in CBOR, too. Where a service is known to
differ, the table below says how, and the test must then fail there (strict xfail): a table that no
longer holds fails the suite.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator

import pytest

from kdaemon.testing import sandbox
from tests.contract.differences import DIFFERENCES
from tests.kit.daemon import running
from tests.kit.endpoints import Endpoint, moto_command, process_with_port

SERVICES = ("sandbox", "sandbox_cbor", "moto", "kinesalite", "kinesis_local")
PRODUCER_CASES = ("tests/contract/test_produce.py", "tests/contract/test_refusals.py")
MIB = 1024 * 1024
NODE_SERVERS = {"kinesalite": "kinesalite.js", "kinesis_local": "kinesis-local.js"}


@contextlib.contextmanager
def started(name: str) -> Iterator[str]:
    """A running service of this name, as its URL."""
    if name == "sandbox":
        with sandbox(streams=()) as running_one:
            yield running_one.url
    else:
        command = moto_command() if name == "moto" else ["node", NODE_SERVERS[name]]
        with process_with_port(command) as port:
            yield f"http://127.0.0.1:{port}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "service" in metafunc.fixturenames:
        is_producing = metafunc.definition.nodeid.startswith(PRODUCER_CASES)
        if metafunc.module.__name__.endswith("test_wire_cases"):  # recorded of one of the others
            services: tuple[str, ...] = ("sandbox", "daemon")
            metafunc.parametrize("service", services, indirect=True, scope="session")
            return
        services = (*SERVICES, "daemon", "daemon_cbor") if is_producing else SERVICES
        marked = [
            pytest.param(name, marks=[pytest.mark.node] if name in NODE_SERVERS else [])
            for name in services
        ]
        metafunc.parametrize("service", marked, indirect=True, scope="session")


@pytest.fixture(scope="session")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[str, str]]]:
    """Where a service of this name is read, and where records are put. It is started when it is
    first asked for, and runs to the end of the session: `service` alone would end it whenever
    another one's turn comes, in each file.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(name: str) -> tuple[str, str]:
            if name == "daemon":
                daemon = stack.enter_context(running(tmp_path_factory.mktemp("daemon")))
                return daemon.sandbox_url, daemon.url
            url = stack.enter_context(started(name))
            return url, url

        yield start


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest, urls: Callable[[str], tuple[str, str]]) -> Endpoint:
    """A running service. One whose records are put elsewhere than read has two URLs."""
    name: str = request.param
    encoding = "cbor" if name.endswith("_cbor") else "json"
    url, put_url = urls(name.removesuffix("_cbor"))
    return Endpoint(name, url=url, put_url=put_url, encoding=encoding)


@pytest.fixture
def endpoint(service: Endpoint, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """A service under contract. Streams that the test makes are deleted after it."""
    case = request.node.originalname
    if "case" in request.node.callspec.params:
        case += f":{request.node.callspec.params['case']}"
    reason = DIFFERENCES.get(case, {}).get(service.name)
    if reason is not None:
        request.node.add_marker(pytest.mark.xfail(reason=f"{service.name}: {reason}", strict=True))
    yield service
    while service.made:
        service.call("DeleteStream", StreamName=service.made.pop())


_numbers = itertools.count(1)


@pytest.fixture
def stream(endpoint: Endpoint) -> str:
    """A fresh stream of three shards."""
    return endpoint.make_stream(f"contract-{next(_numbers)}", 3)
