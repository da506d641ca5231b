"""Calls of clients that are passed on to the service: shared by askers, in turns, within bounds.

About: when such a call may be made, who shares its answer, and how long a client waits. Knows an
operation's rate and size; must not know what an operation says, who may ask it (the door), or how a
call is signed (`client.py`).

For operations that only look, a request shares the answer of a call that is under way for the same
question, or of one a moment ago (`kept.py`). All other requests wait in a line for each operation,
in which clients take turns (`waiting.py`): for the operation's own rate, for one of CALLS_MAX
slots, and, if the operation looks, for a turn of all control calls (`control.py`). A client is
told within PATIENCE_S, whatever becomes of the call. A call that nobody waits for is given up.
Invariants: each request is told one outcome, unless its client left. Refusals are never kept. All
memory that grows with requests or answers is taken from a part of the daemon's budget, and is
bounded besides: PLACES_MAX calls wait, and CALLS_MAX calls of each kind are made.
Where it sits: door/passthrough.py -> here -> client.py. The daemon does not use these answers: it
makes its own maps from its own questions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from asyncio_throttle.throttler import Throttler

from kdaemon.base.counters import NotPassedOn, PassedOnOutcome
from kdaemon.base.counting import OperationCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.operations import OTHER_OPERATIONS, READ_BYTES_MAX, OtherOperation
from kdaemon.base.service import Service
from kdaemon.send.arriving import HasRoom, TooLargeError
from kdaemon.send.kept import Kept
from kdaemon.send.relayed import Relayed
from kdaemon.send.trails import Trail, Trails
from kdaemon.send.waiting import Line, WaitingPlaces
from kdaemon.settle.verdict import INTERNAL, THROUGHPUT, UNAVAILABLE

log = logging.getLogger("kdaemon.send")

PATIENCE_S: Final = 5.0
"""The longest wait of a client. Ours, 2026-11-28: below the patience of every SDK; the KPL's is the
shortest, 6 s."""

CALLS_MAX: Final = 16
"""Calls at one time, for all clients: this many that look, and this many that read. Ours,
2026-11-28: each call takes a connection to the service."""

MEMORY_PART: Final = 8  # all this may take one part in this many of the daemon's memory; ours
CALL_BYTES: Final = KIB  # of a call, beside its body; ours
TOLD_A_TURN: Final = 64  # askers that are told in one turn of the loop: 2 ms; ours, 2026-11-28


class PassOn(Protocol):
    """`ServiceClient.pass_on`."""

    async def __call__(
        self, operation: str, body: bytes, arn: str | None, bytes_max: int, has_room: HasRoom
    ) -> Relayed: ...


Outcome = Relayed | ServiceError
"""The service's answer; or an error with the code, text and status that clients get."""


class Question(NamedTuple):
    """A client's question. `canonical`: the same for all bodies that mean the same. `arn`: of its
    stream, if the question names the stream by an ARN. `tokens`: of earlier answers, from which the
    question goes on. `spellings`: all names by which the question calls its stream.
    """

    operation: OtherOperation
    canonical: bytes
    body: bytes
    arn: str | None
    tokens: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()


class Asker:
    """One request that waits. `leave`: its client has gone; does nothing if it was told already."""

    __slots__ = ("_call", "_relay", "_timer", "_told")

    def __init__(self, relay: "Relay", told: Callable[[Outcome], object]) -> None:
        self._relay = relay
        self._told: Callable[[Outcome], object] | None = told
        self._call: _Call | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the request was not told its outcome, and its client has not left."""
        return self._told is not None

    def wait_for(self, call: "_Call") -> None:
        """Waits for the outcome of a call, as long as the relay's clients do."""
        self._call = call
        call.askers[self] = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._relay.patience_s, self._be_late)

    def leave(self) -> None:
        """The client has gone, or was told."""
        self._told = None
        if self._timer is not None:
            self._timer.cancel()
        call, self._call = self._call, None
        if call is not None:
            call.askers.pop(self, None)
            if not call.askers:
                self._relay.give_up(call)

    def tell(self, outcome: Outcome) -> None:
        """Tells the outcome, once; does nothing if the client left."""
        told = self._told
        self._call = None
        self.leave()
        if told is None:
            return
        try:
            told(outcome)
        except Exception:  # a defect of ours: other askers wait for the same answer
            log.exception("an answer that was passed on could not be given: a defect of kdaemon")

    def _be_late(self) -> None:
        call, told = self._call, self._told
        assert call is not None, "who was told has no timer"
        assert told is not None, "nor has who left"
        outcome = self._relay.late(call)
        self.leave()
        told(outcome)


class _Call:
    """One call, waiting or made. `charge`: the memory that is taken for it."""

    __slots__ = ("askers", "charge", "key", "lane", "question", "task")

    def __init__(self, lane: "_Lane", key: bytes, question: Question, charge: int) -> None:
        self.lane = lane
        self.key = key
        self.question = question
        self.charge = charge
        self.askers: dict[Asker, None] = {}
        self.task: asyncio.Task[None] | None = None  # None: the call waits


class _Lane:
    """One operation: its waiting calls, and its rate."""

    __slots__ = ("counters", "granting", "line", "operation", "throttler")

    def __init__(self, operation: OtherOperation, places: WaitingPlaces) -> None:
        self.operation = operation
        self.line: Line[_Call] = Line(places)
        rate = operation.calls_per_second
        self.throttler = None if rate is None else Throttler(rate, period=1.0)
        self.granting: asyncio.Task[None] | None = None  # runs while a call waits
        self.counters = OperationCounters()


class Relay:
    """The passed-on calls of one upstream. In the loop's thread only."""

    def __init__(
        self,
        pass_on: PassOn,
        turn: Callable[[], Awaitable[None]],
        service: Service,
        memory: ByteBudget,
        operations: Iterable[str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`turn`: waits for the quota of control calls. `operations`: those that clients
        may ask.
        """
        self._pass_on = pass_on
        self._turn = turn
        self._service = service
        # The largest answer fits in any case, if memory has room for two of them.
        bytes_max = max(
            memory.bytes_max // MEMORY_PART, min(READ_BYTES_MAX + MIB, memory.bytes_max // 2)
        )
        self._memory = ByteBudget(bytes_max, memory)
        self.patience_s = patience_s
        self._waiting = WaitingPlaces()
        self._lanes: dict[str, _Lane] = {}  # of all operations that could be asked since the start
        self.take_operations(operations)
        self._calls: dict[bytes, _Call] = {}  # of shared operations, so that others find them
        self._looks, self._reads = asyncio.Semaphore(CALLS_MAX), asyncio.Semaphore(CALLS_MAX)
        self._made: dict[asyncio.Task[None], _Call] = {}  # calls in flight
        self._kept = Kept(self._memory)
        self._trails = Trails()
        self.others = OperationCounters()  # counts operations that may not be asked

    def take_operations(self, operations: Iterable[str]) -> None:
        """Sets the operations that may be asked from now on. Calls that wait already are made."""
        self.operations = tuple(dict.fromkeys(operations))
        for name in self.operations:
            if name not in self._lanes:
                self._lanes[name] = _Lane(OTHER_OPERATIONS[name], self._waiting)

    @property
    def counters(self) -> dict[str, OperationCounters]:
        """By operation; "other": the operations that are not passed on."""
        return {name: lane.counters for name, lane in self._lanes.items()} | {"other": self.others}

    @property
    def waiting_count(self) -> int:
        """Calls that wait for their turn."""
        return sum(len(lane.line) for lane in self._lanes.values())

    @property
    def call_count(self) -> int:
        """Calls that are made now."""
        return len(self._made)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the answers that are kept for others."""
        return self._kept.byte_count

    def allows(self, operation: OtherOperation) -> bool:
        """Whether clients may ask it."""
        return operation.name in self.operations

    def counters_of(self, operation: OtherOperation) -> OperationCounters:
        """Where its requests are counted, whether it may be asked or not."""
        return self._lanes[operation.name].counters if self.allows(operation) else self.others

    def ask(self, question: Question, client: int, told: Callable[[Outcome], object]) -> Asker:
        """Asks the service, or finds its answer of a moment ago. `told` is called once, at once or
        later; never after the asker left. `client`: the number of the client, since clients take
        turns.
        """
        lane = self._lanes[question.operation.name]
        asker = Asker(self, told)
        if question.tokens:
            question = self._on_trail(question)
        key = sha256(b"%b %b" % (question.operation.name.encode(), question.canonical)).digest()
        kept, call = self._kept.find(key), self._calls.get(key)  # of shared operations alone
        if kept is not None:
            lane.counters.shared += 1
            asker.tell(kept)
            return asker
        if call is None:
            call = self._begin(lane, key, question, client)
        else:
            lane.counters.shared += 1
            if call.task is None:  # this client's turn may come sooner
                lane.line.put(client, call)
        if call is None:
            asker.tell(self._full(lane))
        else:
            asker.wait_for(call)
        return asker

    def trail_of(self, operation: OtherOperation, token: str) -> Trail | None:
        """The trail of this token, if it is known and of a kind that this operation takes."""
        trail = self._trails.find(token)
        return trail if trail is not None and trail.family == operation.family else None

    def _on_trail(self, question: Question) -> Question:
        """The same question, about the stream of its token."""
        for token in question.tokens:
            trail = self._trails.find(token)
            if trail is not None:
                return question._replace(arn=question.arn or trail.arn, spellings=trail.spellings)
        return question

    def give_up(self, call: _Call) -> None:
        """Ends a call that nobody waits for; no later asker is to wait for it either."""
        self._unlist(call)
        if call.task is not None:
            call.task.cancel()
        else:
            call.lane.line.remove(call)
            self._memory.give(call.charge)

    def late(self, call: _Call) -> ServiceError:
        """The error for an asker whose time is over."""
        if call.task is None:
            return self._full(call.lane, NotPassedOn.LATE)
        call.lane.counters.refused[NotPassedOn.LATE] += 1
        self._unlist(call)  # the call hangs: later askers are not to wait for it
        name = call.lane.operation.name
        text = f"The service did not answer {name} within {self.patience_s:g} s."
        return ServiceError(UNAVAILABLE, text, status=503)

    async def aclose(self) -> None:
        """Ends every call; nobody is told any more."""
        tasks = [lane.granting for lane in self._lanes.values() if lane.granting is not None]
        for task in tasks:
            task.cancel()
        tasks += self._made
        waiting = [call for lane in self._lanes.values() for call in lane.line]
        for call in (*waiting, *self._made.values()):
            for asker in list(call.askers):
                asker.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.close()

    # A call's life

    def _begin(self, lane: _Lane, key: bytes, question: Question, client: int) -> _Call | None:
        """Makes a call that waits; None: there is no place or no memory for it."""
        charge = len(question.body) + CALL_BYTES
        if not self._memory.take(charge):
            return None
        call = _Call(lane, key, question, charge)
        if not lane.line.put(client, call):
            self._memory.give(charge)
            return None
        if question.operation.is_shared:
            self._calls[key] = call
        if lane.granting is None:
            lane.granting = asyncio.create_task(
                self._grant(lane), name=f"{question.operation.name} for clients"
            )
        return call

    async def _grant(self, lane: _Lane) -> None:
        """Lets the calls of one operation go, one by one. Which call goes is decided at its
        turn.
        """
        slots = self._reads if lane.operation.is_read else self._looks
        try:
            while lane.line:
                if lane.throttler is not None:
                    await lane.throttler.acquire()  # type: ignore[no-untyped-call]  # it ships half its types
                await slots.acquire()
                call = None
                try:
                    if lane.throttler is not None:
                        await self._turn()
                    call = lane.line.next()
                finally:
                    if call is None:  # the clients have gone, or this task is cancelled
                        slots.release()
                if call is not None:
                    self._start(call, slots)
        finally:
            lane.granting = None

    def _start(self, call: _Call, slots: asyncio.Semaphore) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            """Is also called for a task that was cancelled before its first step."""
            del self._made[task]
            self._unlist(call)
            self._memory.give(call.charge)
            slots.release()

        name = f"{call.lane.operation.name} passed on"
        call.task = asyncio.create_task(self._make(call), name=name)
        self._made[call.task] = call
        call.task.add_done_callback(ended)

    async def _make(self, call: _Call) -> None:
        """Makes the call, and tells all askers."""
        taken_bytes = 0

        def has_room(byte_count: int) -> bool:
            nonlocal taken_bytes
            if not self._memory.take(byte_count):
                return False
            taken_bytes += byte_count
            return True

        lane, question, operation = call.lane, call.question, call.lane.operation
        body, arn, bytes_max = question.body, question.arn, operation.answer_bytes_max
        try:
            outcome: Outcome
            try:
                outcome = await self._pass_on(operation.name, body, arn, bytes_max, has_room)
            except ServiceError as error:
                outcome = self._told_of(lane, error)
            except asyncio.CancelledError:
                lane.counters.calls[PassedOnOutcome.FAILED] += 1
                raise
            except Exception:  # a defect of ours, or something unforeseen
                fields = {"operation": operation.name}
                log.exception(
                    "a call could not be passed on: a defect of kdaemon", extra={"fields": fields}
                )
                text = "kdaemon failed to pass this on; its log says why."
                outcome = ServiceError(INTERNAL, text, status=500)
            lane.counters.calls[_outcome_of(outcome)] += 1
            self._unlist(call)  # later askers ask anew, or find the kept answer
            if isinstance(outcome, Relayed) and outcome.status == 200:
                if operation.is_shared:
                    self._kept.keep(call.key, outcome)
                trail = Trail(operation.family, question.spellings, arn)
                used = question.tokens[0] if question.tokens else None
                self._trails.note(outcome.body, trail, used)
            for number, asker in enumerate(list(call.askers), 1):
                asker.tell(outcome)
                if not number % TOLD_A_TURN:
                    await asyncio.sleep(0)
        finally:
            self._memory.give(taken_bytes)

    def _unlist(self, call: _Call) -> None:
        if self._calls.get(call.key) is call:
            del self._calls[call.key]

    # Errors that kdaemon makes itself

    def _full(self, lane: _Lane, reason: NotPassedOn = NotPassedOn.FULL) -> ServiceError:
        """There was no room for a call, or no turn in time."""
        lane.counters.refused[reason] += 1
        operation = lane.operation
        code = THROUGHPUT if operation.is_read else self._service.look_throttle
        text = (
            f"Rate exceeded: too many calls wait to be passed on, or the quota of {operation.name}"
            " is used up. Ask less often."
        )
        return ServiceError(code, text, status=400)

    def _told_of(self, lane: _Lane, error: ServiceError) -> ServiceError:
        """The error for no answer, for one that is not the service's, or for one too large."""
        name = lane.operation.name
        if isinstance(error, TooLargeError):
            if not error.has_room:
                return self._full(lane)
            lane.counters.refused[NotPassedOn.TOO_LARGE] += 1
            text = (
                f"The answer to {name} has more than {lane.operation.answer_bytes_max} bytes, which"
                " is as much as kdaemon passes on: ask for less at a time (Limit, MaxResults)."
            )
            return ServiceError("InvalidArgumentException", text, status=400)
        text = f"{name} was passed on without an answer of the service: {error.code}: "
        return ServiceError(UNAVAILABLE, text + error.message, status=503)


def _outcome_of(outcome: Outcome) -> PassedOnOutcome:
    if isinstance(outcome, ServiceError):
        return PassedOnOutcome.FAILED
    if outcome.status == 200:
        return PassedOnOutcome.ANSWERED
    return PassedOnOutcome.REFUSED if outcome.status < 500 else PassedOnOutcome.FAILED
