"""Tokens lead where the answer came from that gave them; a bounded number is known."""

import json

import pytest

from kdaemon.send.trails import READ_BYTES_MAX, TRAILS_MAX, Trail, Trails

ARN = "arn:aws:kinesis:us-east-1:222222222222:stream/orders"
ORDERS = Trail("reads", (ARN,), ARN)
OTHERS = Trail("reads", ("others",), None)


@pytest.mark.parametrize("member", ["NextToken", "ShardIterator", "NextShardIterator"])
def test_each_kind_of_token_is_known(member: str) -> None:
    trails = Trails()
    assert trails.find("t") is None
    trails.note(json.dumps({"Records": [{"a": 1}], member: "t"}).encode(), ORDERS)
    assert trails.find("t") == ORDERS
    assert trails.find("another") is None


@pytest.mark.parametrize("is_first", [False, True])
def test_of_a_large_answer_the_beginning_and_the_end_are_looked_at(is_first: bool) -> None:
    members = [("Records", ["x" * READ_BYTES_MAX]), ("NextShardIterator", "t")]
    trails = Trails()
    trails.note(json.dumps(dict(members[::-1] if is_first else members)).encode(), ORDERS)
    assert trails.find("t") == ORDERS


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"NextToken":null}', b'{"NextToken":7}', b'{"NextToken":""}']
)
def test_an_answer_without_a_token_leads_nowhere(answer: bytes) -> None:
    trails = Trails()
    trails.note(answer, ORDERS)
    assert len(trails) == 0
    assert trails.find("") is None


def token(name: object) -> bytes:
    return b'{"NextToken":"%b"}' % str(name).encode()


def test_the_oldest_is_forgotten() -> None:
    trails = Trails()
    for number in range(TRAILS_MAX + 1):
        trails.note(token(number), ORDERS)
    assert len(trails) == TRAILS_MAX
    assert trails.find("0") is None
    assert trails.find("1") == ORDERS
    trails.note(token(1), ORDERS)
    trails.note(token("new"), ORDERS)
    assert trails.find("1") == ORDERS, "what was given again is new"
    assert trails.find("2") is None


def test_what_led_on_is_forgotten_first() -> None:
    """A consumer of many shards goes on for ever."""
    trails = Trails()
    trails.note(token("oldest"), ORDERS)
    trails.note(token("first"), ORDERS)
    for number in range(TRAILS_MAX - 3):
        trails.note(token(number), ORDERS)
    trails.note(token("a"), ORDERS)
    for used, given in (("a", "b"), ("b", "c"), ("c", "d")):
        trails.note(token(given), ORDERS, used)
        assert trails.find(given) == ORDERS
    assert len(trails) == TRAILS_MAX
    assert trails.find("first") == ORDERS
    assert trails.find("a") is None
    assert trails.find("c") == ORDERS, "its client may ask again"


def test_a_flood_of_tokens_takes_none_from_another_stream() -> None:
    trails = Trails()
    for number in range(10):
        trails.note(token(f"other {number}"), OTHERS)
    for number in range(2 * TRAILS_MAX):
        trails.note(token(number), ORDERS)
    assert len(trails) == TRAILS_MAX
    assert all(trails.find(f"other {number}") == OTHERS for number in range(10))


def test_a_token_that_is_given_again_for_another_stream_leads_there() -> None:
    trails = Trails()
    trails.note(token("t"), ORDERS)
    trails.note(token("t"), OTHERS)
    assert trails.find("t") == OTHERS
    assert len(trails) == 1
