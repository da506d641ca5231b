"""The wall clock of other processes, which a test steps forward and back while they run.

`skew.c` stands between them and the C library. Their monotonic clocks, and all clocks of the test
itself, stay as they are. Needs what `tests/kit/preload.py` needs.
"""

import struct
from pathlib import Path

from tests.kit import preload

SOURCE = Path(__file__).with_name("skew.c")
_OFFSET = struct.Struct("=q")  # `int64_t` of skew.c


def why_not() -> str | None:
    """Why there are no such clocks on this machine; None: there are."""
    return preload.why_not(SOURCE)


class WallClock:
    """Of every process that is started with its `variables`. It tells the right time at first."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "skew"
        self._path.write_bytes(_OFFSET.pack(0))
        self.ahead_s = 0.0  # behind, if below 0
        self.variables = {
            "LD_PRELOAD": str(preload.compiled(SOURCE)),
            "SKEW_FILE": str(self._path),
        }

    def set_ahead(self, seconds: float) -> None:
        """Steps, so that it is ahead of the machine's by so much."""
        self.ahead_s = seconds
        with self._path.open("r+b", buffering=0) as file:
            file.write(_OFFSET.pack(int(seconds * 1e9)))
