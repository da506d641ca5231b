"""What botocore signs is verified, and nothing that was changed after it; what the service says."""

import datetime as dt
from hashlib import sha256
from typing import Any

import pytest
from botocore import auth as botocore_auth
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.wire.claim import MISMATCH, UNKNOWN_KEY, Claim, check_time, read_claim
from kdaemon.wire.refusals import Refusal
from kdaemon.wire.signature import DERIVED_MAX, AccessKey, check_payload, is_signed_with, sign
from kdaemon.wire.stamps import stamp_of

NOW_S = 1_795_880_096  # 2026-11-28T16:54:56Z; any second would do
KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = {KEY_ID: AccessKey(SECRET)}
TARGET = "Kinesis_20131202.PutRecord"


class Request:
    """A request as it comes: what a listener hands over."""

    def __init__(
        self, method: str, path: str, query: str, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        self.method, self.path, self.query = method, path, query
        self.headers, self.body = headers, body

    def but(self, **changed: Any) -> "Request":
        names = ("method", "path", "query", "headers", "body")
        return Request(**{name: changed.get(name, getattr(self, name)) for name in names})

    def with_header(self, name: bytes, value: bytes | None) -> "Request":
        headers = {each: old for each, old in self.headers.items() if each != name}
        return self.but(headers=headers if value is None else headers | {name: value})


def verdict(request: Request, now_s: int = NOW_S, keys: dict[str, AccessKey] = KEYS) -> str | None:
    """The text of the refusal; None: it is signed."""
    refusal = refused(request, now_s, keys)
    return None if refusal is None else f"{refusal.code}: {refusal.message}"


def refused(request: Request, now_s: int, keys: dict[str, AccessKey]) -> Refusal | None:
    claim = read_claim(request.query, request.headers)
    if isinstance(claim, Refusal):
        return claim
    key = keys.get(claim.key_id)
    if key is None:
        return UNKNOWN_KEY
    body_hash = sha256(request.body).hexdigest()
    refusal = check_time(claim, now_s) or check_payload(request.headers, body_hash)
    if refusal is not None:
        return refusal
    is_signed = is_signed_with(key, claim, request.method, request.path, request.headers, body_hash)
    return None if is_signed else MISMATCH


def signed_by_botocore(
    monkeypatch: pytest.MonkeyPatch,
    *,
    method: str = "POST",
    path: str = "/",
    query: str = "",
    headers: dict[str, str] | None = None,
    body: bytes = b'{"StreamName":"s"}',
    secret: str = SECRET,
    region: str = "eu-central-1",
    service: str = "kinesis",
    signer: type[SigV4Auth] = SigV4Auth,
    time_s: int = NOW_S,
) -> Request:
    at = dt.datetime.fromtimestamp(time_s, dt.UTC)
    monkeypatch.setattr(botocore_auth, "get_current_datetime", lambda: at)
    given = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET}
    url = f"http://127.0.0.1:8990{path}" + (f"?{query}" if query else "")
    request = AWSRequest(
        method=method, url=url, headers=given if headers is None else headers, data=body
    )
    signer(Credentials(KEY_ID, secret), service, region).add_auth(request)
    sent = request.url.partition("8990")[2]
    sent_path, _, sent_query = sent.partition("?")
    raw = {
        name.lower().encode(): value.strip().encode("latin-1")
        for name, value in request.headers.items()
    }
    raw.setdefault(b"host", b"127.0.0.1:8990")
    return Request(method, sent_path, sent_query, raw, request.body or b"")


@pytest.fixture
def good(monkeypatch: pytest.MonkeyPatch) -> Request:
    request = signed_by_botocore(monkeypatch)
    assert verdict(request) is None
    return request


# --- what botocore signs

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", min_size=1)
SEGMENT = st.text("abcXYZ019-._~:@$&'()*+,;=%", min_size=1, max_size=12).filter(
    lambda text: text not in {".", ".."}
)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(
    segments=st.lists(SEGMENT, max_size=4),
    query=st.lists(st.tuples(TOKEN, TOKEN), max_size=4),
    headers=st.dictionaries(
        TOKEN.map(lambda name: f"X-Amz-Meta-{name}".lower()), VALUE, max_size=4
    ),
    body=st.binary(max_size=300),
    region=st.sampled_from(["us-east-1", "eu-central-1", "ru-central1"]),
)
def test_whatever_botocore_signs_is_verified_and_nothing_that_was_changed(
    segments: list[str],
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
    region: str,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        request = signed_by_botocore(
            monkeypatch,
            path="/" + "/".join(segments),
            query="&".join(f"{name}={value}" for name, value in query),
            headers={"X-Amz-Target": TARGET, **headers},
            body=body,
            region=region,
        )
    assert verdict(request) is None
    for changed in changes(request):
        assert verdict(changed) is not None, (vars(changed), vars(request))


def changes(request: Request) -> list[Request]:
    """The request with one thing changed."""
    found = [
        request.but(method="PUT"),
        request.but(path=request.path + "x"),
        request.but(path="/x" + request.path),
        request.but(path=request.path + "/."),
        request.but(path="/y/.." + request.path),
        request.but(path="/" + request.path),
        request.but(query=request.query + "&x=y" if request.query else "x=y"),
        request.but(body=request.body + b"\0"),
        request.but(body=b"\0" + request.body[1:] if request.body[:1] != b"\0" else b"x"),
        request.with_header(b"x-amz-late", b"1"),
        request.with_header(b"x-kdaemon-acknowledge", b"accepted"),
    ]
    for name, value in request.headers.items():
        if name not in {b"user-agent", b"authorization", b"content-length"}:
            found += [request.with_header(name, value + b"x"), request.with_header(name, None)]
    authorization = request.headers.get(b"authorization")
    if authorization is not None:
        for old, new in (
            (b"AKIDEXAMPLE", b"AKIDEXAMPLf"),
            (b"kinesis", b"firehose"),
            (b"-central", b"-north"),
            (b"us-east-1", b"us-east-2"),
            (b"ru-central1", b"ru-central2"),
            (b";x-amz-target", b""),
            (b"host;", b""),
            (b"20261128", b"20261129"),
        ):
            if old in authorization:
                changed = authorization.replace(old, new)
                found.append(request.with_header(b"authorization", changed))
        last = b"0" if authorization[-1:] != b"0" else b"1"
        found.append(request.with_header(b"authorization", authorization[:-1] + last))
    return found


@given(
    query=st.lists(st.tuples(TOKEN, TOKEN), max_size=3, unique_by=lambda pair: pair[0]),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
)
def test_a_presigned_url_is_verified_and_nothing_that_was_changed(
    query: list[tuple[str, str]], region: str
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        request = signed_by_botocore(
            monkeypatch,
            path="/v1/streams/s/records",
            query="&".join(f"{name}={value}" for name, value in query),
            headers={"X-Amz-Target": TARGET},
            body=b"",
            region=region,
            signer=SigV4QueryAuth,
        )
    assert verdict(request) is None
    assert verdict(request, NOW_S + 3_600) is None
    late = f"Signature expired: {stamp_of(NOW_S + 3_600)} is now earlier than"
    assert late in str(verdict(request, NOW_S + 3_601))
    assert "not yet current" in str(verdict(request, NOW_S - 301))
    for changed in changes(request):
        assert verdict(changed) is not None, vars(changed)
    for part in ("X-Amz-Date=2026", "X-Amz-Expires=3", "X-Amz-Signature=", "X-Amz-Credential=A"):
        for new in (part + "9", part.replace("X-Amz", "X-Amy")):
            assert verdict(request.but(query=request.query.replace(part, new))) is not None


def test_a_date_header_stands_for_x_amz_date(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Date": "now", "X-Amz-Target": TARGET}
    request = signed_by_botocore(monkeypatch, headers=headers)
    assert b"x-amz-date" not in request.headers
    assert verdict(request) is None
    later = request.headers[b"date"].replace(b":56", b":57")
    assert verdict(request.with_header(b"date", later)) is not None


def test_the_names_of_http_2_and_a_coding_that_is_none_are_as_they_were_signed() -> None:
    """JavaScript v3 over HTTP/2 signs `:authority`. `identity` is taken out before a handler."""
    headers = {b":authority": b"a:1", b"content-encoding": b"identity", b"x-amz-target": b"t"}
    got = sign(KEY_ID, KEYS[KEY_ID], "us-east-1", NOW_S, "POST", "/", headers, b"x")
    came = {b"host": b"a:1", b"x-amz-target": b"t"}
    came |= {name.lower().encode(): value.encode() for name, value in got.items()}
    assert verdict(Request("POST", "/", "", came, b"x")) is None
    assert verdict(Request("POST", "/", "", came | {b"content-encoding": b"gzip"}, b"x"))


@pytest.mark.parametrize("path", ["/v1/streams/arn:aws:kinesis:x:1:stream/s/records", "/a=b"])
def test_a_path_may_be_signed_as_it_is_sent(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """curl does; others encode it once more. A path with a percent sign could mean two things."""
    monkeypatch.setattr(SigV4Auth, "_normalize_url_path", lambda _, path: path)
    assert verdict(signed_by_botocore(monkeypatch, path=path)) is None
    assert verdict(signed_by_botocore(monkeypatch, path=path + "%2Fx")) is not None


def test_the_vector_that_aws_gives_for_a_signing_key() -> None:
    """ "Deriving the signing key" of the AWS reference, for another service; so by parts."""
    ours = AccessKey(SECRET).sign("text", "20120215", "us-east-1")
    signer = SigV4Auth(Credentials(KEY_ID, SECRET), "kinesis", "us-east-1")
    request = AWSRequest("POST", "http://a/")
    request.context["timestamp"] = "20120215T000000Z"
    assert signer.signature("text", request).encode() == ours


# --- sign: the other direction


@given(path=st.lists(SEGMENT, max_size=3), body=st.binary(max_size=100))
def test_what_we_sign_we_verify(path: list[str], body: bytes) -> None:
    headers = {b"host": b"a:1", b"x-kdaemon-acknowledge": b"stored"}
    sent = "/" + "/".join(path)
    got = sign(KEY_ID, KEYS[KEY_ID], "us-east-1", NOW_S, "POST", sent, headers, body)
    came = headers | {name.lower().encode(): value.encode() for name, value in got.items()}
    request = Request("POST", sent, "", came, body)
    assert verdict(request) is None
    assert verdict(request.with_header(b"x-kdaemon-acknowledge", b"accepted")) is not None


# --- refusals in the service's words


def test_a_request_without_a_signature_is_refused_in_the_service_s_words(good: Request) -> None:
    without = good.with_header(b"authorization", None)
    assert verdict(without) == "MissingAuthenticationTokenException: Missing Authentication Token"


@pytest.mark.parametrize(
    ("authorization", "said"),
    [
        (b"", "IncompleteSignatureException: Unsupported algorithm"),
        (b"Basic QTpC", "IncompleteSignatureException: Unsupported algorithm"),
        (b"AWS4-ECDSA-P256-SHA256 Credential=a", "IncompleteSignatureException: Unsupported"),
        (b"AWS4-HMAC-SHA256", "IncompleteSignatureException: a part of the Authorization header"),
        (b"AWS4-HMAC-SHA256 Credential=a/b/c/d/e", "requires 'Signature' parameter."),
        (b"AWS4-HMAC-SHA256 Credential=a/b/c/d/e", "requires 'SignedHeaders' parameter."),
        (b"AWS4-HMAC-SHA256 Credential=a, Credential=b", "stands there twice"),
        (b"AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=b", "exactly 5 slash"),
        (b"AWS4-HMAC-SHA256 Credential=a/20261128/x/sqs/aws4_request,SignedHeaders=a,Signature=b",
         "InvalidSignatureException: Credential should be scoped to correct service: 'kinesis'."),
        (b"AWS4-HMAC-SHA256 Credential=a/20261128/x/kinesis/a,SignedHeaders=a,Signature=b",
         "valid terminator: 'aws4_request'"),
        ((b"AWS4-HMAC-SHA256 Credential=a/20261128/X!/kinesis/aws4_request,SignedHeaders=a,"
         b"Signature=b"), "scoped to a valid region"),
        ((b"AWS4-HMAC-SHA256 Credential=a/20261127/x/kinesis/aws4_request,SignedHeaders=host,"
         b"Signature=b"), "Date in Credential scope does not match"),
        ((b"AWS4-HMAC-SHA256 Credential=a/20261128/x/kinesis/aws4_request,SignedHeaders=a,"
          b"Signature=b"),
         "'Host' or ':authority' must be a 'SignedHeader'"),
    ],
)  # fmt: skip
def test_an_authorization_that_says_nothing(good: Request, authorization: bytes, said: str) -> None:
    assert said in str(verdict(good.with_header(b"authorization", authorization)))


@pytest.mark.parametrize("signature", [b"", b"xyz", b"\xff" * 64, b"0" * 64, b"A" * 64])
def test_a_signature_that_is_none(good: Request, signature: bytes) -> None:
    authorization = good.headers[b"authorization"][:-64] + signature
    said = str(verdict(good.with_header(b"authorization", authorization)))
    if signature:
        assert "does not match the signature you provided" in said
    else:
        assert "requires 'Signature' parameter" in said


def test_the_order_of_its_parts_is_free(good: Request) -> None:
    authorization = good.headers[b"authorization"]
    algorithm, _, rest = authorization.partition(b" ")
    turned = algorithm + b" " + b" , ".join(reversed(rest.split(b", ")))
    assert verdict(good.with_header(b"authorization", turned)) is None


def test_a_clock_that_is_wrong(good: Request) -> None:
    assert verdict(good, NOW_S + 300) is None
    assert verdict(good, NOW_S - 300) is None
    made, now, limit = (stamp_of(NOW_S + each) for each in (0, 301, 1))
    assert verdict(good, NOW_S + 301) == (
        "InvalidSignatureException: Signature expired:"
        f" {made} is now earlier than {limit} ({now} - 5 min.)"
    )
    now, limit = (stamp_of(NOW_S + each) for each in (-301, -1))
    assert verdict(good, NOW_S - 301) == (
        "InvalidSignatureException: Signature not yet current:"
        f" {made} is still later than {limit} ({now} + 5 min.)"
    )


@pytest.mark.parametrize(
    "date",
    [b"", b"yesterday", b"20261128", b"20261128T165456", b"20261328T165456Z", b"20261128T995456Z",
     b"00001128T165456Z", b"2026112\xb2T165456Z", b"Sat, 28 Nux 2026 16:54:56 GMT"],
)  # fmt: skip
def test_a_date_that_is_none(good: Request, date: bytes) -> None:
    said = verdict(good.with_header(b"x-amz-date", date))
    assert str(said).startswith("IncompleteSignatureException: Date must be in ISO-8601")


def test_a_request_without_a_date(good: Request) -> None:
    said = str(verdict(good.with_header(b"x-amz-date", None)))
    assert "requires existence of either a 'X-Amz-Date' or a 'Date' header" in said


def test_a_key_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    good = signed_by_botocore(monkeypatch)
    assert verdict(good, keys={}) == (
        "UnrecognizedClientException: The security token included in the request is invalid."
    )
    other = signed_by_botocore(monkeypatch, secret="another secret of the same key")
    assert str(verdict(other)).startswith(
        "InvalidSignatureException: The request signature we calculated does not match"
    )


def test_a_session_token_is_of_no_key_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-Amz-Target": TARGET, "X-Amz-Security-Token": "IQoJ"}
    said = verdict(signed_by_botocore(monkeypatch, headers=headers))
    assert str(said).startswith("UnrecognizedClientException")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("UNSIGNED-PAYLOAD", "must be signed here"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "must be signed here"),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "must be signed here"),
        ("0" * 64, "does not match what was computed"),
        ("", "does not match what was computed"),
    ],
)
def test_a_body_that_is_not_signed(
    monkeypatch: pytest.MonkeyPatch, payload: str, said: str
) -> None:
    headers = {"X-Amz-Target": TARGET, "X-Amz-Content-SHA256": payload}
    assert said in str(verdict(signed_by_botocore(monkeypatch, headers=headers)))


def test_the_hash_of_the_body_may_stand_in_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-Amz-Content-SHA256": sha256(b"x").hexdigest()}
    assert verdict(signed_by_botocore(monkeypatch, headers=headers, body=b"x")) is None


@pytest.mark.parametrize("name", [b"x-amz-target", b"x-amz-date", b"x-kdaemon-acknowledge"])
def test_what_says_what_is_asked_for_must_be_signed(good: Request, name: bytes) -> None:
    """Also where the signature itself would be right without it."""
    headers = {b"host": b"a"}
    got = sign(KEY_ID, KEYS[KEY_ID], "us-east-1", NOW_S, "POST", "/", headers, b"x")
    came = headers | {each.lower().encode(): value.encode() for each, value in got.items()}
    assert verdict(Request("POST", "/", "", came, b"x")) is None
    came[name] = came.get(name, b"x")
    came[b"authorization"] = came[b"authorization"].replace(b";" + name, b"")
    said = str(verdict(Request("POST", "/", "", came, b"x")))
    assert f"must be signed and is not: '{name.decode()}'" in said


def test_the_host_must_be_signed(good: Request) -> None:
    authorization = good.headers[b"authorization"].replace(b"host;", b"")
    said = str(verdict(good.with_header(b"authorization", authorization)))
    assert "'Host' or ':authority' must be a 'SignedHeader'" in said


def test_a_type_that_is_not_signed_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK for JavaScript v2 leaves it out."""
    request = signed_by_botocore(monkeypatch, headers={"X-Amz-Target": TARGET})
    assert verdict(request.with_header(b"content-type", b"application/x-amz-json-1.1")) is None


def test_two_ways_to_sign_at_once(good: Request) -> None:
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=a"
    assert "by its header Authorization or by its query" in str(verdict(good.but(query=query)))


@pytest.mark.parametrize("expires", ["0", "-1", "604801", "1e3", "", "9" * 30, "٣"])
def test_a_url_that_is_signed_for_ever(monkeypatch: pytest.MonkeyPatch, expires: str) -> None:
    request = signed_by_botocore(monkeypatch, headers={}, body=b"", signer=SigV4QueryAuth)
    query = request.query.replace("X-Amz-Expires=3600", f"X-Amz-Expires={expires}")
    assert str(verdict(request.but(query=query))).startswith("IncompleteSignatureException")


def test_names_out_of_order_or_twice_are_signed_by_nobody(good: Request) -> None:
    for old, new in ((b"content-type;host", b"host;content-type"), (b"host", b"host;host")):
        authorization = good.headers[b"authorization"].replace(old, new)
        assert verdict(good.with_header(b"authorization", authorization)) is not None


def test_signing_keys_that_are_kept_are_bounded() -> None:
    key = AccessKey(SECRET)
    first = key.sign("x", "20261128", "us-east-1")
    for number in range(100):
        key.sign("x", "20261128", f"r-{number}")
    assert key.derived_count <= DERIVED_MAX
    assert key.sign("x", "20261128", "us-east-1") == first


def test_no_secret_is_shown(good: Request) -> None:
    claim = read_claim("", good.headers)
    assert isinstance(claim, Claim)
    assert claim.signature.decode() not in repr(claim)
    assert SECRET not in repr(KEYS[KEY_ID])
