"""A request to the service, prepared: all of it but its body, its date and its signature.

Knows SigV4 and HTTP headers; must not know AWS libraries (`credentials.py` has botocore write the
canonical form and hands it in), where credentials come from, or answers.
Invariant: what is signed is what is sent: host, path and signed headers are fixed here and aiohttp
changes none of them.
"""

import hmac
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import aiohttp
import yarl

from kdaemon.send.bodies import Held
from kdaemon.send.connection import PIECE_BYTES, Peer
from kdaemon.send.proxy import Proxy

SENT_ALWAYS: Final = {"User-Agent": "kdaemon", "Accept-Encoding": "identity"}
UNPRINTABLE: Final = "a header with a line break"  # would end there, and perhaps say more
STAMP: Final = "00000000T000000Z"  # stands for the date in a canonical form that is to be filled


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials as they are at one moment. `account_id`: where the library knows it. An IAM token
    stands in `token` alone.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Canonical:
    """What SigV4 signs, for an empty body sent at `STAMP`, in botocore's words.

    `text`: the canonical request up to the body's hash. `signed_names`: as in the header
    Authorization. `headers`: those that are signed (their date is replaced). `service`: as the
    signature's scope has it.
    """

    text: str = field(repr=False)
    signed_names: str
    headers: dict[str, str] = field(repr=False)
    service: str = "kinesis"


class Route:
    """One operation at one URL with one set of keys: `sign` gives a call's headers, which are the
    same for each call, `head` the same as bytes. `SignedRoute` signs them.
    """

    __slots__ = ("_head_text", "_headers", "host", "keys", "proxy", "url")

    def __init__(self, url: str, keys: Keys, headers: dict[str, str]) -> None:
        self.url = yarl.URL(url, encoded=True)
        self.host = self.url.host_port_subcomponent or ""
        self.keys = keys
        self.proxy: Proxy | None = None
        self._headers = headers
        self._head_text: str | None = None  # what is the same for each call; made when it is used

    def go_through(self, proxy: Proxy | None) -> None:
        """Every request goes through this proxy."""
        self.proxy = proxy
        if proxy and proxy.headers and self.url.scheme == "http":  # no tunnel: it reads these
            self._headers = self._headers | proxy.headers

    def peer(self, trust: ssl.SSLContext | bool) -> Peer | None:
        """Where a connection of our own leads; None: there is none to such a URL, or on this way.
        `trust`: whom, over TLS.
        """
        host, port = self.url.raw_host, self.url.port
        if self.proxy is not None or not host or not port:
            return None
        if host.endswith(".."):
            host = host.rstrip(".") + "."
        match self.url.scheme:
            case "http":
                return Peer(host, port, None)
            case "https":
                return Peer(host, port, trust)
            case _:
                return None

    def sign(self, body: bytes) -> dict[str, str]:  # noqa: ARG002 - for those who sign it
        """All headers of a request with this body that leaves now."""
        return self._headers.copy()

    def head(self, body: bytes) -> bytes:
        """A POST's head, for this body, that leaves now."""
        text = self._head_text or self._prepared_head()
        return f"{text}{self._signature(body)}Content-Length: {len(body)}\r\n\r\n".encode()

    def _signature(self, body: bytes) -> str:  # noqa: ARG002 - as `sign`
        """The lines of a head that differ from call to call."""
        return ""

    def _prepared_head(self) -> str:
        headers = {"Host": self.host, **SENT_ALWAYS, **self._headers}
        lines = [
            f"POST {self.url.raw_path_qs} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items() if name != "X-Amz-Date"),
        ]
        if any(not line.isprintable() for line in lines):
            raise ValueError(UNPRINTABLE)
        self._head_text = "\r\n".join((*lines, ""))
        return self._head_text


class SignedRoute(Route):
    """In one region, with one key pair. The signing key is derived once a UTC day; everything else
    once.
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
        self._second: datetime | None = None  # whose stamp is below
        self._stamp = ""
        self._day = "no day yet"  # of what follows
        self._scope = ""
        self._key = b""
        self._authorization = ""

    def sign(self, body: bytes) -> dict[str, str]:
        """All headers of a request with this body that leaves now."""
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
            self._begin_day(stamp[:8])
        canonical = f"{self._head}{stamp}{self._tail}{sha256(body).hexdigest()}"
        digest = sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        return stamp, self._authorization + signature

    def _begin_day(self, day: str) -> None:
        """Derives the key of a UTC day, given as 20261121."""
        self._scope = f"{day}/{self._region}/{self._service}/aws4_request"
        key = f"AWS4{self.keys.secret_key}".encode()
        for part in self._scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key
        self._authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.keys.access_key}/{self._scope}, "
            f"SignedHeaders={self._signed_names}, Signature="
        )
        if not self._authorization.isprintable():
            raise ValueError(UNPRINTABLE)
        self._day = day


def _never() -> bool:
    return False


class Body(aiohttp.payload.BytesPayload):
    """Bytes of any size as a request body, kept until they are written.

    The base class warns, on each call above 1 MiB, that one write may hold the loop. It does not
    (the transport sends it in pieces), and a PutRecords call may be 13 MB. aiohttp joins the first
    write with the head, and TLS encrypts all that it is given: a large body goes in pieces, so that
    it is in memory once.
    """

    def __init__(
        self, body: bytes, content_type: str, leave: Callable[[], bool], held: Held
    ) -> None:
        """`leave`: asked before the body is written; False: it is not, and the request fails.
        `held`: its memory, given back when it is written or dropped.
        """
        aiohttp.payload.Payload.__init__(self, body, content_type=content_type)
        self._held = held
        self._size = len(body)
        self._leave = leave
        self.is_recalled = False

    @property
    def unwritten(self) -> bytes:
        """The whole body; empty once it is written."""
        return self._value

    def drop(self) -> None:
        """Forgets what was not written: a failed connection may be kept by an error for long."""
        self._value = b""
        self._leave = _never
        self._held.give()

    async def write_with_length(
        self,
        writer: aiohttp.abc.AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; it is the whole body
    ) -> None:
        if not self._leave():
            self.is_recalled = True
            raise ConnectionAbortedError("recalled")
        body, self._value = self._value, b""
        if len(body) <= PIECE_BYTES:
            await writer.write(body)
        else:
            writer.send_headers()
            rest = memoryview(body)
            while rest:
                await writer.write(rest[:PIECE_BYTES])
                rest = rest[PIECE_BYTES:]
        self._held.give()
