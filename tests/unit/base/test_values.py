"""Records, frames, errors: what the values themselves promise."""

import msgspec
import pytest

from kdaemon.base.errors import ConfigError, ConfigProblem, RefusedError, ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record, RecordResult
from tests.kit.frames import make_frame


def test_a_record_goes_onto_the_wire_under_the_names_of_the_service() -> None:
    assert msgspec.json.encode(Record(b"abc", "k")) == b'{"Data":"YWJj","PartitionKey":"k"}'
    assert msgspec.json.encode(Record(b"", "k", "7")) == (
        b'{"Data":"","PartitionKey":"k","ExplicitHashKey":"7"}'
    )


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_a_partition_key_of_the_wrong_length_is_not_decoded(key: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"Data":"","PartitionKey":"%b"}' % key.encode(), type=Record)


@pytest.mark.parametrize(
    ("answer", "is_delivered"),
    [
        (b'{"SequenceNumber":"1","ShardId":"s"}', True),
        (b'{"SequenceNumber":"1","ShardId":"s","ErrorCode":null,"ErrorMessage":null}', True),
        (b'{"SequenceNumber":"1","ShardId":"s","ErrorCode":""}', True),
        (b'{"ErrorCode":"InternalFailure","ErrorMessage":"no"}', False),
        (b'{"SequenceNumber":"","ShardId":"","ErrorCode":"InternalFailure"}', False),
        (b'{"SequenceNumber":"1","ErrorCode":"InternalFailure"}', False),
        (b'{"SequenceNumber":"","ShardId":"s"}', False),
        (b"{}", False),
    ],
)
def test_only_a_sequence_number_without_an_error_is_a_delivery(
    answer: bytes, *, is_delivered: bool
) -> None:
    assert msgspec.json.decode(answer, type=RecordResult).is_delivered is is_delivered


def test_a_delivered_result_is_encoded_without_the_fields_it_has_not() -> None:
    result = RecordResult(sequence_number="1", shard_id="s")
    assert msgspec.json.encode(result) == b'{"SequenceNumber":"1","ShardId":"s"}'


def test_a_new_frame_has_settled_nothing() -> None:
    frame = Frame([Record(b"", "a"), Record(b"", "b")], [1, 1], Acknowledge.NONE, None)
    assert frame.results == [None, None]
    assert frame.unsettled == 2
    assert frame.deadline_ns is None
    assert frame.refusal is None
    assert not frame.is_abandoned


def test_frames_are_told_apart_by_identity_not_by_what_they_hold() -> None:
    assert len({make_frame([Record(b"", "a")]), make_frame([Record(b"", "a")])}) == 2


def test_a_config_error_says_every_problem_where_it_stands() -> None:
    problems = [ConfigProblem("a.toml", "x.y", "is 3"), ConfigProblem("flags", "z", "is absent")]
    error = ConfigError(problems)
    assert str(error) == "a.toml: x.y: is 3\nflags: z: is absent"
    assert error.problems == problems


def test_errors_say_their_code_first() -> None:
    assert str(RefusedError("ValidationException", "too long")) == "ValidationException: too long"
    error = ServiceError("InternalFailure", "no", status=500)
    assert str(error) == "InternalFailure: no"
    assert error.was_sent, "unless somebody knows better, the service may have seen it"
