"""Rules of upstreams: whether an upstream can be reached as it is configured, and found by an ARN.

Pure. The default upstream stands at the top level and in [send], the others in [upstreams.NAME],
with the same keys and the same rules. Only the others must give account and region: an ARN finds
them by these, and no service is asked before the first call. Where it sits: `rules.py` runs these.
"""

from collections.abc import Callable, Iterator, Mapping

from kdaemon.base.endpoint import is_readable_on_the_way, leads_to, region_of_endpoint
from kdaemon.base.names import DEFAULT_UPSTREAM, is_upstream_name, parse_arn
from kdaemon.config.clash import Clash, Path
from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config
from kdaemon.config.values import account_of_role

At = Callable[[str], Path]
"""Where a key of one upstream stands."""

LOOP = "each record would come back to it for ever"
OF_SEND = ("call_timeout_ms", "connections_max")
FOR_AWS = ("account_id", "role_arn", "role_external_id", "role_session_name")
SWITCHES = ("fips", "dual_stack", "account_endpoints")  # of AWS's endpoints
FOR_YANDEX = ("iam_token_file", "iam_token_url")


def find_upstream_clashes(
    config: Config, listed: Mapping[str, Path], upstreams: Mapping[str, Path]
) -> Iterator[Clash]:
    """`listed`, `upstreams`: where the table of each stands, by its name."""
    yield from _one(config.upstream(DEFAULT_UPSTREAM), _at_default)
    yield from _loop(config, config.upstream(DEFAULT_UPSTREAM), _at_default)
    yield from _region(config, config.upstream(DEFAULT_UPSTREAM), _at_default, listed)
    for name, upstream in config.upstreams.items():
        table = upstreams[name]

        def at(key: str, table: Path = table) -> Path:
            return (*table, key)

        yield from _named(upstream, table)
        yield from _one(upstream, at)
        yield from _loop(config, upstream, at)
        yield from _region(config, upstream, at, listed)


def _at_default(key: str) -> Path:
    return ("send", key) if key in OF_SEND else (key,)


def _named(upstream: UpstreamConfig, table: Path) -> Iterator[Clash]:
    """What only an upstream beside the default one must have."""
    if upstream.name == DEFAULT_UPSTREAM:
        yield Clash((table,), "is the upstream that the keys at the top level describe: set those")
    elif not is_upstream_name(upstream.name):
        yield Clash((table,), "is no name of an upstream: expected 1-32 of a-z, 0-9 and -")
    if not upstream.traits.has_arns:
        return
    if not upstream.account:
        yield Clash(
            (table,),
            "has no account_id and no role_arn: an ARN finds its upstream by account and region;"
            " set account_id, the 12 digits of the account",
        )
    if not upstream.home_region:
        yield Clash(
            (table,), "has no region: an ARN finds its upstream by account and region; set region"
        )


def _loop(config: Config, upstream: UpstreamConfig, at: At) -> Iterator[Clash]:
    listen, url = config.listen.http_address, upstream.endpoint_url
    if listen is not None and url and leads_to(url, listen.host, listen.port):
        yield Clash(
            (at("endpoint_url"), ("listen", "http")),
            f"is where kdaemon itself listens (listen.http), and {LOOP}: set the service's address",
        )


def _one(upstream: UpstreamConfig, at: At) -> Iterator[Clash]:
    """What every upstream must obey."""
    title, has_arns = upstream.traits.title, upstream.traits.has_arns
    for keys, is_wrong, unset, problem in (
        (FOR_AWS, not has_arns, "", f"is of AWS, and {title} has no such thing: leave it out"),
        (SWITCHES, not has_arns, "auto", f"is of AWS's endpoints, and not of {title}'s"),
        (FOR_YANDEX, has_arns, "", f"is for Yandex Data Streams, and not for {title}"),
    ):
        for key in keys if is_wrong else ():
            if getattr(upstream, key) != unset:
                yield Clash((at(key), at("service")), problem)
    if upstream.iam_token_file and upstream.iam_token_url:
        yield Clash(
            (at("iam_token_file"), at("iam_token_url")),
            "and iam_token_url are both set, and one token is used: leave one of them out",
        )
    if upstream.profile and upstream.has_token:
        yield Clash(
            (at("profile"), at("iam_token_file"), at("iam_token_url")),
            "tells keys, and an IAM token stands in their place: leave one of them out",
        )
    if (
        upstream.has_token
        and upstream.endpoint_url
        and is_readable_on_the_way(upstream.endpoint_url)
    ):
        yield Clash(
            (at("endpoint_url"), at("iam_token_file"), at("iam_token_url")),
            "is http://, where everybody on the way can read the IAM token: use https://",
        )
    yield from _role(upstream, at)
    for key in ("fips", "dual_stack"):
        if getattr(upstream, key) == "on" and upstream.endpoint_url:
            yield Clash(
                (at(key), at("endpoint_url")),
                "chooses among AWS's own endpoints, and endpoint_url names another: leave one out",
            )


def _role(upstream: UpstreamConfig, at: At) -> Iterator[Clash]:
    for key in ("role_external_id", "role_session_name"):
        if getattr(upstream, key) and not upstream.role_arn:
            yield Clash(
                (at(key), at("role_arn")), "is for a role that is assumed, and there is no role_arn"
            )
    account = account_of_role(upstream.role_arn)
    if account and upstream.account_id not in {"", account}:
        yield Clash(
            (at("account_id"), at("role_arn")),
            f"is {upstream.account_id}, and the role is of {account}: leave account_id out",
        )


def _region(
    config: Config, upstream: UpstreamConfig, at: At, listed: Mapping[str, Path]
) -> Iterator[Clash]:
    """An endpoint of AWS serves its own region: others' streams are not there."""
    here = region_of_endpoint(upstream.endpoint_url) if upstream.traits.has_arns else None
    if here is None:
        return
    url = at("endpoint_url")
    if upstream.region and upstream.region != here:
        yield Clash(
            (at("region"), url),
            f"is {upstream.region}, and endpoint_url is an endpoint of {here}: correct one of them",
        )
    for name, stream in config.listed_of(upstream.name).items():
        arn = parse_arn(stream.arn)
        if arn is not None and arn.region != here:
            yield Clash(
                ((*listed[name], "arn"), listed[name], url),
                f"is a stream of {arn.region}, and endpoint_url is an endpoint of {here}, where it"
                " is not: leave endpoint_url out, or give that region an upstream of its own",
            )
