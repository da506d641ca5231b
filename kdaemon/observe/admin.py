"""The admin pages: metrics, probes and status, on a listener of their own.

About: which path gives what. Knows paths and statuses. The contents come from metrics.py,
heartbeat.py, status.py, config_page.py and live.py; slices.py makes the pages that take long.
Nothing here changes the daemon, and no page shows data or secrets. Pages for people only are loaded
at their first request: a daemon that nobody looks at saves a megabyte.
Invariant: `/livez` depends on the loop alone, never on the service: an outage of the service must
not restart a fleet. `/readyz` may say no: for memory, for example, but never for the service.
Flow: http/connection.py -> here -> back, in one call for the small pages.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kdaemon.base.ports import Clock
from kdaemon.http.request import HttpRequest
from kdaemon.observe.heartbeat import NS_PER_SECOND, Heartbeat
from kdaemon.observe.metrics import Metrics, accepts_openmetrics
from kdaemon.observe.readiness import Readiness
from kdaemon.observe.reading import Reader
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.slices import JSON, TEXT, Page, SlicedPages, Steps

if TYPE_CHECKING:  # see above
    from kdaemon.observe.live import Ahead, Live

INDEX = b"""kdaemon

A browser sees a live page here.

/metrics   Prometheus text, or OpenMetrics where the Accept header asks for it
/livez     200 while the event loop turns
/readyz    200 while clients should come; 503 with the reason: starting, draining, memory is full
/statusz   JSON for people: what is held up, and why
/configz   JSON: which configuration is in force, and what became of the last reload
/configz/effective  JSON: each setting of it, without secrets, and who gave the value
/events    server-sent events, one a second: what the live page draws
"""
_TAP = b"/tap       a sample of the records that a stream takes: ?stream=NAME (listen.admin_tap)\n"

_ALLOW = (b"Allow", b"GET, HEAD")


class Looks(Protocol):
    """The page `/tap`, as tap.py makes it."""

    def ask(self, request: HttpRequest) -> None: ...

    def close(self) -> None: ...


class Admin:
    """An `HttpHandler`: `handle`."""

    def __init__(
        self,
        metrics: Metrics,
        reader: Reader,
        readiness: Readiness,
        heartbeat: Heartbeat,
        clock: Clock,
        reloads: Reloads,
        taps: Looks | None = None,
        *,
        shows_keys: bool = False,
        ahead: "Ahead | None" = None,
    ) -> None:
        """`taps`: None: there is no page `/tap`. `shows_keys`: the keys of hot shards are shown as
        text; otherwise as hashes. `ahead`: see `Live`.
        """
        self._ahead = ahead
        self._reader = reader
        self._reloads = reloads
        self._shows_keys = shows_keys
        self._taps = taps
        self._opened: Live | None = None
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._clock = clock
        index = INDEX if taps is None else INDEX + _TAP
        paths = (line.split()[0].decode() for line in index.splitlines() if line[:1] == b"/")
        self._paths = ("/", *paths)
        self._small: dict[str, Callable[[], Page]] = {
            "/": lambda: Page(200, index),
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/configz": lambda: Page(200, reloads.told(), JSON),
        }
        self._large = SlicedPages(
            clock,
            {
                "/metrics": metrics.plain,
                "/metrics as OpenMetrics": metrics.openmetrics,
                "/statusz": self._statusz,
                "/configz/effective": self._effective,
            },
        )

    def handle(self, request: HttpRequest) -> None:
        """Answers at once; a large page when it is made. A HEAD is answered as a GET, and the
        listener drops the body.
        """
        path = request.path
        if path not in self._paths:
            body = b"No such page. There are: %b\n" % " ".join(self._paths).encode()
            request.respond(404, body, content_type=TEXT)
        elif request.method not in {"GET", "HEAD"}:
            body = b"Pages are read with GET; nothing is changed here.\n"
            request.respond(405, body, content_type=TEXT, headers=(_ALLOW,))
        elif path == "/" and b"text/html" in request.headers.get(b"accept", b"").lower():
            self.live.page.give(request)
        elif path == "/events":
            self.live.ask(request)
        elif path == "/tap" and self._taps is not None:
            self._taps.ask(request)
        elif path in self._small:
            self._small[path]().give(request)
        else:
            accept = request.headers.get(b"accept", b"").decode("latin-1")
            is_openmetrics = path == "/metrics" and accepts_openmetrics(accept)
            self._large.ask(path + " as OpenMetrics" * is_openmetrics, request)

    def close(self) -> None:
        """Stops making pages, and ends the answers that wait for one."""
        self._large.close()
        if self._opened is not None:
            self._opened.close()
        if self._taps is not None:
            self._taps.close()

    def show_keys(self, *, is_on: bool) -> None:
        """On: keys of hot shards are shown as text from now on. Off: as hashes."""
        self._shows_keys = is_on
        if self._opened is not None:
            self._opened.shows_keys = is_on

    @property
    def live(self) -> "Live":
        """The live page, and all clients that watch it."""
        if self._opened is None:
            from kdaemon.observe.live import Live  # noqa: PLC0415 - see above

            self._opened = Live(
                self._reader, self._clock, shows_keys=self._shows_keys, ahead=self._ahead
            )
        return self._opened

    def _statusz(self) -> Steps:
        from kdaemon.observe.status import status_steps  # noqa: PLC0415 - see above

        return status_steps(self._reader, shows_keys=self._shows_keys)

    def _effective(self) -> Steps:
        from kdaemon.observe.config_page import config_steps  # noqa: PLC0415 - see above

        return config_steps(self._reloads.loaded, self._reloads.generation)

    def _livez(self) -> Page:
        now_ns = self._clock.now_ns()
        if self._heartbeat.is_alive(now_ns):
            return Page(200, b"ok\n")
        age_s = self._heartbeat.age_ns(now_ns) / NS_PER_SECOND
        return Page(503, b"the event loop stood still for %.1f s\n" % age_s)

    def _readyz(self) -> Page:
        reason = self._readiness.why_not()
        return Page(200, b"ok\n") if reason is None else Page(503, reason.encode() + b"\n")
