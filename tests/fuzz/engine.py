"""Drives one target: with atheris, which sees what an input reaches, or with random inputs.

Each input is bounded in time and in memory; what breaks a bound, or is raised, ends the run with
the input, so that it can become a test.
"""

import base64
import importlib.util
import random
import resource
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.fuzz import targets
from tests.fuzz.mutate import INPUT_BYTES_MAX, Mutator

INPUT_SECONDS_MAX = 2.0
"""CPU time of the thread, for one input of at most 64 KiB: what else the machine does is not in it.
The slowest takes some 60 ms."""

INPUT_MEMORY_FACTOR_MAX, INPUT_MEMORY_BYTES_MIN = 120, 12 * 1024 * 1024
"""Peak of Python's memory for one input: so many times its size, or the minimum. The targets keep
a second reader's objects as well: h11 makes 4 MB of 10,000 folded header lines, ours 57 KB."""

MEASURED_EVERY = 50  # one input of so many is measured: it takes five times as long
PROCESS_BYTES_MAX = 2 * 1024**3


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def limit_memory() -> None:
    """From here on the process fails with MemoryError rather than taking the machine along."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (PROCESS_BYTES_MAX, hard))


def packed(data: bytes) -> str:
    """An input as a Python expression, short also where it is long and repeats itself."""
    if len(data) <= 200:
        return repr(data)
    return f"zlib.decompress(base64.b64decode({base64.b64encode(zlib.compress(data))!r}))"


def run_random(
    target: ModuleType, seed: int, input_count: int | None, seconds: float | None
) -> int:
    """Until one of the two is reached; returns how many inputs were tried."""
    build = getattr(target, "build", None)
    mutator = Mutator(seed, target.SEEDS, target.TOKENS, build)
    start = time.perf_counter()
    count = 0
    while count != input_count and (seconds is None or time.perf_counter() - start < seconds):
        data = mutator.next() if count >= len(target.SEEDS) else target.SEEDS[count]
        try:
            _try(target.one_input, data, is_measured=count % MEASURED_EVERY == 0)
        except BaseException:
            print(f"{target.__name__} failed with {packed(data)}", flush=True)
            raise
        count += 1
    return count


def _try(one_input: Callable[[bytes], object], data: bytes, *, is_measured: bool) -> None:
    if is_measured:
        tracemalloc.start()
        try:
            one_input(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        bound = max(INPUT_MEMORY_FACTOR_MAX * len(data), INPUT_MEMORY_BYTES_MIN)
        assert peak <= bound, f"{peak} bytes for an input of {len(data)}"
        return
    began = time.thread_time()
    one_input(data)
    took = time.thread_time() - began
    assert took <= INPUT_SECONDS_MAX, f"{took:.1f} s of CPU for an input of {len(data)} bytes"


def run_atheris(name: str, seed: int, input_count: int | None, seconds: float | None) -> None:
    """Never returns: libFuzzer ends the process, and says how many inputs it tried."""
    atheris: Any = importlib.import_module("atheris")  # `make fuzz` installs it

    with atheris.instrument_imports(include=["kdaemon"]):
        target = targets.load(name)
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(target.SEEDS):
            (corpus / str(number)).write_bytes(data)
        tokens = Path(directory) / "tokens"
        tokens.write_text("".join(f'"{_escaped(token)}"\n' for token in target.TOKENS))
        options = [
            f"-seed={seed or 1}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={int(INPUT_SECONDS_MAX) * 2}",
            f"-rss_limit_mb={PROCESS_BYTES_MAX >> 20}",
            f"-dict={tokens}",
            f"-artifact_prefix={directory}/",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        options += [] if seconds is None else [f"-max_total_time={max(1, int(seconds))}"]
        options += [] if input_count is None else [f"-runs={input_count}"]
        build = getattr(target, "build", None)
        if build is not None:
            # Every other input is built, the rest are libFuzzer's own changes to what is known.
            def mutate(data: bytes, max_size: int, seed: int) -> bytes:
                dice = random.Random(seed)
                made: bytes = (
                    build(dice) if dice.randrange(2) else atheris.Mutate(data, len(data) or 1)
                )
                return made[:max_size]

            more = {"custom_mutator": mutate}
        else:
            more = {}
        command = [sys.argv[0], *options, str(corpus)]
        atheris.Setup(command, _shown_on_failure(target.one_input), **more)
        atheris.Fuzz()


def _shown_on_failure(one_input: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> None:
        try:
            one_input(data)
        except BaseException:
            print(f"failed with {packed(data)}", flush=True)
            raise

    return run


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)
