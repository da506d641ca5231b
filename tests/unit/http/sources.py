"""What makes answers in pieces, for the tests of the room."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpRequest

TURNS = 20  # of the loop: more than any piece takes from its source to the transport


class Script:
    """Gives what the test has put into `ready`, and writes down what it is told."""

    def __init__(self, *ready: bytes | Exception | None) -> None:
        self.ready: list[bytes | Exception | None] = [*ready]
        self.taken = 0
        self.told: list[str] = []
        self.pieces: Pieces | None = None
        self.on_drain: Callable[[], object] | None = None

    def begin(self, request: HttpRequest, **kwargs: Any) -> "Script":
        self.pieces = request.respond_in_pieces(200, self, content_type=b"text/plain", **kwargs)
        return self

    def next_piece(self) -> bytes | None:
        assert "gone" not in self.told, "the last call was made"
        if not self.ready:
            return b""
        piece = self.ready.pop(0)
        if isinstance(piece, Exception):
            raise piece
        self.taken += 1
        return piece

    def drain(self) -> None:
        self.told.append("drain")
        if self.on_drain is not None:
            self.on_drain()

    def gone(self) -> None:
        self.told.append("gone")

    async def give(self, *more: bytes | Exception | None) -> None:
        assert self.pieces is not None
        self.ready += more
        self.pieces.wake()
        await turns()


class Endless(Script):
    """Always has more."""

    def next_piece(self) -> bytes | None:
        self.ready.append(b"x" * 1000)
        return super().next_piece()


async def turns(count: int = TURNS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def reported() -> list[dict[str, Any]]:
    """What is told to the loop from now on."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
