"""What `kdaemon put --csv` takes for a record: what a CSV reader does, with its own text."""

import asyncio
import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdaemon.put import lines as put_lines
from kdaemon.put.lines import BadLine, Form, FormError, LineFormer, LineSplitter
from kdaemon.put.source import Source
from kdaemon.put.unix import PutError, form_blocks
from kdaemon.put.waiting import Totals

CSV = Form(is_csv=True)
KEYED = Form(is_csv=True, key_field="name")


def formed(form: Form, content: bytes) -> list[tuple[int, Any]]:
    """(line, record or why not) of a whole file."""
    splitter, former = LineSplitter(), LineFormer(form)
    found = [*former.form(splitter.feed(content)), *former.form(splitter.finish())]
    found += former.finish()
    return [
        (number, str(each) if isinstance(each, BadLine) else json.loads(each))
        for number, each in found
    ]


def test_a_quoted_field_may_span_lines_and_the_record_is_one_with_its_own_text() -> None:
    content = b'id,name\r\nk1,"two\r\nlines,of ""text""\n\nand more"\r\nk2,x\r\n\r\nk3,y'
    assert formed(KEYED, content) == [
        (
            2,
            {
                "data": 'k1,"two\r\nlines,of ""text""\n\nand more"',
                "partition_key": 'two\r\nlines,of "text"\n\nand more',
            },
        ),
        (6, {"data": "k2,x", "partition_key": "x"}),
        (8, {"data": "k3,y", "partition_key": "y"}),
    ]


def test_the_key_comes_from_a_column_and_the_header_is_not_sent() -> None:
    content = b'\xef\xbb\xbfid,"na\nme"\n1,"a, ""b"""\n2,\n3\n,x'
    assert formed(Form(is_csv=True, key_field="na\nme"), content) == [
        (3, {"data": '1,"a, ""b"""', "partition_key": 'a, "b"'}),
        (4, {"data": "2,"}),
        (5, "has 1 columns; the header has 2"),
        (6, {"data": ",x", "partition_key": "x"}),
    ]


def test_a_record_with_other_columns_than_the_header_is_refused_with_all_its_lines() -> None:
    assert formed(CSV, b'a,b\n1,2,3\n"x\ny\nz"\n4,5\n') == [
        (2, "has 3 columns; the header has 2"),
        (3, "to 5: the record has 1 columns; the header has 2"),
        (6, {"data": "4,5"}),
    ]


def test_a_quote_that_the_end_of_the_file_leaves_open_is_no_record() -> None:
    assert formed(CSV, b'a,b\n1,2\n3,"four\nfive,six\n') == [
        (2, {"data": "1,2"}),
        (3, "opens a quote that is not closed by line 4, the last one"),
    ]
    with pytest.raises(FormError, match="the header opens a quote"):
        formed(CSV, b'a,"b\n1,2\n')


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b'1,"a"b', r"line 3 is not CSV: "),
        (b'1,"a\nb"c', r"line 4 \(its record begins in line 3\) is not CSV: "),
        (b"1,a\rb", r"line 3 is not CSV: "),
    ],
)
def test_where_the_next_record_begins_cannot_be_told_nothing_more_is_sent(
    bad: bytes, told: str
) -> None:
    former = LineFormer(CSV)
    lines: list[bytes | None] = [b"a,b", b"1,2", *bad.split(b"\n"), b'x",y']
    assert [number for number, _ in former.form(lines[:2])] == [2]
    with pytest.raises(FormError, match=told + ".*nothing from there on is sent"):
        list(former.form(lines[2:]))


@pytest.mark.parametrize(
    ("form", "content", "told"),
    [
        (KEYED, b"id,key\n1,2\n", 'no column "name"; the header has: id, key'),
        (KEYED, b"name,name\n1,2\n", 'more than one column "name"'),
        (KEYED, b"id,na\rme\n1,2\n", "line 1 is not CSV"),
        (KEYED, b",".join([b"column"] * 9000) + b"\n1", r"\.\.\. \(9000 columns\)$"),
    ],
)
def test_a_header_that_says_nothing_certain_of_the_key_ends_it(
    form: Form, content: bytes, told: str
) -> None:
    with pytest.raises(FormError, match=told) as error:
        formed(form, content)
    assert len(str(error.value)) < 500


def test_a_key_that_is_no_text_is_a_bad_record_and_data_goes_as_base64() -> None:
    assert formed(KEYED, b"id,name\n\xff,x\n1,\xff\n") == [
        (2, {"data_base64": "/yx4", "partition_key": "x"}),
        (3, "has a key that is not UTF-8"),
    ]


def test_a_field_may_be_as_long_as_a_record() -> None:
    long = b"x" * 1_000_000
    content = b'a,name\n1,"' + long + b'\n"\n'
    ((_, record),) = formed(Form(is_csv=True, key_field="a"), content)
    assert len(record["data"]) == 1_000_005


def test_what_is_too_long_is_refused_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_lines, "LINE_BYTES_MAX", 30)
    content = b'a,b\n1,"' + b"x,y\n" * 200 + b'"\n3,4\n'
    former, splitter = LineFormer(CSV), LineSplitter()
    found = list(former.form(splitter.feed(content[:500])))
    assert former.held == 0
    found += former.form(splitter.feed(content[500:]))
    assert [(number, str(each)) for number, each in found if isinstance(each, BadLine)] == [
        (2, "to 202: the record is longer than 30 bytes")
    ]
    assert json.loads(found[1][1]) == {"data": "3,4"}  # type: ignore[arg-type]
    with pytest.raises(FormError, match="line 2 is longer than 30 bytes"):
        formed(CSV, b"a,b\n" + b"x" * 31 + b"\n1,2\n")


def a_csv(line_end: str) -> st.SearchStrategy[list[list[str]]]:
    fields = st.text(st.sampled_from(f'ab", {line_end}é'), max_size=6)
    return st.integers(1, 3).flatmap(
        lambda columns: st.lists(
            st.lists(fields, min_size=columns, max_size=columns), min_size=1, max_size=6
        )
    )


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@given(data=st.data(), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_what_a_csv_writer_wrote_is_read_record_for_record(
    line_end: str, data: st.DataObject, cuts: list[int]
) -> None:
    rows = data.draw(a_csv(line_end))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(["name", *"xy"[: len(rows[0]) - 1]])
    spans = []
    for row in rows:
        start = text.tell()
        writer.writerow(row)
        spans.append((start, text.tell() - len(line_end)))
    written = text.getvalue()
    content = written.encode()
    splitter, former = LineSplitter(), LineFormer(KEYED)
    found: list[tuple[int, Any]] = []
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for at in range(len(edges) - 1):
        found += former.form(splitter.feed(content[edges[at] : edges[at + 1]]))
    found += former.form(splitter.finish())
    assert list(former.finish()) == []
    assert [json.loads(each) for _, each in found] == [
        {"data": written[start:end]} | ({"partition_key": row[0]} if row[0] else {})
        for row, (start, end) in zip(rows, spans, strict=True)
    ]


@given(text=st.text(st.sampled_from('ab",\r\n '), max_size=40))
@example('"\r\n"')
@example('a"b\n"c""\n",')
def test_any_text_is_read_as_the_csv_module_reads_it_or_not_at_all(text: str) -> None:
    """Fields, up to where the csv module gives up too: no record of our own making."""
    expected: list[list[str]] = []
    is_csv = True
    try:
        lines = io.StringIO(f"name,b\n{text}", newline="\n")
        expected += [row for row in csv.reader(lines, strict=True) if row]
    except csv.Error:
        is_csv = False
    former, splitter = LineFormer(KEYED), LineSplitter()
    found: list[tuple[int, Any]] = []
    try:
        found += former.form(splitter.feed(f"name,b\n{text}".encode()))
        found += former.form(splitter.finish())
        is_whole = not list(former.finish())
    except FormError:
        is_whole = False
    assert is_whole == is_csv
    if is_csv:
        keys = [row[0] for row in expected[1:] if len(row) == 2]
        sent = [json.loads(each) for _, each in found if isinstance(each, bytes)]
        assert [record.get("partition_key", "") for record in sent] == keys
        assert len(found) == len(expected) - 1


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_what_was_read_before_a_record_without_an_end_is_sent(tmp_path: Path, name: str) -> None:
    content = b'\xef\xbb\xbfname,b\n1,2\n3,"4\n5"\n6,"7"8\n9,10\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    descriptor = os.open(path, os.O_RDONLY)
    totals, numbers = Totals(), []

    async def read() -> None:
        source = Source(descriptor, name, is_gzip=name.endswith(".gz"))
        async for block in form_blocks(source, LineFormer(KEYED), totals):
            numbers.extend(block.numbers)

    try:
        with pytest.raises(PutError, match="line 5 is not CSV"):
            asyncio.run(read())
    finally:
        os.close(descriptor)
    assert (numbers, totals.rejected) == ([2, 3], 0)
