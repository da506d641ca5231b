"""What a stream's kind forbids: settings that its service, or its readers, cannot work with.

Knows the control plane's description of the stream, and the stream's settings; no call and no
record. Invariant: the text names the setting and both remedies.
Where it sits: `engine.py` asks at each description, and admits nothing while there is a reason.
"""

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError


def why_unavailable(
    settings: EngineSettings, *, is_auto: bool, has_record_readers: bool
) -> ServiceError | None:
    """The reason, or None. A service-managed stream can keep neither order nor aggregates. A reader
    that hands on each record as it is cannot take an aggregate apart.
    """
    aggregation = ['aggregation = "kpl"'] if settings.aggregate_bytes_max > 0 else []
    ordering = ['ordering = "partition_key"'] if settings.is_ordered else []
    if is_auto and ordering + aggregation:
        text = (
            "The stream is service-managed (RecordDistributionStrategy AUTO): the service"
            f" ignores keys there, so that kdaemon's {' and '.join(ordering + aggregation)}"
            " cannot be kept. Take it out of the stream's configuration, or switch the stream"
            " back."
        )
    elif has_record_readers and aggregation:
        text = (
            "Queues or channels read the stream, and hand each record on as it is: several"
            f" records in one, as kdaemon's {aggregation[0]} packs them, would reach them as"
            " one that they cannot read. Take it out of the stream's configuration, or remove"
            " the stream's queues and channels."
        )
    else:
        return None
    return ServiceError("InvalidArgumentException", text, status=400)
