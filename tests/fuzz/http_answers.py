"""What a service answers over HTTP, in any reads: our client and aiohttp's make the same of it.

The first byte of an input chooses how the connection goes on behind the bytes and how much may be
answered; then `cuts.cut` takes the reads. Raises where our client raises, where ours makes another
outcome of them than aiohttp (but for "not HTTP", which is never a success), and where a connection
is kept that aiohttp closes.
"""

from kdaemon.base.errors import Trouble
from kdaemon.send.arriving import Room
from kdaemon.send.reader import FIELD_BYTES_MAX
from tests.fuzz.cuts import cut
from tests.fuzz.loop import run
from tests.kit.two_clients import End, Seen, by_aiohttp, by_ours

_OK = b"HTTP/1.1 200 OK\r\n"
_LENGTH = b"Content-Length: 2\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
SEEDS = [
    b"\x00\x00" + _OK + _LENGTH + b"\r\n{}",
    b"\x01\x01\x00\x20" + _OK + _CHUNKED + b"\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nA: b\r\n\r\n",
    b"\x01\x00" + _OK + b"\r\n{}",
    b"\x02\x02\x00\x10\x00\x30HTTP/1.1 100 Continue\r\n\r\n" + _OK + _LENGTH + b"\r\n{}",
    b"\x00\x00HTTP/1.1 400 No\r\nx-amzn-RequestId: r\r\n" + _LENGTH + b"\r\n{}" + _OK,
    b"\x00\x00HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + _LENGTH + b"\r\n{}",
    b"\x04\x00" + _OK + b"Connection: close\r\nContent-Length: 70\r\n\r\n" + b"x" * 70,
]
TOKENS = [
    *(b"\r\n", b"\r\n\r\n", b"\n", b":", b" ", b"\t", b";", b"204 ", b"304 "),
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/1.1 102 P\r\n\r\n", b"Transfer-Encoding: gzip\r\n"),
    *(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"0\r\n\r\n"),
    *(_OK, _LENGTH, _CHUNKED, b"Content-Length: +2\r\n", b"ffffffffffffffff\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"2\r\n{}\r\n"),
]  # fmt: skip
_ENDS: tuple[End, ...] = ("stands", "ends", "reset")


def one_input(data: bytes) -> None:
    choice = data[0] if data else 0
    end, room = _ENDS[choice % 3], Room(64 if choice & 4 else 100_000)
    sent, reads = cut(data[1:])
    ours, theirs = run(_both(reads, end, room))
    if len(sent) > FIELD_BYTES_MAX:
        return  # aiohttp counts the bytes of each line, ours those of the head
    if ours.what != theirs.what:
        assert _is_stricter(ours, sent), (ours, theirs)
    if end == "stands":
        assert theirs.is_kept or not ours.is_kept, (ours, theirs)


async def _both(reads: list[bytes], end: End, room: Room) -> tuple[Seen, Seen]:
    return await by_ours(reads, end, room), await by_aiohttp(reads, end, room)


def _is_stricter(ours: Seen, sent: bytes) -> bool:
    """Bytes that are not HTTP are that in any reads; to aiohttp they are a lost answer, or
    one that came before. And a coding behind a body does not end it before its announced end.
    """
    if not isinstance(ours.what, tuple):
        return False
    is_coded_twice = sent.lower().count(b"transfer-encoding") > 1
    return ours.what[0] is Trouble.UNREADABLE or (
        ours.what[0] is Trouble.CONNECTION_LOST and is_coded_twice
    )
