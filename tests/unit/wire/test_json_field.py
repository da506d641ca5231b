"""Looking a field up: the text's own value, or none where the name is not certainly there once."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.field_path import parse_field_path
from kdaemon.wire.json_field import COLONS_MAX, field_at


def look_up(path: str, *lines: bytes) -> list[str | None]:
    return field_at(parse_field_path(path)).find(lines, b"\n".join(lines))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b'{"id":"a"}', "a"),
        (b' { "x" : [ 1 , { "id" : 2 } ] , "id" : "a b" } ', "a b"),
        (b'{"id":1.0}', "1.0"),
        (b'{"id":1}', "1"),
        (b'{"id":-0e+5}', "-0e+5"),
        (b'{"id":' + b"9" * 300 + b"}", "9" * 300),
        (b'{"id":true}', "true"),
        (b'{"id":""}', ""),
        ('{"id":"é\\u00e9\\n"}'.encode(), "éé\n"),
        (b'{"id":"\\u0000"}', "\0"),
        (b'{"id":"\\ud83d\\ude00"}', "😀"),
        (b'{"i\\u0064":"a"}', "a"),  # however the name is written
        (b'{"x":"\xff","id":"a"}', "a"),  # what is not looked at may be anything
        (b'{"id":"a","x":{"id":1,"id":2}}', "a"),
        (b'{"id":"a","x":"\\"id\\":1"}', "a"),
        (b'{"\\u0041":1,"id":"a"}', "a"),
        (b'{"\xe8\\u0041":1,"id":"a"}', "a"),  # a name that is no text
        (b'{"\xe8":1,"i\\u0064":1,"id":"a"}', None),
        # none
        (b"", None),
        (b"{}", None),
        (b'{"ID":"a"}', None),
        (b'{"id":null}', None),
        (b'{"id":{"id":1}}', None),
        (b'{"id":["a"]}', None),
        (b'["id"]', None),
        (b'"id"', None),
        (b'{"id":"\xff"}', None),
        (b'{"id":"\\ud800"}', None),
        (b'{"id":"a"', None),
        (b'{"id":"a"} x', None),
        (b'{"id":01}', None),
        (b'{"id":NaN}', None),
        (b"\xff\xfe\0", None),
        (b'{"id":' + b"[" * 100_000, None),
        (b'{"x":' + b'{"x":' * 100_000, None),
        # twice, or not certainly once
        (b'{"x\\"id":1,"id":"a"}', None),
        (b'{"x":{"id":1},"x":2,"id":"a"}', None),
        (b'{"\xe8":{"id":1},"id":"a"}', None),
        (b'{"id":"a","id":"a"}', None),
        (b'{"id":"a","i\\u0064":"b"}', None),
        (b'{"i\\u0064":"a","\\u0069d":"b"}', None),
        (b'{"id":{"x":1},"id":"a"}', None),
        (b'{"id":null,"id":"a"}', None),
    ],
)
def test_a_value_is_the_texts_own_or_there_is_none(line: bytes, value: str | None) -> None:
    assert look_up("id", line) == [value]
    # Whatever else is in the block.
    others = [b'{"id":"1"}', b"no JSON", b'{"i\\u0064":2,"id":3}', b'{"x":{"id":1},"id":"4"}']
    assert look_up("id", *others[:2], line, *others[2:]) == ["1", None, value, None, "4"]


@pytest.mark.parametrize(
    ("path", "line", "value"),
    [
        ("user.id", b'{"user":{"id":"u"}}', "u"),
        ("user.id", b'{"id":1,"user":{"name":"id","id":"u"},"x":{"user":{"id":3}}}', "u"),
        ("user.id", b'{"user":{"id":"u"},"user":{"id":"v"}}', None),
        ("user.id", b'{"user":{"id":"u","id":"v"}}', None),
        ("user.id", b'{"user":"u"}', None),
        ("user.id", b'{"user":[{"id":"u"}]}', None),
        ("user.id", b'{"user.id":"u"}', None),
        (r"user\.id", b'{"user.id":"u","user":{"id":"v"}}', "u"),
        ("a/b", b'{"a\\/b":"u"}', "u"),
        ("a/b", b'{"a/b":"u","a\\/b":"v"}', None),
        ("имя", '{"имя":"u"}'.encode(), "u"),
        ("имя", json.dumps({"имя": "u", "другое": {"имя": 1}}).encode(), "u"),
        ("имя", '{"имя":"u","\\u0438мя":"v"}'.encode(), None),
        ("a.b.c.d.e.f.g.h", b'{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":7}}}}}}}}', "7"),
    ],
)
def test_a_path_leads_through_objects(path: str, line: bytes, value: str | None) -> None:
    assert look_up(path, line) == [value]
    assert look_up(path, b"{}", line, b'{"user":3}') == [None, value, None]


@pytest.mark.parametrize(
    "text", ["a..b", ".a", "a.", ".", "a\\", "a\\b", "\ud800", "a" * 257, "a\0b", 'a"b', "a\\\\.b"]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a path of at most 8 names"):
        parse_field_path(text)


def test_a_path_has_eight_names_at_most() -> None:
    assert len(parse_field_path("a.b.c.d.e.f.g.h")) == 8
    with pytest.raises(ValueError):
        parse_field_path("a.b.c.d.e.f.g.h.i")


def test_an_object_that_is_too_large_to_be_sure_of_has_no_value() -> None:
    many = b",".join(b'"k%d":0' % n for n in range(COLONS_MAX))
    assert look_up("id", b'{"id":1,%b}' % many) == ["1"]  # its name is there once
    assert look_up("id", b'{"id":1,"x":{"id":2},%b}' % many) == [None]


class Members(list):  # type: ignore[type-arg]
    """An object as it is written, whose names may repeat."""


NAMES = st.sampled_from(["id", "user", "a.b", "a/b", "é", '"', "\\", "i", "", "x\ny"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), NAMES)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(NAMES, inner), max_size=4).map(Members)
    ),
    max_leaves=8,
)


def write(value: object, spell: bool) -> str:
    if isinstance(value, Members):
        return "{" + ",".join(f"{quote(n, spell)}:{write(v, spell)}" for n, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(each, spell) for each in value) + "]"
    return quote(value, spell) if isinstance(value, str) else json.dumps(value)


def quote(text: str, spell: bool) -> str:
    if spell:
        return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0xD800 else "?" for c in text) + '"'
    return json.dumps(text, ensure_ascii=False)


def expected(value: object, names: tuple[str, ...]) -> str | None:
    for name in names:
        if not isinstance(value, Members):
            return None
        found = [inner for other, inner in value if other == name]
        if len(found) != 1:
            return None
        value = found[0]
    if value is None or isinstance(value, list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


@given(
    st.lists(st.tuples(VALUES, st.booleans()), min_size=1, max_size=4),
    st.lists(
        NAMES.filter(lambda name: name and not set(name) & set('"\\\n')), min_size=1, max_size=3
    ),
)
def test_any_json_has_the_value_that_plain_reading_finds(
    values: list[tuple[object, bool]], names: list[str]
) -> None:
    lines, wanted = [], []
    for value, spell in values:
        try:
            lines.append(write(value, spell).encode())
        except UnicodeEncodeError:
            continue
        wanted.append(expected(json.loads(lines[-1], object_pairs_hook=Members), tuple(names)))
    for line, found, value in zip(
        lines, field_at(tuple(names)).find(lines, b"\n".join(lines)), wanted, strict=True
    ):
        assert found == value or (
            found is None and is_odd(json.loads(line, object_pairs_hook=Members))
        )


def is_odd(value: object) -> bool:
    """An object in it has a member twice, or a name with a quote in it."""
    if isinstance(value, Members):
        names = [name for name, _ in value]
        is_so = len(set(names)) < len(names) or any('"' in name for name in names)
        return is_so or any(is_odd(inner) for _, inner in value)
    return isinstance(value, list) and any(map(is_odd, value))


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_no_bytes_make_it_raise(lines: list[bytes]) -> None:
    lines = [b'{"id":' + line for line in lines] + lines
    assert len(look_up("id.id", *lines)) == len(lines)


def test_a_hostile_line_costs_little_for_its_size() -> None:
    """Ten mebibytes of the worst: a loose bound, that a quadratic look-up would break by far."""
    size = 10 * 1024 * 1024
    for piece in (b'"id":{},', b'"id\\u0041":0,', b'"a":[[[[[[]]]]]],', b'"":0,'):
        line = b"{" + piece * (size // len(piece)) + b'"id":1}'
        started = time.process_time()
        look_up("id", line)
        assert time.process_time() - started < 2
