import asyncio
import base64
import gzip
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.put import lines as put_lines
from kdaemon.put import source as put_source
from kdaemon.put import unix as put_module
from kdaemon.put.lines import BadLine, Form, FormError, LineFormer, LineSplitter
from kdaemon.put.source import Source
from kdaemon.put.unix import PutError, UnixPut, form_blocks
from kdaemon.put.waiting import REASONS_MAX, Person, Totals
from tests.kit.patience import PATIENCE_S, until


def formed(form: Form, *lines: bytes) -> list[Any]:
    """What each line that is not blank becomes: a record, or why not."""
    return [
        str(result) if isinstance(result, BadLine) else json.loads(result)
        for _, result in LineFormer(form).form(list(lines))
    ]


# Lines


def test_lines_that_are_no_record_lines_are_data() -> None:
    assert formed(Form(), b'{"a": 1}', b"", b" \t", b'{"data": "x"}') == [
        {"data": '{"a": 1}'},
        {"data": '{"data": "x"}'},
    ]


def test_if_the_first_line_is_a_record_line_all_are_and_go_as_they_are() -> None:
    lines = [b'{"data_base64":"eA==","partition_key":"k"}', b"no json: the daemon says so"]
    results = [result for _, result in LineFormer(Form()).form([b"", *lines])]
    assert results == [lines[0] + b"\n", lines[1] + b"\n"]


@pytest.mark.parametrize(
    "first", [b'{"data": "x", "id": 7}', b'{"partition_key": "k"}', b"[1]", b"{"]
)
def test_an_object_with_other_fields_or_without_data_is_data(first: bytes) -> None:
    assert formed(Form(), first) == [{"data": first.decode()}]


def test_lines_switch_takes_a_record_line_as_data() -> None:
    assert formed(Form(is_data=True), b'{"data": "x"}') == [{"data": '{"data": "x"}'}]


def test_a_given_key_is_put_where_there_is_none() -> None:
    form = Form(partition_key="k")
    assert formed(form, b"x") == [{"data": "x", "partition_key": "k"}]
    assert formed(form, b'{"data": "x"}', b'{"data": "y", "partition_key": "own"}', b"[]") == [
        {"data": "x", "partition_key": "k"},
        {"data": "y", "partition_key": "own"},
        "is not a JSON object",
    ]


def test_the_key_comes_from_a_field_and_the_line_is_the_data() -> None:
    lines = [
        b'{"id": "a", "n": 1}',
        b'{"id": 7}',
        b'{"id": null}',
        b'{"n": 1}',
        b"no",
        b'{"id": []}',
    ]
    results = formed(Form(key_field="id"), *lines)
    assert results[:3] == [
        {"data": '{"id": "a", "n": 1}', "partition_key": "a"},
        {"data": '{"id": 7}', "partition_key": "7"},
        {"data": '{"id": null}'},
    ]
    assert results[3] == 'has no field "id"'
    assert results[4].startswith("is not JSON: ")
    assert results[5] == 'field "id" is no text or number, so it cannot be a key'


def test_the_key_may_stand_deeper_as_raw_lines_of_the_daemon_have_it() -> None:
    lines = [
        b'{"user": {"id": "a"}}',
        b'{"user": {"id": 1.0}}',
        b'{"user": {"id": null}}',
        b'{"user": "a"}',
        b'{"user": {"id": {}}}',
    ]
    results = formed(Form(key_field="user.id"), *lines)
    assert [each.get("partition_key") for each in results[:3]] == ["a", "1.0", None]
    assert results[3] == 'has no field "user.id"'
    assert results[4] == 'field "user.id" is no text or number, so it cannot be a key'
    assert formed(Form(key_field=r"user\.id"), b'{"user.id":"a"}')[0]["partition_key"] == "a"
    with pytest.raises(FormError, match=r"field is 'a\.\.b'; expected a path"):
        formed(Form(key_field="a..b"), b"{}")


def test_a_given_key_changes_nothing_else_of_a_record_line() -> None:
    """The daemon is to see what was written: a field twice, an unknown one, a number as it is."""
    lines = [
        b' {"data":"first","data":"second"}',
        b'{"data":"x", "n":12345678901234567890123}',
        b"{ }",
    ]
    former = LineFormer(Form(partition_key='k"'))
    assert [result for _, result in former.form([b'{"data":"x"}', *lines])][1:] == [
        b'{"partition_key":"k\\"","data":"first","data":"second"}\n',
        b'{"partition_key":"k\\"","data":"x", "n":12345678901234567890123}\n',
        b'{"partition_key":"k\\"" }\n',
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"a","id":"b"}',
        b'{"id":"a","x":{"id":1},"\\u0069d":"b"}',
        b'{"id":"a","id":null}',
    ],
)
def test_a_key_field_that_is_there_twice_says_nothing_certain(line: bytes) -> None:
    assert formed(Form(key_field="id"), line) == ['has the field "id" more than once']
    assert formed(Form(key_field="id"), b'{"x":{"id":1},"id":"a"}')[0]["partition_key"] == "a"


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("form", "content", "records"),
    [
        (Form(), b'{"data":"x"}', [{"data": "x"}]),
        (Form(), b"x", [{"data": "x"}]),
        (Form(is_data=True), b"x", [{"data": "x"}]),
        (Form(key_field="k"), b'{"k":"1"}', [{"data": '{"k":"1"}', "partition_key": "1"}]),
        (
            Form(is_csv=True, key_field="k"),
            b'"k",v\n1,2',
            [{"data": "1,2", "partition_key": "1"}],
        ),
    ],
)
def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_record(
    form: Form, content: bytes, records: list[Any], end: bytes
) -> None:
    lines: list[bytes | None] = [each + end[:-1] for each in content.split(b"\n")]
    for first in (MARK, MARK + end[:-1]):
        with_mark = [MARK + (lines[0] or b""), *lines[1:]] if first == MARK else [first, *lines]
        found = [result for _, result in LineFormer(form).form(with_mark)]
        assert [json.loads(each) for each in found if isinstance(each, bytes)] == records
        assert len(found) == len(records)


def test_a_second_byte_order_mark_is_data() -> None:
    text = (MARK + b"x").decode()
    assert formed(Form(), MARK + MARK + b"x", MARK + b"x") == [{"data": text}, {"data": text}]


@pytest.mark.parametrize("form", [Form(), Form(is_csv=True), Form(is_data=True), Form("k")])
@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("x,y".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "x,y".encode("utf-16-be"), "UTF-16"),
        (b"\x00\x00\xfe\xff\x00\x00\x00x", "UTF-32"),
        (gzip.compress(b"x", mtime=0).split(b"\n")[0], r"gzip data: .*\.gz"),
    ],
)
def test_an_input_in_another_encoding_is_refused_in_words(
    form: Form, first: bytes, told: str
) -> None:
    with pytest.raises(FormError, match=told):
        list(LineFormer(form).form([first]))


def test_nesting_without_end_is_data_or_a_bad_line_and_no_crash() -> None:
    deep = b"[" * 100_000
    assert formed(Form(), deep) == [{"data": deep.decode()}]
    assert formed(Form(key_field="id"), deep)[0].startswith("is not JSON: ")


def test_data_that_is_not_utf8_goes_as_base64() -> None:
    assert formed(Form(), b"\xff\x00") == [{"data_base64": base64.b64encode(b"\xff\x00").decode()}]


@given(
    data=st.binary(max_size=200).map(lambda data: data.replace(b"\xff", b"\n")),
    cuts=st.lists(st.integers(0, 200), max_size=5),
)
def test_lines_do_not_depend_on_where_reads_end(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = LineSplitter()
    found: list[bytes | None] = []
    for start, end in itertools.pairwise(edges):
        found += splitter.feed(data[start:end])
    found += splitter.finish()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    assert found == lines


def test_a_line_that_is_too_long_is_refused_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_lines, "LINE_BYTES_MAX", 10)
    splitter = LineSplitter()
    found = splitter.feed(b"a\n" + b"x" * 11) + splitter.feed(b"x" * 50)
    assert splitter.kept_bytes == 0
    found += splitter.feed(b"x\nb\n" + b"y" * 12 + b"\nz") + splitter.finish()
    assert found == [b"a", None, b"b", None, b"z"]
    assert formed(Form(), None) == ["is longer than 10 bytes"]  # type: ignore[arg-type]


# Sources


async def read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = Source(descriptor, path.name, is_gzip=path.suffix == ".gz")
        read = b"".join([piece async for piece in source.pieces()])
        assert source.read_bytes == source.size_bytes == path.stat().st_size
        return read
    finally:
        os.close(descriptor)


async def test_gzip_is_inflated_with_all_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_source, "READ_BYTES", 7)
    monkeypatch.setattr(put_source, "INFLATED_BYTES_MAX", 11)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"one" * 100) + gzip.compress(b"two") + b"\0" * 9)
    assert await read(path) == b"one" * 100 + b"two"


@pytest.mark.parametrize(
    "data", [gzip.compress(b"x" * 99, mtime=0)[:-3], gzip.compress(b"x", mtime=0)[:11], b"plain"]
)
async def test_damaged_gzip_is_an_error_that_names_the_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    with pytest.raises(put_source.SourceError, match=r"x\.gz"):
        await read(path)


async def test_a_directory_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(put_source.SourceError, match="Is a directory"):
        await read(tmp_path)


# The Unix socket

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def daemon(tmp_path: Path, talk: Talk) -> AsyncIterator[str]:
    """A stand-in for the daemon on a Unix socket; gone with its connections at the end."""
    path = str(tmp_path / "k.sock")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, path)
    async with server:
        yield path


class Recorder:
    """Acknowledges each line in order, but rejects those with `bad` in them."""

    def __init__(self) -> None:
        self.setup: Any = None
        self.lines: list[Any] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.setup = json.loads(await reader.readline())
        taken = 0
        while line := await reader.readline():
            self.lines.append(json.loads(line))
            if b"bad" in line:
                number = len(self.lines) + 1
                answer: dict[str, Any] = {"rejected": number, "code": "Bad", "message": "no"}
            else:
                taken += 1
                answer = {"acknowledged": taken}
            if self.setup["acknowledge"] != "none" or "rejected" in answer:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()


async def put_file(
    path: Path, send: Callable[[AsyncIterator[put_module.Block]], Awaitable[None]], totals: Totals
) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = Source(descriptor, path.name, is_gzip=path.suffix == ".gz")
        async with asyncio.timeout(PATIENCE_S):
            await send(form_blocks(source, LineFormer(Form()), totals))
    finally:
        os.close(descriptor)


async def put_unix(
    path: Path,
    socket: str,
    *,
    acknowledge: str = "delivered",
    totals: Totals | None = None,
) -> Totals:
    totals = totals or Totals()
    unix = UnixPut("s", acknowledge, totals, Person())
    await put_file(path, lambda blocks: unix.send(socket, blocks), totals)
    return totals


def counts(totals: Totals) -> tuple[int, int, int, int]:
    return totals.sent, totals.acknowledged, totals.rejected, totals.open


async def test_every_line_is_sent_once_in_order_and_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("".join(f"line {n}\n" for n in range(5_000)))
    recorder = Recorder()
    async with daemon(tmp_path, recorder) as socket:
        totals = await put_unix(file, socket)
    assert recorder.setup == {"stream": "s", "acknowledge": "delivered", "lines": "envelope"}
    assert [line["data"] for line in recorder.lines] == [f"line {n}" for n in range(5_000)]
    assert counts(totals) == (5_000, 5_000, 0, 0)


async def test_a_rejected_line_is_told_by_its_number_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a\n\nb\nbad 1\n\n\nc\nbad 2\nbad 3\n")
    async with daemon(tmp_path, Recorder()) as socket:
        totals = await put_unix(file, socket)
    assert counts(totals) == (6, 3, 3, 0)
    assert totals.reasons == ["line 4: Bad: no", "line 8: Bad: no", "line 9: Bad: no"]


async def test_only_the_first_reasons_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("bad\n" * 50)
    async with daemon(tmp_path, Recorder()) as socket:
        totals = await put_unix(file, socket)
    assert (totals.rejected, len(totals.reasons)) == (50, REASONS_MAX)


async def test_a_line_that_cannot_be_sent_counts_as_rejected_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_lines, "LINE_BYTES_MAX", 10)
    file = tmp_path / "x"
    file.write_text("a\n" + "x" * 11 + "\nb")
    async with daemon(tmp_path, Recorder()) as socket:
        totals = await put_unix(file, socket)
    assert counts(totals) == (2, 2, 1, 0)
    assert totals.reasons == ["line 2: is longer than 10 bytes"]


async def test_without_acknowledgement_it_ends_when_all_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_module, "OPEN_RECORDS_MAX", 3)
    file = tmp_path / "x"
    file.write_text("a\n" * 10)
    recorder = Recorder()
    async with daemon(tmp_path, recorder) as socket:
        totals = await put_unix(file, socket, acknowledge="none")
    assert (totals.sent, len(recorder.lines)) == (10, 10)


async def test_records_without_an_answer_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_module, "OPEN_RECORDS_MAX", 20)
    monkeypatch.setattr(put_module, "BLOCK_RECORDS_MAX", 10)
    file = tmp_path / "x"
    file.write_text("a\n" * 100)
    highest = 0
    totals = Totals()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal highest
        await reader.readline()
        taken = 0
        while await reader.readline():
            taken += 1
            highest = max(highest, totals.open)
            if taken % 10 == 0:
                writer.write(b'{"acknowledged": %d}\n' % taken)

    async with daemon(tmp_path, slow) as socket:
        await put_unix(file, socket, totals=totals)
    assert counts(totals) == (100, 100, 0, 0)
    assert highest == 20


async def test_answers_are_heard_while_the_input_waits(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    totals, recorder = Totals(), Recorder()
    try:
        async with daemon(tmp_path, recorder) as socket, asyncio.timeout(PATIENCE_S):
            source = Source(reading, "pipe", is_gzip=False)
            blocks = form_blocks(source, LineFormer(Form()), totals)
            sending = asyncio.create_task(
                UnixPut("s", "delivered", totals, Person()).send(socket, blocks)
            )
            os.write(writing, b"a\nb")
            await until(lambda: totals.acknowledged >= 1)
            os.close(writing)
            await sending
    finally:
        os.close(reading)
    assert source.size_bytes is None
    assert [line["data"] for line in recorder.lines] == ["a", "b"]
    assert totals.acknowledged == 2


async def test_interrupted_it_knows_what_was_sent_and_what_is_open(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.readline()
        writer.write(b'{"acknowledged": 1}\n')
        await stop.wait()

    file = tmp_path / "x"
    file.write_text("a\nb\nc\n")
    totals = Totals()
    async with daemon(tmp_path, answer_once) as socket:
        sending = asyncio.create_task(put_unix(file, socket, totals=totals))
        await until(lambda: totals.acknowledged >= 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        stop.set()
    assert counts(totals) == (3, 1, 0, 2)


async def test_a_daemon_that_goes_away_is_told_with_what_is_open(tmp_path: Path) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.readline()
        writer.write(b'{"acknowledged": 1}\n')
        await writer.drain()

    file = tmp_path / "x"
    file.write_text("a\nb\nc\n")
    totals = Totals()
    async with daemon(tmp_path, leave) as socket:
        with pytest.raises(PutError, match="closed the connection; records without an answer: 2,"):
            await put_unix(file, socket, totals=totals)
    assert totals.open == 2


async def test_a_daemon_that_goes_away_ends_it_though_the_input_waits(tmp_path: Path) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.readline()

    reading, writing = os.pipe()
    os.write(writing, b"a\n")
    totals = Totals()
    try:
        blocks = form_blocks(Source(reading, "pipe", is_gzip=False), LineFormer(Form()), totals)
        async with daemon(tmp_path, leave) as socket, asyncio.timeout(PATIENCE_S):
            with pytest.raises(PutError, match="without an answer: 1,"):
                await UnixPut("s", "delivered", totals, Person()).send(socket, blocks)
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_stream_that_the_daemon_refuses_ends_it_with_the_reason(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"rejected": 1, "code": "ResourceNotFoundException", "message": "no s"}\n')
        await writer.drain()

    file = tmp_path / "x"
    file.write_text("a\n")
    async with daemon(tmp_path, refuse) as socket:
        with pytest.raises(PutError, match="refuses: ResourceNotFoundException: no s"):
            await put_unix(file, socket)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400\n",
        b"\xff\n",
        b"x" * 100_000 + b"\n",
        b'{"a":' * 10_000 + b"\n",
        b'{"acknowledged":-1}\n',
        b'{"acknowledged":2}\n',
        b'{"acknowledged":1}\n{"acknowledged":0}\n',
        b'{"rejected":2,"code":"X"}\n' * 2,
        b'{"rejected":2,"code":"X"}\n{"acknowledged":1}\n',
    ],
)
async def test_whatever_answers_that_is_no_daemon_is_told(tmp_path: Path, answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # the setup, and a record
            await reader.readline()
        writer.write(answer)
        await reader.read()

    file = tmp_path / "x"
    file.write_text("a\n")
    async with daemon(tmp_path, other) as socket:
        with pytest.raises(PutError, match="no kdaemon"):
            await put_unix(file, socket)


async def test_without_a_daemon_the_error_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a\n")
    with pytest.raises(PutError, match=r"nobody\.sock .*start it with `kdaemon run`"):
        await put_unix(file, str(tmp_path / "nobody.sock"))


async def test_a_file_that_breaks_off_is_told_after_the_answers_for_what_was_sent(
    tmp_path: Path,
) -> None:
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(b"a\nb\nc\n")[:-4])
    totals = Totals()
    async with daemon(tmp_path, Recorder()) as socket:
        with pytest.raises(PutError, match="ends in the middle"):
            await put_unix(file, socket, totals=totals)
    assert counts(totals) == (3, 3, 0, 0)
