"""Sends dead letters through a running daemon again: `kdaemon dead-letters replay`.

A client of the daemon, over the transports of `put/`. Deletes a letter after its record was
acknowledged, never before. Prints nothing.
Invariant: a letter stays in the spool until the daemon has answered for it. If a replay is cut
short after the daemon took a record and before the letter is deleted, the next replay sends that
record again.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from kdaemon.base.errors import ServiceError, SpoolError
from kdaemon.base.names import parse_qualified
from kdaemon.base.verdict import Verdict
from kdaemon.cli.reading import record_line
from kdaemon.cli.way import Way
from kdaemon.put.unix import Block, PutError
from kdaemon.put.waiting import Person, Totals
from kdaemon.settle.verdict import judge_call
from kdaemon.spool.letters import LetterFilter, Letters

BLOCK_LETTERS_MAX = 500  # letters formed and written at once
BLOCK_BYTES_MAX = 2 * 1024 * 1024  # bytes, the same, unless one letter is larger; ours, 2026-11-21
REASONS_MAX = 5  # reasons of letters that were refused again, kept for the summary
DELETED_SHOWN_MAX = 20  # ids named when a deletion fails


@dataclass(slots=True)
class Replayed:
    """The outcome of the letters. `rejected`: refused again, and kept. `damaged`: never sent.
    `may_pass`: some were refused for what ends: a hold, an outage.
    """

    may_pass: bool = False
    sent: int = 0
    deleted: int = 0
    rejected: int = 0
    damaged: int = 0
    reasons: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def open(self) -> int:
        """Letters that were sent and whose outcome nobody knows: they are kept."""
        return self.sent - self.deleted - self.rejected


class _Tally(Totals):
    """The totals of one session. Also tells which letters were refused."""

    def __init__(self, on_rejected: Callable[[int | None, str], object]) -> None:
        super().__init__()
        self._on_rejected = on_rejected

    def reject(self, number: int | None, reason: str, *, is_sent: bool) -> None:
        self.rejected += 1
        self.unsendable += not is_sent
        self._on_rejected(number, reason)


class StreamReplay:
    """Sends the letters of one stream through one session.

    Queue: `_open`, numbers and ids of letters without an answer, in the order in which they were
    sent; bound: what a session of `put/` leaves open; drained by answers.
    """

    def __init__(
        self,
        letters: Letters,
        which: LetterFilter,
        last_id: int,
        replayed: Replayed,
        person: Person,
    ) -> None:
        """`which` names one stream. `last_id`: id of the newest letter to send, so that a letter
        that is buried again meanwhile is not sent twice.
        """
        self._letters = letters
        self._which = which
        self._last_id = last_id
        self._replayed = replayed
        self._person = person
        self._totals = _Tally(self._reject)
        self._open: deque[tuple[int, int]] = deque()  # (number, letter's id)
        self._rejected: set[int] = set()  # numbers of letters that were refused
        self._settled_count = 0  # acknowledged records whose letters were deleted

    async def run(self, way: Way, acknowledge: str) -> None:
        """Sends the letters and deletes those that are acknowledged. Raises PutError if it cannot
        go on; letters that were acknowledged are deleted by then.
        """
        assert self._which.stream is not None
        # The bare name may also be a table of the configuration, for a stream of another upstream.
        stream = parse_qualified(self._which.stream).spelling
        person = replace(self._person, on_progress=self._settle)
        await way.send(stream, acknowledge, self._totals, person, self._blocks())

    async def _blocks(self) -> AsyncIterator[Block]:
        block, block_bytes, number = Block([], []), 0, 0
        try:
            for letter in self._letters.select(self._which):
                if letter.id > self._last_id:
                    break
                if not letter.is_intact:
                    self._replayed.damaged += 1
                    continue
                number += 1
                line = record_line(letter)
                if block.lines and (
                    len(block.lines) == BLOCK_LETTERS_MAX
                    or block_bytes + len(line) > BLOCK_BYTES_MAX
                ):
                    yield self._sending(block)
                    block, block_bytes = Block([], []), 0
                block.lines.append(line)
                block.numbers.append(number)
                block_bytes += len(line)
                self._open.append((number, letter.id))
        except SpoolError as error:
            raise PutError(str(error)) from error
        if block.lines:
            yield self._sending(block)

    def _sending(self, block: Block) -> Block:
        self._replayed.sent += len(block.lines)
        return block

    def _reject(self, number: int | None, reason: str) -> None:
        if number is None:  # then no acknowledgement could be matched with its letter
            raise PutError(f"the daemon rejects a record that was not sent: {reason}")
        self._rejected.add(number)
        code, _, message = reason.partition(": ")
        verdict = judge_call(ServiceError(code, message, status=400))
        self._replayed.may_pass |= verdict is not Verdict.POISON
        self._replayed.rejected += 1
        if len(self._replayed.reasons) < REASONS_MAX:
            letter_id = next(each for at, each in self._open if at == number)
            self._replayed.reasons.append(f"letter {letter_id}: {reason}")

    def _settle(self) -> None:
        """Deletes the letters that were acknowledged. The daemon acknowledges a number of records:
        they are the lines in their order, without the refused ones, each of which the daemon named
        before.
        """
        acknowledged: list[int] = []
        while self._settled_count + len(acknowledged) < self._totals.acknowledged:
            if not self._open or self._open[0][0] > self._totals.sent:
                raise PutError("the daemon acknowledges more records than were sent")
            number, letter_id = self._open.popleft()
            if number in self._rejected:
                self._rejected.remove(number)
            else:
                acknowledged.append(letter_id)
        if acknowledged:
            self._settled_count += len(acknowledged)
            self._delete(acknowledged)
        self._person.on_progress()

    def _delete(self, ids: list[int]) -> None:
        try:
            self._letters.delete(LetterFilter(ids=tuple(ids)))
        except SpoolError as error:
            shown = " ".join(f"--id {each}" for each in ids[:DELETED_SHOWN_MAX])
            more = " ..." if len(ids) > DELETED_SHOWN_MAX else ""
            raise PutError(
                f"{error}; {len(ids)} letters were acknowledged and may not be deleted, so that "
                f"a replay would send them again: `kdaemon dead-letters purge {shown}{more}`"
            ) from error
        self._replayed.deleted += len(ids)


async def replay(
    letters: Letters,
    by_stream: dict[str, LetterFilter],
    way: Way,
    acknowledge: str,
    replayed: Replayed,
    person_of: Callable[[str], Person],
) -> None:
    """Runs one session for each stream. If the daemon refuses one stream, the others are still
    sent. `replayed` has the outcome, even if this coroutine is cancelled. `person_of`: who waits
    for the letters of a stream. Raises SpoolError.
    """
    newest = next(letters.select(LetterFilter(), newest_first=True, limit=1), None)
    if newest is None:
        return
    for stream, which in by_stream.items():
        session = StreamReplay(
            letters, replace(which, stream=stream), newest.id, replayed, person_of(stream)
        )
        try:
            await session.run(way, acknowledge)
        except PutError as error:
            if str(error) not in replayed.problems:
                replayed.problems.append(str(error))
