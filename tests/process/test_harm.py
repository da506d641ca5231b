"""One client harms neither the others nor the daemon: each attack at its full size, with little
memory.

The limit stands for a container's: `VmHWM`, the most that was ever resident, is looked at, because
a limit of address space counts what threads and the allocator only reserve.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.attacks import ATTACKS, MIB, Victim
from tests.kit.daemon import Daemon, from_scratch
from tests.kit.endpoints import Endpoint, entry
from tests.process.conftest import Run

CONTAINER_BYTES = 512 * MIB


@pytest.fixture(autouse=True)
def _is_from_scratch() -> Iterator[None]:
    with from_scratch():
        yield


def put_one(daemon: Daemon) -> None:
    endpoint = Endpoint.of(daemon)
    answer = endpoint.put("PutRecords", StreamName="demo", Records=[entry(b"x", "k")])
    assert answer.members["FailedRecordCount"] == 0


@pytest.mark.timeout(900)
def test_no_attack_ends_the_daemon_or_stops_the_others(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "k.sock")
    daemon = run(
        {
            "listen.unix": path,
            "spool.directory": str(tmp_path / "spool"),
            "sandbox.streams": ["demo", *(f"s{number}" for number in range(20))],
        }
    )
    admin_port = int(daemon.address("admin").rpartition(":")[2])
    victim = Victim(daemon.port, admin_port, path)
    put_one(daemon)
    for name, attack in ATTACKS.items():
        attacker = threading.Thread(target=attack, args=(victim,), name=name)
        attacker.start()
        while attacker.is_alive():
            put_one(daemon)
            status, _ = daemon.page("/livez")
            assert status == 200, name
            attacker.join(0.05)
        assert daemon.is_alive, name
        assert daemon.peak_bytes() < CONTAINER_BYTES, f"{name}: {daemon.peak_bytes() / MIB:.0f} MiB"
    put_one(daemon)
    metrics = daemon.wait_settled()
    assert all(metrics.left_over(stream) == 0 for stream in metrics.streams)
    assert metrics.total("kdaemon_client_handler_failures_total") == 0
