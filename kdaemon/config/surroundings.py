"""What is wrong in the AWS and proxy variables, as far as it shows without the network.

About the variables that are not kdaemon's own: `kdaemon check` reads them through here, and `run`
finds the same where it needs them, as a hold (the sandbox needs none of them). Pure: a mapping
comes in. Invariant: no key and no password is in a problem.
"""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in types

from kdaemon.base.endpoint import (
    endpoint_problem,
    proxy_problem,
    region_of_endpoint,
    region_problem,
    text_problem,
)
from kdaemon.base.errors import ConfigProblem
from kdaemon.base.names import is_account, parse_arn
from kdaemon.config.settings import Config

SOURCE = "environment"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ENDPOINTS = ("AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL")  # the first that is set counts
STS_ENDPOINT = "AWS_ENDPOINT_URL_STS"  # where the account is asked for


def find_problems(environ: Mapping[str, str], config: Config) -> list[ConfigProblem]:
    """Every problem in variables that calls with this configuration would use."""
    found = [*_keys(environ, config), *_endpoint(environ, config), *_proxies(environ, config)]
    # Not the name alone: what follows the name of a key and a colon is taken for the key.
    return [ConfigProblem(SOURCE, f"{name} (variable)", problem) for name, problem in found]


def _keys(environ: Mapping[str, str], config: Config) -> Iterator[tuple[str, str]]:
    if config.profile:  # the profile's own keys are used
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
    elif account and config.account_id not in {"", account}:
        yield "AWS_ACCOUNT_ID", f"is {account}, and account_id is {config.account_id}: correct one"


def _endpoint(environ: Mapping[str, str], config: Config) -> Iterator[tuple[str, str]]:
    region = environ.get("AWS_DEFAULT_REGION")
    if region and not config.region and config.traits.region is None:
        problem = region_problem(region)
        if problem is not None:
            yield "AWS_DEFAULT_REGION", problem
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == "true":
        return
    name = next((name for name in ENDPOINTS if environ.get(name)), None)
    names = [
        None if config.endpoint_url else name,
        STS_ENDPOINT if config.traits.has_arns else None,
    ]
    for each in names:
        problem = endpoint_problem(environ[each]) if each and environ.get(each) else None
        if each and problem is not None:
            yield each, problem
        elif each and each == name and config.traits.has_arns:
            yield from _other_regions(environ[each], each, region or "", config)


def _other_regions(url: str, name: str, region: str, config: Config) -> Iterator[tuple[str, str]]:
    """An endpoint of AWS serves its own region."""
    here = region_of_endpoint(url)
    if here is None:
        return
    arns = [parse_arn(stream.arn) for stream in config.streams.values()]
    regions = {arn.region for arn in arns if arn is not None} | {config.region or region}
    others = sorted(regions - {here, ""})
    if others:
        yield name, f"is an endpoint of {here}, and streams of {', '.join(others)} are not there"


def _url(environ: Mapping[str, str], config: Config) -> str:
    """The address that calls go to, or one like it; only its scheme and host are looked at."""
    given = [config.endpoint_url, *(environ.get(name, "") for name in ENDPOINTS)]
    region = config.region or environ.get("AWS_DEFAULT_REGION", "")
    default = config.traits.endpoint_url or f"https://kinesis.{region or 'x'}.amazonaws.com"
    return next((url for url in given if url), default)


def _proxies(environ: Mapping[str, str], config: Config) -> Iterator[tuple[str, str]]:
    """Lower case wins, and the scheme's own proxy wins over that of all; as urllib has it."""
    url = _url(environ, config)
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
