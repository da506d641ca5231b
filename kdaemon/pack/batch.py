"""One PutRecords call: while it is being drawn, and as it goes out.

A batch carries runs (the records of its clients) and records (those that the service is sent). Both
are the same, one for one and in order, with two exceptions: a record without a key is sent as a
copy with a key; and in aggregates, `widths` says how many records of the runs each sent record
carries. Knows nothing of queues or rates. Where it sits: the packer draws batches, `send/driver.py`
sends them, settlement takes them apart.
"""

from collections.abc import Sequence

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from kdaemon.pack.whole import Paid, WholeFrame, paid_of

CARRIED_MAX = 2_000
"""About the most records of clients that a call with aggregates carries: at this number no further
aggregate is begun. Drawing them takes 2 ms and settling them 1 ms; 5 MiB of records of 10 bytes are
200,000, and took 250 and 90 ms. Ours, 2026-11-28."""


class Draft:
    """A batch being drawn: its content, and the room that is left.

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
        self.records: list[Record] = []  # with aggregates only; without, the runs have the records
        self.widths: list[int] = []  # with aggregates only, beside `records`

    @property
    def has_places(self) -> bool:
        """Whether the draft may take more records, whatever their size."""
        return self.records_left > 0 and self.carried < CARRIED_MAX

    def has_room(self, byte_count: int) -> bool:
        """Whether `byte_count` bytes still fit. The bound is for records that share a batch: a
        single record above the bound goes in a batch of its own.
        """
        return byte_count <= self.bytes_left or not self.runs

    def pay(self, lane: Lane, record_count: int, byte_count: int) -> None:
        """The lane's shard pays for what was just put into the draft."""
        lane.budget.pay(record_count, byte_count)
        records, paid_bytes = self.paid.get(lane, (0, 0))
        self.paid[lane] = (records + record_count, paid_bytes + byte_count)
        self.records_left -= record_count
        self.bytes_left -= byte_count


class Batch:
    """`record_count`: records of clients. `byte_count`: data + partition keys, as sent. `is_probe`:
    the one call that tries whether the stream works again.

    `has_left`: the service may have seen the call; whoever makes the call says when (`leave`).
    Until then the call can be recalled (`is_recalled`): some of its clients wait no more, and are
    told that their records were not sent.
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
        """`records`, `widths`: the sent records, where these are not the runs' records one for one.
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
        """The records and bytes that each lane paid for."""
        return self._paid if not self.wholes else paid_of(self.wholes)

    @property
    def runs(self) -> list[Run]:
        """All runs that the call carries, by shard."""
        return self._runs or [run for whole in self.wholes for run in whole.runs()]

    @property
    def frames(self) -> set[Frame]:
        """The frames whose records the call carries."""
        return {whole.frame for whole in self.wholes} or {run.frame for run in self._runs}

    def leave(self) -> bool:
        """The caller is about to write the first byte. False: the call was recalled and must not be
        sent.
        """
        self.has_left = not self.is_recalled
        return self.has_left
