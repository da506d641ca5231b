"""From spawn to READY: `python -m bench.start [--before DIR] [--rounds N] [--imports N]`.

A daemon with a spool and one listed stream is started anew each round, until it says READY=1 to a
service manager (this program); its CPU time and the wall's until then, how many modules it has
loaded, and what it has when all is loaded and it is idle. The service is a port where nobody
listens. `--before`: a checkout of another version, started in turn with this one: both see the same
machine, and the median of the pairs' ratios holds where times drift. `--beside`: as many programs
compute on the daemon's core meanwhile. `--without-bytecode`: as an installation that nobody could
write compiled modules for. `--imports`: what costs most to import before READY.
Read the CPU time: on a machine that others use, the wall's is theirs. Linux only.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.host import burning, choose_cores, pinned
from bench.table import MIB
from bench.targets import ORDINARY, Tree, place
from tests.kit.daemon import LISTENERS, ROOT, Process, write_config
from tests.kit.linux import cpu_seconds
from tests.kit.systemd import Manager

IDLE_AFTER_S = 3.0  # from READY: all is loaded, and what was freed went back to the system
_IMPORTED = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")

SETTINGS = {
    "endpoint_url": "http://127.0.0.1:9",
    "drain.deadline_ms": 0,
    "streams.bench.acknowledge": "stored",
}


@dataclass(frozen=True, slots=True)
class Start:
    """One of them. `imports`: milliseconds by module, those before READY."""

    wall_s: float
    cpu_s: float
    idle_cpu_s: float
    idle_rss_mib: float
    imports: dict[str, float]


def start(tree: Tree, cores: frozenset[int], compiled: Path | None, *, traced: bool) -> Start:
    """Starts this version. `compiled`: where its compiled modules are; None: nowhere."""
    with place() as directory, Manager(directory / "notify") as manager:
        config = write_config(
            directory, {**SETTINGS, "spool.directory": str(directory / "spool")}, LISTENERS
        )
        env = ORDINARY | {"NOTIFY_SOCKET": str(directory / "notify")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env["PYTHONPYCACHEPREFIX"] = str(compiled or directory / "nothing")
        if compiled is None:
            env["PYTHONDONTWRITEBYTECODE"] = "1"
        trace = ("-X", "importtime") if traced else ()
        program = (*trace, *tree.how["program"])
        began_s = time.monotonic()
        with pinned(cores):
            process = Process(["run", "--config", str(config)], env, program)
        with closing(process):
            manager.wait("READY=1")
            wall_s, cpu_s = time.monotonic() - began_s, cpu_seconds(process.pid)
            imports = imported("\n".join(process.lines))
            time.sleep(0.0 if traced else IDLE_AFTER_S)
            rss = process.rss_bytes() / MIB
            return Start(wall_s, cpu_s, cpu_seconds(process.pid), rss, imports)


def imported(text: str) -> dict[str, float]:
    """What each import took by itself, in milliseconds."""
    return {name: int(own_us) / 1000 for own_us, name in _IMPORTED.findall(text)}


def show(name: str, starts: list[Start]) -> None:
    cpu = sorted(each.cpu_s for each in starts)
    wall = sorted(each.wall_s for each in starts)
    print(
        f"{name:8} {median(cpu):6.3f} {cpu[0]:6.3f} {median(wall):7.3f} {wall[-1]:6.3f}"
        f" {median(each.idle_cpu_s for each in starts):9.3f}"
        f" {median(each.idle_rss_mib for each in starts):9.1f}"
    )


def show_imports(starts: list[Start], count: int) -> None:
    """The least of all rounds for each: the rest is the machine's."""
    names = set.intersection(*(set(each.imports) for each in starts))
    least = {name: min(each.imports[name] for each in starts) for name in names}
    packages: dict[str, list[float]] = {}
    for name, own_ms in least.items():
        packages.setdefault(name.partition(".")[0], []).append(own_ms)
    print(f"\n{len(least)} modules before READY, {sum(least.values()):.0f} ms")
    for name, parts in sorted(packages.items(), key=lambda each: -sum(each[1]))[:count]:
        print(f"{sum(parts):7.1f} ms  {len(parts):4} of {name}")
    for name in sorted(least, key=lambda each: -least[each])[:count]:
        print(f"{least[name]:7.1f} ms       {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beside", type=int, default=0, metavar="N")
    parser.add_argument("--imports", type=int, default=0, metavar="N")
    parser.add_argument("--without-bytecode", action="store_true")
    options = parser.parse_args()
    cores = choose_cores(os.sched_getaffinity(0)).under_test
    trees = [Tree("before", options.before.resolve())] if options.before else []
    trees.append(Tree("now", ROOT))
    traced = bool(options.imports)
    starts: dict[str, list[Start]] = {tree.title: [] for tree in trees}
    with tempfile.TemporaryDirectory() as compiled:
        bytecode = None if options.without_bytecode else Path(compiled)
        for tree in trees:  # compiles; and the files are in memory
            start(tree, cores, bytecode, traced=True)
        with burning(options.beside, cores):
            for _ in range(options.rounds):
                for tree in trees:
                    starts[tree.title].append(start(tree, cores, bytecode, traced=traced))
    print(f"{'':8}    CPU s to READY   wall s to READY  CPU s, idle  RSS, idle")
    print(f"{'':8} median  least  median   most     median  MiB, median")
    for name, each in starts.items():
        show(name, each)
    if options.before:
        pairs = zip(starts["now"], starts["before"], strict=True)
        print(
            f"now / before, median of pairs, CPU: {median(n.cpu_s / b.cpu_s for n, b in pairs):.2f}"
        )
    if traced:
        show_imports(starts["now"], options.imports)
    return 0


if __name__ == "__main__":
    sys.exit(main())
