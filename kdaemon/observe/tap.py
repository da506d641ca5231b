"""`/tap`: a sample of the records that one stream admits within a short time.

About: `GET /tap` of the admin listener, if listen.admin_tap allows it. Knows records as the door
admits them; changes, delays and counts nothing. While nobody looks, the door pays one comparison a
frame.
Invariants: an answer has RECORDS_MAX records at most, each with DATA_BYTES_MAX bytes at most.
TAPS_MAX looks go on at one time, each for WINDOW_S. A partition key is shown as text only if the
data is asked for.
Flow: door.py -> here -> the waiting request.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from kdaemon.base.ports import Dice
from kdaemon.base.record import Record
from kdaemon.door.door import Door
from kdaemon.http.request import HttpRequest
from kdaemon.observe.keys import key_name
from kdaemon.observe.slices import Page
from kdaemon.streams import Stream

log = logging.getLogger("kdaemon.observe")

WINDOW_S = 0.5  # as Vector's tap has it; ours, 2026-11-28
RECORDS_MAX = 100  # the same
PER_FRAME_MAX = 4  # of one frame, so that a large frame does not hide the others; ours
DATA_BYTES_MAX = 4 * 1024  # of one record; longer data is cut, and marked as cut; ours
TAPS_MAX = 4  # at one time; ours
NDJSON = b"application/x-ndjson"

_OFF = b"Records are not shown here: set listen.admin_tap = true, then `kdaemon reload`.\n"
MANY = b"%d looks go on already: try again in a second.\n" % TAPS_MAX
ENDED = b"The look ended early.\n"
_NO_STREAM = b"Expected /tap?stream=NAME, and perhaps &data=1.\n"


class _Look:
    """A look that goes on."""

    __slots__ = ("ending", "give", "kept", "offered", "seen", "stream", "with_data")

    def __init__(self, give: Callable[[Page], object], stream: str, *, with_data: bool) -> None:
        self.give = give
        self.stream = stream
        self.with_data = with_data
        self.seen = 0  # records that the stream admitted
        self.offered = 0  # those of them that could be kept
        self.kept: list[Record] = []
        self.ending: asyncio.TimerHandle


class Taps:
    """All looks of one daemon. In the loop's thread only."""

    def __init__(self, dice: Dice, *, is_on: bool) -> None:
        self._dice = dice
        self._is_on = is_on
        self._door: Door | None = None  # the door opens later than the admin listener
        self._looks: list[_Look] = []

    def watch(self, door: Door) -> None:
        """From now on looks are at this door."""
        self._door = door

    def allow(self, *, is_on: bool) -> None:
        """Sets whether anybody may look, from now on. Off: looks that go on end."""
        self._is_on = is_on
        if not is_on:
            self.close()

    def ask(self, request: HttpRequest) -> None:
        """Answers at the end of the look, or at once with the reason why there is none."""
        asked = what_is_asked(request, is_on=self._is_on)
        if asked is not None:
            stream, with_data = asked
            forget = self.look(lambda page: page.give(request), stream, with_data=with_data)
            if forget is not None:
                request.on_gone = forget

    def look(
        self, give: Callable[[Page], object], stream: str, *, with_data: bool
    ) -> Callable[[], object] | None:
        """Gives a page at the end of the look. Returns what ends the look early, without a page.
        None: a page was given at once, which says why there is no look now.
        """
        if self._door is None or len(self._looks) >= TAPS_MAX:
            give(Page(503, MANY if self._looks else b"kdaemon is starting.\n"))
            return None
        look = _Look(give, stream, with_data=with_data)
        look.ending = asyncio.get_running_loop().call_later(WINDOW_S, self._end, look)
        self._looks.append(look)
        self._door.on_taken = self._taken
        return lambda: self._forget(look)

    def close(self) -> None:
        """Ends all looks; clients that wait for one are told so."""
        for look in list(self._looks):
            self._forget(look)
            look.give(Page(503, ENDED))

    def _taken(self, stream: Stream, records: Sequence[Record]) -> None:
        """Samples admitted records. An error here must not stop the records."""
        try:
            for look in self._looks:
                is_listed_so = stream.is_listed and look.stream == stream.config.name
                if is_listed_so or look.stream == stream.name:
                    self._sample(look, records)
        except Exception:
            log.exception("a look at records broke: a defect of kdaemon")
            self.close()

    def _sample(self, look: _Look, records: Sequence[Record]) -> None:
        """Each frame offers a few of its records, spread over the frame. All offered records have
        the same chance to be kept, whenever they came.
        """
        look.seen += len(records)
        step = max(1, len(records) // PER_FRAME_MAX)
        for record in records[::step][:PER_FRAME_MAX]:
            look.offered += 1
            if len(look.kept) < RECORDS_MAX:
                look.kept.append(_cut(record))
                continue
            place = int(self._dice.random() * look.offered)
            if place < RECORDS_MAX:
                look.kept[place] = _cut(record)

    def _end(self, look: _Look) -> None:
        self._forget(look)
        lines: list[dict[str, Any]] = [{"seen": look.seen, "shown": len(look.kept)}]
        lines += [_shown(record, with_data=look.with_data) for record in look.kept]
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        look.give(Page(200, body, NDJSON))

    def _forget(self, look: _Look) -> None:
        look.ending.cancel()
        if look in self._looks:
            self._looks.remove(look)
        if not self._looks and self._door is not None:
            self._door.on_taken = None


def what_is_asked(request: HttpRequest, *, is_on: bool) -> tuple[str, bool] | None:
    """The stream, and whether data is to be shown. None: the request was answered with the
    reason.
    """
    wanted = parse_qs(request.query)
    streams = wanted.get("stream", [])
    if is_on and len(streams) == 1:
        return streams[0], wanted.get("data") == ["1"]
    (Page(400, _NO_STREAM) if is_on else Page(403, _OFF)).give(request)
    return None


def _cut(record: Record) -> Record:
    """A copy with no more data than is shown; one byte more marks that there was more."""
    if len(record.data) <= DATA_BYTES_MAX:
        return record
    return Record(record.data[: DATA_BYTES_MAX + 1], record.partition_key, record.explicit_hash_key)


def _shown(record: Record, *, with_data: bool) -> dict[str, Any]:
    """A line for a record: all of it, or only its size and the digest of its key."""
    key = record.partition_key
    is_cut = len(record.data) > DATA_BYTES_MAX
    data = record.data[:DATA_BYTES_MAX]
    if not with_data:
        size = f"over {DATA_BYTES_MAX}" if is_cut else len(data)
        return {"key_sha256": key_name(key, shows_keys=False) if key else None, "bytes": size}
    told: dict[str, Any] = {"partition_key": key} if key else {}
    if record.explicit_hash_key is not None:
        told["explicit_hash_key"] = record.explicit_hash_key
    try:
        told["data"] = data.decode()
    except UnicodeDecodeError:
        told["data_base64"] = base64.b64encode(data).decode()
    return {**told, "is_cut": True} if is_cut else told
