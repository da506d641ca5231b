"""Budgets of bytes: whoever takes bytes must give them back, once.

A budget counts what Python really holds for a client, so that the resident size follows the
setting. A budget may be a part of another one (for unlisted streams, for arriving bodies): bytes
that are taken from the part are taken from the whole as well.
"""

from collections.abc import Callable, Iterator


class ByteBudget:
    """Bytes out of a fixed total, and out of `whole`, of which this budget is a part.

    If it is full, `take` returns False and takes nothing: the client has to wait, or is refused at
    the door. Invariant: 0 <= bytes_taken. It is above bytes_max only after `move` or a lower
    bytes_max, and `whole` has taken at least as much as its parts.
    """

    __slots__ = ("_waiters", "bytes_max", "bytes_taken", "whole")

    def __init__(self, bytes_max: int, whole: "ByteBudget | None" = None) -> None:
        self.bytes_max = bytes_max
        self.bytes_taken = 0
        self.whole = whole
        self._waiters: list[Callable[[], object]] = []

    def free_bytes(self) -> int:
        """The most that `take` would give now."""
        free = self.bytes_max - self.bytes_taken
        return max(0, free if self.whole is None else min(free, self.whole.free_bytes()))

    def has_room(self, byte_count: int) -> bool:
        """Whether `take` would give this much now."""
        return byte_count <= self.bytes_max - self.bytes_taken and (
            self.whole is None or self.whole.has_room(byte_count)
        )

    def take(self, byte_count: int) -> bool:
        if self.bytes_taken + byte_count > self.bytes_max:
            return False
        if self.whole is not None and not self.whole.take(byte_count):
            return False
        self.bytes_taken += byte_count
        return True

    def give(self, byte_count: int) -> None:
        assert byte_count <= self.bytes_taken, "more given back than was taken"
        self.bytes_taken -= byte_count
        if self.whole is not None:
            self.whole.give(byte_count)
        elif self._waiters:
            self.tell_waiters()

    def tell_waiters(self) -> None:
        """Calls those who wait for room: bytes were given back, or the whole has grown."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def move(self, byte_count: int, to: "ByteBudget") -> None:
        """Moves taken bytes to another part of the same whole. That part may be full: then it gives
        nothing more until enough has come back.
        """
        for each in self.with_wholes():
            each.bytes_taken -= byte_count
        for each in to.with_wholes():
            each.bytes_taken += byte_count

    def with_wholes(self) -> "Iterator[ByteBudget]":
        """The budget itself, the one that it is a part of, and so on."""
        budget: ByteBudget | None = self
        while budget is not None:
            yield budget
            budget = budget.whole

    def when_given(self, callback: Callable[[], object]) -> None:
        """Calls back once, when bytes of the whole are given back. That may be in the middle of
        other work, so the callback may only plan what is to be done later.
        """
        if self.whole is None:
            self._waiters.append(callback)
        else:
            self.whole.when_given(callback)


class RestBudget(ByteBudget):
    """A part that may take `times` the rest of the whole. If such parts keep their bytes, because
    nothing of theirs can leave, a part of the whole is still left to others, however many they are
    (dynamic thresholds, Choudhury and Hahne 1998). With three times, one such part leaves a
    quarter, two leave a seventh.
    """

    __slots__ = ("_times", "rest_of")

    def __init__(self, whole: ByteBudget, times: int) -> None:
        super().__init__(whole.bytes_max, whole)
        self.rest_of = whole
        self._times = times

    def free_bytes(self) -> int:
        times = self._times
        return max(0, times * self.rest_of.free_bytes() - self.bytes_taken) // (times + 1)

    def has_room(self, byte_count: int) -> bool:
        return byte_count <= self.free_bytes()

    def take(self, byte_count: int) -> bool:
        return self.has_room(byte_count) and super().take(byte_count)
