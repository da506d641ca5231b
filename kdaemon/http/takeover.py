"""Lets a new daemon take the listening sockets over from the running one, by a private Unix socket.

`Giver` is the side of the running daemon; `take_over` and `Taken` are the side of the new one. They
exchange JSON objects, one in each packet; descriptors go with the packets (SCM_RIGHTS). The order:
1. The new daemon asks (`takeover`).
2. The running one passes its sockets, by name, and says which spool it has, and whether it keeps
order in memory.
3. The new one accepts connections, and says which sockets it took (`listening`) and which spool it
will have.
4. The running one stops accepting (`yielded`), drains, closes its spool (`released`), and ends.
A value that an older version does not send is None here.
Invariants: both sides belong to one user (SO_PEERCRED), or to root. Until `listening` is read, the
running daemon goes on as if nobody had asked. A listening socket is open in one of the two at any
time, so that no connection is refused. Only one process at a time has the sockets; until it has
gone, others that ask are refused, because two daemons that listen would both serve.
Knows sockets and names. Must not know what is served, nor how a daemon drains. Where it sits:
daemon/.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaemon.config.listeners import TAKEOVER
from kdaemon.http.accepting import Acceptor
from kdaemon.http.listener import ListenerError, SocketFile
from kdaemon.http.passed import Passed
from kdaemon.http.transports import peer_of

log = logging.getLogger("kdaemon.http")

PACKET_BYTES_MAX = 64 * 1024  # 100 names of sockets take a tenth of it; ours, 2026-11-28
SOCKETS_A_PACKET = 100  # below SCM_MAX_FD, 253 (net/scm.h of Linux 6), 2026-11-28
ANSWER_TIMEOUT_S = 10.0  # seconds that a busy daemon may take to pass its sockets; ours, 2026-11-28
WAITING_MAX = 8  # processes that ask while this one is busy; ours, 2026-11-28


@dataclass(frozen=True, slots=True)
class About:
    """What a daemon that takes over must know of the one before. `spool`: the spool that the other
    has, or waits for (`place_of`); None: it did not say. `keeps_order`: of records in its memory.
    """

    spool: str | None = None
    keeps_order: bool = False


class Giver:
    """Lets another process take the listening sockets over. One process at a time: the first that
    asks keeps its place until it goes.
    """

    def __init__(
        self,
        offer: Callable[[], list[Passed]],
        on_taken: Callable[[frozenset[str]], object],
        refusal: str | None = None,
        about: Callable[[], About] = About,
    ) -> None:
        """`offer`: returns the sockets of now. `on_taken`: called when the other process accepts on
        the sockets of these names; this daemon must stop accepting on them and drain. `refusal`:
        why nobody may take over. `about`: returns what the other process must know of this one.
        """
        self._offer = offer
        self._on_taken = on_taken
        self._refusal = refusal
        self._about = about
        self._file: SocketFile | None = None
        self._acceptor: Acceptor | None = None
        self._conn: socket.socket | None = None
        # Names of the sockets that the process at `_conn` has.
        self._passed: frozenset[str] = frozenset()
        self._pid = 0  # the id of that process
        # Connections to refuse as soon as they have asked.
        self._refused: set[socket.socket] = set()
        self.has_given = False  # another process listens: this one must end
        self.taken_spool = ""  # the spool that the other process will have (`place_of`)

    def start(self, path: str, socks: Sequence[socket.socket] = ()) -> None:
        """Listens at `path`. `socks`: the private socket, if it was taken over with the others.
        Raises ListenerError.
        """
        self._file = SocketFile(path, 0o600, socket.SOCK_SEQPACKET)
        sock = self._file.adopt(socks[0]) if socks else self._file.bind()
        self._file.own()
        self._acceptor = Acceptor(sock, WAITING_MAX, self._take)

    @property
    def passed(self) -> frozenset[str]:
        """Names of the sockets that another process has but does not listen on yet, as far as is
        known.
        """
        return self._passed

    def close(self) -> None:
        """Nobody else may take over. A process that has the sockets may still say that it listens,
        until `released`: this process ends in any case.
        """
        self._close_listener()
        if not (self.has_given or self._passed):
            self._drop()

    def released(self) -> None:
        """The spool is closed: the process that took over, or is about to, may open it."""
        if self.has_given:
            self._say({"released": True})
        if self._passed and self._file is not None:
            self._file.leave()
        self._drop()

    def _close_listener(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.close()
        for conn in tuple(self._refused):
            self._leave(conn)
        if self._file is not None and TAKEOVER not in self._passed:
            self._file.remove()

    def _take(self, conn: socket.socket) -> bool:
        """Takes the connection of a process that asks."""
        if not is_trusted(conn):
            log.warning("a process of another user asked for the listening sockets: it gets none")
            conn.close()
            return True
        if self._passed:
            self._read()  # the process may have gone, or have said that it listens
        if self._passed or self.has_given:
            self._refused.add(conn)
            asyncio.get_running_loop().add_reader(conn.fileno(), self._refuse, conn)
            return True
        self._drop()
        self._conn = conn
        asyncio.get_running_loop().add_reader(conn.fileno(), self._read)
        return True

    def _refuse(self, conn: socket.socket) -> None:
        """Refuses a process that asks while another one is taking over or has taken over. Its
        question is read first: closing before that would reset the connection and destroy the
        answer.
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
                text = "a process does not take over: it is gone"
                log.info(text, extra={"fields": {"pid": self._pid}})
            self._drop()

    def _give(self) -> None:
        if self._refusal is not None:
            self._say({"refused": self._refusal})
            self._drop()
            return
        socks = self._offer()
        if self._acceptor is not None:
            socks.append(Passed(TAKEOVER, self._acceptor.sock))
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
            log.info("a process is about to take over", extra={"fields": {"pid": self._pid}})

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
        if self._acceptor is None and self._file is not None:  # no process has the socket now
            self._file.remove()
        if conn is not None:
            asyncio.get_running_loop().remove_reader(conn.fileno())
            conn.close()


class Taken:
    """The sockets that the running daemon has passed, and the way to tell it that we listen. Its
    methods are for the loop.
    """

    def __init__(
        self, passed: list[Passed], pid: int, conn: socket.socket, about: About | None = None
    ) -> None:
        self.passed = passed
        self.pid = pid  # of the running daemon
        self.about = about or About()
        self._conn = conn
        self._is_told = False
        self._has_yielded = asyncio.Event()
        self._has_released = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None
        conn.setblocking(False)

    def close(self) -> None:
        """Says and hears nothing more. If the running daemon was not told that we listen, it goes
        on.
        """
        if self._hearing is not None:
            self._hearing.cancel()
        else:
            self._conn.close()

    def has_spool(self, directory: str) -> bool:
        """Whether the running daemon has, or waits for, the spool at this directory; True if it did
        not say.
        """
        return self.about.spool is None or self.about.spool == place_of(directory)

    async def listening(self, names: Collection[str], spool: str = "") -> None:
        """Tells the running daemon that we accept on the sockets of these names. When this returns,
        that daemon has stopped accepting, or has gone, or does not answer; in the last case it
        stops later. A second call does nothing. `spool`: the spool that we will have (`place_of`);
        "": none.
        """
        if self._is_told:
            return
        self._is_told = True
        with contextlib.suppress(OSError):  # the other has gone, and `_hear` will notice
            self._conn.send(json.dumps({"listening": sorted(names), "spool": spool}).encode())
        self._hear()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._has_yielded.wait()
        except TimeoutError:
            text = "the process that is taken over from does not answer: it may still listen, too"
            log.warning(text, extra={"fields": {"pid": self.pid}})

    async def released(self) -> None:
        """Waits until the other daemon has closed its spool, or has gone."""
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
    """Asks the daemon that listens at this path; None: there is none. Waits ANSWER_TIMEOUT_S at
    most. ListenerError: that daemon does not pass its sockets, or is not to be trusted.
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
    """The sockets, and the other values of the last packet."""
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
    """Identifies a directory by device and inode, because two processes may have it mounted at
    different paths. "": there is none.
    """
    try:
        found = Path(directory).stat() if directory else None
    except OSError:
        return ""
    return "" if found is None else f"{found.st_dev}:{found.st_ino}"


def is_trusted(conn: socket.socket) -> bool:
    """Whether the process at the other end belongs to our user, or to root."""
    return peer_of(conn)[1] in (0, os.geteuid())


def _send(conn: socket.socket, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
    """False: the other process went away, or does not read."""
    try:
        socket.send_fds(conn, [json.dumps(fields).encode()], descriptors)
    except OSError:
        return False
    return True


def _parsed(packet: bytes) -> dict[str, Any]:
    """The object in the packet; empty if the packet is no object."""
    try:
        said = json.loads(packet)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
