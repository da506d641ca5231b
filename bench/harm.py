"""How long the others wait while one client does its worst: `python -m bench.harm [--only TEXT]`.

A daemon with its sandbox, one quiet client (PutRecord, `delivered`, 200 a second, a connection of
its own in a process of its own), a probe of /livez four times a second, and one attack of
`tests/kit/attacks.py` after another. A row an attack: the quiet client's times, the worst /livez,
and the most memory that the daemon ever held until then.
"""

import argparse
import http.client
import json
import multiprocessing
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tests.kit.attacks import ATTACKS, MIB, Victim
from tests.kit.daemon import Daemon, from_scratch, running

RATE = 200  # requests a second of the quiet client
PROBE_S = 0.25
NOTHING = "nothing"  # the row to compare with
spawn = multiprocessing.get_context("spawn")  # a fork would copy the probe's locks


def quiet(port: int, pipe: Connection) -> None:
    """Puts at a steady rate until it is told to stop; sends (when, how long) of each put."""
    body = json.dumps({"StreamName": "quiet", "Data": "aGk=", "PartitionKey": "a"})
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "Kinesis_20131202.PutRecord",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    told: list[tuple[float, float, int]] = []
    due = time.monotonic()
    while not pipe.poll():
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        try:
            connection.request("POST", "/", body, headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            connection.close()
            status = 0
        told.append((began, time.monotonic() - began, status))
        if len(told) == 1:
            pipe.send("begun")
    pipe.send(told)


def attack_by_name(name: str, victim: Victim) -> None:
    """In a process of its own."""
    ATTACKS[name](victim)


class Probe(threading.Thread):
    """Asks /livez again and again; `worst_s` since it was last looked at."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self.worst_s = 0.0

    def run(self) -> None:
        while True:
            began = time.monotonic()
            self._daemon.page("/livez")
            self.worst_s = max(self.worst_s, time.monotonic() - began)
            time.sleep(PROBE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    only = parser.parse_args().only
    print("| attack | seconds | p50 ms | p99 ms | worst ms | not 200 | /livez ms | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "k.sock")
        streams = ["demo", "quiet", *(f"s{number}" for number in range(30))]
        settings: dict[str, object] = {
            "listen.unix": path,
            "sandbox.streams": streams,
            "default.deadline_ms": 5_000,  # as by default; the kit is more patient
        }
        with from_scratch(), running(Path(place), settings) as daemon:
            admin_port = int(daemon.address("admin").rpartition(":")[2])
            victim = Victim(daemon.port, admin_port, path)
            probe = Probe(daemon)
            probe.start()
            for name in [NOTHING, *(each for each in ATTACKS if only in each)]:
                ours, its = spawn.Pipe()
                client = spawn.Process(target=quiet, args=(daemon.port, its))
                client.start()
                ours.recv()  # it has begun
                time.sleep(2.0)
                probe.worst_s = 0.0
                began = time.monotonic()
                if name == NOTHING:
                    time.sleep(3.0)
                else:
                    attacker = spawn.Process(target=attack_by_name, args=(name, victim))
                    attacker.start()
                    attacker.join()
                ended = max(time.monotonic(), began + 1)
                time.sleep(max(0.0, ended - time.monotonic()))
                ours.send("stop")
                told = [each for each in ours.recv() if began <= each[0] <= ended]
                client.join()
                times = sorted(each[1] * 1000 for each in told)
                bad = sum(each[2] != 200 for each in told)
                row = (
                    f"{ended - began:.1f}",
                    f"{times[len(times) // 2]:.1f}",
                    f"{times[len(times) * 99 // 100]:.1f}",
                    f"{times[-1]:.0f}",
                    bad,
                    f"{probe.worst_s * 1000:.0f}",
                    daemon.peak_bytes() // MIB,
                )
                print(f"| {name} | " + " | ".join(str(cell) for cell in row) + " |", flush=True)


if __name__ == "__main__":
    main()
