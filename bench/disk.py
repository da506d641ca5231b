"""The disk under a spool: what it is, and what it does alone.

Linux only. Knows no spool: a probe appends to a bare file as often as it can and waits for each
append to be on disk, so that a figure of the daemon has something to stand beside.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

NumberT = TypeVar("NumberT", int, float)

MIB = 1024 * 1024
PROBE_BYTES_MAX = 128 * MIB  # one probe writes no more


@dataclass(frozen=True, slots=True)
class DiskAlone:
    """Appends of `append_bytes`, each with fdatasync(2), one after another, to one growing file."""

    append_bytes: int
    appends_per_s: float
    p50_ms: float
    p99_ms: float

    @property
    def mib_per_s(self) -> float:
        return self.append_bytes * self.appends_per_s / MIB


def probe(directory: Path, append_bytes: int, append_count: int) -> DiskAlone:
    """Measures in a file of its own, which is gone afterwards."""
    append_count = max(20, min(append_count, PROBE_BYTES_MAX // append_bytes))
    path = directory / "probe"
    payload = os.urandom(append_bytes)  # a disk that compresses must not gain by it
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    took_ns = []
    try:
        for _ in range(append_count):
            began_ns = time.perf_counter_ns()
            os.write(descriptor, payload)
            os.fdatasync(descriptor)
            took_ns.append(time.perf_counter_ns() - began_ns)
    finally:
        os.close(descriptor)
        path.unlink()
    return DiskAlone(
        append_bytes,
        append_count / (sum(took_ns) / 1e9),
        percentile(took_ns, 50) / 1e6,
        percentile(took_ns, 99) / 1e6,
    )


def percentile(values: Sequence[NumberT], percent: int) -> NumberT:
    """The value that `percent` of them do not exceed; of one value, itself."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def evict(directory: Path) -> None:
    """Drops a directory's files from the page cache, so that they are read as after a reboot."""
    for path in directory.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not on disk yet cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def describe_disk(directory: Path) -> str:
    """File system and device under a directory, as far as the system tells."""
    number = os.stat(directory).st_dev
    major, minor = os.major(number), os.minor(number)
    kind, source = mounted_as(Path("/proc/self/mountinfo").read_text(), f"{major}:{minor}")
    said = [f"{kind} on {source}"]
    device = Path(f"/sys/dev/block/{major}:{minor}")
    for base in (device.resolve(), device.resolve().parent):  # a partition's disk is its parent
        if (base / "queue" / "rotational").exists():
            turns = (base / "queue" / "rotational").read_text().strip() == "1"
            said.append("calls itself rotational" if turns else "not rotational")
            model = base / "device" / "model"
            said += [model.read_text().strip()] if model.exists() else []
            break
    return ", ".join(said)


def mounted_as(mountinfo: str, device_number: str) -> tuple[str, str]:
    """File system type and source of a device ("major:minor") in /proc/self/mountinfo's text."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if device_number in before.split()[2:3]:
            kind, source, *_ = after.split()
            return kind, source
    return "unknown file system", f"device {device_number}"
