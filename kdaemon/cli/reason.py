"""Asks a daemon why the records that a command gave it do not go out.

`put` and `dead-letters replay` wait for the daemon's answers, and `put/waiting.py` tells the person
there of a long wait. The words come from the admin listener of the configuration. Must not know a
transport.
Invariant: only the daemon that the records went to is asked: the configuration names its socket or
its HTTP listener.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kdaemon.base.endpoint import leads_to
from kdaemon.base.errors import ConfigError
from kdaemon.cli.admin import AdminError, Asked, status_page
from kdaemon.cli.common import SYSTEM_SOCKET, read_with_givers
from kdaemon.cli.screen import why_waits

if TYPE_CHECKING:
    from kdaemon.config import Config

LOOK_TIMEOUT_S = 2.0
"""For the page. A command that is done waits no longer for it. Ours, 2026-11-29."""


def looking(
    stream: str | None, socket: str | None, endpoint: str | None, config_path: str | None
) -> Callable[[], Awaitable[str | None]]:
    """A look for `put.waiting.Person`. `stream`: None: each line names its own. `socket`,
    `endpoint`: how the daemon is reached.
    """

    async def look() -> str | None:
        return await asyncio.to_thread(_why, stream, socket, endpoint, config_path)

    return look


def _why(
    stream: str | None, socket: str | None, endpoint: str | None, config_path: str | None
) -> str | None:
    try:
        config = read_with_givers(config_path, []).config
        if not is_of(config, socket, endpoint):
            return None
        place = Asked(config_path, (), None, None, None, None).place_of(config.listen)
    except (ConfigError, AdminError):
        return None
    try:
        return why_waits(status_page(place, LOOK_TIMEOUT_S), stream)
    except AdminError as error:
        return f"and why, it does not say ({error})"


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
