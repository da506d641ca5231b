"""The events of a subscription as bytes, in its client's encoding.

Pure. Knows the event stream and both encodings; nothing of shards, connections or timers.
Invariant: the first message is the initial response, and no message follows an exception.
Where it sits: `wire.py` makes a feed for a subscribing call; `push.py` sends it to the client.
"""

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox import event_stream
from kdaemon.sandbox.subscription import Subscription
from kdaemon.wire import cbor
from kdaemon.wire.refusals import Encoding

EVENT = "SubscribeToShardEvent"
_CONTENT_TYPES = {Encoding.JSON: "application/json", Encoding.CBOR: "application/cbor"}
_to_json = msgspec.json.Encoder().encode


class Feed:
    """The messages of one subscription."""

    __slots__ = ("_content_type", "_encode", "_has_begun", "_is_broken", "subscription")

    def __init__(self, subscription: Subscription, encoding: Encoding) -> None:
        self.subscription = subscription
        self._encode = cbor.encode if encoding is Encoding.CBOR else _to_json
        self._content_type = _CONTENT_TYPES[encoding]
        self._has_begun = False
        self._is_broken = False

    def broken_off(self) -> bytes:
        """The last message, if an event could not be made. It tells the client: some clients take
        any end of the stream for the end of the answer.
        """
        self._is_broken = True
        self.subscription.end()
        told = self._encode({"message": "The sandbox failed to make an event; its log says why."})
        return event_stream.exception("InternalFailureException", told, self._content_type)

    def next_message(self, now_ns: int) -> bytes | None:
        """The next message; empty: there is none yet; None: there will be none."""
        if self._is_broken:
            return None
        if not self._has_begun:
            self._has_begun = True
            return event_stream.event("initial-response", self._encode({}), self._content_type)
        found = self.subscription.take(now_ns)
        if found is None:
            return None if self.subscription.is_over else b""
        if isinstance(found, ServiceError):
            told = self._encode({"message": found.message})
            return event_stream.exception(found.code, told, self._content_type)
        return event_stream.event(EVENT, self._encode(found), self._content_type)
