"""Makes a service's answer to a client's own call fit to be passed on: status, body, a few headers.

Knows HTTP answers and secrets; must not know what operations say, who asked, or how often.
`client.py` uses it; `relay.py` passes the result on.
Invariant: nothing of the daemon's credentials leaves here, and no header but those of HEADERS. The
body is passed on byte for byte, unless it is an error's and has, or may hide, a secret. A success
that repeats a secret is not passed on at all.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.base.redact import SECRETS
from kdaemon.send import answers
from kdaemon.send.arriving import Headers

HEADERS: Final = (
    "x-amzn-RequestId",  # the service's support finds a call by it
    "x-amz-id-2",
    "x-amzn-ErrorType",
    "x-amz-retry-after",  # SDKs wait this long
    "Retry-After",
)
_VALUE: Final = re.compile(
    r"[A-Za-z0-9+/=_.:, #-]{1,256}"
)  # ours: of such a header, to be repeated
_HIDES: Final = re.compile(rb"\\[u/]")  # an escape of a character that a secret can have
SLICE_BYTES: Final = MIB  # of a body: searched in one turn of the loop, 1 ms; ours
MESSAGE_CHARACTERS_MAX: Final = 4_000  # of an error that had to be cleaned; ours

_is_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Relayed:
    """The answer that the client gets."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def relayed_success(operation: str, body: bytes, headers: Headers) -> Relayed:
    """The answer for a 200. Raises `ServiceError` if it is no JSON object: not the service's."""
    plain = body
    if len(body) <= SLICE_BYTES:
        is_one = _is_json_object(body)
        if is_one and _HIDES.search(body):
            plain = msgspec.json.encode(msgspec.json.decode(body))
    else:  # parsing it would take longer than a turn of the loop may
        is_one = body[:1] == b"{" and body[-1:] == b"}"
    if not is_one:
        raise answers.no_answer(operation, body, headers)
    for at in range(0, len(plain), SLICE_BYTES):
        if at:
            await asyncio.sleep(0)
        if SECRETS.are_in(plain[at : at + SLICE_BYTES + SECRETS.bytes_max]):
            raise ServiceError(
                Trouble.FOREIGN, f"the {operation} answer repeats kdaemon's credentials", status=200
            )
    return Relayed(200, body, _kept(headers))


def relayed_error(error: ServiceError, body: bytes, headers: Headers) -> Relayed:
    """The answer for a refusal or a failure with a type of the service's. `error`: as it
    was read.
    """
    try:
        members = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        members = {}  # the type is in a header
    if not members:
        body = msgspec.json.encode({"__type": error.code, "message": error.message})
        return Relayed(error.status, body, _kept(headers))
    # Escapes may hide a secret; so may a member that is there twice.
    if _HIDES.search(body):
        body = msgspec.json.encode(members)
    plain = body.decode()
    if len(plain) > answers.TEXT_CHARACTERS_MAX or SECRETS.clean(plain) != plain:
        member = "Message" if "Message" in members else "message"
        kept = {}
        for name, length in (("__type", 100), ("code", 100), (member, MESSAGE_CHARACTERS_MAX)):
            value = members.get(name)
            if isinstance(value, str):
                kept[name] = SECRETS.clean(value)[:length]
        body = msgspec.json.encode(kept)
    return Relayed(error.status, body, _kept(headers))


def _is_json_object(body: bytes) -> bool:
    try:
        _is_object(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _kept(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    found = ((name, headers.get(name, "")) for name in HEADERS)
    return tuple(
        (name.encode(), value.encode())
        for name, value in found
        if _VALUE.fullmatch(value) and SECRETS.clean(value) == value
    )
