"""Mistakes in the AWS and proxy variables, as far as they show without the network.

These variables are not kdaemon's own. `kdaemon check` reads them through here; `run` finds the same
mistakes when it needs the variables, as a hold (the sandbox needs none of them). Pure: a mapping
comes in. Invariant: no key and no password is in a problem.
"""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in types

from kdaemon.base.endpoint import (
    endpoint_problem,
    endpoint_variable,
    leads_to,
    proxy_problem,
    region_of_endpoint,
    region_problem,
    region_variable,
    text_problem,
)
from kdaemon.base.errors import ConfigProblem
from kdaemon.base.names import DEFAULT_UPSTREAM, is_account, parse_arn
from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config
from kdaemon.config.upstream_rules import LOOP

SOURCE = "environment"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
PROFILES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # as botocore has it: the first wins
UNSET = "it is for kdaemon's clients; unset it for kdaemon, or set endpoint_url"
STS_ENDPOINT = "AWS_ENDPOINT_URL_STS"  # the account is asked for there


def find_problems(environ: Mapping[str, str], config: Config) -> list[ConfigProblem]:
    """Every problem in variables that calls with this configuration would use; once, though
    several upstreams use the variable.
    """
    found: dict[tuple[str, str], None] = {}
    for each in config.upstream_names:
        upstream = config.upstream(each)
        arns = [stream.arn for stream in config.listed_of(each).values()]
        found |= dict.fromkeys(_keys(environ, upstream))
        found |= dict.fromkeys(_endpoint(environ, upstream, arns))
        found |= dict.fromkeys(_proxies(environ, upstream))
    loops = loop_problems(environ, config)
    # Not the name alone: the word after a key's name and a colon is taken for the key.
    return loops + [ConfigProblem(SOURCE, f"{name} (variable)", problem) for name, problem in found]


def loop_problems(environ: Mapping[str, str], config: Config) -> list[ConfigProblem]:
    """A variable that sends kdaemon's own calls to itself: the one that its clients need."""
    listen = config.listen.http_address
    given = given_beside(environ, config.upstream(DEFAULT_UPSTREAM)).get("endpoint_url")
    if listen is None or given is None or endpoint_problem(given[1]) is not None:
        return []
    if not leads_to(given[1], listen.host, listen.port):
        return []
    problem = f"is where kdaemon itself listens (listen.http), and {LOOP}: {UNSET}"
    return [ConfigProblem(SOURCE, f"{given[0]} (variable)", problem)]


def given_beside(
    environ: Mapping[str, str], upstream: UpstreamConfig
) -> dict[str, tuple[str, str]]:
    """What variables of AWS give where the configuration gives nothing: the variable and its value,
    by the setting in whose place it stands (`endpoint_url`, `region`).
    """
    found: dict[str, tuple[str, str]] = {}
    endpoint, region = endpoint_variable(environ), region_variable(environ)
    # The environment's address is the default upstream's alone, and no token is sent to it.
    is_default = upstream.name == DEFAULT_UPSTREAM
    if endpoint and is_default and not (upstream.endpoint_url or upstream.has_token):
        found["endpoint_url"] = endpoint
    if region and not upstream.region and upstream.traits.region is None:
        found["region"] = region
    return found


def _keys(environ: Mapping[str, str], upstream: UpstreamConfig) -> Iterator[tuple[str, str]]:
    if upstream.profile or upstream.has_token:  # these are used in place of the variables
        return
    for name in KEYS:
        value = environ.get(name)
        problem = text_problem(value) if value else None
        if problem is not None:
            yield name, f"{problem}: correct it"
    given = [name for name in KEYS[:2] if environ.get(name)]
    if len(given) == 1:
        missing = KEYS[1] if given[0] == KEYS[0] else KEYS[0]
        yield missing, f"is not set, and {given[0]} is: set both or neither"
    account = environ.get("AWS_ACCOUNT_ID")
    if account and not is_account(account):
        yield "AWS_ACCOUNT_ID", f"is {account!r}; expected the 12 digits of an account"
    elif account and not upstream.role_arn and upstream.account_id not in {"", account}:
        at = "" if upstream.name == DEFAULT_UPSTREAM else f"upstreams.{upstream.name}."
        told = f"is {account}, and {at}account_id is {upstream.account_id}: correct one"
        yield "AWS_ACCOUNT_ID", told


def _endpoint(
    environ: Mapping[str, str], upstream: UpstreamConfig, arns: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """The environment's endpoint is the default upstream's alone."""
    variable, region = region_variable(environ) or ("", "")
    if region and not upstream.region and upstream.traits.region is None:
        problem = region_problem(region)
        if problem is not None:
            yield variable, problem
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == "true":
        return
    name = given_beside(environ, upstream).get("endpoint_url", ("", ""))[0]
    names = [
        name,
        STS_ENDPOINT if upstream.traits.has_arns else None,
    ]
    for each in names:
        problem = endpoint_problem(environ[each]) if each and environ.get(each) else None
        if each and problem is not None:
            yield each, problem
        elif each and each == name and upstream.traits.has_arns:
            parsed = [arn for arn in map(parse_arn, arns) if arn is not None]
            regions = {arn.region for arn in parsed} | {upstream.region or region}
            yield from _other_regions(environ[each], each, regions)


def _other_regions(url: str, name: str, regions: set[str]) -> Iterator[tuple[str, str]]:
    """An endpoint of AWS serves its own region."""
    here = region_of_endpoint(url)
    others = sorted(regions - {here, ""})
    if here is not None and others:
        yield name, f"is an endpoint of {here}, and streams of {', '.join(others)} are not there"


def _url(environ: Mapping[str, str], upstream: UpstreamConfig) -> str:
    """The address that calls go to, or one like it; only its scheme and host are looked at."""
    beside = given_beside(environ, upstream).get("endpoint_url", ("", ""))[1]
    given = [upstream.endpoint_url, beside]
    region = upstream.region or (region_variable(environ) or ("", ""))[1]
    default = upstream.traits.endpoint_url or f"https://kinesis.{region or 'x'}.amazonaws.com"
    return next((url for url in given if url), default)


def _proxies(environ: Mapping[str, str], upstream: UpstreamConfig) -> Iterator[tuple[str, str]]:
    """Lower case wins, and the scheme's own proxy wins over that of all; as urllib has it."""
    if upstream.proxy_url != "auto":
        return
    url = _url(environ, upstream)
    scheme = "http" if url.startswith("http:") else "https"
    bypassed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if endpoint_problem(url) is None and proxy_bypass_environment(
        urlsplit(url).netloc, {"no": bypassed}
    ):
        return
    for kind in (scheme, "all"):
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            value = environ.get(name)
            if value:
                problem = proxy_problem(value)
                if problem is not None:
                    yield name, problem
                return
