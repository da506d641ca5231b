"""A registered consumer of a stream: who reads by SubscribeToShard.

Pure. Knows its name, its times and who reads for it now; nothing of requests or events.
Invariant: of a consumer and a shard one subscription is current at most.
Where it sits: a `Stream` has its consumers; `consumers.py` makes and finds them, `subscription.py`
reads for them.
"""

from typing import Protocol

from kdaemon.base.errors import ServiceError

CREATING_NS = 500_000_000  # until it is ACTIVE; ours: the service takes seconds; 2026-11-28


class Reader(Protocol):
    """A subscription, as far as the stream knows it."""

    def changed(self) -> None:
        """The stream has more records, or other shards."""
        ...

    def end(self, failure: ServiceError | None = None) -> None:
        """It ends; `failure`: its client is told why."""
        ...


class Consumer:
    """`subscribed_ns`: when a shard, by its index, was last subscribed to. `readers`: the current
    ones, by shard.
    """

    __slots__ = ("arn", "created_ns", "name", "readers", "subscribed_ns")

    def __init__(self, name: str, arn: str, now_ns: int) -> None:
        self.name = name
        self.arn = arn
        self.created_ns = now_ns
        self.subscribed_ns: dict[int, int] = {}
        self.readers: dict[int, Reader] = {}

    def status(self, now_ns: int) -> str:
        return "ACTIVE" if now_ns - self.created_ns >= CREATING_NS else "CREATING"

    def changed(self) -> None:
        """Tells its readers."""
        for reader in [*self.readers.values()]:
            reader.changed()

    def end(self, failure: ServiceError) -> None:
        """It is no more: its readers are told so."""
        for reader in [*self.readers.values()]:
            reader.end(failure)
