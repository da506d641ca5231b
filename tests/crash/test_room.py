"""Stored frames find their way into memory, however little room there is."""

from pathlib import Path

from tests.kit.daemon import MIB, Daemon, running
from tests.kit.endpoints import Endpoint, entry
from tests.kit.patience import wait_for

DATA_BYTES = 10_000
THROTTLED = {"kind": "throttle", "calls": None}


def put(daemon: Daemon, stream: str, count: int, acknowledge: str) -> bool:
    """One PutRecords of `count` records, which is one frame; whether all were acknowledged."""
    entries = [entry(bytes(DATA_BYTES), f"k{number}") for number in range(count)]
    front = Endpoint.of(daemon, acknowledge)
    answer = front.put("PutRecords", StreamName=stream, Records=entries)
    return answer.status == 200 and answer.members["FailedRecordCount"] == 0


def wait_delivered(daemon: Daemon, stream: str, count: int) -> None:
    def is_delivered() -> bool | None:
        return daemon.counted("kdaemon_records_delivered_total", stream=stream) >= count or None

    wait_for(is_delivered, f"{count} records of {stream} to be delivered")


def test_the_largest_request_passes_the_smallest_buffer(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "spool.directory": str(tmp_path / "spool"),
        "default.request_bytes_max": MIB,
        "default.buffer_bytes_max": 2 * MIB,  # the least that the configuration allows
    }
    with running(tmp_path, settings) as daemon:
        count = MIB // (DATA_BYTES + 50)
        assert put(daemon, "demo", count, "stored")
        wait_delivered(daemon, "demo", count)


def test_a_stream_that_found_no_memory_goes_on_when_others_leave_it_some(tmp_path: Path) -> None:
    """Its first frame leaves less than its second needs, and another stream has all the rest."""
    settings: dict[str, object] = {
        "spool.directory": str(tmp_path / "spool"),
        "sandbox.streams": ["busy", "small"],
        "memory_bytes_max": 12 * MIB,  # a quarter of it for bodies that arrive
        "default.request_bytes_max": 2 * MIB,
        "streams.busy.buffer_bytes_max": 12 * MIB,  # listed: the others may not take all there is
        "streams.small.buffer_bytes_max": 4 * MIB,
    }
    with running(tmp_path, settings) as daemon:
        daemon.inject({**THROTTLED, "stream": "small"}, {**THROTTLED, "stream": "busy"})
        assert put(daemon, "small", 200, "stored")  # above half of its buffer
        assert put(daemon, "small", 209, "stored")  # so this one stands on disk only
        held = 0
        for count in (50, 1):
            while put(daemon, "busy", count, "accepted"):
                held += count
        daemon.clear_faults()
        daemon.inject({**THROTTLED, "stream": "busy"})
        wait_delivered(daemon, "small", 200)  # or more: what was read ahead has its memory
        daemon.clear_faults()
        wait_delivered(daemon, "busy", held)
        wait_delivered(daemon, "small", 409)
