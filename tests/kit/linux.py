"""What Linux tells of another process: its CPU, its memory, its children.

It imports nothing of ours: what a bench measures as it starts imports this.
"""

import time
from pathlib import Path


def memory_bytes(pid: int, name: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (its peak) of a live process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """User and system seconds of all threads of a live process, to the nanosecond.

    The process CPU clock of `pid` (clock_getcpuclockid(3): `~pid << 3 | CPUCLOCK_SCHED`);
    /proc/PID/stat gives the same in ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)


def cores_used(pid: int, seconds: float) -> float:
    """CPU-seconds a second that a process takes while it is watched for so long."""
    before_s, began_s = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before_s) / (time.monotonic() - began_s)


def with_descendants(pid: int) -> list[int]:
    """A live process, its children, theirs, and so on."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found
