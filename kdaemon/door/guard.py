"""In front of the doors of a listener: who asks, as somebody else finds out.

The seam between the doors and `access.py`, which knows keys and users, and which only those import
who have principals. Knows requests and refusals; no key, no user and no right.
Invariant: a request is handed on once, with its principal, or refused once in the form of the door
that it came for.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from kdaemon.base.principal import Principal
from kdaemon.base.refused import Refused
from kdaemon.http import refusals as http
from kdaemon.http.request import HttpHandler, HttpRequest
from kdaemon.wire.refusals import Refusal, refuse

log = logging.getLogger("kdaemon.door")

TOLD_AGAIN_S = 60.0  # between two lines about refusals; ours, 2026-11-28

DENIED = "AccessDeniedException"

Refuse = Callable[[HttpRequest, Refused], object]
"""Answers and counts a request of somebody whom nobody knows."""


class Guard(Protocol):
    """In front of the doors of one listener."""

    def who(self, transport: Any) -> Principal:
        """Who is at the other end of a new connection, as far as the connection tells."""
        ...

    def early(
        self, principal: Principal, query: str, headers: dict[bytes, bytes]
    ) -> http.Refusal | None:
        """Why the body of a request, which is still to come, is not taken in; None: it is."""
        ...

    def check(self, request: HttpRequest, go_on: HttpHandler, turn_away: Refuse) -> None: ...


class Strangers:
    """Counts who was turned away, and tells of them, a line a minute."""

    def __init__(self, wall_seconds: Callable[[], float]) -> None:
        self._wall_seconds = wall_seconds
        self._count = 0  # since the last line
        self._code = ""  # of the last one
        self._told_s = 0.0

    def note(self, code: str) -> None:
        self._count += 1
        self._code = code

    def look(self) -> None:
        """Called once a second."""
        if not self._count:
            return
        now_s = self._wall_seconds()
        if 0 <= now_s - self._told_s < TOLD_AGAIN_S:
            return
        self._told_s = now_s
        log.warning(
            "%d requests or connections were refused, of whoever has not shown who he is; the last"
            " one heard %s",
            self._count,
            self._code,
        )
        self._count = 0


def as_stranger(refused: Refused) -> Refusal:
    """What HTTP tells whoever has not shown who he is: the status that the service has for it, or
    403 where no service has such a case: the other end of a Unix socket.
    """
    is_peer = refused.code == DENIED
    return refuse(refused.code, refused.message, status=403 if is_peer else None)
