"""Which listeners a configuration asks for: each with its name, its setting and its place.

For sockets that were bound outside this process (by systemd, or by the daemon before this one),
which must agree with the configuration. Pure. Where it sits: daemon/ and the commands ask,
http/passed.py compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kdaemon.config.settings import Config, IsDirectory, resolve_unix_path
from kdaemon.config.values import Address

TAKEOVER = "takeover"  # name of the private socket on which one daemon takes over from another


@dataclass(frozen=True, slots=True)
class Wanted:
    """One listener. `at`: an address, or the path of a Unix socket; None: it is off. `is_auto`: a
    Unix socket may stand anywhere.
    """

    name: str
    key: str
    at: Address | str | None
    is_auto: bool = False


def wanted_listeners(
    config: Config, environ: Mapping[str, str], is_directory: IsDirectory
) -> tuple[Wanted, ...]:
    """Those of [listen], on or off, and those that streams have of their own."""
    listen = config.listen
    path = resolve_unix_path(listen.unix, environ, is_directory)
    return (
        Wanted("http", "listen.http", listen.http_address),
        Wanted("admin", "listen.admin", listen.admin_address),
        Wanted("unix", "listen.unix", path, is_auto=listen.unix == "auto"),
        *(
            Wanted(f"streams.{name}", f"streams.{name}.socket", stream.socket)
            for name, stream in config.streams.items()
            if stream.socket
        ),
    )


def takeover_path(
    config: Config, environ: Mapping[str, str], is_directory: IsDirectory
) -> str | None:
    """The private socket: beside the Unix socket, or else in the spool; None: there is neither."""
    unix = resolve_unix_path(config.listen.unix, environ, is_directory)
    if unix is not None:
        return f"{unix}.{TAKEOVER}"
    directory = config.spool.directory
    return f"{directory.rstrip('/')}/{TAKEOVER}.sock" if directory else None
