"""The daemon's CPU for each record that it carried: for benches that start a daemon for a figure.

Invariant: a figure is given only if the daemon counts every record that was sent as delivered.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.daemon import DaemonProcess, environment
from bench.host import Cores, cpu_seconds
from bench.worker import Worker


def cpu_us(
    title: str, config: str, arguments: Sequence[str], record_count: int, cores: Cores
) -> float:
    """Microseconds of the daemon's CPU for each record, in a daemon of its own that was warmed up.
    `arguments`: of bench.load; `{unix}` stands for the daemon's socket. RuntimeError: not every
    record was delivered.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(Path(directory), config, cores=cores.under_test) as daemon,
    ):
        told = [argument.format(unix=daemon.socket_path) for argument in arguments]
        with Worker(["bench.load", *told], cores.load, environment()) as load:
            load.run(record_count // 10)
            before, cpu_before = _delivered(daemon), cpu_seconds(daemon.pid)
            result = load.run(record_count).result
            cpu_s = cpu_seconds(daemon.pid) - cpu_before
        if result["failed"] or _delivered(daemon) - before != result["records"]:
            raise RuntimeError(f"{title}: not every record was delivered; no figure is given")
        return cpu_s / int(result["records"]) * 1e6


def _delivered(daemon: DaemonProcess) -> int:
    return round(sum(daemon.metrics()["kdaemon_records_delivered_total"].values()))
