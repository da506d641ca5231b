"""A few numbers about each worker, in memory that the supervisor and all workers share.

About: four numbers a worker: how busy the worker is, and whether its loop turns. Shared memory is
used instead of messages, so that no process is woken to be told a number.
Invariant: each number has one writer, and is written whole (eight bytes, aligned).
Where it sits: worker.py writes; member.py reads, for crew.py and handing.py.
"""

import mmap
import os
from enum import IntEnum


class Field(IntEnum):
    """The numbers of one worker."""

    BEATS = 0  # turns of its loop, one a second: a loop that stands still adds none
    TAKEN = 1  # connections that were handed to the worker and that the worker has taken up
    OPEN = 2  # connections that are open, as the worker wrote last
    IS_READY = 3  # 1: clients should come to this worker


_FIELDS = len(Field)
_BYTES = 8  # of a field


class Board:
    """The numbers of `slots` workers. The supervisor makes the board (`make`); each worker opens
    the same memory.
    """

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, slots * _FIELDS * _BYTES)
        self._numbers = memoryview(self._memory).cast("Q")

    @classmethod
    def make(cls, slots: int) -> "Board":
        """A new board, in memory that has no file."""
        descriptor = os.memfd_create("kdaemon-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, slots * _FIELDS * _BYTES)
        return cls(descriptor, slots)

    def read(self, slot: int, field: Field) -> int:
        """A number of the worker with this slot."""
        return self._numbers[slot * _FIELDS + field]

    def write(self, slot: int, field: Field, value: int) -> None:
        """Sets a number of the worker with this slot."""
        self._numbers[slot * _FIELDS + field] = value

    def add(self, slot: int, field: Field) -> None:
        """Adds one to a number."""
        self._numbers[slot * _FIELDS + field] += 1

    def clear(self, slot: int) -> None:
        """Sets all numbers of a worker to 0, for its next process."""
        for field in Field:
            self.write(slot, field, 0)
