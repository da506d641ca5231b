"""The sandbox over HTTP: what a Kinesis client sees on 127.0.0.1:4567.

Passes each request to `wire.py` or `scripting.py`, and carries out the faults below the meaning of
HTTP: delays, resets, hangs, garbled bodies. Decides nothing itself; knows nothing of streams.

If the service stalls an answer until there is quota, a timer gives the answer then. A subscription
is answered in pieces (`push.py`), for as long as it lasts.

Invariant: every request is answered once, or aborted, or (a hang) left open until the client or
`aclose` ends it. The listener's bounds (`http/connection.py`) and the service's apply.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from kdaemon.base.errors import ServiceError
from kdaemon.base.ports import Clock
from kdaemon.base.steps import Steps, at_once
from kdaemon.http.answer import headers_of
from kdaemon.http.certificate import TlsFiles
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import bind_tcp
from kdaemon.http.origin import gate_of
from kdaemon.http.renewal import Certificates
from kdaemon.http.request import HttpRequest
from kdaemon.http.server import ConnectionServer
from kdaemon.http.turns import soon, work_in_turns
from kdaemon.sandbox import scripting
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.push import Push
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.wire import Call, Reply, encoding_of, read_call, refusal
from kdaemon.wire.envelope import AT_ONCE_BYTES_MAX, AnswerHeaders
from kdaemon.wire.refusals import ApiError

HOST = "127.0.0.1"
PORT = 4567  # where Kinesis emulators listen by custom (kinesalite, kinesis-mock)

GOODBYE_S = 1.0  # for the last event of subscriptions when the sandbox ends; ours, 2026-11-28
# Yandex's proxy answers it to any client, whatever the method [YS: `http_service.cpp`].
PING = "/ping"

UNPARSABLE = b'{"FailedRecordCount":0,"Records":[{"Sequ'  # a body cut off in the middle

# Kinds without an answer of the service: the fault's `is_written` says whether the call did work.
_ENDINGS = (FaultKind.RESET, FaultKind.HANG, FaultKind.UNPARSABLE_BODY, FaultKind.EMPTY_BODY)


class WallClock(Clock, Protocol):
    """A monotonic clock that also knows the date."""

    def wall_seconds(self) -> float:
        """Seconds since 1970."""
        ...


class SandboxServer:
    """One listener over one `Service`: `await start()`, then `port`, at last `await aclose()`."""

    def __init__(
        self,
        service: Service,
        clock: WallClock,
        limits: ConnectionLimits | None = None,
        *,
        request_id_prefix: int = 0,
    ) -> None:
        self.service = service
        self._clock = clock
        self._limits = limits or ConnectionLimits()
        self._headers = AnswerHeaders(request_id_prefix)
        self._http: ConnectionServer | None = None
        self._certificates: Certificates | None = None
        self._delayed: set[asyncio.TimerHandle] = set()
        self.pushes: set[Push] = set()

    @property
    def port(self) -> int:
        """The port in use. Raises RuntimeError before `start`."""
        if self._http is None:
            raise RuntimeError("the sandbox is not started")
        port: int = self._http.port
        return port

    async def start(
        self,
        host: str = HOST,
        port: int = PORT,
        hosts: tuple[str, ...] = (),
        files: TlsFiles | None = None,
    ) -> None:
        """Listens (`port` 0: the system chooses). `hosts`: names by which clients may call the
        sandbox, beside its address. `files`: with them it speaks TLS. Raises OSError, TlsError.
        """
        wall_ns = int(self._clock.wall_seconds() * 1_000_000_000)
        self.service.set_wall_offset_ns(wall_ns - self._clock.now_ns())
        tls = None
        if files is not None:
            self._certificates = Certificates(files, self._clock.wall_seconds)
            self._certificates.start()
            tls = Handshakes(self._certificates.context, self._clock.now_ns)
        gate = gate_of(host, hosts)
        hub = Hub(self._limits, gate=gate, now_ns=self._clock.now_ns, tls=tls)
        self._http = ConnectionServer(bind_tcp(host, port), self.on_request, hub)
        await self._http.start()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stops listening; drops delayed answers and hung connections. Subscriptions get a moment
        to end as clients expect. A second call does nothing.
        """
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()
        if self._certificates is not None:
            self._certificates.stop()
        http, self._http = self._http, None
        if http is not None:
            await http.aclose(max(grace_s, GOODBYE_S) if self.pushes else grace_s)

    def on_request(self, request: HttpRequest) -> None:
        """Takes a request: a call of the sandbox's own is answered at once; a call of the service
        at once or, if its body is large, after some turns of the loop.
        """
        if request.path.startswith(scripting.PREFIX):
            status, body = scripting.answer(
                self.service, request.method, request.path, request.body, self._clock.now_ns()
            )
            request.respond(status, body, content_type=scripting.JSON)
            return
        if self.service.is_yandex and request.path.lower() == PING:
            request.respond(200, b"")
            return
        if len(request.body) > AT_ONCE_BYTES_MAX:
            work_in_turns(request, self._serve(request), soon)
        else:
            at_once(self._serve(request))

    def _serve(self, request: HttpRequest) -> Steps[None]:
        """Answers a call of the service, now or later."""
        try:
            call = yield from read_call(
                self.service, request.method, request.path, request.headers, request.body
            )
            now_ns = self._clock.now_ns()
            fault = self.service.next_fault(call.operation, call.stream)
            if fault is not None:
                self._carry_out(request, call, fault, now_ns)
                return
            reply = call.perform(now_ns, None)
        except (ServiceError, ApiError) as error:
            reply = self._refusal(request, error)
        now_ns = self._clock.now_ns()
        if reply.stalled_until_ns > now_ns:
            stalled_s = (reply.stalled_until_ns - now_ns) / 1_000_000_000
            self._later(stalled_s, lambda: self._respond(request, reply))
        else:
            self._respond(request, reply)

    def _respond(self, request: HttpRequest, reply: Reply) -> None:
        headers = headers_of(self._headers.next())
        if self.service.is_yandex and b"x-request-id" in request.headers:
            (name, value), *rest = headers
            headers = ((name, value + b"-" + request.headers[b"x-request-id"]), *rest)
        if reply.feed is None:
            request.respond(
                reply.status, reply.body, content_type=reply.content_type, headers=headers
            )
            return
        push = Push(reply.feed, self._clock, self.pushes.discard)
        self.pushes.add(push)
        push.begin(request, headers)

    def _refusal(self, request: HttpRequest, error: ServiceError | ApiError) -> Reply:
        """The answer for an error, in the request's own encoding."""
        return refusal(error, encoding=encoding_of(self.service, request.headers))

    def _carry_out(self, request: HttpRequest, call: Call, fault: Fault, now_ns: int) -> None:
        """Does as much of the call as the fault allows. The request ends as the fault says, perhaps
        later.
        """
        reply = Reply(200, b"")
        try:
            if fault.kind not in _ENDINGS:
                reply = call.perform(now_ns, fault)
            elif fault.is_written:
                call.perform(now_ns, None)
        except (ServiceError, ApiError) as error:
            reply = self._refusal(request, error)
        stalled_s = max(0, reply.stalled_until_ns - now_ns) / 1_000_000_000
        if fault.kind is FaultKind.UNPARSABLE_BODY:
            reply = Reply(200, UNPARSABLE, encoding_of(self.service, request.headers).value)
        elif fault.kind is FaultKind.EMPTY_BODY:
            reply = Reply(200, b"", encoding_of(self.service, request.headers).value)

        def end() -> None:
            if fault.kind is FaultKind.RESET:
                request.abort()
            elif fault.kind is not FaultKind.HANG:
                self._respond(request, reply)

        delay_s = stalled_s + fault.latency_ms / 1000
        if delay_s:
            self._later(delay_s, end)
        else:
            end()

    def _later(self, delay_s: float, end: Callable[[], object]) -> None:
        def run() -> None:
            self._delayed.discard(handle)
            end()

        handle = asyncio.get_running_loop().call_later(delay_s, run)
        self._delayed.add(handle)
