"""What the head of a request means: its first line, its framing, its codings (RFC 9110, RFC 9112).

Pure functions over bytes that a parser has found well-formed. Must not know bodies or sockets. Each
function returns what it read, or the `Refusal` that ends the connection. If the framing of a
request is in doubt, nothing of the request is done, because its body could be taken for another
request.
Where it sits: reader.py and heads.py call these functions; heads.py keeps the results for a
connection.
"""

import re
from dataclasses import dataclass

from kdaemon.http.refusals import Refusal, malformed, unsupported

_METHODS = {
    name.encode(): name for name in ("POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
}
_ALLOW = ((b"Allow", b"GET, HEAD, POST"),)

# Headers that must not come twice, because a second one would change the meaning of the first:
# routing, framing or defence.
ONCE = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"expect",
        b"origin",
        b"sec-fetch-site",
        b"x-amz-target",
        b"x-kdaemon-acknowledge",
    }
)

# Headers that only browsers send, and that a page cannot leave out.
BROWSER = frozenset({b"origin", b"sec-fetch-site"})

# Digits of a Content-Length. The parser bounds its value, but accepts any number of zeros before
# it, and Python makes no number of more than 4,300 digits. The same bound as h11's, 2026-11-28:
# 2**64 has 20 digits.
LENGTH_DIGITS_MAX = 20

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_ABSOLUTE = re.compile(rb"https?://([^/?#@]*)([/?].*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class RequestLine:
    """`authority`: the host of a target in absolute form, which replaces the Host header; else
    None.
    """

    method: str
    path: str
    query: str
    is_http_1_0: bool
    authority: bytes | None = None


def read_request_line(line: bytes) -> RequestLine | Refusal:
    """`line`: without its line end. The path is what the client wrote: `//v1/x` is not `/v1/x`."""
    parts = line.split(b" ")
    if len(parts) != 3:
        if len(parts) == 2:
            return unsupported(505, "This port speaks HTTP/1.1 and HTTP/1.0, not HTTP/0.9.")
        return malformed("the request line is not METHOD TARGET HTTP/1.1")
    method, target, protocol = parts
    if _TOKEN.fullmatch(method) is None:
        return malformed("the request does not begin with a method")
    if protocol not in {b"HTTP/1.1", b"HTTP/1.0"}:
        return unsupported(505, "This port speaks HTTP/1.1 and HTTP/1.0.")
    if method == b"CONNECT":
        return unsupported(405, "This is no proxy: CONNECT is not served.", _ALLOW)
    authority = None
    if not target.startswith(b"/") and (target, method) != (b"*", b"OPTIONS"):
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            return malformed("the target of the request is no path and no http URL")
        authority = found[1]
        target = found[2] or b"/"
        if target.startswith(b"?"):
            target = b"/" + target
    path, _, query = target.decode("latin-1").partition("?")
    name = _METHODS.get(method) or method.decode("latin-1")
    return RequestLine(name, path, query, protocol == b"HTTP/1.0", authority)


def join_headers(head: bytes) -> dict[bytes, bytes] | Refusal:
    """The headers of a head in which some name came more than once. The values of one name are
    joined to a list (RFC 9110, 5.3). A second header of a name in ONCE is refused.
    """
    headers: dict[bytes, bytes] = {}
    for line in head[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name not in headers:
            headers[name] = value
        elif name in ONCE:
            return malformed(f"it has more than one {name.decode('latin-1')} header")
        else:
            headers[name] += b"," + value  # without a blank, as a signature joins them
    return headers


def is_chunked(headers: dict[bytes, bytes], *, is_http_1_0: bool) -> bool | Refusal:
    """The framing of the body. True: chunks. False: Content-Length, or no body if there is none."""
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return False
    if is_http_1_0 or b"content-length" in headers:
        return malformed("Transfer-Encoding stands beside what forbids it (RFC 9112, 6.1)")
    if coding.lower() != b"chunked":
        return unsupported(501, "Of transfer codings only chunked is understood, alone.")
    return True


def tokens(value: bytes) -> set[bytes]:
    """The members of a comma-separated list, in lower case."""
    return {token.strip().lower() for token in value.split(b",")}


def is_last(connection: bytes | None, *, is_http_1_0: bool) -> bool:
    """Whether the client asks to end the connection after this request (`connection`: its
    header).
    """
    words = tokens(connection) if connection is not None else set()
    return b"close" in words or (is_http_1_0 and b"keep-alive" not in words)


def tidy_content_encoding(headers: dict[bytes, bytes]) -> None:
    """Removes `identity`, in any spelling, from Content-Encoding, so that handlers see real codings
    only. Call it only if there is a Content-Encoding.
    """
    words = [word.strip().lower() for word in headers[b"content-encoding"].split(b",")]
    left = b", ".join(word for word in words if word not in {b"", b"identity"})
    if left:
        headers[b"content-encoding"] = left
    else:
        del headers[b"content-encoding"]
