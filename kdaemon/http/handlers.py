"""What a handler's defect costs: its own request, and a line in the log; never the connection.

About: calls of a handler's code, and what becomes of the exceptions that nobody foresaw. Knows no
protocol. Invariant: nothing raises out of here, and each defect is counted.
Where it sits: connection.py and http2_streams.py call here around the handler they share.
"""

import asyncio

from kdaemon.http.counters import HttpCounters
from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpRequest


def handler_failed(counters: HttpCounters, request: HttpRequest, error: Exception) -> None:
    """The handler raised; `request` is answered, if it was not."""
    report(counters, f"the handler of {request.method} {request.path} failed", error)
    request.fail()


def tell_gone(counters: HttpCounters, request: HttpRequest) -> None:
    """Its client has gone, as far as one can see, before the answer was given."""
    on_gone, request.on_gone = request.on_gone, None
    if on_gone is not None:
        try:
            on_gone()
        except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
            report(counters, "a handler failed when its client went away", error)


def lose_pieces(counters: HttpCounters, pieces: Pieces) -> None:
    """Nobody reads on what its source would make."""
    try:
        pieces.lose()
    except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
        report(counters, "the source of an answer failed when its client went away", error)


def pieces_failed(counters: HttpCounters, error: Exception) -> None:
    """Its source raised: the answer is cut off, as its client must see."""
    report(counters, "the source of an answer failed in the middle of it", error)


def report(counters: HttpCounters, text: str, error: Exception) -> None:
    counters.handler_failures += 1
    asyncio.get_running_loop().call_exception_handler({"message": text, "exception": error})
