"""Reads the body of a request that is passed on to the service, no further than needed. Pure.

Only the service decides what a body means: members that are not known here are passed on as they
came. Here the body is bounded, must be JSON with one meaning, and is asked for its stream, because
the stream decides where the request goes and who may ask. Knows no stream's state and no answer.
Invariant: time and memory are in proportion to a body of at most BODY_BYTES_MAX; lengths are
checked before patterns; bodies with one `canonical` mean the same (numbers beyond 64 bits as
doubles).
Where it sits: `envelope.py` -> door/passthrough.py: read_asked -> send/relay.py.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from kdaemon.base.limits import KIB
from kdaemon.base.names import ARN_CHARACTERS_MAX, parse_arn
from kdaemon.base.operations import ARN_MEMBERS, ID_MEMBER, TOKEN_MEMBERS
from kdaemon.wire.explain import UNREADABLE, reason_of, stream_problems
from kdaemon.wire.refusals import ApiError, api_error, repeated, validation_error

BODY_BYTES_MAX = 64 * KIB
"""Ours, 2026-11-28: the longest usual member, an iterator, takes 0.5 KiB; a token may have 1 MiB
[M], but none of more than a few KiB was ever seen."""

_decode = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


class Asked(NamedTuple):
    """`canonical`: the members in one form. `spellings`: all names of streams in the body; two of
    them are one stream, or the service will refuse. `arn`: of the stream, if the ARN of the stream
    or of a part of it is given; it decides where the call goes. `tokens`: from earlier answers, to
    go on from there; a token may stand for the stream. `is_plain`: nothing else says what is meant:
    no ARN outside streams, and no id.
    """

    canonical: bytes
    spellings: tuple[str, ...]
    arn: str | None
    tokens: tuple[str, ...]
    is_plain: bool


class _RepeatedError(Exception):
    """A member is there twice."""


def read_asked(body: bytes, *, is_stream_name_free: bool) -> Asked:
    """Reads a body. Raises ApiError. `is_stream_name_free`: names are paths."""
    if not body:
        raise unread("The request has no body.")
    if len(body) > BODY_BYTES_MAX:
        text = f"The body of this operation may have {BODY_BYTES_MAX} bytes; it has {len(body)}."
        raise unread(text)
    try:
        members = _decode(body)
        json.loads(
            body, object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=str
        )
    except UNREADABLE as error:
        reason = reason_of(error)
    except _RepeatedError as error:
        raise unread(repeated(str(error))) from None
    else:
        name, given = _text(members, "StreamName"), _text(members, "StreamARN")
        if name is not None or given is not None:
            _check_names(name, given, is_stream_name_free=is_stream_name_free)
        arns, is_plain = _arns(members)
        spellings = dict.fromkeys(each for each in (name, given, *arns) if each is not None)
        tokens = [_text(members, member) for member in TOKEN_MEMBERS]
        return Asked(
            _encode(members),
            tuple(spellings),
            arns[0] if arns else None,
            tuple(each for each in tokens if each is not None),
            is_plain and members.get(ID_MEMBER) is None,
        )
    raise unread(f"The body cannot be read as a JSON object: {reason}.")


def renamed(asked: Asked, body: bytes, name: str) -> tuple[Asked, bytes]:
    """The same request, with the stream's name or ARN at the service: the client's name for the
    stream need not be the service's.
    """
    members = _decode(body)
    members.pop("StreamARN", None)
    members.pop("StreamName", None)
    is_arn = parse_arn(name) is not None
    members["StreamARN" if is_arn else "StreamName"] = name
    encoded = _encode(members)
    return asked._replace(canonical=encoded, arn=name if is_arn else None), encoded


def _check_names(name: str | None, arn: str | None, *, is_stream_name_free: bool) -> None:
    problems = list(stream_problems(name, arn, is_stream_name_free=is_stream_name_free))
    if problems:
        error = validation_error(problems)
        error.record_count = 0
        raise error


def _arns(members: Mapping[str, object]) -> tuple[list[str], bool]:
    """The ARNs of streams; from a consumer's ARN, that of its stream. ARNs of other things are left
    out (a channel's, for example); the second value is whether there was none of these.
    """
    found, are_all = [], True
    for member in ARN_MEMBERS:
        text = _text(members, member)
        if text is None:
            continue
        is_short = len(text) <= ARN_CHARACTERS_MAX
        arn = parse_arn("/".join(text.split("/", 2)[:2])) if is_short else None
        if arn is None:
            are_all = False
        else:
            found.append(arn.text)
    return found, are_all


def _text(members: Mapping[str, object], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise unread(f"{name} must be a string.")
    return value


def unread(text: str) -> ApiError:
    """A body that cannot be read. It has no records."""
    return api_error("SerializationException", text, record_count=0)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RepeatedError(name)
            seen.add(name)
    return found
