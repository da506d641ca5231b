"""Which frames go into the next commit, where more wait for the disk than one commit takes.

Streams take turns, and within a stream its clients: who would have had least of the disk after its
next frame goes next (weighted fair queueing with equal weights: Demers, Keshav, Shenker 1989). So a
frame of a stream, or of a client, that stores little is in the next commit, whatever others have
waiting. A client's own frames keep their order. Knows sizes, streams and clients; no disk and no
answer. Pure.

Bound: the memory budget (`spool.py`); drained by commits. Invariant: a frame that waits is in the
line, or in its client's queue; a client with frames wants a turn of its stream's, a stream with
clients one of all.
"""

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

COMMIT_BYTES_MAX = 4 * 1024 * 1024
"""Of payload in one commit, and FRAME_COST for each frame: what the next one may have to wait for.
Ours, 2026-11-28: 1,000 single records take the disk's thread 10 to 30 ms, as 4 MiB do."""

FRAME_COST = 4 * 1024  # bytes: a row takes the time of so much payload (measured 2026-11-28)

CLIENT_PARTS = 2
SMALL_PARTS = 16
"""Of the memory that is left, a stream may have as much waiting here, a client one of CLIENT_PARTS;
who has one of SMALL_PARTS or less is not held to what others have of its stream. So a flood of a
few connections takes two thirds of the memory at most, and one of a thousand leaves enough for who
asks for little (dynamic thresholds, Choudhury and Hahne 1998). Ours, 2026-11-28."""

REMEMBERED_MIN = 64  # who has gone is forgotten once there are more of them than who waits

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
    """Whose turn it is, of those who want one.

    `_had`: what each has had, beginning with `_now` where that was more when it came: nobody saves
    up turns. `_now`: what one would have had who wanted turns all the time.
    """

    __slots__ = ("_count", "_had", "_heap", "_now", "_wants")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []  # what it will have had; the entry's number
        self._wants: dict[
            K, tuple[float, int, int]
        ] = {}  # what it has had; cost; the entry's number
        self._had: dict[K, float] = {}
        self._now = 0.0
        self._count = 0  # of entries; breaks ties: who came first

    def want(self, who: K, cost: int) -> None:
        """Wants a turn of about this cost. Who wants one already keeps the cheaper one."""
        wanted = self._wants.get(who)
        if wanted is None:
            self._enter(who, max(self._now, self._had.get(who, 0)), cost)
        elif cost < wanted[1]:
            self._enter(who, wanted[0], cost)

    def next(self) -> K:
        """Whose turn is next. Only while somebody wants one."""
        heap = self._heap
        while True:
            _, number, who = heap[0]
            if who in self._wants and self._wants[who][2] == number:
                return who
            heappop(heap)  # it wants a cheaper one since

    def end(self, who: K, cost: int, next_cost: int | None) -> None:
        """It has had a turn, of this cost; `next_cost`: of the one that it wants now, if any."""
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
    """What one client has waiting, in its order. `footprint_bytes`: the memory of that."""

    __slots__ = ("footprint_bytes", "queue")

    def __init__(self) -> None:
        self.queue: deque[W] = deque()
        self.footprint_bytes = 0


class _Stream(Generic[W]):
    """The clients of one stream that wait. `footprint_bytes`: the memory of all that they have
    here.
    """

    __slots__ = ("clients", "footprint_bytes", "turns")

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns()
        self.clients: dict[int, _Client[W]] = {}
        self.footprint_bytes = 0


class CommitQueue(Generic[W]):
    """All that waits for a commit. `_line`: all of it, as it came, while one commit takes it;
    otherwise it is in `_streams`, and nothing is in the line.
    """

    __slots__ = ("_count", "_held_bytes", "_line", "_line_cost", "_streams", "_turns")

    def __init__(self) -> None:
        self._line: list[W] = []
        self._line_cost = 0
        self._turns: Turns[str] = Turns()
        self._streams: dict[str, _Stream[W]] = {}
        self._count = 0
        self._held_bytes = 0

    def __len__(self) -> int:
        return self._count

    def may_have(self, name: str, number: int, footprint_bytes: int, free_bytes: int) -> bool:
        """Whether a client may have so much more of a stream waiting while so much memory is free.
        Where nothing waits, any frame may.
        """
        if not self._count or (self._held_bytes + footprint_bytes) * CLIENT_PARTS <= free_bytes:
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
        """Behind what its client has waiting of this stream."""
        self._count += 1
        self._held_bytes += waiting.footprint_bytes
        if not self._streams:
            cost = self._line_cost + FRAME_COST + waiting.payload_bytes
            if cost <= COMMIT_BYTES_MAX:
                self._line.append(waiting)
                self._line_cost = cost
                return
            self._form_turns()
        self._add_to_turns(waiting)

    def take(self) -> list[W]:
        """What one commit takes, in the order in which it is to stand on disk; nothing if nothing
        waits.
        """
        if not self._streams:
            taken, self._line = self._line, []
            self._line_cost = self._count = self._held_bytes = 0
            return taken
        taken = []
        left = COMMIT_BYTES_MAX
        while self._count and left > 0:
            waiting, cost = self._take_one()
            taken.append(waiting)
            left -= cost
        if not self._count:
            self._turns = Turns()  # nobody waited for anybody
        return taken

    def take_all(self) -> list[W]:
        """Nothing waits any more."""
        taken: list[W] = []
        while self._count:
            taken += self.take()
        return taken

    def _form_turns(self) -> None:
        """More waits than goes into a commit, or more than all may have: who has what counts."""
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
        self._held_bytes -= waiting.footprint_bytes
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
