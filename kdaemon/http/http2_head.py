"""Reads the headers of one HTTP/2 request into the form that the rules of HTTP/1.1 read. Pure.

Checks what RFC 9113 (8.2, 8.3) forbids in an HTTP/2 request. All other decisions about a head (its
method, its target, Host, Origin, its size) are made where HTTP/1.1 makes them: `heads.py` gets the
request line that the same request would have had.
Invariant: a request line or header from here has no byte that could end it.
Where it sits: beside head.py; http2_stream.py calls it once for each stream.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kdaemon.http.head import LENGTH_DIGITS_MAX, ONCE
from kdaemon.http.refusals import Refusal, malformed

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")  # a token (RFC 9110, 5.6.2) in lower case
_VALUE = re.compile(rb"(?![\t ])[\t\x20-\x7e\x80-\xff]*(?<![\t ])")  # as llhttp takes them
_PATH = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
_SCHEMES = frozenset({b"http", b"https"})

# Headers of one connection of HTTP/1.1, which have no meaning here (RFC 9113, 8.2.2).
_OF_HTTP_1_1 = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
FIELD_BYTES = 32  # bytes that a header counts beside its name and value (RFC 9113, 6.5.2)


@dataclass(frozen=True, slots=True)
class Fields:
    """`line`: the request line with its end. `count`: headers, each occurrence counted.
    `size_bytes`: counted as for SETTINGS_MAX_HEADER_LIST_SIZE. `byte_count`: the Content-Length, if
    there is one.
    """

    line: bytes
    headers: dict[bytes, bytes]
    count: int
    size_bytes: int
    byte_count: int | None


def read_fields(fields: Iterable[tuple[bytes, bytes]]) -> Fields | Refusal:
    """Checks the headers of one request. Refusal: they break RFC 9113."""
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    count = size_bytes = 0
    for name, value in fields:
        count += 1
        size_bytes += FIELD_BYTES + len(name) + len(value)
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO:
                return malformed(f"the field {_shown(name)} stands where it may not")
            if _VALUE.fullmatch(value) is None:
                return malformed(f"the value of {_shown(name)} has a character that may not be")
            pseudo[name] = value
            continue
        problem = _problem(name, value, headers)
        if problem is not None:
            return malformed(problem)
        if name not in headers:
            headers[name] = value
        else:
            headers[name] += (b"; " if name == b"cookie" else b", ") + value
    line = _request_line(pseudo)
    if isinstance(line, Refusal):
        return line
    authority = pseudo.get(b":authority")
    if authority is not None:
        if headers.get(b"host", authority).lower() != authority.lower():
            return malformed("the Host header is not the :authority")
        headers[b"host"] = authority
    length = headers.get(b"content-length")
    byte_count = None if length is None else int(length)
    return Fields(line, headers, count - len(pseudo), size_bytes, byte_count)


def _problem(name: bytes, value: bytes, headers: dict[bytes, bytes]) -> str | None:
    """What is wrong with one header, given those before it; None: nothing."""
    if _NAME.fullmatch(name) is None:
        return f"{_shown(name)} is no name of a header in lower case"
    if _VALUE.fullmatch(value) is None:
        return f"the value of {_shown(name)} has a character, or a blank, that may not be"
    if name in _OF_HTTP_1_1 or (name == b"te" and value.lower() != b"trailers"):
        return f"{_shown(name)} is a header of HTTP/1.1"
    if name in headers and name in ONCE:
        return f"it has more than one {_shown(name)} header"
    if name == b"content-length" and not (value.isdigit() and len(value) <= LENGTH_DIGITS_MAX):
        return "its Content-Length is no number"
    return None


def _request_line(pseudo: dict[bytes, bytes]) -> bytes | Refusal:
    """The request line of HTTP/1.1 for these pseudo-headers. Refusal: they break RFC 9113."""
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if method == b"CONNECT":  # has no scheme and no path; head.py refuses it
        path = path or b"*"
    elif pseudo.get(b":scheme") not in _SCHEMES:
        return malformed("the :scheme is neither http nor https")
    if method is None or _METHOD.fullmatch(method) is None:
        return malformed("the :method is missing, or is none")
    if path is None or _PATH.fullmatch(path) is None:
        return malformed("the :path is missing, or is none")
    if not path.startswith(b"/") and path != b"*":
        return malformed("the :path does not begin with a slash")
    return b"%b %b HTTP/1.1\r\n" % (method, path)


def _shown(name: bytes) -> str:
    """A name that may have any bytes, as text for a message."""
    return repr(name[:40].decode("latin-1"))
