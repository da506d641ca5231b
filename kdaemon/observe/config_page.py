"""The configuration in force, for people who look at a running daemon: each value and its origin.

About: `/configz/effective`, JSON with a row for each value, from the same source as `kdaemon config
--effective` (`config/effective.py`), which masks secrets. The page shows the configuration that was
read at the start, or by the last reload that took one. With `--sandbox`, embedded services stand in
for the services that are named here.
Bound: ROWS_MAX rows, made in steps; the page says how many rows it leaves out.
Flow: reloads.py -> here -> admin.py, slices.py. Loaded at the first request.
"""

import os
from itertools import islice

import msgspec

from kdaemon.base.text import printable
from kdaemon.config.effective import DEFAULT, effective
from kdaemon.config.keys import dotted
from kdaemon.config.load import Loaded
from kdaemon.observe.slices import JSON, Page, Steps

ROWS_MAX = 2000  # the top level, and the tables of 50 streams; 250 KB; ours, 2026-11-28
ROWS_A_STEP = 50  # half a millisecond; ours, 2026-11-28


class Row(msgspec.Struct, frozen=True):
    """`origin`: in words. `is_given`: some source gave the value under this very key: the value is
    neither a default nor taken from [default] or [send].
    """

    key: str
    value: object
    origin: str
    is_given: bool


def config_steps(loaded: Loaded | None, generation: int) -> Steps:
    """Makes the page. `loaded`: None: this daemon has read its configuration from nowhere."""
    rows: list[Row] = []
    values = iter(()) if loaded is None else effective(loaded, os.environ)
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
