"""Who signed a request: no input makes the verifier raise, and none is taken but what was signed.

An input is a request as text: method and target, headers, an empty line, a body. The seeds are
signed with the key that the verifier has. A fuzzer cannot sign: whatever is taken must say the same
as a seed, in all that its signature holds.
"""

from hashlib import sha256

from kdaemon.wire.claim import Claim, check_time, read_claim
from kdaemon.wire.refusals import Refusal
from kdaemon.wire.signature import AccessKey, check_payload, is_signed_with, sign
from kdaemon.wire.stamps import stamp_of

NOW_S = 1_795_880_096
KEY_ID, KEY = "AKIDEXAMPLE", AccessKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
TARGET = b"Kinesis_20131202.PutRecord"


def _seed(path: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
    headers = {b"host": b"127.0.0.1:8990", **headers}
    added = sign(KEY_ID, KEY, "us-east-1", NOW_S, "POST", path, headers, body)
    headers |= {name.lower().encode(): value.encode() for name, value in added.items()}
    lines = [b"POST " + path.encode(), *(name + b": " + headers[name] for name in headers)]
    return b"\n".join(lines) + b"\n\n" + body


def _presigned() -> bytes:
    """The query of a URL that is signed for an hour."""
    scope = f"{KEY_ID}%2F{stamp_of(NOW_S)[:8]}%2Fus-east-1%2Fkinesis%2Faws4_request"
    query = (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date={stamp_of(NOW_S)}"
        "&X-Amz-Expires=3600&X-Amz-SignedHeaders=host"
    )
    canonical = f"POST\n/\n{query}\nhost:a\n\nhost\n{sha256(b'').hexdigest()}"
    scope = scope.replace("%2F", "/").partition("/")[2]
    digest = sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp_of(NOW_S)}\n{scope}\n{digest}"
    signature = KEY.sign(text, stamp_of(NOW_S)[:8], "us-east-1").decode()
    return f"POST /?{query}&X-Amz-Signature={signature}\nhost: a\n\n".encode()


SEEDS = [
    _seed("/", {b"x-amz-target": TARGET}, b'{"StreamName":"s"}'),
    _seed("/v1/streams/a%2Fb:c/records", {b"x-kdaemon-acknowledge": b"stored"}, b'{"data":"x"}\n'),
    _seed("/", {b"content-encoding": b"identity", b":authority": b"a"}, b""),
    _presigned(),
]
TOKENS = [
    *(b"AWS4-HMAC-SHA256", b"Credential=", b"SignedHeaders=", b"Signature=", b"/aws4_request"),
    *(
        b"host",
        b";",
        b"; ",
        b",",
        b", ",
        b"=",
        b"\n",
        b"  ",
        b"\t",
        b"%2F",
        b"%",
        b"/",
        b"//",
        b".",
    ),
    *(b"x-amz-date", b"x-amz-target", b"date: Sat, 28 Nov 2026 16:54:56 GMT", b"X-Amz-Date="),
    *(b"x-amz-content-sha256: UNSIGNED-PAYLOAD\n", b"x-amz-security-token: t\n", b":authority"),
    *(stamp_of(NOW_S).encode(), b"X-Amz-Expires=", b"X-Amz-Signature=", b"&", b"?", b"\xff"),
]

Said = tuple[str, str, tuple[str, ...], tuple[tuple[bytes, bytes], ...], bytes]


def _read(data: bytes) -> tuple[str, str, str, dict[bytes, bytes], bytes]:
    head, _, body = data.partition(b"\n\n")
    line, *lines = head.split(b"\n")
    method, _, target = line.decode("latin-1").partition(" ")
    path, _, query = target.partition("?")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (each.rpartition(b": ") for each in lines)
    }
    return method, path, query, headers, body


def _verified(data: bytes) -> Said | None:
    """What is said by a request that is taken; None: it is refused."""
    method, path, query, headers, body = _read(data)
    claim = read_claim(query, headers)
    if isinstance(claim, Refusal):
        _check(claim)
        return None
    assert isinstance(claim, Claim)
    body_hash = sha256(body).hexdigest()
    refusal = check_time(claim, NOW_S) or check_payload(headers, body_hash)
    if refusal is not None:
        _check(refusal)
    is_signed = is_signed_with(KEY, claim, method, path, headers, body_hash)
    if refusal is not None or not is_signed or claim.key_id != KEY_ID:
        return None
    assert set(claim.scope.names) & {b"host", b":authority"}
    for name in headers:
        assert not name.startswith((b"x-amz-", b"x-kdaemon-")) or name in claim.scope.names
    default = {b":authority": headers.get(b"host", b""), b"content-encoding": b"identity"}
    signed = [(name, headers.get(name, default.get(name, b""))) for name in claim.scope.names]
    values = tuple((name, b" ".join(value.split())) for name, value in signed)
    pairs = (pair.partition("=") for pair in query.split("&"))
    return method, path, tuple(sorted(name + "=" + value for name, _, value in pairs)), values, body


def _check(refusal: Refusal) -> None:
    assert refusal.status == 400
    assert refusal.is_permanent
    assert refusal.code.endswith("Exception")
    assert len(refusal.message or "") < 500


_TRUE = {_verified(seed) for seed in SEEDS}
assert None not in _TRUE, "the seeds are signed"


def one_input(data: bytes) -> None:
    said = _verified(data)
    assert said is None or said in _TRUE, said
