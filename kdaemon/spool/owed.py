"""What the next commits owe the disk beside new frames: deletions, bitmaps, dead letters.

It is filled as frames settle, taken by commits, and put back if a commit fails. `Owed` is the one
place for this; `Changes` carries a part of it to the store, and is not read afterwards. A commit
takes only so much that clients wait little for it (PIECES_A_COMMIT). All that is owed of one frame
stays together, so that its letters are in the transaction that deletes or notes the frame. Knows
frames by id; no disk and no engine.
Bound: the frames in memory. Dead letters outlive their frames while the disk takes nothing, so they
take memory of their own until they are written. Where there is none, the letter of a record that is
not on disk is dropped, and the drop is told.
Invariant: deletions and bitmaps that no commit has written yet are known by the ids of their
frames, because a read of the disk does not show them.
Where it sits: `held.py` and `spool.py` fill it; `commits.py` takes from it for each commit.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.values import Changes

DONE = b""  # in the place of a bitmap: the frame is done with, and goes

PIECES_A_COMMIT = 1_000
"""Rows to delete or to note, and letters, that one commit takes: 20 ms of the spool's thread. Ours,
2026-11-28: 3,000 took 64 ms, and clients that store waited for them."""


@dataclass(frozen=True, slots=True)
class _Item:
    """What is owed of one frame. `frame_id`: None: the frame is not in the spool. `bitmap`: DONE:
    the frame is deleted. `dead_bytes`: the memory that was taken for its letters.
    """

    frame_id: int | None
    bitmap: bytes
    letters: list[DeadLetter]
    dead_bytes: int


class Owed:
    """`on_owed` is called when something is added; it must make a commit follow."""

    __slots__ = ("_items", "_memory", "_on_owed", "_taken", "has_more", "unwritten")

    def __init__(self, on_owed: Callable[[], object], memory: ByteBudget) -> None:
        self._on_owed = on_owed
        self._memory = memory
        self._items: deque[_Item] = deque()
        self._taken: list[_Item] = []  # those in the commit that is under way
        self.has_more = False  # that commit left some behind
        # By frame id, each bitmap that the disk does not know yet; DONE: the frame is to go.
        self.unwritten: dict[int, bytes] = {}

    @property
    def is_empty(self) -> bool:
        return not self._items

    def owe(self, frame_id: int, bitmap: bytes, letters: Iterable[DeadLetter] = ()) -> None:
        """`bitmap`: of the frame's records that are done with; DONE: all are, and the frame is to
        go. `letters`: its dead records that no other call brings: they are buried in the same
        transaction.

        Letters of records that leave the disk are kept also where there is no memory: nothing
        else will tell of these records.
        """
        kept = list(letters)
        dead_bytes = sum(
            each.footprint_bytes for each in kept if self._memory.take(each.footprint_bytes)
        )
        self._items.append(_Item(frame_id, bitmap, kept, dead_bytes))
        self.unwritten[frame_id] = bitmap
        self._on_owed()

    def bury(self, letters: Iterable[DeadLetter]) -> int:
        """Buries dead records of frames that are not in the spool. Returns how many there is no
        memory for: those are not kept.
        """
        dropped_count = 0
        for letter in letters:
            if self._memory.take(letter.footprint_bytes):
                self._items.append(_Item(None, DONE, [letter], letter.footprint_bytes))
            else:
                dropped_count += 1
        self._on_owed()
        return dropped_count

    def take_into(self, changes: Changes) -> None:
        """Adds to `changes` the oldest of what is owed, as much as a commit may take, and all of at
        least one frame.
        """
        pieces = 0
        while self._items and pieces < PIECES_A_COMMIT:
            item = self._items.popleft()
            self._taken.append(item)
            pieces += 1 + len(item.letters)
            changes.dead += item.letters
            if item.frame_id is None:
                continue
            if item.bitmap == DONE:
                changes.settled.append(item.frame_id)
            else:
                changes.progress.append((item.frame_id, item.bitmap))
        self.has_more = bool(self._items)

    def written(self) -> None:
        """The commit is on disk."""
        unwritten = self.unwritten
        for item in self._taken:
            if item.dead_bytes:
                self._memory.give(item.dead_bytes)
            if item.frame_id is not None and unwritten.get(item.frame_id) is item.bitmap:
                del unwritten[item.frame_id]  # no newer one
        self._taken.clear()

    def put_back(self) -> None:
        """The commit failed: all that it took is owed again, in the old order."""
        self._items.extendleft(reversed(self._taken))
        self._taken.clear()
        self.has_more = False
