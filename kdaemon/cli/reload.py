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

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kdaemon.base.errors import ConfigError
from kdaemon.cli.admin import client_certificate_options
from kdaemon.cli.common import (
    EXIT_CONFIG,
    config_option,
    exit_config,
    pairs,
    read_text,
    say,
    set_option,
)
from kdaemon.cli.help import Command

if TYPE_CHECKING:
    import ssl

    from kdaemon.config import Address, Config

LOOK_INTERVAL_S = 0.05  # seconds between two looks at the outcome; ours, 2026-11-28
ANSWER_TIMEOUT_S = 5.0  # seconds, of the admin listener; ours, 2026-11-28
PAGE_BYTES_MAX = 1024 * 1024
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a listener is


@click.command(cls=Command)
@config_option
@set_option
@click.option(
    "--admin", metavar="HOST:PORT", help="The daemon's admin listener. Default: listen.admin."
)
@client_certificate_options
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the daemon has done it.",
)
def reload(
    config_path: str | None,
    settings: tuple[str, ...],
    admin: str | None,
    certificate: str | None,
    key: str | None,
    timeout_s: float,
) -> None:
    """Have a running daemon read its configuration again.

    It is what SIGHUP does; this command also says what became of it. The daemon reads the file, the
    environment and the flags that it was started with. --config and --set tell this command where
    the admin listener of the daemon is; a file that the daemon does not read is refused.

    Exit 0: the whole new configuration is in force. Exit 1: the whole old one stays, because the
    new one needs a restart or could not be taken. Exit 78: it stays, because the new one is wrong.
    """
    config = _find(config_path, settings, admin)
    address = config.listen.admin_address
    if address is None:
        _fail("listen.admin is off, and names no daemon: send SIGHUP to it, and look at its log")
    tls = _tls(certificate, key) if config.listen.admin_tls else None
    before = _ask(address, tls)
    if config_path:
        _see_that_it_reads(config_path, before)
    _signal(before, address)
    aim = before["reloads"] + 1 + before["is_reloading"]
    _say_outcome(_wait(address, aim, timeout_s, tls))


def _find(config_path: str | None, settings: tuple[str, ...], admin: str | None) -> "Config":
    """The configuration that says where the admin listener is. The file may be one that the daemon
    will refuse.
    """
    from kdaemon.config.given import FLAGS  # noqa: PLC0415 - see load
    from kdaemon.config.load import good_values, load_config  # noqa: PLC0415 - see load

    flags = pairs(settings)
    text: str | None = None
    unread = ""
    try:
        text = read_text(config_path)
    except ConfigError as error:  # the daemon will say what is wrong with the file
        unread = str(error)
    loaded = good_values(text=text, environ=os.environ, flags=flags)
    wrong = [each for each in loaded.problems if each.source == FLAGS]
    if wrong:
        exit_config(wrong)
    config = loaded.config
    if admin is None:
        if unread:
            say(f"{unread}. The daemon is looked for at {config.listen.admin}", err=True)
        return config
    try:
        found = load_config(flags=[("listen.admin", admin)]).listen
    except ConfigError as error:
        raise click.BadParameter(error.problems[0].problem, param_hint="--admin") from None
    return replace(config, listen=replace(config.listen, admin=found.admin))


def _ask(address: "Address", tls: "ssl.SSLContext | None") -> dict[str, Any]:
    """The page `/configz` of the daemon at this address. Exits with 1 if there is none."""
    import http.client  # noqa: PLC0415 - memory and time of the other commands

    host = EVERYWHERE.get(address.host, address.host)
    where = f"{host}:{address.port}"
    try:
        connection = _connection(host, address.port, tls)
        try:
            connection.request("GET", "/configz")
            answer = connection.getresponse()
            body = answer.read(PAGE_BYTES_MAX)
        finally:
            connection.close()
        page = json.loads(body) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        asks = "CERTIFICATE_REQUIRED" in reason.upper().replace(" ", "_")
        _fail(
            f"the daemon at {where} asks for a certificate (listen.tls_client_ca): give"
            " --client-certificate and --client-key"
            if asks
            else f"no daemon answers at {where}: {reason}. Is it running? If its listen.admin was"
            " changed, name where it still listens: --admin HOST:PORT"
        )
    if not isinstance(page, dict) or not {"pid", "reloads", "is_reloading"} <= page.keys():
        page = {"pid": None}
    if type(page["pid"]) is not int or page["pid"] < 1:
        _fail(f"what answers at {where} is no daemon that can be told to reload")
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
    _fail(
        f"the daemon (process {page['pid']}) {does}: {path} would not be read, and nothing was"
        " asked. To have it read, start the daemon with it; to reload this daemon, name its own"
        " file, or only --admin HOST:PORT"
    )


def _connection(host: str, port: int, tls: "ssl.SSLContext | None") -> Any:
    import http.client  # noqa: PLC0415 - see _ask

    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
    return http.client.HTTPSConnection(host, port, timeout=ANSWER_TIMEOUT_S, context=tls)


def _tls(certificate: str | None, key: str | None) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415 - see _ask

    # No secret is sent, and `_signal` compares the process that the page names with the one that
    # listens: the certificate need not be checked.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(filter(None, (certificate, key)))
            _fail(f"{named}: cannot be used: {error.strerror or error}")
    return context


def _signal(page: dict[str, Any], address: "Address") -> None:
    from kdaemon.system import listener_users, start_of, user_of  # noqa: PLC0415 - see load

    pid = page["pid"]
    if start_of(pid) is None or start_of(pid) != page.get("start"):
        _fail(
            f"the daemon at port {address.port} is process {pid} of another container, of another"
            " machine, or of a user whose processes are hidden: send SIGHUP to it there"
        )
    if not {user_of(pid), 0} & listener_users(address.port):  # sockets of systemd belong to root
        _fail(
            f"process {pid} is another user's than who listens at port {address.port}, who may be"
            " no daemon: send SIGHUP to the daemon itself"
        )
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        _fail(f"process {pid} cannot be signalled: {error.strerror}. Be its user, or root")


def _wait(
    address: "Address", aim: int, timeout_s: float, tls: "ssl.SSLContext | None"
) -> dict[str, Any]:
    from kdaemon.system import SystemClock  # noqa: PLC0415 - see load

    until_ns = SystemClock.now_ns() + int(timeout_s * 1e9)
    pause = threading.Event()
    while True:
        page = _ask(address, tls)
        if page["reloads"] >= aim:
            return page
        if SystemClock.now_ns() >= until_ns:
            _fail(f"asked, and nothing became of it within {timeout_s:g} s: see the daemon's log")
        pause.wait(LOOK_INTERVAL_S)


def _say_outcome(page: dict[str, Any]) -> NoReturn:
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
        _fail(f"needs a restart, and nothing of it was taken: {keys}")
    elif outcome == "wrong":
        say("the old configuration stays in force", err=True)
        sys.exit(EXIT_CONFIG)
    else:
        _fail("the old configuration stays in force")
    sys.exit(0)


def _fail(text: str) -> NoReturn:
    say(text, err=True)
    sys.exit(1)
