"""The latest failures, by the code that the service, or the way to the service, gave: counts,
messages.

They are for observers, so that an error that came and went can still be read, and for the words of
records that expire. Decides nothing. Messages are kept as they are, so they may hold text that must
not be shown: a room that shows a message cleans it first.
Bound: CODES_MAX codes of a stream, those that came last; MESSAGE_CHARACTERS_MAX characters of a
message. A code that makes room takes its counts along: `counters.failures` has all.
Cost: nothing while calls succeed; one dictionary lookup for a record that failed alone.
Flow: engine.py, settlement.py -> here -> snapshot.py.
"""

from dataclasses import dataclass

import msgspec

CODES_MAX = 8  # of one stream; ours, 2026-11-28: a service answers with two or three
MESSAGE_CHARACTERS_MAX = 1000  # three times the shown part, so that no secret is cut in two; ours
CODE_CHARACTERS_MAX = 100  # ours: the longest known code has 38


class FailureSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The failures with one code. `calls`: calls that failed whole; `records`: records of such
    calls, and records that failed alone. `last_ns`: time of the last failure, and `message`: its
    message.
    """

    code: str
    message: str
    calls: int
    records: int
    last_ns: int


@dataclass(slots=True)
class _Failure:
    message: str = ""
    calls: int = 0
    records: int = 0
    last_ns: int = 0


class Failures:
    """The latest failures of one stream."""

    __slots__ = ("_of_code",)

    def __init__(self) -> None:
        self._of_code: dict[str, _Failure] = {}  # in the order in which each code last came

    def call(self, code: str, message: str, record_count: int, now_ns: int) -> None:
        """A call failed whole."""
        failure = self._see(code, message, now_ns)
        failure.calls += 1
        failure.records += record_count

    def record(self, code: str, message: str, now_ns: int) -> None:
        """A record of an answered call failed."""
        failure = self._of_code.get(code)
        if failure is None or failure.last_ns != now_ns:  # else: another record of the same answer
            failure = self._see(code, message, now_ns)
        failure.records += 1

    def _see(self, code: str, message: str, now_ns: int) -> _Failure:
        code = code[:CODE_CHARACTERS_MAX]
        failure = self._of_code.pop(code, None)
        if failure is None:
            failure = _Failure()
            if len(self._of_code) >= CODES_MAX:
                del self._of_code[next(iter(self._of_code))]
        self._of_code[code] = failure
        failure.message = message[:MESSAGE_CHARACTERS_MAX]
        failure.last_ns = now_ns
        return failure

    @property
    def last(self) -> FailureSnapshot | None:
        """The failure that came last; None: nothing has failed."""
        return next(iter(self.snapshot()), None)

    def snapshot(self) -> tuple[FailureSnapshot, ...]:
        """One entry for each code; the code that came last is first."""
        return tuple(
            FailureSnapshot(code, each.message, each.calls, each.records, each.last_ns)
            for code, each in reversed(self._of_code.items())
        )
