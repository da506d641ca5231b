"""One subscription on its way to its client: the source of an answer in pieces.

Knows the loop's timers and the clock; what is sent is `feed.py`'s. No task: an event is made when
the client takes more, and a timer tells when one is due that no record brings.
Invariants: when the answer has ended, however, there is no timer and no subscription left; where we
fail, the client is told in an event, because some SDKs (Java 2.57) take the reset of a stream for
its end.
Where it sits: `server.py` begins one; http/ asks for pieces.
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
    """`on_end`: is told once, when nothing more is sent."""

    def __init__(self, feed: Feed, clock: Clock, on_end: Callable[["Push"], object]) -> None:
        self._feed = feed
        self._clock = clock
        self._on_end = on_end
        self._pieces: Pieces | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: HttpRequest, headers: Headers) -> None:
        """Answers the request."""
        self._feed.subscription.on_change = self._wake
        self._pieces = request.respond_in_pieces(
            200, self, content_type=CONTENT_TYPE, headers=headers
        )

    # --- as the source of an answer

    def next_piece(self) -> bytes | None:
        self._stop_timer()
        now_ns = self._clock.now_ns()
        try:
            message = self._feed.next_message(now_ns)
        except Exception as error:  # noqa: BLE001 - a defect of ours: its client must hear of it
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
        """The client subscribes anew, elsewhere or later, from where this one ended."""
        self._feed.subscription.end()

    def gone(self) -> None:
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
