r"""Names and ARNs of streams: parsed here and nowhere else.

A stream is called by its name, by its ARN, or (at Yandex) by a path; `@UPSTREAM/` before it names
its upstream. These are spellings; `streams/` makes one identity of them. This file is in base,
because the configuration names streams too. Pure.

Invariant: every check is linear in the length of the text, and checks the length first: no text of
a client costs more than a moment.

Source: botocore 1.43.117, model kinesis/2013-12-02 (name `[a-zA-Z0-9_.-]{1,128}`, ARN
`arn:aws.*:kinesis:.*:\d{12}:stream/\S+` up to 2,048 characters); checked 2026-11-28. That pattern
accepts texts that cannot be ARNs: here the name in an ARN must match a name's pattern, and the
partition must be its region's (botocore's partitions.json).
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

STREAM_NAME_CHARACTERS_MAX = 128  # at AWS
ARN_CHARACTERS_MAX = 2048  # of an ARN at AWS, and of any spelling, also a path at Yandex
NAME_PATTERN = "[a-zA-Z0-9_.-]+"  # as in the service's refusals
ARN_PATTERN = r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+"  # as in the service's refusals

_is_name: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}").fullmatch

# Clients name the same streams in each request. Ours, 2026-11-28: 1,024 names of 128 characters.
_KNOWN_MAX: Final = 1024
_known: Final[set[str]] = set()  # names that were found good
_is_partition = re.compile(r"aws[a-z0-9-]{0,32}").fullmatch
_is_region = re.compile(r"[a-z0-9-]{1,64}").fullmatch
_is_account = re.compile(r"[0-9]{12}").fullmatch
_is_upstream = re.compile(r"[a-z0-9][a-z0-9-]{0,31}").fullmatch

DEFAULT_UPSTREAM = "default"
"""The upstream that the keys at the top of the configuration describe."""


_PARTITIONS = (  # of regions with this beginning
    ("cn-", "aws-cn"),
    ("us-gov-", "aws-us-gov"),
    ("us-iso-", "aws-iso"),
    ("us-isob-", "aws-iso-b"),
    ("eu-isoe-", "aws-iso-e"),
    ("us-isof-", "aws-iso-f"),
    ("eusc-", "aws-eusc"),
)


@dataclass(frozen=True, slots=True)
class Arn:
    """`arn:PARTITION:kinesis:REGION:ACCOUNT:stream/NAME`, in its parts. `text`: the whole."""

    text: str
    region: str
    account: str
    name: str


def is_stream_name(text: str) -> bool:
    """Whether a stream of AWS can have this name."""
    if text in _known:
        return True
    if len(text) > STREAM_NAME_CHARACTERS_MAX or _is_name(text) is None:
        return False
    if len(_known) >= _KNOWN_MAX:
        _known.clear()
    _known.add(text)
    return True


def is_account(text: str) -> bool:
    """Whether this can be the id of an AWS account."""
    return _is_account(text) is not None


def is_path(text: str) -> bool:
    """Whether a stream of Yandex can have this name: a path, or the last part of one. No such name
    begins with "@", which names an upstream.
    """
    is_short = 0 < len(text) <= ARN_CHARACTERS_MAX and not text.startswith("@")
    return is_short and text.isprintable() and not text.isspace()


def is_upstream_name(text: str) -> bool:
    """Whether an upstream may have this name: it becomes a label and a part of stored names."""
    return _is_upstream(text) is not None


class Qualified(NamedTuple):
    """A stream of an upstream. `name`: its name at this upstream: a name, an ARN or a path."""

    upstream: str
    name: str

    @property
    def text(self) -> str:
        """As in the spool and the dead letters: `@eu/orders`. For the default upstream only the
        name, by which clients may mean another stream: see `spelling`.
        """
        return self.name if self.upstream == DEFAULT_UPSTREAM else self.spelling

    @property
    def spelling(self) -> str:
        """The spelling by which a client means this stream, whatever the configuration calls by the
        same name: `@default/orders`.
        """
        return f"@{self.upstream}/{self.name}"


def parse_qualified(text: str) -> Qualified:
    """Parses any text: one that does not begin with an upstream is of the default one."""
    if not text.startswith("@"):
        return Qualified(DEFAULT_UPSTREAM, text)
    upstream, slash, name = text[1:].partition("/")
    if not (slash and name and is_upstream_name(upstream)):
        return Qualified(DEFAULT_UPSTREAM, text)
    return Qualified(upstream, name)


def full_path(spelling: str, database: str) -> str:
    """A stream's path at Yandex. `database`: goes before a name without a leading slash; "": not
    known: then such a name is a path of its own.
    """
    parts = [part for part in spelling.split("/") if part]
    database = database.strip("/")
    if not spelling.startswith("/") and database:
        parts.insert(0, database)
    is_full = spelling.startswith("/") or bool(database)
    return ("/" if is_full else "") + "/".join(parts)


def partition_of(region: str) -> str:
    """The partition of AWS that has the region; each partition has its own accounts."""
    return next((name for start, name in _PARTITIONS if region.startswith(start)), "aws")


def arn_of(name: str, account: str, region: str) -> Arn:
    """The ARN of a stream; it has only one form."""
    text = f"arn:{partition_of(region)}:kinesis:{region}:{account}:stream/{name}"
    return Arn(text, region, account, name)


def parse_arn(text: str) -> Arn | None:
    """The parts of a stream's ARN; None: the text is none."""
    found = _taken_apart(text)
    if found is None or found[0] != partition_of(found[1].region):
        return None
    return found[1]


def partition_problem(text: str) -> str | None:
    """What is wrong with an ARN whose partition is not its region's; None: nothing.

    The text completes a sentence about the ARN.
    """
    found = _taken_apart(text)
    if found is None:
        return None
    partition, arn = found
    right = partition_of(arn.region)
    if partition == right:
        return None
    return f"names the partition {partition}, and its region {arn.region} is of {right}"


def _taken_apart(text: str) -> tuple[str, Arn] | None:
    """The partition and the rest of a text with the form of a stream's ARN."""
    if len(text) > ARN_CHARACTERS_MAX or not text.startswith("arn:"):
        return None
    parts = text.split(":", 6)
    if len(parts) != 6:
        return None
    _, partition, service, region, account, resource = parts
    kind, _, name = resource.partition("/")
    is_stream = service == "kinesis" and kind == "stream" and is_stream_name(name)
    if not (is_stream and _is_partition(partition) and _is_region(region) and _is_account(account)):
        return None
    return partition, Arn(text, region, account, name)
