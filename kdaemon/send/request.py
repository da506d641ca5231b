"""A prepared request to the service: everything but its body, its date and its signature; and the
body, as it is made of a value.

Knows SigV4, HTTP headers and JSON; must not know AWS libraries (`credentials.py` lets botocore
write the canonical form, and passes it in), where credentials come from, or answers.
Invariant: the request is sent as it was signed: host, path and signed headers are fixed here, and
aiohttp changes none of them.
"""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.send.address import address_of
from kdaemon.send.connection import Peer
from kdaemon.send.proxy import Proxy
from kdaemon.wire.signature import SigningKey

SENT_ALWAYS: Final = {"User-Agent": "kdaemon", "Accept-Encoding": "identity"}
UNPRINTABLE: Final = "a header with a line break"  # would end there, and more could follow
STAMP: Final = "00000000T000000Z"  # in a canonical form: stands where the date goes


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials at one moment. `account_id`: if the library knows it. An IAM token is in `token`,
    and the other fields are empty.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Canonical:
    """The text that SigV4 signs, for an empty body sent at `STAMP`, as botocore writes it.

    `text`: the canonical request up to the body's hash. `signed_names`: as in the header
    Authorization. `headers`: the signed ones (their date is replaced). `service`: as in the
    signature's scope.
    """

    text: str = field(repr=False)
    signed_names: str
    headers: dict[str, str] = field(repr=False)
    service: str = "kinesis"


class Route:
    """One operation at one URL with one set of keys. `sign` gives the headers of a call, `head` the
    same as bytes; both are the same for each call. `SignedRoute` signs them.

    `peer`: where a connection of our own leads; None: there can be none, or the call goes through
    `proxy`. `trust`: the trusted certificates for TLS.
    """

    __slots__ = ("_head_text", "_headers", "address", "keys", "peer", "proxy", "trust")

    def __init__(self, url: str, keys: Keys, headers: dict[str, str]) -> None:
        """Leads nowhere before `lead`."""
        self.address = address_of(url)
        self.keys = keys
        self.peer: Peer | None = None
        self.proxy: Proxy | None = None
        self.trust: ssl.SSLContext | bool = True
        self._headers = headers
        self._head_text: str | None = None  # the constant part of the head; made at its first use

    def lead(self, trust: ssl.SSLContext | bool, proxy: Proxy | None) -> None:
        """Says how every request goes. `proxy`: None: there is none."""
        self.trust = trust
        self.proxy = proxy
        if proxy is None:
            self.peer = self.address.peer(trust)
        # No tunnel: the proxy reads these headers.
        elif proxy.headers and self.address.is_plain:
            self._headers = self._headers | proxy.headers

    def sign(self, body: bytes) -> dict[str, str]:  # noqa: ARG002 - for subclasses that sign it
        """All headers of a request with this body that is sent now."""
        return self._headers.copy()

    def head(self, body: bytes) -> bytes:
        """The head of a POST with this body that is sent now."""
        text = self._head_text or self._prepared_head()
        return f"{text}{self._signature(body)}Content-Length: {len(body)}\r\n\r\n".encode()

    def _signature(self, body: bytes) -> str:  # noqa: ARG002 - as `sign`
        """The lines of a head that differ from call to call."""
        return ""

    def _prepared_head(self) -> str:
        headers = {"Host": self.address.host, **SENT_ALWAYS, **self._headers}
        lines = [
            f"POST {self.address.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items() if name != "X-Amz-Date"),
        ]
        if any(not line.isprintable() for line in lines):
            raise ValueError(UNPRINTABLE)
        self._head_text = "\r\n".join((*lines, ""))
        return self._head_text


class SignedRoute(Route):
    """A route that signs, in one region, with one key pair. The signing key is derived once a UTC
    day; everything else once.
    """

    __slots__ = (
        *("_authorization", "_day", "_head", "_key", "_region", "_scope", "_second", "_service"),
        *("_signed_names", "_stamp", "_tail"),
    )

    def __init__(self, url: str, region: str, keys: Keys, canonical: Canonical) -> None:
        super().__init__(url, keys, canonical.headers)
        self._head, self._tail = canonical.text.split(STAMP)
        self._signed_names = canonical.signed_names
        self._region = region
        self._service = canonical.service
        self._second: datetime | None = None  # the second of the stamp below
        self._stamp = ""
        self._day = "no day yet"  # the day of the values below
        self._scope = ""
        self._key: SigningKey | None = None
        self._authorization = ""

    def sign(self, body: bytes) -> dict[str, str]:
        """All headers of a request with this body that is sent now."""
        headers = self._headers.copy()
        headers["X-Amz-Date"], headers["Authorization"] = self._signed(body)
        return headers

    def _signature(self, body: bytes) -> str:
        stamp, authorization = self._signed(body)
        return f"X-Amz-Date: {stamp}\r\nAuthorization: {authorization}\r\n"

    def _signed(self, body: bytes) -> tuple[str, str]:
        """The values of X-Amz-Date and Authorization."""
        second = datetime.now(UTC).replace(microsecond=0)
        if second != self._second:
            self._second, self._stamp = second, second.strftime("%Y%m%dT%H%M%SZ")
        stamp = self._stamp
        if not stamp.startswith(self._day):
            self.begin_day(stamp[:8])
        canonical = f"{self._head}{stamp}{self._tail}{sha256(body).hexdigest()}"
        digest = sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{self._scope}\n{digest}"
        assert self._key is not None, "of this day"
        return stamp, self._authorization + self._key.sign(to_sign)

    def begin_day(self, day: str) -> None:
        """Derives the key of a UTC day, given as 20261121."""
        self._scope = f"{day}/{self._region}/{self._service}/aws4_request"
        self._key = SigningKey(self.keys.secret_key, self._scope)
        self._authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.keys.access_key}/{self._scope}, "
            f"SignedHeaders={self._signed_names}, Signature="
        )
        if not self._authorization.isprintable():
            raise ValueError(UNPRINTABLE)
        self._day = day


_encode: Final = msgspec.json.Encoder().encode


def encoded(request: object) -> bytes:
    """The body made of `request`; of bytes: these. Raises `ServiceError`, not sent."""
    if isinstance(request, bytes):
        return request
    try:
        return _encode(request)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
        pass  # raised below, so that no context of the error holds the data
    raise ServiceError(
        "SerializationException",
        "a record cannot be written as JSON (a text that is no Unicode?), and is not sent",
        was_sent=False,
        trouble=Trouble.UNENCODABLE,
    )
