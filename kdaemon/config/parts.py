"""The configuration of each of several workers: its part of every bound that holds for all workers.

Memory, spool, connections and bounds on a shard are divided by the number of workers. Where no
bound on a shard is set, the workers are a small fleet, and each finds its share of the shard by
itself.
Pure. Must not know processes.
Invariants: the parts together are no more than the whole, except where one process needs a least
amount; with one worker, the part is the whole.
Where it sits: settings -> here -> daemon/, and the rules of load.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from kdaemon.base.limits import MIB, SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND
from kdaemon.config.settings import Config
from kdaemon.config.stream import StreamConfig

SPOOL_PART_BYTES_MIN = 24 * MIB
"""Of one spool: below it SQLite's own needs leave no room for records. docs/sizing.md, 2026-11-28.
"""

HEIR_BYTES_MAX = 32 * MIB
"""Memory of one heir, for what it has read back and sends: some calls of the largest kind. There
may be as many heirs as there were workers, beside those that there are. Ours, 2026-11-29."""


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

    def of_shard(rate: int, quota: int) -> int:
        return max(1, rate // count) if is_divided(rate, quota) else rate

    def of_stream(stream: StreamConfig) -> StreamConfig:
        records, size = stream.shard_records_per_second, stream.shard_bytes_per_second
        least = min(2 * stream.request_bytes_max, stream.buffer_bytes_max)
        return replace(
            stream,
            buffer_bytes_max=min(memory, max(stream.buffer_bytes_max // count, least)),
            shard_records_per_second=of_shard(records, SHARD_RECORDS_PER_SECOND),
            shard_bytes_per_second=of_shard(size, SHARD_BYTES_PER_SECOND),
            in_flight_max=-(-stream.in_flight_max // count),
            worker_count=count,
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
        send=replace(config.send, connections_max=-(-config.send.connections_max // count)),
        default=of_stream(config.default),
        defaults=MappingProxyType({k: of_stream(each) for k, each in config.defaults.items()}),
        streams=MappingProxyType({k: of_stream(each) for k, each in config.streams.items()}),
        upstreams=MappingProxyType(
            {
                name: replace(each, connections_max=-(-each.connections_max // count))
                for name, each in config.upstreams.items()
            }
        ),
    )


def is_divided(rate: int, quota: int) -> bool:
    """Whether the workers divide the rate of a shard: a bound below the service's own `quota` holds
    for all workers together. Without one they find their parts as a fleet does, and who is busy
    alone has the whole shard.
    """
    return rate < quota


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


def _streams(config: Config) -> Iterator[StreamConfig]:
    yield config.default
    yield from config.defaults.values()
    yield from config.streams.values()
