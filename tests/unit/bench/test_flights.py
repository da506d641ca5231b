"""The demo's proof: it must see every way in which a flight can be lost, doubled or changed."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from bench import demo
from bench.flights import (
    SAMPLE_PATH,
    Flight,
    compare,
    load_flights,
    put_through_sdk,
    read_back,
)

A, B, C = Flight("N1", "line a"), Flight("N1", "line b"), Flight("N2", "line c")
SAMPLE_SHA256 = "0b31534eeb92f3d47d67f0d72990778cf3eae707efe84d219f8e4e6a92598417"


def test_the_sample_is_what_its_readme_says() -> None:
    text = gzip.decompress(SAMPLE_PATH.read_bytes())
    flights = load_flights(SAMPLE_PATH)
    assert hashlib.sha256(text).hexdigest() == SAMPLE_SHA256
    assert SAMPLE_SHA256 in (SAMPLE_PATH.parent / "README.md").read_text()
    assert len(flights) == len(set(flights)) == 5000
    assert "\n".join(flight.line for flight in flights).encode() == text.partition(b"\n")[2].strip()


def test_an_empty_tail_number_gets_a_key_and_na_stays(tmp_path: Path) -> None:
    path = tmp_path / "f.csv.gz"
    path.write_bytes(gzip.compress(b"year,tailnum\n2013,N1\n2013,NA\n2013,\n"))
    assert [flight.key for flight in load_flights(path)] == ["N1", "NA", "unknown"]


def test_a_file_without_tail_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv.gz"
    path.write_bytes(gzip.compress(b"year,month\n2013,1\n"))
    with pytest.raises(ValueError, match="no column tailnum"):
        load_flights(path)


def test_the_same_flights_in_another_order_are_proved() -> None:
    difference = compare([A, B, C], [C, A, B])
    assert difference.is_empty
    assert "PROVED: each of 3 flights" in difference.text()


@pytest.mark.parametrize(
    ("received", "missing", "doubled", "strange"),
    [
        ([A, B], [C], [], []),
        ([A, B, C, C], [], [C], []),
        ([A, B, Flight("N2", "line C")], [C], [], [Flight("N2", "line C")]),
        ([A, B, Flight("N1", "line c")], [C], [], [Flight("N1", "line c")]),
        ([A, A, C], [B], [A], []),
    ],
    ids=["missing", "doubled", "changed", "under another key", "doubled for another"],
)
def test_a_difference_is_seen_and_named(
    received: list[Flight], missing: list[Flight], doubled: list[Flight], strange: list[Flight]
) -> None:
    difference = compare([A, B, C], received)
    assert not difference.is_empty
    assert list(difference.missing) == missing
    assert list(difference.doubled) == doubled
    assert list(difference.strange) == strange
    assert difference.text().startswith("NOT PROVED")


# ruff: noqa: N803 - arguments are named as boto3 names them
class FakeKinesis:
    """Fails every record once; reads back in pages, with an empty page before the last."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.seen: set[bytes] = set()

    def put_records(self, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        results: list[dict[str, str]] = []
        for record in Records:
            if record["Data"] in self.seen:
                self.stored.append(record)
                results.append({"SequenceNumber": "1", "ShardId": "s"})
            else:
                self.seen.add(record["Data"])
                results.append({"ErrorCode": "InternalFailure", "ErrorMessage": ""})
        return {"Records": results}

    def list_shards(self, StreamName: str = "", NextToken: str = "") -> dict[str, Any]:
        if NextToken:
            return {"Shards": [{"ShardId": "1"}]}
        return {"Shards": [{"ShardId": "0"}], "NextToken": "more"}

    def get_shard_iterator(self, ShardId: str, **_: str) -> dict[str, str]:
        return {"ShardIterator": f"{ShardId}/0"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        shard, at = map(int, ShardIterator.split("/"))
        page = self.stored[shard::2][at // 2 : at // 2 + 1] if at % 2 else []
        behind = 0 if at // 2 >= len(self.stored[shard::2]) else 100
        return {
            "Records": page,
            "MillisBehindLatest": behind,
            "NextShardIterator": f"{shard}/{at + 1}",
        }


def test_failed_entries_alone_are_sent_again_and_all_is_read_back() -> None:
    client = FakeKinesis()
    flights = [Flight(f"N{i % 7}", f"line {i}") for i in range(1200)]
    counts = put_through_sdk(client, "s", flights, threads=1)
    assert counts.resent == 1200
    assert counts.calls == 6  # three batches, each sent once whole and once more
    received, shard_count = read_back(client, "s")
    assert shard_count == 2
    assert compare(flights, received).is_empty


@pytest.mark.parametrize("via", ["sdk", "put"])
def test_the_sample_arrives_exactly_once_through_the_real_daemon(
    via: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["demo", "--flights", str(SAMPLE_PATH), "--via", via])
    code = demo.main()
    output = capfd.readouterr()
    assert code == 0, output
    assert "PROVED: each of 5,000 flights arrived exactly once and unchanged" in output.out
