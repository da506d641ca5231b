"""Reads the lines of one connection, up to the blocks that are brought to the door.

Cuts bytes into lines, reads the first line for the terms, parses the others in blocks (a long line
in steps), tells the client which lines cannot be read, and gives the rest to `handover.py`. Knows
the door, to count what is refused before a block is made. Must not know the transport, clocks or
memory budgets.
Invariants: each line is read once, in order, by the terms that were set before it, or is refused
and counted. After the voice was given its last words, no line is left here unread.
Queues: `_buffer` has whole lines that are not parsed and one line without its end; bound: the
session feeds one read at a time. `_steps` is the parsing of a block that is one long line.
Where it sits: session.py feeds it, calls `read` in its turn, and weighs what it keeps.
"""

from kdaemon.base.steps import Steps
from kdaemon.door.admission import GAVE_WAY
from kdaemon.door.block import Block
from kdaemon.door.handover import Handover
from kdaemon.door.line_door import LineDoor
from kdaemon.door.rounds import Round, Rounds
from kdaemon.door.terms import NO_TERMS, BadTerms, Terms, read_terms
from kdaemon.door.voice import Voice
from kdaemon.http.turns import Turn
from kdaemon.wire.line_buffer import LineBuffer, count_lines
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines_read import VALIDATION, in_runs
from kdaemon.wire.rejections import Rejected


class Intake:
    """The lines of one connection. `terms`: by which the next line is read."""

    __slots__ = (
        "_buffer",
        "_door",
        "_handover",
        "_is_set_up",
        "_next_line",
        "_rounds",
        "_step_bytes",
        "_steps",
        "_voice",
        "terms",
    )

    def __init__(
        self, door: LineDoor, voice: Voice, rounds: Rounds, handover: Handover, own: Terms | None
    ) -> None:
        """`own`: terms that the configuration sets, on a stream's own socket; None: the first line
        may set them.
        """
        self._door = door
        self._voice = voice
        self._rounds = rounds
        self._handover = handover
        self.terms = own or NO_TERMS
        self._is_set_up = own is not None  # the terms are set; a first line has no say any more
        self._buffer = LineBuffer()
        # Parsing of a long line, which takes several turns.
        self._steps: Steps[Parsed] | None = None
        self._step_bytes = 0  # size of that line
        self._next_line = 1

    @property
    def has_lines(self) -> bool:
        """Whether some whole lines were received and are not parsed, or not to the end."""
        return self._steps is not None or self._buffer.has_lines

    @property
    def partial_bytes(self) -> int:
        """Size of the line that has no end yet."""
        return self._buffer.partial_bytes

    @property
    def unread_bytes(self) -> int:
        """Memory of the whole lines. Lines that are parsed already count until the last one is."""
        return self._buffer.whole_bytes

    @property
    def kept_bytes(self) -> int:
        """Memory of all that is kept here: whole lines, the line without its end, the long line."""
        buffer = self._buffer
        size = buffer.partial_bytes + self._step_bytes
        return size + buffer.whole_bytes if buffer.has_lines else size

    def feed(self, data: bytes) -> bool:
        """Takes one read of the transport. Returns whether a line begins with this read or came
        whole.
        """
        buffer = self._buffer
        partial_bytes = buffer.partial_bytes
        buffer.feed(data)
        return not partial_bytes or buffer.has_lines

    def finish(self) -> None:
        """The client sends no more: the line that has no end yet ends here."""
        self._buffer.finish()

    def drop_unfinished(self) -> None:
        """Drops the line that has no end yet. It is not counted."""
        self._buffer.drop_partial()

    def read(self, turn: Turn) -> bool:
        """Parses the next block, or goes one step on with a long line. False: this turn is over."""
        steps, byte_count = self._steps, 0
        if steps is None:
            buffer, form = self._buffer, self.terms.form
            is_set_up = self._is_set_up
            block = buffer.take_block(form.block_lines_max) if is_set_up else buffer.take_line()
            byte_count = len(block)
            if not is_set_up and self._read_setup(block):
                return turn.spend(byte_count)
            steps = form.read(block, self._next_line, self.terms.stream, None)
        try:
            next(steps)
        except StopIteration as end:
            self._end_steps()
            self._take(end.value)
            return turn.spend(byte_count)
        if self._steps is None:
            self._steps, self._step_bytes = steps, byte_count
        return False

    def give_way(self) -> None:
        """Refuses and counts all that waits, here and in the handover, because other clients need
        the memory. The voice gets its last words.
        """
        first_line = self._handover.refuse_all(GAVE_WAY, self._next_line)
        if self._steps is not None:
            self._door.refuse(self.terms.stream, GAVE_WAY, 1, self._step_bytes)
            self._end_steps()
        self._buffer.finish()
        while self._buffer.has_lines:
            lines = self._buffer.take_block()
            self._door.refuse(self.terms.stream, GAVE_WAY, count_lines(lines), len(lines))
        self._voice.end_with(Rejected(first_line, GAVE_WAY.code, GAVE_WAY.message))

    def refuse_unfinished(self, code: str, text: str) -> None:
        """Refuses the line that has no end, and counts it; lines before it are still read. In raw
        form the connection goes on: the rest of this line is skipped, and the next line begins
        after its newline. In envelopes the connection ends.
        """
        buffer = self._buffer
        number = self._next_line + buffer.line_count + (self._steps is not None)
        rejected = Rejected(number, code, text)
        self._door.refuse_unread(
            self.terms.stream, 1, buffer.partial_bytes, principal=self._handover.principal
        )
        if self.terms.form.is_raw:
            buffer.skip_partial()
            self._voice.reject([rejected])
        else:
            buffer.drop_partial()
            self._voice.end_with(rejected)

    def _read_setup(self, line: bytes) -> bool:
        """Whether this first line is done with: it was blank, or it was the setup (and was applied
        or refused). False: the line is a record.
        """
        if line.isspace():
            self._next_line += 1
            return True
        self._is_set_up = True
        terms = read_terms(self._door, line, self._handover.principal)
        if terms is None:
            return False
        if isinstance(terms, BadTerms):
            self._refuse_setup(terms, len(line))
        else:
            self.terms = terms
            self._handover.acknowledge = terms.acknowledge
            self._next_line += 1
        return True

    def _refuse_setup(self, terms: BadTerms, byte_count: int) -> None:
        """Refuses the setup line and counts all lines behind it as refused: they would go to
        another stream or on another promise than the client meant.
        """
        follow_count = self._buffer.line_count
        if terms.forbidden is not None:
            self._door.refuse(None, terms.forbidden, follow_count, 0)
            self._door.refuse(None, terms.forbidden, 1, byte_count)
        else:
            self._door.refuse_unread(None, follow_count, principal=self._handover.principal)
            self._door.refuse_unread(None, 1, byte_count, principal=self._handover.principal)
        self._buffer.clear()
        self._voice.end_with(Rejected(self._next_line, terms.code, terms.message))

    def _end_steps(self) -> None:
        self._steps, self._step_bytes = None, 0

    def _take(self, parsed: Parsed) -> None:
        """Tells the client which lines of a block are refused, and gives the others to the
        handover.
        """
        self._next_line += parsed.line_count
        stream_of_all, a_round = self.terms.stream, Round()
        if parsed.rejected_count:
            self._door.refuse_unread(
                stream_of_all, parsed.rejected_count, principal=self._handover.principal
            )
            self._voice.reject(parsed.rejected)
        if self.terms.form.is_raw and stream_of_all is not None:
            self._door.note_raw(stream_of_all, parsed, self._handover.principal)
        parts = list(parsed.by_stream.items())
        if len(parts) > 1 and self._door.has_synonyms(parsed.by_stream):
            parts = in_runs(parsed.by_stream)
        for stream, lines in parts:
            if stream is None:
                text = 'No stream: name it in a first line {"stream": ...} or in the line itself.'
                self._door.refuse_unread(
                    None, len(lines.numbers), sum(lines.sizes), principal=self._handover.principal
                )
                self._voice.reject_lines(lines, VALIDATION, text)
            else:
                self._handover.add(a_round, stream, Block(lines))
        self._rounds.begin(a_round)
        if parsed.rejected_count > len(parsed.rejected):
            self._give_up(parsed.rejected_count)

    def _give_up(self, rejected_count: int) -> None:
        """Ends the connection: one block has more unreadable lines than are worth telling, so the
        input is probably no NDJSON.
        """
        text = f"{rejected_count} lines up to here cannot be read; the connection is closed."
        self._voice.end_with(Rejected(self._next_line - 1, VALIDATION, text))
        self._door.refuse_unread(
            self.terms.stream, self._buffer.line_count, principal=self._handover.principal
        )
        self._buffer.clear()
