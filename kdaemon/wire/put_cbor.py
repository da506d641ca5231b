"""The bodies of PutRecord and PutRecords in CBOR. Pure.

The other encoding of `put.py`: the same members give the same request or the same refusal, since
both fill `shapes.py`, are explained by `explain.py` and checked by `measured.py`. Records that are
laid out as SDKs lay them out are read in a loop of few instructions; any other body is read to
plain values (`cbor.py`, which bounds them), which are converted and checked by type.

Invariant: nothing of a refused request is taken; a body is read at most twice.
Where it sits: `forms.py` has it in its table.

As in JSON, a member that is there twice is refused, and data may be a text of base64.
"""

from io import BytesIO
from typing import NamedTuple, TypeVar

import msgspec

from kdaemon.base.limits import RECORDS_PER_CALL_MAX
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps, at_once
from kdaemon.wire import cbor
from kdaemon.wire.envelope import AT_ONCE_BYTES_MAX
from kdaemon.wire.explain import explain_value, reason_of
from kdaemon.wire.limits import PutLimits, PutRequest, error_of
from kdaemon.wire.measured import (
    check,
    members_of,
    request_of,
    single_request_of,
    with_empty_key,
    with_empty_keys,
)
from kdaemon.wire.refusals import ApiError, Encoding, api_error, repeated
from kdaemon.wire.shapes import Head, OpenPutRecord, OpenPutRecords

W = TypeVar("W", OpenPutRecord, OpenPutRecords)


def parse_put_records(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecords request. Raises ApiError; nothing of it is taken then."""
    return at_once(read_put_records(body, limits))


def read_put_records(body: bytes, limits: PutLimits) -> Steps[PutRequest]:
    """As `parse_put_records`, in steps if the body is large."""
    is_large = len(body) > AT_ONCE_BYTES_MAX
    try:
        ordinary = _read_ordinary(body)
        if is_large:
            yield
        if ordinary is not None:
            request, hash_keys = ordinary
        else:
            found, repeated = _read_any(body, OpenPutRecords, limits)
            if is_large:
                yield
            wire = with_empty_keys(found)
            hash_keys = [record.explicit_hash_key for record in wire.Records]
            keys = [record.partition_key for record in wire.Records]
            request = request_of(wire, "".join(keys), keys.count(""), limits)
            _refuse_repeat(request, repeated)
        check(request, limits, hash_keys)
    except ApiError as error:
        error.encoding = Encoding.CBOR
        raise
    return request


def parse_put_record(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecord request. Raises ApiError."""
    return at_once(read_put_record(body, limits))


def read_put_record(body: bytes, limits: PutLimits) -> Steps[PutRequest]:
    """As `parse_put_record`, in steps if the body is large."""
    try:
        found, repeated = _read_any(body, OpenPutRecord, limits)
        if len(body) > AT_ONCE_BYTES_MAX:
            yield
        wire = with_empty_key(found)
        request = single_request_of(members_of(wire), limits)
        _refuse_repeat(request, repeated)
        hash_key = wire.ExplicitHashKey
        check(request, limits, () if hash_key is None else (hash_key,))
    except ApiError as error:
        error.encoding = Encoding.CBOR
        raise
    return request


# --- bodies as SDKs write them


class _Layout(NamedTuple):
    """How records with data and key follow each other.

    `begin`: before the head of the first record's data; `end`: after its key. `data_heads`: the end
    of one record, the begin of the next and the first byte of the data's head -> the data's length;
    or, negative, the number of bytes of that length.
    """

    begin: bytes
    end: bytes
    data_heads: dict[bytes, int]


def _layout(begin: bytes, end: bytes) -> _Layout:
    begin += cbor.text("Data")
    return _Layout(begin, end, _heads(end + begin, 0x40, 4))


def _heads(before: bytes, kind: int, width_max: int) -> dict[bytes, int]:
    """`before`, with the first byte of a string's head -> the string's length; or, negative, the
    number of bytes of that length.
    """
    short = {before + bytes((kind + length,)): length for length in range(24)}
    long = {1: 0x18, 2: 0x19, 4: 0x1A}
    return short | {
        before + bytes((kind + info,)): -width for width, info in long.items() if width <= width_max
    }


_LAYOUTS = (
    _layout(b"\xbf", b"\xff"),  # the AWS SDKs for Java, v1 and v2: maps end with a break
    _layout(b"\xa2", b""),  # maps with their length
)
_KEY_HEADS = _heads(cbor.text("PartitionKey"), 0x60, 1)  # longer keys may be too long
del _KEY_HEADS[cbor.text("PartitionKey") + b"\x60"]  # an empty key counts as none
_KEY_HEAD_BYTES = len(cbor.text("PartitionKey")) + 1
_HASH_KEY = cbor.text("ExplicitHashKey")  # longer than a key's head, so it is read in two parts
_HASH_KEY_START = _HASH_KEY[:_KEY_HEAD_BYTES]
_HASH_KEY_HEADS = _heads(_HASH_KEY[_KEY_HEAD_BYTES:], 0x60, 1)
_HASH_KEY_HEAD_BYTES = len(_HASH_KEY) - _KEY_HEAD_BYTES + 1


class _Rows(NamedTuple):
    """Records and the bytes of each (data and key in UTF-8), as the wire says. `hash_keys`: one for
    each record, or an empty list.
    """

    records: list[Record]
    sizes: list[int]
    hash_keys: list[str | None]


def _read_ordinary(body: bytes) -> tuple[PutRequest, list[str | None]] | None:
    """A request whose records all have data and key in the layout of SDKs, and its hash keys, if
    there are any. None: its layout is another, or it is no request. Raises ApiError for no CBOR.
    """
    rows: _Rows | None = None
    members: dict[str, object] = {}
    try:
        reader = cbor.Reader(body)
        major, count = reader.read_head()
        if major != cbor.MAP:
            return None
        done = 0
        while not reader.ends(count, done):
            done += 1
            name = reader.read_name()
            if name in members or (name == "Records" and rows is not None):
                return None
            if name != "Records":
                members[name] = reader.read(1)
                continue
            rows = _read_rows(reader)
            if rows is None:
                return None
        reader.end()
        if rows is None:
            return None
        head = msgspec.convert(members, Head)
    except (UnicodeDecodeError, IndexError, msgspec.ValidationError):
        return None
    except cbor.CborError as error:
        text = error.text
    else:
        records, sizes, hash_keys = rows
        is_dry_run = head.DryRun is True
        request = PutRequest(
            head.StreamName, head.StreamARN, records, sizes, sum(sizes), is_dry_run
        )
        return request, hash_keys
    # The error gets no name here: it refers to this stack frame, and so to the body.
    raise api_error("SerializationException", text)


def _read_rows(reader: cbor.Reader) -> _Rows | None:
    """The value of `Records`, up to its end. None: a record has another layout, or there are too
    many. Raises IndexError and UnicodeDecodeError for some other bodies.
    """
    major, count = reader.read_head()
    if major != cbor.LIST:
        return None
    at, body = reader.at, reader.body
    layout = next((each for each in _LAYOUTS if body.startswith(each.begin, at)), None)
    if layout is None:
        return None
    begin, end, data_heads = layout
    rest = BytesIO(body)
    rest.seek(at)
    read, width = rest.read, len(begin) + len(end) + 1
    key_head_bytes = _KEY_HEAD_BYTES
    size_of_data, size_of_key = data_heads.get, _KEY_HEADS.get
    rows = _Rows([], [], [])
    add, add_size = rows.records.append, rows.sizes.append
    key, key_size = b"", 0
    hash_key, has_hash_keys = None, False
    found = end + read(len(begin) + 1)
    for _ in range(RECORDS_PER_CALL_MAX):
        size = size_of_data(found)
        if size is None:
            break
        if size < 0:
            size = read(1)[0] if size == -1 else int.from_bytes(read(-size))
        data = read(size)
        name = read(key_head_bytes)
        key_size = size_of_key(name, 0)
        # Else the map's length counts its members.
        if not key_size and name == _HASH_KEY_START and end:
            hash_key = _read_hash_key(rest)
            if hash_key is None:
                return None
            has_hash_keys = True
            key_size = size_of_key(read(key_head_bytes), 0)
        if key_size < 0:
            key_size = read(1)[0]
        if not key_size:  # there is no key, or the data was cut off
            return None
        key = read(key_size)
        add(Record(data, key.decode(), hash_key))
        hash_key = None
        add_size(size + key_size)
        found = read(width)
    if not key or len(key) != key_size or not found.startswith(end):
        return None  # the last key was cut off; another one has a record after it
    if has_hash_keys:
        rows.hash_keys.extend([record.explicit_hash_key for record in rows.records])
    reader.at = rest.tell() - len(found) + len(end)
    is_whole = reader.ends(count, len(rows.records)) and count in (len(rows.records), cbor.OPEN)
    return rows if is_whole else None


def _read_hash_key(rest: BytesIO) -> str | None:
    """The value of an ExplicitHashKey, after the start of its name. None: it is no short text. One
    that is cut off has no member after it.
    """
    size = _HASH_KEY_HEADS.get(rest.read(_HASH_KEY_HEAD_BYTES))
    if size is None:
        return None
    return rest.read(rest.read(1)[0] if size < 0 else size).decode()


# --- bodies of any other form


def _read_any(body: bytes, shape: type[W], limits: PutLimits) -> tuple[W, str | None]:
    """Any request, and the member that is there twice, if there is one. Raises ApiError."""
    is_single = shape is OpenPutRecord
    text = ""
    try:
        value = cbor.decode(body)
    except cbor.CborError as error:
        text = error.text
    if text:
        raise api_error("SerializationException", text)
    try:
        return msgspec.convert(value, shape), _repeated(value, is_single=is_single)
    except msgspec.ValidationError as error:
        reason = reason_of(error)
    raise explain_value(
        value,
        reason,
        len(body),
        is_single=is_single,
        is_stream_name_free=limits.is_stream_name_free,
    )


def _repeated(value: object, *, is_single: bool) -> str | None:
    """The member that a request or one of its records names twice; None: there is none."""
    assert isinstance(value, dict), "it was converted"
    objects = [value] if is_single else [value, *value["Records"]]
    return next((each.name for each in objects if isinstance(each, cbor.Repeating)), None)


def _refuse_repeat(request: PutRequest, name: str | None) -> None:
    if name is not None:
        raise error_of(request, api_error("SerializationException", repeated(name)))
