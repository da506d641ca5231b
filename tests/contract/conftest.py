"""Starts each service once a session, and gives each test a stream of its own on each of them.

A test that takes `endpoint` runs against all of them; a test of producing (`test_produce.py`,
`test_refusals.py`) also against `daemon`: its records are put to a kdaemon and read from the
sandbox behind it. The sandbox and the daemon are called in CBOR, too. Where a service is known to
differ, the table below says how, and the test must then fail there (strict xfail): a table that no
longer holds fails the suite.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.service import Service
from kdaemon.system import SystemClock
from tests.contract.differences import DIFFERENCES
from tests.kit.daemon import running
from tests.kit.endpoints import Endpoint, moto_command, process_with_port
from tests.kit.patience import PATIENCE_S

SERVICES = ("sandbox", "sandbox_cbor", "moto", "kinesalite", "kinesis_local")
PRODUCER_CASES = ("tests/contract/test_produce.py", "tests/contract/test_refusals.py")
MIB = 1024 * 1024
NODE_SERVERS = {"kinesalite": "kinesalite.js", "kinesis_local": "kinesis-local.js"}


@contextlib.contextmanager
def sandbox_in_a_thread() -> Iterator[int]:
    """The sandbox as a user runs it, on a loop of its own; its port."""
    started = threading.Event()
    ports: list[int] = []
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        server = SandboxServer(Service(), SystemClock())
        await server.start(port=0)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
        ports.append(server.port)
        started.set()
        await stopping.wait()
        await server.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sandbox", daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S), "the sandbox did not start"
    try:
        yield ports[0]
    finally:
        stop[0]()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the sandbox did not stop"


def started(name: str) -> contextlib.AbstractContextManager[int]:
    """A running service of this name, as its port."""
    if name == "sandbox":
        return sandbox_in_a_thread()
    if name == "moto":
        return process_with_port(moto_command())
    return process_with_port(["node", NODE_SERVERS[name]])


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
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """A running service. One whose records are put elsewhere than read has two URLs."""
    name: str = request.param
    encoding = "cbor" if name.endswith("_cbor") else "json"
    if name.startswith("daemon"):
        # Each test makes a stream of its own, which the daemon then looks for.
        settings = {"send.control_calls_per_second": 100}
        with running(tmp_path_factory.mktemp("daemon"), settings) as daemon:
            yield Endpoint(name, url=daemon.sandbox_url, put_url=daemon.url, encoding=encoding)
        return
    with started(name.removesuffix("_cbor")) as port:
        url = f"http://127.0.0.1:{port}"
        yield Endpoint(name, url=url, put_url=url, encoding=encoding)


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
