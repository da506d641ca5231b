"""From why no answer came to a `ServiceError`: which step of a request failed, and was it sent.

Knows aiohttp's exceptions and the operating system's words; must not know calls, credentials or
retries. Used by `exchange.py` for each request that ends without an answer.
Invariant: nothing of an exception's own text leaves here, which in aiohttp can hold the request's
headers.
"""

import aiohttp

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.send.answers import PASSING


def failure_below_http(error: Exception, where: str, *, is_unwritten: bool) -> ServiceError:
    """The error that stands for an exception of aiohttp: which step failed, and was it sent.

    `where`: the host, and the proxy if there is one. `was_sent` is False only where it is certain
    that nothing of the request's body left: by the step that failed, or by `is_unwritten`.
    """
    trouble, problem, was_sent = _step_failed(error)
    return ServiceError(
        trouble,
        SECRETS.clean(f"{where}: {problem}{_reason(error)}"),
        status=0,
        was_sent=was_sent and not is_unwritten,
    )


def _step_failed(error: Exception) -> tuple[Trouble, str, bool]:
    match error:
        case aiohttp.ClientHttpProxyError():
            passes = error.status >= 500 or error.status in PASSING
            trouble = Trouble.CONNECT if passes else Trouble.PROXY
            return trouble, f"the proxy refused to connect (HTTP {error.status})", False
        case aiohttp.ClientProxyConnectionError():
            return Trouble.CONNECT, "cannot connect to the proxy", False
        case aiohttp.ClientConnectorDNSError():
            return Trouble.DNS, "the name does not resolve", False
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return Trouble.TLS, "no TLS connection", False
        case aiohttp.ConnectionTimeoutError():
            return Trouble.CONNECT_TIMEOUT, "no connection in time", False
        case aiohttp.ClientConnectorError():
            return Trouble.CONNECT, "cannot connect", False
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Trouble.ENDPOINT, "the endpoint is not an http(s) URL", False
        case aiohttp.SocketTimeoutError():
            return Trouble.READ_TIMEOUT, "the request was sent and no answer came in time", True
        case aiohttp.ClientResponseError():
            return Trouble.UNREADABLE, "the answer is not HTTP", True
        case _:
            return (
                Trouble.CONNECTION_LOST,
                "the connection was lost before the answer was complete",
                True,
            )


def _reason(error: Exception) -> str:
    """The operating system's word for it, if there is one.

    Never the exception's own text or repr, which in aiohttp can hold the request's headers.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause: object = error.certificate_error
    else:
        cause = getattr(error, "os_error", None) or error
    text = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None)
    return f" ({text})" if isinstance(text, str) and text else ""
