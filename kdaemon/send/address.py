"""A URL that requests go to, taken apart once for all of them.

Knows URLs, as aiohttp reads them: a request over either kind of connection goes to the same place.
Apart from `request.py`, because compiled code knows no types of yarl's.
Where it sits: `request.py` asks it for each route that is prepared.
"""

import ssl
from dataclasses import dataclass

import yarl

from kdaemon.send.connection import Peer


@dataclass(frozen=True, slots=True)
class Address:
    """`host`: as in the header Host. `path`: with the query, as in the first line of a request."""

    url: yarl.URL
    host: str
    path: str

    @property
    def is_plain(self) -> bool:
        """Whether it is called without TLS."""
        return self.url.scheme == "http"

    def peer(self, trust: ssl.SSLContext | bool) -> Peer | None:
        """Where a connection of our own would lead; None: such a URL has none. `trust`: the trusted
        certificates for TLS.
        """
        host, port = self.url.raw_host, self.url.port
        if not host or not port or self.url.scheme not in {"http", "https"}:
            return None
        if host.endswith(".."):
            host = host.rstrip(".") + "."
        return Peer(host, port, None if self.is_plain else trust)


def address_of(url: str) -> Address:
    """`url`: with everything encoded that must be."""
    parsed = yarl.URL(url, encoded=True)
    return Address(parsed, parsed.host_port_subcomponent or "", parsed.raw_path_qs)
