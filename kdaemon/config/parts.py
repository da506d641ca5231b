"""What each of several workers has of a configuration: its part of what is bounded for all.

About: memory, spool, connections and rates, divided by the number of workers; a shard's first share
likewise, since several workers are a small fleet, whose members find their parts by themselves from
there on. Pure. Must not know processes.
Invariants: the parts together are no more than the whole, but for what one process needs at least;
a part of one worker is the whole.
Where it sits: settings -> here -> daemon/, and the rules of load.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from kdaemon.base.limits import MIB
from kdaemon.config.settings import Config, SendConfig, StreamConfig, UpstreamConfig

SPOOL_PART_BYTES_MIN = 24 * MIB
"""Of one spool: below it SQLite's own needs leave no room for records. docs/sizing.md, 2026-11-28.
"""

HEIR_BYTES_MAX = 32 * MIB
"""Memory of one heir, for what it has read back and sends: some calls of the largest kind. There
may be as many heirs as there were workers, beside those that there are. Ours, 2026-11-29."""

FIRST_SHARE_MIN = 0.001  # as low as `first_share` may be set


def memory_needed(config: Config) -> int:
    """By one worker: a request of the largest kind, while another one is being delivered."""
    return max(2 * each.request_bytes_max for each in _streams(config))


def part_of(config: Config, *, directory: str) -> Config:
    """The configuration of one worker of `config.worker_count`, whose spool is in `directory` ("":
    it has none). It has no admin listener: the supervisor has.
    """
    count = config.worker_count
    memory = max(config.memory_bytes_max // count, memory_needed(config))
    listen, spool = config.listen, config.spool

    def of_stream(stream: StreamConfig) -> StreamConfig:
        least = min(2 * stream.request_bytes_max, stream.buffer_bytes_max)
        return replace(
            stream,
            buffer_bytes_max=min(memory, max(stream.buffer_bytes_max // count, least)),
            first_share=max(FIRST_SHARE_MIN, stream.first_share / count),
            # A bound that somebody set holds for all workers together; without one they find their
            # parts as a fleet does, and who is busy alone has the whole shard.
            share=stream.share if stream.share == 1 else stream.share / count,
            in_flight_max=-(-stream.in_flight_max // count),
        )

    return replace(
        config,
        memory_bytes_max=memory,
        listen=replace(listen, admin="", connections_max=-(-listen.connections_max // count)),
        spool=replace(
            spool,
            directory=directory,
            bytes_max=spool.bytes_max // count,
            letters_bytes_max=spool.letters_bytes_max // count,
        ),
        send=_of_calls(config.send, count),
        default=of_stream(config.default),
        defaults=MappingProxyType({k: of_stream(each) for k, each in config.defaults.items()}),
        streams=MappingProxyType({k: of_stream(each) for k, each in config.streams.items()}),
        upstreams=MappingProxyType(
            {name: _of_upstream(each, count) for name, each in config.upstreams.items()}
        ),
    )


def heir_of(config: Config, *, directory: str) -> Config:
    """The configuration of a process that delivers what stands in a spool that no worker has: no
    client can come in. Its memory comes on top of what the workers have, so it has little.
    """
    part = part_of(config, directory=directory)
    memory = max(min(part.memory_bytes_max, HEIR_BYTES_MAX), memory_needed(config))

    def of_stream(stream: StreamConfig) -> StreamConfig:
        return replace(stream, socket="", buffer_bytes_max=min(stream.buffer_bytes_max, memory))

    return replace(
        part,
        memory_bytes_max=memory,
        listen=replace(part.listen, http="", unix=""),
        default=of_stream(part.default),
        defaults=MappingProxyType({k: of_stream(each) for k, each in part.defaults.items()}),
        streams=MappingProxyType({k: of_stream(each) for k, each in part.streams.items()}),
    )


def _of_calls(send: SendConfig, count: int) -> SendConfig:
    return replace(
        send,
        connections_max=-(-send.connections_max // count),
        control_calls_per_second=send.control_calls_per_second / count,
    )


def _of_upstream(upstream: UpstreamConfig, count: int) -> UpstreamConfig:
    return replace(
        upstream,
        connections_max=-(-upstream.connections_max // count),
        control_calls_per_second=upstream.control_calls_per_second / count,
    )


def _streams(config: Config) -> Iterator[StreamConfig]:
    yield config.default
    yield from config.defaults.values()
    yield from config.streams.values()
