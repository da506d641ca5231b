"""With which key `kdaemon put` signs."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from yarl import URL

from kdaemon.cli import cli
from kdaemon.put.signing import FILE_BYTES_MAX, Signer, signer_of
from kdaemon.put.unix import PutError

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": SECRET}
FILE = f"""
[default]
aws_access_key_id = AKIADEFAULT
aws_secret_access_key = {SECRET}

[shop]
# of the shop
AWS_Access_Key_Id=AKIASHOP
aws_secret_access_key = {SECRET}
region = eu-central-1

[sso]
sso_session = work
[half]
aws_access_key_id = AKIAHALF
[percent]
aws_access_key_id = AKIAPERCENT
aws_secret_access_key = %(x)s/{SECRET}
[folded]
aws_access_key_id = AKIA
 FOLDED
aws_secret_access_key = {SECRET}
"""


@pytest.fixture
def file(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "credentials"
    path.write_text(FILE)
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path)}


def key_id(signer: Signer | None) -> str | None:
    if signer is None:
        return None
    header = signer.sign(URL("http://localhost/"), {}, b"")["Authorization"]
    return header.partition("Credential=")[2].partition("/")[0]


def now() -> float:
    return 1_795_880_096.0


@pytest.mark.parametrize(
    ("profile", "environ", "found"),
    [
        (None, {}, None),
        (None, KEYS, "AKIAENV"),
        (None, {"AWS_ACCESS_KEY_ID": "AKIAENV"}, None),
        ("shop", {}, "AKIASHOP"),
        ("shop", KEYS, "AKIASHOP"),
        ("shop", {**KEYS, "AWS_PROFILE": "sso"}, "AKIASHOP"),
        (None, {"AWS_PROFILE": "shop"}, "AKIASHOP"),
        (None, {**KEYS, "AWS_PROFILE": "shop"}, "AKIAENV"),
        (None, {**KEYS, "AWS_PROFILE": "sso"}, "AKIAENV"),
        (None, {"AWS_PROFILE": ""}, None),
        ("default", {}, "AKIADEFAULT"),
        ("percent", {}, "AKIAPERCENT"),
    ],
)
def test_the_key_is_the_one_that_is_named_nearest(
    file: dict[str, str], profile: str | None, environ: dict[str, str], found: str | None
) -> None:
    """As AWS's tools have it: a profile that is asked for, keys, a profile of the environment."""
    assert key_id(signer_of({**file, **environ}, now, profile)) == found


def test_the_file_is_where_aws_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PutError, match="No such file"):
        signer_of({}, now, "shop")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_bytes(b"\xef\xbb\xbf" + FILE.encode())
    assert key_id(signer_of({}, now, "shop")) == "AKIASHOP"


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("none", "cannot find the profile none (--profile)"),
        ("", "cannot find the profile  (--profile)"),
        ("sso", "it has no aws_access_key_id and no aws_secret_access_key"),
        ("half", "it has no aws_secret_access_key. Requests"),
        ("folded", "its aws_access_key_id has characters that no key has"),
    ],
)
def test_a_profile_that_cannot_sign_is_an_error(
    file: dict[str, str], profile: str, why: str
) -> None:
    with pytest.raises(PutError) as caught:
        signer_of({**file, **KEYS}, now, profile)
    assert why in str(caught.value)
    assert file["AWS_SHARED_CREDENTIALS_FILE"] in str(caught.value)
    if profile:
        with pytest.raises(PutError, match="AWS_PROFILE"):
            signer_of({**file, "AWS_PROFILE": profile}, now)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"aws_secret_access_key = {SECRET}\n".encode(), "no INI file at line 1"),
        (f"[shop]\n{SECRET}\n".encode(), "no INI file at line 2"),
        (f"[shop]\na=1\na={SECRET}\n".encode(), "no INI file at line 3"),
        (b"[shop]\n[shop]\n", "no INI file at line 2"),
        (b"\xff\xfe[\0s\0", "no UTF-8 text"),
        (b"#" * (FILE_BYTES_MAX + 1), "more than"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_without_its_secrets(
    tmp_path: Path, text: bytes, why: str
) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(text)
    with pytest.raises(PutError) as caught:
        signer_of({"AWS_SHARED_CREDENTIALS_FILE": str(path)}, now, "shop")
    assert why in str(caught.value)
    assert SECRET[:8] not in str(caught.value)


def test_a_profile_needs_http() -> None:
    done = CliRunner().invoke(cli, ["put", "--stream", "s", "--socket", "x", "--profile", "shop"])
    assert done.exit_code == 2
    assert "needs --endpoint" in done.output
