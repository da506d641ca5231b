"""The live page: one HTML page, and the events that it draws, a second apart.

About: `GET /events` of the admin listener, server-sent events (WHATWG HTML, 9.2), each with
everything that the page shows (live_event.py); and the page itself (live_page.html), with the
policy under which a browser shows it.
Invariants: an event is made once for all viewers, in slices of the loop, and only while there is a
viewer. A viewer that does not read costs nothing beside the one event that all share: it misses the
events in between, and the next event that it takes is whole.
Bound: VIEWERS_MAX viewers.
Flow: live_event.py -> here -> http/pieces.py, admin.py. admin.py loads this file at the first
request, so that a daemon that nobody looks at saves the memory.
"""

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

from kdaemon.base.ports import Clock
from kdaemon.base.steps import Steps
from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpRequest
from kdaemon.observe.live_event import event_steps
from kdaemon.observe.reading import Reader
from kdaemon.observe.slices import NO_SNIFF, NO_STORE, SLICE_NS, TEXT

INTERVAL_S = 1.0  # between two events; ours, 2026-11-28: an eye can follow
# At one time: a screen on a wall, and some people; of the listener's 64 places; ours.
VIEWERS_MAX = 8

PAGE = Path(__file__).with_name("live_page.html")
EVENT_STREAM = b"text/event-stream"
HTML = b"text/html; charset=utf-8"

MANY = b"%d watch already: close one of the pages.\n" % VIEWERS_MAX
_RETRY = (b"Retry-After", b"5")

log = logging.getLogger("kdaemon.observe")


Ahead = Callable[[Callable[[], object]], asyncio.Task[None]]
"""Does something, and calls its argument when that is done, unless it was ended."""


class LivePage:
    """The HTML, and the headers that it is served with."""

    def __init__(self) -> None:
        text = PAGE.read_text(encoding="utf-8")
        self.body = text.encode()
        policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none';"
            f" frame-ancestors 'none'; style-src '{_hash(text, 'style')}';"
            f" script-src '{_hash(text, 'script')}'"
        )
        self.headers = (
            NO_STORE,
            (b"Content-Security-Policy", policy.encode()),
            NO_SNIFF,
            (b"Referrer-Policy", b"no-referrer"),
            (b"Vary", b"Accept"),
        )

    def give(self, request: HttpRequest) -> None:
        request.respond(200, self.body, content_type=HTML, headers=self.headers)


def _hash(text: str, tag: str) -> str:
    """The hash of the only element `tag`, as a Content-Security-Policy has it (CSP 3, 2.3.1)."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(found) == 1, f"the page has {len(found)} elements {tag}"
    return "sha256-" + base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()


class Viewer:
    """One client that watches. A `PieceSource`."""

    __slots__ = ("_is_over", "_live", "_seen", "pieces")

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._seen = 0  # the number of the last event that was taken
        self._is_over = False
        self.pieces: Pieces | None = None

    def next_piece(self) -> bytes | None:
        if self._is_over:
            self._live.leave(self)
            return None
        number, event = self._live.newest
        if number == self._seen:
            return b""
        self._seen = number
        return event

    def drain(self) -> None:
        self._is_over = True
        self.wake()

    def gone(self) -> None:
        self._live.leave(self)

    def wake(self) -> None:
        if self.pieces is not None:
            self.pieces.wake()


class Live:
    """All viewers of one daemon. In the loop's thread only."""

    def __init__(
        self,
        reader: Reader,
        clock: Clock,
        *,
        shows_keys: bool = False,
        ahead: Ahead | None = None,
    ) -> None:
        """`shows_keys`: keys of hot shards are shown as text; otherwise as hashes. `ahead`: runs
        before each event is read.
        """
        self._ahead = ahead
        self._reader = reader
        self._clock = clock
        self.shows_keys = shows_keys
        self.page = LivePage()
        self._viewers: list[Viewer] = []
        self.newest = (0, b"")  # number and bytes of an event; 0: there is none yet
        self._number = 0
        self._steps: Steps[bytes] | None = None
        self._next: asyncio.Handle | asyncio.Task[None] | None = (
            None  # the next slice, or the next event
        )

    @property
    def viewer_count(self) -> int:
        return len(self._viewers)

    def ask(self, request: HttpRequest) -> None:
        """Answers at once, and goes on until the client leaves or the listener drains."""
        headers = (NO_STORE, NO_SNIFF)
        if request.method == "HEAD":
            request.respond(200, b"", content_type=EVENT_STREAM, headers=headers)
            return
        if len(self._viewers) >= VIEWERS_MAX:
            request.respond(503, MANY, content_type=TEXT, headers=(*headers, _RETRY))
            return
        viewer = Viewer(self)
        self._viewers.append(viewer)
        viewer.pieces = request.respond_in_pieces(
            200, viewer, content_type=EVENT_STREAM, headers=headers
        )
        if self._next is None and self._viewers:
            self._next = asyncio.get_running_loop().call_soon(self._begin)

    @property
    def is_planned(self) -> bool:
        """Whether another event, or a part of one, is to be made."""
        return self._next is not None

    def leave(self, viewer: Viewer) -> None:
        """Forgets a viewer; does nothing for one that has left. Without viewers no event is
        made.
        """
        if viewer in self._viewers:
            self._viewers.remove(viewer)
        if not self._viewers:
            self._stop()

    def close(self) -> None:
        """Ends the answers of all viewers."""
        self._stop()
        for viewer in self._viewers[:]:
            viewer.drain()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next, self._steps = None, None
        self.newest = (0, b"")  # the next viewer gets no old event

    def _begin(self) -> None:
        if self._ahead is None:
            self._read()
        else:
            self._next = self._ahead(self._read)

    def _read(self) -> None:
        self._steps = event_steps(self._reader, shows_keys=self.shows_keys)
        self._slice()

    def _slice(self) -> None:
        assert self._steps is not None
        loop, until_ns = asyncio.get_running_loop(), self._clock.now_ns() + SLICE_NS
        try:
            while self._clock.now_ns() < until_ns:
                next(self._steps)
        except StopIteration as end:
            self._number += 1
            self.newest = (self._number, end.value)
            self._steps = None
            self._next = loop.call_later(INTERVAL_S, self._begin)
            for viewer in self._viewers[:]:
                viewer.wake()
        except Exception:
            log.exception("an event of the live page could not be made: a defect of kdaemon")
            self.close()
        else:
            self._next = loop.call_soon(self._slice)
