"""What the machine gives a process, tried in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kdaemon.system import listener_users, memory_limit_bytes, usable_cores, user_of
from tests.kit.patience import PATIENCE_S


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_whose_a_listening_socket_is() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.bind((host, 0))
            port = sock.getsockname()[1]
            assert listener_users(port) == set(), "it does not listen yet"
            sock.listen()
            assert listener_users(port) == {os.geteuid()}
    assert user_of(os.getpid()) == os.geteuid()
    assert user_of(1) == 0
    assert user_of(0) is None


def test_without_the_system_s_files_nothing_is_known(tmp_path: Path) -> None:
    assert listener_users(80, tmp_path) == set()
    (tmp_path / "proc/self/net").mkdir(parents=True)
    (tmp_path / "proc/self/net/tcp").write_text("  sl  local_address\nnoise\n\n 0: x 0A\n")
    assert listener_users(80, tmp_path) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU])
def test_a_signal_before_anything_is_taken_ends_the_process_with_0(number: signal.Signals) -> None:
    script = f"""
import os, kdaemon.system
kdaemon.system.end_by_signal()
os.kill(os.getpid(), {number.value})
print("still there")
"""
    done = run(script)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO])
def test_a_signal_that_means_nothing_is_ignored_from_the_beginning(number: signal.Signals) -> None:
    script = f"""
import os, kdaemon.system
kdaemon.system.end_by_signal()
os.kill(os.getpid(), {number.value})
print("still there")
"""
    assert run(script).stdout == "still there\n"


def test_a_signal_for_which_somebody_has_decided_is_left_to_them() -> None:
    """A profiler that is switched by SIGUSR1, say."""
    script = """
import asyncio, os, signal, kdaemon.system
signal.signal(signal.SIGUSR1, lambda *_: print("theirs"))
kdaemon.system.end_by_signal()
async def main():
    kdaemon.system.on_signals(asyncio.get_running_loop(), print)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0)
asyncio.run(main())
"""
    assert run(script).stdout == "theirs\n"


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_closed_descriptors_are_filled_and_nothing_else_gets_their_numbers(
    closed: list[int],
) -> None:
    script = f"""
import os, sys
out = os.dup(1)
for descriptor in {closed}:
    os.close(descriptor)
import kdaemon.system
kdaemon.system.fill_descriptors()
where = [os.readlink(f"/proc/self/fd/{{each}}") for each in {closed}]
taken = os.open("/etc/passwd", os.O_RDONLY)
os.write(out, f"{{set(where)}} {{taken > 2}}".encode())
"""
    assert run(script).stdout == "{'/dev/null'} True"


def test_a_closed_standard_input_stays_an_error_to_read() -> None:
    """Not an empty file: whoever sends it would be told that nothing was to be sent."""
    script = """
import os
os.close(0)
import kdaemon.system
kdaemon.system.fill_descriptors()
try:
    os.read(0, 1)
except OSError:
    print("an error")
"""
    assert run(script).stdout == "an error\n"


@pytest.mark.parametrize("soft", [100, 300])
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(soft: int) -> None:
    code = f"""
import resource
from kdaemon.system import raise_open_files_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, 300))
assert raise_open_files_limit() == 300
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_what_was_there_at_the_start_is_not_looked_at_by_the_collector_again() -> None:
    script = """
import gc, kdaemon.system
kept = [[] for _ in range(5_000)]
kdaemon.system.calm_collector()
before = gc.get_stats()[0]["collections"]
young = [[] for _ in range(3_000)]
print(gc.get_freeze_count() > 5_000, gc.get_stats()[0]["collections"] - before)
"""
    assert run(script).stdout == "True 0\n"


def test_the_collector_looks_at_few_objects_at_a_time_however_many_are_new() -> None:
    """A backlog is a million new objects: looks at 100,000 of them, and at all, held the loop."""
    script = """
import gc, kdaemon.system
kdaemon.system.calm_collector()
before = [each["collections"] for each in gc.get_stats()]
kept = [[] for _ in range(300_000)]
looks = [each["collections"] - seen for each, seen in zip(gc.get_stats(), before)]
at_a_time = 300_000 / sum(looks)
print(looks[2], at_a_time < 2 * kdaemon.system.YOUNG_OBJECTS_MAX, looks[1] >= looks[0] - 1)
"""
    assert run(script).stdout == "0 True True\n"


@pytest.mark.parametrize("command", [["--help"], ["check"], ["put", "--help"]])
def test_a_standard_output_that_is_full_is_an_error_in_words(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kdaemon", *command],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    text = "kdaemon: standard output cannot be written: No space left on device\n"
    assert done.stderr == text


def test_threads_reserve_no_addresses_each() -> None:
    """A limit of address space (`ulimit -v`) counts what is only reserved."""
    script = """
import threading
from pathlib import Path
from kdaemon.system import bound_malloc

def reserved_mib():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096 >> 20

bound_malloc()
together = threading.Barrier(9)

def work():
    held = [bytearray(100_000) for _ in range(10)]
    together.wait()
    together.wait()

threading.stack_size(256 * 1024)
before = reserved_mib()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
together.wait()
print(reserved_mib() - before < 200)
together.wait()
"""
    assert run(script).stdout == "True\n"


LOOKS = """
import asyncio
from kdaemon.system import FreedMemory, _rss_bytes
async def look(freed):
    freed.look()
    while freed._is_trimming:  # in a thread
        await asyncio.sleep(0.001)
"""


def test_what_was_freed_goes_back_while_a_load_goes_on_and_once() -> None:
    """What is held stays; there is nothing to be had of it, and nobody tries again."""
    script = """
async def main():
    held = 0
    freed = FreedMemory(lambda: held)
    trims = []
    trim, freed._trim = freed._trim, lambda pad: trims.append(trim(pad))
    before = _rss_bytes()
    blocks = [bytes(10_000) for _ in range(9_000)]
    held = 30_000_000
    del blocks[:6_000]
    while _rss_bytes() - before > 45_000_000:
        await look(freed)
    for _ in range(10):
        await look(freed)
    print(len(trims), len(blocks))
asyncio.run(main())
"""
    assert run(LOOKS + script).stdout == "1 3000\n"


def test_what_a_load_has_freed_goes_back_to_the_system_when_it_is_over() -> None:
    script = """
import asyncio
from kdaemon.system import FreedMemory, _rss_bytes
async def main():
    held = 0
    freed = FreedMemory(lambda: held)
    before = _rss_bytes()
    blocks = [bytes(10_000) for _ in range(6_000)]
    held = 60_000_000
    last = blocks.pop()  # stands above all the others
    blocks.clear()
    for _ in range(3):
        freed.look()
        await asyncio.sleep(0)
    print(_rss_bytes() - before > 40_000_000)
    held = 0
    freed.look()
    freed.look()
    while _rss_bytes() - before > 20_000_000:
        await asyncio.sleep(0.01)
asyncio.run(main())
"""
    assert run(script).stdout == "True\n"


def test_what_a_start_has_freed_goes_back_once_nothing_is_held_however_little() -> None:
    script = """
async def main():
    trims = []
    freed = FreedMemory(lambda: 0)
    freed._trim = trims.append
    for _ in range(5):
        await look(freed)
        print(len(trims), end=" ")
asyncio.run(main())
"""
    assert run(LOOKS + script).stdout == "0 1 1 1 1 "


def test_the_lists_of_aiohttp_bring_no_library_of_another_language() -> None:
    """And what was set for that is not left to the processes that this one starts."""
    script = """
import os
from pathlib import Path
from kdaemon.system import PLAIN_LISTS, import_plain_lists
before = dict(os.environ)
import_plain_lists()
import aiohttp, frozenlist
print("libstdc++" in Path("/proc/self/maps").read_text(), before == dict(os.environ))
print(frozenlist.FrozenList is frozenlist.PyFrozenList)
"""
    assert run(script).stdout == "False True\nTrue\n"


def test_a_start_imports_nothing_that_other_commands_need_or_that_can_wait() -> None:
    script = """
import sys
import kdaemon.cli, kdaemon.daemon.run
from kdaemon.config.load import load_config
load_config(text="")
print(sorted({
    "aiobotocore", "aiohttp", "botocore", "prometheus_client", "importlib.metadata",
    "kdaemon.observe.admin", "kdaemon.observe.page",  # these wait until it takes records
    "difflib", "kdaemon.cli.dead_letters", "kdaemon.cli.spool", "kdaemon.put", "kdaemon.sandbox",
    "kdaemon.spool.spool", "rich", "sqlite3", "xml.sax",
} & set(sys.modules)))
"""
    assert run(script).stdout == "[]\n"


GROUPS = "12:cpu,cpuacct:/pod/a\n4:memory:/pod/a\n0::/pod/a\n"


def write_groups(root: Path, limits: dict[str, str]) -> None:
    """The process's control group, and what limits it and those above, as the kernel shows it."""
    for path, text in {"proc/self/cgroup": GROUPS}.items() | {
        (f"sys/fs/cgroup/{path}", text) for path, text in limits.items()
    }:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, None),
        ({"pod/a/memory.max": "max\n", "pod/memory.max": "268435456\n"}, 268435456),
        ({"pod/a/memory.max": "134217728\n", "pod/memory.max": "268435456\n"}, 134217728),
        ({"memory.max": "1000\n"}, 1000),  # the container sees its own group as the root
        ({"memory/pod/a/memory.limit_in_bytes": "5000\n"}, 5000),
        ({"memory/memory.limit_in_bytes": "6000\n"}, 6000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_the_memory_limit_is_the_lowest_of_the_groups(
    tmp_path: Path, limits: dict[str, str], found: int | None
) -> None:
    write_groups(tmp_path, limits)
    assert memory_limit_bytes(tmp_path) == found


def test_without_cgroups_there_is_no_memory_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, None),
        ({"pod/a/cpu.max": "max 100000\n"}, None),
        ({"pod/a/cpu.max": "100000 100000\n"}, 1),
        ({"pod/a/cpu.max": "50000 100000\n"}, 1),  # less than one is one
        ({"pod/a/cpu.max": "max 100000\n", "pod/cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu/pod/a/cpu.cfs_quota_us": "100000\n", "cpu/pod/a/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"pod/a/cpu.max": "nonsense\n"}, None),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(
    tmp_path: Path, limits: dict[str, str], found: int | None
) -> None:
    write_groups(tmp_path, limits)
    own = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == (own if found is None else min(own, found))
