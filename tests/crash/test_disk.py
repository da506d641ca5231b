"""The spool's disk in trouble under a real daemon: a file system of its own that is really full,
and a directory that is really taken.
"""

import contextlib
import http.client
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.daemon import (
    MIB,
    Daemon,
    running,
    sandbox,
    started,
    write_config,
)
from tests.kit.endpoints import read_all
from tests.kit.patience import PATIENCE_S, wait_for

DISK_BYTES = 48 * MIB  # 16 of them are the reserve for deletions
HANG = {"kind": "hang", "calls": None}
SOON_OVER = {"send.call_timeout_ms": 4_000}


@contextlib.contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A tmpfs of DISK_BYTES; skips where this user may not mount one."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(where)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(where: Path) -> Path:
    """Takes all the space there is; the file that has it."""
    filler = where / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(16 * 1024)):
            pass
    return filler


class Putter:
    """Puts records of 10 kB one by one as lines over HTTP; keeps what was acknowledged."""

    def __init__(self, daemon: Daemon) -> None:
        self.kept: list[str] = []
        self._port = daemon.port
        self._count = 0

    def put(self, acknowledge: str) -> tuple[bool, str]:
        """Whether it was acknowledged, and the text of the answer."""
        self._count += 1
        data = f"{self._count}-{acknowledge}-".ljust(10_000, "x")
        body = json.dumps({"data": data, "partition_key": f"key-{self._count}"})
        headers = {"X-Kdaemon-Acknowledge": acknowledge}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/streams/demo/records", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        is_kept = answer.status == 200 and json.loads(text)["acknowledged"] == 1
        if is_kept:
            self.kept.append(data)
        return is_kept, text


@pytest.mark.root
def test_a_full_disk_refuses_stored_and_nothing_else_until_it_has_space_again(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        sandbox("demo") as service,
        running(
            tmp_path, {"spool.directory": str(disk / "spool"), **SOON_OVER}, service=service
        ) as daemon,
    ):
        putter = Putter(daemon)
        assert putter.put("stored")[0]
        daemon.inject(HANG)  # so that what is stored stays
        filler = fill(disk)

        def refused() -> str | None:
            is_kept, text = putter.put("stored")
            return None if is_kept else text

        text = wait_for(refused, "the disk to be full")
        assert "stored" in text.lower(), text
        assert putter.put("accepted")[0]
        status, why = daemon.page("/readyz")
        assert status == 503
        assert "spool" in why
        daemon.clear_faults()
        assert putter.put("delivered")[0]
        filler.unlink()
        wait_for(lambda: putter.put("stored")[0] or None, "the spool to take frames again")
        wait_for(lambda: daemon.page("/readyz")[0] == 200 or None, "readiness")
        daemon.wait_settled()
        assert daemon.stop() == 0
        found = stored_texts(service)
        assert [text[:20] for text in putter.kept if text not in found] == []


def stored_texts(service: str) -> Counter[str]:
    return Counter(data.decode() for data in read_all(service))


def test_a_spool_whose_directory_is_deleted_keeps_its_promises_through_a_kill(
    tmp_path: Path,
) -> None:
    spool = tmp_path / "spool"
    settings = {"spool.directory": str(spool), **SOON_OVER}
    with sandbox("demo") as service:
        with running(tmp_path, settings, service=service) as daemon:
            putter = Putter(daemon)
            daemon.inject(HANG)  # so that what is stored stays
            assert putter.put("stored")[0]
            shutil.rmtree(spool)
            assert putter.put("stored")[0]
            assert (spool / "spool.db").exists()
            daemon.wait_log("files of the spool were taken away, and are made again")
            shutil.rmtree(spool)
            spool.write_text("in its place")
            is_kept, text = putter.put("stored")
            assert not is_kept
            assert str(spool) in text
            status, why = daemon.page("/readyz")
            assert (status, "spool.db" in why) == (503, True), why
            assert "kdaemon_spool_in_trouble 1" in daemon.page("/metrics")[1]
            spool.unlink()
            wait_for(lambda: daemon.page("/readyz")[0] == 200 or None, "readiness")
            assert putter.put("stored")[0]
            daemon.close()  # as kill -9
            daemon.clear_faults()
        with running(tmp_path, settings, service=service) as daemon:
            daemon.wait_settled()
            assert daemon.stop() == 0
        found = stored_texts(service)
        assert [text[:20] for text in putter.kept if text not in found] == []


def test_a_second_daemon_is_refused_a_spool_that_is_in_use(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with running(tmp_path, {"spool.directory": str(spool)}) as daemon:
        other = tmp_path / "other"
        other.mkdir()
        config = write_config(other, {"spool.directory": str(spool)})
        with started(["run", "--sandbox", "--config", str(config)]) as second:
            assert second.wait() != 0
            log = "\n".join(second.lines)
        assert str(spool) in log
        assert str(daemon.pid) in log
        assert Putter(daemon).put("stored")[0]
