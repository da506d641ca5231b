"""Where the daemon's time goes: `python -m bench.profile [a|b|c] [--top 35] [--by tottime]`.

One scenario of bench.compare with the daemon under cProfile, from after the warm-up to the end of
the load. cProfile makes Python calls look dearer than they are (C calls less so): read it for where
to look, then measure with bench.compare.
"""

import argparse
import pstats
import signal
import sys
import time
from pathlib import Path

from bench.targets import SCENARIOS, UNPACED, daemon, place, started_sink
from tests.kit.linux import cpu_seconds

_WRITE_WITHIN_S = 30.0  # seconds from SIGUSR2 to the profile's file


def profile(name: str, records: int, path: Path, map_mode: str) -> float:
    """Writes the profile of one run to `path`; returns the daemon's CPU seconds in it."""
    scenario = next(one for one in SCENARIOS if one.name == name)
    program = ("-m", "bench.profiled", str(path))
    with (
        started_sink("--map", map_mode) as sink,
        daemon(sink.url, UNPACED, sink.cores.under_test, program=program) as started,
        scenario.worker(started, sink.cores.load) as load,
    ):
        load.run(records // 10)
        started.signal(signal.SIGUSR1)
        before = cpu_seconds(started.pid)
        load.run(records)
        used_s = cpu_seconds(started.pid) - before
        started.signal(signal.SIGUSR2)
        deadline = time.monotonic() + _WRITE_WITHIN_S
        while not path.exists():
            if time.monotonic() > deadline:
                message = "the daemon did not write its profile"
                raise RuntimeError(message)
            time.sleep(0.02)
    return used_s


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description="One scenario, the daemon under cProfile."
    )
    names = [scenario.name for scenario in SCENARIOS if scenario.is_daemon]
    parser.add_argument("scenario", nargs="?", choices=names, default="a")
    parser.add_argument("--records", type=int, help="default: 300,000, or 30,000 of scenario b")
    parser.add_argument("--map", choices=("static", "none"), default="static", dest="map_mode")
    parser.add_argument("--by", choices=("tottime", "cumtime", "ncalls"), default="tottime")
    parser.add_argument("--top", type=int, default=35, help="rows to print")
    parser.add_argument("--callers", help="print who calls the functions that match this instead")
    parser.add_argument("--out", type=Path, help="keep the profile in this file (pstats)")
    options = parser.parse_args()
    records = options.records or (30_000 if options.scenario == "b" else 300_000)
    with place() as directory:
        path = directory / "daemon.pstats"
        used_s = profile(options.scenario, records, path, options.map_mode)
        stats = pstats.Stats(str(path), stream=sys.stdout)
        print(f"{records:,} records, {used_s:.2f} CPU-seconds with the profiler on")
        stats.sort_stats(options.by)
        if options.callers:
            stats.print_callers(options.callers)
        else:
            stats.print_stats(options.top)
        if options.out:
            options.out.write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
