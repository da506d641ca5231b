"""Errors, named by who must act on them."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal, Self

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


class TlsError(Exception):
    """The operator must act: the text names the setting, the file and the remedy."""


class RejectedRecord(Exception):  # noqa: N818 - the word is the design's
    """The client must act: one record (or its request) breaks a limit or cannot be read.

    `code` is the service's word for it (`ValidationException`, `SerializationException`,
    `InvalidArgumentException`, ...), `message` says what was wrong and what was expected.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Trouble(Enum):
    """What failed where the service did not say so itself: on our side, on the way, or in the form
    of its answer. The values are the codes that logs and pages show. A service may have a code of
    the same text; it is no trouble then: decisions are made by the member, never by the text.
    """

    NO_CREDENTIALS = "NoCredentials"
    CREDENTIALS = "CredentialsError"  # they cannot be read
    INVALID_KEY = "InvalidKey"  # they have a character that no key has
    NO_REGION = "NoRegion"
    ENDPOINT = "EndpointError"  # no host can be made of the settings
    PROXY = "ProxyError"  # a proxy that cannot be used, or that refuses us
    TRUST = "TrustError"  # the certificates to trust cannot be read
    TLS = "TlsError"
    UNPREPARED = "RequestError"  # the request could not be made, for a reason that nobody foresaw
    UNENCODABLE = "UnencodableRecord"  # a record cannot be written as the wire has it
    DNS = "DnsError"
    CONNECT = "ConnectError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    READ_TIMEOUT = "ReadTimeout"
    CALL_TIMEOUT = "CallTimeout"
    CONNECTION_LOST = "ConnectionLost"
    UNREADABLE = "UnreadableAnswer"  # an answer out of the contract, by whoever gave it
    WRONG_COUNT = "WrongCount"  # another number of results than records
    FOREIGN = "ForeignAnswer"  # a web page or a redirect: something else than the service answers
    DEFECT = "InternalError"  # kdaemon's own
    BUSY = "ControlQueueFull"  # too many control calls wait already


class ServiceError(Exception):
    """The service, or the way to it, failed a whole call.

    `code`: the service's `__type`, or our own word, of a `trouble`. `status`: HTTP status, 0 where
    none came. `was_sent`: whether the service may have seen the request. `retry_after_ns`: how long
    the service asks us to wait; 0: it does not. `is_nameless`: the answer had no code that can be
    repeated, and `code` is our word for its status (`Http503`). `request_id`: the service's number
    of the call, by which its support finds it; "" where there is none.
    """

    def __init__(
        self,
        code: str | Trouble,
        message: str,
        *,
        status: int = 0,
        was_sent: bool = True,
        trouble: Trouble | None = None,
        retry_after_ns: int = 0,
        is_nameless: bool = False,
        request_id: str = "",
    ) -> None:
        """`code`: a Trouble stands for its word; or give the code, and what it is beside it."""
        if isinstance(code, Trouble):
            trouble, code = code, code.value
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.was_sent = was_sent
        self.trouble = trouble
        self.retry_after_ns = retry_after_ns
        self.is_nameless = is_nameless
        self.request_id = request_id

    def kept(self) -> Self:
        """Itself, to be kept: without the frames and the errors that it came through, which
        hold requests and their data alive.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


SpoolErrorKind = Literal[
    "full", "io", "read_only", "busy", "version", "directory", "foreign", "corrupt", "gone"
]


class WorkerError(Exception):
    """A worker could not be started, or could not do what all are to do; in words for people."""


class SpoolError(Exception):
    """The disk, or who looks after it, must act. The message names the path and the remedy.

    `kind`: `full` (no space), `io` (the device failed a read, write or fsync), `read_only`,
    `busy` (another process holds the spool), `version` (a newer kdaemon wrote it), `directory`
    (missing, no directory, not ours, not writable), `foreign` (a file in the spool's place that is
    none of ours), `corrupt` (the database's structure is damaged: `Store.repair` mends it), `gone`
    (files were deleted, moved or replaced while the spool is open).
    `path`: what it is about.
    """

    def __init__(self, kind: SpoolErrorKind, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.kind: SpoolErrorKind = kind
        self.path = path
        self.message = message
