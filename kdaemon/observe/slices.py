"""Makes pages that take long: in slices of the event loop, one page at a time, for all who ask.

About: when a page is made, and who gets it. A page is a generator that yields wherever the loop may
turn, and returns the whole; its maker decides on the contents. Knows the loop, a clock and
requests; must not know metrics or streams.
Invariants: a slice ends after SLICE_NS, so that nothing else waits longer than that and one step.
One page is made at a time. Requests that come before a page is begun get that page; later requests
share the next one, so that no page is older than its request. A page is not finished if nobody
waits for it any more. Bound: making pages takes a tenth of the loop's time at most, or the time of
one page a second where that is more.
Flow: admin.py -> here -> metrics.py, status.py -> here -> the waiting requests.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from kdaemon.base.ports import Clock
from kdaemon.http.request import HttpRequest

SLICE_NS = 2_000_000  # 2 ms of the loop, then other work; ours, 2026-11-28
PAUSE_FACTOR = 10  # the pause after a page is this many times the loop's time that the page took,
PAUSE_NS_MAX = 1_000_000_000  # but 1 s at most; ours, 2026-11-28

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
NO_STORE = (b"Cache-Control", b"no-store")  # a page is of one moment
NO_SNIFF = (b"X-Content-Type-Options", b"nosniff")  # names and records in a page are others' texts

log = logging.getLogger("kdaemon.observe")


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    body: bytes
    content_type: bytes = TEXT

    def give(self, request: HttpRequest) -> None:
        """Answers the request; does nothing if its client is gone."""
        headers = (NO_STORE, NO_SNIFF)
        request.respond(self.status, self.body, content_type=self.content_type, headers=headers)


FAILED = Page(500, b"This page could not be made: a defect of kdaemon, and its log says more.\n")

Steps = Generator[None, None, Page]


class SlicedPages:
    """`makers`: for each name of a page, the function that begins it. In the loop's thread only."""

    def __init__(self, clock: Clock, makers: Mapping[str, Callable[[], Steps]]) -> None:
        self._clock = clock
        self._makers = makers
        # By page; the page that was asked for first is first.
        self._waiting: dict[str, list[HttpRequest]] = {}
        self._name = ""  # of the page that is being made
        self._steps: Steps | None = None
        self._sharing: list[HttpRequest] = []  # the requests that get it
        self._spent_ns = 0  # time of the loop that the page took
        self._pause_ends_ns = clock.now_ns()
        self._next: asyncio.Handle | None = None  # the next slice, or the end of the pause

    def ask(self, name: str, request: HttpRequest) -> None:
        """Answers when the page is made: in the next turn of the loop, if making it takes no longer
        than a slice.
        """
        self._waiting.setdefault(name, []).append(request)
        if not self._is_busy:  # requests of the same turn get the same page
            self._next = asyncio.get_running_loop().call_soon(self.end_pause)

    @property
    def _is_busy(self) -> bool:
        """Whether a callback is due: a slice of a page, the end of the pause, or the first page."""
        return self._next is not None

    def close(self) -> None:
        """Makes no more pages, and forgets the requests that wait."""
        if self._next is not None:
            self._next.cancel()
        self._steps, self._next = None, None
        self._waiting.clear()
        self._sharing.clear()

    def _begin(self) -> None:
        """Begins the page that is waited for longest, when the pause is over. An answer may let the
        next request of its client in, so requests may be added while this runs.
        """
        while self._waiting and not self._is_busy:
            pause_ns = self._pause_ends_ns - self._clock.now_ns()
            if pause_ns > 0:
                loop = asyncio.get_running_loop()
                self._next = loop.call_later(pause_ns / 1e9, self.end_pause)
                return
            self._name = next(iter(self._waiting))
            self._sharing = self._waiting.pop(self._name)
            self._steps, self._spent_ns = self._made(self._name), 0
            self._slice()

    def end_pause(self) -> None:
        """Makes the next page, if its time has come."""
        self._next = None
        self._begin()

    def _slice(self) -> None:
        """Makes some steps of the page. Then the loop turns, or the page is given."""
        began_ns = self._clock.now_ns()
        page = self._advance(began_ns + SLICE_NS)
        now_ns = self._clock.now_ns()
        self._spent_ns += now_ns - began_ns
        if page is None and not all(request.is_gone for request in self._sharing):
            self._next = asyncio.get_running_loop().call_soon(self._go_on)
            return
        sharing, self._sharing, self._steps = self._sharing, [], None
        self._pause_ends_ns = now_ns + min(PAUSE_FACTOR * self._spent_ns, PAUSE_NS_MAX)
        if page is None:
            return
        if self._spent_ns < SLICE_NS:
            self._give(page, sharing)
        else:  # giving the page takes as long again
            asyncio.get_running_loop().call_soon(self._give, page, sharing)

    def _give(self, page: Page, requests: list[HttpRequest]) -> None:
        """Gives one answer in a turn of the loop: each is a copy of a page that may be large."""
        page.give(requests.pop(0))
        if requests:
            asyncio.get_running_loop().call_soon(self._give, page, requests)

    def _go_on(self) -> None:
        self._next = None
        self._slice()
        self._begin()

    def _made(self, name: str) -> Steps:
        """The page; a maker that fails before its first step fails this page alone."""
        return (yield from self._makers[name]())

    def _advance(self, until_ns: int) -> Page | None:
        """Makes steps until `until_ns`. Returns the page if it is whole, or cannot be made."""
        assert self._steps is not None
        try:
            while True:
                next(self._steps)
                if self._clock.now_ns() >= until_ns:
                    return None
        except StopIteration as end:
            page: Page = end.value
            return page
        except Exception:
            log.exception(
                "a page could not be made: a defect of kdaemon",
                extra={"fields": {"page": self._name}},
            )
            return FAILED
