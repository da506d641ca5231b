"""Chooses the door for an HTTP request by its path, behind a guard if the listener has one."""

from kdaemon.base.refused import Refused
from kdaemon.door.guard import Guard
from kdaemon.door.kinesis import KinesisDoor
from kdaemon.door.ndjson import PATH_PREFIX, PATH_SUFFIX, NdjsonDoor
from kdaemon.http.request import HttpHandler, HttpRequest


def make_handler(
    kinesis: KinesisDoor, ndjson: NdjsonDoor, guard: Guard | None = None
) -> HttpHandler:
    """`/v1/streams/{stream}/records` is NDJSON, other paths under `/v1/` are refused, and all else
    is the Kinesis API, which ignores the path as the service does. `guard`: finds out who sends a
    request. None: the principals of the connections are already known.
    """
    put_to_kinesis = kinesis.handle
    put_lines = ndjson.handle

    def handle(request: HttpRequest) -> None:
        path = request.path
        if not path.startswith("/v1/"):
            put_to_kinesis(request)
        elif path.startswith(PATH_PREFIX) and path.endswith(PATH_SUFFIX):
            put_lines(request)
        else:
            ndjson.handle_nowhere(request)

    if guard is None:
        return handle
    check = guard.check

    def refuse(request: HttpRequest, refused: Refused) -> None:
        if request.path.startswith("/v1/"):
            ndjson.refuse_stranger(request, refused)
        else:
            kinesis.refuse_stranger(request, refused)

    def guarded(request: HttpRequest) -> None:
        check(request, handle, refuse)

    return guarded
