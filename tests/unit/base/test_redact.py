import json
from html import escape
from urllib.parse import quote_plus

import pytest

from kdaemon.base.redact import (
    CLEANED_CHARACTERS_MAX,
    HIDDEN,
    ROTATING_MAX,
    Redactor,
    masked_text,
    masked_url,
)

KEY_ID = "LKIAEXAMPLE000001"  # of no form that a pattern knows: found by its value
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3Qt+TSJIMEYCIQDabcdefgh=="
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=test/20261128/us-east-1/kinesis/aws4_request,"
    " SignedHeaders=host;x-amz-date, Signature=" + "0123456789abcdef" * 4
)


@pytest.fixture
def redactor() -> Redactor:
    redactor = Redactor()
    redactor.register(KEY_ID, SECRET, TOKEN)
    return redactor


WRITTEN = {
    "as it is": lambda secret: secret,
    "in a URL": quote_plus,
    "in a URL, lower case": lambda secret: quote_plus(secret).lower(),
    "in JSON": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "in HTML": escape,
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("secret", [KEY_ID, SECRET, TOKEN], ids=["id", "secret", "token"])
def test_a_registered_secret_is_hidden_however_it_is_written(
    redactor: Redactor, secret: str, write: object
) -> None:
    assert callable(write)
    cleaned = redactor.clean(f"proxy: I got <{write(secret)}> and more")
    assert HIDDEN in cleaned
    assert cleaned.endswith("and more")
    for part in (secret[:16], secret[-16:]):
        assert part not in cleaned


@pytest.mark.parametrize("text", [TOKEN[:30], f"{TOKEN[:25]}\n {TOKEN[25:50]}", TOKEN[7:40]])
def test_parts_of_a_secret_are_hidden_too(redactor: Redactor, text: str) -> None:
    cleaned = redactor.clean(f"cut off: {text}")
    assert not any(TOKEN[at : at + 16] in cleaned for at in range(len(TOKEN) - 16))


ECHOES = {
    "a header": f"Authorization: {AUTHORIZATION}",
    "a field": json.dumps({"authorization": AUTHORIZATION}),
    "a field in JSON in JSON": json.dumps(json.dumps({"Authorization": AUTHORIZATION})),
    "a pair": str([("Authorization", AUTHORIZATION)]),
    "in the service's words": f"... 'Signature' parameter. Authorization={AUTHORIZATION}",
    "without its name": AUTHORIZATION,
    "a signed URL": "GET /?X-Amz-Credential=test%2F20261128&X-Amz-Signature=0123456789abcdef",
    "in HTML": escape(json.dumps({"Authorization": AUTHORIZATION})),
}


@pytest.mark.parametrize("text", ECHOES.values(), ids=ECHOES.keys())
def test_an_authorization_header_is_hidden_by_its_form(text: str) -> None:
    cleaned = Redactor().clean(text)
    assert "0123456789abcdef" not in cleaned
    assert "test/" not in cleaned
    assert "test%2F" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "x-amz-security-token:sekrit",
        'X-Amz-Security-Token: "sekrit"',
        "('X-Amz-Security-Token', 'sekrit')",
        "X-Amz-Security-Token=sekrit&X-Amz-Date=1",
        "X-YaCloud-SubjectToken: sekrit",
        "Authorization: Bearer sekrit",
        "Proxy-Authorization: Basic sekrit",
        "authorization failed for Bearer sekrit-sekrit",
        '{"SecretAccessKey": "sekrit"}',
        "aws_secret_access_key = sekrit",
        "AWS_SESSION_TOKEN=sekrit",
        "http://sekrit:sekrit@proxy:3128/",
        "'sekrit' not a valid key=value pair (missing equal-sign) in Authorization header: 'sekrit",
        "The security token sekrit0sekrit0sekrit0 is invalid",
    ],
)
def test_what_is_named_a_secret_is_hidden(text: str) -> None:
    assert "sekrit" not in Redactor().clean(text)


@pytest.mark.parametrize(
    "key",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "IQoJb3JpZ2luX2VjE" + "Jr/+9=" * 20,
        "FwoGZXIvYXdzE" + "Jr/+9=" * 20,
        "YCAJE" + "x-_9" * 5,
        "YCP" + "x" * 37,
        "t1.9euelZq_-8=." + "a-_9" * 21 + "ab",
    ],
)
def test_access_keys_are_hidden_by_their_form(key: str) -> None:
    assert key not in Redactor().clean(f"the key {key} is unknown")


@pytest.mark.parametrize(
    "text",
    [
        "credentials cannot be read: FileNotFoundError",
        "Credential should be scoped to a valid region, not us-east-1",
        "Signature expired: 20261128T000000Z is now earlier than 20261128T000500Z",
        "The security token included in the request is invalid.",
        "User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform this",
        "kinesis:PutRecords on resource: arn:aws:kinesis:us-east-1:123456789012:stream/demo",
        "Rate exceeded for shard shardId-000000000000 in stream demo under account 123456789012.",
        "key arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "sequence number 49590338271490256608559692538361571095921575989136588898",
        "http://127.0.0.1:4567/v1/streams?a=b@c",
        "stream AREASOMETHINGELSE2024 of YCLOUD-production-events-main-stream and t1.micro",
    ],
)
def test_what_an_operator_needs_stays(redactor: Redactor, text: str) -> None:
    assert redactor.clean(text) == text


def test_a_short_value_is_no_secret() -> None:
    redactor = Redactor()
    redactor.register("test", "", None)
    assert redactor.clean("a test of None") == "a test of None"


def test_the_oldest_is_forgotten_but_not_what_is_fixed() -> None:
    redactor = Redactor()
    redactor.register("of-the-configuration", is_fixed=True)
    for number in range(ROTATING_MAX + 1):
        redactor.register(f"temporary-{number:03}")
    assert redactor.clean("of-the-configuration") == HIDDEN
    assert redactor.clean("temporary-000") == "temporary-000"
    assert redactor.clean("temporary-001") == HIDDEN
    assert redactor.clean(f"temporary-{ROTATING_MAX:03}") == HIDDEN


def test_a_text_of_any_length_is_bounded() -> None:
    assert len(Redactor().clean("x" * (CLEANED_CHARACTERS_MAX + 1))) == CLEANED_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@host:80/x", "http://***@host:80/x"),
        ("http://u:p/a@s@host", "http://***@host"),
        ("http://token@[::1]:1", "http://***@[::1]:1"),
        ("http://host/x", "http://host/x"),
        ("user:secret@host:80", "***@host:80"),
        ("user:se/cr@et@host", "***@host"),
        ("token@host:80", "***@host:80"),
        ("http:/user:secret@host", "***@host"),
        ("http:user:secret@host", "***@host"),
        ("host:80", "host:80"),
        ("no url", "no url"),
    ],
)
def test_a_url_is_shown_without_who_calls(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:80/x", "http://***@host:80/x"),
        ("http://token@host", "http://***@host"),
        ("user:secret@host:80", "***@host:80"),
        ("http:/user:secret@host", "***@host"),
        ("me@company", "me@company"),  # a profile
        ("/run/a:b@c.sock", "/run/a:b@c.sock"),
        ("arn:aws:iam::123456789012:role/me@company", "arn:aws:iam::123456789012:role/me@company"),
        ("@abstract:1", "@abstract:1"),
        ("127.0.0.1:8990", "127.0.0.1:8990"),
    ],
)
def test_a_text_that_may_be_a_url_is_shown_without_who_calls(text: str, shown: str) -> None:
    assert masked_text(text) == shown


def test_what_an_owner_calls_with_is_hidden_however_many_come_and_go(redactor: Redactor) -> None:
    """A key pair that never changes, beside the roles of other upstreams."""
    redactor.register("the-key-of-one", "the-secret-of-one", owner="one")
    for number in range(ROTATING_MAX * 2):
        redactor.register(f"the-token-of-two-{number:04}", owner="two")
        redactor.register(f"nobodys-{number:08}")
    assert redactor.clean("<the-secret-of-one>") == "<***>"
    assert redactor.are_in(b"<the-secret-of-one>")
    assert redactor.are_in(f"<the-token-of-two-{ROTATING_MAX * 2 - 1:04}>".encode())
    assert not redactor.are_in(b"<the-token-of-two-0001>")
    assert redactor.clean(f"<the-token-of-two-{ROTATING_MAX * 2 - 2:04}>") == "<***>"
    redactor.register("the-key-of-ONE", owner="one")
    assert redactor.clean("<the-secret-of-one>") == "<***>"  # it may come back for a while
    for number in range(ROTATING_MAX):
        redactor.register(f"others-{number:08}")
    assert redactor.clean("<the-secret-of-one>") == "<the-secret-of-one>"


def test_a_secret_that_is_registered_again_is_among_the_newest(redactor: Redactor) -> None:
    redactor.register("a-secret-of-old")
    for number in range(10):
        redactor.register(f"others-{number:08}")
    assert not redactor.are_in(b"a-secret-of-old")
    redactor.register("a-secret-of-old")
    assert redactor.are_in(b"a-secret-of-old")


def test_the_name_of_a_well_known_file_announces_no_secret(redactor: Redactor) -> None:
    path = "/etc/passwd: not a directory"
    assert redactor.clean(path) == path
    assert redactor.clean("passwd: wonderful") == f"passwd: {HIDDEN}"
