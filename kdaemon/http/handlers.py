"""Contains a handler's defect: it costs the handler's own request and a log line, never the
connection.

About: calls of a handler's code, and its unforeseen exceptions. Must not know a protocol.
Invariant: no function here raises, and each defect is counted.
Where it sits: connection.py and http2_streams.py call these functions around the handler that they
share.
"""

import asyncio

from kdaemon.http.counters import ListenerCounters
from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpHandler, HttpRequest


def call_handler(counters: ListenerCounters, handler: HttpHandler, request: HttpRequest) -> None:
    """Hands a whole request to the handler. If the handler raises, `request` is answered, unless it
    was.
    """
    try:
        handler(request)
    except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
        report(counters, f"the handler of {request.method} {request.path} failed", error)
        request.fail()


def tell_gone(counters: ListenerCounters, request: HttpRequest) -> None:
    """Tells the handler that its client has gone before the answer, as far as one can see."""
    on_gone, request.on_gone = request.on_gone, None
    if on_gone is not None:
        try:
            on_gone()
        except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
            report(counters, "a handler failed when its client went away", error)


def lose_pieces(counters: ListenerCounters, pieces: Pieces) -> None:
    """Tells the source of an answer in pieces that its client reads no more."""
    try:
        pieces.lose()
    except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
        report(counters, "the source of an answer failed when its client went away", error)


def pieces_failed(counters: ListenerCounters, error: Exception) -> None:
    """The source raised. The connection cuts the answer off, so that its client sees the
    failure.
    """
    report(counters, "the source of an answer failed in the middle of it", error)


def report(counters: ListenerCounters, text: str, error: Exception) -> None:
    """Counts a defect, and passes the exception to the loop's handler, which logs it."""
    counters.handler_failures += 1
    asyncio.get_running_loop().call_exception_handler({"message": text, "exception": error})
