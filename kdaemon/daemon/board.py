"""How busy each worker is, in memory that all processes see: written by the worker, read by the
supervisor, which hands connections on and looks whether loops turn.

About: four numbers a worker. Memory and not a message, so that neither is woken to be told.
Invariant: a number has one writer, and is written whole (eight bytes, aligned).
Where it sits: worker.py writes, handing.py and crew.py read.
"""

import mmap
import os
from enum import IntEnum


class Field(IntEnum):
    """Of one worker."""

    BEATS = 0  # of its loop, one a second: a loop that stands still adds none
    TAKEN = 1  # connections that were handed to it, and that it has taken up
    OPEN = 2  # connections, as far as it has told
    IS_READY = 3  # 1: clients should come


_FIELDS = len(Field)
_BYTES = 8  # of a field


class Board:
    """Of `slots` workers. The supervisor makes one (`make`); a worker opens the same."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, slots * _FIELDS * _BYTES)
        self._numbers = memoryview(self._memory).cast("Q")

    @classmethod
    def make(cls, slots: int) -> "Board":
        descriptor = os.memfd_create("kdaemon-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, slots * _FIELDS * _BYTES)
        return cls(descriptor, slots)

    def read(self, slot: int, field: Field) -> int:
        return self._numbers[slot * _FIELDS + field]

    def write(self, slot: int, field: Field, value: int) -> None:
        self._numbers[slot * _FIELDS + field] = value

    def add(self, slot: int, field: Field) -> None:
        self._numbers[slot * _FIELDS + field] += 1

    def clear(self, slot: int) -> None:
        """For another process."""
        for field in Field:
            self.write(slot, field, 0)
