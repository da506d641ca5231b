"""Rules between settings: each returns every clash it sees.

Pure. A bound of one key alone stands with the key in `config.py`; what stands here needs two. The
loader runs all the rules over one Config and decides which file or variable to name.
"""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from kdaemon.base.names import (
    DEFAULT_UPSTREAM,
    arn_of,
    full_path,
    is_stream_name,
    partition_problem,
)
from kdaemon.base.operations import may_be_passed_on, operation_problem
from kdaemon.config.clash import Clash, Path
from kdaemon.config.parts import SPOOL_PART_BYTES_MIN, memory_needed
from kdaemon.config.settings import Config
from kdaemon.config.stream import StreamConfig
from kdaemon.config.upstream_rules import find_upstream_clashes
from kdaemon.config.values import Address, parse_address

WILDCARD_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised in order to refuse them


def find_clashes(
    config: Config, listed: Mapping[str, Path], upstreams: Mapping[str, Path]
) -> list[Clash]:
    """Every clash. `listed`: where each stream of `config.streams` stands, by its name; `upstreams`
    likewise.
    """
    clashes = [
        *_exposed(config),
        *_tap(config),
        *_auth(config),
        *_same_address(config),
        *_tls(config),
        *_useless(config),
        *_passed_on(config),
        *_too_many(config, listed),
        *_spool(config),
        *_workers(config),
        *_upstream_of(config, ("default",), config.default),
        *_stream(config, ("default",), config.default),
    ]
    for name, stream in config.streams.items():
        clashes += _upstream_of(config, listed[name], stream)
        clashes += _stream(config, listed[name], stream)
        clashes += _stream_name(config, listed[name], stream)
    clashes += _same_socket(config, listed)
    clashes += find_upstream_clashes(config, listed, upstreams)
    return [*clashes, *_same_stream(config, listed)]


def _listeners(config: Config) -> list[tuple[Path, Address]]:
    """The TCP listeners that are on."""
    texts = [
        (("listen", "http"), config.listen.http),
        (("listen", "admin"), config.listen.admin),
        (("sandbox", "listen"), config.sandbox.listen),
    ]
    found = [(path, parse_address(text)) for path, text in texts]
    return [(path, address) for path, address in found if address is not None]


def _exposed(config: Config) -> Iterator[Clash]:
    if config.listen.insecure:
        return
    for path, address in _listeners(config):
        why = _why_insecure(config, path)
        if not address.is_loopback and why is not None:
            yield Clash(
                (path, ("listen", "insecure")),
                f"address {address.host} faces other machines, and {why}: "
                "use 127.0.0.1, or set listen.insecure = true if the network itself is trusted",
            )


def _tap(config: Config) -> Iterator[Clash]:
    """Records are shown to this machine alone, or to who shows a certificate."""
    listen = config.listen
    if not listen.admin_tap:
        return
    tap, admin = ("listen", "admin_tap"), ("listen", "admin")
    address = listen.admin_address
    if address is None:
        yield Clash((tap, admin), "is true, and listen.admin is off: leave it out, or set that")
    elif not (address.is_loopback or (listen.admin_tls and listen.tls_client_ca)):
        yield Clash(
            (tap, admin),
            f"is true, and listen.admin ({listen.admin}) shows records to other machines: use a"
            " loopback address, or ask for certificates (admin_tls and tls_client_ca)",
        )


def _why_insecure(config: Config, path: Path) -> str | None:
    """Why a listener should not face other machines; None: it may."""
    if path != ("listen", "http") or config.auth.http == "none":
        return "nothing checks who writes"
    if config.listen.tls_certificate:
        return None
    return (
        "signed requests are not encrypted: whoever reads one on its way may send it again "
        "within five minutes (listen.tls_certificate)"
    )


def _auth(config: Config) -> Iterator[Clash]:
    """Each way to show who one is needs principals, and a listener that asks."""
    auth, file = config.auth, ("auth", "principals_file")
    has_socket = config.listen.unix or any(each.socket for each in config.streams.values())
    for key, value, listener in (
        ("http", auth.http, config.listen.http),
        ("unix", auth.unix, has_socket),
    ):
        if value == "none":
            continue
        if not auth.principals_file:
            yield Clash(
                (("auth", key), file),
                f'is "{value}", and no file says who may write: set auth.principals_file',
            )
        if not listener:
            yield Clash(
                (("auth", key), ("listen", key)),
                f'is "{value}", and listen.{key} is off: leave it out, or set listen.{key}',
            )
    if auth.principals_file and (auth.http, auth.unix) == ("none", "none"):
        yield Clash(
            (file,),
            'is read by nobody: set auth.http = "sigv4" or auth.unix = "peer", or leave it out',
        )


def _same_address(config: Config) -> Iterator[Clash]:
    listeners = _listeners(config)
    for index, (path, address) in enumerate(listeners):
        for other_path, other in listeners[:index]:
            is_same_host = address.host == other.host or {address.host, other.host} & WILDCARD_HOSTS
            if address.port and address.port == other.port and is_same_host:
                yield Clash(
                    (path, other_path),
                    f"{'.'.join(other_path)} and {'.'.join(path)} have one port ({address.port}): "
                    "give each its own",
                )


def _tls(config: Config) -> Iterator[Clash]:
    """A certificate and its key belong together, and to a listener."""
    for table, on in (("listen", config.listen), ("sandbox", config.sandbox)):
        certificate, key = (table, "tls_certificate"), (table, "tls_key")
        if bool(on.tls_certificate) is not bool(on.tls_key):
            given, missing = (certificate, key) if on.tls_certificate else (key, certificate)
            yield Clash(
                (given, missing),
                f"is set, and {'.'.join(missing)} is not: a certificate and its key go together",
            )
        if on.tls_client_ca and not on.tls_certificate:
            yield Clash(
                ((table, "tls_client_ca"), certificate),
                f"is set, and {table}.tls_certificate is not: without TLS no client shows one",
            )
    listen = config.listen
    if listen.admin_tls and not listen.tls_certificate:
        yield Clash(
            (("listen", "admin_tls"), ("listen", "tls_certificate")),
            "is true, and there is no listen.tls_certificate: set it, with listen.tls_key",
        )
    if listen.tls_certificate and not listen.http and not listen.admin_tls:
        yield Clash(
            (("listen", "tls_certificate"), ("listen", "http")),
            "is set, and listen.http is off: a certificate is for a TCP listener",
        )


def _useless(config: Config) -> Iterator[Clash]:
    has_socket = any(stream.socket for stream in config.streams.values())
    if not config.listen.http and not config.listen.unix and not has_socket:
        yield Clash(
            (("listen", "http"), ("listen", "unix")),
            "both http and unix are off, so that no client could come in: set one of them",
        )
    if not config.accept_unlisted and not config.streams:
        yield Clash(
            (("accept_unlisted",),),
            "is false, and no stream is listed, so that no record could be accepted: "
            "add a [streams.NAME], or set it to true",
        )


def _passed_on(config: Config) -> Iterator[Clash]:
    for name in config.listen.operations_passed_on:
        problem = operation_problem(name)
        if problem is not None:
            yield Clash(
                (("listen", "operations_passed_on"),),
                f"{problem}; expected some of {', '.join(may_be_passed_on())}",
            )


def _too_many(config: Config, listed: Mapping[str, Path]) -> Iterator[Clash]:
    if len(config.streams) > config.streams_max:
        yield Clash(
            (("streams_max",), list(listed.values())[-1]),
            f"streams_max ({config.streams_max}) is below the number of streams listed "
            f"({len(config.streams)})",
        )


def _spool(config: Config) -> Iterator[Clash]:
    spool = config.spool
    if spool.letters_bytes_max >= spool.bytes_max:
        yield Clash(
            (("spool", "letters_bytes_max"), ("spool", "bytes_max")),
            f"letters_bytes_max ({spool.letters_bytes_max}) must be below spool.bytes_max "
            f"({spool.bytes_max}), or dead letters would leave no room for records",
        )


def _workers(config: Config) -> Iterator[Clash]:
    """Each has room for a request of the largest kind while another one is being delivered."""
    count, needed = config.worker_count, memory_needed(config)
    if config.workers == "auto" or count == 1:
        return
    each = config.memory_bytes_max // count
    if each < needed:
        yield Clash(
            (("workers",), ("memory_bytes_max",)),
            f"{count} workers have {each} bytes of memory_bytes_max ({config.memory_bytes_max})"
            f" each, and one needs {needed}, twice request_bytes_max: raise memory_bytes_max to"
            f" {count * needed}, or set fewer workers",
        )
    if config.spool.directory and config.spool.bytes_max < count * SPOOL_PART_BYTES_MIN:
        yield Clash(
            (("workers",), ("spool", "bytes_max")),
            f"{count} workers share spool.bytes_max ({config.spool.bytes_max}), and a spool needs"
            f" {SPOOL_PART_BYTES_MIN}: raise spool.bytes_max to {count * SPOOL_PART_BYTES_MIN}, or"
            " set fewer workers",
        )


def _stream(config: Config, at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """Rules of one stream, or of [default]."""
    if stream.acknowledge == "stored" and not config.spool.directory:
        yield Clash(
            ((*at, "acknowledge"), ("spool", "directory")),
            "is stored, and there is no spool to store in: set spool.directory",
        )
    record, request = (*at, "record_bytes_max"), (*at, "request_bytes_max")
    buffer, memory = (*at, "buffer_bytes_max"), ("memory_bytes_max",)
    if stream.record_bytes_max > stream.request_bytes_max:
        yield Clash(
            (record, request),
            f"record_bytes_max ({stream.record_bytes_max}) is above request_bytes_max "
            f"({stream.request_bytes_max}): the largest record would fit in no request",
        )
    if stream.buffer_bytes_max > config.memory_bytes_max:
        yield Clash(
            (buffer, memory),
            f"buffer_bytes_max ({stream.buffer_bytes_max}) is above memory_bytes_max "
            f"({config.memory_bytes_max}), which bounds all streams together",
        )
    if stream.buffer_bytes_max < 2 * stream.request_bytes_max:
        yield Clash(
            (buffer, request, memory),
            f"buffer_bytes_max ({stream.buffer_bytes_max}) is below twice request_bytes_max "
            f"({stream.request_bytes_max}): one request must fit while another is being delivered, "
            "and a record takes more memory than its data",
        )
    if stream.linger_ms >= stream.deadline_ms:
        yield Clash(
            ((*at, "linger_ms"), (*at, "deadline_ms")),
            f"linger_ms ({stream.linger_ms}) must be below deadline_ms ({stream.deadline_ms}): "
            "records would be given up before they are sent",
        )
    yield from _lines(config, at, stream)
    yield from _aggregation(at, stream)
    yield from _limits_of(config, at, stream)


def _lines(config: Config, at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """What only raw lines have, and what they do not have."""
    if stream.lines != "raw":
        for key in ("partition_key_field", "stream_field", "socket"):
            if getattr(stream, key):
                yield Clash(
                    ((*at, key),),
                    'is for raw lines, and this stream takes envelopes (lines = "envelope", the'
                    " default), in which each line names its key and stream itself: set lines ="
                    f' "raw" beside it, or leave {key} out',
                )
        return
    if stream.stream_field and not set(config.streams) - {stream.name}:
        yield Clash(
            ((*at, "stream_field"),),
            "chooses among the streams that are listed, and no other is: add a [streams.NAME], or"
            " leave it out",
        )
    if stream.ordering != "none" and not stream.partition_key_field:
        yield Clash(
            ((*at, "lines"), (*at, "ordering"), (*at, "partition_key_field")),
            'is "raw", and ordering = "partition_key" keeps the order of each key: without'
            " partition_key_field these lines have no key, and so no order. Set"
            " partition_key_field, or leave ordering out",
        )


def _same_socket(config: Config, listed: Mapping[str, Path]) -> Iterator[Clash]:
    """Each socket file has one listener."""
    taken: dict[str, Path] = {config.listen.unix: ("listen", "unix")}
    for name, stream in config.streams.items():
        path = (*listed[name], "socket")
        other = taken.setdefault(stream.socket, path) if stream.socket else path
        if other != path:
            yield Clash(
                (path, other),
                f"is {stream.socket}, which {'.'.join(other)} has already: give each its own",
            )


def _aggregation(at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """An aggregate fits where a record does, and in a call with others."""
    if stream.aggregation == "none":
        return
    for key, why in (
        ("record_bytes_max", "an aggregate is sent as one record"),
        ("batch_bytes_max", "no call would ever carry a full one"),
    ):
        size: int = getattr(stream, key)
        if stream.aggregate_bytes_max > size:
            yield Clash(
                ((*at, "aggregate_bytes_max"), (*at, key), (*at, "aggregation")),
                f"aggregate_bytes_max ({stream.aggregate_bytes_max}) is above {key} ({size}), "
                f"and {why}",
            )


def _limits_of(config: Config, at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """What the service itself does not take."""
    if stream.upstream not in config.upstream_names:
        return
    service = config.upstream(stream.upstream).traits
    whose: Path = ("service",)
    if stream.upstream != DEFAULT_UPSTREAM:
        whose = ("upstreams", stream.upstream, "service")
    for key, value, bound in (
        ("batch_bytes_max", stream.batch_bytes_max, service.request_bytes_max),
        ("request_bytes_max", stream.request_bytes_max, service.request_bytes_max),
        ("record_bytes_max", stream.record_bytes_max, service.record_bytes_max),
    ):
        if value > bound:
            yield Clash(((*at, key), whose), f"is {value}; {service.title} takes at most {bound}")
    if stream.aggregation != "none" and not service.can_aggregate:
        # What [default] says is wrong for this stream alone, if another service takes it.
        is_default_wrong = not config.upstream(config.default.upstream).traits.can_aggregate
        table = () if is_default_wrong else (at,)
        yield Clash(
            ((*at, "aggregation"), *table, whose),
            f"{service.title} cannot carry aggregates: it may move key ranges under the same "
            "shard ids, so that a consumer which checks ranges, as the KCL does, drops whole "
            'aggregates in silence, and nothing there takes them apart: set aggregation = "none"',
        )
    if stream.arn and not service.has_arns:
        yield Clash(
            ((*at, "arn"), whose, at),
            f"{service.title} has no ARNs: name the stream by its path",
        )


def _upstream_of(config: Config, at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """A stream's upstream is there, and calls it by one name."""
    if stream.upstream not in config.upstream_names:
        known = ", ".join(config.upstream_names)
        yield Clash(
            ((*at, "upstream"),),
            f'is "{stream.upstream}", and there is no [upstreams.{stream.upstream}];'
            f" known: {known}",
        )
    if stream.upstream_name and stream.arn:
        yield Clash(
            ((*at, "upstream_name"), (*at, "arn"), at),
            "is set beside an ARN, which names the stream already: leave one of them out",
        )


def _stream_name(config: Config, at: Path, stream: StreamConfig) -> Iterator[Clash]:
    """By the service's rules; what clients alone call it so is held to the looser ones."""
    if stream.upstream not in config.upstream_names:
        return
    has_arns = config.upstream(stream.upstream).traits.has_arns
    names = [(at, stream.name)]
    if stream.upstream_name:
        names.append(((*at, "upstream_name"), stream.upstream_name))
    for path, name in names:
        is_strict = has_arns or (path == at and bool(stream.upstream_name))
        if is_strict and not is_stream_name(name):
            yield Clash(
                (path,),
                partition_problem(name)
                or "is no name of a stream: expected 1-128 letters, digits, `_`, `.` or `-`, "
                'or an ARN in quotes, as [streams."arn:aws:kinesis:REGION:ACCOUNT:stream/NAME"]',
            )
        elif not has_arns and name.startswith("@"):
            yield Clash((path,), 'begins with "@", which no path does')


def _same_stream(config: Config, listed: Mapping[str, Path]) -> Iterator[Clash]:
    """Tables that are spelt differently and mean one stream: one of them would say nothing."""
    seen: dict[tuple[str, str], Path] = {}
    for name, stream in config.streams.items():
        if stream.upstream not in config.upstream_names:
            continue
        meant = _meant(config, stream)
        path = listed[name]
        other = seen.setdefault((stream.upstream, meant), path)
        if other != path:
            table = f'[streams."{other[1]}"]'
            yield Clash(
                (path,), f"is the stream {meant} again, which {table} lists: keep one of them"
            )


def _meant(config: Config, stream: StreamConfig) -> str:
    """What the upstream calls it."""
    upstream = config.upstream(stream.upstream)
    name = stream.upstream_name or stream.name
    if not upstream.traits.has_arns:
        return full_path(name, urlsplit(upstream.endpoint_url).path)
    if stream.arn:
        return stream.arn
    if upstream.account and upstream.home_region:
        return arn_of(name, upstream.account, upstream.home_region).text
    return name
