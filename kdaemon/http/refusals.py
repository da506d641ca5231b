"""The reasons why a request is refused before a handler sees it: each reason a value, in one place.
Pure.

A refusal is data: a connection renders its answer as any other answer, so each protocol can render
it. Its text has the encoding of its request, as far as that is known by then: CBOR, or else JSON.
Must not know framing or a socket.
Invariants: `reason` is one of REFUSALS, or TIMED_OUT. Each refusal ends its connection; in HTTP/2,
its stream.
Where it sits: head.py, head_framing.py, origin.py, body.py and reader.py decide, connection.py
answers and counts.
"""

import re
from dataclasses import dataclass, replace

from kdaemon.http.answer import CBOR, Answer, Headers
from kdaemon.http.request import error_body, error_body_cbor, speaks_cbor

REFUSALS = (
    "connections",  # over connections_max
    # No file descriptor was left for a new connection: counted once a second while that lasts.
    "descriptors",
    "malformed",  # not HTTP, or its framing is in doubt
    "flood",  # frames of HTTP/2 that only cost: rapid resets, empty frames, blocks without an end
    "head_too_large",
    "body_too_large",
    "bodies_full",  # the shared budget of bodies is used up
    "expectation",  # an Expect header other than 100-continue
    "truncated",  # the client stopped sending in the middle of a request
    "foreign",  # a page of another site, or a Host that is not ours
    "unsupported",  # well-formed HTTP that is not spoken here
    "unauthenticated",  # an unknown sender: its lines, or a body that is still to come
    "tls_missing",  # plain text where TLS is spoken
    "tls_unexpected",  # TLS where it is not spoken
    "tls_failed",  # a handshake that failed, or a record that cannot be read
)

TIMED_OUT = "timed_out"  # for clients that are too slow: they are counted by part (counters.py)

TLS_HANDSHAKE = b"\x16\x03"  # every TLS connection begins with this (RFC 8446, 5.1)
HTTP_2 = b"PRI * HTTP/2.0\r\n"  # every HTTP/2 connection begins with this (RFC 9113, 3.4)
HTTP_2_TOO_LATE = "HTTP/2 is spoken from the first byte of a connection on, with its whole preface"

_CONTENT_TYPE = re.compile(rb"\r\ncontent-type:([^\r\n]*)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"

_NOT_READ = "This is not HTTP/1.1 that can be read: "


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that ends its connection, and the reason under which it is counted. `is_cbor`: the
    part of the request that was read says that its client speaks CBOR.
    """

    reason: str
    status: int
    code: str
    message: str
    headers: Headers = ()
    is_cbor: bool = False

    def answer(self) -> Answer:
        """The answer in the service's form of an error, which every AWS SDK can read."""
        if self.is_cbor:
            body = error_body_cbor(self.code, self.message)
            return Answer(self.status, body, CBOR, headers=self.headers, closes=True)
        body = error_body(self.code, self.message)
        return Answer(self.status, body, headers=self.headers, closes=True)


def malformed(text: str) -> Refusal:
    """`text` completes a sentence: what was found, without a full stop."""
    return Refusal("malformed", 400, "BadRequestException", f"{_NOT_READ}{text}.")


def misread(problem: str, data: bytes | bytearray) -> Refusal:
    """A request that the parser could not read. `problem`: the parser's. `data`: the request, whose
    start may show a client of another protocol.
    """
    if data.startswith(HTTP_2):
        return malformed(HTTP_2_TOO_LATE)
    return TLS_SPOKEN if data.startswith(TLS_HANDSHAKE) else malformed(problem)


def in_http_2(refusal: Refusal) -> Refusal:
    """The refusal, in words for a client of HTTP/2."""
    message = refusal.message
    if not message.startswith(_NOT_READ):
        return refusal
    return replace(refusal, message=message.replace("HTTP/1.1", "HTTP/2", 1))


def in_form_of(refusal: Refusal, headers: dict[bytes, bytes]) -> Refusal:
    """The refusal in the encoding of its request, by the headers that were read."""
    return _in(refusal, headers.get(b"content-type", b""))


def in_form_of_head(refusal: Refusal, head: bytes) -> Refusal:
    """The refusal in the encoding of its request. `head`: the bytes that came, which may be no
    head.
    """
    end = head.find(_HEAD_END)
    found = _CONTENT_TYPE.search(head, 0, len(head) if end < 0 else end)
    return refusal if found is None else _in(refusal, found[1])


def _in(refusal: Refusal, content_type: bytes) -> Refusal:
    return replace(refusal, is_cbor=True) if speaks_cbor(content_type) else refusal


def unsupported(status: int, text: str, headers: Headers = ()) -> Refusal:
    """Well-formed HTTP that is not spoken here."""
    return Refusal("unsupported", status, "NotImplementedException", text, headers)


def foreign(text: str) -> Refusal:
    """A page of another site, or a Host that is not ours."""
    return Refusal("foreign", 403, "AccessDeniedException", text)


def head_too_large(byte_count: int) -> Refusal:
    """`byte_count`: as many as a head may have."""
    text = f"The request line and headers are longer than {byte_count} bytes."
    return Refusal("head_too_large", 431, "RequestHeaderFieldsTooLargeException", text)


def too_many_headers(count: int) -> Refusal:
    """`count`: as many as a request may have."""
    text = f"A request may have up to {count} headers."
    return Refusal("head_too_large", 431, "RequestHeaderFieldsTooLargeException", text)


def body_too_large(byte_count: int, found: str) -> Refusal:
    """`byte_count`: as many as a body may have. `found`: completes the sentence."""
    text = f"A request body may have up to {byte_count} bytes; {found}."
    if not byte_count:
        text = "No request body is taken here."
    return Refusal("body_too_large", 413, "RequestEntityTooLargeException", text)


BODIES_FULL = Refusal(
    "bodies_full",
    503,
    "ServiceUnavailableException",
    "Too many request bodies are arriving at once; send this one again later.",
    ((b"Retry-After", b"1"),),
)
EXPECTATION = Refusal(
    "expectation",
    417,
    "ExpectationFailedException",
    "Of the Expect header only 100-continue is understood.",
)
TRUNCATED = Refusal(
    "truncated",
    400,
    "IncompleteRequestException",
    "The connection ended in the middle of a request.",
)
TLS_SPOKEN = Refusal(
    "tls_unexpected",
    400,
    "BadRequestException",
    "This port speaks plain HTTP and the client TLS: use http://, not https://.",
)
TLS_MISSING = Refusal(
    "tls_missing",
    400,
    "BadRequestException",
    "This port speaks TLS and the client plain HTTP: use https://, not http://.",
)


def timed_out(part: str, limit: str) -> Refusal:
    """The refusal of a client that is too slow."""
    text = f"{part} did not arrive {limit}."
    return Refusal(TIMED_OUT, 408, "RequestTimeoutException", text)
