"""The answers of NDJSON: which lines were refused and why, and how many records were taken. Pure.

Whatever comes, the refused lines that are kept and told are bounded; all of them are counted.
Where it sits: `lines.py` and the door -> here -> the connection.
"""

import msgspec

from kdaemon.wire.refusals import Refusal

EXPLAINED_MAX = 10  # rejections with a text, of one request or connection; ours, 2026-11-28
# Rejections whose lines are told, of one request or connection; ours, 2026-11-28.
NUMBERED_MAX = 1_000

_encode = msgspec.json.Encoder().encode


class Rejected(msgspec.Struct, gc=False, omit_defaults=True):
    """One refused line: its number from 1, the service's code for the reason, and a text for people
    (None: enough were explained).
    """

    line: int
    code: str
    message: str | None = None


class Problems:
    """The refused lines of one request or connection, in bounded memory.

    `count`: all of them. `rejected`: the first NUMBERED_MAX; of these the first EXPLAINED_MAX have
    a text.
    """

    __slots__ = ("count", "rejected")

    def __init__(self) -> None:
        self.count = 0
        self.rejected: list[Rejected] = []

    @property
    def is_hopeless(self) -> bool:
        """Whether there are more than anybody reads: then the sender should be told to stop."""
        return self.count > NUMBERED_MAX

    @property
    def wants_text(self) -> bool:
        """Whether the next refused line should get a text."""
        return self.count < EXPLAINED_MAX

    def add(self, line: int, code: str, message: str | None) -> None:
        """Counts one refused line, and keeps it if it is to be told."""
        if self.count < NUMBERED_MAX:
            self.rejected.append(Rejected(line, code, message if self.wants_text else None))
        self.count += 1

    def extend(self, rejected: list[Rejected]) -> None:
        """The same for several."""
        for each in rejected:
            self.add(each.line, each.code, each.message)


class Answer(msgspec.Struct):
    """The HTTP answer to a body of lines: how many records were acknowledged, how many lines were
    refused, and which, as far as they are told.
    """

    acknowledged: int
    rejected: list[Rejected]
    rejected_count: int


def encode_acknowledged(count: int) -> bytes:
    """`count`: records acknowledged on this connection so far, in the order of their lines."""
    return b'{"acknowledged":%d}\n' % count


def encode_rejected(rejected: Rejected) -> bytes:
    """One line that was refused, or whose record was not delivered."""
    answer: dict[str, object] = {"rejected": rejected.line, "code": rejected.code}
    if rejected.message is not None:
        answer["message"] = rejected.message
    return _encode(answer) + b"\n"


def encode_answer(acknowledged: int, problems: Problems) -> bytes:
    """The HTTP answer to a body of lines."""
    rejected = sorted(problems.rejected, key=lambda each: each.line)
    return _encode(Answer(acknowledged, rejected, problems.count))


def encode_refused_answer(refusal: Refusal, problems: Problems) -> bytes:
    """The HTTP answer to a body of which nothing was taken: the service's form of an error, with
    the refused lines as in `encode_answer`.
    """
    rejected = sorted(problems.rejected, key=lambda each: each.line)
    answer = {"__type": refusal.code, "message": refusal.message, "acknowledged": 0}
    return _encode({**answer, "rejected": rejected, "rejected_count": problems.count})
