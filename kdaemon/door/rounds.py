"""The answers that one connection of lines is owed, in the order in which its blocks came.

Knows how answers look. Must not know a stream or a connection.
Invariants: a record is acknowledged after all records before it on its connection were acknowledged
or refused; each is told once.
Where it sits: intake.py begins a round for each block, handover.py tells what became of its frames,
and session.py writes the answers.
"""

from collections import deque

from kdaemon.base.limits import MIB
from kdaemon.door.admission import DELIVERED, Admission
from kdaemon.wire.rejections import Rejected, encode_acknowledged, encode_rejected

ROUNDS_MAX = 256  # blocks of one connection that wait until they settle; ours, 2026-11-21
# Bytes of such blocks, data + keys; 80 MB/s at 100 ms; ours, 2026-11-21.
UNSETTLED_BYTES_MAX = 8 * MIB


class Round:
    """One block of lines. The client hears of it when it and all blocks before it have settled."""

    __slots__ = ("acknowledged", "admissions", "byte_count", "open", "rejected")

    def __init__(self) -> None:
        self.open = 0  # frames that wait to be submitted or settled
        self.acknowledged = 0  # records that will be told as acknowledged
        self.byte_count = 0
        self.rejected: list[Rejected] = []  # records that were admitted, and not delivered
        self.admissions: list[Admission] = []  # admissions of its frames that the client waits for

    def close_one(self) -> None:
        """One of the round's frames has settled, or was refused."""
        self.open -= 1
        # The frames refer to this round: without the cycle no garbage collection is needed.
        if not self.open:
            self.admissions.clear()


class Rounds:
    """The rounds of one connection. `is_full` at ROUNDS_MAX rounds or UNSETTLED_BYTES_MAX bytes."""

    __slots__ = ("_acknowledged", "_rounds", "_told", "_unsettled_bytes")

    def __init__(self) -> None:
        self._rounds: deque[Round] = deque()
        self._unsettled_bytes = 0
        self._acknowledged = 0  # records, told or about to be told
        self._told = 0

    def __bool__(self) -> bool:
        """The client is owed something."""
        return bool(self._rounds)

    @property
    def is_full(self) -> bool:
        """No more input is to be parsed before a round has settled."""
        return len(self._rounds) >= ROUNDS_MAX or self._unsettled_bytes >= UNSETTLED_BYTES_MAX

    @property
    def has_answer(self) -> bool:
        """The oldest round has settled."""
        return bool(self._rounds) and not self._rounds[0].open

    @property
    def wait_for_delivery(self) -> bool:
        """The client waits for the delivery of records that are in memory alone."""
        return any(
            each.frame.acknowledge is DELIVERED
            for a_round in self._rounds
            for each in a_round.admissions
        )

    def begin(self, a_round: Round) -> None:
        """Puts a round behind all others."""
        self._rounds.append(a_round)

    def admitted(self, a_round: Round, admission: Admission, byte_count: int) -> None:
        """Notes an admission of the round for which the client waits."""
        a_round.byte_count += byte_count
        a_round.admissions.append(admission)
        self._unsettled_bytes += byte_count

    def withdraw(self) -> None:
        """The client has gone: withdraws all admissions that have not settled."""
        for a_round in self._rounds:
            for admission in a_round.admissions:
                admission.withdraw()

    def take_answers(self) -> bytes:
        """The bytes to write now: all that has settled, in order. Empty if nothing is new."""
        answers: list[bytes] = []
        while self.has_answer:
            a_round = self._rounds.popleft()
            self._unsettled_bytes -= a_round.byte_count
            self._acknowledged += a_round.acknowledged
            a_round.rejected.sort(key=lambda rejected: rejected.line)
            answers += map(encode_rejected, a_round.rejected)
        if self._acknowledged > self._told:
            self._told = self._acknowledged
            answers.append(encode_acknowledged(self._told))
        return b"".join(answers)
