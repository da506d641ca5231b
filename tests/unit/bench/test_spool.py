"""The spool's bench: medians and ratios, its section of RESULTS.md, and a load that keeps time."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.disk import DiskAlone, describe_disk, evict, mounted_as, percentile, probe
from bench.host import choose_cores
from bench.load import acknowledged_in
from bench.records import request_head
from bench.spool import payload_bytes, spool_settings
from bench.spool_report import TITLE, Carried, Commits, Filled, SpoolReport, Waited, middle
from bench.steady import SteadyLoad
from bench.table import table, with_opening, with_section
from bench.targets import Sink
from kdaemon.config.load import load_config
from tests.kit.daemon import LISTENERS, write_config
from tests.kit.patience import PATIENCE_S

ALONE = DiskAlone(append_bytes=400_000, appends_per_s=500.0, p50_ms=1.5, p99_ms=8.0)


def carried(delivered_s: float, *, alone: DiskAlone | None = None) -> Carried:
    return Carried(
        records=400_000,
        acknowledged_s=delivered_s / 2,
        delivered_s=delivered_s,
        cpu_s=delivered_s,
        made=Commits(200.0, 800.0, 1.0),
        alone=alone,
    )


def waited(p50_ms: float, appends_per_s: float = 500.0) -> Waited:
    return Waited(
        records=20_000,
        seconds=20.0,
        p50_ms=p50_ms,
        p99_ms=9.0,
        max_ms=20.0,
        late_ms_p99=0.1,
        made=Commits(10_000.0, 20_000.0, 10.0),
        cpu_s=8.0,
        alone=DiskAlone(235, appends_per_s, 0.4, 4.0),
    )


def filled(*, ready_cold_s: float = 1.0, outage_cpu: float = 0.01, peak_mib: int = 150) -> Filled:
    return Filled(
        records=2**20,
        data_bytes=2**30,
        file_bytes=2**30,
        fill_s=10.0,
        rss_filled=100 * 2**20,
        ready_s=0.5,
        ready_cold_s=ready_cold_s,
        rss_ready=60 * 2**20,
        rss_later=100 * 2**20,
        outage_cpu_first=0.1,
        outage_cpu=outage_cpu,
        first_back_s=5.0,
        drain_s=15.0,
        drain_cpu_s=10.0,
        rss_peak=peak_mib * 2**20,
    )


def report(stored: list[float], accepted: list[float], one: Filled | None = None) -> SpoolReport:
    return SpoolReport(
        carried={
            "lines": {
                "accepted": [carried(seconds) for seconds in accepted],
                "stored": [carried(seconds, alone=ALONE) for seconds in stored],
            }
        },
        waited=[waited(3.0)],
        filled=[one or filled()],
        cores=choose_cores({0, 1}),
        disk="ext4 on a disk",
        load_before=(0.1, 0.2, 0.3),
        rounds=len(stored),
    )


def test_each_figure_is_its_own_median_and_so_are_the_disks() -> None:
    seen = middle([waited(9.0, 100.0), waited(3.0, 300.0), waited(4.0, 200.0)])
    assert seen.p50_ms == 4.0
    assert seen.alone.appends_per_s == 200.0
    assert isinstance(seen.records, int)


def test_a_part_without_a_disk_beside_it_has_none_in_the_median() -> None:
    assert middle([carried(1.0), carried(2.0)]).alone is None


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    # the machine was half as fast in the second round, for both
    delivered, acknowledged, cpu = report([4.0, 10.0, 5.0], [2.0, 8.0, 4.0]).ratios()["lines"]
    assert delivered == acknowledged == cpu == 0.8


def test_the_disk_alone_is_told_in_records_of_a_commit() -> None:
    # 2,000 records a commit, 500 appends a second
    assert carried(1.0, alone=ALONE).alone_records_per_s == 1_000_000


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (report([2.0], [2.0]), []),
        (report([4.0], [2.0]), ["stored / accepted, lines"]),
        (report([2.0], [2.0], filled(ready_cold_s=3.1)), ["ready with 1 GiB stored, cold, s"]),
        (report([2.0], [2.0], filled(outage_cpu=0.06)), ["cores used in the outage"]),
        (report([2.0], [2.0], filled(peak_mib=400)), ["highest RSS with 1 GiB stored, MiB"]),
    ],
)
def test_a_missed_target_is_named(measured: SpoolReport, missed: list[str]) -> None:
    assert [each.what for each in measured.targets() if not each.is_met] == missed


def test_the_section_holds_every_part_and_where_it_was_measured() -> None:
    section = report([2.0], [2.0]).section()
    assert section.startswith(f"{TITLE}\n")
    assert section.count("\n### ") == 3
    assert "| Disk | ext4 on a disk |" in section
    assert "load average 0.1, 0.2, 0.3" in section
    assert section.count("reached") == 4


def test_a_part_that_was_not_asked_for_is_left_out() -> None:
    lines = SpoolReport({}, [waited(3.0)], [], choose_cores({0}), "", (0, 0, 0), 1).lines()
    assert [line for line in lines if line.startswith("#")] == ["### Time to `stored`"]
    assert lines[-1]


def test_columns_stand_under_their_heading() -> None:
    lines = table(("what", "a long heading"), [("a long name", "1"), ("x", "22")])
    assert len({len(line) for line in lines}) == 1
    assert all(line.count("|") == 3 for line in lines)
    assert set(lines[1]) == set("|-:")


PAGE = "# Results\n\nfigures\n\n## The spool\n\nold\n\n### part\n\nold\n\n## Crashes\n\nkept\n"


def test_a_section_takes_the_place_of_its_own_title_alone() -> None:
    page = with_section(PAGE, "## The spool\n\nnew\n")
    assert page == "# Results\n\nfigures\n\n## The spool\n\nnew\n\n## Crashes\n\nkept\n"
    assert with_section(page, "## The spool\n\nnew\n") == page


def test_a_section_that_was_not_there_comes_last() -> None:
    assert with_section(PAGE, "## Fleet\n\nnew\n") == f"{PAGE}\n## Fleet\n\nnew\n"
    assert with_section("", "## Fleet\n\nnew\n") == "## Fleet\n\nnew\n"


def test_the_main_bench_keeps_the_sections_of_others() -> None:
    page = with_opening(PAGE, "# Results\n\nnew\n")
    assert page == "# Results\n\nnew\n" + PAGE[PAGE.index("\n## ") :]
    assert (
        with_opening("", "# Results\n") == with_opening("# Old\n", "# Results\n") == "# Results\n"
    )


def test_another_promise_than_the_one_asked_for_is_not_kept() -> None:
    body = '{"SequenceNumber":"stored","ShardId":"stored"}'
    answer = f"HTTP/1.1 200 OK\r\n\r\n{body}".encode()
    assert acknowledged_in(answer, 1, b"stored") == 1
    assert acknowledged_in(answer, 1, b"accepted") == acknowledged_in(answer, 1) == 0


def test_a_request_asks_for_its_promise_where_it_is_not_the_default() -> None:
    asked = b"\r\nX-Kdaemon-Acknowledge: stored\r\n"
    assert asked in request_head("PutRecords", 10, acknowledge="stored")
    assert b"Acknowledge" not in request_head("PutRecords", 10)


def test_the_configuration_of_the_bench_is_one_the_daemon_takes(tmp_path: Path) -> None:
    settings = spool_settings(tmp_path / "spool", 5_000_000_000)
    config = load_config(text=write_config(tmp_path, settings, LISTENERS).read_text())
    assert config.spool.directory == str(tmp_path / "spool")
    assert config.spool.bytes_max == 5_000_000_000


def test_a_frame_takes_little_more_than_its_records() -> None:
    assert 1.0 < payload_bytes(500) / (500 * 212) < 1.25


class CountingSink(Sink):
    """Has one record more each time it is asked."""

    def __init__(self, record_count: int) -> None:
        super().__init__(0, 0, choose_cores({0}))
        self.record_count = record_count

    def counts(self) -> tuple[int, int]:
        self.record_count += 1
        return self.record_count, 1


def test_records_are_waited_for_and_one_too_many_is_an_error() -> None:
    sink = CountingSink(7)
    sink.wait_for(10)
    assert sink.record_count == 10
    with pytest.raises(RuntimeError, match="11 records arrived, of 10"):
        sink.wait_for(10)


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    alone = probe(tmp_path, 1000, 20)
    assert alone.append_bytes == 1000
    assert 0 < alone.p50_ms <= alone.p99_ms
    assert alone.mib_per_s == pytest.approx(alone.appends_per_s * 1000 / 2**20)
    assert not list(tmp_path.iterdir())


def test_percentiles_of_few_values_are_among_them() -> None:
    assert percentile([5], 99) == 5
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(list(range(1000)), 99) == 990


def test_eviction_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "directory").mkdir()
    evict(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_disk_is_found_by_its_number_among_the_mounts() -> None:
    mounts = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n"
    )
    assert mounted_as(mounts, "254:0") == ("ext4", "/dev/vda")
    assert mounted_as(mounts, "254:1") == ("unknown file system", "device 254:1")


@pytest.mark.linux
def test_the_disk_under_a_directory_has_a_description(tmp_path: Path) -> None:
    assert " on " in describe_disk(tmp_path)


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(2)]
    for ours, _ in made:
        ours.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def test_a_steady_load_counts_from_when_a_record_was_due(pairs: list[Pair]) -> None:
    """The other side answers nothing until it has all: the first record then took the whole run."""
    lines_wanted, rate = 20, 1_000.0

    def hold_all_back() -> None:
        for _, theirs in pairs:
            theirs.settimeout(PATIENCE_S)
            received = b""
            while received.count(b"\n") < lines_wanted // 2 + 1:  # the setup line too
                received += theirs.recv(65_536)
            assert received.startswith(b'{"stream": "bench", "acknowledge": "stored"}\n')
        for _, theirs in pairs:
            theirs.send(b'{"acknowledged": %d}\n' % (lines_wanted // 2))

    server = threading.Thread(target=hold_all_back)
    server.start()
    result = SteadyLoad([ours for ours, _ in pairs], rate, "stored").run(lines_wanted)
    server.join(10)
    assert result["records"] == lines_wanted
    assert result["latency_ms_max"] >= (lines_wanted - 1) / rate * 1000
    assert result["latency_ms_p50"] < result["latency_ms_max"]


def test_a_steady_load_stops_at_a_refusal(pairs: list[Pair]) -> None:
    for _, theirs in pairs:
        theirs.send(b'{"rejected":1,"code":"ServiceUnavailable","message":"Not stored"}\n')
    load = SteadyLoad([ours for ours, _ in pairs], 1_000.0, "stored")
    with pytest.raises(ConnectionError, match="refused"):
        load.run(10)
