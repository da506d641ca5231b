"""`kdaemon reload`: makes a daemon on this machine read its configuration again, and prints the
outcome.

The page `/configz` of the admin listener names the daemon's process and the outcome of its last
reload. The command then signals that process. Only the daemon's user and root can signal it;
nothing on the admin listener changes anything. Two checks make sure that the process is the daemon.
Its start time must match the page's, because behind the port of a container the same number is
another process here. And the socket at that port must belong to the process's user, or to root, as
systemd's sockets do: else, while no daemon runs, a stranger could listen there and have root signal
any process.
Exit codes: 0: in force, or nothing has changed. 1: the old configuration stays: the new one needs a
restart, could not be taken, or there is no daemon. 78: the old one stays, because the new one is
wrong.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click

from kdaemon.cli.admin import AdminError, AdminPlace, Asked, admin_options, page_of
from kdaemon.cli.common import EXIT_CONFIG, CommandError, read_sources, say, wrong_config
from kdaemon.cli.help import Command
from kdaemon.system import SystemClock, listener_users, start_of, user_of

LOOK_INTERVAL_S = 0.05  # seconds between two looks at the outcome; ours, 2026-11-28
ANSWER_TIMEOUT_S = 5.0  # seconds, of the admin listener; ours, 2026-11-28


@click.command(cls=Command)
@admin_options
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the daemon has done it.",
)
def reload(timeout_s: float, **options: Any) -> None:
    """Have a running daemon read its configuration again.

    It is what SIGHUP does; this command also says what became of it. The daemon reads the file, the
    environment and the flags that it was started with. --config and --set tell this command where
    the admin listener of the daemon is; a file that the daemon does not read is refused.

    Exit 0: the whole new configuration is in force. Exit 1: the whole old one stays, because the
    new one needs a restart or could not be taken. Exit 78: it stays, because the new one is wrong.
    """
    # No secret is sent, and `_signal` compares the process that the page names with the one that
    # listens: the certificate need not be checked.
    asked = Asked(**options, is_checked=False)
    place = _find(asked)
    before = _ask(place)
    if asked.config_path:
        _see_that_it_reads(asked.config_path, before)
    _signal(before, place.port)
    aim = before["reloads"] + 1 + before["is_reloading"]
    _say_outcome(_wait(place, aim, timeout_s))


def _find(asked: Asked) -> AdminPlace:
    """Where the admin listener is. The file may be one that the daemon will refuse."""
    from kdaemon.config.given import FLAGS  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.config.load import good_values  # noqa: PLC0415 - the same

    sources, unread = read_sources(asked.config_path, asked.settings)
    loaded = good_values(sources, os.environ)
    wrong = [each for each in loaded.problems if each.source == FLAGS]
    if wrong:
        raise wrong_config(wrong)
    listen = loaded.config.listen
    if asked.admin is None and listen.admin_address is None:
        text = "listen.admin is off, and names no daemon: send SIGHUP to it, and look at its log"
        raise CommandError(text)
    if unread and asked.admin is None:  # the daemon will say what is wrong with the file
        say(f"{unread[0]}. The daemon is looked for at {listen.admin}", err=True)
    return asked.place_of(listen)


def _ask(place: AdminPlace) -> dict[str, Any]:
    """The page `/configz` of the daemon at this place. Raises AdminError."""
    needs = {"pid", "reloads", "is_reloading"}
    page = page_of(place, "/configz", needs, ANSWER_TIMEOUT_S)
    if type(page["pid"]) is not int or page["pid"] < 1:
        raise AdminError(f"what answers at {place.url} is no daemon that can be told to reload")
    return page


def _see_that_it_reads(config_path: str, page: dict[str, Any]) -> None:
    """Exits with 1 if the daemon reads another file. A daemon of an older version does not tell."""
    path = str(Path(config_path).absolute())
    file = page.get("file", path)
    if file is None:
        does = "was started without a file, and reads none"
    elif Path(path).resolve() != Path(file).resolve():
        does = f"reads {file}"
    else:
        return
    raise CommandError(
        f"the daemon (process {page['pid']}) {does}: {path} would not be read, and nothing was"
        " asked. To have it read, start the daemon with it; to reload this daemon, name its own"
        " file, or only --admin HOST:PORT"
    )


def _signal(page: dict[str, Any], port: int) -> None:
    pid = page["pid"]
    if start_of(pid) is None or start_of(pid) != page.get("start"):
        raise CommandError(
            f"the daemon at port {port} is process {pid} of another container, of another"
            " machine, or of a user whose processes are hidden: send SIGHUP to it there"
        )
    if not {user_of(pid), 0} & listener_users(port):  # sockets of systemd belong to root
        raise CommandError(
            f"process {pid} is another user's than who listens at port {port}, who may be"
            " no daemon: send SIGHUP to the daemon itself"
        )
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        text = f"process {pid} cannot be signalled: {error.strerror}. Be its user, or root"
        raise CommandError(text) from error


def _wait(place: AdminPlace, aim: int, timeout_s: float) -> dict[str, Any]:
    until_ns = SystemClock.now_ns() + int(timeout_s * 1e9)
    pause = threading.Event()
    while True:
        page = _ask(place)
        if page["reloads"] >= aim:
            return page
        if SystemClock.now_ns() >= until_ns:
            text = f"asked, and nothing became of it within {timeout_s:g} s: see the daemon's log"
            raise CommandError(text)
        pause.wait(LOOK_INTERVAL_S)


def _say_outcome(page: dict[str, Any]) -> None:
    last = page["last_reload"]
    outcome, keys, generation = last["outcome"], ", ".join(last["keys"]), page["generation"]
    for problem in last["problems"]:
        say(problem, err=True)
    if outcome == "applied":
        say(f"in force (generation {generation}): {keys}")
    elif outcome == "unchanged":
        file = page.get("file")
        say(f"nothing has changed{f' in {file}' if file else ': the daemon reads no file'}")
    elif outcome == "restart":
        raise CommandError(f"needs a restart, and nothing of it was taken: {keys}")
    else:
        exit_code = EXIT_CONFIG if outcome == "wrong" else 1
        raise CommandError("the old configuration stays in force", exit_code=exit_code)
