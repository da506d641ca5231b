"""A member that is named twice is refused, at every reader, however it is written."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.errors import RefusedError
from kdaemon.base.limits import MIB
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.lines import parse_lines, parse_setup
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError

LIMITS = PutLimits()
ENTRY = b'{"Data":"eA==","PartitionKey":"k"}'


def wrapped(entry: bytes) -> bytes:
    return b'{"StreamName":"s","Records":[%b,%b,%b]}' % (ENTRY, entry, ENTRY)


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (wrapped(b'{"Data":"eA==","PartitionKey":"k","Data":"eQ=="}'), "Data"),
        (wrapped(b'{"Data":"","Data":"eQ==","PartitionKey":"k"}'), "Data"),
        (wrapped(b'{"D\\u0061ta":"eA==","PartitionKey":"k","Data":"eQ=="}'), "Data"),
        (wrapped(b'{"Data" :"eA==","PartitionKey":"k","Data"\n:"eQ=="}'), "Data"),
        (wrapped(b'{"Data":"eA==","PartitionKey":"k","PartitionKey":"k"}'), "PartitionKey"),
        (wrapped(b'{"Data":"eA==","PartitionKey":null,"PartitionKey":"k"}'), "PartitionKey"),
        (wrapped(b'{"Data":"eA==","PartitionKey":"a:b","PartitionKey":"a:b"}'), "PartitionKey"),
        (
            wrapped(
                b'{"Data":"eA==","PartitionKey":"k","ExplicitHashKey":"1","ExplicitHashKey":"2"}'
            ),
            "ExplicitHashKey",
        ),
        (b'{"StreamName":"s","Records":[%b],"Records":[%b]}' % (ENTRY, ENTRY), "Records"),
        (b'{"StreamName":"t","Records":[%b],"StreamName":"s"}' % ENTRY, "StreamName"),
        (b'{"StreamName":"s","Records":[%b],"DryRun":false,"DryRun":true}' % ENTRY, "DryRun"),
        (b'{"StreamName":"s","Records":[%b],"X":{"a:b":1},"X":2}' % ENTRY, "X"),
        (
            b'{"StreamARN":"arn\\u003aaws:kinesis:r:000000000000:stream/s","Records":[%b]}'
            % b'{"Data":"eA==","PartitionKey":"k","Data":"eQ=="}',
            "Data",
        ),
        (
            wrapped(b'{"Data":"eA==","PartitionKey":"\\u003a","Data":"eQ=="}'),
            "Data",
        ),
        (
            wrapped(b'{"Data":"eA==","PartitionKey":"a\\u003ab:c","PartitionKey":"a\\u003ab:c"}'),
            "PartitionKey",
        ),
        (
            b'{"StreamARN":"arn:aws:kinesis\\u003ar:000000000000:stream/s","Records":[%b]}'
            % b'{"Data":"eA==","PartitionKey":"k:k","Data":"eQ=="}',
            "Data",
        ),
        (wrapped(b'{"Data":"eA==","PartitionKey":"k","X":":","X":null}'), "X"),
    ],
)
def test_a_request_names_each_member_once(body: bytes, member: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_put_records(body, LIMITS)
    refusal = caught.value.refusal
    assert refusal.code == "SerializationException"
    assert f"The member {member} is there twice" in (refusal.message or "")


@pytest.mark.parametrize("count", [5, 63, 64, 65, 500])
def test_a_second_value_that_is_as_long_as_an_encoders_blanks_is_found(count: int) -> None:
    """A body with the length of Python's, which writes a blank behind each colon and comma."""
    blanks = 4 * count + 2
    lost = b'"Data":"%b",' % base64.b64encode(b"x" * ((blanks - 11) // 4 * 3))
    spare = blanks - 1 - len(lost)  # one blank is in the head
    entries = [ENTRY] * (count - 1) + [b"{%b%b%b" % (lost, b" " * spare, ENTRY[1:])]
    body = b'{"StreamName": "s","Records":[%b]}' % b",".join(entries)
    assert len(body) == len(json.dumps(json.loads(body.replace(lost, b""))).encode())
    with pytest.raises(ApiError) as caught:
        parse_put_records(body, LIMITS)
    assert "The member Data is there twice" in (caught.value.refusal.message or "")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("key", ["k", "a:b", "a:\\b"])
@pytest.mark.parametrize("data_bytes", [3, 3_000])
def test_colons_of_keys_and_names_hide_no_repeat(
    separators: tuple[str, str], key: str, data_bytes: int
) -> None:
    """Also of a body that is read in steps."""
    data = base64.b64encode(b"x" * data_bytes).decode()
    head = {"StreamARN": "arn:aws:kinesis:r:000000000000:stream/s"}
    entries = [{"Data": data, "PartitionKey": key}] * 400
    body = json.dumps(head | {"Records": entries}, separators=separators).encode()
    assert len(body) > MIB or data_bytes == 3
    assert len(parse_put_records(body, LIMITS).records) == 400
    name = b'"PartitionKey"' + separators[1].encode()
    for lost in (b'"j"', b'":"', b'"a\\u003ab"', b"null"):
        twice = body.replace(name, name + lost + b"," + name, 1)
        with pytest.raises(ApiError) as caught:
            parse_put_records(twice, LIMITS)
        assert "The member PartitionKey is there twice" in (caught.value.refusal.message or "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"StreamName":"s","Data":"eA==","PartitionKey":"k","Data":"eQ=="}',
        b'{"StreamName":"s","Data":"eA==","PartitionKey":"k","D\\u0061ta":"eQ=="}',
        b'{"StreamName":"s","Data":"","Data":"","PartitionKey":"k"}',
        b'{"StreamName": "s", "Data": "eA==", "Data": "eA==", "PartitionKey": "k"}',
        b'{"StreamName":"s","Data":"eA==","Data":"eA=="}',
    ],
)
def test_so_does_a_request_of_one_record(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_put_record(body, LIMITS)
    assert "The member Data is there twice" in (caught.value.refusal.message or "")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 500])
def test_whatever_the_number_of_records(separators: tuple[str, str], count: int) -> None:
    entries = [{"Data": "eA==", "PartitionKey": f"k{each}"} for each in range(count)]
    body = json.dumps({"StreamName": "s", "Records": entries}, separators=separators).encode()
    assert len(parse_put_records(body, LIMITS).records) == count
    name = b'"Data"' + separators[1].encode()
    for first in (b'""', b'"AA=="', b'"AAAA"', b'"' + b"AAAA" * count + b'"'):
        twice = body.replace(name, name + first + separators[0].encode() + name, 1)
        with pytest.raises(ApiError, match="SerializationException"):
            parse_put_records(twice, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        wrapped(b'{"Data":"eA==","PartitionKey":"a:b:\\"c\\":"}'),
        wrapped(b'{"Data":"eA==","PartitionKey":"k","ExplicitHashKey":null}'),
        wrapped(b'{"Data":"eA==","PartitionKey":"k","Other":{"Data":1,"x":{"Data":2}}}'),
        wrapped(b'{ "Data" : "eA==" , "PartitionKey" : "k" }'),
        b'{"StreamName":"s","StreamARN":null,"DryRun":null,"Records":[%b]}' % ENTRY,
        b'{"StreamName":"s","New:Name":"Data:","Records":[%b]}' % ENTRY,
        b'{"StreamName":"s","New\\u003aName":[{"a":1,"a":2}],"Records":[%b]}' % ENTRY,
    ],
)
def test_colons_elsewhere_are_no_repeat(body: bytes) -> None:
    assert parse_put_records(body, LIMITS).stream == "s"


def test_a_member_that_a_single_record_does_not_have_is_not_looked_into() -> None:
    body = b'{"StreamName":"s","Data":"eA==","PartitionKey":"k","Records":true}'
    assert parse_put_record(body, LIMITS).sizes == [2]


@pytest.mark.parametrize("name", [b"\xff", b"\\ud800", b"\xed\xa0\x80"])
def test_a_name_that_is_no_text_is_refused_or_ignored(name: bytes) -> None:
    for entry in (b'{"%b":1,"Data":"eA==","PartitionKey":"k"}', b'{"X":{"%b":1},"Data":""}'):
        body = wrapped(entry % name)
        try:
            request = parse_put_records(body, LIMITS)
        except ApiError as error:
            assert error.refusal.code == "SerializationException"  # noqa: PT017
        else:
            assert len(request.records) == 3


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b'{"data":"first","data":"second"}', "data"),
        (b'{"data":"","data":""}', "data"),
        (b'{"d\\u0061ta":"first","data":"second"}', "data"),
        (b'{"data" : "first", "data"\t:"second"}', "data"),
        (b'{"data":"ends in \\\\","data":"ends in \\\\"}', "data"),
        (b'{"data":"say \\"data\\":","data":"x"}', "data"),
        (b'{"data":"\\u0022\\u0022\\u0022\\u0022","data":"x"}', "data"),
        (b'{"data":null,"data":"x"}', "data"),
        (b'{"data_base64":"eA==","data_base64":"eQ=="}', "data_base64"),
        (b'{"data":"x","partition_key":"a","partition_key":"b"}', "partition_key"),
        (b'{"data":"x","partition_key":"a","partition_key":null}', "partition_key"),
        (b'{"data":"x","explicit_hash_key":"1","explicit_hash_key":"1"}', "explicit_hash_key"),
        (b'{"data":"x","stream":"a","stream":"b"}', "stream"),
    ],
)
@pytest.mark.parametrize(
    "others",
    [
        b'{"data":"other"}\n',
        b"{}\n",
        b'{"partition_key":"k"}\n',
        b'{"data":"say \\"x\\""}\n',
        b"bad\n",
    ],
)
def test_a_line_names_each_field_once(line: bytes, field: str, others: bytes) -> None:
    parsed = parse_lines(others + line + b"\n" + others)
    (rejected,) = (each for each in parsed.rejected if each.line == 2)
    assert rejected.code == "ValidationException"
    assert f"The field `{field}` is there twice." in (rejected.message or "")
    assert all(2 not in lines.numbers for lines in parsed.by_stream.values())


def test_so_does_a_first_line() -> None:
    for line in (
        b'{"acknowledge":"none","acknowledge":"delivered"}',
        b'{"stream":"a","str\\u0065am":"b"}',
    ):
        with pytest.raises(RefusedError, match="is there twice"):
            parse_setup(line)


# Texts that make counting hard.
texts = st.text(st.sampled_from('":\\,{}é\n a0'), max_size=8)


def spelt(data: st.DataObject, text: str) -> str:
    """JSON of a text, some of its characters escaped."""
    return "".join(
        f"\\u{ord(each):04x}" if data.draw(st.integers(0, 9)) == 0 else json.dumps(each)[1:-1]
        for each in text
    )


def written(data: st.DataObject, pairs: list[tuple[str, Any]]) -> str:
    blank = st.sampled_from(["", "", "", " ", "\t", "  "])
    members = [
        f'{data.draw(blank)}"{spelt(data, name)}"{data.draw(blank)}:{data.draw(blank)}'
        + ("null" if value is None else f'"{spelt(data, value)}"')
        for name, value in pairs
    ]
    return "{" + ",".join(members) + data.draw(blank) + "}"


@given(st.data())
def test_a_line_is_refused_exactly_if_a_field_is_there_twice(data: st.DataObject) -> None:
    names = st.sampled_from(["data", "partition_key", "stream"])
    pairs = [("data", data.draw(texts))]
    pairs += data.draw(st.lists(st.tuples(names, texts.filter(bool) | st.none()), max_size=3))
    line = written(data, pairs).encode()
    parsed = parse_lines(line + b"\n" + line)
    is_repeated = len({name for name, _ in pairs}) < len(pairs)
    assert parsed.rejected_count == (2 if is_repeated else 0)


@given(st.data())
def test_a_request_is_refused_exactly_if_a_member_is_there_twice(data: st.DataObject) -> None:
    names = st.sampled_from(["StreamName", "StreamId", "PartitionKey", "X", "X:Y"])
    pairs: list[tuple[str, Any]] = [("StreamName", "s"), ("Data", "eA=="), ("PartitionKey", "k:")]
    pairs += data.draw(st.lists(st.tuples(names, st.none() | st.just("s")), max_size=2))
    is_repeated = len({name for name, _ in pairs}) < len(pairs)
    try:
        request: PutRequest | None = parse_put_record(written(data, pairs).encode(), LIMITS)
    except ApiError as error:
        request = None
        assert "twice" in (error.refusal.message or "")  # noqa: PT017
    assert (request is None) == is_repeated
