"""The certificate that a process serves with now: what handshakes begin with, and its renewal.

About: when the files have changed, and which pair counts. Knows a clock and files; no connection.
Invariants: a pair that cannot be used, or of which one half is still the old one, changes nothing:
the old one goes on, and each change of the files is tried until they can be read, and once then; a
connection keeps the pair that it began with; the loop waits for no disk, and is woken for nothing
of this but its common tick.
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
SHOWN_CHARACTERS_MAX = 300  # of a path, in a line

_Signature = tuple[object, ...]
_UNREAD: _Signature = ()  # the next look reads them again
_Look = tuple[_Signature, Pair | TlsError | None]
"""How the files stood, and what they held; None: as at the look before."""


def files_of(settings: "TlsSettings", table: str) -> TlsFiles | None:
    """The files that a table of the configuration names; None: there is no TLS."""
    if not settings.tls_certificate:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, table)


class TlsSettings(Protocol):
    """A table of the configuration. Empty texts: no such file."""

    @property
    def tls_certificate(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def tls_client_ca(self) -> str: ...


def look_over(settings: TlsSettings, table: str, now_s: float) -> tuple[list[str], list[str]]:
    """For a look without serving: (what is wrong, what is to be said)."""
    files = files_of(settings, table)
    if files is None:
        return [], []
    try:
        pair = load_pair(files)
    except TlsError as error:
        return [str(error)], []
    return _said_of(pair, files, now_s)


def _said_of(pair: Pair, files: TlsFiles, now_s: float) -> tuple[list[str], list[str]]:
    """(Why clients that check certificates refuse it, what else is to be said.)"""
    path = printable(files.certificate, SHOWN_CHARACTERS_MAX)
    where = f"{files.table}.tls_certificate: {path}"
    soon = pair.expires_soon(now_s)
    said = [f"{where} {soon}"] if soon else []
    if pair.concern is not None:
        said.append(pair.concern)
    return [f"{where} {fault}" for fault in pair.faults(now_s)], said


class Certificates:
    """`open`, then `start` in the loop, at last `stop`."""

    def __init__(self, files: TlsFiles, wall_s: Callable[[], float]) -> None:
        """Reads the files. Raises TlsError."""
        self.files = files
        self.reloads = 0
        self.failures = 0  # changes of the files that could not be used
        self.trouble: str | None = None  # why the files are not what is served
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
        """Seconds since 1970."""
        return self._pair.ends_s

    @property
    def faults(self) -> list[str]:
        """Why clients that check certificates refuse it now."""
        return list(self._pair.faults(self._wall_s()))

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(next_tick_s(loop.time(), LOOK_INTERVAL_S), self._on_timer)

    def stop(self) -> None:
        """A look that waits for a disk is left to it. Twice is nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _on_timer(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """Takes what the last look found, and looks again. A thread waits for the disk, and tells
        nobody: what it found is taken a tick later.
        """
        if int(self._wall_s() // DAY_S) != self._told_day:  # an end that comes near
            self._tell(self._pair)
        if self._look is None or self._look.done():
            look, self._look = self._look, None
            if look is not None:
                self._take(*look.result())
            self._look = self._executor.submit(_look_at, self.files, self._signature)

    def _take(self, signature: _Signature, found: Pair | TlsError | None) -> None:
        if found is None:
            return
        self._signature = signature
        if signature == _UNREAD and str(found) == self.trouble:
            return  # it was told
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
        """One with a fault takes the place of none without."""
        now_s = self._wall_s()
        return not list(found.faults(now_s)) or bool(list(self._pair.faults(now_s)))

    def _tell(self, pair: Pair) -> None:
        """What an operator should know of the pair that is served: at its start, and each day."""
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
    """In the thread."""
    signature = _signature(files)  # first: what changes meanwhile is found by the next look
    if signature == known:
        return signature, None
    try:
        return signature, load_pair(files)
    except TlsError as error:
        return _UNREAD if _is_of_the_machine(error) else signature, error


def _is_of_the_machine(error: TlsError) -> bool:
    """Whether the files were not read (no descriptor is left, say), whatever stands in them."""
    below = error.__cause__
    return isinstance(below, OSError) and not isinstance(below, ssl.SSLError)


def _signature(files: TlsFiles) -> _Signature:
    """Which files stand there, as the system tells without reading them; links are followed, so
    that a change of one above them is seen (Kubernetes changes `..data`).
    """
    return tuple(map(_of_file, files.paths))


def _of_file(path: str) -> object:
    try:
        found = os.stat(path)  # noqa: PTH116 - as little as can be: once a second
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
