"""syslog-ng as docs/syslog-ng.md advises: what it was told is on disk, whatever is killed.

`make clients` unpacks Debian's package of it; without that these tests are skipped.
"""

import threading
from pathlib import Path

import pytest

from tests.clients.cases import World
from tests.clients.program import CLIENTS, Program, Told
from tests.kit.patience import wait_for

CALLS, LINES = 40, 500
CLIENT = next(each for each in CLIENTS if each.name == "syslog-ng-http")
LINES_AT_KILL = 2_000


@pytest.mark.skipif(not CLIENT.is_built, reason=f"{CLIENT.title} is not here: `make clients`")
def test_a_daemon_that_is_killed_loses_nothing_of_syslog_ng(tmp_path: Path) -> None:
    told: list[Told] = []
    texts = [[f"line-{call}-{line}" for line in range(LINES)] for call in range(CALLS)]
    with World(tmp_path, CLIENT, {}) as world, Program(CLIENT, world.address) as program:

        def put() -> None:
            for call in texts:
                told.append(program.put("PutRecords", world.stream, [("", text) for text in call]))

        putting = threading.Thread(target=put)
        putting.start()
        wait_for(
            lambda: world.daemon.counted("kdaemon_records_received_total") > LINES_AT_KILL or None,
            "lines to arrive",
        )
        world.kill()
        world.start()
        putting.join()
        assert told == [Told()] * CALLS
        wanted = {text for call in texts for text in call}
        assert set(world.read(wanted)) == wanted
