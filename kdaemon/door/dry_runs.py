"""Dry runs: the service is asked what would become of records, and writes none.

Knows streams. Must not know a wire form or a connection.
Invariants: the records of a dry run are refused in every case, and counted once. Their memory is
taken until the service has answered.
Where it sits: kinesis.py -> here -> streams; the door has one.
"""

from collections.abc import Callable

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.names import parse_arn
from kdaemon.base.principal import Principal
from kdaemon.base.refused import Refused
from kdaemon.door.admission import NO_ROOM
from kdaemon.door.checks import check, refuse_all
from kdaemon.streams import Stream
from kdaemon.wire.limits import Put

DRY_RUNS_MAX = 64
"""Dry runs that are at the service at a time, of all clients together. Ours, 2026-11-28: each takes
a connection to the service for itself, and 16 clients had 1,024 of them."""

TOO_MANY = Refused(
    RefuseReason.FULL,
    "ProvisionedThroughputExceededException",
    f"{DRY_RUNS_MAX} dry runs are on their way already. Try again later.",
    is_permanent=False,
)


class DryRuns:
    """All of the daemon."""

    def __init__(
        self, door: StreamCounters, find: Callable[[Principal, str], Stream | Refused]
    ) -> None:
        """`door`: counts records of no stream. `find`: the stream of a spelling, if this client
        certainly has a right to it.
        """
        self._door = door
        self._find = find
        self._count = 0  # at the service now

    def ask(
        self,
        spelling: str,
        put: Put,
        told: Callable[[ServiceError], object],
        principal: Principal,
    ) -> Refused | None:
        """Asks the service what would become of these records, and has `told` called with the
        answer; or says why the service is not asked. DRY_RUNS_MAX at a time.
        """
        stream = self._find(principal, spelling)
        if isinstance(stream, Refused):
            return refuse_all(self._door, put, stream)
        refused = check(stream, put, None)
        if refused is None and not stream.service.answers_dry_run:
            text = f"Unexpected json key: DryRun. {stream.service.title} has no dry run."
            code = "InvalidArgumentException"
            refused = Refused(RefuseReason.INVALID, code, text, is_permanent=True)
        taken_bytes = frame_footprint_bytes(len(put.sizes), put.byte_count)
        if refused is None and self._count >= DRY_RUNS_MAX:
            refused = TOO_MANY
        memory = stream.memory  # kept: a reload may give the stream another budget
        if refused is None and not memory.take(taken_bytes):
            refused = NO_ROOM
        reason = RefuseReason.DRY_RUN if refused is None else refused.reason
        stream.refuse(reason, len(put.sizes), put.byte_count)
        if refused is not None:
            return refused

        self._count += 1

        def answered(error: ServiceError) -> None:
            self._count -= 1
            memory.give(taken_bytes)
            told(error)

        arn = parse_arn(spelling)
        stream.dry_run(put.records, answered, None if arn is None else arn.text)
        return None
