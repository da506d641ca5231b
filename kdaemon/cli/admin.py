"""Asks a running daemon's admin listener one question, and finds where it listens.

Knows the admin address of the configuration (or the URL that is given instead), and TLS as [listen]
sets it. Must not know what a page says. Follows no redirect, uses no proxy, and reads a bounded
answer.
Invariant: importing this module loads no more than a probe needs, because a probe is started every
few seconds.
"""

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from kdaemon.cli.common import CommandError, F, configured, load

if TYPE_CHECKING:
    from kdaemon.config import ListenConfig

PAGE_BYTES_MAX = 64 * 1024 * 1024  # bytes of one answer; ours: 100 streams take 0.3 MiB
_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a listener's address
IS_IT = ": is this its listen.admin?"
_HINTS = {
    "WRONG_VERSION_NUMBER": ": is it plain HTTP? Then say http://",
    "REMOTE END CLOSED": ": does it speak TLS? Then say https://",
    "CERTIFICATE REQUIRED": ": it asks for a certificate (listen.tls_client_ca): give"
    " --client-certificate and --client-key",
    "CERTIFICATE_VERIFY_FAILED": ": give --ca-file, or the daemon's own --config",
}
"""By a part of an error of Python's or OpenSSL's (3.11, 3.0; 2026-11-29)."""
_WITHOUT = "without a configuration: --admin URL names the daemon, which keeps what it read before"


class AdminError(CommandError):
    """The daemon did not answer, or its answer cannot be read. The text is for people."""


@dataclass(frozen=True, slots=True)
class AdminPlace:
    """Where the admin listener is. `trust`: None: without TLS."""

    host: str
    port: int
    trust: "ssl.SSLContext | None" = None

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, or https://."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * (self.trust is not None)}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Asked:
    """The values of the command's options. `certificate` and `key`: shown to a listener that asks
    for a client certificate. `is_checked`: the listener's certificate must be one that is trusted.
    """

    config_path: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    admin: "tuple[bool | None, str, int] | None" = None
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    is_checked: bool = True

    def place(self) -> AdminPlace:
        """The place that --admin names, else the one of the configuration. Raises CommandError."""
        if self.admin is not None:
            return self.place_of(None)
        return self.place_of(load(self.config_path, self.settings, _WITHOUT).listen)

    def place_of(self, listen: "ListenConfig | None") -> AdminPlace:
        """The place that --admin names, else that of a daemon that listens so. Raises
        AdminError.
        """
        if self.key is not None and self.certificate is None:
            raise click.UsageError("--client-key goes with --client-certificate.")
        is_tls = listen is not None and listen.admin_tls and bool(listen.tls_certificate)
        if self.admin is not None:
            is_told, host, port = self.admin
            is_tls = is_tls if is_told is None else is_told
            return AdminPlace(host, port, self._trust() if is_tls else None)
        assert listen is not None, "somebody names the place"
        address = listen.admin_address
        if address is None or address.port == 0:
            is_what = "off" if address is None else "at port 0, which the system chooses"
            raise AdminError(f"listen.admin is {is_what}: --admin URL names a daemon to ask")
        host = _THIS_MACHINE.get(address.host, address.host)
        return AdminPlace(host, address.port, self._trust(listen) if is_tls else None)

    def _trust(self, listen: "ListenConfig | None" = None) -> ssl.SSLContext:
        """The certificates to trust. For the configuration's own listener that is its very
        certificate, whatever host name it was issued for. Raises AdminError.
        """
        own = listen.tls_certificate if listen is not None and self.ca_file is None else None
        try:
            context = ssl.create_default_context(cafile=own if self.is_checked else None)
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
            if own is not None or not self.is_checked:
                context.check_hostname = False
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            if not self.is_checked:
                context.verify_mode = ssl.CERT_NONE
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            named = filter(None, (self.ca_file, own, self.certificate, self.key))
            where = ", ".join(named) or "certificates"
            raise AdminError(f"{where}: cannot be used: {error.strerror or error}") from error
        return context


def _admin(text: str) -> tuple[bool | None, str, int]:
    """(whether TLS is spoken, host, port) of an address; None: it does not tell."""
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        host = port = None
    if not (host and port) or parts.scheme not in {"", "http", "https"} or parts.path.strip("/"):
        raise click.BadParameter(
            f"{text!r} is no address; expected http(s)://HOST:PORT or HOST:PORT"
        )
    return (parts.scheme == "https") if parts.scheme else None, host, port


_OPTIONS = (
    configured,
    click.option(
        "--admin",
        type=_admin,
        metavar="URL",
        help="The daemon's admin listener, such as http://127.0.0.1:8991. Default: listen.admin of"
        " the configuration.",
    ),
    click.option("--ca-file", metavar="PATH", help="Certificates to trust at https://, as PEM."),
    click.option(
        "--client-certificate",
        "certificate",
        metavar="PATH",
        help="The certificate to show if listen.tls_client_ca asks for one, as PEM.",
    ),
    click.option(
        "--client-key", "key", metavar="PATH", help="The key of that certificate, as PEM."
    ),
)


def admin_options(command: F) -> F:
    """The options that make an `Asked`."""
    for option in reversed(_OPTIONS):
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
        text = "nobody listens there: is kdaemon running, with this listen.admin?"
        raise AdminError(f"{place.url}: {text}") from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = next((hint for part, hint in _HINTS.items() if part in why.upper()), "")
        raise AdminError(f"{place.url}{path}: {why}{hint}") from error
    finally:
        connection.close()
    if len(body) > PAGE_BYTES_MAX:
        raise AdminError(f"{place.url}{path}: an answer of more than {PAGE_BYTES_MAX} bytes")
    return answer.status, body


def page_of(place: AdminPlace, path: str, needs: set[str], timeout_s: float) -> dict[str, Any]:
    """A page of the daemon, read from JSON. `needs`: members that it has, or it is no page of
    kdaemon's. Raises AdminError.
    """
    import json  # noqa: PLC0415 - a probe needs none

    code, body = get(place, path, timeout_s)
    try:
        page = json.loads(body) if code == 200 else None
    except ValueError:
        page = None
    if not isinstance(page, dict) or not needs <= page.keys():
        raise AdminError(f"{place.url}{path}: HTTP {code}, and no page of kdaemon's{IS_IT}")
    return page


def status_page(place: AdminPlace, timeout_s: float) -> dict[str, Any]:
    """The page `/statusz` of the daemon. Raises AdminError."""
    return page_of(place, "/statusz", {"streams"}, timeout_s)
