"""Which clients may come: the principals, the guards that ask for them, and the certificate.

Their code is loaded only where the configuration asks for it: it takes 0.4 MiB.
Where it sits: daemon.py -> here -> doors.py (guards), hubs.py (handshakes), observers.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kdaemon.config import Config, ListenConfig
from kdaemon.daemon.doors import Guards
from kdaemon.door.guard import Strangers
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.turns import Turns
from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.door.principals import Principals
    from kdaemon.http.renewal import Certificates


class Clients:
    """Those of one daemon. `principals`: None: nobody is asked who he is. `certificates`: None: no
    TLS, or not opened yet.
    """

    def __init__(self, config: Config, clock: SystemClock, turns: Turns) -> None:
        """Reads the principals. Raises ConfigError."""
        self._config = config
        self._clock = clock
        self._turns = turns
        self._strangers = Strangers(clock.wall_seconds)
        path = config.auth.principals_file
        self.principals = self._read_principals(path) if path else None
        self.certificates: Certificates | None = None

    def _read_principals(self, path: str) -> "Principals":
        from kdaemon.door.principals import Principals  # noqa: PLC0415 - see above

        return Principals(path, self._clock.wall_seconds)

    def guards(self) -> Guards:
        """The guards that the configuration asks for."""
        auth, principals = self._config.auth, self.principals
        if principals is None:
            assert (auth.http, auth.unix) == ("none", "none"), "config/rules.py asks for the file"
            return Guards()
        from kdaemon.door.access import Peers, Signed  # noqa: PLC0415 - see above

        strangers, wall = self._strangers, self._clock.wall_seconds
        signed = Signed(principals, strangers, wall, self._turns.later)
        peers = Peers(principals, strangers)
        return Guards(
            tcp=signed if auth.http == "sigv4" else None,
            unix=peers if auth.unix == "peer" else None,
        )

    def handshakes(self, stack: AsyncExitStack) -> Handshakes | None:
        """The handshakes with the certificate, which is looked at again until `stack` is closed;
        None: there is none. Raises TlsError.
        """
        if not self._config.listen.tls_certificate:
            return None
        self.certificates = open_certificates(self._config.listen, self._clock, stack)
        return Handshakes(self.certificates.context, self._clock.now_ns)

    def looks(self) -> list[Callable[[], object]]:
        """What is to be called about once a second."""
        return [] if self.principals is None else [self.principals.look, self._strangers.look]


def open_certificates(
    listen: ListenConfig, clock: SystemClock, stack: AsyncExitStack
) -> "Certificates":
    """The certificate of [listen], which is looked at again until `stack` is closed. Raises
    TlsError.
    """
    from kdaemon.http.renewal import Certificates, files_of  # noqa: PLC0415 - see above

    files = files_of(listen, "listen")
    assert files is not None, "config/rules.py asks for the files"
    certificates = Certificates(files, clock.wall_seconds)
    stack.callback(certificates.stop)
    certificates.start()
    return certificates
