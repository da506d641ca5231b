"""Which records a stream with the strategy AUTO takes and others do not, and vice versa.

Pure. Since AUTO, PartitionKey is optional in the service's model; streams that go by the key
require it. Only those streams take SequenceNumberForOrdering [M]. The daemon's own reader
(`wire/put.py`) says which records lack a key. Sits between `wire.py` and `service.py`.
"""

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox.service import Service
from kdaemon.wire.put import PutRequest, refuse_ordering, require_keys


def check(service: Service, request: PutRequest) -> None:
    """Raises ApiError if the request's stream does not take such records."""
    if _is_auto(service, request.stream):
        refuse_ordering(request)
    else:
        require_keys(request)


def _is_auto(service: Service, stream: str) -> bool:
    try:
        return service.stream(stream).is_auto
    except ServiceError:
        return False
