"""The values that go into the store and come out of it. No behaviour, no disk.

Where it sits: `store.py` takes and returns them; `rows.py`, `writes.py` and `salvage.py` make them.
"""

from dataclasses import dataclass, field

import msgspec

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.errors import SpoolError, SpoolErrorKind
from kdaemon.base.record import Record
from kdaemon.spool.letters import DeadLetter


class NewFrame(msgspec.Struct, gc=False):
    """A frame to be stored. `id`: at least `Store.next_id`, each id once. `payload`:
    `codec.encode_records`, up to about 14 MiB. `accepted_ms`: Unix milliseconds.
    """

    id: int
    stream: str
    record_count: int
    accepted_ms: int
    payload: bytes


class StoredFrame(msgspec.Struct, gc=False):
    """A frame read back. `byte_count`: of its payload. `settled`: the bitmap that
    `codec.encode_bits` made, whole; None: no record is known to be settled.
    """

    id: int
    stream: str
    records: list[Record]
    accepted_ms: int
    byte_count: int
    settled: bytes | None

    @property
    def footprint_bytes(self) -> int:
        """About how much memory the frame takes."""
        return frame_footprint_bytes(len(self.records), self.byte_count)


@dataclass(slots=True)
class Changes:
    """The changes of one commit, all or nothing.

    `settled`: ids of frames of earlier commits that are done with; they are deleted. `progress`:
    (id, bitmap), which replaces the bitmap noted before. An id that is not stored is no error in
    either. `dead`: letters to bury. `probes`: the kind of trouble whose end is looked for; then the
    commit writes even if the rest is empty.
    """

    appended: list[NewFrame] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    progress: list[tuple[int, bytes]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    probes: SpoolErrorKind | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the database. `live_bytes`: of pages in use. `file_bytes`: of its file and its log, as
    they are.
    """

    live_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit. `letters_dropped`: older letters that made room for the new ones.
    `sizes`: after the commit. `has_proved`: the commit wrote, and the disk has room for frames;
    where it had no frames, only a probe can tell that.
    """

    letters_dropped: int
    sizes: Sizes
    has_proved: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """How many of a frame's records are noted as settled. `record_count`: as the frame's row says,
    which may be damaged.
    """

    frame_id: int
    record_count: int
    settled_count: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Frames of one stream, in order of id.

    `corrupt_count` frames were damaged and are in quarantine now; with them went
    `corrupt_record_count` records, as many as were appended. `last_id`: the next `after_id`; it
    counts damaged frames too. `is_end`: no frame of the range that was asked for stands after
    `last_id`. `corrupt`: the notes of the damaged frames' settled records.
    """

    frames: list[StoredFrame]
    corrupt_count: int
    corrupt_record_count: int
    last_id: int
    is_end: bool
    corrupt: tuple[Settled, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTotals:
    """Totals of one stream's stored frames. `byte_count`: of payloads. `oldest_ms`: when its first
    frame was accepted, Unix milliseconds.
    """

    stream: str
    frame_count: int
    record_count: int
    byte_count: int
    first_id: int
    last_id: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """The frames that `drop_oldest` deleted. `last_id`: from the beginning of the drop up to this
    id no frame of the stream is left; it is the `after_id` of the call if nothing was there, or if
    the first frame had to be kept. `partly_settled`: notes of those that had settled records.
    """

    frame_count: int
    record_count: int
    byte_count: int
    last_id: int
    partly_settled: tuple[Settled, ...] = ()


@dataclass(frozen=True, slots=True)
class DroppedStream:
    """The frames that `drop_stream` deleted; `quarantine_count`: those that were damaged."""

    frame_count: int
    record_count: int
    byte_count: int
    quarantine_count: int


@dataclass(slots=True)
class Verification:
    """The result of reading every row. `problems`: in words, the first 100; empty: the structure is
    sound and the totals add up. `corrupt_ids`: the first 100 of `corrupt_count` frames whose
    checksum fails.
    """

    problems: list[str] = field(default_factory=list)
    frame_count: int = 0
    record_count: int = 0
    corrupt_ids: list[int] = field(default_factory=list)
    corrupt_count: int = 0
    letter_count: int = 0
    corrupt_letter_count: int = 0
    quarantine_count: int = 0

    @property
    def is_sound(self) -> bool:
        return not (self.problems or self.corrupt_count or self.corrupt_letter_count)


@dataclass(frozen=True, slots=True)
class Census:
    """`letters`: (count, bytes) by stream. `quarantine`: frames by stream; "" for those whose
    stream cannot be told any more. `settled`: by stream, records that are known to be delivered or
    buried, of frames that still stand here: the rest of such a frame waits for slower shards.
    """

    letters: dict[str, tuple[int, int]]
    quarantine: dict[str, int]
    settled: dict[str, int]


@dataclass(slots=True)
class Salvage:
    """A damaged database that was put aside, and how much was saved out of it. `path`: where it is
    now. `problem`: in words, why not all was saved; None: every row that can be read was saved.
    `cut_off_by`: the failure of the new database that ended the copying.
    """

    path: str
    frame_count: int = 0
    record_count: int = 0
    letter_count: int = 0
    problem: str | None = None
    cut_off_by: SpoolError | None = None
