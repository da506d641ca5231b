"""The configuration in force, for who looks at a daemon that runs: each value, and who gave it.

About: `/configz/effective`, JSON with a row for each value, from the same source as `kdaemon config
--effective` (`config/effective.py`), which masks secrets. Tells of what was read at the start, or
by the last reload that is in force; `--sandbox` stands in for the services that are named here.
Bound: ROWS_MAX rows, made in steps; the page tells how many it leaves out.
Flow: reloads.py -> here -> admin.py, slices.py. Loaded when the first one asks.
"""

from itertools import islice

import msgspec

from kdaemon.base.text import printable
from kdaemon.config.effective import DEFAULT, effective
from kdaemon.config.keys import dotted
from kdaemon.config.load import Loaded
from kdaemon.observe.slices import JSON, Page, Steps

ROWS_MAX = 2000  # the top, and the tables of 50 streams; 250 KB; ours, 2026-11-28
ROWS_A_STEP = 50  # half a millisecond; ours, 2026-11-28


class Row(msgspec.Struct, frozen=True):
    """`origin`: in words. `is_given`: by somebody, under this very key: neither a default nor what
    [default] or [send] says.
    """

    key: str
    value: object
    origin: str
    is_given: bool


def config_steps(loaded: Loaded | None, generation: int) -> Steps:
    """None: this daemon has not read it from anywhere."""
    rows: list[Row] = []
    values = iter(()) if loaded is None else effective(loaded)
    for each in islice(values, ROWS_MAX):
        is_given = each.origin != DEFAULT and not each.key
        rows.append(Row(dotted(each.path), each.shown, printable(each.note), is_given))
        if not len(rows) % ROWS_A_STEP:
            yield
    left_out = 0
    for left_out, _ in enumerate(values, 1):
        if not left_out % ROWS_A_STEP:
            yield
    told = {"generation": generation, "left_out": left_out, "settings": rows}
    return Page(200, msgspec.json.encode(told) + b"\n", JSON)
