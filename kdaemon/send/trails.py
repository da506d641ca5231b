"""Where a token leads that an answer gave: the next page of a list, the next records of a shard.

Such a request names no stream, and belongs where the one before it went: to the same upstream, to
the region and host of the stream's ARN, and to who may ask about that stream. Knows the members
that hold tokens; must not know who may ask what (the door).
Invariant: TRAILS_MAX tokens are known, each as a digest; then one is forgotten of the stream that
has most of them, first those that led on already, then the oldest: who asks for tokens without end
takes none from others. What is forgotten goes where requests go that name no stream.
Where it sits: `relay.py` notes answers here, and asks for each request that has a token.
"""

import re
from collections import OrderedDict
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from kdaemon.base.limits import KIB, MIB

TRAILS_MAX: Final = 8_192
"""Ours, 2026-11-28: 1.5 MiB. Tokens and iterators live 5 minutes [M]; a consumer goes from one to
the next, so that this is enough for as many shards."""

READ_BYTES_MAX: Final = MIB  # of an answer that is read whole: 1 ms; ours
EDGE_BYTES: Final = 8 * KIB  # of a larger one: its beginning and its end are looked at; ours
_TOKEN: Final = re.compile(rb'"(?:NextShardIterator|NextToken)"\s{0,8}:\s{0,8}"([^"\\]{1,4096})"')


class _Tokens(msgspec.Struct, rename="pascal"):
    next_token: str | None = None
    shard_iterator: str | None = None
    next_shard_iterator: str | None = None


_decode: Final = msgspec.json.Decoder(_Tokens).decode


class Trail(NamedTuple):
    """`spellings`: what the stream is called by; (): of no stream alone. `arn`: the one of these by
    which it was asked for, if any. `family`: of operations that take the token.
    """

    family: str
    spellings: tuple[str, ...]
    arn: str | None


class Trails:
    """Of one daemon."""

    __slots__ = ("_of_streams", "_trails")

    def __init__(self) -> None:
        self._trails: dict[bytes, Trail] = {}
        self._of_streams: dict[tuple[str, ...], OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        """Tokens that are known."""
        return len(self._trails)

    def note(self, answer: bytes, trail: Trail, used: str | None = None) -> None:
        """A success. `used`: the token of its request, which led on if the answer has another."""
        for token in _tokens_in(answer):
            key = sha256(token).digest()
            self._forget(key)
            self._trails[key] = trail
            self._of_streams.setdefault(trail.spellings, OrderedDict())[key] = None
            if len(self._trails) > TRAILS_MAX:
                most = max(self._of_streams.values(), key=len)
                self._forget(next(iter(most)))
            if used is not None:  # last: its client may not have the answer, and ask again
                self._let_go_first(sha256(used.encode()).digest())

    def find(self, token: str) -> Trail | None:
        return self._trails.get(sha256(token.encode()).digest()) if self._trails else None

    def _let_go_first(self, key: bytes) -> None:
        trail = self._trails.get(key)
        if trail is not None:
            self._of_streams[trail.spellings].move_to_end(key, last=False)

    def _forget(self, key: bytes) -> None:
        trail = self._trails.pop(key, None)
        if trail is not None:
            keys = self._of_streams[trail.spellings]
            del keys[key]
            if not keys:
                del self._of_streams[trail.spellings]


def _tokens_in(answer: bytes) -> list[bytes]:
    if len(answer) > READ_BYTES_MAX:
        return _TOKEN.findall(answer[:EDGE_BYTES]) + _TOKEN.findall(answer[-EDGE_BYTES:])
    try:
        found = _decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    tokens = found.next_token, found.shard_iterator, found.next_shard_iterator
    return [token.encode() for token in tokens if token]
