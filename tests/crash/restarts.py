"""`python -m tests.crash.restarts --takeovers 20 --activations 20`: restarts under load, longer.

Clients of five kinds write without a pause; the daemon is replaced by takeover, then restarted
behind systemd's sockets, as often as asked. Exit 1 if a connection was refused, a record lost, or
one repeated that was not in flight. Prints what each client saw.
"""

import argparse
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.kit.daemon import READY, Daemon, environment, sandbox, write_config
from tests.kit.endpoints import read_all
from tests.kit.restarts import Load, settings_of
from tests.kit.systemd import Activated

RECORDS_BETWEEN = 200  # of each client, between two restarts


@contextmanager
def load_on(daemon: Daemon) -> Iterator[Load]:
    """Tells at its end what each client saw."""
    with Load("demo", daemon.url, daemon.address("unix")) as load:
        yield load
    for kind, count in load.progressed().items():
        sys.stdout.write(f"{kind:12} {count:8,} acknowledged\n")


def check(load: Load, service: str) -> None:
    load.check(read_all(service))


def take_over(times: int) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(sandbox("demo", 16))
        config = write_config(directory, settings_of(directory, service))
        arguments = ["run", "--takeover", "--config", str(config)]
        daemon = stack.enter_context(closing(Daemon(arguments, environment())))
        daemon.wait_log(READY)
        with load_on(daemon) as load:
            for _ in range(times):
                load.wait_progress(RECORDS_BETWEEN)
                old = daemon
                daemon = stack.enter_context(closing(Daemon(arguments, environment())))
                daemon.wait_log(READY)
                assert old.wait() == 0
            load.wait_progress(RECORDS_BETWEEN)
        assert daemon.stop() == 0
        check(load, service)


def activate(times: int) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(sandbox("demo", 16))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(directory / "k.sock"))
        unix.listen(64)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        http = {"listen.http": f"127.0.0.1:{tcp.getsockname()[1]}"}
        config = write_config(directory, settings_of(directory, service, **http))
        activated = Activated(config, {"unix": unix, "http": tcp})
        daemon = stack.enter_context(activated.started())
        with load_on(daemon) as load:
            for _ in range(times):
                load.wait_progress(RECORDS_BETWEEN)
                assert daemon.stop() == 0
                daemon = stack.enter_context(activated.started())
            load.wait_progress(RECORDS_BETWEEN)
        assert daemon.stop() == 0
        check(load, service)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.restarts", description=__doc__)
    parser.add_argument("--takeovers", type=int, default=20, help="(20)")
    parser.add_argument("--activations", type=int, default=20, help="(20)")
    given = parser.parse_args()
    for name, run, times in (
        ("takeover", take_over, given.takeovers),
        ("socket activation", activate, given.activations),
    ):
        if times:
            sys.stdout.write(f"{times} restarts by {name}\n")
            try:
                run(times)
            except AssertionError as broken:
                sys.stdout.write(f"broken: {broken}\n")
                return 1
            sys.stdout.write("0 refused, 0 lost, 0 repeated but what was in flight\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
