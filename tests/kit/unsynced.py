"""Files and directories as a disk has them: what was synced, and what was done since, and may go.

Pure: knows neither SQLite nor a process. Used by `disk.py` (SQLite's operations in this process)
and by `power.py` (all that a daemon does in its own). The model is as bad as POSIX allows: of what
was not synced any part may survive, in any order, down to single sectors; a name that was made,
changed or taken away without an fsync of its directory may be so or not.
"""

import random
from dataclasses import dataclass, field
from typing import Union

SECTOR_BYTES = 512  # what a disk writes whole
SURVIVES = (0.0, 0.5, 0.9, 1.0)  # parts of what was not synced that a file may keep
PREFIX_FRACTION = 0.25  # of directories: those whose file system keeps the order of names, mostly


@dataclass(slots=True, eq=False)
class File:
    """`pending`: (offset, data) in order; (length, None): cut off there, or made so long."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    _begun: dict[int, int] = field(default_factory=dict)  # syncs: how much of `pending` each covers

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))

    def cut(self, length: int) -> None:
        self.pending.append((length, None))

    def begin_sync(self, number: int = 0) -> None:
        """What is done from here on is not covered by it."""
        self._begun[number] = len(self.pending)

    def end_sync(self, number: int = 0) -> None:
        covered = self._begun.pop(number)
        for offset, data in self.pending[:covered]:
            _do(self.synced, offset, data)
        del self.pending[:covered]
        for other in self._begun:
            self._begun[other] = max(0, self._begun[other] - covered)

    def forget_syncs(self) -> None:
        """Who had them under way is gone."""
        self._begun.clear()

    def whole(self) -> bytearray:
        """As it reads while there is power."""
        if not self.pending:
            return self.synced
        image = bytearray(self.synced)
        for offset, data in self.pending:
            _do(image, offset, data)
        return image

    def after_power_loss(self, dice: random.Random) -> bytearray:
        image = bytearray(self.synced)
        survives = dice.choice(SURVIVES)
        for offset, data in self.pending:
            if data is None:
                if dice.random() < survives:
                    _do(image, offset, None)
                continue
            for start in range(0, len(data), SECTOR_BYTES):
                if dice.random() < survives:
                    _do(image, offset + start, data[start : start + SECTOR_BYTES])
        return image


Node = Union[File, "Directory"]


@dataclass(slots=True, eq=False)
class Directory:
    """`pending`: changes of names in order; each is all its names with what they then stand for."""

    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)
    _begun: dict[int, int] = field(default_factory=dict)

    def name(self, name: str, node: Node) -> None:
        self.pending.append({name: node})

    def rename(self, old: str, new: str, node: Node) -> None:
        self.pending.append({old: None, new: node})

    def unlink(self, name: str) -> None:
        self.pending.append({name: None})

    def begin_sync(self, number: int = 0) -> None:
        self._begun[number] = len(self.pending)

    def end_sync(self, number: int = 0) -> None:
        covered = self._begun.pop(number)
        for change in self.pending[:covered]:
            _change(self.synced, change)
        del self.pending[:covered]
        for other in self._begun:
            self._begun[other] = max(0, self._begun[other] - covered)

    def forget_syncs(self) -> None:
        self._begun.clear()

    def whole(self) -> dict[str, Node]:
        names = dict(self.synced)
        for change in self.pending:
            _change(names, change)
        return names

    def after_power_loss(self, dice: random.Random) -> dict[str, Node]:
        names = dict(self.synced)
        survives = dice.choice(SURVIVES)
        is_ordered = dice.random() < PREFIX_FRACTION
        for change in self.pending:
            if dice.random() < survives:
                _change(names, change)
            elif is_ordered:
                break
        return names


def _change(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _do(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    if data is not None:
        image[offset : offset + len(data)] = data
