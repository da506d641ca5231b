"""Asks a running daemon's admin listener one question, and finds where it listens.

Knows the admin address of the configuration (or the URL that is given instead), and TLS as [listen]
sets it. Must not know what a page says. Follows no redirect, uses no proxy, and reads a bounded
answer.
Invariant: importing this module loads no more than a probe needs, because a probe is started every
few seconds.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdaemon.cli.common import config_option, load, pairs, set_option

if TYPE_CHECKING:
    from kdaemon.config import ListenConfig

PAGE_BYTES_MAX = 64 * 1024 * 1024  # bytes of one answer; ours: 100 streams take 0.3 MiB
_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a listener's address
_EITHER = "give --admin URL"
_WITHOUT = "without a configuration: --admin URL names the daemon, which keeps what it read before"

F = TypeVar("F", bound=Callable[..., Any])


class AdminError(Exception):
    """The daemon did not answer, or its answer cannot be read. The text is for people."""


@dataclass(frozen=True, slots=True)
class AdminPlace:
    """Where the admin listener is. `trust`: None: without TLS."""

    host: str
    port: int
    trust: "ssl.SSLContext | None" = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * (self.trust is not None)}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Asked:
    """The values of the command's options. `certificate` and `key`: shown to a listener that asks
    for a client certificate.
    """

    config_path: str | None
    settings: tuple[str, ...]
    admin: str | None
    ca_file: str | None
    certificate: str | None
    key: str | None

    def place(self) -> AdminPlace:
        """The place that --admin names, else the one of the configuration (exit 78 if that is
        wrong). Raises AdminError.
        """
        if self.admin is not None:
            return self._given(self.admin)
        return self.place_of(load(self.config_path, pairs(self.settings), _WITHOUT).listen)

    def place_of(self, listen: "ListenConfig") -> AdminPlace:
        """The place of a daemon that listens so. Raises AdminError."""
        address = listen.admin_address
        if address is None:
            raise AdminError(f"listen.admin is off: there is nobody to ask; set it, or {_EITHER}")
        if address.port == 0:
            raise AdminError(f"listen.admin has port 0, which the system chooses: {_EITHER}")
        trust = self._trust(listen) if listen.admin_tls and listen.tls_certificate else None
        return AdminPlace(_THIS_MACHINE.get(address.host, address.host), address.port, trust)

    def _given(self, url: str) -> AdminPlace:
        from urllib.parse import urlsplit  # noqa: PLC0415 - only for --admin

        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host is None or parts.scheme not in {"http", "https"} or parts.path not in {"", "/"}:
            raise click.BadParameter(
                f"{url!r} is no address; expected http(s)://HOST:PORT or HOST:PORT",
                param_hint="--admin",
            )
        is_tls = parts.scheme == "https"
        return AdminPlace(host, port or (443 if is_tls else 80), self._trust() if is_tls else None)

    def _trust(self, listen: "ListenConfig | None" = None) -> ssl.SSLContext:
        """The certificates to trust. For the configuration's own listener that is its very
        certificate, whatever host name it was issued for. Raises AdminError.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.ca_file is None and listen is not None:
                context = ssl.create_default_context(cafile=listen.tls_certificate)
                context.check_hostname = False
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(filter(None, (self.ca_file, self.certificate, self.key)))
            where = named or (listen.tls_certificate if listen is not None else "certificates")
            raise AdminError(f"{where}: cannot be used: {error.strerror or error}") from error
        return context


def client_certificate_options(command: F) -> F:
    """The options `certificate` and `key`."""
    command = click.option(
        "--client-key", "key", metavar="PATH", help="The key of that certificate, as PEM."
    )(command)
    return click.option(
        "--client-certificate",
        "certificate",
        metavar="PATH",
        help="The certificate to show if listen.tls_client_ca asks for one, as PEM.",
    )(command)


def admin_options(command: F) -> F:
    """The options that make an `Asked`."""
    for option in reversed(
        (
            config_option,
            set_option,
            click.option(
                "--admin",
                metavar="URL",
                help="The daemon's admin listener, such as http://127.0.0.1:8991. Default:"
                " listen.admin of the configuration.",
            ),
            click.option(
                "--ca-file", metavar="PATH", help="Certificates to trust at https://, as PEM."
            ),
            client_certificate_options,
        )
    ):
        command = option(command)
    return command


def get(place: AdminPlace, path: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of one page. Raises AdminError."""
    import http.client  # noqa: PLC0415 - after the options are found right

    connection = (
        http.client.HTTPConnection(place.host, place.port, timeout=timeout_s)
        if place.trust is None
        else http.client.HTTPSConnection(
            place.host, place.port, timeout=timeout_s, context=place.trust
        )
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(PAGE_BYTES_MAX + 1)
    except TimeoutError as error:
        text = f"{place.url}{path}: no answer within {timeout_s:g} s"
        raise AdminError(text) from error
    except ConnectionRefusedError as error:
        text = f"{place.url}: nobody listens there: is kdaemon running, with this listen.admin?"
        raise AdminError(text) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AdminError(f"{place.url}{path}: {why}") from error
    finally:
        connection.close()
    if len(body) > PAGE_BYTES_MAX:
        raise AdminError(f"{place.url}{path}: an answer of more than {PAGE_BYTES_MAX} bytes")
    return answer.status, body


def status_page(place: AdminPlace, timeout_s: float) -> dict[str, Any]:
    """The page `/statusz` of the daemon. Raises AdminError."""
    import json  # noqa: PLC0415 - a probe needs none

    code, body = get(place, "/statusz", timeout_s)
    try:
        page = json.loads(body) if code == 200 else None
    except ValueError:
        page = None
    if not isinstance(page, dict) or "streams" not in page:
        raise AdminError(f"{place.url}/statusz: HTTP {code}, and no page of kdaemon's")
    return page
