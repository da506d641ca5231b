"""Answers in any cut, read by our client and by aiohttp's: the same outcome, in the same words."""

import pytest

from kdaemon.base.errors import Trouble
from kdaemon.send.arriving import Room
from kdaemon.send.reader import FIELD_BYTES_MAX, HEAD_BYTES_MAX, Fields
from tests.kit.two_clients import End, by_aiohttp, by_ours

BODY = b'{"Records":[]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"3\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\n" % (BODY[:3], len(BODY) - 3, BODY[3:])
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGE = b"x" * 70_000

ANSWERS = {
    "length": OK + LENGTH + b"Content-Type: application/x-amz-json-1.1 \r\n\r\n" + BODY,
    "chunks": OK + CHUNKED + b"\r\n" + CHUNKS + b"\r\n",
    "chunks with a trailer": OK + CHUNKED + b"\r\n" + CHUNKS + b"Retry-After: 7\r\n\r\n",
    "chunks, blanks behind a size": OK + CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n",
    "chunks, a size that is none": OK + CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "chunks, a size beyond all": OK + CHUNKED + b"\r\n" + b"f" * 17 + b"\r\nabc",
    "chunks without an end": OK + CHUNKED + b"\r\n" + CHUNKS[:-3],
    "coded, then chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS + b"\r\n",
    "coded, no chunks": OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "chunks and a length": OK + CHUNKED + LENGTH + b"\r\n" + CHUNKS + b"\r\n",
    "two lengths": OK + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "a length that is none": OK + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length beyond all": OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "a length too large": OK + b"Content-Length: 100\r\n\r\n" + BODY,
    "no length": OK + b"\r\n" + BODY,
    "no length, no body": OK + b"\r\n",
    "empty": OK + b"Content-Length: 0\r\n\r\n",
    "1.0": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "1.0, kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
    "closes": OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY,
    "closes, and goes on": OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY + b"x",
    "an error": b"HTTP/1.1 400 No\r\nx-amzn-requestid: r-1\r\nRETRY-after: 3\r\n" + LENGTH
    + b"\r\n" + BODY,
    "an error, large": b"HTTP/1.1 500 No\r\nContent-Length: 70000\r\n\r\n" + LARGE,
    "a success too large": OK + b"Content-Length: 70000\r\n\r\n" + LARGE,
    "no content": b"HTTP/1.1 204 No\r\n\r\n",
    "not modified": b"HTTP/1.1 304 No\r\n" + LENGTH + b"\r\n",
    "a redirect": b"HTTP/1.1 302 Go\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    "interim": INTERIM * 2 + OK + LENGTH + b"\r\n" + BODY,
    "interim with headers": b"HTTP/1.1 103 Early\r\nRetry-After: 9\r\n\r\n" + OK + LENGTH + b"\r\n"
    + BODY,
    "interim, too many": INTERIM * 9 + OK + LENGTH + b"\r\n" + BODY,
    "interim, as many as may be": INTERIM * 8 + OK + LENGTH + b"\r\n" + BODY,
    "interim, and no more": INTERIM,
    "interim that closes": b"HTTP/1.1 100 C\r\nConnection: close\r\n\r\n" + OK + LENGTH + b"\r\n"
    + BODY,
    "another protocol": b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nxyz",
    "an upgrade that is none": OK + b"Upgrade: h2c\r\nConnection: upgrade\r\n" + LENGTH + b"\r\n"
    + BODY,
    "a second answer": OK + LENGTH + b"\r\n" + BODY + OK + LENGTH + b"\r\n" + BODY,
    "the beginning of one": OK + LENGTH + b"\r\n" + BODY + OK[:9],
    "something behind": OK + LENGTH + b"\r\n" + BODY + b"x",
    "a line break behind": OK + LENGTH + b"\r\n" + BODY + b"\r\n",
    "a line break before": b"\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "half a head": OK + b"Content-Le",
    "half a body": OK + LENGTH + b"\r\n" + BODY[:5],
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "a status that is none": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of nobody": b"HTTP/1.1 000 No\r\n" + LENGTH + b"\r\n" + BODY,
    "a coding, and a blank of its own": OK + b"Transfer-Encoding: chunked\t\r\n\r\n" + CHUNKS,
    "no reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY,
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 14\n\n" + BODY,
    "a folded header": OK + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "a header without a name": OK + b": a\r\n" + LENGTH + b"\r\n" + BODY,
    "a blank before a colon": OK + b"X : a\r\n" + LENGTH + b"\r\n" + BODY,
    "a blank before a length's colon": OK + b"Content-Length : 70\r\n\r\n" + BODY,
    "a blank before a coding's colon": OK + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
    "a coding that is nearly one": OK + b"Transfer-Encoding: chunked\x0b\r\n\r\n" + CHUNKS,
    "a NUL in a header": OK + b"X: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a control in a header": OK + b"X: a\1b\r\n" + LENGTH + b"\r\n" + BODY,
    "letters of others": OK + b"Retry-After: \xff\xc3\xa4\r\n" + LENGTH + b"\r\n" + BODY,
    "a header too large": OK + b"X: " + b"a" * FIELD_BYTES_MAX + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "a header as large as may be": OK + b"X: " + b"a" * (FIELD_BYTES_MAX - 1) + b"\r\n" + LENGTH
    + b"\r\n" + BODY,
    "as many headers as may be": OK + b"X: a\r\n" * 127 + LENGTH + b"\r\n" + BODY,
    "too many headers behind": OK + CHUNKED + b"\r\n" + CHUNKS + b"X: a\r\n" * 200 + b"\r\n",
    "too many headers": OK + b"X: a\r\n" * 128 + LENGTH + b"\r\n" + BODY,
}  # fmt: skip
ROOM = Room(65_000)
ENDS: tuple[End, ...] = ("stands", "ends", "reset")


def cuts(data: bytes) -> list[list[bytes]]:
    """Whole; in two, at each of many places; in reads of one and of seven bytes."""
    is_large = len(data) > 2_000
    places = (1, 20, len(data) // 2, len(data) - 1) if is_large else range(1, len(data))
    ways = [[data]] if data else [[]]
    ways += [[data[:at], data[at:]] for at in places]
    for size in (1_000,) if is_large else (1, 7):
        ways.append([data[at : at + size] for at in range(0, len(data), size)])
    return ways


OUT_OF_STEP = {
    "something behind",
    "closes, and goes on",
    "chunks, a size that is none",
    "chunks, a size beyond all",
    "too many headers behind",
    "a status of nobody",
}
"""What aiohttp makes of these depends on the reads: not HTTP if the head comes in the same one, and
else the answer as far as it came. Ours is never a success, and always in the same words.
"""

BEHIND = {"a second answer", "the beginning of one", "something behind", "closes, and goes on"}
"""What comes in a read of its own, behind an answer, does not belong to it."""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_both_clients_make_the_same_of_the_same_reads(name: str, end: End) -> None:
    for reads in cuts(ANSWERS[name])[:: 1 if end == "ends" else 5]:
        ours, theirs = [await by(reads, end, ROOM) for by in (by_ours, by_aiohttp)]
        if ours.what != theirs.what:
            assert name in OUT_OF_STEP
            assert ours.what == NOT_HTTP
        if end == "stands":
            assert theirs.is_kept or not ours.is_kept, reads


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - BEHIND))
async def test_where_an_answer_is_cut_makes_no_difference(name: str) -> None:
    seen = [await by_ours(reads, "ends", ROOM) for reads in cuts(ANSWERS[name])]
    assert len({repr(each.what) for each in seen}) == 1


NOT_HTTP = (Trouble.UNREADABLE, "host: the answer is not HTTP", 0, True)


@pytest.mark.parametrize(
    "endless",
    [
        OK + b"X: " + b"a" * 10**6,
        OK + b"X: a\r\n" * 10**5,
        OK + b"a" * 10**6,
        OK + CHUNKED + b"\r\n" + b"1\r\na\r\n" * 10**5,
        OK + CHUNKED + b"\r\n1;" + b"a" * 10**6,
        OK + CHUNKED + b"\r\n0\r\nX: " + b"a" * 10**6,
        b"\r\n" * 10**6,
    ],
    ids=lambda answer: repr(answer[:50]),
)
async def test_no_part_of_an_answer_is_without_a_bound(endless: bytes) -> None:
    reads = [endless[at : at + 1000] for at in range(0, len(endless), 1000)]
    taken = 0
    for count in (70, 2 * HEAD_BYTES_MAX // 1000):  # a head; a head and a body of so much
        seen = await by_ours(reads[:count], "stands", Room(1000))
        taken = count
        if seen.what == NOT_HTTP:
            break
    assert seen.what == NOT_HTTP or "more than 1000 bytes" in str(seen.what), taken


def test_headers_are_found_by_their_names_in_any_case_and_the_first_counts() -> None:
    fields = Fields([(b"Retry-AFTER", b"3 \t"), (b"retry-after", b"4"), (b"X", b"\xff")])
    assert fields.get("retry-after") == fields["Retry-After"] == "3"
    assert fields["x"] == "\udcff"
    assert fields.get("Y") is None
    assert dict(fields) == {"retry-after": "3", "x": "\udcff"}
    assert len(fields) == 2
