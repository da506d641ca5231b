"""The guard of a listener: what the doors need to have each request's sender known.

A seam between the doors and `access.py`. Only a configuration with principals imports `access.py`,
which knows keys and users. Knows requests and refusals. Must not know a key, a user or a right.
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

TOLD_AGAIN_S = 60.0  # seconds between two log lines about refusals; ours, 2026-11-28

DENIED = "AccessDeniedException"

Refuse = Callable[[HttpRequest, Refused], object]
"""Answers and counts a request whose sender is unknown."""


class Guard(Protocol):
    """Stands in front of the doors of one listener."""

    def who(self, transport: Any) -> Principal:
        """The principal at the other end of a new connection, as far as the connection tells it."""
        ...

    def early(
        self, principal: Principal, query: str, headers: dict[bytes, bytes]
    ) -> http.Refusal | None:
        """Why the body of a request, which is still to come, is not read; None: it is read."""
        ...

    def check(self, request: HttpRequest, go_on: HttpHandler, turn_away: Refuse) -> None: ...


class Strangers:
    """Counts requests and connections that were refused because their sender is unknown, and logs
    the count, at most once a minute.
    """

    def __init__(self, wall_seconds: Callable[[], float]) -> None:
        self._wall_seconds = wall_seconds
        self._count = 0  # since the last log line
        self._code = ""  # with which the last one was refused
        self._told_s = 0.0

    def note(self, code: str) -> None:
        """Counts a request or a connection that was refused with this code."""
        self._count += 1
        self._code = code

    def look(self) -> None:
        """Logs what was counted, unless the last line is less than TOLD_AGAIN_S old. Called once a
        second.
        """
        if not self._count:
            return
        now_s = self._wall_seconds()
        if 0 <= now_s - self._told_s < TOLD_AGAIN_S:
            return
        self._told_s = now_s
        text = "requests or connections were refused, of whoever has not shown who he is"
        fields = {"refused": self._count, "last_code": self._code}
        log.warning(text, extra={"fields": fields})
        self._count = 0


def as_stranger(refused: Refused) -> Refusal:
    """The refusal that HTTP gives to an unknown sender: with the service's status for its code, or
    403 at a Unix socket, for which the service has no code.
    """
    is_peer = refused.code == DENIED
    return refuse(refused.code, refused.message, status=403 if is_peer else None)
