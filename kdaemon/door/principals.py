"""Who may write here, as `auth.principals_file` says. The file is read again when it changes.

The daemon looks at the file once a second, at the heartbeat. A file that has changed is read in a
thread, because a disk may be slow. A new file is taken whole or not at all: a file that cannot be
used changes nothing, is logged once, and is tried again when it changes again.
Knows the file, users and groups of the system. Must not know a request or a connection.
Invariants: every secret is registered (`base/redact.py`) before it is used. Keys are read only from
a file that other users cannot read or change. The rights of a connection are those that the newest
good file gives.
"""

import asyncio
import grp
import logging
import os
import pwd
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.limits import MIB
from kdaemon.base.principal import Principal, Rights
from kdaemon.base.redact import SECRETS
from kdaemon.config.principals import Listed, parse_principals
from kdaemon.wire.signature import AccessKey

log = logging.getLogger("kdaemon.door")

FILE_BYTES_MAX = MIB  # bytes, some 5,000 principals; ours, 2026-11-28
SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was read is read once more, because a write in the
same tick of the file system's clock changes no date. Ours, 2026-11-28: FAT has ticks of 2 s."""
# Principals of connections that are kept, so that a new file applies to them, too; ours.
PEERS_MAX = 4_096

# The attributes of a file of which at least one changes when the file does.
_State = tuple[int, ...]
_UNSETTLED: _State = (0,)  # no file has this state, so the next look reads the file again


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The principal that an access key belongs to, and the key that checks its signatures."""

    principal: Principal
    key: AccessKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Read:
    """The outcome of one reading: the principals or every problem, the file's state, a hash of its
    text.
    """

    found: Listed | ConfigError
    state: _State
    digest: bytes = b""


class Principals:
    """Owned by the daemon. `keys`: by access key id. `problem`: why the file as it stands now is
    not used; None: it is used.
    """

    def __init__(self, path: str, wall_seconds: Callable[[], float]) -> None:
        """Reads the file. Raises ConfigError."""
        self.path = path
        self.keys: dict[str, SignedBy] = {}
        self.problem: str | None = None
        self.reload_count = 0  # changed files that were taken since the start
        self._wall_seconds = wall_seconds
        self._peers: dict[tuple[int, int], Principal] = {}
        self.reading: asyncio.Future[_Read] | None = None
        read = _read(path, wall_seconds)
        if isinstance(read.found, ConfigError):
            raise read.found
        self._state, self._digest = read.state, read.digest
        self._listed = read.found
        self._take(read.found)

    def peer(self, uid: int, gid: int) -> Principal:
        """The principal at the other end of a Unix socket: found by its user, else by its group."""
        known = self._peers.get((uid, gid))
        if known is not None:
            return known
        found = self._find(uid, gid)
        principal = Principal(found.name, found.rights, found.why_unknown)
        if len(self._peers) < PEERS_MAX:
            self._peers[uid, gid] = principal
        return principal

    def _find(self, uid: int, gid: int) -> Principal:
        found = self._listed.users.get(uid) or self._listed.groups.get(gid)
        if found is not None:
            return found
        name = f"uid {uid}, gid {gid}"
        why = (
            f"{name} may not write here: no principal of auth.principals_file has this user or"
            " group."
        )
        return Principal(name, Rights(), why)

    @property
    def remembered(self) -> int:
        """For how many users and groups it is remembered who they are."""
        return len(self._peers)

    # Reading again

    def look(self) -> None:
        """Starts to read the file if it has changed, unless a reading is under way. Called once a
        second.
        """
        if self.reading is not None or _state_of(self.path) == self._state:
            return
        loop = asyncio.get_running_loop()
        self.reading = loop.run_in_executor(None, _read, self.path, self._wall_seconds)
        self.reading.add_done_callback(self._was_read)

    def _was_read(self, reading: "asyncio.Future[_Read]") -> None:
        self.reading = None
        if reading.cancelled():
            return
        read = reading.result()
        self._state = read.state
        if isinstance(read.found, ConfigError):
            self._keep_old(str(read.found))
            return
        is_mended, self.problem = self.problem is not None, None
        if read.digest != self._digest:
            self._digest = read.digest
            self._take(read.found)
            self.reload_count += 1
        elif not is_mended:
            return
        log.info("principals were read again", extra={"fields": {"keys": len(self.keys)}})

    def _keep_old(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.warning(
                "auth.principals_file is not used as it is now, and the principals that were read"
                " before are kept: %s",
                problem.replace("\n", "; "),
            )

    def _take(self, listed: Listed) -> None:
        SECRETS.register_clients([key.secret for key in listed.keys.values()])
        self._listed = listed
        self.keys = {
            key_id: SignedBy(key.principal, AccessKey(key.secret))
            for key_id, key in listed.keys.items()
        }
        for (uid, gid), principal in self._peers.items():
            principal.become(self._find(uid, gid))


def odd_rights(path: str) -> str | None:
    """A warning about who may read the file, which is used all the same; None: nothing is odd.
    Raises OSError.
    """
    status = os.stat(path)  # noqa: PTH116 - one look
    if status.st_mode & stat.S_IRGRP and status.st_uid == os.geteuid() != 0:
        return "its group may read it, and the secrets in it: chmod 0600, unless that is meant"
    return None


def _state_of(path: str) -> _State:
    """The file's state. Empty: the file is not there, or cannot be looked at."""
    try:
        return _state(os.stat(path))  # noqa: PTH116 - each second
    except OSError:
        return ()


def _state(status: os.stat_result) -> _State:
    return (
        *(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        *(status.st_mode, status.st_uid),
    )


def _read(path: str, wall_seconds: Callable[[], float]) -> _Read:
    """Reads the file: at the start in the main thread, later in another thread. Never raises."""
    state: _State = ()
    names = _Names()
    try:
        state = _state_of(path)
        data = _bytes(path)
        if state and 0 <= wall_seconds() * 1e9 - max(state[3], state[4]) < SETTLED_NS:
            state = _UNSETTLED
        listed = parse_principals(_decoded(data, path), path, names.user_id, names.group_id)
        return _Read(listed, state, sha256(data).digest())
    except ConfigError as error:
        return _Read(error, _UNSETTLED if names.has_missed else state)
    except OSError as error:  # the machine's fault, for now (no descriptor, say)
        problem = (
            f"cannot be read: {error.strerror}. auth.principals_file names it: correct that, or"
            " the file"
        )
        return _Read(_refusal(path, problem), _UNSETTLED if state else state)


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start}); expected TOML"
        raise _refusal(path, problem) from None


def _refusal(path: str, problem: str) -> ConfigError:
    return ConfigError([ConfigProblem(path, "file", problem)])


def _bytes(path: str) -> bytes:
    """The file's content. Raises ConfigError and OSError."""
    data = b""
    # O_NONBLOCK: if a pipe has this name, opening it does not wait for the pipe's other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        problem = _strangers(os.fstat(descriptor))
        if problem is not None:
            raise _refusal(path, problem)
        while piece := os.read(descriptor, FILE_BYTES_MAX):
            data += piece
            if len(data) > FILE_BYTES_MAX:
                raise _refusal(path, f"is larger than {FILE_BYTES_MAX} bytes")
    finally:
        os.close(descriptor)
    return data


def _strangers(status: os.stat_result) -> str | None:
    """Why secrets are not read from a file with these rights; None: they are. ssh and PostgreSQL
    have the same rule.
    """
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    me, owner, mode = os.geteuid(), status.st_uid, stat.S_IMODE(status.st_mode)
    if owner not in (me, 0):
        return f"belongs to another user (uid {owner}; this is uid {me}): chown it"
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        return (
            f"other users may read or change it (mode {mode:04o}): chmod 0600 it, or 0640 with a"
            " group that is kdaemon's alone"
        )
    return None


class _Names:
    """Users and groups of this system. `has_missed`: a name was not found. It may be found later:
    somebody may yet create it, or the directory service that knows it may be down, which the system
    reports in the same way.
    """

    def __init__(self) -> None:
        self.has_missed = False

    def user_id(self, name: str) -> int | None:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
        self.has_missed = True
        return None

    def group_id(self, name: str) -> int | None:
        with suppress(KeyError):
            return grp.getgrnam(name).gr_gid
        self.has_missed = True
        return None
