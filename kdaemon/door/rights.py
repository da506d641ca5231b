"""Who may write to a stream, and ask the service about it.

A principal's rights name streams by any spelling; `streams/spellings.py` knows all names of a
stream. Must not know a request, a record or an answer.
Invariant: no stream is opened here, and nobody learns from a refusal whether a stream exists.
Where it sits: door.py asks before it takes records, passthrough.py before it asks the service.
"""

from collections.abc import Iterable

from kdaemon.base.counters import RefuseReason
from kdaemon.base.names import Qualified
from kdaemon.base.principal import ANYBODY, Principal
from kdaemon.base.refused import Refused
from kdaemon.streams.spellings import Spellings


class StreamRights:
    """Of the streams of one daemon."""

    def __init__(self, spellings: Spellings) -> None:
        self._spellings = spellings

    def refusal_to_look(
        self, spellings: Iterable[str], principal: Principal, operation: str
    ) -> Refused | None:
        """Why a client may not ask the service about streams; None: it may. `spellings`: all
        spellings in the request. A client that may write to a stream may ask about it.
        """
        for spelling in spellings:
            refused = self.forbid(principal, spelling, is_certain=True, operation=operation)
            refused = refused or self._spellings.refusal_to_look(spelling)
            if refused is not None:
                return refused
        return None

    def place_of(self, spellings: Iterable[str]) -> Qualified | Refused | None:
        """The upstream of the stream that a request names, and the stream's name there; None: the
        request names none. `spellings`: all in the request, after `refusal_to_look` has allowed
        them.
        """
        found: Qualified | None = None
        for spelling in spellings:
            place = self._spellings.place(spelling)
            if isinstance(place, Refused):
                return place
            if found is not None and place.upstream != found.upstream:
                text = "StreamName and StreamARN are of two upstreams of kdaemon: name the one."
                code = "InvalidArgumentException"
                return Refused(RefuseReason.INVALID, code, text, is_permanent=True)
            found = found or place
        return found

    def refusal_to_go_on(
        self, spellings: Iterable[str], principal: Principal, operation: str
    ) -> Refused | None:
        """As `refusal_to_look`, about the stream of a token. The text does not name the stream."""
        for spelling in spellings:
            if self.forbid(principal, spelling, is_certain=True, operation=operation) is not None:
                return _forbidden(principal, operation, "the stream that this token is of")
        return None

    def refusal_to_list(self, principal: Principal, operation: str) -> Refused | None:
        """Why a client may not ask about everything in the account; None: it may. A client that may
        write to some streams only does not hear of others.
        """
        if principal.rights.are_all:
            return None
        return _forbidden(principal, operation, "the streams of the account")

    def forbid(
        self,
        principal: Principal,
        spelling: str,
        *,
        is_certain: bool = False,
        operation: str = "PutRecords",
    ) -> Refused | None:
        """Why this principal may not write to a stream; None: it may. Opens no stream. A spelling
        that cannot be a stream's name is not forbidden, because there is nothing to write to.
        `is_certain`: for an ARN that may be another account's, only a right to that ARN counts, not
        a right to the name.
        """
        if principal is ANYBODY:
            return None
        names = self._spellings.names(spelling, is_certain=is_certain)
        if not names or principal.rights.cover(names):
            return None
        if is_certain and principal.rights.cover(self._spellings.names(spelling, is_certain=False)):
            spelling += (
                ". kdaemon does not know whose account that is: call the stream by its name, or"
                " have the operator of kdaemon set account_id"
            )
        return _forbidden(principal, operation, spelling)


def _forbidden(principal: Principal, operation: str, what: str) -> Refused:
    return Refused(
        RefuseReason.FORBIDDEN,
        "AccessDeniedException",
        f"User: {principal.name} is not authorized to perform: kinesis:{operation} on resource:"
        f" {what}",
        is_permanent=True,
    )
