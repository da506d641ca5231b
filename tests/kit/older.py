"""The version before this one, out of the repository's history, to run on the same spool.

A tree to start daemons from: kdaemon as of `COMMIT`, tests as they are here. A clone without that
commit (a shallow one) has no older version: `why_not` says so.
"""

import functools
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.kit.template import ROOT

COMMIT = "d6ccadd5fccb4074aba459c0a869ec07f5f103c8"
"""The last one before several upstreams, reloads and takeovers; move on with each release. Ours,
2026-11-28."""

GIT_S = 60.0


@functools.cache
def _archive() -> bytes:
    """kdaemon as of then, as a zip. Raises OSError or subprocess.SubprocessError: there is none."""
    command = ["git", "archive", "--format=zip", COMMIT, "kdaemon"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=GIT_S)
    return done.stdout


@functools.cache
def why_not() -> str | None:
    """Why there is no older version here; None: there is one."""
    try:
        _archive()
    except (OSError, subprocess.SubprocessError) as error:
        return f"commit {COMMIT}, the version before this one, is not in this clone: {error}"
    return None


def skip_without() -> None:
    """For a test that needs it: skips that, and says why."""
    obstacle = why_not()
    if obstacle is not None:
        pytest.skip(obstacle)


def older_tree(directory: Path) -> Path:
    """Where the older version can be started from: made in this directory."""
    tree = directory / "older"
    tree.mkdir()
    with zipfile.ZipFile(io.BytesIO(_archive())) as files:
        files.extractall(tree)
    (tree / "tests").symlink_to(ROOT / "tests")
    return tree
