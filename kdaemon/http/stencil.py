"""A head with holes: the next head of a connection is held against the ones before.

A client sends the same lines with each request, and in a few of them another value: a date, a
signature, a number. What stays the same is compared byte by byte; what stands in a hole is looked
at character by character. Pure. Knows no parser, no body and no connection.
Invariant: what fits is exactly a head that the parser would take, with the same names in the same
order, the same request line, Host and Connection; a value that differs has only characters that
every parser takes for a part of it. What does not fit is not judged here: the parser reads it.
Where it sits: heads.py cuts a stencil out of heads that the parser has read and that were let in;
reader.py holds the next ones against it.
"""

import re
from typing import Final

from kdaemon.http.head import LENGTH_DIGITS_MAX

# What decides who is let in, or how long the connection stays: never in a hole.
_FIXED = frozenset({b"host", b"connection"})

_LENGTH: Final = b"content-length"

# A value, or the rest of one: printable, no blank at either end. The parser takes more.
_PLAIN: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?")

# No further is looked where a value ends: a head that is kept is not longer (heads.py).
_VALUE_BYTES_MAX: Final = 4 * 1024


class Hole:
    """Where the value of `name` differs, behind its `start`, which does not. `after`: what follows,
    up to the next hole. `byte_count`: of what stood in it last.
    """

    __slots__ = ("after", "byte_count", "name", "start")

    def __init__(self, name: bytes, start: bytes, byte_count: int, after: bytes) -> None:
        self.name = name
        self.start = start
        self.byte_count = byte_count
        self.after = after


class Stencil:
    """`end`, `body_bytes`: of the head that was read last, where it ends in its data, and how long
    its body is. `headers`: of the heads that it was cut from; what stands in holes is left out.
    """

    __slots__ = ("body_bytes", "end", "first", "headers", "holes", "is_length_fixed")

    def __init__(self, first: bytes, headers: dict[bytes, bytes], holes: list[Hole]) -> None:
        """`first`: what comes before the first hole."""
        self.first = first
        self.headers = headers
        self.holes = holes
        self.end = 0
        length = headers.get(_LENGTH, b"0")
        self.is_length_fixed = length != b""
        self.body_bytes = int(length or b"0")

    def read(self, data: bytes, at: int) -> dict[bytes, bytes] | None:
        """The headers of the head that begins at `at`, if it fits."""
        first = self.first
        end = at + len(first)
        if data[at:end] != first:
            return None
        headers = self.headers.copy()
        for hole in self.holes:
            after = hole.after
            at, end = end, end + hole.byte_count
            stop = end + len(after)
            if data[end:stop] != after:  # another length, or no such head
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
    """Whether no parser takes a value for anything else. Ids of letters, digits and dashes are the
    commonest, and known in a quarter of the time.
    """
    return value.replace(b"-", b"").isalnum() or _PLAIN.fullmatch(value) is not None


def cut(head: bytes, headers: dict[bytes, bytes], before: Stencil | None) -> Stencil | None:
    """What this head has in common with those that `before` was cut from, if they have the same
    names in the same order. None: a name stands there more than once.
    """
    starts = _starts(headers, before)
    if not starts:
        return Stencil(head, headers.copy(), [])
    places: list[tuple[bytes, int, int]] = []  # of holes: name, from, to
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
    """The names whose values differ, each with what its values begin with."""
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
    """Up to where a word begins: what two signatures have in common is chance."""
    count = 0
    for a, b in zip(one, other):  # noqa: B905 - one may be shorter
        if a != b:
            break
        count += 1
    while count and one[count - 1 : count].isalnum():
        count -= 1
    return one[:count]
