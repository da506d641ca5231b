"""How `put` and `dead-letters replay` reach a daemon, and how they ask why nothing goes on.

Both wait for the daemon's answers, and `put/waiting.py` tells the person there of a long wait, in
words from the admin listener of the configuration. Must not know a command.
Invariant: only the daemon that the records went to is asked: the configuration names its socket or
its HTTP listener.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from kdaemon.base.endpoint import leads_to
from kdaemon.base.errors import ConfigError
from kdaemon.cli.admin import AdminError, Asked, status_page
from kdaemon.cli.common import (
    SYSTEM_SOCKET,
    CommandError,
    F,
    config_option,
    find_daemon,
    load,
    read_with_givers,
    say,
)
from kdaemon.cli.screen import why_waits

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.put.signing import Signer
    from kdaemon.put.unix import Block
    from kdaemon.put.waiting import Person, Totals

LOOK_TIMEOUT_S = 2.0
"""For the page. A command that is done waits no longer for it. Ours, 2026-11-29."""
_EITHER = "--socket PATH or --endpoint HOST:PORT names the daemon"


def way_options(command: F) -> F:
    """The options that make a `Way`."""
    for option in (
        config_option,
        click.option(
            "--endpoint", metavar="HOST:PORT", help="The daemon's HTTP listener, or its URL."
        ),
        click.option("--socket", metavar="PATH", help="The daemon's Unix socket."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Way:
    """How a daemon is reached: by a socket or by an endpoint; else as the configuration says."""

    socket: str | None
    endpoint: str | None
    config_path: str | None

    def __post_init__(self) -> None:
        if self.socket is not None and self.endpoint is not None:
            raise click.UsageError("--socket and --endpoint exclude each other.")

    def found(self) -> "Way":
        """The same with what the configuration says, if no option does. Raises CommandError."""
        if self.socket is not None or self.endpoint is not None:
            return self
        hint = f"without a configuration: {_EITHER}"
        socket, endpoint = find_daemon(load(self.config_path, [], hint))
        if not socket and not endpoint:
            raise CommandError(f"listen.http and listen.unix are both off: {_EITHER}")
        return replace(self, socket=socket, endpoint=endpoint)

    async def send(
        self,
        stream: str | None,
        acknowledge: str,
        totals: "Totals",
        person: "Person",
        blocks: "AsyncIterator[Block]",
        signer: "Signer | None" = None,
        ca_file: str | None = None,
    ) -> None:
        """Sends the records, as `put.unix.UnixPut` and `put.http.HttpPut` do. Raises PutError."""
        if self.endpoint is not None:
            from kdaemon.put.http import HttpPut  # noqa: PLC0415 - brings aiohttp

            http = HttpPut(stream, acknowledge, totals, person, signer, ca_file)
            await http.send(self.endpoint, blocks)
        else:
            from kdaemon.put.unix import UnixPut  # noqa: PLC0415 - see cli/__init__.py

            assert self.socket is not None
            await UnixPut(stream, acknowledge, totals, person).send(self.socket, blocks)

    async def look(self, stream: str | None) -> str | None:
        """Why the records of a stream do not go out, for `put.waiting.Person`. `stream`: None: each
        line names its own.
        """
        return await asyncio.to_thread(self._why, stream)

    def _why(self, stream: str | None) -> str | None:
        try:
            config = read_with_givers(self.config_path, []).config
            if not is_of(config, self.socket, self.endpoint):
                return None
            place = Asked().place_of(config.listen)
        except (ConfigError, AdminError):
            return None
        try:
            return why_waits(status_page(place, LOOK_TIMEOUT_S), stream)
        except AdminError as error:
            return f"and why, it does not say ({error})"


def tell_rejected(rejected: int, reasons: Sequence[str]) -> None:
    """Prints the reasons of the first records that were refused, on standard error."""
    for reason in reasons:
        say(f"rejected: {reason}", err=True)
    if rejected > len(reasons):
        say(f"rejected: and {rejected - len(reasons):,} more", err=True)


def is_of(config: "Config", socket: str | None, endpoint: str | None) -> bool:
    """Whether a daemon with this configuration listens there."""
    from kdaemon.config import resolve_unix_path  # noqa: PLC0415 - see cli/__init__.py

    if socket is not None:
        path = resolve_unix_path(config.listen.unix, os.environ, os.path.isdir)
        own = {path, SYSTEM_SOCKET} if config.listen.unix == "auto" else {path}
        return os.path.realpath(socket) in {os.path.realpath(each) for each in own if each}
    address = config.listen.http_address
    if address is None or endpoint is None:
        return False
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        return leads_to(url, address.host, address.port)
    except ValueError:  # no address, which the command itself says
        return False
