"""Which door an HTTP request is for: by its path. One handler for TCP and the Unix socket."""

from kdaemon.door.kinesis import KinesisDoor
from kdaemon.door.ndjson import PATH_PREFIX, PATH_SUFFIX, NdjsonDoor
from kdaemon.http.request import HttpHandler, HttpRequest


def make_handler(kinesis: KinesisDoor, ndjson: NdjsonDoor) -> HttpHandler:
    """`/v1/streams/{stream}/records` is NDJSON; other `/v1/` paths are nothing; all else is the
    Kinesis API, which ignores the path, as the service does.
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

    return handle
