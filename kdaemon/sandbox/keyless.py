"""What a stream with the strategy AUTO takes that others do not, and the other way round.

Pure. PartitionKey is optional in the service's model since AUTO, and required by the streams that
go by it; an order to ask for exists on the latter only [M]. The daemon's own reader
(`wire/put.py`) says which records lack a key. Sits between `wire.py` and `service.py`.
"""

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox.service import Service
from kdaemon.wire.put import PutRequest, refuse_ordering, require_keys


def check(service: Service, request: PutRequest) -> None:
    """ApiError if the request's stream does not take records like these."""
    if _is_auto(service, request.stream):
        refuse_ordering(request)
    else:
        require_keys(request)


def _is_auto(service: Service, stream: str) -> bool:
    try:
        return service.stream(stream).is_auto
    except ServiceError:
        return False
