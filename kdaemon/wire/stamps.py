"""The date of a request as it is signed: reading and writing it. Pure.

Does not use the system's calendar: whole seconds since 1970, in UTC. Invariant: `read_stamp` reads
what `stamp_of` writes as the same second; no input of a client makes it raise.
Where it sits: `claim.py` reads the date of a request, `signature.py` dates requests of ours.
"""

import calendar
import re
from functools import lru_cache
from typing import Final

READ_MAX: Final = 64
"""Remembered dates: a client's stays the same for a while. Ours, 2026-11-28: a head has at most 32
KiB, so a date has, too."""

_STAMP = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_HTTP_DATE = re.compile(
    rb"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4})"
    rb" ([0-9]{2}):([0-9]{2}):([0-9]{2}) (?:GMT|-0000|\+0000)"
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov")
_MONTH_NUMBERS = {name: number for number, name in enumerate((*_MONTHS, b"Dec"), 1)}


@lru_cache(READ_MAX)
def read_stamp(written: bytes) -> tuple[str, int] | None:
    """The date of a request: as it is signed, and in seconds since 1970; None: it is no date."""
    found = _STAMP.fullmatch(written)
    if found is not None:
        parts = tuple(map(int, found.groups()))
    else:
        found = _HTTP_DATE.fullmatch(written)
        month = None if found is None else _MONTH_NUMBERS.get(found[2])
        if found is None or month is None:
            return None
        day, _, year, *rest = found.groups()
        parts = (int(year), month, int(day), *map(int, rest))
    year, month, day, hour, minute, second = parts
    is_date = year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31
    if not is_date or hour > 23 or minute > 59 or second > 60:
        return None
    stamp = f"{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"
    return stamp, calendar.timegm((year, month, day, hour, minute, second))


def stamp_of(time_s: int) -> str:
    """The date of a request for seconds since 1970. Days are counted from 1 March of the year 0, in
    eras of 400 years.
    """
    days, seconds = divmod(time_s, 86_400)
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += 400 * era + (month <= 2)
    hour, seconds = divmod(seconds, 3_600)
    return f"{year:04}{month:02}{day:02}T{hour:02}{seconds // 60:02}{seconds % 60:02}Z"
