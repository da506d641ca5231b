"""The door as a connection of lines sees it: the methods of `door.py` that such a connection calls.

A seam: tests of connections use a scripted door (tests/kit/doors.py), also in the compiled build,
where a parameter takes its declared class alone. door.py describes each method. Pure.
Where it sits: session.py and its parts ask, `door.py` answers.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from kdaemon.base.frame import Acknowledge
from kdaemon.base.principal import Principal
from kdaemon.base.refused import Refused
from kdaemon.door.admission import Admission, OnSettled
from kdaemon.door.line_forms import Asked
from kdaemon.wire.limits import Put, PutLimits
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.line_shapes import Parsed


class LineDoor(Protocol):
    def admit(
        self,
        spelling: str,
        put: Put,
        asked: Acknowledge | None,
        on_settled: OnSettled,
        client: int,
        principal: Principal,
        *,
        is_patient: bool = False,
    ) -> Admission | Refused | None: ...

    def when_room(self, spelling: str, callback: Callable[[], object]) -> None: ...

    def limits_of(
        self, spelling: str, asked: Acknowledge | None, principal: Principal
    ) -> PutLimits | Refused: ...

    def line_form(self, spelling: str, asked: Asked) -> LineForm | Refused: ...

    def is_waited_for(
        self, spelling: str, asked: Acknowledge | None, principal: Principal
    ) -> bool: ...

    def untold_promise(self, spelling: str) -> Acknowledge: ...

    def has_synonyms(self, spellings: Iterable[str | None]) -> bool: ...

    def refuse(
        self, spelling: str | None, refused: Refused, record_count: int, byte_count: int
    ) -> None: ...

    def refuse_unread(
        self,
        spelling: str | None,
        record_count: int,
        byte_count: int = 0,
        *,
        principal: Principal,
    ) -> None: ...

    def note_raw(self, spelling: str, parsed: Parsed, principal: Principal) -> None: ...
