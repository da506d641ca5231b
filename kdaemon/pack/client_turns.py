"""Whose records go next, where the clients of a lane have to wait for each other.

Clients take turns, a slice at a time. The client that has had least of the lane since it came goes
next (start-time fair queueing: Goyal, Vin, Cheng 1996). A client that comes with nothing queued (a
newcomer) goes before those, for one slice. So a client that asks for little does not wait for a
client that asks for much, however many connections that client has. Newcomers together get at most
three quarters of the lane, so that a client that asks for much is not starved.

Knows runs and clients (`Frame.client`), nothing of shards, budgets or batches. Pure. Invariants: a
client's own runs keep their order; each waiting client is in `_newcomers` or in `_heap`, once.
Bound: as the lane's. Where it sits: a lane makes a `ClientTurns` when a second client has to wait,
and drops it when one client is left.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from heapq import heapify, heappop, heappush

from kdaemon.pack.run import Run, affordable

SLICE_RECORDS = 16
SLICE_BYTES = 16 * 1024
"""A client has at most this much at a time, and at least one record: 16 ms of a shard's quota.
Smaller slices would make more runs; larger slices would make the others wait longer. Ours,
2026-11-28."""

RECORD_COST = 1_000
"""Bytes that a record costs in addition to its own: a shard takes 1 MiB and 1,000 records a second,
at either service ([AD][YD] of base/limits.py, 2026-11-21)."""

SLICE_COST = SLICE_BYTES + RECORD_COST * SLICE_RECORDS

NEWCOMERS_PART = 3  # of four parts of the lane; ours, 2026-11-28
AHEAD_MAX = NEWCOMERS_PART * SLICE_COST


class _Waiting:
    """One client's runs. `turn_at`: the amount that the lane had given when the client came, plus
    the amount that the client has had since; in bytes of cost (`_cost`).
    """

    __slots__ = ("bytes", "client", "records", "runs", "turn_at")

    def __init__(self, client: int, runs: deque[Run], turn_at: int) -> None:
        self.client = client
        self.runs = runs
        self.records = sum([len(run.indices) for run in runs])
        self.bytes = sum([run.byte_count for run in runs])
        self.turn_at = turn_at


class ClientTurns:
    """The clients that wait in one lane."""

    __slots__ = ("_ahead", "_clients", "_count", "_given", "_heap", "_newcomers")

    def __init__(self) -> None:
        self._clients: dict[int, _Waiting] = {}
        self._newcomers: deque[_Waiting] = deque()
        self._heap: list[tuple[int, int, _Waiting]] = []  # by `turn_at`, then first come first
        self._count = 0  # breaks ties in the heap
        self._given = 0  # `turn_at` of the last client that had a turn and was no newcomer
        self._ahead = 0  # cost of the slices that newcomers had beyond their part

    @property
    def client_count(self) -> int:
        return len(self._clients)

    def part_of(self, client: int) -> tuple[int, int]:
        """How many records, and bytes, of this client wait."""
        waiting = self._clients.get(client)
        return (0, 0) if waiting is None else (waiting.records, waiting.bytes)

    def add(self, run: Run) -> None:
        """Queues the run behind the runs that its client has here already."""
        client = run.frame.client
        waiting = self._clients.get(client)
        if waiting is None:
            waiting = _Waiting(client, deque((run,)), self._given)
            if is_large(run):
                self._requeue(waiting)
            else:
                self._clients[client] = waiting
                self._newcomers.append(waiting)
            return
        waiting.runs.append(run)
        waiting.records += len(run.indices)
        waiting.bytes += run.byte_count

    def begin_with(self, client: int, runs: deque[Run]) -> None:
        """Adds the client that had the lane to itself, with all its queued runs; it is no
        newcomer.
        """
        self._requeue(_Waiting(client, runs, self._given))

    def next_slice(self) -> list[Run]:
        """Takes out the next client's slice. Only while a client waits."""
        if self._newcomers and (self._ahead < AHEAD_MAX or not self._heap):
            return self._newcomers_slice()
        given, _, waiting = heappop(self._heap)
        runs, cost = self._slice_of(waiting)
        self._ahead = max(0, self._ahead - NEWCOMERS_PART * cost)
        self._given = given
        return runs

    def slice_before(self, large: Run) -> list[Run]:
        """Takes out a slice that may go before a large record while the shard saves up for that
        record; empty if no client is next whose first record is small.
        """
        if self._ahead >= NEWCOMERS_PART * _cost(1, large.byte_count):
            return []
        if self._newcomers:
            return self._newcomers_slice()
        heap = self._heap
        if not heap or is_large(heap[0][2].runs[0]):
            return []
        runs, cost = self._slice_of(heappop(heap)[2])
        self._ahead += cost
        return runs

    def _newcomers_slice(self) -> list[Run]:
        runs, cost = self._slice_of(self._newcomers.popleft())
        self._ahead += cost
        return runs

    def _slice_of(self, waiting: _Waiting) -> tuple[list[Run], int]:
        """Takes one slice of this client; returns the slice and its cost."""
        taken: list[Run] = []
        records = byte_count = 0
        while waiting.runs and records < SLICE_RECORDS and byte_count < SLICE_BYTES:
            run = waiting.runs[0]
            count = affordable(run, SLICE_RECORDS - records, SLICE_BYTES - byte_count)
            if not count:
                if taken:
                    break
                count = 1
            if count < len(run.indices):
                run = run.split(count)
            else:
                waiting.runs.popleft()
            taken.append(run)
            records += count
            byte_count += run.byte_count
        waiting.records -= records
        waiting.bytes -= byte_count
        cost = _cost(records, byte_count)
        if waiting.runs:
            waiting.turn_at += cost
            self._requeue(waiting)
        else:
            del self._clients[waiting.client]
        return taken, cost

    def take_last(self) -> tuple[int, deque[Run]]:
        """The only client that is left, with its runs. After this the caller drops the object."""
        ((client, waiting),) = self._clients.items()
        return client, waiting.runs

    def runs(self) -> Iterator[Run]:
        """All runs; each client's in its order."""
        for waiting in self._clients.values():
            yield from waiting.runs

    def oldest_ns(self) -> int:
        """When the oldest of the clients' first records was accepted. Only while a client waits."""
        return min([each.runs[0].frame.accepted_ns for each in self._clients.values()])

    @property
    def clients(self) -> AbstractSet[int]:
        """The clients that wait."""
        return self._clients.keys()

    def runs_of(self, client: int) -> deque[Run]:
        """The runs of a client that wait now."""
        waiting = self._clients.get(client)
        return deque() if waiting is None else waiting.runs

    def dropped(self, client: int, runs: list[Run]) -> None:
        """The caller took these runs out of `runs_of` the client."""
        waiting = self._clients[client]
        waiting.records -= sum([len(run.indices) for run in runs])
        waiting.bytes -= sum([run.byte_count for run in runs])
        if not waiting.runs:
            del self._clients[client]
            if waiting in self._newcomers:
                self._newcomers.remove(waiting)
            else:
                self._heap = [each for each in self._heap if each[2] is not waiting]
                heapify(self._heap)

    def _requeue(self, waiting: _Waiting) -> None:
        """Puts the client among those that have had a turn."""
        self._clients[waiting.client] = waiting
        self._count += 1
        heappush(self._heap, (waiting.turn_at, self._count, waiting))


def is_large(run: Run) -> bool:
    """Whether its first record is larger than a slice, so that the record goes alone."""
    return run.frame.sizes[run.indices[0]] > SLICE_BYTES


def _cost(record_count: int, byte_count: int) -> int:
    return byte_count + RECORD_COST * record_count
