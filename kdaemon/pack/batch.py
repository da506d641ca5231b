"""One PutRecords call: while it is being drawn, and as it goes out.

A batch carries runs (what its clients sent) and records (what the service is sent). They are the
same, one for one and in order, but for records that came without a key, which are sent as copies
with one, and for aggregates: there, `widths` says how many records of the runs each sent record
carries. Knows nothing of queues or rates.
"""

from collections.abc import Sequence

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from kdaemon.pack.whole import Paid, WholeFrame, paid_of

CARRIED_MAX = 2_000
"""Records of clients that a call with aggregates carries, about: no further aggregate is begun when
there are so many. To draw and to settle them takes 2 and 1 ms; 5 MiB of records of 10 bytes are
200,000, and took 250 and 90 ms. Ours, 2026-11-28."""


class Draft:
    """A batch being drawn: what is in it, and the room that is left.

    `bytes_left`: data + keys; negative after a record that is larger than the whole batch.
    `carried`: records of clients in aggregates.
    """

    __slots__ = ("bytes_left", "carried", "paid", "records", "records_left", "runs", "widths")

    def __init__(self, records_max: int, bytes_max: int) -> None:
        self.records_left = records_max
        self.carried = 0
        self.bytes_left = bytes_max
        self.runs: list[Run] = []
        self.paid: Paid = {}
        self.records: list[Record] = []  # with aggregates only; else they are the runs'
        self.widths: list[int] = []  # with aggregates only, beside `records`

    @property
    def has_places(self) -> bool:
        """Whether it may have more records, whatever their size."""
        return self.records_left > 0 and self.carried < CARRIED_MAX

    def has_room(self, byte_count: int) -> bool:
        """Whether what comes next, of so many bytes, fits. The bound is for company: a single
        record above it goes in a batch of its own.
        """
        return byte_count <= self.bytes_left or not self.runs

    def pay(self, lane: Lane, record_count: int, byte_count: int) -> None:
        """The lane's shard pays for what was just put in."""
        lane.budget.pay(record_count, byte_count)
        records, paid_bytes = self.paid.get(lane, (0, 0))
        self.paid[lane] = (records + record_count, paid_bytes + byte_count)
        self.records_left -= record_count
        self.bytes_left -= byte_count


class Batch:
    """`record_count`: of clients. `byte_count`: data + partition keys, as sent. `is_probe`: the one
    call of a stream that is coming back.

    `has_left`: the service may have seen it; whoever calls says when (`leave`). Until then it can
    be recalled (`is_recalled`): clients of it wait no more, and are told that it was not sent.
    """

    __slots__ = (
        "_paid",
        "_runs",
        "byte_count",
        "has_left",
        "is_probe",
        "is_recalled",
        "record_count",
        "records",
        "sent_ns",
        "wholes",
        "widths",
    )

    def __init__(
        self,
        runs: list[Run],
        byte_count: int,
        *,
        paid: Paid,
        records: list[Record] | None = None,
        widths: list[int] | None = None,
        wholes: Sequence[WholeFrame] = (),
    ) -> None:
        """`records`, `widths`: what is sent, where it is not the runs' records one for one.
        `wholes`: frames that go whole, and have paid; then there are no runs.
        """
        self._runs = runs
        self.wholes = wholes
        self.byte_count = byte_count
        self._paid = paid
        self.widths = widths or None
        if wholes:
            self.records = [record for whole in wholes for record in whole.records()]
            self.record_count = len(self.records)
        elif records:
            self.records = records
            self.record_count = sum([len(run.indices) for run in runs])
        else:
            self.records = [
                of_frame[index]
                for run in runs
                for of_frame in (run.frame.records,)  # once a run
                for index in run.indices
            ]
            self.record_count = len(self.records)
        self.is_probe = False
        self.has_left = True
        self.is_recalled = False
        self.sent_ns = 0

    @property
    def paid(self) -> Paid:
        """What each lane paid for."""
        return self._paid if not self.wholes else paid_of(self.wholes)

    @property
    def runs(self) -> list[Run]:
        """All that the call carries, by shard."""
        return self._runs or [run for whole in self.wholes for run in whole.runs()]

    @property
    def frames(self) -> set[Frame]:
        """Whose records it carries."""
        return {whole.frame for whole in self.wholes} or {run.frame for run in self._runs}

    def leave(self) -> bool:
        """The first byte is about to be written. False: it must not be any more."""
        self.has_left = not self.is_recalled
        return self.has_left
