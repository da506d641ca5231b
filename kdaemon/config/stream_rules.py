"""Rules of streams: which keys of a stream's table clash with each other, or with other tables.

Pure. [default] and [streams.NAME] have the same keys, and the same rules. Where it sits: `rules.py`
runs these.
"""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from kdaemon.base.names import (
    DEFAULT_UPSTREAM,
    arn_of,
    full_path,
    is_path,
    is_stream_name,
    partition_problem,
)
from kdaemon.base.service import Service
from kdaemon.config.clash import Clash, Path
from kdaemon.config.settings import Config
from kdaemon.config.stream import StreamConfig

_NO_NAME = "is no name of a stream: expected 1-128 letters, digits, `_`, `.` or `-`"


def find_stream_clashes(config: Config, listed: Mapping[str, Path]) -> Iterator[Clash]:
    """`listed`: where the table of each stream stands, by its name."""
    yield from _too_many(config, listed)
    yield from _upstream_of(config, ("default",), config.default)
    yield from _stream(config, ("default",), config.default)
    for name, stream in config.streams.items():
        yield from _upstream_of(config, listed[name], stream)
        yield from _stream(config, listed[name], stream)
        yield from _stream_name(config, listed[name], stream)
    yield from _same_socket(config, listed)
    yield from _same_stream(config, listed)


def _too_many(config: Config, listed: Mapping[str, Path]) -> Iterator[Clash]:
    if len(config.streams) > config.streams_max:
        yield Clash(
            (("streams_max",), list(listed.values())[-1]),
            f"streams_max ({config.streams_max}) is below the number of streams listed "
            f"({len(config.streams)})",
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
        # A value of [default] may be wrong only for this stream, if it has another service.
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
                or f"{_NO_NAME}, or an ARN in quotes, as"
                ' [streams."arn:aws:kinesis:REGION:ACCOUNT:stream/NAME"]',
            )
        elif not has_arns and name.startswith("@"):
            yield Clash((path,), 'begins with "@", which no path does')


def stream_name_problem(name: str, service: Service) -> str | None:
    """Why no stream of the service has this name; None: one can have it."""
    if service.has_arns:
        return None if is_stream_name(name) else _NO_NAME
    return None if is_path(name) else "is no path of a stream"


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
