"""SubscribeToShard: sends one shard to a consumer, event by event, for five minutes.

Pure: time is an argument. `on_change` tells the sender of events that there may be one. Knows the
stream and its consumer; nothing of bytes, encodings or connections.
Invariants: the events of a subscription have every record of the shard from its position on, once,
in order. A subscription AFTER_SEQUENCE_NUMBER of an event's ContinuationSequenceNumber goes on
where that event ended. The last event of a closed shard names its children and has no
ContinuationSequenceNumber. For each consumer and shard the newest subscription is the current one;
the one before it is ended, and told why.
Where it sits: `service.py` makes one for a call; `feed.py` writes its events.
"""

from collections.abc import Callable

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB
from kdaemon.sandbox import consumers, reads
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.consumer import Consumer
from kdaemon.sandbox.payload import SEQUENCE_NUMBER_PATTERN, SHARD_ID_PATTERN, Payload, refuse
from kdaemon.sandbox.shards import Shard, Stream

LIFETIME_NS = 300 * 1_000_000_000  # five minutes [M]
TAKEOVER_NS = 5 * 1_000_000_000  # until this time after a subscription another one is refused [M]
EVENT_INTERVAL_NS = 5 * 1_000_000_000
"""The longest time between two events. An event without records tells a client that it is up to
date, and lets us notice a client that has gone. Ours, 2026-11-28."""
EVENT_BYTES_MAX = 256 * KIB  # data of one event, unless one record has more; ours, 2026-11-28
EVENT_RECORDS_MAX = 1_000  # so that an event is made within a few milliseconds; ours, 2026-11-28


class Subscription:
    """`is_over`: no event follows. `wakes_ns`: when the next event is due in any case. `on_change`:
    is called when an event may be there earlier.
    """

    __slots__ = (
        "_consumer",
        "_ends_ns",
        "_failure",
        "_sequence",
        "_shard",
        "_stream",
        "_wall_offset_ns",
        "is_over",
        "on_change",
        "wakes_ns",
    )

    def __init__(
        self,
        consumer: Consumer,
        stream: Stream,
        shard: Shard,
        sequence: int,
        now_ns: int,
        wall_offset_ns: int,
    ) -> None:
        self._consumer = consumer
        self._stream = stream
        self._shard = shard
        self._sequence = sequence  # the next record has this number, or a higher one
        self._wall_offset_ns = wall_offset_ns
        self._ends_ns = now_ns + LIFETIME_NS
        self._failure: ServiceError | None = None
        self.is_over = False
        self.wakes_ns = now_ns  # the first event is due at once
        self.on_change: Callable[[], object] | None = None

    def changed(self) -> None:
        """The stream has more records, or other shards."""
        if self.on_change is not None:
            self.on_change()

    def end(self, failure: ServiceError | None = None) -> None:
        """Ends the subscription. Only `failure` follows, if there is one."""
        if self.is_over:
            return
        self._failure = failure
        self._finish()
        self.changed()

    def _finish(self) -> None:
        self.is_over = True
        readers = self._consumer.readers
        if readers.get(self._shard.index) is self:
            del readers[self._shard.index]

    def take(self, now_ns: int) -> Answer | ServiceError | None:
        """The next event, or the final error; None: there is none (yet)."""
        failure, self._failure = self._failure, None
        if failure is not None or self.is_over:
            return failure
        if now_ns >= self._ends_ns:
            self._finish()
            return None
        shard = self._shard
        first = shard.position_of(self._sequence)
        end = reads.end_of_read(shard.log, first, EVENT_RECORDS_MAX, now_ns, EVENT_BYTES_MAX)
        is_at_tip = end == len(shard.log)
        is_last = is_at_tip and not shard.is_open
        if end == first and now_ns < self.wakes_ns and not is_last:
            return None
        # At the tip every record is read, so the next one has at least the sequencer's next number.
        self._sequence = shard.sequencer.next if is_at_tip else shard.log[end].sequence
        self.wakes_ns = min(now_ns + EVENT_INTERVAL_NS, self._ends_ns)
        records = [
            reads.record_form(shard, stored, self._wall_offset_ns)
            for stored in shard.log[first:end]
        ]
        behind_ns = 0 if is_at_tip else max(0, now_ns - shard.log[end].arrival_ns)
        event: Answer = {
            "Records": records,
            "ContinuationSequenceNumber": None if is_last else shard.template % self._continuation,
            "MillisBehindLatest": behind_ns // 10**6,
        }
        if is_last:
            event["ChildShards"] = [
                reads.child_form(child) for child in self._stream.children_of(shard)
            ]
            self._finish()
        return event

    @property
    def _continuation(self) -> int:
        """The number after which the next record comes."""
        return max(self._sequence - 1, self._shard.starting_sequence)


def subscribe(catalogue: Catalogue, payload: Payload, now_ns: int) -> Subscription:
    """Makes the subscription of a call, which becomes the current one. ServiceError: the call is
    refused, and nothing has changed.
    """
    arn = payload.text("ConsumerARN", consumers.CONSUMER_ARN_PATTERN)
    shard_id = payload.text("ShardId", SHARD_ID_PATTERN)
    position = payload.structure("StartingPosition")
    if position is None:
        payload.text("StartingPosition")
        position = Payload()
    kind = position.choice("Type", reads.ITERATOR_TYPES)
    starting = position.optional_text("SequenceNumber", SEQUENCE_NUMBER_PATTERN)
    at_ns = position.timestamp_ns("Timestamp")
    stream, consumer = consumers.find_by_arn(catalogue, arn)
    shard = reads.find_shard(catalogue, stream, shard_id)
    start = reads.Position(kind, starting, at_ns, "SubscribeToShard")
    sequence = reads.first_sequence(catalogue, stream, shard, start, now_ns)
    if consumer.status(now_ns) != "ACTIVE":
        raise refuse(
            "ResourceInUseException",
            f"Consumer {arn} is in status {consumer.status(now_ns)}: it cannot subscribe before it "
            "is ACTIVE.",
        )
    last_ns = consumer.subscribed_ns.get(shard.index)
    if last_ns is not None and now_ns - last_ns < TAKEOVER_NS:
        raise _in_use(consumer, shard)
    found = Subscription(consumer, stream, shard, sequence, now_ns, catalogue.wall_offset_ns)
    if payload.get("DryRun") is not True:
        before = consumer.readers.get(shard.index)
        if before is not None:
            before.end(_in_use(consumer, shard))
        consumer.subscribed_ns[shard.index] = now_ns
        consumer.readers[shard.index] = found
    return found


def _in_use(consumer: Consumer, shard: Shard) -> ServiceError:
    return refuse(
        "ResourceInUseException",
        f"Another active subscription exists for this consumer: {consumer.arn}, {shard.shard_id}.",
    )
