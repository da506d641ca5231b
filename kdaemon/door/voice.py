"""Writes to the client of one connection of lines, or to the log where clients get no answer.

Knows how refusals look, and the transport. Must not know streams' state, nor which answers are owed
(`rounds.py` does).
Invariants: nothing is written after `hush`. On a stream's own socket nothing is written at all, and
refusals are logged. The byte that was sent ahead to find out whether the client reads is not sent
twice.
Where it sits: session.py writes answers with it, and at the end the reason why the connection ends.
"""

import logging
from collections.abc import Callable
from typing import Any

from kdaemon.http.transports import Probe
from kdaemon.wire.lines_read import Lines
from kdaemon.wire.rejections import Rejected, encode_rejected

log = logging.getLogger("kdaemon.door")

ANSWER_START = b"{"  # the first byte of every answer that rejections.py makes


class Voice:
    """`last_words`: why the connection ends, if a line is the cause. `is_silent`: nothing is
    answered, because the connection came in by the own socket of `own_stream`.
    """

    __slots__ = ("_is_heard", "_own_stream", "_probe", "_transport", "is_silent", "last_words")

    def __init__(self, own_stream: str | None) -> None:
        self._own_stream = own_stream
        self.is_silent = own_stream is not None
        self._transport: Any = None
        self._is_heard = not self.is_silent
        self._probe = Probe(ANSWER_START)
        self.last_words = b""

    def take_over(self, transport: Any) -> None:
        """Answers go to this transport."""
        self._transport = transport

    def hush(self) -> None:
        """Writes nothing from now on: the client reads no more, or everything is written."""
        self._is_heard = False

    def say(self, answers: bytes) -> None:
        """Writes answers, unless the client is not heard any more or the connection is silent."""
        if self._is_heard:
            self._transport.write(self._probe.rest_of(answers))

    def reject(self, rejected: list[Rejected]) -> None:
        """Tells refusals at once, before the outcome of earlier lines. On a silent connection
        logs the count and the first refusal.
        """
        if not rejected:
            return
        if self.is_silent:
            first = rejected[0]
            fields = {"stream": self._own_stream, "lines": len(rejected), "code": first.code}
            fields["error"] = first.message
            log.warning("lines of a stream's own socket are refused", extra={"fields": fields})
        else:
            self.say(b"".join(map(encode_rejected, rejected)))

    def reject_lines(self, lines: Lines, code: str, message: str) -> None:
        """Tells at once that all these lines are refused, for one reason."""
        self.reject([Rejected(line, code, message) for line in lines.numbers])

    def end_with(self, rejected: Rejected) -> None:
        """Sets the last words: why no more input is taken."""
        self.last_words = encode_rejected(rejected)

    def say_last(self) -> None:
        """Writes the last words, after everything else. On a silent connection logs them."""
        if self.last_words:
            self.say(self.last_words)
            if self.is_silent:
                fields = {"stream": self._own_stream, "error": self.last_words.decode().strip()}
                log.warning("a stream's own socket ends a connection", extra={"fields": fields})

    def probe(self, look: Callable[[], object]) -> None:
        """Sends the first byte of an answer ahead. `look` is called when the client's kernel had
        time to report that the client has gone.
        """
        if not self._probe.is_out:
            self._probe.send(self._transport, look)
