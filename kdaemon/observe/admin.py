"""The admin pages: metrics, probes and status, behind `serve_http`.

About: which path gives what. Knows paths and statuses; what they say comes from metrics.py,
heartbeat.py and status.py. Nothing here changes the daemon, and nothing shows data or secrets.
Invariant: `/livez` depends on the loop alone, never on the service: an outage of the service must
not restart a fleet (`/readyz` may say no, and does so for memory, not for the service).
Flow: http.py -> here -> http.py, in one call.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kdaemon.base.ports import Clock
from kdaemon.http.request import HttpRequest
from kdaemon.observe.heartbeat import NS, Heartbeat
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.status import Readiness, Status

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"

INDEX = b"""kdaemon

/metrics   Prometheus text, or OpenMetrics where the Accept header asks for it
/livez     200 while the event loop turns
/readyz    200 while clients should come; 503 with the reason: starting, draining, memory is full
/statusz   JSON for people: what is held up, and why
"""

_NO_STORE = (b"Cache-Control", b"no-store")  # each page is of this moment
_ALLOW = (b"Allow", b"GET, HEAD")


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    body: bytes
    content_type: bytes = TEXT


class Admin:
    """An `HttpHandler`: pass its `handle` to `serve_http`."""

    def __init__(
        self,
        metrics: Metrics,
        status: Status,
        readiness: Readiness,
        heartbeat: Heartbeat,
        clock: Clock,
    ) -> None:
        self._metrics = metrics
        self._status = status
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._clock = clock
        self._pages: dict[str, Callable[[HttpRequest], Page]] = {
            "/": lambda _: Page(200, INDEX),
            "/metrics": self._metrics_page,
            "/livez": lambda _: self._livez(),
            "/readyz": lambda _: self._readyz(),
            "/statusz": lambda _: Page(200, self._status.render(), JSON),
        }

    def handle(self, request: HttpRequest) -> None:
        """Answers at once. A HEAD is answered as its GET, and the listener drops the body."""
        make = self._pages.get(request.path)
        if make is None:
            body = b"No such page. There are: %b\n" % " ".join(self._pages).encode()
            request.respond(404, body, content_type=TEXT)
        elif request.method not in {"GET", "HEAD"}:
            body = b"Pages are read with GET; nothing is changed here.\n"
            request.respond(405, body, content_type=TEXT, headers=(_ALLOW,))
        else:
            page = make(request)
            request.respond(
                page.status, page.body, content_type=page.content_type, headers=(_NO_STORE,)
            )

    def _metrics_page(self, request: HttpRequest) -> Page:
        accept = request.headers.get(b"accept", b"").decode("latin-1")
        body, content_type = self._metrics.render(accept)
        return Page(200, body, content_type.encode())

    def _livez(self) -> Page:
        now_ns = self._clock.now_ns()
        if self._heartbeat.is_alive(now_ns):
            return Page(200, b"ok\n")
        age_s = self._heartbeat.age_ns(now_ns) / NS
        return Page(503, b"the event loop stood still for %.1f s\n" % age_s)

    def _readyz(self) -> Page:
        reason = self._readiness.why_not()
        return Page(200, b"ok\n") if reason is None else Page(503, reason.encode() + b"\n")
