"""What some tests need of this machine: a marker each (`pytest -m "not java"`; pyproject.toml says
what each is), and why it is not here.

tests/conftest.py skips what is marked and cannot run, and says why. A test that finds out only
later (no right to mount, a client that is not built) skips itself. What is imported here is
imported by every test run, so the rest of tests/kit is asked late.
Invariant: every marker of this table is registered, which `--strict-markers` needs.
"""

import functools
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = ROOT / "tests" / "contract" / "node_modules"
SCHEMAS = ROOT / ".venv" / "kubernetes" / "kubernetes_validate" / "kubernetes-json-schema"
"""Of Kubernetes, of every version since the oldest that we name."""
PROMETHEUS = ROOT / ".venv" / "prometheus" / "usr" / "bin"


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def find_helm() -> str | None:
    """That of the path, or the one that `make charts` built."""
    built = ROOT / ".venv" / "helm" / "helm"
    return shutil.which("helm") or (str(built) if built.exists() else None)


def find_prometheus(name: str = "prometheus") -> str | None:
    """`prometheus` or `promtool`: that of `make alerts`, or the one on the path."""
    own = PROMETHEUS / name
    return str(own) if own.exists() else shutil.which(name)


def _compiler() -> str | None:
    from tests.kit import power

    return power.why_not()


def _unless(is_here: object, obstacle: str) -> str | None:
    return None if is_here else obstacle


def _program(name: str) -> Callable[[], str | None]:
    return lambda: _unless(shutil.which(name), f"{name} is not on this machine")


WHY_NOT: Mapping[str, Callable[[], str | None]] = {
    "chromium": lambda: _unless(
        find_chromium(), "Chromium is not on this machine; Debian's package is `chromium`"
    ),
    "compiler": _compiler,
    "curl": _program("curl"),
    "go": lambda: None,  # what it built runs without it
    "helm": lambda: _unless(find_helm(), "there is no helm here; `make charts` builds one"),
    "java": _program("java"),
    "kubectl": _program("kubectl"),
    "kubernetes": lambda: _unless(
        SCHEMAS.exists(), "no schemas of Kubernetes here; `make charts` brings them"
    ),
    "linux": lambda: _unless(sys.platform == "linux", "only Linux has its /proc"),
    "node": lambda: (
        _program("node")()
        or _unless(NODE_MODULES.is_dir(), f"there is no {NODE_MODULES}; `make test` makes it")
    ),
    "prometheus": lambda: _unless(
        find_prometheus() and find_prometheus("promtool"),
        "Prometheus is not on this machine; `make alerts` brings it where apt-get is",
    ),
    "root": lambda: _unless(os.geteuid() == 0, "only root may do this"),
    "systemd": _program("systemd-analyze"),
}


@functools.cache
def why_not(marker: str) -> str | None:
    """Why a test of this marker cannot run here; None: it can, or the marker names no tool."""
    return WHY_NOT[marker]() if marker in WHY_NOT else None
