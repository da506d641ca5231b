"""AWS Signature Version 4: what a request says of who signed it, and whether that is true. Pure.

Reads the header Authorization, or the X-Amz-* of a presigned URL; builds the canonical request from
the very bytes that came; compares in constant time. Refusals are values, in the service's words.
Knows no file, no clock and no principal. `sign` is the other direction, for a client of ours.

Strict where AWS is lenient, because what is not signed could be changed on the way: all headers
that say what is asked for must be signed (`x-amz-*`, `x-kdaemon-*`, the host); the body always is
(no UNSIGNED-PAYLOAD); the path is taken as it came, dot segments and all. `content-type` may be
unsigned, as the SDK for JavaScript v2 leaves it: a body that is JSON is nothing else, so whoever
changes the type gets a refusal.
Invariant: nothing a client sends makes a function raise, and each is linear in the request's head.
Where it sits: `door/access.py` and `put/http.py` -> here.

Source: AWS, "Create a signed AWS API request"; botocore 1.43.117 `auth.py`; checked 2026-11-28.
"""

import calendar
import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from kdaemon.wire.refusals import Refusal, refuse

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SERVICE: Final = "kinesis"
END: Final = "aws4_request"
SKEW_S: Final = 300  # how old, or how far ahead, a signature may be: AWS's own five minutes
PRESIGNED_S_MAX: Final = 604_800  # for how long a URL may be signed: AWS's own seven days
DERIVED_MAX: Final = 8  # signing keys that are kept of one key: a day and a region each; ours

READ_MAX: Final = 64
"""Scopes, and dates, that are remembered: a client's are the same for a while. Ours, 2026-11-28: a
head has 32 KiB at most, and so have they."""

Headers = Mapping[bytes, bytes]

_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))

_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=([^,\s]+) *, *SignedHeaders=([^,\s]+) *, *"
    rb"Signature=([0-9a-f]{64})"
)
_PARTS = (b"Credential", b"SignedHeaders", b"Signature")
_STAMP = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_HTTP_DATE = re.compile(
    rb"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4})"
    rb" ([0-9]{2}):([0-9]{2}):([0-9]{2}) (?:GMT|-0000|\+0000)"
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov")
_MONTH_NUMBERS = {name: number for number, name in enumerate((*_MONTHS, b"Dec"), 1)}
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_MUST_BE_SIGNED = (b"x-amz-", b"x-kdaemon-")

MISSING = refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
UNKNOWN_KEY = refuse(
    "UnrecognizedClientException", "The security token included in the request is invalid."
)
MISMATCH = refuse(
    "InvalidSignatureException",
    "The request signature we calculated does not match the signature you provided. Check your AWS"
    " Secret Access Key and signing method. Consult the service documentation for details.",
)


class Scope(NamedTuple):
    """What a client says in each of its signatures of one day."""

    key_id: str
    date: str
    region: str
    names: tuple[bytes, ...]  # of the signed headers
    listed: bytes  # the same, as they are signed


class Claim(NamedTuple):
    """What a request says of its signature. `time_s`: when it was made, since 1970; `stamp`: the
    same as it is signed. `query`: what is signed of the query. `expires_s`: of a presigned URL.
    """

    scope: Scope
    signature: bytes
    stamp: str
    time_s: int
    query: str
    expires_s: int | None

    @property
    def key_id(self) -> str:
        return self.scope.key_id

    def __repr__(self) -> str:
        """Without the signature."""
        return f"Claim({self.scope.key_id}, {self.stamp})"


class AccessKey:
    """A secret access key, and what was derived of it."""

    __slots__ = ("_derived", "_secret")

    def __init__(self, secret: str) -> None:
        self._secret = f"AWS4{secret}".encode()
        # The two hashes of an HMAC that have read the key: to copy them is a third of the price.
        self._derived: dict[tuple[str, str], tuple[Any, Any]] = {}

    def sign(self, text: str, date: str, region: str) -> bytes:
        """The signature of a string to sign: 64 hexadecimal digits."""
        found = self._derived.get((date, region))
        inner, outer = self._derive(date, region) if found is None else found
        inner = inner.copy()
        inner.update(text.encode())
        outer = outer.copy()
        outer.update(inner.digest())
        signature: str = outer.hexdigest()
        return signature.encode()

    def _derive(self, date: str, region: str) -> tuple[Any, Any]:
        key = self._secret
        for part in (date, region, SERVICE, END):
            key = hmac.digest(key, part.encode(), "sha256")
        block = key.ljust(64, b"\0")  # RFC 2104, 2
        pair = sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))
        if len(self._derived) >= DERIVED_MAX:
            self._derived.clear()
        self._derived[date, region] = pair
        return pair


# --- what a request says


def read_claim(query: str, headers: Headers) -> Claim | Refusal:
    """Header names in lower case; `query` as it came."""
    authorization = headers.get(b"authorization")
    is_presigned = bool(query) and "X-Amz-" in query and _is_presigned(query)
    if authorization is None:
        return _read_query(query, headers) if is_presigned else MISSING
    if is_presigned:
        return _incomplete("A request is signed by its header Authorization or by its query.")
    found = _AUTHORIZATION.fullmatch(authorization)
    parts = found.groups() if found is not None else _read_parts(authorization)
    if isinstance(parts, Refusal):
        return parts
    credential, names, signature = parts
    stamp = headers.get(b"x-amz-date")
    name = b"x-amz-date"
    if stamp is None:
        stamp, name = headers.get(b"date"), b"date"
    if stamp is None:
        return _incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    claim = _claim(credential, names, signature, stamp, _sorted_query(query), None)
    if isinstance(claim, Claim) and name not in claim.scope.names:
        return _unsigned(name)
    return claim if isinstance(claim, Refusal) else _hold_to_rules(claim, headers)


def _read_parts(authorization: bytes) -> tuple[bytes, bytes, bytes] | Refusal:
    """A header that is written in another way, or wrong."""
    algorithm, _, rest = authorization.strip().partition(b" ")
    if algorithm != ALGORITHM.encode():
        return _incomplete(f"Unsupported algorithm in Authorization header: expected {ALGORITHM}.")
    found: dict[bytes, bytes] = {}
    for pair in rest.split(b","):
        name, mark, value = pair.strip().partition(b"=")
        if not mark:
            return _incomplete("a part of the Authorization header is not a valid key=value pair.")
        if name in found:
            return _incomplete("a part of the Authorization header stands there twice.")
        found[name] = value.strip()
    missing = [
        f"Authorization header requires '{name.decode()}' parameter."
        for name in _PARTS
        if not found.get(name)
    ]
    if missing:
        return _incomplete(" ".join(missing))
    credential, names, signature = (found[name] for name in _PARTS)
    return credential, names, signature


def _is_presigned(query: str) -> bool:
    return any(pair.startswith(("X-Amz-Signature=", "X-Amz-Alg")) for pair in query.split("&"))


def _read_query(query: str, headers: Headers) -> Claim | Refusal:
    """A presigned URL."""
    given: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name.startswith("X-Amz-"):
            if name in given:
                return _incomplete(f"AWS query-string parameters: {name} stands there twice.")
            given[name] = unquote(value)
    if given.get("X-Amz-Algorithm") != ALGORITHM:
        return _incomplete(f"AWS query-string parameters must include X-Amz-Algorithm={ALGORITHM}.")
    wanted = ("Credential", "SignedHeaders", "Signature", "Date", "Expires")
    missing = [name for name in wanted if not given.get(f"X-Amz-{name}")]
    if missing:
        return _incomplete(f"AWS query-string parameters must include X-Amz-{missing[0]}.")
    if "X-Amz-Security-Token" in given:
        return UNKNOWN_KEY
    expires = given["X-Amz-Expires"]
    is_number = len(expires) <= 6 and expires.isascii() and expires.isdigit()
    if not is_number or not 1 <= int(expires) <= PRESIGNED_S_MAX:
        return _incomplete(f"X-Amz-Expires must be from 1 to {PRESIGNED_S_MAX} seconds.")
    signed = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-Signature="))
    credential, names, signature, date = (
        given[f"X-Amz-{name}"].encode() for name in (*wanted[:3], "Date")
    )
    claim = _claim(credential, names, signature, date, _sorted_query(signed), int(expires))
    return claim if isinstance(claim, Refusal) else _hold_to_rules(claim, headers)


def _claim(
    credential: bytes,
    names: bytes,
    signature: bytes,
    written: bytes,
    query: str,
    expires_s: int | None,
) -> Claim | Refusal:
    scope = _read_scope(credential, names)
    if isinstance(scope, Refusal):
        return scope
    found = _read_time(written)
    if found is None:
        return _incomplete("Date must be in ISO-8601 'basic format', such as 20261128T160000Z.")
    stamp, time_s = found
    if stamp[:8] != scope.date:
        return _invalid(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from"
            " HTTP."
        )
    return Claim(scope, signature, stamp, time_s, query, expires_s)


@lru_cache(READ_MAX)
def _read_scope(credential: bytes, names: bytes) -> Scope | Refusal:
    elements = credential.decode("latin-1").split("/")
    if len(elements) != 5:
        return _incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g."
            " keyid/date/region/service/term."
        )
    key_id, date, region, service, end = elements
    if service != SERVICE:
        return _invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if end != END:
        return _invalid(f"Credential should be scoped with a valid terminator: '{END}'.")
    if _REGION.fullmatch(region) is None:
        return _invalid("Credential should be scoped to a valid region.")
    signed = tuple(names.split(b";"))
    if b"host" not in signed and b":authority" not in signed:
        return _invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    if list(signed) != sorted(set(signed)):
        return MISMATCH  # there is one way to write them
    return Scope(key_id, date, region, signed, names)


def _hold_to_rules(claim: Claim, headers: Headers) -> Claim | Refusal:
    """What must be signed, and what no key of ours comes with."""
    names = claim.scope.names
    for name in headers:
        if name.startswith(_MUST_BE_SIGNED) and name not in names:
            return _unsigned(name)
    if b"x-amz-security-token" in headers:
        return UNKNOWN_KEY
    return claim


def _sorted_query(query: str) -> str:
    """As it is signed. What is in it keeps its percent signs."""
    if not query:
        return ""
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{name}={value}" for name, value in sorted((a, c) for a, _, c in pairs))


# --- time


@lru_cache(READ_MAX)
def _read_time(written: bytes) -> tuple[str, int] | None:
    """The date of a request: as it is signed, and in seconds since 1970."""
    found = _STAMP.fullmatch(written)
    if found is not None:
        parts = tuple(map(int, found.groups()))
    else:
        found = _HTTP_DATE.fullmatch(written)
        month = None if found is None else _MONTH_NUMBERS.get(found[2])
        if found is None or month is None:
            return None
        day, _, year, *rest = found.groups()
        parts = (int(year), month, int(day), *map(int, rest))
    year, month, day, hour, minute, second = parts
    is_date = year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31
    if not is_date or hour > 23 or minute > 59 or second > 60:
        return None
    stamp = f"{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"
    return stamp, calendar.timegm((year, month, day, hour, minute, second))


def stamp_of(time_s: int) -> str:
    """Seconds since 1970 as a request is dated. The days are counted from 1 March of the year 0, in
    eras of 400 years.
    """
    days, seconds = divmod(time_s, 86_400)
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += 400 * era + (month <= 2)
    hour, seconds = divmod(seconds, 3_600)
    return f"{year:04}{month:02}{day:02}T{hour:02}{seconds // 60:02}{seconds % 60:02}Z"


def hold_to_time(claim: Claim, now_s: int) -> Refusal | None:
    """Whether the signature is of now."""
    made_s, is_presigned = claim.time_s, claim.expires_s is not None
    lasts_s = claim.expires_s if claim.expires_s is not None else SKEW_S
    if now_s - lasts_s <= made_s <= now_s + SKEW_S:
        return None
    now = stamp_of(now_s)
    if made_s > now_s:
        limit = stamp_of(now_s + SKEW_S)
        text = f"not yet current: {claim.stamp} is still later than {limit} ({now} + 5 min.)"
    elif is_presigned:
        text = f"expired: {stamp_of(made_s + lasts_s)} is now earlier than {now}"
    else:
        limit = stamp_of(now_s - SKEW_S)
        text = f"expired: {claim.stamp} is now earlier than {limit} ({now} - 5 min.)"
    return _invalid(f"Signature {text}")


# --- the signature


def hold_to_payload(headers: Headers, body_hash: str) -> Refusal | None:
    """What the request says of its body, if anything, must be so. `body_hash`: of the bytes as they
    came, in hexadecimal digits.
    """
    said = headers.get(b"x-amz-content-sha256")
    if said is None or hmac.compare_digest(said, body_hash.encode()):
        return None
    if said.startswith((b"UNSIGNED-PAYLOAD", b"STREAMING-")):
        return _invalid(
            "The body of a request must be signed here: UNSIGNED-PAYLOAD and STREAMING-... as"
            " x-amz-content-sha256 are not taken."
        )
    return _invalid("The provided 'x-amz-content-sha256' header does not match what was computed.")


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
    # curl signs a path as it sends it. Where that has no percent sign, nothing else can be meant.
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
    """The signed headers and their names, as they are signed; None: they cannot be. Of a name that
    came more than once the values are joined by commas (`http/head.py`).
    """
    parts: list[bytes] = []
    for name in names:
        value = headers.get(name)
        if value is None:
            if name == b":authority":
                value = headers.get(b"host")
            elif name == b"content-encoding":  # `identity` is no coding, and was taken out
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
    """The headers that sign a request without a query. `headers`: what it has beside them, `host`
    among them. `path`: as it is sent.
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


# --- refusals


def _incomplete(text: str) -> Refusal:
    return refuse("IncompleteSignatureException", text)


def _invalid(text: str) -> Refusal:
    return refuse("InvalidSignatureException", text)


def _unsigned(name: bytes) -> Refusal:
    shown = name.decode("latin-1")[:100]
    return _invalid(f"There is a header in the request that must be signed and is not: '{shown}'.")
