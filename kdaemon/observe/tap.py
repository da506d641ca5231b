"""A look at records that pass through: a sample of those that one stream took within a moment.

About: `GET /tap` of the admin listener, where listen.admin_tap lets it. Knows records as the door
takes them; changes, delays and counts nothing. While nobody looks it costs the door one comparison
a frame.
Invariants: an answer has RECORDS_MAX records at most, of each DATA_BYTES_MAX bytes; TAPS_MAX looks
go on at one time, each for WINDOW_S; a partition key is text only where the data is asked for.
Flow: door.py -> here -> the waiting request.
"""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from kdaemon.base.ports import Dice
from kdaemon.base.record import Record
from kdaemon.door.door import Door
from kdaemon.http.request import HttpRequest
from kdaemon.observe.slices import Page
from kdaemon.streams import Stream

log = logging.getLogger("kdaemon.observe")

WINDOW_S = 0.5  # as Vector's tap has it; ours, 2026-11-28
RECORDS_MAX = 100  # the same
PER_FRAME_MAX = 4  # of one frame, so that a large one does not hide the others; ours
DATA_BYTES_MAX = 4 * 1024  # of one record; what is longer is cut, and says so; ours
TAPS_MAX = 4  # at one time; ours
KEY_DIGITS = 12  # of a key's SHA-256, in hex: tells keys apart, and not which they are; ours
NDJSON = b"application/x-ndjson"

_OFF = b"Records are not shown here: set listen.admin_tap = true, and start kdaemon again.\n"
MANY = b"%d looks go on already: try again in a second.\n" % TAPS_MAX
ENDED = b"The look ended early.\n"
_NO_STREAM = b"Expected /tap?stream=NAME, and perhaps &data=1.\n"


class _Look:
    """One that goes on."""

    __slots__ = ("ending", "give", "kept", "offered", "seen", "stream", "with_data")

    def __init__(self, give: Callable[[Page], object], stream: str, *, with_data: bool) -> None:
        self.give = give
        self.stream = stream
        self.with_data = with_data
        self.seen = 0  # records
        self.offered = 0  # of them, to be kept
        self.kept: list[Record] = []
        self.ending: asyncio.TimerHandle


class Taps:
    """All looks of one daemon. In the loop's thread only."""

    def __init__(self, dice: Dice, *, is_on: bool) -> None:
        self._dice = dice
        self._is_on = is_on
        self._door: Door | None = None  # it opens later than the admin listener
        self._looks: list[_Look] = []

    def watch(self, door: Door) -> None:
        """From now on looks are of this door."""
        self._door = door

    def allow(self, *, is_on: bool) -> None:
        """Whether anybody may look, from now on."""
        self._is_on = is_on
        if not is_on:
            self.close()

    def ask(self, request: HttpRequest) -> None:
        """Answers at the end of the window, or at once with why not."""
        asked = what_is_asked(request, is_on=self._is_on)
        if asked is not None:
            stream, with_data = asked
            forget = self.look(lambda page: page.give(request), stream, with_data=with_data)
            if forget is not None:
                request.on_gone = forget

    def look(
        self, give: Callable[[Page], object], stream: str, *, with_data: bool
    ) -> Callable[[], object] | None:
        """Gives a page at the end of the window; what ends the look before, without one. None: it
        gave a page at once, which says why there is no look now.
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
        """No look goes on any more; who waits for one hears so."""
        for look in list(self._looks):
            self._forget(look)
            look.give(Page(503, ENDED))

    def _taken(self, stream: Stream, records: Sequence[Record]) -> None:
        """The records are taken whatever becomes of the look."""
        try:
            for look in self._looks:
                is_listed_so = stream.is_listed and look.stream == stream.config.name
                if is_listed_so or look.stream == stream.name:
                    self._sample(look, records)
        except Exception:
            log.exception("a look at records broke: a defect of kdaemon")
            self.close()

    def _sample(self, look: _Look, records: Sequence[Record]) -> None:
        """Each frame offers a few of its records, spread over it; those that were offered have the
        same chance to be kept, whenever they came.
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
    """The stream, and whether data are to be shown. None: it was answered with why not."""
    wanted = parse_qs(request.query)
    streams = wanted.get("stream", [])
    if is_on and len(streams) == 1:
        return streams[0], wanted.get("data") == ["1"]
    (Page(400, _NO_STREAM) if is_on else Page(403, _OFF)).give(request)
    return None


def _cut(record: Record) -> Record:
    """A copy that holds no more than what is shown; one byte more says that there is more."""
    if len(record.data) <= DATA_BYTES_MAX:
        return record
    return Record(record.data[: DATA_BYTES_MAX + 1], record.partition_key, record.explicit_hash_key)


def _shown(record: Record, *, with_data: bool) -> dict[str, Any]:
    """As a record line has it; without data only how much there is, and the key's digest."""
    key = record.partition_key
    is_cut = len(record.data) > DATA_BYTES_MAX
    data = record.data[:DATA_BYTES_MAX]
    if not with_data:
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:KEY_DIGITS]
        size = f"over {DATA_BYTES_MAX}" if is_cut else len(data)
        return {"key_sha256": digest if key else None, "bytes": size}
    told: dict[str, Any] = {"partition_key": key} if key else {}
    if record.explicit_hash_key is not None:
        told["explicit_hash_key"] = record.explicit_hash_key
    try:
        told["data"] = data.decode()
    except UnicodeDecodeError:
        told["data_base64"] = base64.b64encode(data).decode()
    return {**told, "is_cut": True} if is_cut else told
