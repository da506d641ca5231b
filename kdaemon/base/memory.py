"""Budgets of bytes: who takes must give back, once.

Counts what Python really holds for a client, so that the resident size follows the setting. A
budget may be a part of another one (what unlisted streams may hold, bodies that are
still arriving): what is taken from a part is taken from the whole as well.
"""

from collections.abc import Callable, Iterator


class ByteBudget:
    """Bytes out of a fixed total, and out of `whole`, of which this budget is a part.

    Full: `take` says no and takes nothing; the client is held back or refused at the door.
    Invariant: 0 <= bytes_taken, which is above bytes_max only where `move` or a lower bytes_max
    made it so, and `whole` has taken at least what its parts have.
    """

    __slots__ = ("_waiters", "bytes_max", "bytes_taken", "whole")

    def __init__(self, bytes_max: int, whole: "ByteBudget | None" = None) -> None:
        self.bytes_max = bytes_max
        self.bytes_taken = 0
        self.whole = whole
        self._waiters: list[Callable[[], object]] = []

    def free_bytes(self) -> int:
        """What `take` would give at most now."""
        free = self.bytes_max - self.bytes_taken
        return max(0, free if self.whole is None else min(free, self.whole.free_bytes()))

    def has_room(self, byte_count: int) -> bool:
        """Whether `take` would give so much now."""
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
        """There may be room: some was given back, or the whole has grown."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def move(self, byte_count: int, to: "ByteBudget") -> None:
        """What was taken here is of another part of the same whole, which may be full: it is given
        nothing more then, until enough has come back.
        """
        for each in self.with_wholes():
            each.bytes_taken -= byte_count
        for each in to.with_wholes():
            each.bytes_taken += byte_count

    def with_wholes(self) -> "Iterator[ByteBudget]":
        """The budget, that of which it is a part, and so on."""
        budget: ByteBudget | None = self
        while budget is not None:
            yield budget
            budget = budget.whole

    def when_given(self, callback: Callable[[], object]) -> None:
        """Calls back once, when somebody gives back of the whole, in the midst of his work: the
        callback only plans what is to be done later.
        """
        if self.whole is None:
            self._waiters.append(callback)
        else:
            self.whole.when_given(callback)


class RestBudget(ByteBudget):
    """A part that may hold so many times what is left of the whole: parts that hold on to what they
    have, because nothing of theirs can leave, leave a part of the whole to the others, however many
    they are (dynamic thresholds, Choudhury and Hahne 1998). With three times, one such part leaves
    a quarter, two a seventh.
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
