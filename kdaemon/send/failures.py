"""Makes a `ServiceError` of a request without an answer: which step failed, and was anything sent.

Knows the steps of a request, aiohttp's exceptions and the operating system's texts; must not know
calls, credentials or retries. `exchange.py` uses it for each request that ends without an answer.
Invariant: an exception's own text never leaves here: in aiohttp it can hold the request's headers.
"""

from typing import Final, NamedTuple

import aiohttp

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.send.answers import PASSING


class Failed(NamedTuple):
    """A step of a request, and why it failed. `was_sent`: the service may have the request."""

    trouble: Trouble
    problem: str
    was_sent: bool
    reason: str = ""

    def because_of(self, error: object) -> "Failed":
        """The same, with the operating system's text if `error` has one.

        Never with the exception's own text or repr: in aiohttp these can hold the request's
        headers.
        """
        text = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
        return self._replace(reason=f" ({text})") if isinstance(text, str) and text else self

    def at(self, where: str, *, is_unwritten: bool = False) -> ServiceError:
        """The `ServiceError`. `where`: the host, and the proxy if there is one. `was_sent` is False
        only if it is certain that nothing of the request's body left: because of the step that
        failed, or by `is_unwritten`.
        """
        return ServiceError(
            self.trouble,
            SECRETS.clean(f"{where}: {self.problem}{self.reason}"),
            status=0,
            was_sent=self.was_sent and not is_unwritten,
        )


class DialError(Exception):
    """No connection could be made."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.problem)
        self.failed = failed


DNS: Final = Failed(Trouble.DNS, "the name does not resolve", was_sent=False)
TLS: Final = Failed(Trouble.TLS, "no TLS connection", was_sent=False)
CONNECT: Final = Failed(Trouble.CONNECT, "cannot connect", was_sent=False)
CONNECT_TIMEOUT: Final = Failed(Trouble.CONNECT_TIMEOUT, "no connection in time", was_sent=False)
RECALLED: Final = Failed(
    Trouble.CONNECT_TIMEOUT, "nothing was sent while the client waited", was_sent=False
)
READ_TIMEOUT: Final = Failed(
    Trouble.READ_TIMEOUT, "the request was sent and no answer came in time", was_sent=True
)
OVERDUE: Final = Failed(Trouble.CALL_TIMEOUT, "the call took too long", was_sent=True)
UNREADABLE: Final = Failed(Trouble.UNREADABLE, "the answer is not HTTP", was_sent=True)
LOST: Final = Failed(
    Trouble.CONNECTION_LOST,
    "the connection was lost before the answer was complete",
    was_sent=True,
)


def failed_below_http(error: Exception) -> Failed:
    """The step that failed, for an exception of aiohttp."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause: object = error.certificate_error
    else:
        cause = getattr(error, "os_error", None) or error
    return _step_failed(error).because_of(cause)


def _step_failed(error: Exception) -> Failed:
    match error:
        case aiohttp.ClientHttpProxyError():
            passes = error.status >= 500 or error.status in PASSING
            trouble = Trouble.CONNECT if passes else Trouble.PROXY
            return Failed(
                trouble, f"the proxy refused to connect (HTTP {error.status})", was_sent=False
            )
        case aiohttp.ClientProxyConnectionError():
            return Failed(Trouble.CONNECT, "cannot connect to the proxy", was_sent=False)
        case aiohttp.ClientConnectorDNSError():
            return DNS
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return TLS
        case aiohttp.ConnectionTimeoutError():
            return CONNECT_TIMEOUT
        case aiohttp.ClientConnectorError():
            return CONNECT
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Failed(Trouble.ENDPOINT, "the endpoint is not an http(s) URL", was_sent=False)
        case aiohttp.SocketTimeoutError():
            return READ_TIMEOUT
        case aiohttp.ClientResponseError():
            return UNREADABLE
        case _:
            return LOST


def unforeseen(error: Exception, what: str, settings: str) -> ServiceError:
    """The error for a request that could not be made, for a reason that no table has. The original
    error's text is left out, since it can quote a header.
    """
    return ServiceError(
        Trouble.UNPREPARED,
        f"{what} could not be made ({type(error).__name__}), and nothing was sent: most likely"
        f" {settings} is wrong",
        was_sent=False,
    )


def emptied(error: BaseException | None) -> None:
    """Takes the stack frames out of an error that we are done with, and out of its causes. aiohttp
    and the code below it keep errors in objects that these frames refer to: cycles, which would
    keep the call and its records.
    """
    while error is not None:
        error.__traceback__ = None
        cause = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = cause
