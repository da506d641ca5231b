"""Which call goes next: clients take turns, and no client has all the places where calls wait.

Knows clients' numbers, and calls as objects; must not know what a call is, or when it may go. A
call that several clients wait for is in the line of each, and goes at the first turn of any of
them.
Invariants: a call is given out once, and never after `remove`. At most PLACES_MAX places are taken,
and a client may take another place only while it has fewer than are left.
Where it sits: `relay.py` fills and empties it. Pure.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

PLACES_MAX: Final = 64
"""Waiting calls of all clients. Ours, 2026-11-28: 13 s of the default quota; a client waits
5 s."""

Call = TypeVar("Call", bound=Hashable)


class WaitingPlaces:
    """The places of all lines together."""

    __slots__ = ("_of_client", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self._of_client: dict[int, int] = {}

    def take(self, client: int) -> bool:
        """Takes a place. False: the client has as many as are left, or none is left."""
        mine = self._of_client.get(client, 0)
        if mine >= PLACES_MAX - self.taken:
            return False
        self.taken += 1
        self._of_client[client] = mine + 1
        return True

    def give(self, client: int) -> None:
        """Gives a place of this client back."""
        self.taken -= 1
        mine = self._of_client.pop(client) - 1
        if mine:
            self._of_client[client] = mine


class Line(Generic[Call]):
    """The waiting calls of one operation."""

    __slots__ = ("_clients_of", "_places", "_queues")

    def __init__(self, places: WaitingPlaces) -> None:
        self._places = places
        # The client whose turn is next comes first.
        self._queues: OrderedDict[int, deque[Call]] = OrderedDict()
        self._clients_of: dict[Call, list[int]] = {}

    def __len__(self) -> int:
        """How many calls wait; each counts once."""
        return len(self._clients_of)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._clients_of)

    def put(self, client: int, call: Call) -> bool:
        """Lets a client wait for this call, after its other calls. False: there is no place."""
        clients = self._clients_of.get(call, [])
        if client in clients:
            return True
        if not self._places.take(client):
            return False
        clients.append(client)
        self._clients_of[call] = clients
        self._queues.setdefault(client, deque()).append(call)
        return True

    def next(self) -> Call | None:
        """Takes the first call of the client whose turn it is; None: nothing waits."""
        if not self._queues:
            return None
        client = next(iter(self._queues))
        self._queues.move_to_end(client)
        call = self._queues[client][0]
        self.remove(call)
        return call

    def remove(self, call: Call) -> None:
        """Removes a call, if it waits. Queues are short: a client has PLACES_MAX calls at most."""
        for client in self._clients_of.pop(call, ()):
            queue = self._queues[client]
            queue.remove(call)
            if not queue:
                del self._queues[client]
            self._places.give(client)
