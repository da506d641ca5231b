"""Where the token of an answer leads: to the next page of a list, or the next records of a shard.

A request with a token names no stream. It belongs where the request before it went: to the same
upstream, to the region and host of the stream's ARN, and to the clients that may ask about that
stream. Knows the members that hold tokens; must not know who may ask what (the door).
Invariant: at most TRAILS_MAX tokens are known, each as a digest. Beyond that, a token of the stream
with the most tokens is forgotten: first those that were used already, then the oldest. So a client
that asks for tokens without end takes none from others. A request with a forgotten token is treated
as one that names no stream.
Where it sits: `relay.py` notes answers here, and asks for each request that has a token.
"""

import re
from collections import OrderedDict
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from kdaemon.base.limits import KIB, MIB

TRAILS_MAX: Final = 8_192
"""Ours, 2026-11-28: 1.5 MiB. Tokens and iterators are good for 5 minutes [M]; a consumer goes from
one to the next, so this is enough for as many shards."""

READ_BYTES_MAX: Final = MIB  # of an answer that is parsed whole: 1 ms; ours
EDGE_BYTES: Final = 8 * KIB  # of a larger answer: its beginning and its end are searched; ours
_TOKEN: Final = re.compile(rb'"(?:NextShardIterator|NextToken)"\s{0,8}:\s{0,8}"([^"\\]{1,4096})"')


class _Tokens(msgspec.Struct, rename="pascal"):
    next_token: str | None = None
    shard_iterator: str | None = None
    next_shard_iterator: str | None = None


_decode: Final = msgspec.json.Decoder(_Tokens).decode


class Trail(NamedTuple):
    """`spellings`: the names of the stream; (): the token is not of one stream. `arn`: the spelling
    that is an ARN and that the client used, if any. `family`: the operations that take the token.
    """

    family: str
    spellings: tuple[str, ...]
    arn: str | None


class Trails:
    """The known tokens of one upstream."""

    def __init__(self) -> None:
        self._trails: dict[bytes, Trail] = {}
        self._of_streams: dict[tuple[str, ...], OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        """How many tokens are known."""
        return len(self._trails)

    def note(self, answer: bytes, trail: Trail, used: str | None = None) -> None:
        """Notes the tokens of a success. `used`: the token of its request, which is forgotten first
        from now on if the answer has another one.
        """
        for token in _tokens_in(answer):
            key = sha256(token).digest()
            self._forget(key)
            self._trails[key] = trail
            self._of_streams.setdefault(trail.spellings, OrderedDict())[key] = None
            if len(self._trails) > TRAILS_MAX:
                most = max(self._of_streams.values(), key=len)
                self._forget(next(iter(most)))
            if used is not None:  # not at once: its client may not get the answer, and ask again
                self._let_go_first(sha256(used.encode()).digest())

    def find(self, token: str) -> Trail | None:
        """Where the token leads; None: nobody knows."""
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
