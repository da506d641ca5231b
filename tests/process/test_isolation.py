"""What happens to one stream is no other's business."""

from functools import partial

from tests.kit.endpoints import Endpoint, entry
from tests.kit.patience import wait_for
from tests.process.conftest import Run

STUCK = [f"stuck-{number}" for number in range(6)]
CALLS_OF_EACH = 16  # in_flight_max
RECORDS = [entry(b"x", "k")]


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
            Endpoint.of(daemon, "accepted").put("PutRecords", StreamName=stream, Records=RECORDS)
            wait_for(partial(calls_above, number, stream), "one more call to be out")
    answer = Endpoint.of(daemon).put("PutRecords", StreamName="demo", Records=RECORDS)
    assert answer.members["FailedRecordCount"] == 0, "behind the others it would meet its deadline"
