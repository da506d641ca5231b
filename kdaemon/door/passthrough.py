"""Operations of the Kinesis API that kdaemon does not answer itself: passed on to the service, or
refused.

Knows requests and the door. Must not know how a call is signed, paced or shared (`send/relay.py`
does). No record comes this way, and nothing is counted as a record.
Invariant: every request is answered once, with the service's own answer or with a refusal that says
what to do. A question is withdrawn if its client has gone.
Where it sits: kinesis.py hands over requests whose operation is known; the answer is written here.
The service is asked in JSON, and the client is answered in the encoding that it used
(`passed_on_cbor.py`).
"""

from collections.abc import Mapping
from functools import partial

import msgspec

from kdaemon.base.counters import NotPassedOn, RefuseReason
from kdaemon.base.errors import ServiceError
from kdaemon.base.operations import OtherOperation, operation_problem
from kdaemon.base.principal import Principal
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.door.door import Door
from kdaemon.http.answer import Headers
from kdaemon.http.request import CBOR_ALONE, NO_HEADERS, HttpRequest
from kdaemon.http.turns import soon, work_in_turns
from kdaemon.send.relay import Outcome, Question, Relay
from kdaemon.send.relayed import Relayed
from kdaemon.send.trails import Trail
from kdaemon.settle.verdict import INTERNAL, UNAVAILABLE
from kdaemon.wire.envelope import encoding_of
from kdaemon.wire.passed_on import Asked, read_asked, renamed
from kdaemon.wire.passed_on_cbor import UNWRITABLE, cbor_of, json_of
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse, render


class Passthrough:
    """One for the daemon. `relays`: by the name of their upstream."""

    def __init__(
        self, door: Door, relays: Mapping[str, Relay], default: str, *, is_stream_name_free: bool
    ) -> None:
        """`default`: the upstream that is asked if a request names no stream. Clients call the
        streams of this upstream by their plain names, so the names in its answer can be used as
        they are. `is_stream_name_free`: as in `PutLimits`.
        """
        self._rights = door.rights
        self._relays = relays
        self._default = relays[default]
        self._is_stream_name_free = is_stream_name_free

    def handle(self, request: HttpRequest, operation: OtherOperation, headers: Headers) -> None:
        """Takes one request; answers now, or when the service has answered. `headers`: for the
        answer.
        """
        encoding = encoding_of(request.headers)
        # Counts until the request's upstream is known.
        counters = self._default.counters_of(operation)
        if not self._default.allows(operation):
            counters.requests += 1
            counters.refused[NotPassedOn.NOT_ALLOWED] += 1
            refusal = not_passed_on(operation.name, self._default.operations)
            _refuse(request, refusal, headers, encoding)
            return
        try:
            body = json_of(request.body) if encoding is Encoding.CBOR else request.body
            asked = read_asked(body, is_stream_name_free=self._is_stream_name_free)
        except ApiError as error:
            counters.requests += 1
            counters.refused[NotPassedOn.INVALID] += 1
            _refuse(request, error.refusal, headers, encoding)
            return
        self._ask(request, operation, asked, body, headers, encoding)

    def note_stranger(self, operation: OtherOperation) -> None:
        """Counts a request that was refused because its sender is unknown."""
        counters = self._default.counters_of(operation)
        counters.requests += 1
        counters.refused[NotPassedOn.UNAUTHENTICATED] += 1

    def _ask(
        self,
        request: HttpRequest,
        operation: OtherOperation,
        asked: Asked,
        body: bytes,
        headers: Headers,
        encoding: Encoding,
    ) -> None:
        refused = self._why_not(request.principal, operation, asked)
        relay, called = self._default, None
        if refused is None:
            place = self._rights.place_of(asked.spellings)
            if isinstance(place, Refused):
                refused = place
            elif place is not None:
                relay, called = self._relays[place.upstream], place.name
            else:
                trails = (self._trail_of(operation, token) for token in asked.tokens)
                relay = next((found[0] for found in trails if found is not None), relay)
        counters = relay.counters_of(operation)
        counters.requests += 1
        if refused is not None:
            counters.refused[NotPassedOn.STREAM] += 1
            _refuse(request, refuse(refused.code, refused.message), headers, encoding)
            return
        request.drop_body()
        request.headers = CBOR_ALONE if encoding is Encoding.CBOR else NO_HEADERS
        if called is not None and called not in asked.spellings:
            asked, body = renamed(asked, body, called)
        question = Question(
            operation, asked.canonical, body, asked.arn, asked.tokens, asked.spellings
        )
        asker = relay.ask(
            question, request.client, partial(self._answer, request, headers, encoding)
        )
        if asker.is_waiting:
            request.on_gone = asker.leave

    def _trail_of(self, operation: OtherOperation, token: str) -> tuple[Relay, Trail] | None:
        """The relay whose answer gave the token, and what is known about the token."""
        for relay in self._relays.values():
            trail = relay.trail_of(operation, token)
            if trail is not None:
                return relay, trail
        return None

    def _why_not(
        self, principal: Principal, operation: OtherOperation, asked: Asked
    ) -> Refused | None:
        """Why this client may not ask this; None: it may. A client that may write to some streams
        only may ask about these streams alone. It must name them by name, by ARN, or by a token
        that this daemon passed on for them.
        """
        rights = self._rights
        if not principal.rights.are_all:
            if not (operation.is_of_stream and asked.is_plain):
                return rights.refusal_to_list(principal, operation.name)
            for token in asked.tokens:
                found = self._trail_of(operation, token)
                if found is None or not found[1].spellings:
                    return _forgotten(operation)
                refused = rights.refusal_to_go_on(found[1].spellings, principal, operation.name)
                if refused is not None:
                    return refused
        if asked.spellings or asked.tokens:
            return rights.refusal_to_look(asked.spellings, principal, operation.name)
        return rights.refusal_to_list(principal, operation.name)

    def _answer(
        self, request: HttpRequest, headers: Headers, encoding: Encoding, outcome: Outcome
    ) -> None:
        """Answers the client with what the service said, or with why it said nothing. If writing
        the answer fails, the client still gets an answer.
        """
        try:
            self._tell(request, headers, encoding, outcome)
        except Exception:
            request.fail()
            raise

    def _tell(
        self, request: HttpRequest, headers: Headers, encoding: Encoding, outcome: Outcome
    ) -> None:
        if isinstance(outcome, ServiceError):
            refusal = refuse(outcome.code, outcome.message, status=outcome.status)
            _refuse(request, refusal, headers, encoding)
            return
        given = {name.lower() for name, _ in outcome.headers}
        ours = tuple(each for each in headers if each[0].lower() not in given)
        headers = (*outcome.headers, *ours)
        if encoding is Encoding.JSON:
            request.respond(outcome.status, outcome.body, headers=headers)
        elif outcome.status != 200:
            _refuse(request, _refusal_in(outcome), headers, encoding)
        else:
            work_in_turns(request, _write_cbor(request, outcome.body, headers), soon)


def not_passed_on(name: str, allowed: tuple[str, ...]) -> Refusal:
    """Refuses an operation that the configuration does not allow, or cannot allow."""
    passes = f"passes on {', '.join(allowed)}" if allowed else "passes on nothing else"
    problem = operation_problem(name)
    remedy = f"To allow {name}, add it to listen.operations_passed_on."
    if problem is not None:
        remedy = f"{problem}: ask the service itself."
    text = f"kdaemon delivers records: it answers PutRecord and PutRecords, and {passes}. {remedy}"
    return refuse("UnknownOperationException", text)


def _forgotten(operation: OtherOperation) -> Refused:
    """Refuses a token whose stream is not known. The error code makes SDKs and consumers start
    over.
    """
    what, anew = "NextToken has expired", "list anew"
    if operation.is_read:
        what, anew = "Iterator expired", "get a new iterator"
    text = (
        f"{what}, or was not given by this kdaemon since it started: {anew}. Who may not write to"
        " all streams goes on from what kdaemon knows the stream of."
    )
    return Refused(RefuseReason.FORBIDDEN, operation.expired_code, text, is_permanent=True)


def _write_cbor(request: HttpRequest, answer: bytes, headers: Headers) -> Steps[None]:
    try:
        body = yield from cbor_of(answer)
    except UNWRITABLE:
        text = "The service's answer cannot be written in CBOR: it has a value of another form."
        _refuse(request, refuse(UNAVAILABLE, text), headers, Encoding.CBOR)
        return
    request.respond(200, body, content_type=Encoding.CBOR.value, headers=headers)


def _refusal_in(relayed: Relayed) -> Refusal:
    """The service's refusal, read from its JSON, to be written in CBOR."""
    members = msgspec.json.decode(relayed.body, type=dict[str, object])
    code = members.get("__type") or members.get("code") or INTERNAL
    text = members.get("message") or members.get("Message")
    return refuse(str(code), None if text is None else str(text), status=relayed.status)


def _refuse(request: HttpRequest, refusal: Refusal, headers: Headers, encoding: Encoding) -> None:
    status, body, content_type = render(refusal, encoding)
    request.respond(status, body, content_type=content_type, headers=headers)
