"""One HTTP request as a handler sees it, and how the handler answers it.

Knows what an answer says. Must not know sockets, nor how a protocol writes an answer: the
connection that made the request renders the answer when its turn comes.
Invariants: a request is answered at most once. `on_gone` is called at most once, and never after
the answer. An answer drops the body, the headers and the charge. An answer in pieces (pieces.py) is
one answer; if its client reads no more, its source is told instead of `on_gone`.
Where it sits: a connection makes requests, handlers answer them.
"""

from collections.abc import Callable
from typing import Final, Protocol

from kdaemon.base.principal import Principal
from kdaemon.http.answer import CBOR, JSON, Answer, Headers
from kdaemon.http.pieces import Pieces, PieceSource

NO_HEADERS: Final[dict[bytes, bytes]] = {}
"""The headers of a request that has dropped them. Shared: nobody may change it."""

CBOR_ALONE: Final[dict[bytes, bytes]] = {b"content-type": CBOR}
"""The headers that are kept of a request in CBOR while it waits for its answer. Shared, too."""


def _json_text(text: str) -> bytes:
    """Text inside a JSON string; what is not printable ASCII becomes `?`."""
    safe = "".join(c if " " <= c <= "~" else "?" for c in text)
    return safe.replace("\\", "\\\\").replace('"', '\\"').encode()


def error_body(code: str, message: str) -> bytes:
    """The service's form of an error, which every AWS SDK can read."""
    return b'{"__type":"%b","message":"%b"}' % (_json_text(code), _json_text(message))


def error_body_cbor(code: str, message: str) -> bytes:
    """The same for a client that speaks CBOR (RFC 8949, 3): a map of texts."""
    texts = [text.encode() for text in ("__type", code, "message", message)]
    return b"\xa2" + b"".join(b"\x79%b%b" % (len(t).to_bytes(2, "big"), t) for t in texts)


def speaks_cbor(content_type: bytes) -> bool:
    """Whether a request with this Content-Type is answered in CBOR."""
    return content_type.partition(b";")[0].strip().lower() == CBOR


class Charge(Protocol):
    """The part of a memory budget that the body of a request holds."""

    def release(self) -> None:
        """Gives everything back. A second call does nothing."""
        ...


class RequestOwner(Protocol):
    """What a request needs of the connection on which it came. `client`: the connection's number.
    `principal`: who is at its other end, as far as the connection tells.
    """

    client: int
    principal: Principal

    def flush_answers(self, request: "HttpRequest") -> None:
        """`request` has its answer: sends the answers that may leave by now."""
        ...

    def go_on(self) -> None:
        """A request no longer holds the next one back."""
        ...

    def reset(self) -> None: ...


class HttpRequest:
    """One whole request. The handler answers it with `respond`, once, now or later, in any order.

    `path`, `query`: as they came, percent signs kept. `headers`: names in lower case, values
    without blanks around them; if a name came twice, both values, as a list. `body`: as it came,
    without undoing a content coding. `principal`: who sends the request. On a listener whose
    requests are signed, it has no rights until `door/access.py` has checked the signature.

    A handler that answers later calls `drop_body` when it has parsed the body, and drops the
    headers (`headers = NO_HEADERS`, or `CBOR_ALONE` if its client speaks CBOR). It may set
    `on_gone`, which is called once if the client goes away before its answer. A client that only
    closed its sending side has not gone: it reads the answer. A handler that needs several turns to
    take in a request sets `blocks_next`, and calls `let_next` when it is through, because the next
    request of the connection must not overtake.
    """

    __slots__ = (
        "answer",
        "blocks_next",
        "body",
        "body_charge",
        "client",
        "closes",
        "headers",
        "is_http_1_0",
        "method",
        "on_gone",
        "owner",
        "path",
        "principal",
        "query",
    )

    def __init__(
        self,
        owner: RequestOwner,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        body: bytes,
        closes: bool,
        is_http_1_0: bool,
        body_charge: Charge | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.owner: RequestOwner | None = owner  # None: the connection is lost
        self.client = owner.client  # the number of the client that sent it
        self.principal = owner.principal
        self.closes = closes  # the connection ends with this answer
        self.is_http_1_0 = is_http_1_0
        self.body_charge = body_charge  # None: the body came whole and was never kept
        self.on_gone: Callable[[], object] | None = None
        self.blocks_next = False
        self.answer: Answer | None = None

    @property
    def is_gone(self) -> bool:
        """The connection is lost: nobody will read an answer."""
        return self.owner is None

    def drop_body(self) -> None:
        """The body was parsed: frees its memory and gives the charge back. A second call does
        nothing.
        """
        self.body = b""
        charge = self.body_charge
        if charge is not None:
            self.body_charge = None
            charge.release()

    def let_next(self) -> None:
        """Lets the next request of the connection be handed over."""
        if self.blocks_next:
            self.blocks_next = False
            if self.owner is not None:
                self.owner.go_on()

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = JSON,
        headers: Headers = (),
        lines: bytes = b"",
        close: bool = False,
    ) -> None:
        """Answers once. Pipelined answers leave in the order of their requests; those of HTTP/2
        leave as they come. `lines`: further headers, as in `Answer`.

        Does nothing if the client has gone. A second answer raises RuntimeError and changes
        nothing.
        """
        if self.answer is not None:
            raise RuntimeError(f"{self.method} {self.path} was answered twice")
        owner = self.owner
        if owner is None:
            return
        self.answer = Answer(status, body, content_type, headers, close, None, lines)
        self.on_gone = None
        self.headers = NO_HEADERS
        self.body = b""
        if self.body_charge is not None:
            self.drop_body()
        owner.flush_answers(self)

    def fail(self) -> None:
        """Answers for a handler that raised. Does nothing if it had answered."""
        if self.answer is not None:
            return
        code, text = "InternalFailure", "kdaemon failed to handle this request; its log says why."
        if speaks_cbor(self.headers.get(b"content-type", b"")):
            self.respond(500, error_body_cbor(code, text), content_type=CBOR)
        else:
            self.respond(500, error_body(code, text))

    def respond_in_pieces(
        self,
        status: int,
        source: PieceSource,
        *,
        content_type: bytes = JSON,
        headers: Headers = (),
        close: bool = False,
    ) -> Pieces:
        """Answers once, with a body that `source` makes while it is sent. The first piece is asked
        for in a later turn of the loop. If the client is gone, the source is told, perhaps before
        this returns. `wake` of the returned value asks for more. A second answer raises
        RuntimeError.
        """
        if self.answer is not None:
            raise RuntimeError(f"{self.method} {self.path} was answered twice")
        pieces = Pieces(source)
        owner = self.owner
        if owner is None:
            pieces.lose()
            return pieces
        self.answer = Answer(status, b"", content_type, headers, close, pieces)
        self.on_gone = None
        self.headers = NO_HEADERS
        self.drop_body()
        owner.flush_answers(self)
        return pieces

    def abort(self) -> None:
        """Gives no answer, but resets the TCP connection, or in HTTP/2 the stream alone."""
        if self.owner is not None:
            self.owner.reset()


HttpHandler = Callable[[HttpRequest], object]
