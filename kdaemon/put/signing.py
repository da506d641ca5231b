"""The access key with which `kdaemon put` signs its requests, and the signing.

About: the AWS variables of the environment, and profiles in the file that AWS's tools share. The
AWS libraries are not used (`send/credentials.py` does): a daemon knows only access keys, so roles,
SSO and credential processes are of no use here.
Invariant: no secret is in an error. A named profile signs, or is an error: no request is sent
unsigned, or with another key, by mistake.
Where it sits: cli/ asks for a signer -> http.py signs each request with it.
"""

import configparser
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from yarl import URL

from kdaemon.base.endpoint import region_variable
from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable
from kdaemon.put.unix import PutError
from kdaemon.wire.signature import AccessKey, sign

DEFAULT_REGION = "us-east-1"  # of a signature, if no variable gives one: a daemon takes any
CREDENTIALS_FILE = "~/.aws/credentials"  # where AWS's tools look (SDKs and Tools reference)
FILE_BYTES_MAX = 1024 * 1024  # of that file; ours, 2026-11-28: a thousand profiles take 150 KiB

_PART = re.compile(r"[!-~]+")  # the characters of a key: those that a header can have


class Signer:
    """Signs requests with an access key, as AWS's clients do."""

    def __init__(
        self, key_id: str, secret: str, region: str, wall_seconds: Callable[[], float]
    ) -> None:
        SECRETS.register(secret, is_fixed=True)
        self._key_id, self._key = key_id, AccessKey(secret)
        self._region = region
        self._wall_seconds = wall_seconds

    def sign(self, url: URL, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """The headers that sign a POST, with its host."""
        host = url.host_port_subcomponent or ""
        signed = {name.lower().encode(): value.encode() for name, value in headers.items()}
        signed[b"host"] = host.encode()
        now_s = int(self._wall_seconds())
        found = sign(
            self._key_id, self._key, self._region, now_s, "POST", url.raw_path, signed, body
        )
        return {"Host": host, **found}


def signer_of(
    environ: Mapping[str, str], wall_seconds: Callable[[], float], profile: str | None = None
) -> Signer | None:
    """A signer with the key of `profile`; without a profile, with the key in the environment; else
    with the key of the profile in AWS_PROFILE. None: there is no key. PutError: the profile has no
    key.
    """
    if profile is not None:
        key = _key_of(profile, environ, "--profile")
    elif (found := _key_in(environ)) is not None:
        key = found
    elif named := environ.get("AWS_PROFILE"):
        key = _key_of(named, environ, "AWS_PROFILE")
    else:
        return None
    _, region = region_variable(environ) or ("", DEFAULT_REGION)
    return Signer(*key, region, wall_seconds)


def _key_in(environ: Mapping[str, str]) -> tuple[str, str] | None:
    key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    return (key_id, secret) if key_id and secret else None


def _key_of(profile: str, environ: Mapping[str, str], asked_by: str) -> tuple[str, str]:
    """The id and the secret of a profile's key. Raises PutError."""
    path = environ.get("AWS_SHARED_CREDENTIALS_FILE") or CREDENTIALS_FILE
    where = f"the profile {printable(profile)} ({asked_by}) in {printable(path)}"
    sections = _read(path, where)
    if not sections.has_section(profile):
        raise PutError(f"cannot find {where}: it needs a section [{printable(profile)}]")
    names = ("aws_access_key_id", "aws_secret_access_key")
    key_id, secret = (sections.get(profile, name, fallback="") for name in names)
    missing = [name for name, part in zip(names, (key_id, secret), strict=True) if not part]
    if missing:
        raise PutError(
            f"cannot sign with {where}: it has no {' and no '.join(missing)}. Requests to kdaemon"
            " are signed with an access key of its principals; roles, SSO and credential_process"
            " are not followed here"
        )
    for name, part in zip(names, (key_id, secret), strict=True):
        if _PART.fullmatch(part) is None:
            raise PutError(f"cannot sign with {where}: its {name} has characters that no key has")
    return key_id, secret


def _read(path: str, where: str) -> configparser.RawConfigParser:
    """Reads the file as AWS's tools do: without interpolation, and without a section that gives its
    values to others. Errors do not quote the file. Raises PutError.
    """
    sections = configparser.RawConfigParser(default_section="")
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise PutError(f"cannot read {where}: {error.strerror}") from None
    except RuntimeError:
        raise PutError(f"cannot read {where}: nobody says where the home directory is") from None
    if len(data) > FILE_BYTES_MAX:
        raise PutError(f"cannot read {where}: it has more than {FILE_BYTES_MAX} bytes")
    try:
        sections.read_string(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise PutError(f"cannot read {where}: it is no UTF-8 text") from None
    except configparser.Error as error:
        number = getattr(error, "lineno", None) or next(
            (number for number, _ in getattr(error, "errors", ())), None
        )
        at = "" if number is None else f" at line {number}"
        raise PutError(f"cannot read {where}: it is no INI file{at}") from None
    return sections
