"""Sockets to listen on: TCP addresses and Unix socket files, bound and not yet listening.

Owns the socket file: sets its mode, removes a stale one, and never removes a live one. Must not
know what is spoken. Every failure is a `ListenerError` in words for the operator, and what listens
is told by one line of the log.
Where it sits: daemon/ and sandbox/ bind here; server.py serves any bound socket.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from kdaemon.base.endpoint import host_port

log = logging.getLogger("kdaemon")


class ListenerError(Exception):
    """The operator must act: it is not possible to listen there, and the text says why."""


class SocketInUseError(ListenerError):
    """Another process listens there. Its socket is left alone."""


def bind_tcp(host: str, port: int, bound: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """One socket for each address of `host`, all on one port. `port` 0: the system chooses one, or
    the port of `bound`. `bound`: sockets that are bound already; their addresses are left out.
    OSError: some address cannot be bound; then no socket is left open.
    """
    if bound and not port:
        port = bound[0].getsockname()[1]
    there = {each.getsockname()[0] for each in bound}
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    socks: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if address[0] in there:
                continue
            sock = socket.socket(family, kind, protocol)
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            sock.setblocking(False)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


class SocketFile:
    """A Unix socket's file, as long as it is ours."""

    def __init__(
        self, path: str, mode: int = 0o660, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> None:
        self.path = path
        self._mode = mode
        self._kind = kind
        self._identity: tuple[int, int] | None = None
        self._is_lent = False  # another process still owns the file

    def bind(self) -> socket.socket:
        """A bound socket that does not listen yet: until it does, nobody can connect, whatever its
        mode. The directory must exist. Raises ListenerError.
        """
        path = self.path
        try:
            _remove_stale(path, self._kind)
            sock = socket.socket(socket.AF_UNIX, self._kind)
        except OSError as error:  # no descriptor is left, say
            raise _cannot_make(path, error) from error
        try:
            sock.setblocking(False)
            os.fchmod(sock.fileno(), self._mode)  # on Linux the file gets no more rights than this
            sock.bind(path)
            Path(path).chmod(self._mode)  # restores the rights that the umask took away
        except OSError as error:
            sock.close()
            raise _cannot_make(path, error) from error
        self._identity = _identity(path)
        self._is_lent = False
        return sock

    def adopt(self, sock: socket.socket) -> socket.socket:
        """Takes a socket that the daemon before this one has bound here. Its file is watched from
        now on. We remove it only after `own`.
        """
        self._identity = _identity(self.path)
        self._is_lent = True
        return sock

    def own(self) -> None:
        """The daemon before this one has left the file to us. Its mode becomes that of our
        configuration.
        """
        self._is_lent = False
        if self.is_ours():
            with contextlib.suppress(OSError):  # the file went just now, and will be made again
                Path(self.path).chmod(self._mode)

    def leave(self) -> None:
        """The process that took the socket over owns the file now."""
        self._identity = None

    def is_ours(self) -> bool:
        """Whether the file that was bound is still at its path."""
        return self._identity is not None and _identity(self.path) == self._identity

    def remove(self) -> None:
        """Removes the file if it is still ours. A second call does nothing."""
        if self.is_ours() and not self._is_lent:
            Path(self.path).unlink(missing_ok=True)
        self._identity = None


def _cannot_make(path: str, error: OSError) -> ListenerError:
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        reason += (
            f" for uid {os.geteuid()}: give that user the right to write to {Path(path).parent}"
        )
    return ListenerError(
        f"cannot make the socket {path}: {reason}, or set another path for the Unix socket"
    )


def log_listening(name: str, where: str, **more: object) -> None:
    """`name`: of the listener. `where`: a URL, or the path of a socket. `more`: further fields."""
    fields = {"listener": name, "at": where, **more}
    log.info("listening", extra={"fields": fields, "is_always_shown": True})


def cannot_listen(key: str, host: str, port: int, error: OSError) -> ListenerError:
    """`key`: the setting that names the address."""
    where = host_port(host, port)
    return ListenerError(f"{key}: cannot listen on {where}: {_why_not_bound(error, key)}")


def _why_not_bound(error: OSError, key: str) -> str:
    """Why the system refused a TCP address, and what to do. `key`: the setting that names the
    address.
    """
    remedy = f"set {key} to another address"
    match error.errno:
        case errno.EADDRINUSE:
            remedy = f"is another kdaemon running? Or {remedy}"
        case errno.EADDRNOTAVAIL:
            remedy = f"no network interface of this machine has it: {remedy}"
        case errno.EACCES:
            remedy = f"ports below 1024 are root's (CAP_NET_BIND_SERVICE): {remedy}"
    return f"{error.strerror or error}: {remedy}."


def _remove_stale(path: str, kind: socket.SocketKind) -> None:
    """Removes a socket file that nobody listens on. ListenerError: something else is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_make(path, error) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenerError(
            f"{path} is {_kind(found.st_mode)}, not a socket, and is left alone: "
            "remove it, or set another path for the Unix socket"
        )
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # a listener whose queue is full answers EAGAIN: it is alive
        failure = probe.connect_ex(path)
    if failure == errno.ECONNREFUSED:
        _unlink_stale(path, found.st_uid)
    elif failure in (errno.EACCES, errno.EPERM):
        raise ListenerError(
            f"the socket {path} belongs to another user (uid {found.st_uid}), and may not even be"
            " tried: remove it as that user, or set another path for the Unix socket"
        )
    elif failure != errno.ENOENT:
        told = "a process answers there" if failure in (0, errno.EAGAIN) else os.strerror(failure)
        raise SocketInUseError(
            f"the socket {path} is in use ({told}): stop the daemon that listens on it, "
            "or set another path for the Unix socket"
        )


def _unlink_stale(path: str, uid: int) -> None:
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise ListenerError(
            f"a socket that nobody listens on stands at {path} and cannot be removed"
            f" ({error.strerror}); it belongs to uid {uid}: remove it as that user, or set another"
            " path for the Unix socket"
        ) from error


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a directory"))
    return next((text for is_kind, text in kinds if is_kind(mode)), "a file")


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at the path; None: there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
