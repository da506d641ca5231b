"""kdaemon compiled, in an environment of its own: `python -m tests.kit.compiled DIRECTORY`.

A wheel is built from a copy of the sources, and installed where nothing of this tree is: its
environment has what this one has but kdaemon, and its tree has all that the repository has but
`kdaemon/`, which is the installed one. Tests that run in that tree, by that Python, find the
compiled build and no other, also in the processes that they start.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "build_backend.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "node_modules", ".*")
MIDDLE = ("base", "route", "pace", "pack", "settle", "engine")
BUILD_S = 1800.0  # minutes on one busy core


@dataclass(frozen=True, slots=True)
class Compiled:
    """Where it stands: `python` runs it, in `tree`."""

    python: Path
    tree: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.tree, capture_output=True, text=True, check=False)


def build_wheel(directory: Path, env: Mapping[str, str], *options: str) -> Path:
    """Of this tree. Raises RuntimeError with what the build said."""
    source, wheels = directory / "source", directory / "wheels"
    source.mkdir()
    shutil.copytree(ROOT / "kdaemon", source / "kdaemon", ignore=NOT_COPIED)
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, *options, "--wheel-dir", str(wheels), str(source)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no wheel was built:\n{done.stdout}\n{done.stderr}")
    (wheel,) = wheels.iterdir()
    return wheel


def build(directory: Path, env: Mapping[str, str] = {}, *options: str) -> Compiled:
    """`directory`: is there, and empty. `env`: of the build (setup.py). `options`: of pip."""
    wheel = build_wheel(directory, {"KDAEMON_BUILD": "compiled", **env}, *options)
    environment = directory / "env"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60
    )
    python = environment / "bin" / "python"
    packages = next(environment.glob("lib/python*/site-packages"))
    install = ["--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=60)
    # Ours come first. The .pth files there are not read, so an editable kdaemon is not found.
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    tree = directory / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        is_hidden = path.name.startswith(".") and path.name != ".pre-commit-config.yaml"
        if path.name in {"kdaemon", "build"} or is_hidden:
            continue
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=NOT_COPIED)
        else:
            shutil.copy(path, tree)
    (tree / "kdaemon").symlink_to(packages / "kdaemon")
    modules = ROOT / "tests" / "contract" / "node_modules"
    if modules.exists():
        (tree / "tests" / "contract" / "node_modules").symlink_to(modules)
    return Compiled(python, tree)


def main() -> int:
    directory = Path(sys.argv[1]).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    made = build(directory)
    said = made.run("-m", "kdaemon", "--version").stdout
    print(said, end="")
    return 0 if "(compiled)" in said else 1


if __name__ == "__main__":
    sys.exit(main())
