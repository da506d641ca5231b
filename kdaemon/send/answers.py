"""From what came back, or did not, to bytes or a `ServiceError` that can be shown to people.

Knows HTTP answers and aiohttp's exceptions; knows nothing of AWS libraries, signing or retries.
Used by `client.py` for each answer and each failure.
Invariant: no secret and nothing of a record is in the text that leaves here. The services do echo
both: a refused key is quoted in a ValidationException, and an InvalidSignatureException repeats the
signed headers, session token included.
"""

import re
from typing import Final

import aiohttp
import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB

ANSWER_BYTES_MAX: Final = 8 * MIB  # ours: 500 results with the longest messages take 1.2 MiB
TEXT_CHARACTERS_MAX: Final = 8192  # ours: of a text that is worth searching for what it quotes
MESSAGE_CHARACTERS_MAX: Final = 300  # ours: enough for every text that the services are known for
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,99}")  # ours: a `__type` worth repeating

# Where the services quote what they were sent. Sources, as of 2026-11-21: AWS's constraint texts,
# kinesalite's answers, ydb-platform/ydb `datastreams/put_records_actor.h`.
_ECHOES: Final = (
    (re.compile(r"Value .*? at '(?=[\w.]+' failed)", re.DOTALL), "Value (not shown) at '"),
    (re.compile(r"Specified value was .*", re.DOTALL), "Specified value is not shown"),
    (re.compile(r"Partition key is too long: .*", re.DOTALL), "Partition key is too long"),
    (re.compile(r"\S* is not a valid 128 bit"), "A hash key is not a valid 128 bit"),
    (re.compile(r"'.*?' can not be converted", re.DOTALL), "A value can not be converted"),
)


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body. Raises `ServiceError` above ANSWER_BYTES_MAX; the rest stays unread."""
    blocks: list[bytes] = []
    size = 0
    while block := await response.content.readany():
        size += len(block)
        if size > ANSWER_BYTES_MAX:
            problem = f"an answer of more than {ANSWER_BYTES_MAX} bytes"
            raise unreadable_answer(problem, response.status)
        blocks.append(block)
    return b"".join(blocks)


def error_answer(status: int, body: bytes, error_type: str | None) -> ServiceError:
    """The error that an answer other than 200 stands for.

    `error_type`: the answer's header x-amzn-ErrorType. A body that is no JSON object (a load
    balancer's HTML, nothing at all) gives the code `Http` + status.
    """
    fields: object = None
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = None
    if not isinstance(fields, dict):
        fields = {}
    named = fields.get("__type") or fields.get("code") or error_type or ""
    code = str(named).rsplit("#", 1)[-1].split(":", 1)[0]
    text = fields.get("message") or fields.get("Message")
    if not _CODE.fullmatch(code):
        code = f"Http{status}"
    if not isinstance(text, str):
        text = f"the service answered HTTP {status} and did not say why"
    return ServiceError(code, shown(text), status=status, was_sent=True)


def shown(text: str) -> str:
    """A service's text without what it quotes of records and signatures: one line, bounded."""
    if len(text) > TEXT_CHARACTERS_MAX:
        return f"the service's text of {len(text)} characters is not shown"
    for pattern, plain in _ECHOES:
        text = pattern.sub(plain, text)
    return text.strip().split("\n", 1)[0][:MESSAGE_CHARACTERS_MAX]


def unreadable_answer(problem: str, status: int = 200) -> ServiceError:
    """The service took the call and answered out of its contract: what it did is unknown."""
    return ServiceError(Trouble.UNREADABLE, problem, status=status, was_sent=True)


def failure_below_http(error: Exception, host: str) -> ServiceError:
    """The error that stands for an exception of aiohttp: which step failed, and was it sent.

    `was_sent` is False only where it is certain that no byte of the request left.
    """
    code, problem, was_sent = _step_failed(error)
    return ServiceError(code, f"{host}: {problem}{_reason(error)}", status=0, was_sent=was_sent)


def _step_failed(error: Exception) -> tuple[Trouble, str, bool]:
    match error:
        case aiohttp.ClientHttpProxyError():
            return Trouble.CONNECT, f"the proxy refused to connect (HTTP {error.status})", False
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
            return Trouble.CONNECT, "the endpoint is not an http(s) URL", False
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
