"""`kdaemon put --endpoint` to the real daemon: what is refused ends it, in words."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.daemon import (
    BEFORE,
    ROOT,
    Daemon,
    command,
    environment,
    running,
    sandbox,
    write_config,
)
from tests.kit.endpoints import Endpoint, data_of
from tests.process.conftest import Run


def put(daemon: Daemon, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("put", "--endpoint", daemon.url, *arguments, str(file))


def streams_of(daemon: Daemon) -> list[Counter[str]]:
    return [stored(daemon, stream) for stream in ("demo", "orders")]


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
    assert done.stdout.startswith("sent 1,000 records, acknowledged 0, rejected 1,000 ")


def test_a_missing_stream_ends_it_with_its_reason(run: Run, tmp_path: Path) -> None:
    daemon = run({})
    file = tmp_path / "x"
    file.write_text("line\n" * 5000)
    done = put(daemon, file, "--stream", "nobody")
    assert done.returncode == 1
    assert "ResourceNotFoundException" in done.stderr
    assert done.stdout.startswith("sent 1,000 records, acknowledged 0, rejected 1,000 ")
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


SOON = "import kdaemon.put.waiting as it\nit.LOOK_S = it.TOLD_AFTER_S = 0.1"


@pytest.mark.parametrize("by", ["socket", "endpoint"])
@pytest.mark.parametrize("is_pipe", [True, False])
def test_while_the_service_is_down_put_says_what_it_waits_for(
    tmp_path: Path, by: str, is_pipe: bool
) -> None:
    """In the words of the daemon: `put` said nothing for as long as the service was down."""
    socket = str(tmp_path / "k.sock")
    with running(tmp_path, {"listen.unix": socket}, service="http://127.0.0.1:9") as daemon:
        place = daemon.url.removeprefix("http://")
        client = tmp_path / "client"
        client.mkdir()
        listen = {"unix": socket, "http": place, "admin": daemon.address("admin")[len("http://") :]}
        config = write_config(client, {f"listen.{key}": each for key, each in listen.items()})
        file = tmp_path / "x"
        file.write_text("hello\n")
        where = ["--config", str(config), f"--{by}", socket if by == "socket" else place]
        putting = subprocess.Popen(
            [sys.executable, *BEFORE, "put", "--stream", "demo", *where, "-" if is_pipe else file],
            cwd=ROOT,
            env=environment(KIT_BEFORE=SOON),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert putting.stdin is not None
        assert putting.stderr is not None
        try:
            putting.stdin.write("hello\n")
            putting.stdin.flush()
            line = putting.stderr.readline()
        finally:
            putting.kill()
            putting.communicate()
    assert line.startswith("waiting for ")
    assert "until the daemon answers for 1 record: demo " in line


@pytest.mark.parametrize("way", ["http", "socket"])
def test_lines_that_name_their_streams_need_no_other_word(
    run: Run, tmp_path: Path, way: str
) -> None:
    """As `kdaemon spool export` writes them. A line that names none is told by its number."""
    daemon = run({"streams.orders.acknowledge": "delivered", "listen.unix": str(tmp_path / "s")})
    streams = ("demo", "orders")
    lines = [json.dumps({"data": f"{n}", "stream": streams[n % 2]}) for n in range(3000)]
    lines.insert(5, json.dumps({"data": "lost"}))
    file = tmp_path / "x"
    file.write_text("\n".join(lines))
    where = ("--endpoint", daemon.url) if way == "http" else ("--socket", str(tmp_path / "s"))
    done = command("put", *where, str(file))
    assert done.returncode == 1
    assert done.stderr == (
        'rejected: line 6: names no stream: add "stream" to it, or say --stream NAME\n'
    )
    assert done.stdout.startswith("sent 3,000 records, acknowledged 3,000, rejected 1 ")
    assert streams_of(daemon) == [
        Counter(f"{n}" for n in range(first, 3000, 2)) for first in (0, 1)
    ]
    done = command("put", *where, "--stream", "demo", str(file))
    assert (done.returncode, "lost" in stored(daemon)) == (0 if way == "socket" else 1, True)


@pytest.mark.parametrize("way", ["http", "socket"])
def test_a_stream_that_is_refused_stops_no_other(run: Run, tmp_path: Path, way: str) -> None:
    """Each line has one outcome, and what follows the refused ones is sent."""
    daemon = run({"listen.unix": str(tmp_path / "s")})
    named = ["demo", "missing"] * 1250
    lines = [json.dumps({"data": f"{n}", "stream": stream}) for n, stream in enumerate(named)]
    file = tmp_path / "x"
    file.write_text("\n".join(lines))
    where = ("--endpoint", daemon.url) if way == "http" else ("--socket", str(tmp_path / "s"))
    done = command("put", *where, str(file))
    assert done.returncode == 1
    assert done.stdout.startswith("sent 2,500 records, acknowledged 1,250, rejected 1,250 ")
    assert done.stderr.startswith("rejected: line 2: ")
    assert stored(daemon) == Counter(f"{n}" for n in range(0, 2500, 2))


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("\nhello\n", (), "line 2 is no record line"),
        ('{"data": "x", "id": 1}\n', (), "line 1 is no record line"),
        ("a,b\n1,2\n", ("--csv",), "say --stream NAME"),
        ("x\n", ("--lines",), "say --stream NAME"),
        ('{"a": 1}\n', ("--partition-key-field", "a"), "say --stream NAME"),
    ],
)
def test_data_without_a_stream_is_not_sent(
    tmp_path: Path, content: str, options: tuple[str, ...], told: str
) -> None:
    file = tmp_path / "x"
    file.write_text(content)
    with sandbox() as url:
        done = command("put", "--endpoint", url, *options, str(file))
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "--stream" in done.stderr
