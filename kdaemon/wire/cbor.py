"""CBOR (RFC 8949) to plain values and back, as the Kinesis API uses it. Pure.

The dialect of the AWS SDKs: names are texts, data are byte strings, and tag 1 is a moment in whole
milliseconds (in the RFC: in seconds). Maps, lists and strings come with their length or without.
Knows no member of any request. The parser is our own: cbor2 (6.2) is no faster at records than
`put_cbor.py`, follows tags, does not bound the values that it makes of a body, and takes 1.4 MiB.

Invariant: a body gives at most ITEMS_MAX values, nested DEPTH_MAX deep, and no string longer than
the body, whatever lengths the body declares. Anything that is not well-formed is a CborError.
Where it sits: `put_cbor.py` and the sandbox read with it; they and `refusals.py` write with it.
"""

import struct

from kdaemon.base.limits import KIB

ITEMS_MAX = 10 * KIB
"""Values, names, and pieces of strings in a body. Ours, 2026-11-28: 500 records with all their
members have 3,500, data of 10 MiB in pieces of 4 KiB have 2,600; ITEMS_MAX of the worst take 4 ms
and 1 MB."""

WIDE_BYTES_MAX = 768 * KIB
"""Bytes of all texts that are not ASCII; reading them costs thirty times as much as other bytes.
Ours, 2026-11-28: 500 keys of 256 emoji take 500 KiB; WIDE_BYTES_MAX takes 2 ms."""

DEPTH_MAX = 100  # ours, 2026-11-28: a request is nested 3 deep

_SECOND_MS = 1000
_MOMENT_TAG = 1
BYTES, TEXT, LIST, MAP = 2, 3, 4, 5  # major types [RFC 8949, 3.1]
_TAG, _SIMPLE = 6, 7
_INDEFINITE = 31  # as a length: up to a break; alone: the break
_CONSTANTS = {20: False, 21: True, 22: None, 23: None}  # 23: undefined, which JSON does not have
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_JSON_STARTS = (b'{"', b"{}", b"{ ", b"{\n", b"{\r")
_CUT_OFF = "it ends in the middle of a value"

OPEN = -1  # instead of a count: values up to a break


class CborError(Exception):
    """The body cannot be read; `text` tells the client why."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Repeating(dict[str, object]):
    """A map that names the member `name` twice. It has the last of the two values."""

    name: str


def decode(body: bytes) -> object:
    """The only value of a body. Raises CborError."""
    reader = Reader(body)
    value = reader.read()
    reader.end()
    return value


def encode(value: object) -> bytes:
    """Encodes dicts with texts as names, lists, texts, bytes, numbers (whole ones below 2**64),
    booleans and None. A number whose name ends in `Timestamp` is a moment, in seconds since 1970.
    """
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def head(major: int, count: int) -> bytes:
    """The beginning of a value: its type and its length, as short as possible."""
    kind = major << 5
    if count < 24:
        return bytes((kind | count,))
    for info, width in ((24, 1), (25, 2), (26, 4)):
        if count < 1 << 8 * width:
            return bytes((kind | info,)) + count.to_bytes(width, "big")
    return bytes((kind | 27,)) + count.to_bytes(8, "big")


def text(value: str) -> bytes:
    """A text, after its length."""
    encoded = value.encode()
    return head(TEXT, len(encoded)) + encoded


class Reader:
    """Reads values one after another, from `at` on. It cannot be used after an error."""

    __slots__ = ("_room", "_wide_room", "at", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0
        self._room = ITEMS_MAX
        self._wide_room = WIDE_BYTES_MAX

    def end(self) -> None:
        """Raises CborError if more bytes follow."""
        if self.at < len(self.body):
            raise self.error("bytes follow its end")

    def error(self, what: str) -> CborError:
        """The error. `what` completes a sentence about the body."""
        if self.body.startswith(_JSON_STARTS):  # as CBOR it would be a text of exabytes
            return CborError("The body is JSON, and its content type says CBOR.")
        return CborError(f"The body is not CBOR: {what} (byte {self.at}).")

    def read(self, depth: int = 0) -> object:
        """The next value: None, a bool, a number, a text, bytes, a list or a dict."""
        major, count = self.read_head()
        if major == BYTES:
            return self._take(count) if count != OPEN else b"".join(self._pieces(BYTES))
        if major == TEXT:
            return self._text(count)
        if major == _SIMPLE:
            return self._simple(count)
        if major < BYTES:
            return -1 - count if major else count
        if depth > DEPTH_MAX:
            raise CborError("The body is nested too deeply.")
        if major == LIST:
            return self._list(count, depth + 1)
        if major == MAP:
            return self._map(count, depth + 1)
        return self._tagged(count, depth + 1)

    def read_head(self) -> tuple[int, int]:
        """The head of the next value: its type, and its number or length, or OPEN. Of a simple
        value, the bits that tell it from others.
        """
        self._room -= 1
        if self._room < 0:
            text = (
                f"The body has more than {ITEMS_MAX} values, which is more than any request needs."
            )
            raise CborError(text)
        body, at = self.body, self.at
        if at >= len(body):
            raise self.error(_CUT_OFF)
        byte = body[at]
        major, info = byte >> 5, byte & 31
        if info < 24 or major == _SIMPLE:
            self.at = at + 1
            return major, info
        if info < 28:
            end = at + 1 + (1 << info - 24)
            if end > len(body):
                raise self.error(_CUT_OFF)
            self.at = end
            return major, int.from_bytes(body[at + 1 : end])
        if info < _INDEFINITE or not BYTES <= major <= MAP:
            raise self.error(f"0x{byte:02x} begins no value")
        self.at = at + 1
        return major, OPEN

    def ends(self, count: int, done: int) -> bool:
        """Whether a list or map of `count` entries ends after the `done` that were read. Reads the
        break at its end.
        """
        if count != OPEN:
            return done >= count
        if self.body[self.at : self.at + 1] != b"\xff":
            return False
        self.at += 1
        return True

    def read_name(self) -> str:
        """The next value, which must be a text."""
        major, count = self.read_head()
        if major != TEXT:
            raise self.error("the name of a member is no text")
        return self._text(count)

    def _take(self, count: int) -> bytes:
        at = self.at
        end = at + count
        if end > len(self.body):
            raise self.error(_CUT_OFF)
        self.at = end
        return self.body[at:end]

    def _text(self, count: int) -> str:
        if count != OPEN:
            return self._decoded(self._take(count))
        return "".join([self._decoded(piece) for piece in self._pieces(TEXT)])

    def _decoded(self, encoded: bytes) -> str:
        if not encoded.isascii():
            self._wide_room -= len(encoded)
            if self._wide_room < 0:
                text = (
                    f"The body has more than {WIDE_BYTES_MAX} bytes of texts that are not ASCII, "
                    "which is more than any request needs."
                )
                raise CborError(text)
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            raise CborError("The body is not UTF-8.") from None

    def _pieces(self, major: int) -> list[bytes]:
        """The pieces of a string without a length."""
        pieces: list[bytes] = []
        while not self.ends(OPEN, 0):
            kind, count = self.read_head()
            if kind != major or count == OPEN:
                raise self.error("a piece of a string is of another type")
            pieces.append(self._take(count))
        return pieces

    def _list(self, count: int, depth: int) -> list[object]:
        self._expect(count)
        values: list[object] = []
        while not self.ends(count, len(values)):
            values.append(self.read(depth))
        return values

    def _map(self, count: int, depth: int) -> dict[str, object]:
        self._expect(count)
        members: dict[str, object] = {}
        done = 0
        repeated = None
        body = self.body
        while done != count:
            if count == OPEN and body[self.at : self.at + 1] == b"\xff":
                self.at += 1
                break
            name = self.read_name()
            if name in members and repeated is None:
                repeated = name
            members[name] = self.read(depth)
            done += 1
        if repeated is not None:
            members = Repeating(members)
            members.name = repeated
        return members

    def _expect(self, count: int) -> None:
        """Checks that `count` entries can follow: each has one byte at least."""
        if count > len(self.body) - self.at:
            raise self.error(_CUT_OFF)

    def _tagged(self, tag: int, depth: int) -> float:
        """A moment, in seconds as in JSON. The API has no other tag."""
        if tag != _MOMENT_TAG:
            raise self.error(f"tag {tag} is not read here")
        value = self.read(depth)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error("a moment is no number")
        return value / _SECOND_MS

    def _simple(self, info: int) -> bool | float | None:
        if info in _CONSTANTS:
            return _CONSTANTS[info]
        form = _FLOATS.get(info)
        if form is None:
            what = "a break stands" if info == _INDEFINITE else f"0x{0xE0 | info:02x} stands"
            raise self.error(f"{what} where a value should")
        value: float = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value


def _write(value: object, parts: list[bytes]) -> None:
    if isinstance(value, str):
        parts.append(text(value))
    elif isinstance(value, dict):
        parts.append(head(MAP, len(value)))
        for name, member in value.items():
            parts.append(text(name))
            if name.endswith("Timestamp") and isinstance(member, int | float):
                parts.append(head(_TAG, _MOMENT_TAG))
                _write(round(member * _SECOND_MS), parts)
            else:
                _write(member, parts)
    elif isinstance(value, list):
        parts.append(head(LIST, len(value)))
        for each in value:
            _write(each, parts)
    elif isinstance(value, bytes):
        parts += (head(BYTES, len(value)), value)
    elif value is None or isinstance(value, bool):
        parts.append(b"\xf6" if value is None else b"\xf5" if value else b"\xf4")
    elif isinstance(value, float):
        parts.append(b"\xfb" + struct.pack(">d", value))
    elif isinstance(value, int):
        parts.append(head(0, value) if value >= 0 else head(1, -1 - value))
    else:
        raise TypeError(f"CBOR has no form here for {type(value).__name__}")
