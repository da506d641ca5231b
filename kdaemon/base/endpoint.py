"""Addresses, URLs, regions and keys as people write them, and what is wrong with one.

Used by the checks of settings, before any call, and by the callers. Knows nothing of where a text
came from. Pure.
Invariant: the text of a problem shows nothing of a key or a password.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

PORT_MAX: Final = 65_535
REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""The first one that is set counts, as in AWS CLI v2 ("Environment variables" of its guide,
2026-11-28). ECS and the other SDKs read only the first, botocore only the second."""
ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL")
"""Of the default upstream's address; the first one that is set counts, as in botocore 1.43.117."""
PROXY_SCHEMES: Final = frozenset({"http", "https"})  # aiohttp 3.14 speaks no others, 2026-11-28

# A region's own endpoint: public, private (VPC) or of an account: kinesis.REGION.amazonaws.com,
# kinesis-fips.., 1234.data-kinesis.., .api.aws (botocore 1.43.117, endpoint rule set; 2026-11-28).
_REGIONAL_HOST = re.compile(
    r"(?:^|[.-])kinesis(?:-fips)?\.([a-z]{2,8}(?:-[a-z]{2,16}){1,2}-[0-9]{1,2})\."
    r"(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws|api\.amazonwebservices\.com\.cn)$"
)

EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - all addresses, to listen on

_is_region = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


class Endpoint(NamedTuple):
    """Where a service is called. `url`: "": at the address that it has for the region, or not known
    yet. `giver`: what gave the URL in place of the configuration (a variable, the AWS profile); "":
    nothing did.
    """

    url: str = ""
    giver: str = ""


def endpoint_variable(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and value of the variable that gives the default upstream's address; None: none does."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == "true":
        return None
    return next(((name, environ[name]) for name in ENDPOINT_VARIABLES if environ.get(name)), None)


def region_variable(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and value of the variable that gives the region; None: none does."""
    return next(((name, environ[name]) for name in REGION_VARIABLES if environ.get(name)), None)


def host_port(host: str, port: int) -> str:
    """`127.0.0.1:8990`, `[::1]:8990`: as in URLs (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def http_url(host: str, port: int, *, is_tls: bool = False) -> str:
    """`http://127.0.0.1:8990`, `https://[::1]:8990`."""
    return f"http{'s' if is_tls else ''}://{host_port(host, port)}"


def endpoint_problem(url: str) -> str | None:
    """What keeps `url` from being a service's address; None: nothing."""
    expected = "expected http(s)://HOST[:PORT][/PATH]"
    if "@" in url:
        return f"names a user, which a service's address cannot; {expected}"
    problem = _url_problem(url)
    if problem is None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            problem = f"has the scheme {parts.scheme[:20]!r}" if parts.scheme else "has no scheme"
        elif parts.query or parts.fragment:
            problem = "has a query or a fragment"
    return None if problem is None else f"{problem}; {expected}"


def is_readable_on_the_way(url: str) -> bool:
    """Whether others can read what is sent to this URL: plain HTTP that leaves this machine. The
    URL must have no `endpoint_problem`.
    """
    parts = urlsplit(url)
    return not (parts.scheme == "https" or is_loopback(parts.hostname or ""))


def leads_to(url: str, host: str, port: int) -> bool:
    """Whether a call to this URL comes to a listener of this machine at `host` and `port`, as far
    as addresses tell. The URL must have no `endpoint_problem`.
    """
    parts = urlsplit(url)
    called = parts.hostname or ""
    if not port or (parts.port or (443 if parts.scheme == "https" else 80)) != port:
        return False
    if called == host:
        return True
    is_named = "localhost" in {called, host}  # it may be either of two addresses
    return is_loopback(called) and (host in EVERYWHERE or (is_named and is_loopback(host)))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Another name than localhost is taken as
    reachable from elsewhere.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def region_of_endpoint(url: str) -> str | None:
    """The region, if this is an endpoint of AWS that names one; None: it does not."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    found = _REGIONAL_HOST.search(host.rstrip("."))
    return None if found is None else found[1]


def proxy_problem(url: str) -> str | None:
    """What keeps `url` from being a usable proxy; None: nothing."""
    problem = _url_problem(url if "://" in url else f"http://{url}")
    if problem is None and "://" in url:
        scheme = urlsplit(url).scheme
        if scheme not in PROXY_SCHEMES:
            problem = f"has the scheme {scheme[:20]!r}, which kdaemon does not speak"
    # Not `://USER...@`: code that shows the text hides such a part (base/redact.py).
    expected = "expected http(s)://HOST[:PORT], where need be with USER:PASSWORD@ before HOST"
    return None if problem is None else f"{problem}; {expected}"


def _url_problem(url: str) -> str | None:
    """What is wrong with a URL of any scheme; None: nothing."""
    hidden = text_problem(url)
    if hidden is not None:
        return hidden
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"has a host or a port that cannot be (ports are 1 to {PORT_MAX})"
    if not host:
        return "names no host"
    if port == 0:
        return f"has the port 0 (ports are 1 to {PORT_MAX})"
    return None


def text_problem(text: str) -> str | None:
    """Why a text cannot be a key, a token or a URL: it has a character that none of them has. None:
    it can be one.

    The text tells the place, since a stray line break or blank is invisible.
    """
    for position, character in enumerate(text):
        if "!" <= character <= "~":
            continue
        kind = "a character that is not ASCII"
        if character in "\r\n":
            kind = "a line break"
        elif character == " ":
            kind = "a blank"
        elif character < " " or character == "\x7f":
            kind = "a control character"
        where = f"at position {position + 1} of {len(text)}"
        if position == len(text) - 1:
            where = "at its end"
        elif position == 0:
            where = "at its beginning"
        return f"has {kind} {where}"
    return None


def region_problem(region: str) -> str | None:
    """What keeps a text from being a region; None: nothing."""
    if _is_region(region):
        return None
    hidden = text_problem(region) or "has a character that no region has"
    return f'{hidden}; expected a region, such as "eu-central-1"'
