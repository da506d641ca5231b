"""The daemon with a profiler that is switched from outside: what bench.profile starts.

`python -m bench.profiled FILE run --config ...`: SIGUSR1 starts cProfile on the main thread (where
the event loop is), SIGUSR2 stops it and writes FILE: start-up and warm-up are not in the profile.
"""

import cProfile
import os
import runpy
import signal
import sys


def main() -> None:
    path, *arguments = sys.argv[1:]
    profiler = cProfile.Profile()

    def start(_number: int, _frame: object) -> None:
        profiler.enable()

    def stop(_number: int, _frame: object) -> None:
        profiler.disable()
        profiler.dump_stats(f"{path}.part")
        os.replace(f"{path}.part", path)  # the reader waits for the whole file

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)
    sys.argv = ["kdaemon", *arguments]
    runpy.run_module("kdaemon", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
