"""What goes into the store and what comes out. Values only."""

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
    """A frame read back. `byte_count`: of its payload. `settled`: the bitmap as
    `codec.encode_settled` made it, found whole; None: nothing is known to be settled.
    """

    id: int
    stream: str
    records: list[Record]
    accepted_ms: int
    byte_count: int
    settled: bytes | None

    @property
    def footprint_bytes(self) -> int:
        """The memory that it takes, about."""
        return frame_footprint_bytes(len(self.records), self.byte_count)


@dataclass(slots=True)
class Changes:
    """What one commit does, all or nothing.

    `settled`: ids of frames that are done with; they are deleted. `progress`: (id, bitmap), in the
    place of what was known. An id that is not stored is no error in either. `probes`: the trouble
    whose end is looked for: something is written in any case.
    """

    appended: list[NewFrame] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    progress: list[tuple[int, bytes]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    probes: SpoolErrorKind | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the database: pages in use, and the files as they are, its log included."""

    live_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What else a commit did: `letters_dropped` older letters made room for the new ones. `sizes`:
    after it. `has_proved`: it wrote, and the disk has room for frames; without frames, only a probe
    can tell.
    """

    letters_dropped: int
    sizes: Sizes
    has_proved: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """How many of a frame's records are noted as settled. `record_count`: as its row says, which
    may be damaged.
    """

    frame_id: int
    record_count: int
    settled_count: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Frames of one stream, in order of id.

    `corrupt_count` frames were damaged and are in quarantine now; with them went
    `corrupt_record_count` records, as many as were appended. `last_id`: the next `after_id`; it
    counts damaged frames too. `is_end`: nothing of what was asked for stands after `last_id`.
    `corrupt`: what is noted of the damaged frames.
    """

    frames: list[StoredFrame]
    corrupt_count: int
    corrupt_record_count: int
    last_id: int
    is_end: bool
    corrupt: tuple[Settled, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTotals:
    """What is stored of one stream. `byte_count`: of payloads. `oldest_ms`: when its first frame
    was accepted, Unix milliseconds.
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
    """What `drop_oldest` deleted. `last_id`: nothing of the stream is left from where it began up
    to this id; the id it began after if nothing was there, or something was to be kept first.
    `partly_settled`: those of which a part was done with.
    """

    frame_count: int
    record_count: int
    byte_count: int
    last_id: int
    partly_settled: tuple[Settled, ...] = ()


@dataclass(frozen=True, slots=True)
class DroppedStream:
    """What `drop_stream` deleted; `quarantine_count`: frames that were damaged."""

    frame_count: int
    record_count: int
    byte_count: int
    quarantine_count: int


@dataclass(frozen=True, slots=True)
class Verification:
    """Every row read. `problems`: in words, the first 100; none: the structure is sound and the
    totals add up. `corrupt_ids`: frames whose checksum fails, the first 100 of `corrupt_count`.
    """

    problems: list[str]
    frame_count: int
    record_count: int
    corrupt_ids: list[int]
    corrupt_count: int
    letter_count: int
    corrupt_letter_count: int
    quarantine_count: int

    @property
    def is_sound(self) -> bool:
        return not (self.problems or self.corrupt_count or self.corrupt_letter_count)


@dataclass(frozen=True, slots=True)
class Census:
    """`letters`: (count, bytes) by stream. `quarantine`: frames by stream; "" for those whose
    stream cannot be told any more. `settled`: by stream, records of frames that stand here still
    which are known to be delivered or buried: the rest of their frames waits for slower shards.
    """

    letters: dict[str, tuple[int, int]]
    quarantine: dict[str, int]
    settled: dict[str, int]


@dataclass(frozen=True, slots=True)
class Salvage:
    """A damaged database put aside, and what was saved out of it. `path`: where it is now.
    `problem`: why not everything was, in words; None: every row that can be read was.
    `cut_off_by`: what the new database failed with, before all was copied.
    """

    path: str
    frame_count: int
    record_count: int
    letter_count: int
    problem: str | None
    cut_off_by: SpoolError | None = None
