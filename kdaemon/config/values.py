"""Kinds of values that a setting can have: bounds, and the words that an error uses for them.

Pure. `Meta` bounds a value, and its description completes "expected ..." (of a `Literal`, its words
do). A function beside it tests what bounds cannot say: it raises ValueError, in words for people,
for a wrong value. The settings have these kinds (`settings.py`); `given.py` checks values against
them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from kdaemon.base import limits
from kdaemon.base.endpoint import endpoint_problem, is_loopback, proxy_problem
from kdaemon.base.field_path import parse_field_path
from kdaemon.base.names import is_upstream_name, parse_arn, partition_problem

PORT_MAX = 65_535  # the highest TCP port
# A role's ARN, with its path. Names as IAM's API has them (botocore 1.43.117, 2026-11-28).
_role = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}):role/[!-~]{1,512}").fullmatch
UNIX_PATH_BYTES_MAX = 107  # sun_path is 108 bytes with its NUL on Linux: unix(7), 2026-11-21


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP listener listens. `port` 0: the operating system chooses."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """As `base.endpoint.is_loopback`."""
        return is_loopback(self.host)


def parse_address(text: str) -> Address | None:
    """`HOST:PORT` or `[IPV6]:PORT`; None for "" (off). ValueError says what was expected."""
    if not text:
        return None
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:\s/]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > PORT_MAX:
        raise ValueError('HOST:PORT, such as "127.0.0.1:8990" or "[::1]:8990"')
    return Address(found[1] or found[2], int(found[3]))


def check_address_given(text: str) -> None:
    if parse_address(text) is None:
        raise ValueError('HOST:PORT, such as "127.0.0.1:4567"')


def check_unix(text: str) -> None:
    if text in {"", "auto"}:
        return
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError('"auto", "" (off) or the absolute path of a socket file')
    if len(text.encode(errors="surrogateescape")) > UNIX_PATH_BYTES_MAX:
        raise ValueError(f"a path of at most {UNIX_PATH_BYTES_MAX} bytes (the system's bound)")


def check_socket(text: str) -> None:
    if text == "auto":
        raise ValueError('"" (none) or the absolute path of a socket file')
    check_unix(text)


def check_directory(text: str) -> None:
    if text and (not text.startswith("/") or "\0" in text):
        raise ValueError('"" (off) or the absolute path of a directory')


def check_file(text: str) -> None:
    if text and (not text.startswith("/") or text.endswith("/") or "\0" in text):
        raise ValueError('"" (none) or the absolute path of a file')


def check_namespace(text: str) -> None:
    """Of CloudWatch (`MetricDatum` of its API, 2026-11-28)."""
    is_one = re.fullmatch(r"[A-Za-z0-9._/#-][A-Za-z0-9._/#:-]{0,254}", text) is not None
    if text and (text.startswith("AWS/") or not is_one):
        raise ValueError(
            '"" (off) or a namespace of CloudWatch: up to 255 of A-Z a-z 0-9 . _ - / # :, not'
            ' beginning with "AWS/"'
        )


def check_url(text: str) -> None:
    if text and endpoint_problem(text) is not None:
        raise ValueError(
            '"" or http(s)://HOST[:PORT][/PATH] with a port up to 65535 and no user, query or'
            " fragment"
        )


def check_proxy(text: str) -> None:
    if text not in {"", "auto"} and proxy_problem(text) is not None:
        raise ValueError('"auto", "" (none) or http(s)://HOST[:PORT]')


def check_role(text: str) -> None:
    if text and account_of_role(text) is None:
        raise ValueError("arn:aws:iam::ACCOUNT:role/NAME")


def account_of_role(arn: str) -> str | None:
    """The account that a role is of; None: this is no role's ARN."""
    found = _role(arn)
    return None if found is None else found[1]


def check_upstream(text: str) -> None:
    if not is_upstream_name(text):
        raise ValueError("a name of an upstream: 1-32 of a-z, 0-9 and -")


def check_arn(text: str) -> None:
    if text and parse_arn(text) is None:
        problem = partition_problem(text)
        why = f" (this {problem})" if problem is not None else ""
        raise ValueError(f"arn:aws:kinesis:REGION:ACCOUNT:stream/NAME{why}")


def whole(low: int, high: int, unit: str = "") -> Meta:
    """A whole number, both bounds allowed."""
    return Meta(ge=low, le=high, description=f"a whole number {unit}from {low} to {high}")


_UNITS = {
    "of bytes": {"KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "KB": 1000, "MB": 1000**2}
    | {"GB": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3},
    "of milliseconds": {"MS": 1, "S": 1000, "M": 60_000, "MIN": 60_000, "H": 3_600_000},
}


def without_unit(value: object, expected: str) -> str:
    """What was meant by a number with its unit, where a number is expected; "" if nothing was."""
    found = (
        re.fullmatch(r"([0-9]{1,9}) ?([A-Za-z]{1,3})", value) if isinstance(value, str) else None
    )
    units: Mapping[str, int] = next((of for kind, of in _UNITS.items() if kind in expected), {})
    if found is None or found[2].upper() not in units:
        return ""
    return f"; {found[0]} is {int(found[1]) * units[found[2].upper()]}"


Flag = Annotated[bool, Meta(description="true or false")]
Text = Annotated[str, Meta(description="a text in quotes")]
Names = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description='a list, such as ["demo"]')
]
Operations = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...],
    Meta(description='a list of operations, such as ["DescribeStream", "ListShards"]'),
]
HostNames = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,253}\Z")], ...],
    Meta(description='a list of host names without ports, such as ["kdaemon.internal"]'),
]
Milliseconds = Annotated[int, whole(1, 3_600_000, "of milliseconds ")]
MillisecondsOrZero = Annotated[int, whole(0, 3_600_000, "of milliseconds ")]
Quota = Annotated[int, whole(1, 10**12)]
PoolSize = Annotated[int, whole(0, 100_000)]
CallBytes = Annotated[int, whole(1, limits.REQUEST_BYTES_MAX_AWS, "of bytes ")]
RecordBytes = Annotated[int, whole(1, limits.RECORD_BYTES_MAX_AWS, "of bytes ")]
AggregateBytes = Annotated[int, whole(limits.KIB, limits.MIB, "of bytes ")]
UnitKib = Annotated[int, whole(1, limits.RECORD_BYTES_MAX_AWS // limits.KIB, "of KiB ")]
WORKERS_MAX = 256  # ours, 2026-11-28: far beyond the cores of a machine that runs one daemon
Workers = Annotated[
    Annotated[int, Meta(ge=1, le=WORKERS_MAX)] | Literal["auto"],
    Meta(description=f'a whole number from 1 to {WORKERS_MAX}, or "auto"'),
]
MemoryBytes = Annotated[int, whole(limits.MIB, 2**40, "of bytes ")]
ListenAddress = Annotated[str, Meta(description='"HOST:PORT" or "" (off)'), parse_address]
ListenAddressGiven = Annotated[str, Meta(description='"HOST:PORT"'), check_address_given]
UnixPath = Annotated[str, Meta(description='"auto", "" or a path'), check_unix]
SocketPath = Annotated[str, Meta(description="a path in quotes"), check_socket]
FileMode = Annotated[
    str, Meta(pattern=r"^0?[0-7]{3}\Z", description='octal digits in quotes, such as "0660"')
]
Url = Annotated[str, Meta(description="a URL in quotes"), check_url]
Arn = Annotated[str, Meta(description="an ARN in quotes"), check_arn]
Region = Annotated[
    str, Meta(pattern=r"^[a-z0-9-]*\Z", description='a region, such as "eu-central-1", or ""')
]
AccountId = Annotated[
    str,
    Meta(pattern=r"^([0-9]{12})?\Z", description='the 12 digits of an account in quotes, or ""'),
]
RoleArn = Annotated[str, Meta(description="the ARN of a role in quotes"), check_role]
SessionName = Annotated[  # as STS takes it: AssumeRole, RoleSessionName; botocore 1.43.117
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_+=,.@-]{2,64})?\Z",
        description='2-64 letters, digits and +=,.@-, or ""',
    ),
]
ExternalId = Annotated[  # the same: AssumeRole, ExternalId
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_+=,.@:/-]{2,1224})?\Z",
        description="2-1224 letters, digits and _+=,.@:/-",
    ),
]
ProxyUrl = Annotated[str, Meta(description='"auto", "" or a URL'), check_proxy]
Switch = Literal["auto", "on", "off"]
AccountEndpoints = Literal["auto", "preferred", "disabled", "required"]
UpstreamName = Annotated[str, Meta(description="a name in quotes"), check_upstream]
ServiceName = Literal["aws", "yandex"]
Acknowledgement = Literal["delivered", "stored", "accepted"]
WhenFull = Literal["block", "reject", "drop_oldest"]
Ordering = Literal["none", "partition_key"]
Aggregation = Literal["none", "kpl"]
LinesKind = Literal["envelope", "raw"]
FieldPath = Annotated[str, Meta(description="a path of names in quotes"), parse_field_path]
AgeOrOff = Annotated[int, whole(0, 31 * 24 * 3_600_000, "of milliseconds ")]
Directory = Annotated[str, Meta(description='an absolute path or ""'), check_directory]
HttpAuth = Literal["none", "sigv4"]
UnixAuth = Literal["none", "peer"]
FilePath = Annotated[str, Meta(description='the absolute path of a file or ""'), check_file]
LogLevel = Literal["debug", "info", "warning", "error"]
Namespace = Annotated[str, Meta(description='"" or a namespace of CloudWatch'), check_namespace]
LogFormat = Literal["auto", "json", "text"]
