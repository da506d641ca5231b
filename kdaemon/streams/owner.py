"""Whether the daemon knows its own account, and which sources it asks for the account.

An ARN is another spelling of a name only if its account is the daemon's. Nobody needs to know that
before a client calls a stream by an ARN that may be the daemon's, so nothing is asked before. Then
requests by such ARNs wait ASK_WAIT_S, or until a source tells the account: the credentials, STS, or
the service's description of the stream of the same name. If none tells in time, each ARN is a
stream of its own; STS is asked on in the background, and a source that tells later is believed.
Beside a stand-in for AWS there is no STS, and seldom more than one account: there `assume` may take
the account that a client names.

Knows no stream and no request.
Invariant: a request waits for `ended` once, and ASK_WAIT_S at most where calls can be made already;
the time begins anew while no call can be made.
Where it sits: each `upstream.py` has one; `registry.py` acts on the answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum

from kdaemon.base.description import Caller
from kdaemon.base.errors import ServiceError

log = logging.getLogger("kdaemon.streams")

ASK_WAIT_S = 2.0
"""Seconds that requests by ARN wait for the account. Ours, 2026-11-28: as long as for the first
word of a stream, and from the same moment; credentials and STS take a tenth of a second."""

ASK_AGAIN_FIRST_S = 1.0  # ours, 2026-11-28: seconds to the second question; they double each time
ASK_AGAIN_MAX_S = 60.0  # ours: an STS that becomes reachable is found within a minute


class Knowledge(Enum):
    """Whether the daemon's own account and region are known."""

    UNASKED = "unasked"  # no client has used an ARN that may be ours
    ASKING = "asking"
    KNOWN = "known"
    UNKNOWN = "unknown"  # no source told in time


class Event(Enum):
    """The events that move `Knowledge`."""

    ASKED = "asked"
    TOLD = "told"
    SILENT = "silent"
    FORGOTTEN = "forgotten"  # the keys are new, and no client used the old knowledge


_NEXT: dict[tuple[Knowledge, Event], Knowledge] = {
    (Knowledge.UNASKED, Event.ASKED): Knowledge.ASKING,
    (Knowledge.UNASKED, Event.TOLD): Knowledge.KNOWN,
    (Knowledge.ASKING, Event.TOLD): Knowledge.KNOWN,
    (Knowledge.ASKING, Event.SILENT): Knowledge.UNKNOWN,
    (Knowledge.UNKNOWN, Event.TOLD): Knowledge.KNOWN,
    (Knowledge.KNOWN, Event.TOLD): Knowledge.KNOWN,
    (Knowledge.KNOWN, Event.FORGOTTEN): Knowledge.UNASKED,
}


class Owner:
    """`find`: asks the credentials and STS; raises `ServiceError` where asking again may help.
    `tell`: gets their answer, "" for what they do not know. `ended`: requests need not wait any
    more. `assume`: no source told, and none will: takes an account for ours and tells it, or
    returns False. `can_ask`: whether calls can be made already.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[Caller]],
        tell: Callable[[Caller], object],
        ended: Callable[[], object],
        assume: Callable[[], bool],
        can_ask: Callable[[], bool],
    ) -> None:
        self._find = find
        self._tell = tell
        self._ended = ended
        self._assume = assume
        self._can_ask = can_ask
        self._may_assume = False
        self._state = Knowledge.UNASKED
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._why = "nobody told it in time"
        self.has_answered = False  # credentials and STS answered, or failed once
        self.is_used = False  # a client has used an ARN that is, or may be, ours

    @property
    def is_asking(self) -> bool:
        """Whether requests wait for the account."""
        return self._state is Knowledge.ASKING

    def ask(self) -> bool:
        """Asks, the first time. Returns whether requests by ARN wait for an answer."""
        if self._state is Knowledge.UNASKED:
            self._move(Event.ASKED)
            self._wait()
            self._start()
        return self.is_asking

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(ASK_WAIT_S, self._waited, self._can_ask())

    def _waited(self, could_ask: bool) -> None:
        if could_ask:
            self.give_up()
        else:
            self._wait()

    def doubt(self) -> bool:
        """The keys are new ones, perhaps another account's. Returns True if the account is
        forgotten, because no client used it. An account that is in use holds until a source tells
        another one, and is asked for again.
        """
        if not self.is_used:
            if self._state is Knowledge.KNOWN:
                self._move(Event.FORGOTTEN)
            return True
        if not self.is_asking:
            self._start()
        return False

    def told(self) -> None:
        """Account and region are known, whichever source told them."""
        was_asking = self.is_asking
        if self._state is not Knowledge.KNOWN:  # else the question is about other keys
            self._stop()
        self._move(Event.TOLD)
        if was_asking:
            self._end()

    def give_up(self) -> None:
        """No source told in time, or none is left that could."""
        if not self.is_asking or (self._may_assume and self._assume()):
            return
        self._move(Event.SILENT)
        text = (
            "kdaemon does not know its own account: a stream that clients call by ARN is sent by"
            " its ARN, apart from the stream that they call by its name, and shares neither order"
            " nor pace with it; set account_id, or list the stream by its ARN"
        )
        log.warning(text, extra={"fields": {"error": self._why}})
        self._end()

    async def aclose(self) -> None:
        """Ends the question and the wait for its answer; `ended` is not called."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _start(self) -> None:
        self._stop()
        self._task = asyncio.get_running_loop().create_task(self._ask(), name="account")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self) -> None:
        wait_s = ASK_AGAIN_FIRST_S
        while True:
            caller = await self._answer()
            self.has_answered = True
            self._tell(caller or Caller())
            if caller is not None:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, ASK_AGAIN_MAX_S)

    async def _answer(self) -> Caller | None:
        try:
            caller = await self._find()
        except ServiceError as error:
            self._why = error.message
        except Exception:
            log.exception("asking for the account broke: a defect of kdaemon")
        else:
            self._may_assume = caller.is_beside_stand_in
            if not caller.region:
                self._why = "no region is set"
            elif not caller.account:
                self._why = "the credentials do not tell it, and there is no STS to ask"
            return caller
        return None

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ended()

    def _move(self, event: Event) -> None:
        self._state = _NEXT[self._state, event]
