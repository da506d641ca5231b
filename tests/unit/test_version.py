"""The version stands in the package, for the daemon, and in pyproject.toml, for who installs it."""

import tomllib
from pathlib import Path

import kdaemon

ROOT = Path(__file__).resolve().parents[2]


def test_both_say_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert kdaemon.__version__ == project["version"]
