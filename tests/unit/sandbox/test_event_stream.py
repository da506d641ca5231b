"""Messages of the event stream, as botocore reads them."""

from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.sandbox.event_stream import event, exception, message

texts = st.text(st.characters(codec="utf-8"), max_size=60)
names = st.text(st.characters(codec="ascii"), min_size=1, max_size=40)


def read(data: bytes) -> list[Any]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [*buffer]


@given(headers=st.dictionaries(names, texts, max_size=5), payload=st.binary(max_size=500))
def test_what_is_written_is_read(headers: dict[str, str], payload: bytes) -> None:
    (found,) = read(message(headers, payload))
    assert found.headers == headers
    assert found.payload == payload


def test_messages_follow_one_another_and_may_be_cut_anywhere() -> None:
    data = event("a", b"1", "x") + exception("E", b"", "x") + event("b", b"2" * 70_000, "x")
    buffer = EventStreamBuffer()
    found = []
    for at in range(0, len(data), 999):
        buffer.add_data(data[at : at + 999])
        found += [*buffer]
    assert [each.headers[":message-type"] for each in found] == ["event", "exception", "event"]
    assert [each.payload for each in found] == [b"1", b"", b"2" * 70_000]


def test_an_exception_is_one_to_botocore() -> None:
    (found,) = read(exception("ResourceInUseException", b'{"message":"no"}', "application/json"))
    told = found.to_response_dict()
    assert told["status_code"] == 400
    assert told["headers"][":exception-type"] == "ResourceInUseException"
    assert told["body"] == b'{"message":"no"}'


@pytest.mark.parametrize("at", [0, 5, 9, 13, 30, -1])
def test_each_byte_is_in_a_sum(at: int) -> None:
    data = bytearray(event("SubscribeToShardEvent", b"{}" * 20, "application/json"))
    data[at] ^= 1
    with pytest.raises((ChecksumMismatch, ValueError)):
        read(bytes(data))
