"""A registered consumer of a stream, which reads by SubscribeToShard.

Pure. Knows the consumer's name, its times and its present subscriptions; nothing of requests or
events. Invariant: a consumer has at most one current subscription to a shard.
Where it sits: a `Stream` has its consumers; `consumers.py` makes and finds them, `subscription.py`
reads for them.
"""

from typing import TYPE_CHECKING

from kdaemon.base.errors import ServiceError

if TYPE_CHECKING:  # a subscription knows its stream, and a stream its consumers
    from kdaemon.sandbox.subscription import Subscription

# From its registration until it is ACTIVE; ours: the service takes seconds; 2026-11-28.
CREATING_NS = 500_000_000


class Consumer:
    """`subscribed_ns`: the last subscription to a shard, by the shard's index. `readers`: the
    current subscriptions, by the shard's index.
    """

    __slots__ = ("arn", "created_ns", "name", "readers", "subscribed_ns")

    def __init__(self, name: str, arn: str, now_ns: int) -> None:
        self.name = name
        self.arn = arn
        self.created_ns = now_ns
        self.subscribed_ns: dict[int, int] = {}
        self.readers: dict[int, Subscription] = {}

    def status(self, now_ns: int) -> str:
        return "ACTIVE" if now_ns - self.created_ns >= CREATING_NS else "CREATING"

    def changed(self) -> None:
        """Tells the subscriptions that there are more records, or other shards."""
        for reader in [*self.readers.values()]:
            reader.changed()

    def end(self, failure: ServiceError) -> None:
        """The consumer is deleted: its subscriptions end with `failure`."""
        for reader in [*self.readers.values()]:
            reader.end(failure)
