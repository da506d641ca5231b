"""Who may ask over TCP: programs of this machine, but no web page that a browser of it shows. Pure.

A browser lets any page send requests to a loopback port. The request may come from the page's own
site (`Origin` and `Sec-Fetch-Site` say so). Or the page's name was pointed to 127.0.0.1, and the
port looks like the page's site (`Host` says so). Programs send no `Origin`, and a `Host` that names
this machine.
Knows headers. Must not know what is asked. Where it sits: reader.py asks here when the `Host` of a
connection changes, or when a request has a header that only browsers send.
"""

import ipaddress
import re
from dataclasses import dataclass

from kdaemon.base.endpoint import is_loopback
from kdaemon.http.head import RequestLine
from kdaemon.http.refusals import Refusal, foreign, malformed

# uri-host [":" port] (RFC 9110, 7.2; RFC 3986, 3.2.2), without percent signs
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=-]*)(?::([0-9]{0,5}))?")

# Types that a page's form, or `fetch` without a preflight, can send (Fetch, CORS-safelisted).
_SIMPLE_TYPES = frozenset(
    {b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"}
)
_OWN_SITE = frozenset({b"none", b"same-origin"})
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


@dataclass(frozen=True, slots=True)
class Gate:
    """What one listener requires of a request.

    `checks_browsers`: False for a Unix socket, which no page can reach. `checks_host`: the name in
    `Host` must be an address, `localhost`, or one of `hosts` (lower case).
    """

    checks_browsers: bool = True
    checks_host: bool = True
    hosts: frozenset[str] = frozenset()

    def refusal(self, line: RequestLine, headers: dict[bytes, bytes]) -> Refusal | None:
        """Why the request is not let in; None: it is."""
        host = headers.get(b"host")
        if host is None and not line.is_http_1_0:
            return malformed("the Host header is missing")
        if line.authority is not None:
            host = line.authority  # RFC 9112, 3.2.2
        if host is None:
            return self._foreign_page(b"", line.method, headers)
        found = _HOST.fullmatch(host)
        if found is None:
            return malformed("the Host header is no host and port")
        name = found[1].decode().lower()
        if self.checks_host and not self._is_ours(name):
            return foreign(
                "The Host header names another machine. Use the address, or localhost; or name the"
                " host in listen.hosts."
            )
        return self._foreign_page(host, line.method, headers)

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _foreign_page(
        self, host: bytes, method: str, headers: dict[bytes, bytes]
    ) -> Refusal | None:
        if not self.checks_browsers:
            return None
        if headers.get(b"sec-fetch-site", b"none").lower() not in _OWN_SITE:
            return foreign("A web page of another site asks (Sec-Fetch-Site), and is not served.")
        origin = headers.get(b"origin")
        if origin is None:
            return None
        if not _is_same(origin, host):
            return foreign("A web page of another site asks (Origin), and is not served.")
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if method == "POST" and media_type in _SIMPLE_TYPES:
            return Refusal(
                "foreign",
                415,
                "UnsupportedMediaTypeException",
                "A web page must name the type of what it sends: application/x-ndjson or"
                " application/json.",
            )
        return None


def gate_of(host: str, hosts: tuple[str, ...] = ()) -> Gate:
    """The gate of a TCP listener on `host`. `hosts`: names by which clients may call it. Beyond
    loopback the name is checked only if there are some, because the daemon cannot know other names.
    """
    names = frozenset(name.lower() for name in hosts)
    return Gate(checks_host=bool(names) or is_loopback(host), hosts=names)


def _is_same(origin: bytes, host: bytes) -> bool:
    """Whether the page came from where the request goes: host and port are the same."""
    scheme, mark, authority = origin.lower().partition(b"://")
    if not mark or not authority:
        return False
    default = _DEFAULT_PORTS.get(scheme, b"")
    return _with_port(authority, default) == _with_port(host.lower(), default)


def _with_port(authority: bytes, default: bytes) -> bytes:
    found = _HOST.fullmatch(authority)
    if found is None:
        return authority
    return found[1] + b":" + (found[2] or default)
