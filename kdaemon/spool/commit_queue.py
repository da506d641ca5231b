"""Which frames go into the next commit, where more frames wait than one commit takes. Pure.

Streams take turns, and so do the clients of a stream: the next turn goes to the one that would have
had least of the disk after its next frame (weighted fair queueing with equal weights: Demers,
Keshav, Shenker 1989). So a frame of a stream or a client that stores little is in the next commit,
however much of others waits. A client's own frames keep their order. Knows sizes, streams and
clients; no disk and no answer.

Bound: the memory budget (`commits.py`); drained by commits.
Invariant: a frame that waits is in the line, or in its client's queue; a client with frames waits
for a turn in its stream, and a stream with clients waits for a turn among all.
Where it sits: `commits.py` adds frames and takes them for each commit.
"""

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

COMMIT_BYTES_MAX = 4 * 1024 * 1024
"""Payload bytes in one commit, plus FRAME_COST for each frame: the next frame may have to wait for
so much. Ours, 2026-11-28: 1,000 single records take the disk's thread 10 to 30 ms, as 4 MiB do."""

FRAME_COST = 4 * 1024  # bytes: a row takes the time of so much payload (measured 2026-11-28)

CLIENT_PARTS = 2
SMALL_PARTS = 16
"""A stream may have as much memory waiting here as is free, and a client one of CLIENT_PARTS parts
of that. A client that has at most one of SMALL_PARTS parts may add a frame whatever others have of
its stream. So a flood of a few connections takes two thirds of the memory at most, and a flood of a
thousand leaves enough for clients that ask for little (dynamic thresholds, Choudhury and Hahne
1998). Ours, 2026-11-28."""

REMEMBERED_MIN = 64  # those that have gone are forgotten once so many more have gone than wait

K = TypeVar("K", bound=Hashable)


class Waiting(Protocol):
    """A frame that waits for its commit."""

    @property
    def stream(self) -> str: ...
    @property
    def client(self) -> int: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def footprint_bytes(self) -> int: ...


W = TypeVar("W", bound=Waiting)


class Turns(Generic[K]):
    """Whose turn it is, of those that want one.

    `_had`: the cost that each has had; one that comes begins with `_now` if that is more: turns
    cannot be saved up. `_now`: the cost that one would have had that wanted turns all the time.
    """

    __slots__ = ("_count", "_had", "_heap", "_now", "_wants")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []  # the cost with this turn; the entry's number
        self._wants: dict[K, tuple[float, int, int]] = {}  # had; cost; the entry's number
        self._had: dict[K, float] = {}
        self._now = 0.0
        self._count = 0  # of entries; breaks ties: the first to come wins

    @property
    def remembered(self) -> int:
        """How many have had a turn that counts in their next one."""
        return len(self._had)

    def want(self, who: K, cost: int) -> None:
        """`who` wants a turn of about this cost. One that wants a turn already keeps the cheaper
        one.
        """
        wanted = self._wants.get(who)
        if wanted is None:
            self._enter(who, max(self._now, self._had.get(who, 0)), cost)
        elif cost < wanted[1]:
            self._enter(who, wanted[0], cost)

    def next(self) -> K:
        """Whose turn is next. Call it only while at least one wants a turn."""
        heap = self._heap
        while True:
            _, number, who = heap[0]
            if who in self._wants and self._wants[who][2] == number:
                return who
            heappop(heap)  # an old entry: it wants a cheaper turn now

    def end(self, who: K, cost: int, next_cost: int | None) -> None:
        """`who` has had a turn of this cost. `next_cost`: of the turn that it wants now; None: it
        wants none.
        """
        had = self._wants.pop(who)[0] + cost
        self._now += cost / (len(self._wants) + 1)
        self._had[who] = had
        if next_cost is not None:
            self._enter(who, had, next_cost)
        elif len(self._had) > 2 * len(self._wants) + REMEMBERED_MIN:
            now = self._now
            self._had = {one: at for one, at in self._had.items() if at > now}

    def _enter(self, who: K, had: float, cost: int) -> None:
        self._count += 1
        self._wants[who] = had, cost, self._count
        heappush(self._heap, (had + cost, self._count, who))


class _Client(Generic[W]):
    """The frames of one client that wait, in its order. `footprint_bytes`: their memory."""

    __slots__ = ("footprint_bytes", "queue")

    def __init__(self) -> None:
        self.queue: deque[W] = deque()
        self.footprint_bytes = 0


class _Stream(Generic[W]):
    """The clients of one stream that have frames waiting. `footprint_bytes`: the memory of these
    frames.
    """

    __slots__ = ("clients", "footprint_bytes", "turns")

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns()
        self.clients: dict[int, _Client[W]] = {}
        self.footprint_bytes = 0


class CommitQueue(Generic[W]):
    """All frames that wait for a commit. `_line`: all of them, as they came, while one commit takes
    them all; otherwise they are in `_streams`, and the line is empty.
    """

    __slots__ = ("_count", "_footprint_bytes", "_line", "_line_cost", "_streams", "_turns")

    def __init__(self) -> None:
        self._line: list[W] = []
        self._line_cost = 0
        self._turns: Turns[str] = Turns()
        self._streams: dict[str, _Stream[W]] = {}
        self._count = 0
        self._footprint_bytes = 0

    def __len__(self) -> int:
        return self._count

    def may_have(self, name: str, number: int, footprint_bytes: int, free_bytes: int) -> bool:
        """Whether a client may have `footprint_bytes` more of a stream waiting, while `free_bytes`
        of the memory are free. Where no frame waits, any frame may.
        """
        if (
            not self._count
            or (self._footprint_bytes + footprint_bytes) * CLIENT_PARTS <= free_bytes
        ):
            return True
        self._form_turns()
        stream = self._streams.get(name)
        of_stream = of_client = footprint_bytes
        if stream is not None:
            of_stream += stream.footprint_bytes
            client = stream.clients.get(number)
            if client is not None:
                of_client += client.footprint_bytes
        if of_client * CLIENT_PARTS > free_bytes:
            return False
        return of_stream <= free_bytes or of_client * SMALL_PARTS <= free_bytes

    def add(self, waiting: W) -> None:
        """Adds a frame behind those of its client that wait for this stream."""
        self._count += 1
        self._footprint_bytes += waiting.footprint_bytes
        if not self._streams:
            cost = self._line_cost + FRAME_COST + waiting.payload_bytes
            if cost <= COMMIT_BYTES_MAX:
                self._line.append(waiting)
                self._line_cost = cost
                return
            self._form_turns()
        self._add_to_turns(waiting)

    def take(self) -> list[W]:
        """Takes the frames of one commit, in the order in which they must stand on disk; none if
        none waits.
        """
        if not self._streams:
            taken, self._line = self._line, []
            self._line_cost = self._count = self._footprint_bytes = 0
            return taken
        taken = []
        left = COMMIT_BYTES_MAX
        while self._count and left > 0:
            waiting, cost = self._take_one()
            taken.append(waiting)
            left -= cost
        if not self._count:
            self._turns = Turns()  # none waited for another
        return taken

    def take_all(self) -> list[W]:
        """Takes all frames, in the order in which commits would; none waits any more."""
        taken: list[W] = []
        while self._count:
            taken += self.take()
        return taken

    def _form_turns(self) -> None:
        """More frames wait than one commit takes, or a client may get too much: from now on frames
        are counted by stream and client.
        """
        line, self._line = self._line, []
        self._line_cost = 0
        for waiting in line:
            self._add_to_turns(waiting)

    def _add_to_turns(self, waiting: W) -> None:
        name, number = waiting.stream, waiting.client
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream()
        client = stream.clients.get(number)
        if client is None:
            client = stream.clients[number] = _Client()
            cost = _cost(waiting)
            stream.turns.want(number, cost)
            self._turns.want(name, cost)
        client.queue.append(waiting)
        client.footprint_bytes += waiting.footprint_bytes
        stream.footprint_bytes += waiting.footprint_bytes

    def _take_one(self) -> tuple[W, int]:
        name = self._turns.next()
        stream = self._streams[name]
        number = stream.turns.next()
        client = stream.clients[number]
        waiting = client.queue.popleft()
        client.footprint_bytes -= waiting.footprint_bytes
        stream.footprint_bytes -= waiting.footprint_bytes
        self._footprint_bytes -= waiting.footprint_bytes
        self._count -= 1
        cost = _cost(waiting)
        if client.queue:
            stream.turns.end(number, cost, _cost(client.queue[0]))
        else:
            del stream.clients[number]
            stream.turns.end(number, cost, None)
        if stream.clients:
            following = stream.clients[stream.turns.next()]
            self._turns.end(name, cost, _cost(following.queue[0]))
        else:
            del self._streams[name]
            self._turns.end(name, cost, None)
        return waiting, cost


def _cost(waiting: Waiting) -> int:
    return FRAME_COST + waiting.payload_bytes
