"""The date of a request: read, and written."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from kdaemon.wire.stamps import read_stamp, stamp_of


@given(st.integers(0, 4_000_000_000))
def test_seconds_become_a_stamp_and_back(time_s: int) -> None:
    at = dt.datetime.fromtimestamp(time_s, dt.UTC)
    assert stamp_of(time_s) == at.strftime("%Y%m%dT%H%M%SZ")
    assert read_stamp(stamp_of(time_s).encode()) == (stamp_of(time_s), time_s)
