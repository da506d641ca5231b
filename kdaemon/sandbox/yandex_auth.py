"""Which clients Yandex admits: with an IAM token, or with a signature for the region that it
serves.

Pure. Reads only headers; knows nothing of bodies, streams or clocks. A token goes before a
signature, which is not read then. The sandbox knows nobody's secrets: it reads a signature and does
not verify it. A request without either is admitted (a user with curl), unless a test forbids that.
Invariant: no token leaves here again, in no text and no count. Sits between `wire.py`, which asks,
and `scripting.py`, which says what is accepted.

Sources: [YS] ydb-platform/ydb, `http_req.cpp` (`ParseHeaders`, `GetSignature`) and
`auth_actors.cpp`, as read 2026-11-28; not documented for this service.
"""

import re
from collections.abc import Iterable
from enum import Enum

from kdaemon.base.errors import ServiceError
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.payload import refuse
from kdaemon.sandbox.yandex_words import expired_token
from kdaemon.wire.refusals import echo

TOKENS_MAX = 100  # accepted at one time; ours
TOKEN_CHARACTERS_MAX = 8_192  # of each token; ours: today's have some 200
_BEARER = b"Bearer "
_ALGORITHM = b"AWS4-HMAC-SHA256"
_STAMP = re.compile(rb"[0-9]{8}T[0-9]{6}Z")


class Proof(Enum):
    """What a request brought, as the counts name it."""

    TOKEN = "iam_token"  # noqa: S105 - a kind of proof, no password
    SIGNATURE = "signature"
    NOTHING = "nothing"
    REFUSED = "refused"


class Entrance:
    """The accepted tokens; at first any. `counts`: requests by what they brought."""

    __slots__ = ("_accepted", "_is_required", "counts")

    def __init__(self) -> None:
        self._accepted: frozenset[bytes] | None = None  # None: any
        self._is_required = False
        self.counts = dict.fromkeys((proof.value for proof in Proof), 0)

    def accept(self, tokens: Iterable[str] | None, *, is_required: bool = False) -> None:
        """Accepts only these tokens from now on; None: any. `is_required`: a client that sends
        neither a token nor a signature is refused. ValueError if there are too many tokens, or one
        is too long.
        """
        accepted = None if tokens is None else frozenset(each.encode() for each in tokens)
        if accepted is not None and len(accepted) > TOKENS_MAX:
            raise ValueError(f"at most {TOKENS_MAX} tokens can be accepted")
        if any(not 1 <= len(each) <= TOKEN_CHARACTERS_MAX for each in accepted or ()):
            raise ValueError(f"a token has 1 to {TOKEN_CHARACTERS_MAX} characters")
        self._accepted, self._is_required = accepted, is_required

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Raises ServiceError for a client that is not admitted. Header names in lower case."""
        proof = Proof.REFUSED
        try:
            proof = self._proof_in(headers)
        finally:
            self.counts[proof.value] += 1

    def _proof_in(self, headers: dict[bytes, bytes]) -> Proof:
        authorization = headers.get(b"authorization", b"")
        is_bearer = authorization.startswith(_BEARER)
        token = headers.get(b"x-yacloud-subjecttoken") or authorization[len(_BEARER) :] * is_bearer
        if token or is_bearer:
            if not token or (self._accepted is not None and token not in self._accepted):
                raise expired_token()
            return Proof.TOKEN
        if authorization:
            _check_signature(authorization, headers)
            return Proof.SIGNATURE
        if self._is_required:
            text = "Neither Credentials nor IAM token was provided"
            raise refuse("IncompleteSignature", text)
        return Proof.NOTHING


def _check_signature(authorization: bytes, headers: dict[bytes, bytes]) -> None:
    """Checks in the service's order: the form, the region, the date, the key."""
    algorithm, _, rest = authorization.partition(b" ")
    parts = dict(_pair(each) for each in rest.split(b","))
    if algorithm != _ALGORITHM or b"credential" not in parts:
        raise _unreadable()
    key, _, scope = parts[b"credential"].partition(b"/")
    region = scope.split(b"/")[1] if scope.count(b"/") else b""
    expected = YANDEX.region
    if region.decode("latin-1") != expected:
        got = echo(region.decode("latin-1"))
        raise refuse("IncompleteSignature", f"Wrong service region: got {got} expected {expected}")
    signed = parts.get(b"signedheaders", b"").split(b";")
    stamp = headers.get(b"x-amz-date", b"") if b"x-amz-date" in signed else b""
    if not _STAMP.fullmatch(stamp):
        raise refuse("IncompleteSignature", "Failed to parse Signature timestamp")
    if not key:
        raise refuse("MissingAuthenticationToken", "Access key id should be provided")


def _pair(part: bytes) -> tuple[bytes, bytes]:
    name, _, value = part.strip().partition(b"=")
    return name.lower(), value


def _unreadable() -> ServiceError:
    """The proxy's answer to every exception of its reader; the text is ours."""
    return refuse("AccessDeniedException", "The Authorization header can not be parsed")
