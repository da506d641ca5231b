"""A daemon takes the listening sockets over from the one that runs, by a private Unix socket.

`Giver` is the side of the daemon that runs, `take_over` and `Taken` are that of the new one. What
is said are JSON objects, one a packet; descriptors go along (SCM_RIGHTS). The order: the new one
asks (`takeover`); the old one passes its sockets, by name, and says which spool it has, and whether
it keeps order in memory; the new one accepts and says which it took (`listening`), and which spool
it is to have; the old one stops accepting (`yielded`), drains, closes its spool (`released`), and
ends. What an older version does not say is None here.
Invariants: both sides are of one user (SO_PEERCRED), or root; until `listening` is read the daemon
that runs goes on as if nobody had asked; a listening socket is open in one of them at any time, so
that no connection is refused; one process at a time has the sockets, and until that is gone, who
asks is refused: two that listen would both serve.
Knows sockets and names; not what is served, nor how a daemon drains. Where it sits: daemon/.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaemon.config.listeners import TAKEOVER
from kdaemon.http.listener import ListenerError, SocketFile
from kdaemon.http.passed import Passed

log = logging.getLogger("kdaemon.http")

PACKET_BYTES_MAX = 64 * 1024  # 100 names of sockets take a tenth of it; ours, 2026-11-28
SOCKETS_A_PACKET = 100  # below SCM_MAX_FD, 253 (net/scm.h of Linux 6), 2026-11-28
ANSWER_TIMEOUT_S = 10.0  # seconds a busy daemon may take to pass its sockets; ours, 2026-11-28
RETRY_S = 1.0  # until a file descriptor may be free again; ours, 2026-11-28
OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # accept(2), 2026-11-28
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


@dataclass(frozen=True, slots=True)
class About:
    """What the daemon that takes over has to know of the one before. `spool`: which one that has
    (`place_of`), or waits for; None: it did not say. `keeps_order`: of records in its memory.
    """

    spool: str | None = None
    keeps_order: bool = False


class Giver:
    """Lets another process take the listening sockets over. One at a time: who asks first counts,
    for as long as it is there.
    """

    def __init__(
        self,
        offer: Callable[[], list[Passed]],
        on_taken: Callable[[frozenset[str]], object],
        refusal: str | None = None,
        about: Callable[[], About] = About,
    ) -> None:
        """`offer`: the sockets now. `on_taken`: the process at the other end accepts on those of
        these names; this one is to stop that and drain. `refusal`: why nobody may take over.
        `about`: what that process has to know of this one.
        """
        self._offer = offer
        self._on_taken = on_taken
        self._refusal = refusal
        self._about = about
        self._file: SocketFile | None = None
        self._sock: socket.socket | None = None
        self._conn: socket.socket | None = None
        self._passed: frozenset[str] = frozenset()  # what the process at its end has
        self._pid = 0  # which that is
        self._refused: set[socket.socket] = set()  # which have not asked yet
        self._resuming: asyncio.TimerHandle | None = None
        self.has_given = False  # another process listens: this one is to end
        self.taken_spool = ""  # which spool that is to have (`place_of`)

    def start(self, path: str, socks: Sequence[socket.socket] = ()) -> None:
        """`socks`: the private socket, where it was taken over with the others. ListenerError."""
        self._file = SocketFile(path, 0o600, socket.SOCK_SEQPACKET)
        sock = self._file.adopt(socks[0]) if socks else self._file.bind()
        self._file.own()
        self._sock = sock
        sock.listen(8)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    @property
    def passed(self) -> frozenset[str]:
        """Names of the sockets that a process has which does not listen yet, as far as is known."""
        return self._passed

    def close(self) -> None:
        """Nobody else may take over. Who has the sockets may still say that it listens, until
        `released`: this process ends in any case.
        """
        self._close_listener()
        if not (self.has_given or self._passed):
            self._drop()

    def released(self) -> None:
        """The spool is closed: whoever took over, or is about to, may open it."""
        if self.has_given:
            self._say({"released": True})
        if self._passed and self._file is not None:
            self._file.leave()
        self._drop()

    def _close_listener(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        for conn in tuple(self._refused):
            self._leave(conn)
        if self._file is not None and TAKEOVER not in self._passed:
            self._file.remove()

    def _accept(self) -> None:
        if self._sock is None:
            return
        try:
            conn, _ = self._sock.accept()
        except OSError as error:
            if error.errno in OUT_OF:
                self._pause()
            return
        conn.setblocking(False)
        if not is_trusted(conn):
            log.warning("a process of another user asked for the listening sockets: it gets none")
            conn.close()
            return
        if self._passed:
            self._read()  # it may have gone, or have said that it listens
        if self._passed or self.has_given:
            self._refused.add(conn)
            asyncio.get_running_loop().add_reader(conn.fileno(), self._refuse, conn)
            return
        self._drop()
        self._conn = conn
        asyncio.get_running_loop().add_reader(conn.fileno(), self._read)

    def _refuse(self, conn: socket.socket) -> None:
        """Who asks while another process is at it, or is gone. His question is read first: to close
        before that would reset the connection, and take the answer along.
        """
        with contextlib.suppress(OSError):
            conn.recv(PACKET_BYTES_MAX)
        refusal = f"process {self._pid} is taking over already: wait for it, or end it"
        _send(conn, {"refused": refusal})
        self._leave(conn)

    def _leave(self, conn: socket.socket) -> None:
        self._refused.discard(conn)
        asyncio.get_running_loop().remove_reader(conn.fileno())
        conn.close()

    def _pause(self) -> None:
        """Who asks waits in the kernel meanwhile, and the loop does not turn for that alone."""
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        self._resuming = loop.call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _read(self) -> None:
        if self._conn is None:
            return
        try:
            said = _parsed(self._conn.recv(PACKET_BYTES_MAX))
        except BlockingIOError:
            return
        except OSError:
            said = {}
        if "takeover" in said and not (self.has_given or self._passed):
            self._give()
        elif "listening" in said and not self.has_given:
            self.taken_spool = str(said.get("spool", ""))
            self._yield(said["listening"])
        else:
            if self._passed:
                log.info("process %d does not take over: it is gone", self._pid)
            self._drop()

    def _give(self) -> None:
        if self._refusal is not None:
            self._say({"refused": self._refusal})
            self._drop()
            return
        socks = self._offer()
        if self._sock is not None:
            socks.append(Passed(TAKEOVER, self._sock))
        about = self._about()
        said = {"pid": os.getpid(), "spool": about.spool, "order": about.keeps_order}
        for start in range(0, len(socks), SOCKETS_A_PACKET):
            part = socks[start : start + SOCKETS_A_PACKET]
            names = [each.name for each in part]
            has_more = start + SOCKETS_A_PACKET < len(socks)
            fields = {"sockets": names, "more": has_more, **said}
            self._say(fields, [each.sock.fileno() for each in part])
        if self._conn is not None:
            self._pid = peer_of(self._conn)[0]
            self._passed = frozenset(each.name for each in socks)
            log.info("process %d is about to take over", self._pid)

    def _yield(self, names: Any) -> None:
        self.has_given = True
        taken = frozenset(str(each) for each in names) if isinstance(names, list) else frozenset()
        self._passed = frozenset()
        if TAKEOVER in taken and self._file is not None:
            self._file.leave()
        self._close_listener()
        self._on_taken(taken)
        self._say({"yielded": True})

    def _say(self, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self._conn is not None and not _send(self._conn, fields, descriptors):
            self._drop()

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        self._passed = frozenset()
        if self._sock is None and self._file is not None:  # nobody has it now
            self._file.remove()
        if conn is not None:
            asyncio.get_running_loop().remove_reader(conn.fileno())
            conn.close()


class Taken:
    """What the daemon that runs has passed, and the way to tell it that we listen. Its methods are
    for the loop.
    """

    def __init__(
        self, passed: list[Passed], pid: int, conn: socket.socket, about: About | None = None
    ) -> None:
        self.passed = passed
        self.pid = pid  # of the daemon that runs
        self.about = about or About()
        self._conn = conn
        self._is_told = False
        self._has_yielded = asyncio.Event()
        self._has_released = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None
        conn.setblocking(False)

    def close(self) -> None:
        """Says nothing more, and hears nothing more: the other one goes on, if it was not told."""
        if self._hearing is not None:
            self._hearing.cancel()
        else:
            self._conn.close()

    def has_spool(self, directory: str) -> bool:
        """Whether the daemon that runs has, or waits for, this one; so if it did not say."""
        return self.about.spool is None or self.about.spool == place_of(directory)

    async def listening(self, names: Collection[str], spool: str = "") -> None:
        """We accept on the sockets of these names: the other one stops that; it has when this
        returns, or it is gone, or it does not answer: then it stops when it goes on. Twice is
        nothing. `spool`: which one we are to have (`place_of`); "": none.
        """
        if self._is_told:
            return
        self._is_told = True
        with contextlib.suppress(OSError):  # it is gone, as will be heard
            self._conn.send(json.dumps({"listening": sorted(names), "spool": spool}).encode())
        self._hear()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._has_yielded.wait()
        except TimeoutError:
            text = "process %d, which is taken over from, does not answer: it may still listen, too"
            log.warning(text, self.pid)

    async def released(self) -> None:
        """Until the other one has closed its spool, or is gone."""
        self._hear()
        await self._has_released.wait()

    def _hear(self) -> None:
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear_on())

    async def _hear_on(self) -> None:
        loop, said = asyncio.get_running_loop(), {"yielded": True}
        try:
            while said and "released" not in said:
                said = _parsed(await loop.sock_recv(self._conn, PACKET_BYTES_MAX))
                self._has_yielded.set()
        except OSError:
            pass
        finally:
            self._conn.close()
            self._has_yielded.set()
            self._has_released.set()


def take_over(path: str) -> Taken | None:
    """Asks the daemon that listens at this path; None: there is none. Waits, ANSWER_TIMEOUT_S at
    most. ListenerError: it does not pass its sockets, or is not to be trusted.
    """
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        conn.settimeout(ANSWER_TIMEOUT_S)
        try:
            conn.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            conn.close()
            return None
        if not is_trusted(conn):
            why = f"a process of another user listens at {path}"
            raise ListenerError(f"cannot take over: {why}")  # noqa: TRY301 - closed below
        conn.send(json.dumps({"takeover": 1}).encode())
        passed, said = _passed(conn)
    except OSError as error:
        conn.close()
        why = error.strerror or str(error)
        raise ListenerError(f"cannot take over from the daemon at {path}: {why}") from error
    except BaseException:
        conn.close()
        raise
    spool = said.get("spool")
    about = About(spool if isinstance(spool, str) else None, said.get("order") is True)
    return Taken(passed, int(said.get("pid", 0)), conn, about)


def _passed(conn: socket.socket) -> tuple[list[Passed], dict[str, Any]]:
    """The sockets, and what else was said with the last of them."""
    passed: list[Passed] = []
    while True:
        data, descriptors, _, _ = socket.recv_fds(conn, PACKET_BYTES_MAX, SOCKETS_A_PACKET)
        socks = [_own(each) for each in descriptors]
        said = _parsed(data)
        if "refused" in said:
            raise ListenerError(f"cannot take over: {said['refused']}")
        names = said.get("sockets", [])
        if not socks or len(names) != len(socks):
            raise ListenerError("cannot take over: the daemon that runs ended, or passed no socket")
        passed += [Passed(str(name), sock) for name, sock in zip(names, socks, strict=True)]
        if not said.get("more"):
            return passed, said


def _own(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)  # Python 3.11 passes no MSG_CMSG_CLOEXEC on
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def place_of(directory: str) -> str:
    """A directory, whatever it is called by: two processes may have it mounted at two places. "":
    there is none.
    """
    try:
        found = Path(directory).stat() if directory else None
    except OSError:
        return ""
    return "" if found is None else f"{found.st_dev}:{found.st_ino}"


def is_trusted(conn: socket.socket) -> bool:
    """Whether the process at the other end is of our user, or root."""
    return peer_of(conn)[1] in (0, os.geteuid())


def peer_of(conn: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as the system has them."""
    data = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _send(conn: socket.socket, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
    """False: the other one went away, or does not read."""
    try:
        socket.send_fds(conn, [json.dumps(fields).encode()], descriptors)
    except OSError:
        return False
    return True


def _parsed(packet: bytes) -> dict[str, Any]:
    """Nothing, if it is no object."""
    try:
        said = json.loads(packet)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
