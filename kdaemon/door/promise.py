"""Acknowledgements: how a client asks for one, and how its answer names one. Pure."""

from typing import Final

from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Acknowledge
from kdaemon.base.refused import Refused
from kdaemon.streams import Stream

ACKNOWLEDGE_HEADER: Final = b"x-kdaemon-acknowledge"
"""In a request: the acknowledgement that this request asks for. In the answer of a success: the
promise on which its records were taken."""

_WORDS = {each.value.encode(): each for each in Acknowledge}

SAID: Final = {
    each: b"\r\n%b: %b" % (ACKNOWLEDGE_HEADER, each.value.encode()) for each in Acknowledge
} | {Acknowledge.NONE: b"\r\n%b: accepted" % ACKNOWLEDGE_HEADER}
"""The answer's header, by promise, as a line of HTTP/1.1 behind a line end. HTTP always answers, so
it calls `none` `accepted`."""


_BY_STRENGTH = (Acknowledge.NONE, Acknowledge.ACCEPTED, Acknowledge.STORED, Acknowledge.DELIVERED)


def weaker(one: Acknowledge | None, other: Acknowledge) -> Acknowledge:
    """The weaker of two promises: the one that holds for all records that were taken on either.
    `one`: None while no promise was given.
    """
    return other if one is None else min(one, other, key=_BY_STRENGTH.index)


NO_SPOOL = Refused(
    RefuseReason.SPOOL,
    "InvalidArgumentException",
    "There is no spool to store in: ask for another acknowledgement, or set spool.directory in"
    " kdaemon's configuration.",
    is_permanent=True,
)


def read_acknowledge(headers: dict[bytes, bytes]) -> Acknowledge | Refused | None:
    """The acknowledgement that a request asks for. None: it asks for none in particular."""
    text = headers.get(ACKNOWLEDGE_HEADER)
    if text is None:
        return None
    word = _WORDS.get(text.strip().lower())
    if word is not None:
        return word
    return Refused(
        RefuseReason.INVALID,
        "InvalidArgumentException",
        "X-Kdaemon-Acknowledge must be delivered, stored, accepted or none.",
        is_permanent=True,
    )


def check_promise(stream: Stream, asked: Acknowledge) -> Refused | None:
    """Refuses a promise that this stream cannot give; None: it can. `stored` needs a spool. A
    stream that keeps order has one path, through the disk or through memory alone, and takes no
    promise of the other path.
    """
    if asked is Acknowledge.STORED and not stream.has_spool:
        return NO_SPOOL
    is_stored = stream.acknowledge is Acknowledge.STORED
    if stream.config.ordering == "none" or (asked is Acknowledge.STORED) is is_stored:
        return None
    ways = '"stored"' if is_stored else '"delivered", "accepted" or "none"'
    remedy = '"delivered" or "accepted"' if is_stored else '"stored"'
    return Refused(
        RefuseReason.INVALID,
        "InvalidArgumentException",
        f'The acknowledgement "{asked.value}" was asked for, and this stream keeps the order of'
        f' each partition key (ordering = "{stream.config.ordering}"), where a record in memory'
        f" could overtake an older one on disk. Ask for {ways}, or leave the choice out; or"
        f" set acknowledge = {remedy} for all records of the stream in kdaemon's configuration.",
        is_permanent=True,
    )
