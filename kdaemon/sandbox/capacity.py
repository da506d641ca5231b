"""What a stream can take: provisioned or on demand, and how warm an on-demand stream is kept.

Pure. As in `control.py`, a call takes the catalogue, a payload and the time, and its change is done
when it is answered: the told warm throughput is there at once. The sandbox is an account with
MinimumThroughputBillingCommitment, without which AWS has no warm throughput [M]. A stream shows its
warm throughput once a client has set it. A shard keeps its own limits, whatever is warm.
Invariants: a provisioned stream has no warm throughput; the open shards of a stream with a warm
throughput take at least that much together; a refused call has changed nothing.
"""

from kdaemon.base.limits import MIB
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import Payload, refuse
from kdaemon.sandbox.settings import Quota
from kdaemon.sandbox.shards import Stream

STREAM_MODES = ("PROVISIONED", "ON_DEMAND")  # StreamMode [M]
WARM_MIB_MAX = 10 * 1024  # MiB/s of one stream: 10 GiB/s, by default [M]
_INTEGER_MAX = 2**31 - 1  # the largest number on the wire


def is_on_demand_in(payload: Payload) -> bool:
    """Whether StreamModeDetails says ON_DEMAND. The member must be there."""
    given = payload.structure("StreamModeDetails") or Payload()
    return given.choice("StreamMode", STREAM_MODES) == "ON_DEMAND"


def require_on_demand(name: str, *, is_auto: bool, is_on_demand: bool) -> None:
    """InvalidArgumentException for AUTO on a provisioned stream [M]; AWS's text is not known."""
    if is_auto and not is_on_demand:
        raise refuse(
            "InvalidArgumentException",
            f"Stream {name}: the record distribution strategy AUTO is only supported for streams "
            "in on-demand capacity mode.",
        )


def warm_mib_in(payload: Payload, name: str, *, is_on_demand: bool) -> int | None:
    """WarmThroughputMiBps; None if it is absent."""
    if payload.get("WarmThroughputMiBps") is None:
        return None
    return _required_warm_mib(payload, name, is_on_demand=is_on_demand)


def _required_warm_mib(payload: Payload, name: str, *, is_on_demand: bool) -> int:
    """Raises ServiceError for a provisioned stream, and for too large a number [M]. AWS's codes and
    texts for these are not verified; kinesis-mock 0.6.2 has the first one.
    """
    warm_mib = payload.integer("WarmThroughputMiBps", 0, _INTEGER_MAX)
    if not is_on_demand:
        raise refuse(
            "InvalidArgumentException",
            f"Stream {name}: warm throughput is only supported for streams in on-demand capacity "
            "mode.",
        )
    if warm_mib > WARM_MIB_MAX:
        raise refuse(
            "LimitExceededException",
            f"Stream {name}: a warm throughput of {warm_mib} MiB/s exceeds the limit of "
            f"{WARM_MIB_MAX} MiB/s.",
        )
    return warm_mib


def shards_for(warm_mib: int, quota: Quota) -> int:
    """How many shards take `warm_mib` MiB/s together."""
    return -(-warm_mib * MIB // quota.bytes_per_second)


def update_stream_mode(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """UpdateStreamMode: PROVISIONED or ON_DEMAND. A stream that is AUTO stays on demand; what AWS
    answers then is not verified.
    """
    stream = catalogue.find_by_arn(payload)
    is_on_demand = is_on_demand_in(payload)
    warm_mib = warm_mib_in(payload, stream.name, is_on_demand=is_on_demand)
    if stream.is_auto and not is_on_demand:
        raise refuse(
            "InvalidArgumentException",
            f"Stream {stream.name} has the record distribution strategy AUTO, which provisioned "
            "streams do not support.",
        )
    if warm_mib is not None:
        _warm(catalogue, stream, warm_mib, now_ns)
    elif not is_on_demand:
        stream.warm_mib_per_second = None
    stream.is_on_demand = is_on_demand
    return {}


def update_warm_throughput(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """UpdateStreamWarmThroughput. A lower one closes no shard: AWS does so in its own time."""
    stream = catalogue.find_in(payload)
    warm_mib = _required_warm_mib(payload, stream.name, is_on_demand=stream.is_on_demand)
    _warm(catalogue, stream, warm_mib, now_ns)
    return {
        "StreamName": stream.name,
        "StreamARN": catalogue.arn_of(stream.name),
        "WarmThroughput": warm_form(warm_mib),
    }


def warm_form(warm_mib: int) -> Answer:
    return {"TargetMiBps": warm_mib, "CurrentMiBps": warm_mib}


def _warm(catalogue: Catalogue, stream: Stream, warm_mib: int, now_ns: int) -> None:
    """Halves all shards until they take `warm_mib` MiB/s together."""
    wanted, open_count = shards_for(warm_mib, stream.quota), len(stream.open_shards)
    rounds = 0
    while open_count << rounds < wanted:
        rounds += 1
    catalogue.require_room_for_shards((open_count << rounds + 1) - 2 * open_count)
    for _ in range(rounds):
        stream.halve_all(now_ns)
    stream.warm_mib_per_second = warm_mib
