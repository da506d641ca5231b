"""The one place that takes records, refuses them, and counts them.

Every way in (the Kinesis API, NDJSON over HTTP, the lines of a connection) brings the records that
it read to `admit`, and renders the answer. The door finds the stream, checks its limits and
promises, and gives the records to memory or to disk. Must not know a wire form, a connection or a
call.

Invariants: each record that was brought here, or that could not be read at all (`refuse_unread`),
is received once and counted once. The client of an admitted frame is called back once. A client
that has no right to a stream (`principal`) is refused before the stream is looked for: nothing is
opened for it, and it does not learn whether the stream exists.
Where it sits: kinesis.py, ndjson.py and session.py -> here -> streams.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import RefuseReason
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import RECORD_BYTES_MAX
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Clock
from kdaemon.base.principal import ANYBODY, Principal
from kdaemon.base.record import Record
from kdaemon.base.refused import Refused
from kdaemon.door.admission import (
    CLIENT_GONE,
    DELIVERED,
    NO_ROOM,
    STORED,
    Admission,
    OnSettled,
    Pending,
    never_fits,
    said,
)
from kdaemon.door.checks import check, refuse_all
from kdaemon.door.dry_runs import DryRuns
from kdaemon.door.line_forms import Asked, form_of
from kdaemon.door.promise import check_promise
from kdaemon.door.rights import StreamRights
from kdaemon.settle.verdict import refuse_reason
from kdaemon.streams import Stream, Streams
from kdaemon.wire.limits import Put, PutLimits
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.line_shapes import Parsed

_OF_STRANGERS = frozenset({RefuseReason.UNAUTHENTICATED, RefuseReason.FORBIDDEN})


OnTaken = Callable[[Stream, Sequence[Record]], object]
"""Hears of records that were taken. It must not keep the sequence, and never raises."""


@dataclass(slots=True)
class _Bid:
    """What a client asks of the door, while it waits for word of its stream: as in `Door.admit`.
    `acknowledge`: the promise that it gets. `arrived_ns`: when it came.
    """

    spelling: str
    put: Put
    asked: Acknowledge | None
    acknowledge: Acknowledge
    on_settled: OnSettled
    client: int
    principal: Principal
    arrived_ns: int


class Door:
    """One for the daemon."""

    def __init__(self, streams: Streams, clock: Clock) -> None:
        self._streams = streams
        self._by_spelling = streams.by_spelling
        self.rights = StreamRights(streams.spellings)
        self.dry_runs = DryRuns(streams.door, self._find_certainly)
        self._clock = clock
        self.on_taken: OnTaken | None = None  # set while somebody watches the records that come in

    # Taking

    def admit(
        self,
        spelling: str,
        put: Put,
        asked: Acknowledge | None,
        on_settled: OnSettled,
        client: int,
        principal: Principal,
        *,
        is_patient: bool = False,
    ) -> Admission | Refused | None:
        """Takes records for the stream that a client calls `spelling`, or says why not.

        `asked`: the promise that the client asked for; None: the stream's own. `client`: the
        client's number, because clients take turns. `principal`: who sends the records.
        `is_patient`: the client is a connection of lines: it can wait for ever, and is not read
        while there is no room. None (only to a patient client): there is no room now, and nothing
        was counted; `when_room` says when to try again.
        """
        stream = self._by_spelling.get(spelling) if principal is ANYBODY else None
        if stream is None:
            found = self._find_for(principal, spelling)
            if isinstance(found, Refused):
                return refuse_all(self._streams.door, put, found)
            stream = found
        acknowledge = asked
        if acknowledge is None:
            acknowledge = stream.line_acknowledge if is_patient else stream.acknowledge
        if stream.inquiry.was_missing or not stream.inquiry.has_word:
            now_ns = self._clock.now_ns()
            bid = _Bid(spelling, put, asked, acknowledge, on_settled, client, principal, now_ns)
            if self._must_wait(stream, bid, is_patient=is_patient):
                return None if is_patient else self._wait_for_word(stream, bid)
        return self._admit_to(
            stream, put, asked, acknowledge, on_settled, client, is_patient=is_patient
        )

    def _admit_to(
        self,
        stream: Stream,
        put: Put,
        asked: Acknowledge | None,
        acknowledge: Acknowledge,
        on_settled: OnSettled,
        client: int,
        *,
        is_patient: bool = False,
        waited_ns: int = 0,
    ) -> Admission | Refused | None:
        """As `admit`, for a stream of which there is word. `waited_ns`: how long the client has
        waited for word.
        """
        refused = check(stream, put, asked)
        if refused is None:
            taken = self._take(
                stream,
                put,
                acknowledge,
                on_settled,
                client,
                is_patient=is_patient,
                waited_ns=waited_ns,
            )
            if self.on_taken is not None and isinstance(taken, Admission):
                self.on_taken(stream, put.records)
        else:
            taken = self._count(stream, put.sizes, refused)
        if taken is not None and put.refused_count:
            stream.refuse(RefuseReason.INVALID, put.refused_count, 0)
        return taken

    def limits_of(
        self, spelling: str, asked: Acknowledge | None, principal: Principal
    ) -> PutLimits | Refused:
        """The limits for one record of this stream; or why none is taken, at least on the promise
        `asked` (None: the stream's own). Counts nothing.
        """
        stream = self._find_for(principal, spelling)
        if isinstance(stream, Refused):
            return stream
        refused = None if asked is None else check_promise(stream, asked)
        return refused or stream.limits

    def is_waited_for(self, spelling: str, asked: Acknowledge | None, principal: Principal) -> bool:
        """Whether a connection of lines would wait until its records for this stream are
        delivered.
        """
        if asked is None:
            stream = self._find_for(principal, spelling)
            asked = stream.line_acknowledge if isinstance(stream, Stream) else None
        return asked is DELIVERED

    def has_synonyms(self, spellings: Iterable[str | None]) -> bool:
        """Whether two of these spellings mean one stream, or may. If so, the records of that stream
        are ordered by their lines, whatever each line calls it.
        """
        return not self._streams.spellings.are_distinct(
            each for each in spellings if each is not None
        )

    def is_same(self, spelling: str, other: str) -> bool:
        """Whether two spellings certainly mean one stream."""
        return self._streams.spellings.is_same(spelling, other)

    def when_room(self, spelling: str, callback: Callable[[], object]) -> None:
        """Calls back when a patient client should try `admit` again."""
        stream = self._streams.find(spelling)
        if isinstance(stream, Refused):
            callback()  # the next `admit` says why it is refused
        elif not stream.inquiry.has_word:
            stream.inquiry.when_word(callback)
        else:
            stream.when_room(callback)

    def reserve(
        self, spelling: str, byte_count: int, client: int, principal: Principal
    ) -> ByteBudget | Refused:
        """Takes memory for records that are still to be read. Returns the budget to give it back
        to, just before the records are admitted. Counts nothing.
        """
        stream = self._find_for(principal, spelling)
        if isinstance(stream, Refused):
            return stream
        buffer_bytes_max = stream.config.buffer_bytes_max
        if byte_count > buffer_bytes_max:
            return never_fits(byte_count, buffer_bytes_max)
        if not (stream.has_room(byte_count, client) and stream.memory.take(byte_count)):
            return NO_ROOM
        return stream.memory

    # Refusing

    def refuse(
        self, spelling: str | None, refused: Refused, record_count: int, byte_count: int
    ) -> None:
        """Counts records that were not brought to `admit`: because it refused others of the same
        request, or because the records may wait no longer. `spelling`: None if it is not known.
        """
        # Records of a client that has no right to the stream count at the door, not on the stream.
        known = None if refused.reason in _OF_STRANGERS else spelling
        self._refuse(known, refused.reason, record_count, byte_count)

    def refuse_unread(
        self,
        spelling: str | None,
        record_count: int,
        byte_count: int = 0,
        *,
        principal: Principal,
    ) -> None:
        """Counts records that could not be read. `spelling`: their stream, if that could be
        read.
        """
        if spelling is not None and self.rights.forbid(principal, spelling) is not None:
            spelling = None
        self._refuse(spelling, RefuseReason.INVALID, record_count, byte_count)

    def _refuse(
        self, spelling: str | None, reason: RefuseReason, record_count: int, byte_count: int
    ) -> None:
        stream = self._streams.known(spelling)
        counted_at = self._streams.door if stream is None else stream
        counted_at.refuse(reason, record_count, byte_count)

    # Asking

    def line_form(self, spelling: str, asked: Asked) -> LineForm | Refused:
        """The form in which lines for this stream are read. Counts nothing, and opens no stream."""
        return form_of(self._streams.config_of(spelling), asked, self._streams.routes)

    def note_raw(self, spelling: str, parsed: Parsed, principal: Principal) -> None:
        """Counts raw lines for this stream that named no key or no stream."""
        forbidden = self.rights.forbid(principal, spelling)
        stream = self._streams.known(spelling) if forbidden is None else None
        counters = self._streams.door if stream is None else stream.counters
        counters.lines_without_key += parsed.without_key
        counters.lines_without_stream += parsed.without_stream

    def untold_promise(self, spelling: str) -> Acknowledge:
        """The promise for records whose client gets no answer: STORED if the stream's Unix socket
        has it, else NONE.
        """
        stream = self._streams.find(spelling)
        is_stored = isinstance(stream, Stream) and stream.line_acknowledge is STORED
        return STORED if is_stored else Acknowledge.NONE

    def encryption_type(self, spelling: str) -> str:
        """What the service last said of the stream's encryption; "NONE" for a stream that is not
        open.
        """
        stream = self._by_spelling.get(spelling) or self._streams.known(spelling)
        return "NONE" if stream is None else stream.encryption_type

    # The steps

    def _find_for(self, principal: Principal, spelling: str) -> Stream | Refused:
        """The stream that this client means, if it may write to it."""
        if principal is ANYBODY:
            return self._streams.find(spelling)
        # Most rights name a stream by exactly this spelling. A spelling that begins with @ is
        # checked further: an ARN may follow the upstream's name and belong to another account, and
        # a right to all streams of an upstream is no right to that.
        if not spelling.startswith("@") and principal.rights.have(spelling):
            return self._streams.find(spelling)
        forbidden = self.rights.forbid(principal, spelling)
        if forbidden is not None:
            return forbidden
        stream = self._streams.find(spelling)
        # `_wait_for_word` checks the right again after the wait.
        if isinstance(stream, Refused) or stream.inquiry.has_arns:
            return stream
        return self.rights.forbid(principal, spelling, is_certain=True) or stream

    def _find_certainly(self, principal: Principal, spelling: str) -> Stream | Refused:
        """As `_find_for`, where a client does not wait: an ARN that may be another account's stands
        for no name.
        """
        forbidden = self.rights.forbid(principal, spelling, is_certain=True)
        return forbidden or self._streams.find(spelling)

    def _take(
        self,
        stream: Stream,
        put: Put,
        acknowledge: Acknowledge,
        on_settled: OnSettled,
        client: int,
        *,
        is_patient: bool,
        waited_ns: int,
    ) -> Admission | Refused | None:
        """Gives records to memory or to disk, on this promise. A patient client that waits for
        delivery waits for ever, any other one as long as the stream says, less `waited_ns`. None:
        there is no room now, and the client is patient.
        """
        sizes = put.sizes
        if not sizes:  # every line was refused by `check_limits`
            frame = Frame([], [], acknowledge, None)
            on_settled(frame)
            return Admission(frame, stream)
        callback, deadline_ns = on_settled, None
        if acknowledge is DELIVERED:
            refusal = stream.refusal()
            if refusal is not None:
                return self._count(stream, sizes, said(refuse_reason(refusal), refusal))
            if not is_patient:
                deadline_ns = self._clock.now_ns() + stream.deadline_ns - waited_ns
        elif acknowledge is not STORED:
            callback = stream.bury_dead_of
        frame = make_frame(put.records, sizes, acknowledge, callback, deadline_ns, client)
        if put.is_reserved:
            frame.is_reserved = True
        waits = is_patient and stream.config.when_full != "reject"
        if acknowledge is STORED:  # the client is called back after the commit
            refused = stream.store(frame)
            if refused is None:
                return Admission(frame, stream)
            if waits and refused.reason is RefuseReason.FULL:
                return None
            return self._count(stream, sizes, refused)
        if is_patient and frame.footprint_bytes > stream.config.buffer_bytes_max:
            refused = never_fits(frame.footprint_bytes, stream.config.buffer_bytes_max)
            return self._count(stream, sizes, refused)
        # The engine counts records that it takes, or refuses for lack of room.
        if not stream.submit(frame, waits):
            return None if waits else NO_ROOM
        if callback is not on_settled:
            on_settled(frame)
        return Admission(frame, stream)

    def _must_wait(self, stream: Stream, bid: _Bid, *, is_patient: bool = False) -> bool:
        """Whether a client waits for word of the stream: nothing may be promised before, or the
        stream keeps order and others wait. A patient client is told of room, in its order.
        """
        inquiry = stream.inquiry
        if inquiry.was_missing:
            stream.existence()  # a look-up that is too old no longer counts
        if inquiry.has_word:
            return False
        is_behind = stream.is_ordered and not inquiry.is_empty and not is_patient
        return is_behind or self._needs_word(stream, bid.spelling, bid.put, bid.acknowledge)

    def _wait_for_word(self, stream: Stream, bid: _Bid) -> Admission | Refused:
        """Lets records wait until the service has told of their stream, or has not answered in
        time. The service was not asked about this stream before, and nothing is promised before it
        was. The memory of the records is taken meanwhile. On a stream that keeps order, records
        that come later wait behind them.
        """
        put = bid.put
        frame = make_frame(put.records, put.sizes, bid.acknowledge, None, None)
        memory = stream.memory  # kept: a reload may give the stream another budget
        if not memory.take(frame.footprint_bytes):
            return self._count(stream, put.sizes, NO_ROOM)
        pending = Pending(frame, stream)

        def go_on() -> None:
            """The wait is over: the records are admitted, or refused after all."""
            memory.give(frame.footprint_bytes)
            if pending.is_gone:
                self.refuse(bid.spelling, CLIENT_GONE, len(put.sizes), put.byte_count)
                return
            taken = self._admit_after_wait(stream, bid)
            if isinstance(taken, Refused):
                frame.refusal = (taken.code, taken.message)
                bid.on_settled(frame)
            else:
                pending.admitted = taken

        stream.inquiry.queue(go_on)
        return pending

    def _admit_after_wait(self, stream: Stream, bid: _Bid) -> Admission | Refused | None:
        """Admits records that waited for word of this stream. The client may have used an ARN that
        turned out to be another stream's, of which there may be no word yet.
        """
        forbidden = self.rights.forbid(bid.principal, bid.spelling, is_certain=True)
        meant = forbidden or self._streams.meant(bid.spelling)
        if isinstance(meant, Refused):
            return refuse_all(self._streams.door, bid.put, meant)
        if meant is not stream:
            bid.acknowledge = bid.asked or meant.acknowledge
            if self._must_wait(meant, bid):
                return self._wait_for_word(meant, bid)
        waited_ns = self._clock.now_ns() - bid.arrived_ns
        return self._admit_to(
            meant,
            bid.put,
            bid.asked,
            bid.acknowledge,
            bid.on_settled,
            bid.client,
            waited_ns=waited_ns,
        )

    def _needs_word(
        self, stream: Stream, spelling: str, put: Put, acknowledge: Acknowledge
    ) -> bool:
        """Whether nothing may be promised before the service has told of the stream. On a stream
        that only a client has named, this holds for clients that do not wait for delivery. On any
        stream it holds for a record that is larger than most streams take, for one that has no key,
        and for a record that was sent to an ARN that may be another account's.
        """
        if acknowledge is not DELIVERED and not stream.is_listed:
            return True
        sizes = put.sizes
        is_large = sum(sizes) > RECORD_BYTES_MAX and max(sizes) > RECORD_BYTES_MAX
        return (
            is_large or put.depends_on_kind or (stream.inquiry.has_arns and spelling != stream.name)
        )

    def _count(self, stream: Stream, sizes: list[int], refused: Refused) -> Refused:
        stream.refuse(refused.reason, len(sizes), sum(sizes))
        return refused
