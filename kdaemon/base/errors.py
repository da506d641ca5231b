"""Errors, named by who must act on them."""

from dataclasses import dataclass
from typing import Literal

from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in the configuration: where it stands, its key, what was found and
    expected.
    """

    source: str  # the file, `environment` or `flags`
    key: str  # dotted: `streams.orders.share`
    problem: str  # what is wrong and what was expected

    def __str__(self) -> str:
        """One line, which may be shown anywhere: names and values in it are other people's."""
        return printable(SECRETS.clean(f"{self.source}: {self.key}: {self.problem}"))


class ConfigError(Exception):
    """The operator must act. Carries every problem at once, not the first."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class RejectedRecord(Exception):  # noqa: N818 - the word is the design's
    """The client must act: one record (or its request) breaks a limit or cannot be read.

    `code` is the service's word for it (`ValidationException`, `SerializationException`,
    `InvalidArgumentException`, ...), `message` says what was wrong and what was expected.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ServiceError(Exception):
    """The service, or the way to it, failed a whole call.

    `code`: the service's `__type`, or our own word for a failure below HTTP. `status`: HTTP status,
    0 where none came. `was_sent`: whether the service may have seen the request.
    """

    def __init__(self, code: str, message: str, *, status: int = 0, was_sent: bool = True) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.was_sent = was_sent


SpoolErrorKind = Literal[
    "full", "io", "read_only", "busy", "version", "directory", "foreign", "corrupt"
]


class SpoolError(Exception):
    """The disk, or who looks after it, must act. The message names the path and the remedy.

    `kind`: `full` (no space), `io` (the device failed a read, write or fsync), `read_only`,
    `busy` (another process holds the spool), `version` (a newer kdaemon wrote it), `directory`
    (missing, no directory, not ours, not writable), `foreign` (a file in the spool's place that is
    none of ours), `corrupt` (the database's structure is damaged: `Store.repair` mends it).
    `path`: what it is about.
    """

    def __init__(self, kind: SpoolErrorKind, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.kind: SpoolErrorKind = kind
        self.path = path
        self.message = message
