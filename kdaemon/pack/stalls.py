"""Shards that stall a call of ours: more records for them would only wait behind that call.

Only where the service stalls a call that is too much, and does not refuse the call
(`pace/latency.py`). Knows lanes and the calls that are out; draws nothing and paces nothing.
Invariant: `calls_sent_ns` of a lane has one time for each call that is out and that the lane paid
for, the oldest first.
Where it sits: the packer asks before it draws from a lane, and tells of calls that go and return.
"""

from kdaemon.pace.latency import CallLatency
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane


class Stalls:
    """The stalls of one stream. `may_be`: the service stalls calls; otherwise there are none."""

    __slots__ = ("_latency", "may_be")

    def __init__(self, now_ns: int, *, may_be: bool) -> None:
        self._latency = CallLatency(now_ns)
        self.may_be = may_be

    def is_stalled(self, lane: Lane, now_ns: int) -> bool:
        """Whether the shard stalls a call now; the lane notes the answer."""
        calls, after_ns = lane.calls_sent_ns, self._latency.stalled_after_ns
        lane.is_stalled = bool(calls and after_ns and now_ns - calls[0] > after_ns)
        return lane.is_stalled

    def sent(self, batch: Batch, now_ns: int) -> None:
        """The batch goes out now."""
        if self.may_be:
            for lane in batch.paid:
                lane.calls_sent_ns.append(now_ns)

    def returned(self, batch: Batch) -> list[Lane]:
        """The batch's call was answered, or failed. Returns the lanes that may go on."""
        freed: list[Lane] = []
        if not self.may_be:
            return freed
        for lane in batch.paid:
            lane.calls_sent_ns.remove(batch.sent_ns)
            if lane.is_stalled:
                lane.is_stalled = False
                freed.append(lane)
        return freed

    def stalled_ns(self, batch: Batch, now_ns: int) -> int:
        """How long an answered call was stalled; 0: it was not. Notes the call."""
        if not self.may_be or not batch.paid:
            return 0
        return self._latency.stalled_ns(now_ns - batch.sent_ns, now_ns)
