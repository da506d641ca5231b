"""`kdaemon put --endpoint` to the real daemon: what is refused ends it, in words."""

import gzip
import json
import subprocess
from collections import Counter
from pathlib import Path

from tests.kit.daemon import Daemon, command
from tests.kit.endpoints import Endpoint, data_of
from tests.process.conftest import Run


def put(daemon: Daemon, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("put", "--endpoint", daemon.url, *arguments, str(file))


def stored(daemon: Daemon, stream: str = "demo") -> Counter[str]:
    endpoint = Endpoint.of(daemon)
    return Counter(data_of(record).decode() for record in endpoint.read_stream(stream))


def test_records_of_a_csv_with_lines_inside_arrive_whole(run: Run, tmp_path: Path) -> None:
    daemon = run({})
    rows = [f'{number},"two\r\nlines, of ""text"" {number}"' for number in range(1500)]
    file = tmp_path / "x.csv.gz"
    file.write_bytes(gzip.compress(("\ufeffid,text\r\n" + "\r\n".join(rows)).encode()))
    done = put(daemon, file, "--stream", "demo", "--csv", "--partition-key-field", "id")
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(daemon) == Counter(rows)


def test_a_promise_that_cannot_be_given_ends_it_with_its_reason(run: Run, tmp_path: Path) -> None:
    daemon = run({})
    file = tmp_path / "x"
    file.write_text("line\n" * 5000)
    done = put(daemon, file, "--stream", "demo", "--acknowledge", "stored")
    assert done.returncode == 1
    assert "the daemon refuses: HTTP 400 " in done.stderr
    assert "no spool" in done.stderr
    assert done.stdout.startswith("sent 1,000 records, acknowledged 0, ")


def test_a_missing_stream_ends_it_with_its_reason(run: Run, tmp_path: Path) -> None:
    daemon = run({})
    file = tmp_path / "x"
    file.write_text("line\n" * 5000)
    done = put(daemon, file, "--stream", "nobody")
    assert done.returncode == 1
    assert "ResourceNotFoundException" in done.stderr
    assert done.stdout.startswith("sent 1,000 records, acknowledged 0, ")


def test_blocks_of_bad_lines_are_rejected_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    daemon = run({})
    good = [json.dumps({"data": f"{number}"}) for number in range(1500)]
    lines = [*good[:1], *['{"data": 7}'] * 2500, *good[1:]]
    file = tmp_path / "x"
    file.write_text("\n".join(lines))
    done = put(daemon, file, "--stream", "demo")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("rejected: line 2: ")
    assert "rejected: and 2,495 more" in done.stderr
    assert done.stdout.startswith("sent 4,000 records, acknowledged 1,500, rejected 2,500 ")
    assert sum(stored(daemon).values()) == 1500
