"""A head with holes: the next head of a connection is compared with the heads before it.

A client sends the same lines with each request, and in a few of them another value: a date, a
signature, a number. The parts that stay the same are compared byte by byte. A value in a hole is
checked character by character. Pure. Knows no parser, no body and no connection.
Invariant: a head that fits is a head that the parser would take, with the same names in the same
order, the same request line, Host and Connection. A value in a hole has only characters that every
parser takes for a part of the value. A head that does not fit is not judged here: the parser reads
it.
Where it sits: heads.py cuts a stencil out of heads that the parser has read and that were admitted;
reader.py compares the next heads with it.
"""

import re
from typing import Final

from kdaemon.http.head import LENGTH_DIGITS_MAX

# These decide whether a request is admitted, and how long the connection stays: never in a hole.
_FIXED = frozenset({b"host", b"connection"})

_LENGTH: Final = b"content-length"

# A value, or the rest of a value: printable, no blank at either end. The parser takes more.
_PLAIN: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?")

# The end of a value is not searched further than this: a kept head is not longer (heads.py).
_VALUE_BYTES_MAX: Final = 4 * 1024


class Hole:
    """The place where the value of `name` differs, behind its `start`, which is always the same.
    `after`: the bytes that follow, up to the next hole. `byte_count`: the length of the last value
    in the hole.
    """

    __slots__ = ("after", "byte_count", "name", "start")

    def __init__(self, name: bytes, start: bytes, byte_count: int, after: bytes) -> None:
        self.name = name
        self.start = start
        self.byte_count = byte_count
        self.after = after


class Stencil:
    """`end`, `body_bytes`: of the head that was read last: where it ends in its data, and how long
    its body is. `headers`: of the heads that it was cut from, without the parts of values in holes.
    """

    __slots__ = ("body_bytes", "end", "first", "headers", "holes", "is_length_fixed")

    def __init__(self, first: bytes, headers: dict[bytes, bytes], holes: list[Hole]) -> None:
        """`first`: the bytes before the first hole."""
        self.first = first
        self.headers = headers
        self.holes = holes
        self.end = 0
        length = headers.get(_LENGTH, b"0")
        self.is_length_fixed = length != b""
        self.body_bytes = int(length or b"0")

    def read(self, data: bytes, at: int) -> dict[bytes, bytes] | None:
        """The headers of the head that begins at `at`, if it fits; None if it does not. If it fits,
        `end` and `body_bytes` are those of this head.
        """
        first = self.first
        end = at + len(first)
        if data[at:end] != first:
            return None
        headers = self.headers.copy()
        for hole in self.holes:
            after = hole.after
            at, end = end, end + hole.byte_count
            stop = end + len(after)
            if data[end:stop] != after:  # a value of another length, or a head that does not fit
                end = data.find(after, at, at + _VALUE_BYTES_MAX)
                if end < 0:
                    return None
                hole.byte_count = end - at
                stop = end + len(after)
            value = data[at:end]
            if not value.isalnum() and not _is_plain(value):
                return None
            headers[hole.name] = hole.start + value if hole.start else value
            end = stop
        if not self.is_length_fixed:
            length = headers[_LENGTH]
            if len(length) > LENGTH_DIGITS_MAX or not length.isdigit():
                return None
            self.body_bytes = int(length)
        self.end = end
        return headers


def _is_plain(value: bytes) -> bool:
    """Whether every parser takes these bytes for a value and nothing else. Ids of letters, digits
    and dashes are the most common values, and are recognised in a quarter of the time.
    """
    return value.replace(b"-", b"").isalnum() or _PLAIN.fullmatch(value) is not None


def cut(head: bytes, headers: dict[bytes, bytes], before: Stencil | None) -> Stencil | None:
    """The common parts of this head and the heads that `before` was cut from, if all have the same
    names in the same order; else a stencil of this head alone. None: a name stands in the head more
    than once.
    """
    starts = _starts(headers, before)
    if not starts:
        return Stencil(head, headers.copy(), [])
    places: list[tuple[bytes, int, int]] = []  # of holes: name, start, end
    at = head.find(b"\r\n") + 2
    for name, value in headers.items():
        end = head.find(b"\r\n", at)
        value_at = at + len(name) + 1
        if head[at:value_at].lower() != name + b":":
            return None
        if name in starts:
            value_at = head.find(value, value_at)
            places.append((name, value_at + len(starts[name]), value_at + len(value)))
        at = end + 2
    if head[at:] != b"\r\n":
        return None
    nexts = [start for _, start, _ in places[1:]] + [len(head)]
    holes = [
        Hole(name, starts[name], end - start, head[end:following])
        for (name, start, end), following in zip(places, nexts, strict=True)
    ]
    kept = {name: b"" if name in starts else value for name, value in headers.items()}
    return Stencil(head[: places[0][1]], kept, holes)


def _starts(headers: dict[bytes, bytes], before: Stencil | None) -> dict[bytes, bytes]:
    """The names whose values differ, each with the common start of its values."""
    if before is None or list(headers) != list(before.headers):
        return {}
    known = {hole.name: hole.start for hole in before.holes}
    starts: dict[bytes, bytes] = {}
    for name, value in headers.items():
        start = known.get(name, before.headers[name])
        if name not in _FIXED and (name in known or start != value):
            starts[name] = b"" if name == _LENGTH else _common_start(start, value)
    return starts


def _common_start(one: bytes, other: bytes) -> bytes:
    """The common start of both values, cut back to the start of a word: equal bytes inside two
    signatures are chance.
    """
    count = 0
    for a, b in zip(one, other):  # noqa: B905 - one may be shorter
        if a != b:
            break
        count += 1
    while count and one[count - 1 : count].isalnum():
        count -= 1
    return one[:count]
