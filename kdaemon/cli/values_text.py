"""Texts for people and values for programs: sizes, times, record lines. Pure but for the calendar.

Times are shown and read as UTC, so that the output of one command can be given to the next.
Invariant: no text of a client or a service reaches a terminal with control characters.
"""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

from kdaemon.base.text import printable

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?")
_DURATION_CHARACTERS_MAX = 14  # keeps the moment within 64 bits
_EPOCH = datetime.fromtimestamp(0, UTC)
_KIB = 1024
_DAY_S = 86_400

JsonFields = dict[str, str | int | float | bool | None]


def byte_text(byte_count: int) -> str:
    """`17 B`, `1.5 KiB`, `3.2 GiB`."""
    size = float(byte_count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < _KIB or unit == "TiB":
            break
        size /= _KIB
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def age_text(age_ms: int) -> str:
    """The two largest units: `4 s`, `2 min 5 s`, `3 d 4 h`. A clock set back makes it 0 s."""
    seconds = max(0, age_ms) // 1000
    amounts = (
        (seconds // _DAY_S, "d"),
        (seconds % _DAY_S // 3600, "h"),
        (seconds % 3600 // 60, "min"),
        (seconds % 60, "s"),
    )
    first = next((at for at, (amount, _) in enumerate(amounts) if amount), 3)
    shown = [f"{amount} {unit}" for amount, unit in amounts[first : first + 2] if amount]
    return " ".join(shown) or "0 s"


def time_text(unix_ms: int, precision: str = "milliseconds") -> str:
    """`2026-11-21T20:34:01.123Z`, or without the fraction if `precision` is "seconds". A number
    that no calendar has (a damaged row) is shown as a number.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=unix_ms)
    except OverflowError:
        return str(unix_ms)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def read_time(text: str, now_ms: int) -> int:
    """Unix milliseconds. `text`: an ISO time (UTC if it names no zone), or a duration before now,
    such as 90s, 2h or 1d12h. Raises ValueError with words for people.
    """
    match = _DURATION.fullmatch(text) if len(text) <= _DURATION_CHARACTERS_MAX else None
    if text and match is not None:
        weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        days += 7 * weeks
        return now_ms - ((days * 24 + hours) * 3600 + minutes * 60 + seconds) * 1000
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; expected one like 2026-11-21T20:34 (UTC), or how long ago, "
            "like 90s, 2h, 1d12h"
        ) from None


def printable_json(text: str) -> str:
    r"""The same JSON, with characters that control a terminal as JSON's escapes (`\u202e`)."""
    if text.isprintable() and printable(text) == text:
        return text
    return "".join(c if printable(c) == c else json.dumps(c)[1:-1] for c in text)


def data_fields(data: bytes) -> JsonFields:
    """`data` if it is UTF-8, else `data_base64`: as in a record line."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(data).decode()}


def data_text(data: bytes) -> tuple[str, str]:
    """(form, data) for a terminal: "text" if the data is printable text, else "base64"."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        pass
    else:
        if all(printable(line) == line for line in text.replace("\t", "").split("\n")):
            return "text", text
    return "base64", base64.b64encode(data).decode()
