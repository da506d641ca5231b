"""Libraries of our own that stand before the C library's functions in a daemon (LD_PRELOAD).

Needs Linux and a C compiler: `why_not` says what is missing. Nothing here needs any privilege.
"""

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILER = "cc"
COMPILE_S = 60.0


@functools.cache
def why_not(source: Path) -> str | None:
    """Why this one cannot be had on this machine; None: it can."""
    if sys.platform != "linux":
        return f"{source.name} needs LD_PRELOAD, which only Linux has"
    if shutil.which(COMPILER) is None:
        return f"{source.name} needs a C compiler, and there is no {COMPILER}"
    try:
        compiled(source)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{source.name} needs a C compiler, and {COMPILER} fails: {error}"
    return None


@functools.cache
def compiled(source: Path) -> Path:
    """The library, made for this test run."""
    directory = Path(tempfile.mkdtemp(prefix="kdaemon-preload-"))
    atexit.register(shutil.rmtree, directory)
    path = directory / f"{source.stem}.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(path)]
    subprocess.run(
        [COMPILER, *flags, str(source), "-ldl", "-lpthread"], check=True, timeout=COMPILE_S
    )
    return path
