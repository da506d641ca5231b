"""What a connection's first line asks for."""

from typing import cast

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Acknowledge
from kdaemon.base.principal import NOBODY
from kdaemon.base.refused import Refused
from kdaemon.door.door import Door
from kdaemon.door.terms import BadTerms, Terms, read_terms
from kdaemon.wire.line_form import ENVELOPE
from kdaemon.wire.lines_read import VALIDATION
from tests.kit.doors import FakeDoor

FORBIDDEN = Refused(RefuseReason.FORBIDDEN, "AccessDeniedException", "no", is_permanent=True)


def read(line: bytes, door: FakeDoor | None = None) -> Terms | BadTerms | None:
    return read_terms(cast("Door", door or FakeDoor()), line, NOBODY)


def test_a_line_with_data_is_one_like_the_others() -> None:
    assert read(b'{"stream":"s","data":"x"}') is None


def test_what_is_asked_for_is_one_value() -> None:
    found = read(b'{"stream":"s","acknowledge":"accepted"}')
    assert found == Terms("s", Acknowledge.ACCEPTED, ENVELOPE)
    assert read(b'{"acknowledge":"accepted"}') == Terms(None, Acknowledge.ACCEPTED)


def test_raw_lines_are_another_form() -> None:
    found = read(b'{"stream":"s","lines":"raw"}')
    assert isinstance(found, Terms)
    assert found.form.is_raw


@pytest.mark.parametrize(
    "line", [b'{"lines":"raw"}', b'{"partition_key_field":"a"}', b'{"stream_field":"a"}']
)
def test_raw_lines_need_a_stream(line: bytes) -> None:
    found = read(line)
    assert isinstance(found, BadTerms)
    assert (found.code, found.forbidden) == (VALIDATION, None)
    assert "name no stream" in found.message


def test_what_the_door_refuses_is_the_fault_of_the_line_unless_it_is_forbidden() -> None:
    unknown = read(b'{"stream":"unknown"}')
    assert isinstance(unknown, BadTerms)
    assert unknown.forbidden is None

    class Closed(FakeDoor):
        def limits_of(self, *_: object) -> Refused:
            return FORBIDDEN

    denied = read(b'{"stream":"s"}', Closed())
    assert denied == BadTerms(FORBIDDEN.code, FORBIDDEN.message, FORBIDDEN)
