"""The inquiry into one stream: whether the service has it, and which requests wait for word of it.

Only a client has written the name of an unlisted stream, so the service is asked whether that
stream exists before anything is promised for it. `Existence` says what is known. A look-up that
found no such stream is good for MISSING_NS.

While the daemon's own account is not known (`owner.py`), requests by an ARN wait with
the stream of the same name: behind those that came before them by any spelling.
Knows nothing of records, nor of what a request does when it goes on.
Invariant: requests that wait for word go on in the order in which they came, before any that comes
later.
Where it sits: each `stream.py` has one; `registry.py` and `upstream.py` tell it what was heard, and
the door puts requests into it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from kdaemon.base.ports import Clock
from kdaemon.http.waiters import call_back

MISSING_NS = 10_000_000_000
"""10 s: how long a look-up that found no such stream is good. Ours, 2026-11-28: a stream that was
just made is found within that time, and a client that repeats a wrong name costs no call."""

WORD_WAIT_S = 2.0
"""Seconds that a client which does not wait for delivery is kept waiting for the first word on an
unlisted stream. Ours, 2026-11-28: a look-up takes a tenth of a second; in an outage no word comes,
and then the stream is taken to exist. The time begins when the service can be asked at all: just
after a start the code for calls is still being loaded."""

GO_ON_A_TURN = 64
GO_ON_NS_MAX = 1_000_000  # 1 ms
"""Requests that go on in one turn once there is word, and the time that they may take. Ours,
2026-11-28: 20,000 requests of one record each take 150 ms, and 64 of 500 records take 100 ms;
nothing else is served meanwhile."""


class Existence(Enum):
    """Whether the service has the stream, as far as it was asked."""

    UNSURE = "unsure"  # an unlisted stream that the service was not asked for yet
    THERE = "there"  # or taken to be: it is listed, or cannot be asked for
    MISSING = "missing"


class Word(Enum):
    """The words on the stream that move `Existence`."""

    FOUND = "found"  # the service told of it
    NOT_FOUND = "not found"  # the service has no such stream
    NO_ANSWER = "no answer"  # the service cannot be asked, or did not answer in time
    OLD = "old"  # the look-up is too old
    LISTED = "listed"  # a reload lists the stream


_NEXT: dict[tuple[Existence, Word], Existence] = {
    (Existence.UNSURE, Word.FOUND): Existence.THERE,
    (Existence.UNSURE, Word.NOT_FOUND): Existence.MISSING,
    (Existence.UNSURE, Word.NO_ANSWER): Existence.THERE,
    (Existence.UNSURE, Word.LISTED): Existence.THERE,
    (Existence.THERE, Word.FOUND): Existence.THERE,
    (Existence.THERE, Word.NOT_FOUND): Existence.MISSING,
    (Existence.THERE, Word.NO_ANSWER): Existence.THERE,
    (Existence.MISSING, Word.FOUND): Existence.THERE,
    (Existence.MISSING, Word.NOT_FOUND): Existence.MISSING,
    (Existence.MISSING, Word.NO_ANSWER): Existence.MISSING,
    (Existence.MISSING, Word.OLD): Existence.UNSURE,
    (Existence.MISSING, Word.LISTED): Existence.THERE,
}


class Asker(Protocol):
    """Who asks the service for the stream (`send/driver.py`)."""

    @property
    def can_ask(self) -> bool: ...
    def ask_again(self) -> None: ...


class Inquiry:
    """`has_word`: there is word of the stream, and all that waited for it have gone on: a request
    need not wait. `was_missing`: the service had no such stream when it was last
    asked. `is_heard`: the service told of the stream, or did not answer. `has_arns`: requests by
    ARNs that may mean another stream wait here.
    """

    def __init__(self, name: str, asker: Asker, clock: Clock, *, is_listed: bool) -> None:
        """`name`: the stream's, for the log."""
        self._name = name
        self._asker = asker
        self._clock = clock
        self.existence = Existence.THERE if is_listed else Existence.UNSURE
        self.was_missing = False
        self.is_heard = False
        self.has_word = False
        self.has_arns = False
        self._is_account_asked = False  # requests by ARNs wait for the account
        self._missing_until_ns = 0
        self._queue: deque[Callable[[], object]] = deque()  # requests, in order
        self._waiters: list[Callable[[], object]] = []
        self._is_going_on = False  # the rest of `_queue` goes on in the next turn
        self._timer: asyncio.TimerHandle | None = None

    # What is heard

    def hear(self, word: Word) -> None:
        """The service, or its silence, told whether this stream exists."""
        if word is Word.NOT_FOUND:
            self._missing_until_ns = self._clock.now_ns() + MISSING_NS
        self._move(word)
        self.is_heard = True
        self._end_timer()
        if not (self._is_going_on or self._is_account_asked):
            self._go_on()

    def look_again(self) -> None:
        """A look-up that found no such stream begins anew once it is too old."""
        if self.was_missing and self._clock.now_ns() >= self._missing_until_ns:
            self._move(Word.OLD)
            self.has_word = self.is_heard = False
            self._asker.ask_again()

    def take_to_be_there(self) -> None:
        """The configuration lists the stream now."""
        self._move(Word.LISTED)

    def _move(self, word: Word) -> None:
        self.existence = _NEXT.get((self.existence, word), self.existence)
        self.was_missing = self.existence is Existence.MISSING

    # Who waits

    @property
    def is_empty(self) -> bool:
        """No request waits for word of the stream."""
        return not self._queue

    @property
    def is_waited_in(self) -> bool:
        """Whether clients wait for word of the stream."""
        return bool(self._queue or self._waiters)

    def queue(self, go_on: Callable[[], object]) -> None:
        """Makes a request wait for word of the stream: `go_on` is called behind those that wait
        already, and before any request that comes when `has_word` is true.
        """
        self._queue.append(go_on)
        self._expect_word()

    def when_word(self, callback: Callable[[], object]) -> None:
        """Calls back once, when there is word of the stream: within WORD_WAIT_S once the service
        can be asked.
        """
        self._waiters.append(callback)
        self._expect_word()

    def begin_account(self) -> None:
        """Requests by an ARN wait here until the account is known, or no source tells it."""
        self.has_arns = self._is_account_asked = True
        self.has_word = False

    def end_account(self) -> None:
        """Requests by an ARN need not wait for the account any more."""
        self._is_account_asked = False
        if self.is_heard and not self._is_going_on:
            self._go_on()

    def close(self) -> None:
        """The stream waits for nothing any more."""
        self._end_timer()

    def _go_on(self) -> None:
        """Lets the requests go on that waited for word, a part of them in each turn: a client can
        make them many. Requests that come meanwhile go behind them.
        """
        if self._is_account_asked:  # begun since the last turn
            self._is_going_on = False
            return
        until_ns = self._clock.now_ns() + GO_ON_NS_MAX
        for _ in range(min(len(self._queue), GO_ON_A_TURN)):
            call_back((self._queue.popleft(),), self._name)
            if self._clock.now_ns() >= until_ns:
                break
        self._is_going_on = bool(self._queue)
        if self._is_going_on:
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self.has_word, self.has_arns = True, False
        waiters, self._waiters = self._waiters, []
        call_back(waiters, self._name)

    def _expect_word(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WORD_WAIT_S, self._no_word, self._asker.can_ask)

    def _no_word(self, could_ask: bool) -> None:
        self._timer = None
        if could_ask:
            self.hear(Word.NO_ANSWER)
        else:
            self._expect_word()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
