"""Random inputs out of seeds: where atheris is not to be had, and in the tests."""

import random
from collections.abc import Callable, Sequence

INPUT_BYTES_MAX = 64 * 1024
REPEATS = (2, 3, 10, 100, 1_000, 10_000)


Build = Callable[[random.Random], bytes]


class Mutator:
    """An endless, repeatable series of inputs: each is a seed that was changed a few times, or one
    that the target built, changed or not.
    """

    def __init__(
        self,
        seed: int,
        seeds: Sequence[bytes],
        tokens: Sequence[bytes],
        build: Build | None = None,
    ) -> None:
        self._build = build
        self._dice = random.Random(seed)
        self._seeds = [*seeds, b""]
        self._tokens = [*tokens, b"\0", b"\xff", b"\n", b" "]
        self._changes = (
            self._set_byte,
            self._insert_token,
            self._insert_token,
            self._replace_by_token,
            self._delete,
            self._repeat,
            self._splice,
            self._cut,
        )

    def next(self) -> bytes:
        if self._build is not None and self._dice.randrange(4):
            data = self._build(self._dice)
            times = self._dice.choice((0, 0, 0, 0, 0, 0, 1, 2))
        else:
            data = self._dice.choice(self._seeds)
            times = self._dice.choice((0, 1, 1, 2, 2, 3, 4, 8))
        for _ in range(times):
            data = self._dice.choice(self._changes)(data)
        return data[:INPUT_BYTES_MAX]

    def _place(self, data: bytes) -> int:
        return self._dice.randint(0, len(data))

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self._place(data)
        return start, min(len(data), start + self._dice.choice((1, 1, 2, 4, 8, 32)))

    def _set_byte(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + bytes([self._dice.randrange(256)]) + data[at + 1 :]

    def _insert_token(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._dice.choice(self._tokens) + data[at:]

    def _replace_by_token(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + self._dice.choice(self._tokens) + data[end:]

    def _delete(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        start, end = self._span(data)
        times = self._dice.choice(REPEATS)
        return data[:start] + (data[start:end] * times)[:INPUT_BYTES_MAX] + data[end:]

    def _splice(self, data: bytes) -> bytes:
        other = self._dice.choice(self._seeds)
        return data[: self._place(data)] + other[self._place(other) :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)]
