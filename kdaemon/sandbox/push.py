"""Sends one subscription to its client: the source of an answer in pieces.

Knows the loop's timers and the clock; `feed.py` makes what is sent. There is no task: an event is
made when the client takes more, and a timer fires when an event without records is due.
Invariants: when the answer has ended, in whatever way, no timer and no subscription is left. If an
event cannot be made, the client is told so in an event, because some SDKs (Java 2.57) take the
reset of a stream for its end.
Where it sits: `server.py` begins a push; http/ asks for pieces.
"""

import asyncio
from collections.abc import Callable

from kdaemon.base.ports import Clock
from kdaemon.http.answer import Headers
from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpRequest
from kdaemon.sandbox.event_stream import CONTENT_TYPE
from kdaemon.sandbox.feed import Feed


class Push:
    """The answer for one subscription. `on_end`: is told once, when nothing more is sent."""

    def __init__(self, feed: Feed, clock: Clock, on_end: Callable[["Push"], object]) -> None:
        self._feed = feed
        self._clock = clock
        self._on_end = on_end
        self._pieces: Pieces | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: HttpRequest, headers: Headers) -> None:
        """Answers the request, message by message from now on."""
        self._feed.subscription.on_change = self._wake
        self._pieces = request.respond_in_pieces(
            200, self, content_type=CONTENT_TYPE, headers=headers
        )

    # --- as the source of an answer

    def next_piece(self) -> bytes | None:
        """The next message. Empty: none yet, and a timer will ask again; None: that was all, and
        `on_end` was told.
        """
        self._stop_timer()
        now_ns = self._clock.now_ns()
        try:
            message = self._feed.next_message(now_ns)
        except Exception as error:  # noqa: BLE001 - a defect of ours: the client must be told
            told = {"message": "an event of a subscription could not be made", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
            message = self._feed.broken_off()
        if message is None:
            self._end()
        elif not message:
            wait_s = (self._feed.subscription.wakes_ns - now_ns) / 1_000_000_000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)
        return message

    def drain(self) -> None:
        """Ends the subscription: the client subscribes again, and goes on where this one ended."""
        self._feed.subscription.end()

    def gone(self) -> None:
        """The client has gone: the subscription ends, and `on_end` is told."""
        self._feed.subscription.end()
        self._end()

    # --- its end

    def _wake(self) -> None:
        if self._pieces is not None:
            self._pieces.wake()

    def _end(self) -> None:
        self._stop_timer()
        self._feed.subscription.on_change = None
        self._pieces = None
        self._on_end(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
