import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from kdaemon import build
from kdaemon.cli import cli, common
from tests.kit.certificates import Authority, Files
from tests.kit.patience import PATIENCE_S

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), env=env)


# Configuration


def test_version_says_name_version_and_build() -> None:
    said = invoke("--version").stdout
    assert re.fullmatch(rf"kdaemon \d+\.\d+\.\d+ \({build()}\)\n", said)


def test_check_says_ok_how_many_streams_and_where_else_calls_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k.toml"
    path.write_text("[streams.a]\n[streams.b]\n")
    assert invoke("check", "--config", str(path)).stdout == f"{path}: ok, 2 streams\n"
    assert invoke("check", "--config", str(EXAMPLE)).stdout == f"{EXAMPLE}: ok, 0 streams\n"
    assert invoke("check").stdout == "defaults and environment: ok, 0 streams\n"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:4566")
    told = "upstream default is called at http://localhost:4566, by AWS_ENDPOINT_URL\n"
    assert invoke("check").stdout.endswith(told)
    given = invoke("check", "--set", "endpoint_url=http://localhost:1").stdout
    assert given.endswith("is called at http://localhost:1, by endpoint_url\n")


@pytest.mark.parametrize(
    ("mode", "exit_code", "told"),
    [
        (0o700, 0, ""),
        (0o775, 0, "may write there (mode 0775)"),
        (0o777, 78, "everybody may write there (mode 0777): chmod 0700 it"),
    ],
)
def test_check_says_who_may_write_to_the_spool(
    tmp_path: Path, mode: int, exit_code: int, told: str
) -> None:
    spool = tmp_path / "spool"
    setting = f"spool.directory={spool}"
    assert invoke("check", "--set", setting).exit_code == 0, "it may be made"
    spool.mkdir()
    spool.chmod(mode)
    result = invoke("check", "--set", setting)
    assert result.exit_code == exit_code
    assert told in result.stderr
    assert bool(result.stderr) is bool(told)
    assert ("ok" in result.stdout) is (exit_code == 0)
    assert not list(spool.iterdir())


@pytest.mark.parametrize("command", ["check", "run", "sandbox"])
def test_every_problem_is_told_on_standard_error_and_the_exit_is_78(
    tmp_path: Path, command: str
) -> None:
    path = tmp_path / "k.toml"
    path.write_text("service = 'gcp'\nregoin = 'x'\n")
    result = invoke(
        command, "--config", str(path), "--set", "log.level=loud", env={"KDAEMON_STREAMS_MAX": "x"}
    )
    assert (result.exit_code, result.stdout) == (78, "")
    told = [line.split(": ")[:2] for line in result.stderr.splitlines()]
    assert told == [
        [str(path), "service"],
        [str(path), "regoin"],
        ["environment", "KDAEMON_STREAMS_MAX"],
        ["flags", "log.level"],
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "file: cannot be read: No such file or directory"),
        (b"region = '\xff'", "file: is not UTF-8 text (byte 10); expected TOML"),
        (b"region = ", "line 1: is not TOML: Invalid value"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_all_other_problems(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "k.toml"
    if content is not None:
        path.write_bytes(content)
    result = invoke("check", "--config", str(path), env={"KDAEMON_LOG_LEVEL": "loud"})
    assert result.exit_code == 78
    assert result.stderr.startswith(f"{path}: {told}")
    assert "KDAEMON_LOG_LEVEL" in result.stderr


@pytest.mark.parametrize(
    ("command", "without"),
    [
        (("health",), "--admin URL"),
        (("status",), "--admin URL"),
        (("top",), "--admin URL"),
        (("tap", "--stream", "demo"), "--admin URL"),
        (("put", "--stream", "demo"), "--socket PATH or --endpoint HOST:PORT"),
        (("spool", "status"), "--directory DIR"),
        (("dead-letters", "list"), "--directory DIR"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_a_command_that_only_looks_something_up_in_a_broken_file_says_how_to_do_without_it(
    tmp_path: Path, command: tuple[str, ...], without: str
) -> None:
    """The daemon runs on, and is asked most when its file has just been broken."""
    path = tmp_path / "k.toml"
    path.write_text("regoin = 'x'\n")
    result = invoke(*command, "--config", str(path))
    assert (result.exit_code, result.stdout) == (78, "")
    problem, hint = result.stderr.splitlines()
    assert "regoin" in problem
    assert hint.startswith(f"without a configuration: {without}")


def test_the_flag_wins_over_the_variable_that_names_the_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("")
    bad.write_text("service = 1")
    assert invoke("check", env={"KDAEMON_CONFIG": str(bad)}).exit_code == 78
    result = invoke("check", "--config", str(good), env={"KDAEMON_CONFIG": str(bad)})
    assert result.exit_code == 0


def test_a_setting_without_a_value_is_wrong_usage() -> None:
    assert invoke("check", "--set", "log.level").exit_code == 2


def test_check_looks_at_the_files_of_every_upstream_and_tells_all_at_once(tmp_path: Path) -> None:
    path, token = tmp_path / "k.toml", tmp_path / "token"
    token.write_text("two\nlines")
    path.write_text(
        f"[upstreams.ya]\nservice = 'yandex'\niam_token_file = '{token}'\nca_file = '/none.pem'\n"
        "[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '111111111111'\nprofile = 'nope'\n"
    )
    none = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    result = invoke(
        "check", "--config", str(path), env={**none, "AWS_CA_BUNDLE": "/none-either.pem"}
    )
    assert result.exit_code == 78
    lines = result.stderr.splitlines()
    assert [line.partition(":")[2].split(":")[0].strip() for line in lines] == [
        *("AWS_CA_BUNDLE", "upstreams.ya.ca_file"),
        *("upstreams.ya.iam_token_file", "upstreams.eu.profile"),
    ]
    token.write_text("t1.a-token")
    token.chmod(0o600)
    path.write_text(f"[upstreams.ya]\nservice = 'yandex'\niam_token_file = '{token}'\n")
    result = invoke("check", "--config", str(path), env=none)
    assert result.exit_code == 0, result.stderr
    assert "1 upstream beside the default one" in result.stdout


def test_sandbox_flags_are_settings_and_are_checked_as_such() -> None:
    result = invoke("sandbox", "--listen", "0.0.0.0:1", "--shards", "0")
    assert result.exit_code == 78
    assert "flags: sandbox.listen: address 0.0.0.0 faces other machines" in result.stderr
    assert "flags: sandbox.shard_count: is " in result.stderr


def test_a_wrong_configuration_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys, kdaemon.__main__ as m\n"
        "try: m.main()\n"
        "except SystemExit as e: code = e.code\n"
        "print(code, sorted({'botocore', 'aiohttp', 'rich', 'uvloop'} & set(sys.modules)))"
    )
    path = tmp_path / "k.toml"
    path.write_text("service = 1")
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "78 []\n"


async def sandbox(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kdaemon", "sandbox", *arguments), stdout=PIPE, stderr=PIPE
    )


async def test_sandbox_says_where_it_listens_and_sigterm_ends_it_with_0() -> None:
    process = await sandbox("--listen", "127.0.0.1:0", "--stream", "a", "--stream", "b")
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert process.stderr is not None
            line = json.loads(await process.stderr.readline())
            assert line["fields"]["streams"] == "a,b"
            at = urlsplit(line["fields"]["at"])
            _, writer = await asyncio.open_connection(at.hostname, at.port)
            writer.close()
            await writer.wait_closed()
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sandbox_on_a_port_that_is_taken_says_so_and_exits_1() -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with taken, asyncio.timeout(PATIENCE_S):
        address = f"127.0.0.1:{taken.sockets[0].getsockname()[1]}"
        process = await sandbox("--listen", address)
        _, err = await process.communicate()
    assert process.returncode == 1
    told = f"cannot start: sandbox.listen: cannot listen on {address}: "
    assert json.loads(err)["text"].startswith(told)


# put: where it goes


def test_check_reads_certificates_and_says_what_is_wrong(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = tmp_path / "k.toml"

    def check(table: str, files: Files) -> Result:
        path.write_text(
            f'[{table}]\ntls_certificate = "{files.certificate}"\ntls_key = "{files.key}"\n'
        )
        return invoke("check", "--config", str(path))

    good = check("listen", authority.issue())
    assert (good.exit_code, good.stderr) == (0, "")
    near = check("listen", authority.issue(ends=3.5))
    assert near.exit_code == 0
    assert "expires in 3 days" in near.stderr
    for table in ("listen", "sandbox"):
        for how, told in (({"begins": -9, "ends": -1}, "has expired"), ({"names": ()}, "no host")):
            files = authority.issue(**how)
            wrong = check(table, files)
            assert wrong.exit_code == 78
            assert wrong.stderr.startswith(f"{path}: {table}.tls_certificate: {files.certificate}")
            assert told in wrong.stderr
    missing = Files(tmp_path / "none", tmp_path / "none", authority.path)
    assert "cannot be read" in check("sandbox", missing).stderr


def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> object:
    monkeypatch.setattr(common, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    flags = [(f"listen.{key}", value) for key, value in settings.items()]
    return common.find_daemon(common.load(None, flags, ""))


def test_put_finds_the_socket_of_the_user_then_the_systems_then_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find(tmp_path, monkeypatch) == (None, "127.0.0.1:8990")
    over_tls = {"tls_certificate": "/c", "tls_key": "/k"}
    assert find(tmp_path, monkeypatch, **over_tls) == (None, "https://127.0.0.1:8990")
    (tmp_path / "system.sock").touch()
    assert find(tmp_path, monkeypatch) == (str(tmp_path / "system.sock"), None)
    (tmp_path / "kdaemon").mkdir()
    (tmp_path / "kdaemon" / "kdaemon.sock").touch()
    assert find(tmp_path, monkeypatch) == (str(tmp_path / "kdaemon" / "kdaemon.sock"), None)


def test_put_takes_the_socket_that_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find(tmp_path, monkeypatch, unix="/srv/k.sock") == ("/srv/k.sock", None)
    assert find(tmp_path, monkeypatch, unix="", http="127.0.0.1:1") == (None, "127.0.0.1:1")


@pytest.mark.parametrize(
    "command",
    [
        *("put", "tap", "check --service", "iam", "init", "spool export", "spool drop"),
        *("dead-letters list", "dead-letters export", "dead-letters purge", "dead-letters replay"),
    ],
)
def test_a_stream_that_is_no_text_is_wrong_usage(command: str) -> None:
    """A command line may have any bytes."""
    result = invoke(*command.split(), "--stream", "orders\udcff")
    assert result.exit_code == 2, result.stderr
    assert "is not UTF-8 text" in result.stderr
    for option in ("--spool", "--region", "--endpoint-url"):
        assert invoke("init", "--stream", "orders", option, "/a\udcff").exit_code == 2


@pytest.mark.parametrize("command", ["spool status", "spool verify", "dead-letters list"])
def test_a_directory_that_no_system_has_is_said(command: str) -> None:
    result = invoke(*command.split(), "--directory", f"/{'a' * 3000}")
    assert result.exit_code == 78
    assert "File name too long" in result.stderr


@pytest.mark.parametrize("setting", ["=1", " =1", "log.level"])
def test_a_setting_without_its_key_or_sign_is_wrong_usage(setting: str) -> None:
    result = invoke("check", "--set", setting)
    assert result.exit_code == 2
    assert "expected KEY=VALUE" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [("stauts", "'stauts'. Did you mean 'status'?\n"), ("xyzzy", "'xyzzy'.\n")],
)
def test_a_command_that_there_is_not_is_told_with_the_one_that_is_near(
    typed: str, said: str
) -> None:
    result = invoke(typed)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: No such command {said}")


def test_put_says_that_no_listener_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    path.write_text(
        'listen = {http = "", unix = ""}\n[streams.a]\nlines = "raw"\nsocket = "/srv/a.sock"\n'
    )
    result = invoke("put", "--stream", "a", "--config", str(path))
    assert result.exit_code == 1
    assert "listen.http and listen.unix are both off: --socket PATH" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--partition-key", "k", "--partition-key-field", "f"],
        ["--lines", "--csv"],
        ["--socket", "/s", "--endpoint", "h:1"],
        ["--endpoint", "h:1", "--acknowledge", "none"],
        ["--acknowledge", "maybe"],
    ],
)
def test_put_refuses_options_that_exclude_each_other(arguments: list[str]) -> None:
    assert invoke("put", "--stream", "s", *arguments).exit_code == 2


def test_put_of_a_file_that_is_not_there_says_so() -> None:
    result = invoke("put", "--stream", "s", "--socket", "/nowhere", "/nowhere/x")
    assert (result.exit_code, result.stderr) == (
        1,
        "cannot read /nowhere/x: No such file or directory\n",
    )


def test_put_without_a_daemon_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a\n")
    result = invoke("put", "--stream", "s", "--socket", str(tmp_path / "s"), str(file))
    assert result.exit_code == 1
    assert "start it with `kdaemon run`, or name its socket with --socket" in result.stderr
    assert result.stdout.startswith("sent 0 records, acknowledged 0, rejected 0 in ")


# put: the real command against a stand-in for the daemon


class Daemon:
    """Takes NDJSON on a Unix socket; rejects lines with `bad`; acknowledges others if it may."""

    def __init__(self, *, is_silent: bool = False, reason: str = "no") -> None:
        self.is_silent = is_silent
        self.reason = reason
        self.records: list[Any] = []
        self.has_record = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        taken = 0
        while line := await reader.readline():
            self.records.append(json.loads(line))
            self.has_record.set()
            if b"bad" in line:
                number = len(self.records) + 1
                answer = {"rejected": number, "code": "Bad", "message": self.reason}
                writer.write(json.dumps(answer).encode() + b"\n")
            elif not self.is_silent:
                taken += 1
                writer.write(b'{"acknowledged":%d}\n' % taken)
        writer.close()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self.talk, path)
        async with server:
            yield


@asynccontextmanager
async def put(tmp_path: Path, *arguments: str, **pipes: Any) -> AsyncIterator[Process]:
    """`kdaemon put` as its own process, which is gone at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kdaemon", "put", "--stream", "s"),
        *("--socket", str(tmp_path / "s"), *arguments),
        **{"stdin": PIPE, "stdout": PIPE, "stderr": PIPE} | pipes,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


SUMMARY = r"sent {}, acknowledged {}, rejected {} in \d+\.\d s \([\d,]+ records/s\)\n"


async def test_put_takes_standard_input_and_exits_0_when_all_is_acknowledged(
    tmp_path: Path,
) -> None:
    daemon = Daemon()
    async with daemon.listening(tmp_path / "s"), put(tmp_path, "--partition-key", "k") as process:
        out, err = await process.communicate(b"one\ntwo")
    assert (process.returncode, err) == (0, b"")
    assert re.fullmatch(SUMMARY.format("2 records", 2, 0), out.decode())
    assert daemon.records == [
        {"data": "one", "partition_key": "k"},
        {"data": "two", "partition_key": "k"},
    ]


async def test_put_takes_a_csv_in_gzip_with_its_key_from_a_column(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    file.write_bytes(gzip.compress(b"id,name\n1,ann\n2,bob\n"))
    daemon = Daemon()
    arguments = ("--csv", "--partition-key-field", "name", str(file))
    async with daemon.listening(tmp_path / "s"), put(tmp_path, *arguments) as process:
        await process.communicate()
    assert process.returncode == 0
    assert [(r["partition_key"], r["data"]) for r in daemon.records] == [
        ("ann", "1,ann"),
        ("bob", "2,bob"),
    ]


async def test_put_exits_1_and_shows_the_first_reasons_when_lines_are_rejected(
    tmp_path: Path,
) -> None:
    daemon = Daemon()
    async with daemon.listening(tmp_path / "s"), put(tmp_path) as process:
        out, err = await process.communicate(b"good\n" + b"bad\n" * 7)
    assert process.returncode == 1
    assert err.decode().splitlines() == [
        *(f"rejected: line {number}: Bad: no" for number in range(2, 7)),
        "rejected: and 2 more",
    ]
    assert re.fullmatch(SUMMARY.format("8 records", 1, 7), out.decode())


async def test_ctrl_c_ends_put_with_what_is_known_so_far_and_130(tmp_path: Path) -> None:
    daemon = Daemon(is_silent=True)
    async with daemon.listening(tmp_path / "s"), put(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        await daemon.has_record.wait()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        assert await process.wait() == 130
    assert err == b"interrupted with 1 record unanswered\n"
    assert re.fullmatch(SUMMARY.format("1 record", 0, 0), out.decode())


NASTY = "\x1b]0;x\x07\x9b31m\u202e"  # ESC, OSC, C1, a bidirectional override
NASTY_SHOWN = r"\x1b]0;x\x07\x9b31m\u202e"


async def test_what_a_file_or_a_daemon_says_is_printed_without_control_characters(
    tmp_path: Path,
) -> None:
    daemon = Daemon(reason=NASTY)
    async with daemon.listening(tmp_path / "s"), put(tmp_path) as process:
        _, err = await process.communicate(b"bad\n")
    assert err.decode() == f"rejected: line 1: Bad: {NASTY_SHOWN}\n"
    arguments = ("--csv", "--partition-key-field", "key")
    async with daemon.listening(tmp_path / "s"), put(tmp_path, *arguments) as process:
        _, err = await process.communicate(f"{NASTY},id\n1,2\n".encode())
    assert process.returncode == 1
    assert err.decode() == f'no column "key"; the header has: {NASTY_SHOWN}, id\n'


@pytest.mark.parametrize("is_good", [True, False])
async def test_that_nobody_reads_the_summary_changes_nothing(tmp_path: Path, is_good: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        daemon = Daemon()
        async with daemon.listening(tmp_path / "s"), put(tmp_path, stdout=writing) as process:
            _, err = await process.communicate(b"one\n" if is_good else b"bad\n")
    finally:
        os.close(writing)
    assert (process.returncode, err) == (
        (0, b"") if is_good else (1, b"rejected: line 1: Bad: no\n")
    )


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(ours, the program's) ends of a terminal."""
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


async def test_on_a_terminal_put_shows_a_bar_with_bytes_and_records(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    file = tmp_path / "x"
    file.write_text("line\n" * 300)
    daemon = Daemon()
    async with (
        daemon.listening(tmp_path / "s"),
        put(tmp_path, str(file), stderr=terminal[1]) as process,
    ):
        await process.communicate()
    assert process.returncode == 0
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", os.read(terminal[0], 100_000).decode())
    assert "1.5/1.5 KiB 300 records" in shown
