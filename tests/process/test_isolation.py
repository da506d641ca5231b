"""What happens to one stream is no other's business."""

import http.client
import json
from contextlib import closing
from functools import partial

from tests.kit.daemon import Daemon
from tests.kit.endpoints import entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.process.conftest import Run

STUCK = [f"stuck-{number}" for number in range(6)]
CALLS_OF_EACH = 16  # in_flight_max


def put(daemon: Daemon, stream: str, acknowledge: str) -> dict[str, object]:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]})
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "Kinesis_20131202.PutRecords",
        "X-Kdaemon-Acknowledge": acknowledge,
    }
    with closing(
        http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    ) as connection:
        connection.request("POST", "/", body, headers)
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        return answer


def test_streams_whose_calls_all_hang_do_not_slow_another(run: Run) -> None:
    settings: dict[str, object] = {
        "sandbox.streams": [*STUCK, "demo"],
        "default.in_flight_max": CALLS_OF_EACH,
        "default.linger_ms": 0,
        "send.call_timeout_ms": 300_000,  # beyond the deadline: the calls hang until the end
    }
    daemon = run(settings)

    def calls_above(count: int, stream: str) -> bool | None:
        return daemon.counted("kdaemon_put_records_in_flight", stream=stream) > count or None

    daemon.inject(*({"kind": "hang", "calls": None, "stream": stream} for stream in STUCK))
    for stream in STUCK:
        for number in range(CALLS_OF_EACH):
            put(daemon, stream, "accepted")
            wait_for(partial(calls_above, number, stream), "one more call to be out")
    answer = put(daemon, "demo", "delivered")
    assert answer["FailedRecordCount"] == 0, "behind the others it would meet its deadline"
