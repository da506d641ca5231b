"""Tells the service manager the state of the daemon: systemd's notifications, with the stdlib only.

About: READY=1, RELOADING=1, STOPPING=1, STATUS=, WATCHDOG=1 and EXTEND_TIMEOUT_USEC= as datagrams
to the socket that `NOTIFY_SOCKET` names, and how often the watchdog must be fed. Knows the
environment that it is given; must not know when the daemon is ready or idle: `daemon/` says so. Has
no clock, no timer, no task.
Invariant: without `NOTIFY_SOCKET`, or with a manager that does not listen, nothing happens and
nothing is raised; a send holds the event loop for SEND_TIMEOUT_S at most.
Flow: daemon/ (started, draining, heartbeat of the loop) -> here -> systemd.

Protocol: sd_notify(3), sd_watchdog_enabled(3), systemd 252; checked 2026-11-21.
"""

import socket
from collections.abc import Mapping

SEND_TIMEOUT_S = 0.1  # seconds a full queue of the manager may hold the loop; ours, 2026-11-21
STATUS_CHARACTERS_MAX = 512  # x 4 bytes of UTF-8 stays under the manager's 4096 bytes a datagram
USEC_INFINITY = 2**64 - 1  # microseconds: "no limit" in systemd's time.h, 2026-11-21


class Notifier:
    """The way to the service manager. Each method returns whether the manager took the datagram.

    `environ`: the process environment. `NOTIFY_SOCKET` is a path or `@name` (Linux abstract
    socket); other forms (`vsock:`, systemd 254, for virtual machines) count as absent.
    """

    __slots__ = ("_address",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = name.replace("@", "\0", 1) if name.startswith(("/", "@")) else ""

    def ready(self, status: str = "") -> bool:
        """The start is done: sockets are bound. This does not say that the service was reached."""
        return self._send("READY=1", status)

    def reloading(self, now_ns: int) -> bool:
        """The configuration is being read again; `ready` ends this state, whatever the result.
        `now_ns`: CLOCK_MONOTONIC, by which systemd tells this answer to its signal from an earlier
        one (Type=notify-reload, systemd 253).
        """
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={now_ns // 1_000}", "")

    def stopping(self, status: str = "") -> bool:
        """The drain begins. No `ready` may follow: since systemd 259 this is final."""
        return self._send("STOPPING=1", status)

    def status(self, text: str) -> bool:
        """One line for people, shown by `systemctl status`."""
        return self._send("", text)

    def watchdog(self) -> bool:
        """The event loop turns. Call this every `watchdog_interval_s`, from that loop."""
        return self._send("WATCHDOG=1", "")

    def extend_timeout(self, timeout_s: float) -> bool:
        """The start or the stop goes on: wait `timeout_s` seconds (> 0) more, counted from now."""
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}; expected seconds above 0")
        return self._send(f"EXTEND_TIMEOUT_USEC={round(timeout_s * 1_000_000)}", "")

    def _send(self, state: str, status: str) -> bool:
        if not self._address:
            return False
        if status:  # one line only: a line break would start another assignment
            state += "\nSTATUS=" + " ".join(status.split())[:STATUS_CHARACTERS_MAX]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_TIMEOUT_S)
                sender.sendto(state.strip().encode(), self._address)
        # No listener, a full queue (TimeoutError), a path too long: no reason to end.
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two `Notifier.watchdog` calls: half of what the manager allows.

    None: no watchdog is asked for, or not of this process (`WATCHDOG_PID` names another), or the
    manager's numbers cannot be read.
    """
    try:
        limit_us = int(environ.get("WATCHDOG_USEC", "0"))
        watched_pid = int(environ.get("WATCHDOG_PID", str(pid)))
    except ValueError:
        return None
    if watched_pid != pid or not 0 < limit_us < USEC_INFINITY:
        return None
    return limit_us / 2 / 1_000_000
