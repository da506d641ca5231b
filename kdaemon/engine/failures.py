"""What failed of late, by the code that the service, or the way to it, gave: counts, last words.

About: for those who look, so that an error that came and went can still be read. Decides nothing;
nobody in the engine reads it. Messages are kept as they are, so they may hold what is not to be
shown: whoever shows one cleans it.
Bound: CODES_MAX codes of a stream, those that came last; what is kept of a message is
MESSAGE_CHARACTERS_MAX. A code that makes room takes its counts along: `counters.failures` has all.
Cost: nothing while calls succeed; of a record that failed alone, a look in a dictionary.
Flow: engine.py, settlement.py -> here -> snapshot.py.
"""

from dataclasses import dataclass

import msgspec

CODES_MAX = 8  # of one stream; ours, 2026-11-28: a service answers with two or three
MESSAGE_CHARACTERS_MAX = 1000  # three times what is shown, so that no secret is cut in two; ours
CODE_CHARACTERS_MAX = 100  # ours: the longest known has 38


class FailureSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One code. `calls`: that failed whole with it; `records`: those of such calls, and those that
    failed alone. `last_ns`: when, and `message`: the last words.
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
    """Of one stream."""

    __slots__ = ("_of_code",)

    def __init__(self) -> None:
        self._of_code: dict[str, _Failure] = {}  # the one that came last is the last

    def call(self, code: str, message: str, record_count: int, now_ns: int) -> None:
        """A call failed whole."""
        failure = self._see(code, message, now_ns)
        failure.calls += 1
        failure.records += record_count

    def record(self, code: str, message: str, now_ns: int) -> None:
        """A record of an answered call failed."""
        failure = self._of_code.get(code)
        if failure is None or failure.last_ns != now_ns:  # else one of many of the same answer
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

    def snapshot(self) -> tuple[FailureSnapshot, ...]:
        """The one that came last first."""
        return tuple(
            FailureSnapshot(code, each.message, each.calls, each.records, each.last_ns)
            for code, each in reversed(self._of_code.items())
        )
