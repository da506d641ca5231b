"""Which proxy carries the calls to a host.

The setting of the upstream decides; without one HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY do.
Knows the environment's rules; must not know requests or answers.
Invariant: a proxy that cannot be used is refused with the name of its setting or variable, and
nothing is sent to it; its password is never in a text.
"""

import os
import urllib.request
from dataclasses import dataclass, field

import aiohttp
import yarl

from kdaemon.base.endpoint import proxy_problem
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.redact import SECRETS, masked_url


@dataclass(frozen=True, slots=True)
class Proxy:
    """A usable proxy. `headers`: our name and password for it; `shown`: a text for people."""

    url: yarl.URL
    headers: dict[str, str] | None = field(repr=False)
    shown: str


def proxy_to(url: yarl.URL, setting: str | None = None) -> Proxy | None:
    """The proxy for a URL; None: no proxy. `setting`: the proxy for all URLs; "": no proxy; None:
    the environment decides. Raises `ServiceError` for a proxy that cannot be used.
    """
    if setting is not None:
        return _usable(setting, "proxy_url", "or take it away") if setting else None
    proxies = urllib.request.getproxies()
    kind = url.scheme if proxies.get(url.scheme) else "all"
    text = proxies.get(kind)
    if not text or urllib.request.proxy_bypass(url.host_port_subcomponent or ""):
        return None
    return _usable(text, _variable(kind), "or name the endpoint's host in NO_PROXY")


def _usable(text: str, name: str, otherwise: str) -> Proxy:
    problem = proxy_problem(text)
    if problem is not None:
        raise ServiceError(
            Trouble.PROXY, f"{name} {problem}: correct it, {otherwise}", was_sent=False
        )
    proxy_url = yarl.URL(text if "://" in text else f"http://{text}")
    shown = f"{masked_url(str(proxy_url))} ({name})"
    if proxy_url.user is None:
        return Proxy(proxy_url, None, shown)
    SECRETS.register(proxy_url.password, is_fixed=True)
    who = aiohttp.encode_basic_auth(proxy_url.user, proxy_url.password or "")
    SECRETS.register(who, is_fixed=True)
    return Proxy(proxy_url.with_user(None), {"Proxy-Authorization": who}, shown)


def _variable(kind: str) -> str:
    """The name of the variable that names the proxy; lower case goes first (as in urllib)."""
    wanted = f"{kind}_proxy"
    return wanted if os.environ.get(wanted) else wanted.upper()
