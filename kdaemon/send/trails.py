"""Where a token leads that an answer gave: the next page of a list, the next records of a shard.

Such a request names no stream, and belongs where the one before it went: to the same upstream, and
to the region and host of the stream's ARN. Knows the members that hold tokens; must not know which
operation takes which.
Invariant: TRAILS_MAX tokens are known, each as a digest and an ARN of at most 250 characters; then
the oldest is forgotten, and goes where requests go that name no stream.
Where it sits: `relay.py` notes answers here, and asks for each request that names no ARN; the door
asks which upstream knows a token.
"""

import re
from collections import OrderedDict
from hashlib import sha256
from typing import Final

import msgspec

from kdaemon.base.limits import KIB, MIB

TRAILS_MAX: Final = 1024  # ours, 2026-11-28: 0.3 MiB; tokens and iterators live 5 minutes [M]
READ_BYTES_MAX: Final = MIB  # of an answer that is read whole: 1 ms; ours
EDGE_BYTES: Final = 8 * KIB  # of a larger one: its beginning and its end are looked at; ours
_TOKEN: Final = re.compile(rb'"(?:NextShardIterator|NextToken)"\s{0,8}:\s{0,8}"([^"\\]{1,4096})"')


class _Tokens(msgspec.Struct, rename="pascal"):
    next_token: str | None = None
    shard_iterator: str | None = None
    next_shard_iterator: str | None = None


_decode: Final = msgspec.json.Decoder(_Tokens).decode


class Trails:
    """Of one daemon."""

    __slots__ = ("_arns",)

    def __init__(self) -> None:
        self._arns: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        """Tokens that are known."""
        return len(self._arns)

    def note(self, answer: bytes, arn: str) -> None:
        """A success, of a request that went where this ARN leads; "": that named none."""
        for token in _tokens_in(answer):
            key = sha256(token).digest()
            self._arns[key] = arn
            self._arns.move_to_end(key)
            if len(self._arns) > TRAILS_MAX:
                self._arns.popitem(last=False)

    def find(self, token: str) -> str | None:
        """The ARN, or ""; None: the token is not known."""
        return self._arns.get(sha256(token.encode()).digest()) if self._arns else None


def _tokens_in(answer: bytes) -> list[bytes]:
    if len(answer) > READ_BYTES_MAX:
        return _TOKEN.findall(answer[:EDGE_BYTES]) + _TOKEN.findall(answer[-EDGE_BYTES:])
    try:
        found = _decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    tokens = found.next_token, found.shard_iterator, found.next_shard_iterator
    return [token.encode() for token in tokens if token]
