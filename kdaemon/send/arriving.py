"""An answer over HTTP while it arrives, and once it is there: what it may take, and its parts.

Knows sizes. Must not know connections, or what an answer means: `answers.py` does.
Invariant: of an answer no more is kept than its room; of an error only the beginning is.
Where it sits: `reader.py` and `posts.py` gather the bytes of each answer here.
"""

from collections.abc import Callable, Mapping
from typing import Final

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB

ERROR_BYTES_MAX: Final = 64 * KIB  # ours: of an error's body; the rest is not read

Headers = Mapping[str, str]
"""The headers of an answer; names match in any case."""

HasRoom = Callable[[int], bool]
"""Whether this many more bytes may be kept. True: they are counted as kept."""


class TooLargeError(ServiceError):
    """An answer is larger than the caller can take. `has_room`: whether there was memory for it."""

    def __init__(self, text: str, status: int, *, has_room: bool) -> None:
        super().__init__(Trouble.UNREADABLE, text, status=status)
        self.has_room = has_room


def _always(_byte_count: int) -> bool:
    return True


class Room:
    """What a successful answer may take: `bytes_max`, and for each part of it the memory that
    `take` grants.
    """

    __slots__ = ("bytes_max", "take")

    def __init__(self, bytes_max: int, take: HasRoom = _always) -> None:
        self.bytes_max = bytes_max
        self.take = take


class Answer:
    """An answer over HTTP."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Headers) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class BodySoFar:
    """The body of an answer, while it arrives: a success whole, of an error only the beginning."""

    __slots__ = ("_blocks", "_is_error", "_room", "_size", "_status", "bytes_max")

    def __init__(self, status: int, room: Room) -> None:
        self._status = status
        self._is_error = status != 200
        self._room = room
        self._size = 0
        self._blocks: list[bytes] = []
        self.bytes_max = ERROR_BYTES_MAX if self._is_error else room.bytes_max

    def add(self, block: bytes) -> TooLargeError | None:
        """Returns why the body cannot be read to its end. None: see `is_enough`."""
        self._size += len(block)
        self._blocks.append(block)
        if self._is_error:
            return None
        if self._size > self.bytes_max:
            problem = f"an answer of more than {self.bytes_max} bytes"
            return TooLargeError(problem, self._status, has_room=True)
        if not self._room.take(len(block)):
            problem = "an answer that there is no memory for now"
            return TooLargeError(problem, self._status, has_room=False)
        return None

    @property
    def is_enough(self) -> bool:
        """Whether no more is wanted. The rest is not read, and the connection is closed."""
        return self._size > self.bytes_max

    def read(self) -> bytes:
        """What came of it, so far as it is kept."""
        if len(self._blocks) == 1 and not self._is_error:
            return self._blocks[0]
        return b"".join(self._blocks)[: self.bytes_max]
