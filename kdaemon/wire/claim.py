"""What a request says about its signer and its time: a claim that is not yet checked. Pure.

Reads the header Authorization, or the X-Amz-* of a presigned URL. Refusals are values, in the
service's words. Knows no key, no file, no clock and no principal; `signature.py` checks whether the
claim is true.

Where AWS is lenient this is strict, because an unsigned part could be changed on the way: all
headers that say what is asked for must be signed (`x-amz-*`, `x-kdaemon-*`, the host).
`content-type` may be unsigned, as the SDK for JavaScript v2 leaves it: a JSON body has no other
meaning, so a changed type gives a refusal.
Invariant: no input of a client makes a function raise, and each takes time linear in the request's
head.
Where it sits: `door/access.py` -> here.

Source: AWS, "Create a signed AWS API request"; botocore 1.43.117 `auth.py`; checked 2026-11-28.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from kdaemon.wire.refusals import Refusal, refuse
from kdaemon.wire.stamps import read_stamp, stamp_of

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SERVICE: Final = "kinesis"
END: Final = "aws4_request"
SKEW_S: Final = 300  # how old, or how far ahead, a signature may be: as AWS's five minutes
PRESIGNED_S_MAX: Final = 604_800  # how long a presigned URL may be good: as AWS's seven days

READ_MAX: Final = 64
"""Remembered scopes: a client's stays the same for a while. Ours, 2026-11-28: a head has at most 32
KiB, so a scope has, too."""

Headers = Mapping[bytes, bytes]

_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=([^,\s]+) *, *SignedHeaders=([^,\s]+) *, *"
    rb"Signature=([0-9a-f]{64})"
)
_PARTS = (b"Credential", b"SignedHeaders", b"Signature")
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
    """The part of a claim that is the same in all of a client's signatures of one day."""

    key_id: str
    date: str
    region: str
    names: tuple[bytes, ...]  # names of the signed headers
    listed: bytes  # the same names, as they are signed


class Claim(NamedTuple):
    """What a request says of its signature. `time_s`: when it was made, since 1970; `stamp`: the
    same time as it is signed. `query`: the signed form of the query. `expires_s`: of a presigned
    URL, how long it is good.
    """

    scope: Scope
    signature: bytes
    stamp: str
    time_s: int
    query: str
    expires_s: int | None

    @property
    def key_id(self) -> str:
        """The access key id."""
        return self.scope.key_id

    def __repr__(self) -> str:
        """Leaves the signature out."""
        return f"Claim({self.scope.key_id}, {self.stamp})"


def read_claim(query: str, headers: Headers) -> Claim | Refusal:
    """The claim of a request. Header names in lower case; `query` as it came."""
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
    return claim if isinstance(claim, Refusal) else _check_rules(claim, headers)


def _read_parts(authorization: bytes) -> tuple[bytes, bytes, bytes] | Refusal:
    """Reads a header that is written in another way, or wrong."""
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
    """The claim of a presigned URL."""
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
    return claim if isinstance(claim, Refusal) else _check_rules(claim, headers)


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
    found = read_stamp(written)
    if found is None:
        return _incomplete("Date must be in ISO-8601 'basic format', such as 20261128T160000Z.")
    stamp, time_s = found
    if stamp[:8] != scope.date:
        return invalid(
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
        return invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if end != END:
        return invalid(f"Credential should be scoped with a valid terminator: '{END}'.")
    if _REGION.fullmatch(region) is None:
        return invalid("Credential should be scoped to a valid region.")
    signed = tuple(names.split(b";"))
    if b"host" not in signed and b":authority" not in signed:
        return invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    if list(signed) != sorted(set(signed)):
        return MISMATCH  # there is only one way to write them
    return Scope(key_id, date, region, signed, names)


def _check_rules(claim: Claim, headers: Headers) -> Claim | Refusal:
    """Refuses unsigned headers that must be signed, and session tokens: our keys have none."""
    names = claim.scope.names
    for name in headers:
        if name.startswith(_MUST_BE_SIGNED) and name not in names:
            return _unsigned(name)
    if b"x-amz-security-token" in headers:
        return UNKNOWN_KEY
    return claim


def _sorted_query(query: str) -> str:
    """The query as it is signed. Percent signs in it stay."""
    if not query:
        return ""
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{name}={value}" for name, value in sorted((a, c) for a, _, c in pairs))


def check_time(claim: Claim, now_s: int) -> Refusal | None:
    """Refuses a signature that is too old, or too far ahead; None: its time is right."""
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
    return invalid(f"Signature {text}")


def _incomplete(text: str) -> Refusal:
    return refuse("IncompleteSignatureException", text)


def invalid(text: str) -> Refusal:
    """A signature that is no signature of this request."""
    return refuse("InvalidSignatureException", text)


def _unsigned(name: bytes) -> Refusal:
    shown = name.decode("latin-1")[:100]
    return invalid(f"There is a header in the request that must be signed and is not: '{shown}'.")
