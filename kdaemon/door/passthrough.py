"""Operations of the Kinesis API that kdaemon does not answer itself: passed on, or refused.

Knows requests and the door; must not know how a call is signed, paced or shared (`send/relay.py`).
No record comes this way, and nothing is counted as one.
Invariant: every request is answered once, by the service's own word or by a refusal that says what
to do; a client that has gone is waited for no longer.
Where it sits: kinesis.py hands requests over, whose operation is known; an answer is rendered here.
An encoding other than JSON is to be undone in `_ask` and done in `_answer`, and nowhere else.
"""

from functools import partial

from kdaemon.base.counters import NotPassedOn
from kdaemon.base.errors import ServiceError
from kdaemon.base.operations import OtherOperation, operation_problem
from kdaemon.base.service import Service
from kdaemon.door.door import Door
from kdaemon.http.request import Headers, HttpRequest
from kdaemon.send.relay import Outcome, Question, Relay
from kdaemon.wire.passed_on import read_asked
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse, render


class Passthrough:
    """One for the daemon."""

    def __init__(self, door: Door, relay: Relay, service: Service) -> None:
        self._door = door
        self._relay = relay
        self._service = service

    def handle(self, request: HttpRequest, operation: OtherOperation, headers: Headers) -> None:
        """Takes one request; answers now, or when the service has. `headers`: of our answer."""
        counters = self._relay.counters_of(operation)
        counters.requests += 1
        if not self._relay.allows(operation):
            counters.refused[NotPassedOn.NOT_ALLOWED] += 1
            _refuse(request, not_passed_on(operation.name, self._relay.operations), headers)
            return
        try:
            self._ask(request, operation, headers)
        except ApiError as error:
            counters.refused[NotPassedOn.INVALID] += 1
            _refuse(request, error.refusal, headers)

    def _ask(self, request: HttpRequest, operation: OtherOperation, headers: Headers) -> None:
        body = request.body
        asked = read_asked(body, is_stream_name_free=not self._service.has_arns)
        refused = self._door.refusal_to_look(asked.spellings)
        if refused is not None:
            self._relay.counters_of(operation).refused[NotPassedOn.STREAM] += 1
            _refuse(request, refuse(refused.code, refused.message), headers)
            return
        request.drop_body()
        request.headers = {}
        question = Question(operation, asked.canonical, body, asked.arn, asked.token)
        asker = self._relay.ask(question, request.client, partial(self._answer, request, headers))
        if asker.is_waiting:
            request.on_gone = asker.leave

    def _answer(self, request: HttpRequest, headers: Headers, outcome: Outcome) -> None:
        """The service has answered, or will not."""
        if isinstance(outcome, ServiceError):
            refusal = refuse(outcome.code, outcome.message, status=outcome.status)
            _refuse(request, refusal, headers)
            return
        given = {name.lower() for name, _ in outcome.headers}
        ours = tuple(each for each in headers if each[0].lower() not in given)
        request.respond(outcome.status, outcome.body, headers=(*outcome.headers, *ours))


def not_passed_on(name: str, allowed: tuple[str, ...]) -> Refusal:
    """An operation that the configuration does not name, or cannot."""
    passes = f"passes on {', '.join(allowed)}" if allowed else "passes on nothing else"
    problem = operation_problem(name)
    remedy = f"To allow {name}, add it to listen.operations_passed_on."
    if problem is not None:
        remedy = f"{problem}: ask the service itself."
    text = f"kdaemon delivers records: it answers PutRecord and PutRecords, and {passes}. {remedy}"
    return refuse("UnknownOperationException", text)


def _refuse(request: HttpRequest, refusal: Refusal, headers: Headers) -> None:
    status, body, content_type = render(refusal, Encoding.JSON)
    request.respond(status, body, content_type=content_type, headers=headers)
