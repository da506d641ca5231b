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
        """One line, which may be shown anywhere: it may have names and values of other people."""
        return printable(SECRETS.clean(f"{self.source}: {self.key}: {self.problem}"))


class ConfigError(Exception):
    """The operator must act. It carries every problem, not only the first."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class TlsError(Exception):
    """The operator must act: the text names the setting, the file and the remedy."""


class RefusedError(Exception):
    """Records are not taken: a line cannot be read, a stream is not configured, the disk is full.

    `code` is the service's word for it (`ValidationException`, `SerializationException`,
    `ResourceNotFoundException`, `ServiceUnavailable`), `message` says what was wrong and what was
    expected.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Trouble(Enum):
    """What failed where the service itself did not say so: on our side, on the way, or in the form
    of the answer. The values are the codes in logs and pages. A service may have a code with the
    same text; that is no trouble: code compares the member, never the text.
    """

    NO_CREDENTIALS = "NoCredentials"
    CREDENTIALS = "CredentialsError"  # the credentials cannot be read
    INVALID_KEY = "InvalidKey"  # the credentials have a character that no key has
    NO_REGION = "NoRegion"
    ENDPOINT = "EndpointError"  # the settings make no valid host
    PROXY = "ProxyError"  # the proxy cannot be used, or refuses us
    TRUST = "TrustError"  # the certificates to trust cannot be read
    TLS = "TlsError"
    UNPREPARED = "RequestError"  # the request could not be made, for an unforeseen reason
    UNENCODABLE = "UnencodableRecord"  # a record cannot be encoded for the wire
    DNS = "DnsError"
    CONNECT = "ConnectError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    READ_TIMEOUT = "ReadTimeout"
    CALL_TIMEOUT = "CallTimeout"
    CONNECTION_LOST = "ConnectionLost"
    UNREADABLE = "UnreadableAnswer"  # the answer breaks the contract, whoever gave it
    WRONG_COUNT = "WrongCount"  # another number of results than of records
    # A web page or a redirect: something else answers in the service's place.
    FOREIGN = "ForeignAnswer"
    DEFECT = "InternalError"  # a defect of kdaemon
    BUSY = "ControlQueueFull"  # too many control calls wait already


class ServiceError(Exception):
    """The service, or the way to it, failed a whole call.

    `code`: the service's `__type`, or our word for a `trouble`. `status`: HTTP status; 0: there was
    none. `was_sent`: whether the service may have seen the request. `retry_after_ns`: how long the
    service asks us to wait; 0: it does not ask. `is_nameless`: the answer had no code that can be
    repeated, and `code` is our word for its status (`Http503`). `request_id`: the service's number
    of the call, by which its support finds the call; "": there is none.
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
        """`code`: a Trouble stands for its value; or the code itself, with `trouble` beside it."""
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
        """The error itself, fit to be kept: without the stack frames and the errors that it came
        through, which keep requests and their data alive.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


SpoolErrorKind = Literal[
    "full", "io", "read_only", "busy", "version", "directory", "foreign", "corrupt", "gone"
]


class WorkerError(Exception):
    """A worker could not be started, or could not do what all workers must do. A text for
    people.
    """


class SpoolError(Exception):
    """The disk, or its operator, must act. The message names the path and the remedy.

    `kind`: `full` (no space), `io` (the device failed a read, write or fsync), `read_only`, `busy`
    (another process holds the spool), `version` (a newer kdaemon wrote it), `directory` (missing,
    no directory, not ours, not writable), `foreign` (a file in the spool's place is not ours),
    `corrupt` (the database's structure is damaged: `Store.repair` mends it), `gone` (files were
    deleted, moved or replaced while the spool is open). `path`: the file or directory.
    """

    def __init__(self, kind: SpoolErrorKind, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.kind: SpoolErrorKind = kind
        self.path = path
        self.message = message
