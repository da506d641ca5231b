"""The terms by which the lines of a connection are read: their stream, their promise, their form.

A connection's first line may set the terms; on a stream's own socket the configuration does. Asks
the door about the stream. Must not know a connection or its state.
Invariant: what a first line asks for applies to all lines that follow, or the first line is refused
in words; no part of it is ignored.
Where it sits: each connection's intake.py has one `Terms`.
"""

from dataclasses import dataclass

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import RefusedError
from kdaemon.base.frame import Acknowledge
from kdaemon.base.principal import Principal
from kdaemon.base.refused import Refused
from kdaemon.door.line_door import LineDoor
from kdaemon.door.line_forms import Asked
from kdaemon.wire.line_form import ENVELOPE, LineForm
from kdaemon.wire.lines import parse_setup
from kdaemon.wire.lines_read import VALIDATION


@dataclass(frozen=True, slots=True)
class Terms:
    """`stream`: for lines that name none. `acknowledge`: the promise asked for; None: each stream's
    own.
    """

    stream: str | None = None
    acknowledge: Acknowledge | None = None
    form: LineForm = ENVELOPE


NO_TERMS = Terms()  # no terms were set: every line names its stream


@dataclass(frozen=True, slots=True)
class BadTerms:
    """Why a first line is refused. `forbidden`: the refusal, if the client has no right to the
    stream; the line itself is not at fault then.
    """

    code: str
    message: str
    forbidden: Refused | None = None


def read_terms(door: LineDoor, line: bytes, principal: Principal) -> Terms | BadTerms | None:
    """The terms that a first line sets; None: the line is no setup but a record."""
    try:
        setup = parse_setup(line)
    except RefusedError as error:
        return BadTerms(error.code, error.message)
    if setup is None:
        return None
    asked = Asked(setup.lines, setup.partition_key_field, setup.stream_field)
    if setup.stream is not None:
        limits = door.limits_of(setup.stream, setup.acknowledge, principal)
        if isinstance(limits, Refused):
            return _bad(limits)
        form = door.line_form(setup.stream, asked)
        if isinstance(form, Refused):
            return _bad(form)
        return Terms(setup.stream, setup.acknowledge, form)
    if asked.lines == "raw" or asked.partition_key_field or asked.stream_field:
        text = "Raw lines name no stream: the first line has to, in `stream`."
        return BadTerms(VALIDATION, text)
    return Terms(None, setup.acknowledge)


def _bad(refused: Refused) -> BadTerms:
    is_forbidden = refused.reason is RefuseReason.FORBIDDEN
    return BadTerms(refused.code, refused.message, refused if is_forbidden else None)
