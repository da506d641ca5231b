"""Authentication in front of the doors: who sends a request, found out from its head alone.

A listener asks for nothing, or for a signature on each request (`Signed`), or for the user at the
other end of each connection (`Peers`). Cheap checks come first: the key id before the clock, and
both before the body is hashed. If the body takes more than one read, both also come before the body
is taken in. The signature is checked before the body is parsed. A large body is hashed one piece in
each turn of the loop.
Knows requests, keys and users. Must not know records, nor rights to a stream: `door.py` checks
those.
Invariants: a request is handed on once, with its principal, or refused once in the form of the door
that it came for. Lines on a listener whose requests are signed have no known principal, because a
line cannot be signed. The log has at most one line a minute about refusals.

A signature is valid for five minutes, and may be used again in that time: SDKs sign two equal
requests of one second alike, so kdaemon cannot tell a second request from a recorded copy of the
first. Use TLS to be safe from recorded copies.
"""

import socket
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from kdaemon.base.counters import RefuseReason
from kdaemon.base.limits import MIB
from kdaemon.base.principal import NOBODY, Principal, Rights
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.door.guard import DENIED, Refuse, Strangers
from kdaemon.door.principals import Principals, SignedBy
from kdaemon.http import refusals as http
from kdaemon.http.request import HttpHandler, HttpRequest
from kdaemon.http.transports import peer_of
from kdaemon.http.turns import Later, work_in_turns
from kdaemon.wire.claim import MISMATCH, UNKNOWN_KEY, Claim, check_time, read_claim
from kdaemon.wire.refusals import Refusal
from kdaemon.wire.signature import check_payload, is_signed_with

HASHED_AT_ONCE_BYTES = MIB  # bytes of a body hashed in one turn, 0.5 to 3 ms; ours, 2026-11-28

UNSIGNED = Principal(
    "nobody",
    Rights(),
    'Lines cannot be signed, and this listener asks for signatures (auth.http = "sigv4"): put'
    " records over HTTP, or lines through the Unix socket.",
)


class Signed:
    """Guard of a listener whose requests are each signed with a key of the principals."""

    def __init__(
        self,
        principals: Principals,
        strangers: Strangers,
        wall_seconds: Callable[[], float],
        later: Later,
    ) -> None:
        """`later`: schedules the turns in which the rest of a large body is hashed."""
        self._principals = principals
        self._strangers = strangers
        self._wall_seconds = wall_seconds
        self._later = later

    def who(self, _: Any) -> Principal:
        """Nobody yet: each request shows who sends it, and a line cannot."""
        return UNSIGNED

    def early(self, _: Principal, query: str, headers: dict[bytes, bytes]) -> http.Refusal | None:
        """Why the head alone is refused: the form of its signature, its key id or its time.
        Counted.
        """
        found = self._glance(query, headers)
        if not isinstance(found, Refusal):
            return None
        self._strangers.note(found.code)
        return http.Refusal(
            "unauthenticated", found.status, found.code, found.message or found.code
        )

    def _glance(self, query: str, headers: dict[bytes, bytes]) -> tuple[Claim, SignedBy] | Refusal:
        """Checks what the head alone shows: the form of the signature, its key id and its time."""
        claim = read_claim(query, headers)
        if isinstance(claim, Refusal):
            return claim
        signed_by = self._principals.keys.get(claim.key_id)
        if signed_by is None:
            return UNKNOWN_KEY
        return check_time(claim, int(self._wall_seconds())) or (claim, signed_by)

    def check(self, request: HttpRequest, go_on: HttpHandler, turn_away: Refuse) -> None:
        """Hands the request on with its principal, once its signature is checked."""
        found = self._glance(request.query, request.headers)
        if isinstance(found, Refusal):
            self._refuse(request, found, turn_away)
            return
        claim, signed_by = found
        body = request.body
        if len(body) > HASHED_AT_ONCE_BYTES:
            steps = self._hash(request, claim, signed_by, go_on, turn_away)
            work_in_turns(request, steps, self._later)
            return
        self._end(request, claim, signed_by, sha256(body).hexdigest(), go_on, turn_away)

    def _hash(
        self,
        request: HttpRequest,
        claim: Claim,
        signed_by: SignedBy,
        go_on: HttpHandler,
        turn_away: Refuse,
    ) -> Steps[HttpHandler]:
        """Hashes a large body, one piece in each turn. Returns the last step: checking the
        signature.
        """
        body = request.body  # when the client goes, `request.body` is dropped; this reference stays
        digest = sha256()
        rest = memoryview(body)
        while rest:
            digest.update(rest[:HASHED_AT_ONCE_BYTES])
            rest = rest[HASHED_AT_ONCE_BYTES:]
            yield

        def end(request: HttpRequest) -> None:
            request.body = body
            self._end(request, claim, signed_by, digest.hexdigest(), go_on, turn_away)

        return end

    def _end(
        self,
        request: HttpRequest,
        claim: Claim,
        signed_by: SignedBy,
        body_hash: str,
        go_on: HttpHandler,
        turn_away: Refuse,
    ) -> None:
        headers = request.headers
        refusal = check_payload(headers, body_hash)
        if refusal is not None:
            self._refuse(request, refusal, turn_away)
        elif not is_signed_with(
            signed_by.key, claim, request.method, request.path, headers, body_hash
        ):
            self._refuse(request, MISMATCH, turn_away)
        else:
            request.principal = signed_by.principal
            go_on(request)

    def _refuse(self, request: HttpRequest, refusal: Refusal, turn_away: Refuse) -> None:
        self._strangers.note(refusal.code)
        turn_away(request, _unauthenticated(refusal.code, refusal.message or refusal.code))


class Peers:
    """Guard of a Unix socket: each connection belongs to a user of this system, the one that the
    kernel tells by SO_PEERCRED (the user at the time of connecting). The daemon's own user and root
    need a principal as all other users do.
    """

    def __init__(self, principals: Principals, strangers: Strangers) -> None:
        self._principals = principals
        self._strangers = strangers

    def who(self, transport: Any) -> Principal:
        """The user at the other end, as the kernel tells; NOBODY if it does not. Strangers are
        counted.
        """
        sock = transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return NOBODY
        try:
            _, uid, gid = peer_of(sock)
        except OSError:
            return NOBODY
        principal = self._principals.peer(uid, gid)
        if not principal.is_known:
            self._strangers.note(DENIED)
        return principal

    def early(
        self, principal: Principal, _query: str, _headers: dict[bytes, bytes]
    ) -> http.Refusal | None:
        """Why a stranger is refused; None: the user is known."""
        why = principal.why_unknown
        return http.Refusal("unauthenticated", 403, DENIED, why) if why else None

    def check(self, request: HttpRequest, go_on: HttpHandler, turn_away: Refuse) -> None:
        """Hands the request of a known user on."""
        principal = request.principal
        if principal.is_known:
            go_on(request)
        else:
            turn_away(request, _unauthenticated(DENIED, principal.why_unknown))


def _unauthenticated(code: str, message: str) -> Refused:
    return Refused(RefuseReason.UNAUTHENTICATED, code, message, is_permanent=True)
