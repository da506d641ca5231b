"""What can be set: one frozen Config; every key with its unit, default, bounds and meaning.

The whole program is handed this object and nothing else: no room reads a file, a variable or a
flag. Pure: it knows the settings, not where they come from (`load.py` reads them,
`rules.py` holds the rules between keys). Invariant: a Config that was loaded obeys every
bound below and every rule; nobody checks a setting twice. Names are the TOML keys; sizes are bytes,
times milliseconds, and the name says so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Annotated

from kdaemon.base import limits
from kdaemon.base.billing import ON_DEMAND_KIB, PUT_PAYLOAD_KIB, YANDEX_PUT_KIB, UnitSizes
from kdaemon.base.endpoint import region_of_endpoint
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.names import Arn as StreamArn
from kdaemon.base.operations import PASSED_ON_DEFAULT
from kdaemon.base.service import AWS, SERVICES, Service
from kdaemon.config.values import (
    AccountEndpoints,
    AccountId,
    Acknowledgement,
    Address,
    AgeOrOff,
    AggregateBytes,
    Aggregation,
    Arn,
    CallBytes,
    Directory,
    ExternalId,
    FieldPath,
    FileMode,
    FilePath,
    Flag,
    HostNames,
    HttpAuth,
    LinesKind,
    ListenAddress,
    ListenAddressGiven,
    LogFormat,
    LogLevel,
    MemoryBytes,
    Milliseconds,
    MillisecondsOrZero,
    Names,
    Namespace,
    Operations,
    Ordering,
    PoolSize,
    ProxyUrl,
    Quota,
    RecordBytes,
    Region,
    RoleArn,
    ServiceName,
    SessionName,
    SocketPath,
    Switch,
    Text,
    UnitKib,
    UnixAuth,
    UnixPath,
    UpstreamName,
    Url,
    WhenFull,
    Workers,
    account_of_role,
    parse_address,
    whole,
)

SOCKET_NAME = "kdaemon.sock"
CONNECT_TIMEOUT_MS = 3_000
"""Of the name, TCP and TLS, which are five round trips at most. Ours, 2026-11-21."""
BATCH_BYTES_MAX = 5 * limits.MIB
"""Ours, 2026-11-28: below the 10 MiB that AWS takes, because 16 calls of 10 MiB in flight, in
base64, would hold 213 MiB. A record above it goes in a call of its own."""
MEMORY_BYTES_DEFAULT = 256 * limits.MIB
MEMORY_BYTES_LEAST = 16 * limits.MIB  # where a container's limit leaves less: one large request
MEMORY_BESIDE_BYTES = 96 * limits.MIB
"""What the process takes beside the records of clients: 90 MiB at most, measured 2026-11-28, and
some for the files of the system that it reads."""
WORKER_BYTES_DEFAULT = 128 * limits.MIB
"""`memory_bytes_max` of each worker where nobody set it and there are several: twice the buffer of
a stream. Ours, 2026-11-28."""
SUPERVISOR_BYTES = 64 * limits.MIB  # what the supervisor of workers takes; measured 2026-11-28
AGGREGATE_BYTES_MAX = 51_200  # 50 KiB: the KPL's default AggregationMaxSize, 2026-11-21


@dataclass(frozen=True, slots=True)
class ReachConfig:
    """Where a service is, and as whom it is called: at the top level, of the default upstream; and
    in each [upstreams.NAME].
    """

    service: ServiceName = "aws"
    # "": as the AWS environment and profile say.
    region: Region = ""
    # "": as the service's own rules say.
    endpoint_url: Url = ""
    # A profile of the AWS configuration files; "": as AWS_PROFILE says.
    profile: Text = ""
    # The AWS account of the credentials: an ARN of it is another spelling of the stream's name.
    # "": that of role_arn, or as the credentials, STS or the service tell.
    account_id: AccountId = ""
    # A role that is assumed with these credentials (AWS STS), the external id that it asks for, and
    # the name under which it is assumed; "": none, none, one with the host's name.
    role_arn: RoleArn = ""
    role_external_id: ExternalId = ""
    role_session_name: SessionName = ""
    # Endpoints of AWS that are FIPS 140 validated, that also have IPv6 addresses, and that have the
    # account in their name ("preferred" where it is known, "required"). "auto": as the AWS
    # environment and profile say.
    fips: Switch = "auto"
    dual_stack: Switch = "auto"
    account_endpoints: AccountEndpoints = "auto"
    # Yandex: an IAM token in the place of keys, from a file that somebody else refreshes, or from
    # the metadata of the machine.
    iam_token_file: FilePath = ""
    iam_token_url: Url = ""
    # "auto": as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; "": none.
    proxy_url: ProxyUrl = "auto"
    # PEM: authorities that are trusted, in the place of the system's; "": as AWS_CA_BUNDLE says.
    ca_file: FilePath = ""

    @property
    def traits(self) -> Service:
        """All that differs between the services, of this one."""
        return SERVICES[self.service]

    @property
    def has_token(self) -> bool:
        """Whether an IAM token stands in the place of keys."""
        return bool(self.iam_token_file or self.iam_token_url)

    @property
    def home_region(self) -> str:
        """The region that the configuration tells, by the endpoint if need be; "": none."""
        return self.region or region_of_endpoint(self.endpoint_url) or ""

    @property
    def account(self) -> str:
        """The account that the configuration tells; "": none."""
        return self.account_id or account_of_role(self.role_arn) or ""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]: where clients come in, and how long they may take."""

    # The Kinesis API and NDJSON over HTTP; "" = off.
    http: ListenAddress = "127.0.0.1:8990"
    # The Unix socket: "auto", "" (off) or an absolute path; see resolve_unix_path.
    unix: UnixPath = "auto"
    # Permissions of the socket file, octal.
    unix_mode: FileMode = "0660"
    # Metrics, probes, status; "" = off.
    admin: ListenAddress = "127.0.0.1:8991"
    # The certificate of listen.http, with those that lead to its authority, and its key: PEM files.
    # Where they are given, TLS is spoken there and nothing else. Their changes are noticed.
    tls_certificate: FilePath = ""
    tls_key: FilePath = ""
    # Clients of listen.http must show a certificate that one of these authorities has signed.
    tls_client_ca: FilePath = ""
    # The admin listener speaks TLS, too, with all of the three above.
    admin_tls: Flag = False
    # Lets who asks the admin listener look at records that pass through (`kdaemon tap`): only where
    # this machine alone can ask, or whoever asks shows a certificate.
    admin_tap: Flag = False
    # Lets the TCP listeners face other machines, though nothing checks who writes, or though what
    # is signed can be read on its way.
    insecure: Flag = False
    # Names by which clients may call the TCP listeners (the Host header), beside addresses and
    # localhost. Beyond loopback the name is checked only where this is set.
    hosts: HostNames = ()
    # Operations of the Kinesis API beside PutRecord and PutRecords that are passed on to the
    # service, signed by the daemon's credentials: what describes and lists, and GetShardIterator
    # and GetRecords where clients may read. Nothing that changes a stream.
    operations_passed_on: Operations = PASSED_ON_DEFAULT
    # Open client connections, all listeners together; one more is closed at once. The limit of open
    # files bounds it, too.
    connections_max: Annotated[int, whole(1, 1_000_000)] = 10_000
    # Between requests on a kept connection.
    idle_timeout_ms: Milliseconds = 75_000

    @property
    def http_address(self) -> Address | None:
        return parse_address(self.http)

    @property
    def admin_address(self) -> Address | None:
        return parse_address(self.admin)

    @property
    def unix_mode_bits(self) -> int:
        """As chmod takes it: 0o660."""
        return int(self.unix_mode, 8)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """[auth]: who may write, and how he shows who he is."""

    # Over TCP: "none" (whoever reaches the port), or "sigv4" (requests signed with a key of the
    # principals; lines, which cannot be signed, are refused).
    http: HttpAuth = "none"
    # Through the Unix socket: "none" (whoever may open the file), or "peer" (users and groups of
    # the principals, as the kernel tells).
    unix: UnixAuth = "none"
    # Who they are, with their keys and streams; read again when it changes.
    principals_file: FilePath = ""


@dataclass(frozen=True, slots=True)
class SendConfig:
    """[send]: calls to the default upstream; [upstreams.NAME] has the same keys, of its own."""

    # One call from start to end. Not set: as base/service.py has it for the service.
    call_timeout_ms: Milliseconds = AWS.call_timeout_ms
    # Connections to the service; 0: as many as calls may be under way.
    connections_max: PoolSize = 0


@dataclass(frozen=True, slots=True)
class UpstreamConfig(ReachConfig):
    """[upstreams.NAME]: one more account, region or database, beside the default one. Calls as in
    [send]: connections_max of [send] counts where the table has none; call_timeout_ms follows its
    service.
    """

    name: str = DEFAULT_UPSTREAM
    call_timeout_ms: Milliseconds = AWS.call_timeout_ms
    connections_max: PoolSize = 0

    @property
    def read_timeout_ms(self) -> int:
        """To the next bytes of an answer: the same part of a call as by default."""
        service = self.traits
        return max(1, self.call_timeout_ms * service.read_timeout_ms // service.call_timeout_ms)

    @property
    def connect_timeout_ms(self) -> int:
        """To find credentials, or a connection: CONNECT_TIMEOUT_MS, and as much longer as a call
        may take longer than by default. Never longer than the call.
        """
        longer = max(1.0, self.call_timeout_ms / self.traits.call_timeout_ms)
        return min(self.call_timeout_ms, round(CONNECT_TIMEOUT_MS * longer))


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """[drain]: what happens at SIGTERM."""

    # Not ready any more, but clients are still served.
    lame_duck_ms: MillisecondsOrZero = 1_000
    # After the lame duck: how long to deliver what is buffered.
    deadline_ms: MillisecondsOrZero = 25_000


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """[spool]: the disk behind the acknowledgement `stored`."""

    # Where the spool lives; it is made if its parent is there. "": no spool, and no `stored`.
    directory: Directory = ""
    # On disk, all streams together: records, and what SQLite needs for them.
    bytes_max: MemoryBytes = 1024 * limits.MIB
    # Dead letters kept, within bytes_max; the oldest make room.
    letters_bytes_max: MemoryBytes = 64 * limits.MIB


@dataclass(frozen=True, slots=True)
class LogConfig:
    """[log]: lines on standard error."""

    level: LogLevel = "info"
    # "auto": text on a terminal, JSON lines elsewhere.
    format: LogFormat = "auto"


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: what /metrics shows, and what the log tells of it."""

    # All shards, each with its own series: off, because a stream may have thousands. The five
    # hottest are always shown.
    per_shard: Flag = False
    # A namespace of CloudWatch: the same numbers go to the log as well, a line a minute and stream
    # in its Embedded Metric Format. "": none.
    emf_namespace: Namespace = ""


@dataclass(frozen=True, slots=True)
class ObserveConfig:
    """[observe]: what the status page and the log show of hot shards."""

    # Partition keys as text. Off, because they may be names of people: then the first 12
    # hexadecimal digits of the SHA-256 of a key stand in its place.
    show_keys: Flag = False


@dataclass(frozen=True, slots=True)
class BillingConfig:
    """[billing]: how large the units are that a service bills, in KiB; the defaults are those of
    the price lists, with their date, in `base/billing.py`.
    """

    # AWS, provisioned streams: each record up to so much is one PUT payload unit.
    put_payload_kib: UnitKib = PUT_PAYLOAD_KIB
    # AWS, on-demand streams: each record is rounded up to a multiple of so much.
    on_demand_kib: UnitKib = ON_DEMAND_KIB
    # Yandex: what one call brings to one shard, up to so much, is one put unit.
    yandex_put_kib: UnitKib = YANDEX_PUT_KIB

    @property
    def units(self) -> UnitSizes:
        return UnitSizes(self.put_payload_kib, self.on_demand_kib, self.yandex_put_kib)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """[sandbox]: the embedded service of `kdaemon run --sandbox` and `kdaemon sandbox`."""

    listen: ListenAddressGiven = "127.0.0.1:4567"
    # As in [listen], for this listener.
    tls_certificate: FilePath = ""
    tls_key: FilePath = ""
    tls_client_ca: FilePath = ""
    # Streams created at start.
    streams: Names = ("demo",)
    # Shards of each of them.
    shard_count: Annotated[int, whole(1, 10_000)] = 4
    # Quota of each shard: records, and data + partition keys.
    shard_records_per_second: Quota = limits.SHARD_RECORDS_PER_SECOND
    shard_bytes_per_second: Quota = limits.SHARD_BYTES_PER_SECOND

    @property
    def address(self) -> Address:
        address = parse_address(self.listen)
        assert address is not None, "a loaded Config has an address here"
        return address


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """[default] (its name, arn and socket are empty) and [streams.NAME], which inherits from it."""

    # What follows `streams.`, or the end of the ARN that stands there.
    name: str = ""
    # Send StreamARN rather than StreamName: a stream of another account.
    arn: Arn = ""
    # The upstream that it belongs to: "default", or one of [upstreams.NAME]. Not set: of an ARN the
    # one that has its account and region.
    upstream: UpstreamName = DEFAULT_UPSTREAM
    # What the upstream calls it, where its clients call it by another name, that of the table.
    upstream_name: Text = ""
    # A Unix socket of this stream's own: all that is written to it is raw lines, and nothing is
    # answered. "": none.
    socket: SocketPath = ""
    # What lines for this stream are, where the client does not say: "envelope", an object with
    # `data`, or "raw", whose data is the line itself.
    lines: LinesKind = "envelope"
    # Of raw lines that are JSON: the path of the field that holds the partition key; "": no key.
    partition_key_field: FieldPath = ""
    # The same of the stream, among those that are listed; "": all go to this one.
    stream_field: FieldPath = ""
    # What an answer to a client promises, where the client does not choose. Lines are
    # stored where there is a spool and no order is kept.
    acknowledge: Acknowledgement = "delivered"
    # No room in memory, or for `stored` on disk: "block" (a socket is not read; HTTP is refused),
    # "reject" (both are refused), "drop_oldest" (of the spool; what is dropped is counted).
    when_full: WhenFull = "block"
    # A record nobody waits for that is older becomes a dead letter (a stored one that was tried
    # once); 0: never.
    max_age_ms: AgeOrOff = 0
    # "partition_key": records of one key are delivered in the order they were taken. Then all the
    # stream's records are `stored`, or none is: rules.py says why. What `drop_oldest` drops leaves
    # a gap in the order and turns nothing round.
    ordering: Ordering = "none"
    # "kpl": several records in one, as the Kinesis Producer Library packs them.
    aggregation: Aggregation = "none"
    # Such a record is packed up to this size: data + partition key, as the service counts it.
    aggregate_bytes_max: AggregateBytes = AGGREGATE_BYTES_MAX
    # A client that waits for delivery is answered by then, delivered or not. Below the patience of
    # every SDK: KPL waits 6 s, the Java SDK 10 s, and sends again what it was not answered.
    deadline_ms: Milliseconds = 5_000
    # How long a record waits for company at most.
    linger_ms: Annotated[int, whole(0, 60_000, "of milliseconds ")] = 100
    # One PutRecords call to the service: data + partition keys. A record that is larger goes in a
    # call of its own.
    batch_bytes_max: CallBytes = BATCH_BYTES_MAX
    # One request of a client: data + partition keys. Not set: the service's limit, or less where
    # buffer_bytes_max is smaller.
    request_bytes_max: CallBytes = AWS.request_bytes_max
    # One record: data + partition key, until the stream's own limit is known. Not set: the highest
    # that the service can be made to take, or request_bytes_max, if that is lower.
    record_bytes_max: RecordBytes = AWS.record_bytes_max
    # PutRecords calls of this stream under way at one time.
    in_flight_max: Annotated[int, whole(1, 1000)] = 16
    # Nobody else writes to the stream: a shard is begun with at its whole quota. Else it is begun
    # with at a small part, which doubles twice a second until the shard throttles.
    only_writer: Flag = False
    # What this daemon sends to one shard at most: records, and data + partition keys. Lower than
    # the service's quota: where the rest is for other writers.
    shard_records_per_second: Quota = limits.SHARD_RECORDS_PER_SECOND
    shard_bytes_per_second: Quota = limits.SHARD_BYTES_PER_SECOND
    # Memory this stream's records may hold. Not set: memory_bytes_max, if that is lower.
    buffer_bytes_max: MemoryBytes = 64 * limits.MIB
    # Workers of this daemon, which share each shard as a fleet does: `parts.py` says how many.
    worker_count: int = 1


@dataclass(frozen=True, slots=True)
class Config(ReachConfig):
    """All settings. `streams` holds the listed streams by name, [default] filled in; `upstreams`
    those of [upstreams.NAME].
    """

    # Processes that take and deliver records, each with its part of memory_bytes_max and of
    # spool.bytes_max; one more supervises them where there are several. "auto": as many as there
    # are cores that this process may use, as far as memory_bytes_max has room for them.
    workers: Workers = 1
    # Take records for streams that have no [streams.NAME].
    accept_unlisted: Flag = True
    # Streams in use at one time, listed or not; records for one more are refused.
    streams_max: Annotated[int, whole(1, 100_000)] = 100
    # Memory that the records of all streams together may hold. Not set: 256 MiB, or with several
    # workers 128 MiB for each; or what the container's limit leaves beside MEMORY_BESIDE_BYTES for
    # each process, if that is lower.
    memory_bytes_max: MemoryBytes = MEMORY_BYTES_DEFAULT
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
    # By the name of the upstream: `default` as it is for streams of another upstream's service.
    defaults: Mapping[str, StreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    streams: Mapping[str, StreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    # What `workers` comes to on this machine.
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
