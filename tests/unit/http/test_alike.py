"""Heads that are like those before on a connection: read without the parser, and read the same.

Each case is sent twice: where heads are kept for the next one, and where none is. All that can be
seen must be the same (tests/fuzz/http_alike.py; `make fuzz TARGET=http_alike` goes on from here).
"""

import itertools

import pytest

from kdaemon.http.heads import KEPT_HEADERS_MAX
from kdaemon.http.hub import ConnectionLimits
from kdaemon.http.stencil import Stencil, cut
from tests.fuzz.http_alike import (
    HEADS,
    KEEPS,
    LENGTHS,
    LINES,
    STARTS,
    VALUES,
    again,
    check,
    request,
)
from tests.unit.http.harness import Harness, Make, statuses

WARM = 4  # requests, after which a stencil with holes is there


async def test_a_head_of_many_headers_is_not_kept(harness: Make) -> None:
    """Each takes many times what it has in bytes."""
    one = harness(echoes=True)
    for count in (*3 * [KEPT_HEADERS_MAX], KEPT_HEADERS_MAX - 1):  # the fourth is tried again
        more = b"".join(b"X-%d: 1\r\n" % number for number in range(count))
        one.feed(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (count, more))
        assert is_kept(one) is (count < KEPT_HEADERS_MAX)


def warm(lines: list[bytes]) -> list[bytes]:
    """What a client sends first."""
    return [request(again(lines, number), b"hello") for number in range(1, 1 + WARM)]


def compare(before: list[bytes], *sent: bytes) -> None:
    """In a read each, and the last ones in one."""
    check([*before, *sent], 0)
    check([*before, b"".join(sent)], 3)


def spoiled(line: bytes) -> list[bytes]:
    """The line with other values, and with its own value spoiled at its start, end and middle."""
    name, _, value = line.partition(b":")
    value = value.strip()
    middle = len(value) // 2
    made = [name + b": " + each for each in VALUES]
    made += [name + b": " + each + value for each in VALUES]
    made += [name + b": " + value + each for each in VALUES]
    made += [name + b": " + value[:middle] + each + value[middle:] for each in VALUES]
    return list(dict.fromkeys(made))  # where the value is empty, the four are one


HEAD_LINES = [(head, at) for head, lines in enumerate(HEADS) for at in range(1, len(lines))]


@pytest.mark.parametrize(("head", "at"), HEAD_LINES)
def test_a_value_that_is_odd_is_read_as_ever(head: int, at: int) -> None:
    lines = HEADS[head]
    before, after = warm(lines), request(again(lines, 9), b"hello")
    for line in spoiled(lines[at]):
        odd = again(lines, 8)
        odd[at] = line
        compare(before, request(odd, b"hello"), after)


@pytest.mark.parametrize(("head", "at"), HEAD_LINES)
def test_so_it_is_where_that_value_differs_each_time(head: int, at: int) -> None:
    """Even of a Host or a Connection."""
    lines, name = HEADS[head], HEADS[head][at].partition(b":")[0]
    values = [b"localhost", b"127.0.0.1", b"localhost", b"127.0.0.1:80", b"localhost:80"]
    if name.lower() == b"content-length":
        values = [b"5", b"0", b"4", b"3", b"4"]
    if name.lower() == b"connection":
        values = [b"keep-alive", b"Keep-Alive", b"x", b"y", b"keep-alive"]
    before: list[bytes] = []
    for value in values:
        other = again(lines, len(before))
        other[at] = name + b": " + value
        size = int(value) if name.lower() == b"content-length" else 5
        before.append(request(other, b"hello"[:size]))
    for line in [*spoiled(lines[at]), *(name + b": " + each for each in LENGTHS)]:
        odd = again(lines, 8)
        odd[at] = line
        compare(before, request(odd, b"hello"), before[-1])


@pytest.mark.parametrize("lines", HEADS)
def test_lines_that_come_go_or_change_places_are_seen(lines: list[bytes]) -> None:
    before, after = warm(lines), request(again(lines, 9), b"hello")
    usual = again(lines, 8)
    odd = [[start, *usual[1:]] for start in STARTS]
    for at in range(1, len(usual) + 1):
        odd += [[*usual[:at], line, *usual[at:]] for line in LINES]
        odd += [[*usual[:at], *usual[at + 1 :]], [*usual[:at], *usual[at : at + 1], *usual[at:]]]
    for one, other in itertools.combinations(range(1, len(usual)), 2):
        swapped = [*usual]
        swapped[one], swapped[other] = swapped[other], swapped[one]
        odd.append(swapped)
    for changed in odd:
        compare(before, request(changed, b"hello"), after)
    for end in (b"\n", b"\r", b"\r\r\n", b"\r\n\r\n"):
        compare(before, request(usual, b"hello", end), after)


@pytest.mark.parametrize("line", [*LINES, b"X-Amz-Target: a\r\nx-amz-target: b"])
@pytest.mark.parametrize("lines", HEADS)
def test_what_every_head_has_is_looked_at_in_every_head(lines: list[bytes], line: bytes) -> None:
    """A name that comes twice, an Expect, an Origin, a coding."""
    before = warm([*lines[:2], line, *lines[2:]])
    odd = again([*lines[:2], line, *lines[2:]], 8)
    odd[-1] += b"0"
    for choice in range(8):
        check([*before, request(odd, b"hello"), *before], choice)
        check([*before[:2], b"".join(before), request(odd, b"hello")], choice)


@pytest.mark.parametrize(
    "values",
    [
        [b"Origin: http://localhost", b"Origin: http://localhost:80", b"Origin: http://evil"],
        [b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Site: cross-site"],
        [b"Content-Encoding: gzip", b"Content-Encoding: br", b"Content-Encoding: identity"],
        [b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: 200-ok"],
    ],
)
@pytest.mark.parametrize("lines", [HEADS[0], HEADS[2]])
def test_what_must_be_asked_each_time_stands_in_no_hole(
    lines: list[bytes], values: list[bytes]
) -> None:
    one, other, odd = ([*lines[:2], value, *lines[2:]] for value in values)
    sent = [request(again(made, 1), b"hello") for made in (one, other, one, other, other, odd)]
    for choice in range(8):
        check(sent, choice)


@pytest.mark.parametrize("lines", HEADS)
def test_where_reads_are_cut_changes_nothing_but_when(lines: list[bytes]) -> None:
    before = warm(lines)
    two = request(again(lines, 8), b"hello") + request(again(lines, 9, 300), b"x" * 300)
    for at in range(1, len(two)):
        check([*before, two[:at], two[at:], before[0]], 0)
    check([*before, *(two[at : at + 1] for at in range(len(two)))], 0)
    for choice in range(8):
        check([*before, b"\r\n" + two, two * 4, b"\r\n\r\n", two[:-1]], choice)


def test_two_kinds_of_heads_in_turn() -> None:
    for one, other in itertools.permutations(HEADS, 2):
        sent = [
            request(again(lines, number), b"hello")
            for number in range(1, 9)
            for lines in (one, one, other)[: 1 + number % 3]
        ]
        check(sent, 0)
        check([b"".join(sent)], 4)


# --- what it is for


def is_kept(one: Harness) -> bool:
    return one.protocol.audit().heads.stencil is not None


def is_read_by_stencil(one: Harness, sent: bytes) -> bool:
    before = len(one.requests)
    one.feed(sent)
    assert len(one.requests) == before + 1
    return is_kept(one) and not one.protocol.audit().heads.misses


@pytest.mark.parametrize("lines", HEADS)
async def test_from_the_third_on_the_parser_is_not_asked(harness: Make, lines: list[bytes]) -> None:
    one = harness(echoes=True)
    has_body = any(line.lower().startswith(b"content-length") for line in lines)
    sizes = [5 + 60 * number if has_body else 0 for number in range(20)]
    found = [
        is_read_by_stencil(one, request(again(lines, number, size), b"x" * size))
        for number, size in enumerate(sizes, 1)
    ]
    assert not found[0]
    assert all(found[2:])
    assert [len(body) for body in one.bodies] == sizes


async def test_heads_that_have_little_in_common_are_not_learnt_each_time(harness: Make) -> None:
    one = harness(echoes=True)
    cut_after = []
    for number in range(1, 70):
        stencil = one.protocol.audit().heads.stencil
        one.feed(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-%d: 1\r\n\r\n" % number)
        if one.protocol.audit().heads.stencil is not stencil:
            cut_after.append(number)
    assert cut_after == [1, 2, 4, 8, 16, 32, 64]


async def test_a_connection_that_rests_keeps_no_head(harness: Make) -> None:
    one = harness(echoes=True)
    for sent in warm(HEADS[0]):
        one.feed(sent)
    hub = one.hub
    for _ in range(10):
        hub.tick += 1
        one.protocol.check_time(hub.tick)
    assert is_kept(one)
    hub.tick += 1
    one.protocol.check_time(hub.tick)
    assert not is_kept(one)
    assert statuses(one.feed(warm(HEADS[0])[0])) == [200]


async def test_a_large_head_is_not_kept(harness: Make) -> None:
    one = harness(ConnectionLimits(kept_head_bytes_max=200), echoes=True)
    for size in (180, 180, 180, 10):
        one.feed(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * size))
        assert is_kept(one) is (size < 100)


def test_what_is_common_to_two_signatures_by_chance_is_no_start() -> None:
    kept: list[dict[bytes, bytes]] = []
    stencil: Stencil | None = None
    for signature in (b"a", b"abc", b"abd"):
        lines = [b"GET / HTTP/1.1", b"A: b, Signature=" + signature, b"B: " + signature]
        head = request(lines, b"")
        headers = {b"a": b"b, Signature=" + signature, b"b": signature}
        stencil = cut(head, headers, stencil)
        assert stencil is not None
        kept.append(headers)
    assert stencil is not None
    assert [(hole.name, hole.start) for hole in stencil.holes] == [
        (b"a", b"b, Signature="),
        (b"b", b""),
    ]
    assert stencil.read(b"xx" + head, 2) == kept[-1]
    assert stencil.end == len(head) + 2


@pytest.mark.parametrize("more", [b"B: 5\r\na: 2\r\nC: 5", b"C: 5\r\nA: 2", b"A: 2\r\nC: 5"])
def test_no_hole_is_sought_in_a_head_that_has_a_name_twice(more: bytes) -> None:
    headers = {b"a": b"1,2", b"b": b"5", b"c": b"5"}
    if b"B" not in more:
        del headers[b"b"]
    head = b"GET / HTTP/1.1\r\nA: 1\r\n" + more + b"\r\n\r\n"
    first = cut(head.replace(b"C: 5", b"C: 4"), headers | {b"c": b"4"}, None)
    assert first is not None
    assert cut(head, headers, first) is None


def test_the_limits_of_the_comparison_are_met_by_its_cases() -> None:
    """Else the cases above compare refusals only, or none."""
    sizes = [len(request(again(lines, 1), b"")) for lines in HEADS]
    assert max(sizes) < KEEPS.kept_head_bytes_max < KEEPS.head_bytes_max
    assert max(map(len, VALUES)) + min(sizes) < KEEPS.head_bytes_max
    assert max(map(len, VALUES)) + max(sizes) > KEEPS.head_bytes_max
