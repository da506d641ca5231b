"""Connections that believe one answer to one request.

aiohttp keeps what arrives on an idle connection, takes it for the answer to the next request, and
waits through interim answers (1xx) for ever. Here bytes that nobody asked for close the connection,
so that no answer that was made up, or that is late, is taken for another call's; and interim
answers are counted. Knows aiohttp's protocol; must not know calls or what an answer says.
Invariant: a connection that got anything between two requests carries no other request.
"""

from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

INTERIM_ANSWERS_MAX: Final = 8  # ours: a service sends none; a proxy sends one or two; 2026-11-28


class OneAnswer(ResponseHandler):
    """aiohttp's side of a connection, with an account of what was asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_answered = True  # nothing was asked yet
        self._interim_count = 0

    def set_response_params(self, **kwargs: Any) -> None:
        """A request is about to be written."""
        self._is_answered = False
        self._interim_count = 0
        super().set_response_params(**kwargs)

    def data_received(self, data: bytes) -> None:
        if self._is_answered and data and (self._payload is None or self._payload.is_eof()):
            self._end()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """One parsed head with its body to come."""
        status = data[0].code
        if self._is_answered:  # a second answer, in the same bytes as the first
            self._end()
            return
        if 100 <= status < 200 and status != 101:
            self._interim_count += 1
            if self._interim_count > INTERIM_ANSWERS_MAX:
                self._end()
                self.set_exception(HttpProcessingError(message="too many interim answers"))
            return  # nobody waits for it: no request of ours says `Expect`
        self._is_answered = True
        super().feed_data(data, size)

    def _end(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class Connector(aiohttp.TCPConnector):
    """A pool of such connections."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._factory = partial(  # type: ignore[assignment]  # of a subclass: partial is invariant
            OneAnswer, loop=self._loop
        )

    def set_limit(self, connections_max: int) -> None:
        """So many at one time from now on; who waits goes on with the next that is given back."""
        self._limit = connections_max
