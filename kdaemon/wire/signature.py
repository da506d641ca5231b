"""AWS Signature Version 4: checks that a request was signed with a key, and signs with one. Pure.

Builds the canonical request from the bytes as they came; compares in constant time. Knows no file,
no clock and no principal; `claim.py` reads what a request says of its signature. `sign` goes the
other way, for a client of ours.

Where AWS is lenient this is strict, because an unsigned part could be changed on the way: the body
is always signed (no UNSIGNED-PAYLOAD), and the path is used as it came, with dot segments.
Invariant: no input of a client makes a function raise, and each takes time linear in the request's
head.
Where it sits: `door/access.py`, `put/http.py` and `send/request.py` -> here.

Source: AWS, "Create a signed AWS API request"; botocore 1.43.117 `auth.py`; checked 2026-11-28.
"""

import hmac
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from kdaemon.wire.claim import ALGORITHM, END, SERVICE, Claim, Headers, invalid
from kdaemon.wire.refusals import Refusal
from kdaemon.wire.stamps import stamp_of

DERIVED_MAX: Final = 8  # signing keys kept for one access key, each for a day and a region; ours

_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class SigningKey:
    """The key that signs in one scope."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: str, scope: str) -> None:
        """`secret`: the secret access key. `scope`: day, region, service and END, with slashes."""
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        block = key.ljust(64, b"\0")  # RFC 2104, 2
        # The two hashes of an HMAC after they read the key: copying them costs a third of the
        # price.
        self._inner: Any = sha256(block.translate(_INNER))
        self._outer: Any = sha256(block.translate(_OUTER))

    def sign(self, text: str) -> str:
        """The signature of a string to sign: 64 hexadecimal digits."""
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        signature: str = outer.hexdigest()
        return signature


class AccessKey:
    """A secret access key, and the signing keys that were derived from it."""

    __slots__ = ("_derived", "_secret")

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._derived: dict[tuple[str, str], SigningKey] = {}

    @property
    def derived_count(self) -> int:
        """For how many days and regions a key is kept."""
        return len(self._derived)

    def sign(self, text: str, date: str, region: str) -> bytes:
        """The signature of a string to sign: 64 hexadecimal digits."""
        key = self._derived.get((date, region)) or self._derive(date, region)
        return key.sign(text).encode()

    def _derive(self, date: str, region: str) -> SigningKey:
        key = SigningKey(self._secret, f"{date}/{region}/{SERVICE}/{END}")
        if len(self._derived) >= DERIVED_MAX:
            self._derived.clear()
        self._derived[date, region] = key
        return key


def check_payload(headers: Headers, body_hash: str) -> Refusal | None:
    """Refuses a request whose header about its body is not true; None: it is true, or absent.
    `body_hash`: of the bytes as they came, in hexadecimal digits.
    """
    said = headers.get(b"x-amz-content-sha256")
    if said is None or hmac.compare_digest(said, body_hash.encode()):
        return None
    if said.startswith((b"UNSIGNED-PAYLOAD", b"STREAMING-")):
        return invalid(
            "The body of a request must be signed here: UNSIGNED-PAYLOAD and STREAMING-... as"
            " x-amz-content-sha256 are not taken."
        )
    return invalid("The provided 'x-amz-content-sha256' header does not match what was computed.")


def is_signed_with(
    key: AccessKey, claim: Claim, method: str, path: str, headers: Headers, body_hash: str
) -> bool:
    """Whether the request was signed with this key. `path`: as it came."""
    scope = claim.scope
    head = _canonical_headers(scope.names, scope.listed, headers)
    if head is None:
        return False
    tail = f"{claim.query}\n{head}\n{body_hash}"
    quoted = path if path == "/" else quote(path, safe="/~", encoding="latin-1")
    if _is_match(key, claim, f"{method}\n{quoted}\n{tail}"):
        return True
    # curl signs a path as it sends it. Without a percent sign that can have only one meaning.
    is_plain = quoted != path and "%" not in path
    return is_plain and _is_match(key, claim, f"{method}\n{path}\n{tail}")


def _is_match(key: AccessKey, claim: Claim, canonical: str) -> bool:
    signature = _signature(key, canonical, claim.stamp, claim.scope.region)
    return hmac.compare_digest(signature, claim.signature)


def _signature(key: AccessKey, canonical: str, stamp: str, region: str) -> bytes:
    date = stamp[:8]
    digest = sha256(canonical.encode("latin-1")).hexdigest()
    text = f"{ALGORITHM}\n{stamp}\n{date}/{region}/{SERVICE}/{END}\n{digest}"
    return key.sign(text, date, region)


def _canonical_headers(names: tuple[bytes, ...], listed: bytes, headers: Headers) -> str | None:
    """The signed headers and their names, as they are signed; None: one is missing. Several values
    of one name are joined by commas (`http/head.py`).
    """
    parts: list[bytes] = []
    for name in names:
        value = headers.get(name)
        if value is None:
            if name == b":authority":
                value = headers.get(b"host")
            elif name == b"content-encoding":  # `identity` is no coding, and was removed
                value = b"identity"
            if value is None:
                return None
        if b"  " in value or b"\t" in value:
            value = b" ".join(value.split())
        parts.append(b"%b:%b\n" % (name, value))
    parts.append(b"\n" + listed)
    return b"".join(parts).decode("latin-1")


def sign(
    key_id: str,
    key: AccessKey,
    region: str,
    time_s: int,
    method: str,
    path: str,
    headers: Headers,
    body: bytes,
) -> dict[str, str]:
    """The headers that sign a request without a query. `headers`: all its others, with `host`.
    `path`: as it is sent.
    """
    stamp = stamp_of(time_s)
    signed = {**headers, b"x-amz-date": stamp.encode()}
    names = tuple(sorted(signed))
    listed = b";".join(names)
    head = _canonical_headers(names, listed, signed)
    quoted = quote(path, safe="/~", encoding="latin-1")
    canonical = f"{method}\n{quoted}\n\n{head}\n{sha256(body).hexdigest()}"
    signature = _signature(key, canonical, stamp, region).decode()
    scope = f"{key_id}/{stamp[:8]}/{region}/{SERVICE}/{END}"
    return {
        "X-Amz-Date": stamp,
        "Authorization": f"{ALGORITHM} Credential={scope}, SignedHeaders={listed.decode()},"
        f" Signature={signature}",
    }
