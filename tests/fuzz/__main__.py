"""`python -m tests.fuzz --minutes N [--target T] [--seed S] [--inputs N]`: see the package.

Each target runs in a process of its own, `--minutes` (or `--inputs`) each. Exit code 1: one failed.
"""

import argparse
import subprocess
import sys

from tests.fuzz import engine, targets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, help="for each target (1 without --inputs)")
    parser.add_argument("--inputs", type=int, help="for each target")
    parser.add_argument("--target", choices=targets.target_names(), action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["atheris", "random"])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    has_atheris = engine.has_atheris()
    chosen = arguments.engine or ("atheris" if has_atheris else "random")
    if chosen == "atheris" and not has_atheris:
        parser.error("atheris is not installed here; `make fuzz` does that where there is one")
    minutes = arguments.minutes
    if minutes is None and arguments.inputs is None:
        minutes = 1.0
    seconds = None if minutes is None else minutes * 60
    if arguments.worker:
        return _work(arguments.target[0], arguments.seed, arguments.inputs, seconds, chosen)
    failed = []
    for name in arguments.target or targets.target_names():
        print(f"== {name}, {chosen}, seed {arguments.seed}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--worker", "--target", name]
        command += ["--seed", str(arguments.seed), "--engine", chosen]
        command += [] if minutes is None else ["--minutes", str(minutes)]
        command += [] if arguments.inputs is None else ["--inputs", str(arguments.inputs)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "no target failed")
    return 1 if failed else 0


def _work(name: str, seed: int, input_count: int | None, seconds: float | None, chosen: str) -> int:
    if chosen == "atheris":
        engine.run_atheris(name, seed, input_count, seconds)
    engine.limit_memory()
    count = engine.run_random(targets.load(name), seed, input_count, seconds)
    print(f"{name}: {count} inputs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
