"""What the next commit owes the disk beside new frames: deletions, bitmaps, dead letters.

Filled as frames settle, taken by a commit, put back if it fails. Bound: the frames in memory; dead
letters, which outlive theirs where the disk takes nothing, have memory of their own until they are
written. Where there is none, a letter of a record that no disk has is dropped, and told.
Invariant: what a commit has not written yet is known by the id of its frame, for a read of the disk
does not show it.
"""

from collections.abc import Callable, Iterable

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.store import Changes

DONE = b""  # in the place of a bitmap: the frame is done with


class Owed:
    """`on_owed` is called when something is added; it sees to it that a commit comes."""

    __slots__ = (
        "_dead",
        "_dead_bytes",
        "_memory",
        "_on_owed",
        "_progress",
        "_settled",
        "unwritten",
    )

    def __init__(self, on_owed: Callable[[], None], memory: ByteBudget) -> None:
        self._on_owed = on_owed
        self._memory = memory
        self._dead_bytes = 0  # taken of the memory for `_dead`
        self._settled: list[int] = []
        self._progress: list[tuple[int, bytes]] = []
        self._dead: list[DeadLetter] = []
        # The bitmap of each frame that the disk does not know yet; empty: the frame is to go.
        self.unwritten: dict[int, bytes] = {}

    @property
    def is_empty(self) -> bool:
        return not (self._settled or self._progress or self._dead)

    def settle(self, frame_id: int, letters: Iterable[DeadLetter]) -> None:
        """A frame is done with; its dead records, if any, are buried in the same transaction."""
        self._settled.append(frame_id)
        self.unwritten[frame_id] = DONE
        self._keep(letters)
        self._on_owed()

    def bury(self, letters: Iterable[DeadLetter]) -> int:
        """Dead records of frames that are not in the spool. How many there is no memory for: these
        are not kept.
        """
        dropped_count = 0
        for letter in letters:
            if self._take(letter.held_bytes):
                self._dead.append(letter)
            else:
                dropped_count += 1
        self._on_owed()
        return dropped_count

    def _keep(self, letters: Iterable[DeadLetter]) -> None:
        """Letters of records that leave the disk, also where there is no memory: nobody else will
        tell of them.
        """
        for letter in letters:
            self._take(letter.held_bytes)
            self._dead.append(letter)

    def _take(self, byte_count: int) -> bool:
        if not self._memory.take(byte_count):
            return False
        self._dead_bytes += byte_count
        return True

    def note(self, frame_id: int, settled: bytes, letters: Iterable[DeadLetter] = ()) -> None:
        """A frame is partly done with; dead records of that part are buried in the same transaction
        that says so.
        """
        self._progress.append((frame_id, settled))
        self._keep(letters)
        self.unwritten[frame_id] = settled
        self._on_owed()

    def take_into(self, changes: Changes) -> None:
        changes.settled, self._settled = self._settled, []
        changes.progress, self._progress = self._progress, []
        changes.dead, self._dead = self._dead, []
        changes.dead_bytes, self._dead_bytes = self._dead_bytes, 0

    def written(self, changes: Changes) -> None:
        """The commit is on disk."""
        self._memory.give(changes.dead_bytes)
        unwritten = self.unwritten
        for frame_id in changes.settled:
            unwritten.pop(frame_id, None)
        for frame_id, settled in changes.progress:
            if unwritten.get(frame_id) is settled:  # no newer one
                del unwritten[frame_id]

    def put_back(self, changes: Changes) -> None:
        """The commit failed: all of it is owed still, in its order."""
        self._settled = changes.settled + self._settled
        self._progress = changes.progress + self._progress
        self._dead = changes.dead + self._dead
        self._dead_bytes += changes.dead_bytes
