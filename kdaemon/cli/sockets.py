"""Finds sockets that are already bound when a daemon starts: systemd's, or those of the running
daemon.

Reads the environment, asks the running daemon, and prints where these do not agree with the
configuration: exit 78 if systemd and the configuration differ, 1 if a takeover is not possible.
Where it sits: the command `run` begins with it, before anything that takes long.
"""

import os
from typing import TYPE_CHECKING

from kdaemon.cli.common import EXIT_CONFIG, CommandError

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.http.passed import Inherited
    from kdaemon.http.takeover import Taken


def find_sockets(config: "Config", *, is_takeover: bool) -> "tuple[Inherited | None, Taken | None]":
    """(sockets that this process did not bind, the takeover from the running daemon); each None:
    there is none.
    """
    if not is_takeover and "LISTEN_FDS" not in os.environ:
        return None, None
    from kdaemon.config.listeners import (  # noqa: PLC0415 - most daemons start without
        TAKEOVER,
        Wanted,
        takeover_path,
        wanted_listeners,
    )
    from kdaemon.http.listener import ListenerError  # noqa: PLC0415 - the same
    from kdaemon.http.passed import (  # noqa: PLC0415 - the same
        agree,
        passed_by_systemd,
        taken_from_daemon,
    )

    wanted = wanted_listeners(config, os.environ, os.path.isdir)
    try:
        passed = passed_by_systemd(os.environ, os.getpid())
    except ListenerError as error:
        raise CommandError(str(error), exit_code=EXIT_CONFIG) from error
    if passed and is_takeover:
        text = "--takeover is for daemons without systemd's sockets: systemctl restart kdaemon"
        raise CommandError(text, exit_code=EXIT_CONFIG)
    if not is_takeover:
        inherited, problems = agree(passed, wanted)
        if problems:
            raise CommandError(*problems, exit_code=EXIT_CONFIG)
        return inherited, None
    path = takeover_path(config, os.environ, os.path.isdir)
    if path is None:
        raise CommandError("--takeover needs listen.unix or spool.directory: daemons meet there")
    from kdaemon.http.takeover import take_over  # noqa: PLC0415 - as above

    try:
        taken = take_over(path)
    except ListenerError as error:
        raise CommandError(str(error)) from error
    if taken is None:
        return None, None
    private = Wanted(TAKEOVER, "", path)
    return taken_from_daemon(taken.passed, (*wanted, private)), taken
