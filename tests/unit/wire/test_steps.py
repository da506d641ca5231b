"""Large bodies and lines are read in steps, none of which does more than one pass over the text.

Counted in bytes that are handed to a parser between two turns, so that the machine's speed does not
matter.
"""

import contextlib
import gc
import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.steps import Steps, at_once
from kdaemon.wire import envelope, explain, lines, members, put
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines import LINE_BYTES_MAX, parse_lines, read_lines
from kdaemon.wire.put import parse_put_record, parse_put_records, read_put_record, read_put_records
from kdaemon.wire.refusals import ApiError
from kdaemon.wire.rejections import Problems
from tests.kit.puts import members_of

LIMITS = PutLimits(record_bytes_max=10 * MIB, request_bytes_max=10 * MIB)
ENTRY = b'{"Data":"eA==","PartitionKey":"k"}'
HEAD = b'{"StreamName":"s","Records":['
FULL = HEAD + ENTRY + b"]"
BASE64 = b"AAAA" * KIB
READERS = {"PutRecord": read_put_record, "PutRecords": read_put_records}


class Parsers:
    """Counts what each parser of the wire is given."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        decoders = {
            put: (
                "_decode_records",
                "_decode_record",
                "_decode_open_records",
                "_decode_open_record",
            ),
            explain: ("_glance",),
            members: ("_decode_object", "_decode_list"),
            lines: ("_decode_line", "_decode_setup", "_glance"),
        }
        for module, names in decoders.items():
            for name in names:
                patch.setattr(module, name, self._counted(getattr(module, name)))
        patch.setattr(explain, "_judge", None)  # a large body is not explained
        patch.setattr(msgspec.json, "decode", None)
        patch.setattr(json, "loads", self._small(json.loads))

    def _counted(self, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(text: Any) -> Any:
            self.bytes += len(text)
            return decode(text)

        return counted

    def _small(self, loads: Callable[..., Any]) -> Callable[..., Any]:
        def small(text: bytes, **options: Any) -> Any:
            assert len(text) <= members.NAMED_BYTES_MAX
            return loads(text, **options)

        return small

    def of_each_step(self, steps: Steps[Any]) -> tuple[list[int], Any]:
        """Bytes parsed in each step, and what came of them."""
        told: list[int] = []
        while True:
            self.bytes = 0
            try:
                next(steps)
            except StopIteration as end:
                return [*told, self.bytes], end.value
            except ApiError as error:
                return [*told, self.bytes], error
            told.append(self.bytes)


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> Parsers:
    return Parsers(monkeypatch)


def filled(head: bytes, unit: bytes, tail: bytes, size: int = 2 * MIB) -> bytes:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


HEAVY = {
    "lists": (FULL + b',"X":[', b"[],", b"[]]}"),
    "depth": (FULL + b',"X":[', b"[" * 900 + b"]" * 900 + b",", b"0]}"),
    "depth without an end": (FULL + b',"X":', b"[", b""),
    "records": (HEAD, b"{},", b"{}]}"),
    "good records, too many": (HEAD, ENTRY + b",", ENTRY + b"]}"),
    "records of a PutRecord": (b'{"Data":"eA==","PartitionKey":"k","Records":[', b"[],", b"[]]}"),
    "a member again": (b'{"PartitionKey":"k",', b'"Data":"",', b'"StreamName":"s"}'),
    "members of no name": (FULL + b",", b'"":0,', b'"":0}'),
    "escapes": (HEAD + b'{"Data":"","PartitionKey":"', b"\\n", b'"}]}'),
    "escapes in a name": (FULL + b',"', b"\\n", b'":0}'),
    "keys of emoji": (HEAD, b'{"Data":"","PartitionKey":"%b"},' % ("😀" * 256).encode(), b"{}]}"),
    "keys of quotes": (HEAD, b'{"Data":"","PartitionKey":"%b"},' % (b'\\"' * 256), b"{}]}"),
    "blanks": (FULL, b" ", b"}"),
    "lines": (b"", b"\n", FULL + b"}"),
    "numbers": (FULL + b',"X":[', b"0,", b"0]}"),
    "no JSON": (b"", b"\xff", b""),
}


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize("name", HEAVY)
def test_a_body_that_is_too_heavy_is_refused_without_being_parsed(
    parsers: Parsers, name: str, way: str
) -> None:
    head, unit, tail = HEAVY[name]
    body = filled(head, unit, tail, size=put.COUNTED_BYTES_MAX + KIB)
    told, error = parsers.of_each_step(READERS[way](body, LIMITS))
    assert sum(told) == 0
    assert (error.refusal.code, error.record_count) == ("SerializationException", 1)
    assert f"{envelope.WEIGHT_MAX} bytes beside base64" in error.refusal.message


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize("name", HEAVY)
def test_the_records_of_a_smaller_one_are_counted_in_a_step_of_their_own(
    parsers: Parsers, name: str, way: str
) -> None:
    body = filled(*HEAVY[name])
    told, error = parsers.of_each_step(READERS[way](body, LIMITS))
    assert told[0] == 0
    assert max(told) <= len(body)
    assert isinstance(error, ApiError)


def entries(*members: bytes) -> bytes:
    """A request of 400 records, 2 MiB."""
    return b",".join([b'{"Data":"%b",%b}' % (BASE64, b",".join(members))] * 400)


LARGE = {
    "ordinary": HEAD + entries(b'"PartitionKey":"k"') + b"]}",
    "pretty": HEAD + entries(b'  "PartitionKey" : "k" ') + b"]}",
    "with hash keys": HEAD + entries(b'"PartitionKey":"k"', b'"ExplicitHashKey":"7"') + b"]}",
    "without keys": HEAD + entries(b'"ExplicitHashKey":"7"') + b"]}",
    "colons and escapes": HEAD + entries(b'"PartitionKey":"\\u003a:\\n"') + b"]}",
    "unknown members": HEAD + entries(b'"PartitionKey":"k"', b'"X":{"a":[1,2]}') + b"]}",
    "a member again": HEAD + entries(b'"PartitionKey":"k"', b'"PartitionKey":"k"') + b"]}",
    "an empty key at the end": HEAD + entries(b'"PartitionKey":"k"') + b',{"Data":""}]}',
    "no base64 at the end": HEAD + entries(b'"PartitionKey":"k"') + b',{"Data":"#"}]}',
    "no UTF-8 at the end": HEAD + entries(b'"PartitionKey":"k"') + b'],"StreamARN":"\xff"}',
    "no end": HEAD + entries(b'"PartitionKey":"k"'),
    "one record": b'{"StreamName":"s","PartitionKey":"k","Data":"%b"}' % (BASE64 * 400),
    "one without a key": b'{"StreamName":"s","Data":"%b"}' % (BASE64 * 400),
    "one, and a colon": b'{"StreamName":"s","PartitionKey":":\\n","Data":"%b"}' % (BASE64 * 400),
    "one twice": b'{"StreamName":"s","Data":"","PartitionKey":"k","Data":"%b"}' % (BASE64 * 400),
    "a number": filled(b'{"StreamName":', b"1", b"}"),
    "a long name": filled(b'{"StreamName":"', b"a", b'","Data":"","PartitionKey":"k"}'),
}


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize("name", [*HEAVY, *LARGE])
def test_no_collector_is_needed_to_free_a_body(name: str, way: str) -> None:
    body = filled(*HEAVY[name]) if name in HEAVY else LARGE[name]
    gc.disable()  # so what falls below is freed by its count alone
    try:
        references = sys.getrefcount(body)
        with contextlib.suppress(ApiError):
            at_once(READERS[way](body, LIMITS))
        assert sys.getrefcount(body) == references
    finally:
        gc.enable()


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize("name", LARGE)
def test_no_step_of_a_large_body_is_more_than_a_pass_over_it(
    parsers: Parsers, name: str, way: str
) -> None:
    body = LARGE[name]
    told, result = parsers.of_each_step(READERS[way](body, LIMITS))
    assert told[0] == 0
    assert max(told) <= len(body)
    assert isinstance(result, ApiError) or sum(result.sizes) > MIB


@pytest.mark.parametrize("name", LARGE)
def test_what_is_read_in_steps_is_what_is_read_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[Any] = []
    for size in (MIB, 4 * MIB):  # in steps, at once
        monkeypatch.setattr(put, "AT_ONCE_BYTES_MAX", size)
        for parse in (parse_put_record, parse_put_records):
            try:
                results.append(members_of(parse(LARGE[name], LIMITS)))
            except ApiError as error:
                results.append((error.refusal, error.record_count, error.stream))
    assert results[:2] == results[2:]


@pytest.mark.parametrize(
    "keys",
    [
        "😀" * 256,
        "\\u00e9" * 256,
        '\\"' * 256,
        ":" * 256,
    ],
)
def test_a_request_of_which_everything_is_as_large_as_it_may_be_is_taken(keys: str) -> None:
    data = ("A" * 60 + "\\/AAA") * 400  # every slash is escaped, as some do
    entry = f'{{"Data" : "{data}", "PartitionKey" : "{keys}", "ExplicitHashKey" : "1"}}'
    body = HEAD + ",\n".join([entry] * 500).encode() + b"]}"
    assert len(body) > 12 * MIB
    assert len(parse_put_records(body, LIMITS).records) == 500


# --- lines


def line(head: bytes, unit: bytes, tail: bytes, size: int = 2 * MIB) -> bytes:
    return filled(head, unit, tail + b"\n", size)


UNREAD_LINES = {
    "escapes": line(b'{"data":"', b"\\n", b'"}', size=4 * MIB),
    "escapes of six": line(b'{"data":"', b"\\u0061", b'"}', size=8 * MIB),
    "a field again": line(b"{", b'"data":"",', b'"data":""}'),
    "a null again": line(b'{"data":"",', b'"stream":null,', b'"stream":null}'),
    "texts in a list": line(b'{"x":[', b'"000",', b'""]}'),
    "too long": line(b'{"data":"', b"a", b'"}', size=LINE_BYTES_MAX + KIB),
}
READ_LINES = {
    "a text": line(b'{"data":"', b"a", b'"}'),
    "emoji": line(b'{"data":"', "a😀".encode(), b'"}'),
    "some escapes": line(b'{"data":"', b"\\n", b'"}'),
    "base64": line(b'{"data_base64":"', b"AAAA", b'"}'),
    "all fields": line(b'{"data":"', b"a", b'","partition_key":"k","stream":"s"}'),
    "blanks": line(b'{"data":"x"', b" ", b"}"),
    "only blanks": line(b"", b" ", b""),
    "blanks around": line(b'   {"data":"', b"a", b'"  }  '),
    "no UTF-8 at the end": line(b'{"data":"', b"a", b'\xff"}'),
    "no base64 at the end": line(b'{"data_base64":"', b"AAAA", b'#"}'),
    "lists": line(b'{"data":"","x":[', b"[],", b"[]]}"),
    "lists as data": line(b'{"data":[', b"[],", b"[]]}"),
    "a number": line(b'{"data":', b"1", b"}"),
    "no end": line(b'{"data":"', b"a", b'"'),
    "twice": line(b'{"data":"","data":"', b"a", b'"}'),
    "twice, escaped": line(b'{"d\\u0061ta":"","data":"', b"a", b'"}'),
    "twice, and quotes": line(b'{"data":"\\u0022\\"","data":"', b"a", b'\\"\\u0022"}'),
    "once, and quotes": line(b'{"data":"\\u0022\\"","stream":"', b"a", b'\\"\\\\\\u0022"}'),
    "two that are long": line(b'{"data":"%b","data":"' % (b"a" * MIB), b"a", b'"}'),
    "a long key": line(b'{"data":"","partition_key":"', b"k", b'"}'),
    "a long stream": line(b'{"data":"","stream":"', b"s", b'"}'),
    "a long name": line(b'{"data":"","', b"x", b'":0}'),
}


@pytest.mark.parametrize("name", UNREAD_LINES)
def test_a_line_that_is_too_heavy_is_refused_without_being_parsed(
    parsers: Parsers, name: str
) -> None:
    told, parsed = parsers.of_each_step(read_lines(UNREAD_LINES[name], 7, "s"))
    assert sum(told) == 0
    assert (parsed.by_stream, parsed.rejected_count, parsed.line_count) == ({}, 1, 1)
    assert parsed.rejected[0].line == 7
    assert len(parsed.rejected[0].message) < KIB


@pytest.mark.parametrize("name", READ_LINES)
def test_no_step_of_a_long_line_is_more_than_a_pass_over_it(parsers: Parsers, name: str) -> None:
    text = READ_LINES[name]
    told, parsed = parsers.of_each_step(read_lines(text, 1, "s"))
    assert told[0] == 0
    assert max(told) <= len(text)
    taken = sum(len(each.records) for each in parsed.by_stream.values())
    assert taken + parsed.rejected_count == (name != "only blanks")


@pytest.mark.parametrize("name", READ_LINES)
def test_a_long_line_means_what_it_means_at_once(name: str) -> None:
    told: list[tuple[Parsed, int]] = []
    for reader in (lambda text: at_once(read_lines(text)), parse_lines):
        parsed = reader(READ_LINES[name])
        told.append((parsed, parsed.rejected_count))
    in_steps, at_one_time = told[0][0], told[1][0]
    if name == "two that are long":  # one of them would be lost, and so it is said otherwise
        assert in_steps.rejected_count == at_one_time.rejected_count == 1
        return
    if name == "blanks":  # more of them than anybody needs
        assert (in_steps.rejected_count, at_one_time.rejected_count) == (1, 0)
        return
    assert in_steps == at_one_time


@pytest.mark.parametrize("name", [*UNREAD_LINES, *READ_LINES])
def test_of_a_long_line_not_more_is_told_than_is_read(name: str) -> None:
    problems = Problems()
    problems.count = 5_000
    text = UNREAD_LINES.get(name) or READ_LINES[name]
    parsed = at_once(read_lines(text, 1, "s", problems))
    assert parsed.rejected == []
    assert problems.count == 5_000 + parsed.rejected_count


def test_several_lines_are_read_at_once() -> None:
    text = b'{"data":"a"}\n' * (2 * MIB // 13)
    assert at_once(read_lines(text)) == parse_lines(text)
