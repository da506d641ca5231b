"""The certificate that a process serves with now: the pair for new handshakes, and its renewal.

About: when the files have changed, and which pair is used. Knows a clock and files. Must not know a
connection.
Invariants: a new pair that cannot be used, or of which one half is still old, changes nothing: the
old pair stays in use. Each change of the files is tried until the files can be read, and then once.
A connection keeps the pair with which it began. The loop waits for no disk, and wakes for this only
at its common tick.
Where it sits: daemon/ starts it; handshakes.py takes `context` from it; observe/ reads the rest.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from kdaemon.base.errors import TlsError
from kdaemon.base.text import printable
from kdaemon.base.ticks import next_tick_s
from kdaemon.http.certificate import Pair, TlsFiles, load_pair

log = logging.getLogger("kdaemon.http")

LOOK_INTERVAL_S = 1.0
DAY_S = 86_400
SHOWN_CHARACTERS_MAX = 300  # of a path in a log line

_Signature = tuple[object, ...]
_UNREAD: _Signature = ()  # with this, the next look reads the files again
_Look = tuple[_Signature, Pair | TlsError | None]
"""The state of the files, and their content; None: unchanged since the look before."""


def files_of(settings: "TlsSettings", table: str) -> TlsFiles | None:
    """The files that a table of the configuration names; None: it sets no TLS."""
    if not settings.tls_certificate:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, table)


class TlsSettings(Protocol):
    """A table of the configuration. An empty text: no such file."""

    @property
    def tls_certificate(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def tls_client_ca(self) -> str: ...


def look_over(settings: TlsSettings, table: str, now_s: float) -> tuple[list[str], list[str]]:
    """Checks the files without serving: (problems, warnings)."""
    files = files_of(settings, table)
    if files is None:
        return [], []
    try:
        pair = load_pair(files)
    except TlsError as error:
        return [str(error)], []
    return _said_of(pair, files, now_s)


def _said_of(pair: Pair, files: TlsFiles, now_s: float) -> tuple[list[str], list[str]]:
    """(Why clients that check certificates refuse the pair; other warnings.)"""
    path = printable(files.certificate, SHOWN_CHARACTERS_MAX)
    where = f"{files.table}.tls_certificate: {path}"
    soon = pair.expires_soon(now_s)
    said = [f"{where} {soon}"] if soon else []
    if pair.concern is not None:
        said.append(pair.concern)
    return [f"{where} {fault}" for fault in pair.faults(now_s)], said


class Certificates:
    """Made at the start (reads the files), then `start` in the loop, at the end `stop`."""

    def __init__(self, files: TlsFiles, wall_s: Callable[[], float]) -> None:
        """Reads the files. Raises TlsError."""
        self.files = files
        self.reloads = 0
        self.failures = 0  # changes of the files that could not be used
        # Why the files as they are now are not used; None: they are used.
        self.trouble: str | None = None
        self._wall_s = wall_s
        self._signature = _signature(files)
        self._pair = load_pair(files)
        self._executor = ThreadPoolExecutor(1, "certificate")
        self._look: Future[_Look] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told_day = 0
        self._tell(self._pair)

    def context(self) -> ssl.SSLContext:
        """For a handshake that begins now."""
        return self._pair.context

    @property
    def expires_s(self) -> float:
        """The end of the certificate, in seconds since 1970."""
        return self._pair.ends_s

    @property
    def faults(self) -> list[str]:
        """Why clients that check certificates refuse the served one now."""
        return list(self._pair.faults(self._wall_s()))

    def start(self) -> None:
        """Plans the next look, at the common tick."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(next_tick_s(loop.time(), LOOK_INTERVAL_S), self._on_timer)

    def stop(self) -> None:
        """Ends the looks. A look that still waits for a disk is left to its thread. A second call
        does nothing.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _on_timer(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """Takes the result of the last look, and starts another. The look waits for the disk in a
        thread that does not wake the loop: its result is taken a tick later.
        """
        if int(self._wall_s() // DAY_S) != self._told_day:  # once a day, as the end may be near
            self._tell(self._pair)
        if self._look is None or self._look.done():
            look, self._look = self._look, None
            if look is not None:
                self._take(*look.result())
            self._look = self._executor.submit(_look_at, self.files, self._signature)

    @property
    def is_looking(self) -> bool:
        """Whether a look still waits for the disk."""
        return self._look is not None and not self._look.done()

    def _take(self, signature: _Signature, found: Pair | TlsError | None) -> None:
        if found is None:
            return
        self._signature = signature
        if signature == _UNREAD and str(found) == self.trouble:
            return  # this trouble was logged already
        if isinstance(found, Pair) and self._is_better(found):
            self._pair = found
            self.reloads += 1
            self.trouble = None
            log.info("the TLS certificate was changed", extra={"fields": self._fields(found)})
            self._tell(found)
            return
        self.failures += 1
        if isinstance(found, Pair):
            fault = next(found.faults(self._wall_s()))
            found = TlsError(f"{self.files.table}.tls_certificate: the new one {fault}")
        self.trouble = str(found)
        log.error("the TLS certificate was changed, and the old one is kept: %s", found)

    def _is_better(self, found: Pair) -> bool:
        """Whether the new pair may be used: it has no fault, or the old pair has one, too."""
        now_s = self._wall_s()
        return not list(found.faults(now_s)) or bool(list(self._pair.faults(now_s)))

    def _tell(self, pair: Pair) -> None:
        """Logs what an operator should know of the pair that is served: when it comes into use, and
        each day.
        """
        now_s = self._wall_s()
        self._told_day = int(now_s // DAY_S)
        problems, warnings = _said_of(pair, self.files, now_s)
        for said in problems:
            log.error(said)
        for said in warnings:
            log.warning(said)

    def _fields(self, pair: Pair) -> dict[str, object]:
        return {"certificate": self.files.certificate, "names": ",".join(pair.names)}


def _look_at(files: TlsFiles, known: _Signature) -> _Look:
    """Reads the files if they have changed. In the thread."""
    # First, so that the next look finds a change that comes meanwhile.
    signature = _signature(files)
    if signature == known:
        return signature, None
    try:
        return signature, load_pair(files)
    except TlsError as error:
        return _UNREAD if _is_of_the_machine(error) else signature, error


def _is_of_the_machine(error: TlsError) -> bool:
    """Whether the files could not be read (no descriptor is left, say), whatever their content."""
    below = error.__cause__
    return isinstance(below, OSError) and not isinstance(below, ssl.SSLError)


def _signature(files: TlsFiles) -> _Signature:
    """The identity and state of the files, without reading them. Links are followed, so that a
    change of a link above them is seen (Kubernetes changes `..data`).
    """
    return tuple(map(of_file, files.paths))


def of_file(path: str) -> object:
    """The identity and state of a file; the number of the error if it cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the cheapest way: once a second
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
