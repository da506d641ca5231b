"""Listening sockets that somebody else has bound: systemd, or the daemon that ran before this one.

systemd passes them as descriptors from 3 on, counted by LISTEN_FDS and named by LISTEN_FDNAMES
(sd_listen_fds(3), systemd 252; checked 2026-11-28). Here they are taken, closed to child processes,
and compared with the configuration.
Invariants: no variable of systemd's is left in the environment. A socket that does not agree with
its setting is reported in words and never served.
Where it sits: the commands read them; daemon/ serves them. A takeover passes the same values.
"""

import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field

from kdaemon.base.endpoint import host_port
from kdaemon.config.listeners import Wanted
from kdaemon.config.values import Address
from kdaemon.http.listener import ListenerError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START of sd-daemon.h, 2026-11-28
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
DESCRIPTORS_MAX = 4096  # a larger LISTEN_FDS is a mistake; ours, 2026-11-28


@dataclass(frozen=True, slots=True)
class Passed:
    """One socket, and the name that the passing process gives it."""

    name: str
    sock: socket.socket

    @property
    def where(self) -> str:
        """Its address or path, for people."""
        return _text(_own(self.sock))


@dataclass(slots=True)
class Inherited:
    """Sockets to serve, by the name of their listener. `is_systemd`: systemd has bound them, owns
    the files of the Unix sockets among them, and keeps the sockets open when this process ends.
    """

    socks: dict[str, list[socket.socket]] = field(default_factory=dict)
    is_systemd: bool = False

    def take(self, name: str) -> list[socket.socket]:
        """The sockets of one listener, which the caller owns now; empty: they must be bound."""
        return self.socks.pop(name, [])

    def close(self) -> None:
        """Closes the sockets that nobody took."""
        for sock in [each for socks in self.socks.values() for each in socks]:
            sock.close()
        self.socks.clear()


def passed_by_systemd(environ: MutableMapping[str, str], pid: int) -> list[Passed]:
    """The sockets that systemd passes to this process. Removes the variables, even if they are for
    another process. Raises ListenerError if a passed descriptor is not a listening socket.
    """
    said = {name: environ.pop(name, "") for name in VARIABLES}
    if said["LISTEN_PID"] != str(pid) or not said["LISTEN_FDS"]:
        return []
    count = said["LISTEN_FDS"]
    if not (count.isascii() and count.isdigit() and int(count) <= DESCRIPTORS_MAX):
        raise ListenerError(f"LISTEN_FDS is {count!r}; expected the number of sockets passed")
    names = said["LISTEN_FDNAMES"].split(":")
    names += [""] * (int(count) - len(names))
    return [
        Passed(names[number], _listening(FIRST_DESCRIPTOR + number, names[number]))
        for number in range(int(count))
    ]


def _listening(descriptor: int, name: str) -> socket.socket:
    called = f"descriptor {descriptor} ({name or 'no name'}), which systemd passes,"
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenerError(f"{called} is no socket: {error.strerror}") from error
    if sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise ListenerError(f"{called} is neither a TCP nor a Unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise ListenerError(f"{called} is no stream socket: write ListenStream= in its unit")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenerError(f"{called} does not listen: write Accept=no in its unit")
    sock.setblocking(False)
    return sock


def agree(passed: Sequence[Passed], wanted: Sequence[Wanted]) -> tuple[Inherited, list[str]]:
    """The sockets of systemd by listener, and in words where they do not agree with the
    configuration. A socket with the name of a listener is for that listener; any other is for the
    listener that has its address or path.
    """
    found, problems = Inherited(is_systemd=True), []
    for each in passed:
        one = _meant(each, wanted)
        is_unix = each.sock.family == socket.AF_UNIX
        if one is None:
            problems.append(
                f"systemd passes a socket at {each.where} that no setting names: set listen.http"
                " or listen.unix to it, or take it out of the .socket unit"
            )
        elif is_at(each.sock, one) or (one.is_auto and is_unix):
            if is_unix and one.name in found.socks:
                text = f"systemd passes more than one socket for {one.key}: {each.where}, too"
                problems.append(text)
            found.socks.setdefault(one.name, []).append(each.sock)
        elif one.at is None:
            problems.append(
                f"systemd passes the socket {one.name!r} at {each.where}, which is not used:"
                f" {one.key} is off. Set it to {each.where}, or take it out of the .socket unit"
            )
        else:
            problems.append(
                f"{one.key} is {_text(one.at)}, and systemd passes {each.where} for it: write the"
                " same in both"
            )
    return found, problems


def _meant(passed: Passed, wanted: Sequence[Wanted]) -> Wanted | None:
    is_unix = passed.sock.family == socket.AF_UNIX
    return (
        next((one for one in wanted if one.name == passed.name), None)
        or next((one for one in wanted if is_at(passed.sock, one)), None)
        or next((one for one in wanted if one.is_auto and is_unix), None)
    )


def taken_from_daemon(passed: Iterable[Passed], wanted: Sequence[Wanted]) -> Inherited:
    """The sockets of a running daemon for which this configuration has the same listener at the
    same place. The others are closed: this daemon does not listen there, or binds a socket of its
    own.
    """
    found, by_name = Inherited(), {one.name: one for one in wanted}
    for each in passed:
        one = by_name.get(each.name)
        if one is not None and is_at(each.sock, one):
            found.socks.setdefault(one.name, []).append(each.sock)
        else:
            each.sock.close()
    return found


def is_at(sock: socket.socket, wanted: Wanted) -> bool:
    """Whether the socket is at the place where the listener is to be."""
    at, own = wanted.at, _own(sock)
    if isinstance(own, str):
        return isinstance(at, str) and os.path.realpath(own) == os.path.realpath(at)
    if not isinstance(at, Address):
        return False
    port = at.port or own.port
    try:
        flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
        named = socket.getaddrinfo(at.host, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError:
        return False
    return any(address[:2] == (own.host, own.port) for *_, address in named)


def _own(sock: socket.socket) -> Address | str:
    own = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(own) if isinstance(own, str) else own.decode(errors="replace")
    return Address(own[0], own[1])


def _text(at: Address | str | None) -> str:
    if isinstance(at, Address):
        return host_port(at.host, at.port)
    return at or "off"
