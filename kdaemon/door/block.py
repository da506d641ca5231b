"""One block of lines on its way through the door. Pure.

A `Put` whose lines are refused one by one: a bad line does not take the rest of its block with it.
Used by NDJSON over HTTP and by the connections of lines. Must not know a stream or a connection.
"""

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.frame import Frame
from kdaemon.base.refused import Refused
from kdaemon.wire.limits import Put, PutLimits
from kdaemon.wire.lines_read import Lines, refuse_oversized
from kdaemon.wire.rejections import Rejected


class Block(Put):
    """Lines for one stream. `oversized`: lines that broke a limit of the stream; `check_limits`
    moves them here out of `lines`.
    """

    __slots__ = ("lines", "oversized")

    def __init__(self, lines: Lines) -> None:
        # A line without a key leaves the choice of the shard to kdaemon.
        super().__init__(lines.records, lines.sizes, sum(lines.sizes), depends_on_kind=False)
        self.lines = lines
        self.oversized: list[Rejected] = []

    @property
    def footprint_bytes(self) -> int:
        """The footprint of a frame made of the lines that are left now."""
        return frame_footprint_bytes(len(self.sizes), self.byte_count)

    def check_limits(self, limits: PutLimits) -> Refused | None:
        """Moves the lines that are over these limits from `lines` to `oversized`."""
        oversized = refuse_oversized(self.lines, limits)
        if oversized:
            self.oversized += oversized
            self.refused_count = len(self.oversized)
            self.records, self.sizes = self.lines.records, self.lines.sizes
            self.byte_count = sum(self.sizes)
        return None

    def check_kind(self, *, is_auto: bool) -> Refused | None:  # noqa: ARG002 - as in Put
        """None always: lines go to streams of either kind."""
        return None

    def drop_records(self) -> None:
        """The frame has the records: from here on only the numbers of their lines are needed."""
        self.records = self.lines.records = []

    def settled(self, frame: Frame) -> tuple[int, list[Rejected]]:
        """The outcome of the lines: how many are acknowledged, and why each other line is not.

        A record without a result was admitted on a promise that its client does not wait for: it
        counts as acknowledged.
        """
        numbers = self.lines.numbers
        if frame.refusal is not None:
            code, message = frame.refusal
            return 0, [Rejected(number, code, message) for number in numbers]
        # Of a frame that was stored, all records have this one: it is looked into once.
        taken = frame.results[0] if frame.results else None
        if taken is not None and (taken.error_code or not taken.sequence_number):
            taken = None
        rejected = [
            Rejected(
                number,
                result.error_code or "InternalFailure",
                result.error_message or "The record was not delivered.",
            )
            for number, result in zip(numbers, frame.results, strict=True)
            if result is not None
            and result is not taken
            and (result.error_code or not result.sequence_number)
        ]
        return len(numbers) - len(rejected), rejected
