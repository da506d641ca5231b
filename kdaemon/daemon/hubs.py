"""The hubs of a daemon's listeners: what their connections may hold, and what they share.

About: the limits of client connections, how many all listeners together may have, and which
listener speaks TLS or asks clients who they are. Must not know what is served.
Invariant: the listeners that take records share one limit of connections, one budget of bodies and
one turn of the loop; the admin pages share none of these with them.
Where it sits: config -> here -> doors.py, observers.py.
"""

import logging
from collections.abc import Callable
from typing import Any

from kdaemon.config import Config, ListenConfig
from kdaemon.config.values import Address
from kdaemon.daemon.reach import upstream_connections_max
from kdaemon.door.guard import Guard
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.hub import ConnectionLimits, ConnectionPlaces, Hub
from kdaemon.http.origin import gate_of
from kdaemon.http.server import UNIX_GATE
from kdaemon.http.turns import Turns
from kdaemon.system import raise_open_files_limit

log = logging.getLogger("kdaemon")

# Of the open files that the system allows, clients leave this many to the spool, the log and the
# admin pages. They also leave as many as calls to services may need, but at most a quarter of all.
OPEN_FILES_RESERVE = 128
UPSTREAM_FRACTION = 4

# The admin pages are for a few scrapers and probes, which send no bodies. Ours, 2026-11-28.
ADMIN_LIMITS = ConnectionLimits(
    body_bytes_max=0,
    head_bytes_max=8 * 1024,
    head_timeout_s=5.0,
    idle_timeout_s=30.0,
    connections_max=64,
    # A page may have megabytes: a client that asks and does not read gets at most two.
    pipeline_max=2,
)


class Hubs:
    """Makes the hubs of one daemon, and passes a new configuration on to them."""

    def __init__(
        self,
        config: Config,
        arrivals: Arrivals,
        turns: Turns,
        tls: Handshakes | None,
        now_ns: Callable[[], int],
    ) -> None:
        """`tls`: None: the configuration names no certificate. `now_ns`: the monotonic clock."""
        listen = config.listen
        self.has_admin_tls = tls is not None and listen.admin_tls
        self._listen = listen
        self._arrivals = arrivals
        self._turns = turns
        self._tls = tls
        self._now_ns = now_ns
        self._places = ConnectionPlaces(connections_max(config, raise_open_files_limit()))
        self._limits = limits_of(listen)
        # The hubs of TCP listeners, each with the host that it listens on.
        self._gated: list[tuple[str, Hub]] = []

    def take_config(self, new: Config) -> None:
        """Takes the live settings of [listen]."""
        self._listen = new.listen
        self._limits = limits_of(new.listen)
        self._places.connections_max = connections_max(new, raise_open_files_limit())
        for hub in self._places.hubs:
            hub.take_limits(self._limits)
        for host, hub in self._gated:
            hub.gate = gate_of(host, new.listen.hosts)

    def tcp(self, address: Address, guard: Guard | None) -> Hub:
        """The hub of an HTTP listener. `guard`: asks clients who they are; None: any may come."""
        gate = gate_of(address.host, self._listen.hosts)
        hub = self._of_door(guard, gate=gate, tls=self._tls)
        self._gated.append((address.host, hub))
        return hub

    def unix(self, guard: Guard | None) -> Hub:
        """The hub of a Unix socket. `guard`: as of `tcp`."""
        return self._of_door(guard, gate=UNIX_GATE)

    def admin(self, address: Address) -> Hub:
        """The hub of the admin listener, with limits of its own."""
        gate = gate_of(address.host, self._listen.hosts)
        tls = self._tls if self.has_admin_tls else None
        hub = Hub(ADMIN_LIMITS, gate=gate, now_ns=self._now_ns, tls=tls)
        self._gated.append((address.host, hub))
        return hub

    def _of_door(self, guard: Guard | None, **own: Any) -> Hub:
        if guard is not None:
            own |= {"who": guard.who, "early": guard.early}
        return Hub(
            self._limits, arrivals=self._arrivals, places=self._places, turns=self._turns, **own
        )


def limits_of(listen: ListenConfig) -> ConnectionLimits:
    """The limits of client connections."""
    return ConnectionLimits(
        idle_timeout_s=listen.idle_timeout_ms / 1000,
        connections_max=listen.connections_max,
    )


def connections_max(config: Config, open_files_max: int) -> int:
    """How many clients all listeners that take records may have together: as configured, or fewer,
    so that open files are left for everything else.
    """
    upstream = min(upstream_connections_max(config), open_files_max // UPSTREAM_FRACTION)
    allowed = max(1, open_files_max - OPEN_FILES_RESERVE - upstream)
    wanted = config.listen.connections_max
    if allowed < wanted:
        text = (
            "the limit of open files allows fewer client connections than listen.connections_max:"
            " raise it (ulimit -n, LimitNOFILE), or lower the setting"
        )
        fields = {"open_files_max": open_files_max, "allowed": allowed, "connections_max": wanted}
        log.warning(text, extra={"fields": fields})
    return min(wanted, allowed)
