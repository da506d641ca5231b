"""A frame that is partly done when the process dies: the rest is sent, what is delivered is not
sent again, and what is dead is not forgotten.
"""

import base64
import contextlib
import http.client
import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from kdaemon.spool.codec import settled_indices
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.view import StoreView
from tests.kit.daemon import MIB, Daemon, running
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.web import Handler, serving

RECORDS = (b"poison", b"good", b"stuck")


class Service(Handler):
    """Refuses every call with `poison`, throttles `stuck` while it is closed, takes the rest."""

    taken: ClassVar[Counter[bytes]] = Counter()
    is_open: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        body = self.read_body()
        if not self.headers["X-Amz-Target"].endswith(".PutRecords"):
            self._answer(400, {"__type": "AccessDeniedException"})
            return
        data = [base64.b64decode(entry["Data"]) for entry in json.loads(body)["Records"]]
        if b"poison" in data:
            self._answer(400, {"__type": "ValidationException", "message": "poison"})
            return
        results = [self._take(each) for each in data]
        failed = sum("ErrorCode" in result for result in results)
        self._answer(200, {"FailedRecordCount": failed, "Records": results})

    def _take(self, data: bytes) -> dict[str, str]:
        if data == b"stuck" and not self.is_open.is_set():
            return {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "-"}
        self.taken[data] += 1
        return {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}

    def _answer(self, status: int, members: dict[str, Any]) -> None:
        self.answer(status, json.dumps(members).encode())


@contextlib.contextmanager
def service() -> Iterator[str]:
    Service.taken.clear()
    Service.is_open.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as url:
        yield url


def put_stored(daemon: Daemon) -> None:
    """All of RECORDS in one frame."""
    lines = "\n".join(
        json.dumps({"data": data.decode(), "partition_key": data.decode()}) for data in RECORDS
    )
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        headers = {"X-Kdaemon-Acknowledge": "stored"}
        connection.request("POST", "/v1/streams/demo/records", lines, headers)
        answer = json.loads(connection.getresponse().read())
    assert (answer["acknowledged"], answer["rejected"]) == (3, [])


def test_a_frame_partly_done_at_a_crash_sends_only_the_rest_and_still_buries_its_dead(
    tmp_path: Path,
) -> None:
    spool = str(tmp_path / "spool")
    with service() as url:
        with running(tmp_path, {"spool.directory": spool}, service=url) as daemon:
            put_stored(daemon)
            wait_for(
                lambda: daemon.counted("kdaemon_records_dead_total") or None, "poison to be found"
            )

            def is_noted() -> bool | None:
                with contextlib.closing(StoreView(spool)) as view:
                    (frame,) = view.read("demo", 0, MIB).frames
                settled = frame.settled and settled_indices(frame.settled, len(RECORDS))
                return settled == [RECORDS.index(b"good")] or None

            wait_for(is_noted, "what is done of the frame to be noted on disk")
            assert Service.taken == {b"good": 1}
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() == -signal.SIGKILL
        Service.is_open.set()
        with running(tmp_path, {"spool.directory": spool}, service=url) as daemon:
            daemon.wait_settled()
            assert daemon.stop() == 0
        with contextlib.closing(StoreView(spool)) as view:
            letters = [letter.data for letter in view.letters.select(LetterFilter())]
            assert view.stored_totals() == []
        assert letters == [b"poison"]
        assert Service.taken == {b"good": 1, b"stuck": 1}
