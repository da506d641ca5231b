"""Records without a partition key, as a stream with the strategy AUTO takes them.

Pure. PartitionKey is optional in the service's model since AUTO, and required by the streams that
go by it [M]; the daemon's own reader always wants it. So a request that the reader refuses is read
again with a key put in where there is none, if its stream is AUTO: all else is judged by the same
reader. Inside, such a record has the empty key. Sits between `wire.py` and `wire/put.py`.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox.service import Service
from kdaemon.wire.put import ApiError, PutLimits, PutRequest

_STAND_IN = "k"  # one byte of key, which the limits below allow for

Parse = Callable[[bytes, PutLimits], PutRequest]


def parse(parse_strictly: Parse, service: Service, body: bytes, limits: PutLimits) -> PutRequest:
    """The request as `parse_strictly` reads it; ApiError is its first refusal."""
    try:
        return parse_strictly(body, limits)
    except ApiError as refusal:
        request = _parse_keyless(parse_strictly, service, body, limits)
        if request is None:
            raise refusal from None
        return request


def _parse_keyless(
    parse_strictly: Parse, service: Service, body: bytes, limits: PutLimits
) -> PutRequest | None:
    """None where the stream wants keys, or something else is wrong."""
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(payload, dict) or not _is_auto(service, payload):
        return None
    entries = payload.get("Records", [payload])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    is_keyless = [entry.get("PartitionKey") is None for entry in entries]
    for entry, lacks_key in zip(entries, is_keyless, strict=True):
        if lacks_key:
            entry["PartitionKey"] = _STAND_IN
    wider = replace(
        limits,
        record_bytes_max=limits.record_bytes_max + len(_STAND_IN),
        request_bytes_max=limits.request_bytes_max + len(_STAND_IN) * sum(is_keyless),
    )
    try:
        request = parse_strictly(msgspec.json.encode(payload), wider)
    except ApiError:
        return None
    for record, lacks_key in zip(request.records, is_keyless, strict=True):
        if lacks_key:
            record.partition_key = ""
    return request


def _is_auto(service: Service, payload: dict[str, object]) -> bool:
    try:
        name = service.stream_in(payload)
        return name is not None and service.stream(name).is_auto
    except ServiceError:
        return False
