"""Upstreams that one spelling of a stream could mean: two of one account and region, or of one
database. Pure.

Twins are no mistake: two roles of one account are two upstreams. But an ARN or a path means only
the first of them, and no operator should learn that from where the records went. Where it sits:
`kdaemon check` and a daemon at its start report the twins that are found.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config

_Home = tuple[str, str, str]


def find_twins(config: Config) -> Iterator[tuple[str, str]]:
    """(Name of an upstream that another one stands before, what is to be said of it)."""
    firsts: dict[_Home, str] = {}
    for name in config.upstream_names:
        home = _home(config.upstream(name))
        first = name if home is None else firsts.setdefault(home, name)
        if home is not None and first != name:
            yield name, _said(name, first, home)


def _said(name: str, first: str, home: _Home) -> str:
    kind, *place = home
    same = " ".join(each for each in place if each)
    return (
        f"is of the same {same} as the upstream {first}, and {kind} means that one. For a stream of"
        f' {name} write upstream = "{name}" into its table [streams.NAME], or let clients write'
        f" @{name}/NAME"
    )


def _home(upstream: UpstreamConfig) -> _Home | None:
    """What finds it; None: nothing does, as far as the configuration tells."""
    if upstream.traits.has_arns:
        account, region = upstream.account, upstream.home_region
        told = (f"account {account}", f"and region {region}")
        return ("an ARN", *told) if account and region else None
    database = urlsplit(upstream.endpoint_url).path.strip("/")
    return ("a path", f"database /{database}", "") if database else None
