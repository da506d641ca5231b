"""Keys that were settings once, and the keys that replace them. Pure.

If a file was written for an older version, its reader is told what to write instead, key by key, by
`kdaemon check`, at a start and at a reload. A key that stands in a table where it never was is told
all the same: who writes it there remembers its name. Where it sits: `given.py` asks here before it
says that a key is unknown.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kdaemon.config.clash import Path

_OF_CALLS = "leave it out: call_timeout_ms bounds the whole call, and this is a part of it"
_OF_CONTROL = (
    "leave it out: an upstream is asked 5 times a second at most, which no account's quota minds;"
    " streams that are listed go first"
)

OLD_KEYS: Mapping[Path, str] = MappingProxyType(
    {
        ("listen", "head_timeout_ms"): "leave it out: a client has 10 s for the head of a request",
        ("listen", "body_timeout_ms"): "leave it out: a client has 30 s for the body of a request",
        ("send", "connect_timeout_ms"): _OF_CALLS,
        ("send", "read_timeout_ms"): _OF_CALLS,
        ("send", "control_calls_per_second"): _OF_CONTROL,
        ("default", "unix_acknowledge"): (
            "leave it out: lines are stored where there is a spool and no order is kept, and else"
            " acknowledged as acknowledge says; a client chooses otherwise in its first line"
        ),
        ("default", "batch_records_max"): (
            "leave it out: a call carries up to 500 records, as many as the service takes;"
            " batch_bytes_max bounds its bytes"
        ),
        ("default", "share"): (
            "set shard_records_per_second and shard_bytes_per_second to the part of a shard that"
            " is for this daemon (250 and 262144 are what share = 0.25 was); leave it out where"
            " daemons may find their parts by themselves"
        ),
        ("default", "first_share"): (
            "set only_writer = true where it was 1.0, because nobody else writes to the stream;"
            " else leave it out"
        ),
        ("sandbox", "flavour"): "set service, which the sandbox imitates",
    }
)
"""By their path; those of [send] were also keys of each upstream, those of [default] of each
stream."""

_TABLE_OF = {"streams": "default", "upstreams": "send"}
_BY_NAME: Mapping[str, Path] = MappingProxyType({path[-1]: path for path in OLD_KEYS})


def what_replaces(path: Path) -> str | None:
    """The problem with a key that was a setting once, in this table or in another one; None: no
    setting ever had this name.
    """
    home = (_TABLE_OF.get(path[0], ""), path[2]) if len(path) == 3 else path
    if home in OLD_KEYS:
        return f"is no setting any more: {OLD_KEYS[home]}"
    home = _BY_NAME.get(path[-1], ())
    words = OLD_KEYS.get(home)
    return None if words is None else f"is no setting any more (it was {'.'.join(home)}): {words}"
