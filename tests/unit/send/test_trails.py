"""Tokens lead where the answer came from that gave them; a bounded number is known."""

import json

import pytest

from kdaemon.send.trails import READ_BYTES_MAX, TRAILS_MAX, Trails

ARN = "arn:aws:kinesis:us-east-1:222222222222:stream/orders"


@pytest.mark.parametrize("member", ["NextToken", "ShardIterator", "NextShardIterator"])
def test_each_kind_of_token_is_known(member: str) -> None:
    trails = Trails()
    assert trails.find("t") is None
    trails.note(json.dumps({"Records": [{"a": 1}], member: "t"}).encode(), ARN)
    assert trails.find("t") == ARN
    assert trails.find("another") is None


@pytest.mark.parametrize("is_first", [False, True])
def test_of_a_large_answer_the_beginning_and_the_end_are_looked_at(is_first: bool) -> None:
    members = [("Records", ["x" * READ_BYTES_MAX]), ("NextShardIterator", "t")]
    trails = Trails()
    trails.note(json.dumps(dict(members[::-1] if is_first else members)).encode(), ARN)
    assert trails.find("t") == ARN


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"NextToken":null}', b'{"NextToken":7}', b'{"NextToken":""}']
)
def test_an_answer_without_a_token_leads_nowhere(answer: bytes) -> None:
    trails = Trails()
    trails.note(answer, ARN)
    assert len(trails) == 0
    assert trails.find("") is None


def test_the_oldest_is_forgotten() -> None:
    trails = Trails()
    for number in range(TRAILS_MAX + 1):
        trails.note(b'{"NextToken":"%d"}' % number, ARN)
    assert len(trails) == TRAILS_MAX
    assert trails.find("0") is None
    assert trails.find("1") == ARN
    trails.note(b'{"NextToken":"1"}', ARN)
    trails.note(b'{"NextToken":"new"}', ARN)
    assert trails.find("1") == ARN, "what was given again is new"
