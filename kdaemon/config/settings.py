"""All settings: one frozen Config; every key with its unit, default, bounds and meaning.

The whole program is handed this object and nothing else: no room reads a file, a variable or a
flag. Pure: it knows the settings, not where they come from (`load.py` reads them, `rules.py` has
the rules between keys). Invariant: a Config that was loaded obeys every bound of its settings and
every rule; no room checks a setting again. Names are the TOML keys; sizes are bytes, times
milliseconds, and the name says so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Annotated

from kdaemon.base import limits
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.names import Arn as StreamArn
from kdaemon.config.about import Mark, setting
from kdaemon.config.listen import AuthConfig, ListenConfig
from kdaemon.config.reach import ReachConfig, SendConfig, UpstreamConfig
from kdaemon.config.sections import (
    BillingConfig,
    DrainConfig,
    LogConfig,
    MetricsConfig,
    ObserveConfig,
    SandboxConfig,
    SpoolConfig,
)
from kdaemon.config.stream import StreamConfig
from kdaemon.config.values import Flag, MemoryBytes, Workers, whole

SOCKET_NAME = "kdaemon.sock"
MEMORY_BYTES_DEFAULT = 256 * limits.MIB
MEMORY_BYTES_LEAST = 16 * limits.MIB  # if a container's limit leaves less: one large request
MEMORY_BESIDE_BYTES = 96 * limits.MIB
"""What the process takes beside the records of clients: 90 MiB at most, measured 2026-11-28, and
some for the files of the system that it reads."""
WORKER_BYTES_DEFAULT = 128 * limits.MIB
"""`memory_bytes_max` of each worker where nobody set it and there are several: twice the buffer of
a stream. Ours, 2026-11-28."""
SUPERVISOR_BYTES = 64 * limits.MIB  # memory of the supervisor of workers; measured 2026-11-28


@dataclass(frozen=True, slots=True)
class Config(ReachConfig):
    """All settings. `streams` holds the listed streams by name, [default] filled in; `upstreams`
    those of [upstreams.NAME].
    """

    workers: Workers = setting(
        1,
        Mark.RESTART,  # each worker has its spool, and its part of every bound
        "Processes that take and deliver records: more than one use more than one core, each with"
        ' its part of memory_bytes_max and of spool.bytes_max. "auto": as many as there are cores,'
        " as far as memory_bytes_max has room for them.",
        "docs/workers.md says more.",
    )
    accept_unlisted: Flag = setting(
        True,
        Mark.LIVE,
        "Records for any stream are taken, and not only for those that have a [streams.NAME].",
    )
    streams_max: Annotated[int, whole(1, 100_000)] = setting(
        100,
        Mark.LIVE,
        "Streams in use at one time, listed or not. Records for one more are refused.",
    )
    memory_bytes_max: MemoryBytes = setting(
        MEMORY_BYTES_DEFAULT,
        Mark.GROWS,  # the frames that are held were promised room
        "Memory that clients' data may take: records of all streams, what arrives, what waits for"
        " the disk or for a client that does not read.",
        "The process takes 59 MiB when idle, 63 with a spool, and 90 beside this at most. Not set:"
        " 256 MiB, or with several workers 128 MiB for each; or what the memory limit of the"
        " container (cgroup) leaves beside 96 MiB for each, if that is lower.",
        follows="256 MiB, with several workers 128 MiB each, or what the container leaves",
    )
    listen: ListenConfig = field(default_factory=ListenConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    send: SendConfig = field(default_factory=SendConfig)
    drain: DrainConfig = field(default_factory=DrainConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    billing: BillingConfig = field(default_factory=BillingConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    default: StreamConfig = field(default_factory=StreamConfig)
    # By the upstream's name: `default` in the form for streams of that upstream's service.
    defaults: Mapping[str, StreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    streams: Mapping[str, StreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    # The number of workers that `workers` means on this machine.
    worker_count: int = 1

    @property
    def upstream_names(self) -> tuple[str, ...]:
        """The default one first."""
        return (DEFAULT_UPSTREAM, *self.upstreams)

    def upstream(self, name: str) -> UpstreamConfig:
        """One of `upstream_names`."""
        if name != DEFAULT_UPSTREAM:
            return self.upstreams[name]
        reach = {key.name: getattr(self, key.name) for key in fields(ReachConfig)}
        return UpstreamConfig(**reach, **asdict(self.send))

    def default_of(self, upstream: str) -> StreamConfig:
        """The settings of a stream of this upstream that is not listed."""
        if upstream == self.default.upstream:
            return self.default
        return self.defaults[upstream]

    def listed_of(self, upstream: str) -> Mapping[str, StreamConfig]:
        """The listed streams of one upstream, by what clients call them."""
        return {name: each for name, each in self.streams.items() if each.upstream == upstream}


def memory_within(limit_bytes: int | None, worker_count: int = 1) -> int:
    """`memory_bytes_max` where nobody set it. `limit_bytes`: of the container, if it has one."""
    several = worker_count > 1
    wanted = worker_count * WORKER_BYTES_DEFAULT if several else MEMORY_BYTES_DEFAULT
    if limit_bytes is None:
        return wanted
    left = limit_bytes - worker_count * MEMORY_BESIDE_BYTES - several * SUPERVISOR_BYTES
    return max(MEMORY_BYTES_LEAST, min(wanted, left))


def upstream_of_arn(arn: StreamArn, upstreams: Iterable[UpstreamConfig]) -> str | None:
    """The first of these upstreams that has the ARN's account and region; None: none has."""
    for each in upstreams:
        if each.traits.has_arns and (each.account, each.home_region) == (arn.account, arn.region):
            return each.name
    return None


IsDirectory = Callable[[str], bool]


def resolve_unix_path(
    unix: str, environ: Mapping[str, str], is_directory: IsDirectory
) -> str | None:
    """Where the Unix socket stands; None: nowhere.

    `auto` is `$RUNTIME_DIRECTORY/kdaemon.sock` (systemd's; the first directory of several), else
    `$XDG_RUNTIME_DIR/kdaemon/kdaemon.sock`, else nowhere. The last directory may have to be made.
    """
    if unix != "auto":
        return unix or None
    runtime = _systemd_directory(environ)
    if runtime:
        return f"{runtime.rstrip('/')}/{SOCKET_NAME}"
    user_runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not user_runtime or user_runtime_problem(environ, is_directory) is not None:
        return None
    return f"{user_runtime.rstrip('/')}/kdaemon/{SOCKET_NAME}"


def user_runtime_problem(environ: Mapping[str, str], is_directory: IsDirectory) -> str | None:
    """Why XDG_RUNTIME_DIR is ignored where the socket is `auto`; None: it is not, or not set.

    Whoever logs the user in makes it (XDG Base Directory Specification 0.8): we do not.
    """
    path = environ.get("XDG_RUNTIME_DIR", "")
    if not path or _systemd_directory(environ):
        return None
    if not path.startswith("/"):
        return f"XDG_RUNTIME_DIR is ignored: {path!r} is not an absolute path"
    return None if is_directory(path) else f"XDG_RUNTIME_DIR is ignored: {path!r} is no directory"


def _systemd_directory(environ: Mapping[str, str]) -> str:
    path = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return path if path.startswith("/") else ""
