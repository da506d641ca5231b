"""Rows of the disk of which an engine has records: whole frames, or parts of them.

Where shards are hot, a row is handed over in parts: the records that no engine has had are left on
disk. When a part settles, the row's bitmap notes that, and the part's dead records are buried in
the same transaction. When the last part settles, the row is deleted. Once no engine has a record of
a row, and the disk knows its bitmap, the row is forgotten here: the disk knows what is left.
Knows no disk and no engine.
Invariant: a record of a row is in one part, or settled, or left.
Where it sits: `passing_on.py` adds and settles parts; `delivery.py` asks which records of a row
that it read were taken before.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import DeadReason
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.engine.ways import Way
from kdaemon.spool.codec import bits_of, count_settled, encode_bits, indices_of, settled_bits
from kdaemon.spool.left import Load
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.owed import DONE, Owed
from kdaemon.spool.schema import frame_bytes
from kdaemon.spool.values import Settled, StoredFrame


@dataclass(slots=True, eq=False)
class Part:
    """The records of a row that an engine has as one frame. `positions[i]`: the index in the row of
    the frame's record i. `loads`: the shards that they went to, by the map of `map_count`, if the
    map was asked.
    """

    frame: Frame
    positions: list[int] | range
    loads: list[Load] = field(default_factory=list)
    map_count: int = 0


@dataclass(slots=True, eq=False)
class Row:
    """`settled`: bit i says that record i is delivered or buried, for records that are in no part.
    `left_count`: records that no engine has had. `noted_count`: settled records of the parts, as
    the disk was last told.
    """

    frame_id: int
    accepted_ms: int
    record_count: int
    row_bytes: int
    left_count: int
    settled: int = 0
    parts: list[Part] = field(default_factory=list)
    noted_count: int = 0

    @property
    def taken(self) -> int:
        """The bits of the records that are not left."""
        bits = self.settled
        for part in self.parts:
            bits |= self._bits(part)
        return bits

    def _bits(self, part: Part) -> int:
        if isinstance(part.positions, range):  # the whole row
            return (1 << self.record_count) - 1
        return bits_of(part.positions, self.record_count)

    @property
    def settled_count(self) -> int:
        """The settled records of the parts."""
        return sum(len(part.positions) - part.frame.unsettled for part in self.parts)

    def bitmap(self) -> bytes:
        """The bitmap for the disk, which counts as told from now on. The bits of dead records stay
        open: they are buried when their part settles, not before.
        """
        bits = self.settled
        self.noted_count = self.settled_count
        for part in self.parts:
            delivered = (
                position
                for position, result in zip(part.positions, part.frame.results, strict=True)
                if result is not None and result.is_delivered
            )
            bits |= bits_of(delivered, self.record_count)
        return encode_bits(bits, self.record_count)

    def settle(self, part: Part) -> bool:
        """A part is settled; returns whether the row is done with."""
        self.parts.remove(part)
        if not self.parts and not self.left_count:
            return True
        self.settled |= self._bits(part)
        return False


class Held:
    """All rows of which an engine has records, by id, in the order in which they came."""

    __slots__ = ("_owed", "rows")

    def __init__(self, owed: Owed) -> None:
        self._owed = owed
        self.rows: dict[int, Row] = {}

    @property
    def record_count(self) -> int:
        """Records that are in an engine and on disk."""
        return sum(part.frame.unsettled for row in self.rows.values() for part in row.parts)

    def add(self, row: Row, part: Part) -> None:
        """An engine has the part from now on."""
        row.parts.append(part)
        row.left_count -= len(part.positions)
        self.rows[row.frame_id] = row

    def settle(self, row: Row, part: Part, letters: Iterable[DeadLetter]) -> bool:
        """The part is settled, with these dead records: the disk is owed a note or the deletion of
        the row. Returns whether the row is done with.
        """
        is_done = row.settle(part)
        self._owed.owe(row.frame_id, DONE if is_done else row.bitmap(), letters)
        if not row.parts:
            del self.rows[row.frame_id]
        return is_done

    def note(self, row: Row) -> bool:
        """Owes the disk a note of the records that are delivered, of parts that are not settled, so
        that after a crash only the rest is sent again. Returns False if nothing is new.
        """
        has_news = row.settled_count != row.noted_count
        if has_news:
            self._owed.owe(row.frame_id, row.bitmap())
        return has_news

    def kept(self) -> set[int]:
        """Ids of rows that must stay on disk, because the disk does not know all that became of
        them.
        """
        return {*self.rows, *self._owed.unwritten}

    def taken_of(self, frame_id: int, settled: int, record_count: int) -> int | None:
        """For a row that was read with these bits noted: the bits of the records that must not be
        sent. None: no record is to be sent, and the row needs nothing more.
        """
        unwritten = self._owed.unwritten.get(frame_id)
        if unwritten == DONE:
            return None
        if unwritten is not None:
            settled |= settled_bits(unwritten, record_count)
        row = self.rows.get(frame_id)
        if row is None:
            return settled
        settled |= row.taken
        return settled if settled.bit_count() < record_count else None

    def spare(self, corrupt: Iterable[Settled], read_until: int) -> tuple[int, int]:
        """For rows that were moved to quarantine: (frames of them that are counted elsewhere,
        records that are not lost with them because an engine has or had them). `read_until`: up to
        this id the rows were read before.
        """
        frame_count = record_count = 0
        for found in corrupt:
            row = self.rows.get(found.frame_id)
            unwritten = self._owed.unwritten.get(found.frame_id)
            if row is not None:
                record_count += row.taken.bit_count()
                row.left_count = 0
                frame_count += 1  # counted when its parts settle
            elif unwritten == DONE:
                record_count += found.record_count
                frame_count += 1
            elif unwritten is not None:
                record_count += count_settled(unwritten)
            elif found.frame_id <= read_until:
                record_count += found.settled_count
        return frame_count, record_count


def revived(stored: StoredFrame, taken: int, accepted_ns: int) -> tuple[Row, Part]:
    """A row as it was read, and a part with all of its records that are not `taken`, for an
    engine.
    """
    records = stored.records
    count = len(records)
    positions: list[int] | range = range(count)
    if taken:
        positions = indices_of(~taken & ((1 << count) - 1), count)
        records = [records[index] for index in positions]
    sizes = [
        len(record.data) + (len(record.partition_key.encode()) or SPREAD_KEY_BYTES)
        for record in records
    ]
    frame = make_frame(records, sizes, Acknowledge.STORED, None, None)
    frame.accepted_ns = accepted_ns
    row_bytes = frame_bytes(stored.byte_count)
    row = Row(stored.id, stored.accepted_ms, count, row_bytes, len(records), taken)
    return row, Part(frame, positions)


def narrowed(part: Part, ways: list[Way], map_count: int) -> Part:
    """A part with only the records that go these ways."""
    whole = part.frame
    loads = [
        Load(way.lane, len(way.indices), way.byte_count) for way in ways if way.lane is not None
    ]
    indices = sorted(index for way in ways for index in way.indices)
    if len(indices) == len(whole.records):
        return Part(whole, part.positions, loads, map_count)
    records = [whole.records[index] for index in indices]
    sizes = [whole.sizes[index] for index in indices]
    frame = make_frame(records, sizes, Acknowledge.STORED, None, None, whole.client)
    frame.accepted_ns = whole.accepted_ns
    return Part(frame, [part.positions[index] for index in indices], loads, map_count)


def frames_bytes(frame_count: int, payload_bytes: int) -> int:
    """About how much of the disk frames take, of which only the sum of their payloads is known."""
    return frame_count * frame_bytes(payload_bytes // frame_count) if frame_count else 0


def letters_of(stream: str, frame: Frame, first_ms: int, last_ms: int) -> list[DeadLetter]:
    """The dead records of a settled frame, each with its reason. A record that was refused at the
    door because its shard's queue was full is not dead: its client was told, and may send it again.
    """
    attempts = frame.attempt_counts or {}
    reasons = frame.history.dead_reasons if frame.history is not None else {}
    letters = []
    for index in sorted(attempts.keys() | reasons.keys()):
        record, result = frame.records[index], frame.results[index]
        if result is not None and not result.is_delivered:
            letters.append(
                DeadLetter(
                    stream=stream,
                    partition_key=record.partition_key,
                    explicit_hash_key=record.explicit_hash_key,
                    data=record.data,
                    reason=reasons.get(index, DeadReason.POISON).value,
                    code=result.error_code or "",
                    message=result.error_message or "",
                    attempts=attempts.get(index, 0),
                    first_ms=first_ms,
                    last_ms=last_ms,
                )
            )
    return letters
