"""The texts of questions to STS, and the reading of its answers.

Knows STS's query protocol (forms out, XML in). Must not know requests, signatures or who asks.
Source: botocore 1.43.117's model of STS, 2011-06-15; checked 2026-11-28.
Invariant: an answer is searched in one pass, and no text made here has a secret of the answer.
"""

import re
import socket
from datetime import UTC, datetime
from html import unescape
from typing import Final
from urllib.parse import urlencode

from kdaemon.send.request import Keys

GET_CALLER_IDENTITY: Final = "GetCallerIdentity"  # of STS, not of Kinesis
ASSUME_ROLE: Final = "AssumeRole"  # the same
STS_OPERATIONS: Final = frozenset({GET_CALLER_IDENTITY, ASSUME_ROLE})
STS_CONTENT_TYPE: Final = "application/x-www-form-urlencoded; charset=utf-8"
STS_VERSION: Final = "2011-06-15"
STS_QUESTION: Final = f"Action={GET_CALLER_IDENTITY}&Version={STS_VERSION}".encode()
SESSION_NAME_CHARACTERS_MAX: Final = 64
_account_in: Final = re.compile(rb"<Account>([0-9]{12})</Account>").search
_LENT: Final = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
_lent_in: Final = re.compile(
    rf"<({'|'.join(_LENT)})>\s*([^<\s]{{1,8192}})\s*</\1>".encode()
).findall
_no_name: Final = re.compile(r"[^A-Za-z0-9_+=,.@-]+")


def account_in(answer: bytes) -> str | None:
    """The account of the keys, as STS tells it; None: the answer has none."""
    found = _account_in(answer)
    return None if found is None else found[1].decode()


def session_name() -> str:
    """The name of this machine's calls in the account's log of calls (CloudTrail)."""
    host = _no_name.sub("-", socket.gethostname()).strip("-")
    return f"kdaemon-{host}".rstrip("-")[:SESSION_NAME_CHARACTERS_MAX]


def assume_role_question(
    role_arn: str, session_name: str, duration_s: int, external_id: str | None
) -> bytes:
    """The form by which STS is asked to lend the keys of a role."""
    fields = {
        "Action": ASSUME_ROLE,
        "Version": STS_VERSION,
        "RoleArn": role_arn,
        "RoleSessionName": session_name,
        "DurationSeconds": str(duration_s),
    }
    if external_id is not None:
        fields["ExternalId"] = external_id
    return urlencode(fields).encode()


def lent_in(answer: bytes, account: str) -> tuple[Keys, datetime] | None:
    """The keys that STS lends, and their end; None: the answer has no keys. The caller registers
    them as secrets.
    """
    found = {name.decode(): unescape(value.decode()) for name, value in _lent_in(answer)}
    if len(found) != len(_LENT):
        return None
    access_key, secret_key, token, expiration = (found[name] for name in _LENT)
    try:
        ends_at = datetime.fromisoformat(expiration)
    except ValueError:
        return None
    if ends_at.tzinfo is None:
        ends_at = ends_at.replace(tzinfo=UTC)
    return Keys(access_key, secret_key, token, account), ends_at
