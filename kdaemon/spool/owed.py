"""What the next commits owe the disk beside new frames: deletions, bitmaps, dead letters.

Filled as frames settle, taken by commits, put back if one fails. Bound: the frames in memory; dead
letters, which outlive theirs where the disk takes nothing, have memory of their own until they are
written. Where there is none, a letter of a record that no disk has is dropped, and told. A commit
takes so much as holds up those who wait for it little (PIECES_A_COMMIT); what is owed of one frame
stays together, so that its letters are in the transaction that says it is done with.
The one value for what is owed: `Changes` says it to the store, and is not asked afterwards.
Invariant: what a commit has not written yet is known by the id of its frame, for a read of the disk
does not show it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.store import Changes

DONE = b""  # in the place of a bitmap: the frame is done with

PIECES_A_COMMIT = 1_000
"""Rows to delete or to note, and letters, that one commit takes: 20 ms of the spool's thread. Ours,
2026-11-28: 3,000 took 64 ms, and who stores waited for them."""


@dataclass(frozen=True, slots=True)
class _Item:
    """Of one frame. `frame_id`: None: not in the spool. `bitmap`: DONE: it goes. `dead_bytes`:
    taken of the memory for its letters.
    """

    frame_id: int | None
    bitmap: bytes
    letters: list[DeadLetter]
    dead_bytes: int


class Owed:
    """`on_owed` is called when something is added; it sees to it that a commit comes."""

    __slots__ = ("_items", "_memory", "_on_owed", "_taken", "has_more", "unwritten")

    def __init__(self, on_owed: Callable[[], object], memory: ByteBudget) -> None:
        self._on_owed = on_owed
        self._memory = memory
        self._items: deque[_Item] = deque()
        self._taken: list[_Item] = []  # by the commit that is under way
        self.has_more = False  # that commit found more than it may take
        # The bitmap of each frame that the disk does not know yet; empty: the frame is to go.
        self.unwritten: dict[int, bytes] = {}

    @property
    def is_empty(self) -> bool:
        return not self._items

    def settle(self, frame_id: int, letters: Iterable[DeadLetter]) -> None:
        """A frame is done with; its dead records, if any, are buried in the same transaction."""
        self._owe(frame_id, DONE, letters)

    def note(self, frame_id: int, settled: bytes, letters: Iterable[DeadLetter] = ()) -> None:
        """A frame is partly done with; dead records of that part are buried in the same transaction
        that says so.
        """
        self._owe(frame_id, settled, letters)

    def _owe(self, frame_id: int, bitmap: bytes, letters: Iterable[DeadLetter]) -> None:
        """Letters of records that leave the disk are kept also where there is no memory: nobody
        else will tell of them.
        """
        kept = list(letters)
        dead_bytes = sum(
            each.footprint_bytes for each in kept if self._memory.take(each.footprint_bytes)
        )
        self._items.append(_Item(frame_id, bitmap, kept, dead_bytes))
        self.unwritten[frame_id] = bitmap
        self._on_owed()

    def bury(self, letters: Iterable[DeadLetter]) -> int:
        """Dead records of frames that are not in the spool. How many there is no memory for: these
        are not kept.
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
        """The oldest of it, as much as a commit may take; all of one frame at least."""
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
        """The commit failed: all of it is owed still, in its order."""
        self._items.extendleft(reversed(self._taken))
        self._taken.clear()
        self.has_more = False
