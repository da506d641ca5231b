import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdaemon.base.errors import SpoolError
from kdaemon.base.record import Record
from kdaemon.base.text import printable
from kdaemon.cli import cli
from kdaemon.cli.values_text import age_text, byte_text, read_time, time_text
from kdaemon.cli.watched import verify_watched
from kdaemon.put.lines import Form, LineFormer
from kdaemon.spool import schema
from kdaemon.spool.codec import encode_records
from kdaemon.spool.letters import DeadLetter, LetterFilter
from kdaemon.spool.values import Changes, NewFrame
from kdaemon.spool.view import StoreView
from kdaemon.wire.lines import parse_lines
from tests.kit.patience import PATIENCE_S
from tests.kit.stores import NOW_MS, commit, damage, encode_settled, open_store

MIB = 1024 * 1024
HOUR_MS = 3_600_000


def frame(
    frame_id: int, stream: str, *records: Record, accepted_ms: int = NOW_MS - HOUR_MS
) -> NewFrame:
    return NewFrame(frame_id, stream, len(records), accepted_ms, encode_records(list(records)))


def letter(stream: str = "a", data: bytes = b"x") -> DeadLetter:
    return DeadLetter(stream, "k", None, data, "poison", "Bad", "no", 1, NOW_MS, NOW_MS)


def two_streams(directory: Path) -> None:
    commit(
        directory,
        appended=[
            frame(1, "a", Record(b"one", "k1"), Record(b"\xff\x00", "k2", "7")),
            frame(2, "b", Record(b"other", "k")),
            frame(3, "a", Record("drei \u00e4".encode(), ""), Record(b"four", "k4")),
        ],
        dead=[letter("a"), letter("a"), letter("c")],
    )


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["spool", *arguments], env=env)


def at(command: str, directory: Path, *arguments: str) -> Result:
    return invoke(command, "--directory", str(directory), *arguments)


COMMANDS = ["status", "verify", "export"]


# Which spool


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_spool_every_command_says_what_to_set_and_exits_78(command: str) -> None:
    result = invoke(command)
    assert (result.exit_code, result.stdout) == (78, "")
    assert "spool.directory is not set" in result.stderr
    assert "--directory" in result.stderr


def test_the_directory_comes_from_file_variable_or_flag_and_the_flag_wins(tmp_path: Path) -> None:
    config = tmp_path / "k.toml"
    config.write_text(f'[spool]\ndirectory = "{tmp_path}/by-file"\n')
    by_variable = {"KDAEMON_SPOOL_DIRECTORY": str(tmp_path / "by-variable")}
    for name in ("by-file", "by-variable", "by-flag"):
        commit(tmp_path / name)

    def shown(*arguments: str, env: dict[str, str] | None = None) -> str:
        result = invoke("status", "--json", *arguments, env=env)
        assert result.exit_code == 0, result.stderr
        return Path(json.loads(result.stdout)["directory"]).name

    assert shown("--config", str(config)) == "by-file"
    assert shown(env={"KDAEMON_CONFIG": str(config)}) == "by-file"
    assert shown("--config", str(config), env=by_variable) == "by-variable"
    flag = ("--directory", str(tmp_path / "by-flag"))
    assert shown(*flag, "--config", str(config), env=by_variable) == "by-flag"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_that_is_not_there_is_told_and_is_not_made(
    tmp_path: Path, command: str
) -> None:
    result = at(command, tmp_path / "none")
    assert result.exit_code == 78
    assert result.stderr.startswith(f"{tmp_path / 'none'}: ")
    assert "--directory" in result.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_without_a_spool_is_told_and_none_is_begun(
    tmp_path: Path, command: str
) -> None:
    result = at(command, tmp_path)
    assert result.exit_code == 78
    assert str(tmp_path) in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_database_is_told_and_left_alone(spool: Path) -> None:
    spool.mkdir()
    damage(spool, "CREATE TABLE theirs (x)")
    before = (spool / "spool.db").read_bytes()
    result = at("status", spool)
    assert result.exit_code == 78
    assert result.stderr.startswith(f"{spool}/spool.db: not a database of kdaemon")
    assert (spool / "spool.db").read_bytes() == before


def test_a_newer_spool_is_told_with_what_to_run(spool: Path) -> None:
    commit(spool)
    damage(spool, "PRAGMA user_version = 99")
    result = at("status", spool)
    assert result.exit_code == 78
    assert "written by a newer kdaemon" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["spool", command] for command in COMMANDS]
    + [["dead-letters", command] for command in ("list", "export", "purge", "replay")]
    + [["dead-letters", "show", "1"]],
)
@pytest.mark.parametrize("is_text", [True, False])
def test_a_damaged_schema_is_told_in_words_with_exit_1(
    spool: Path, arguments: list[str], *, is_text: bool
) -> None:
    two_streams(spool)
    content = (spool / "spool.db").read_bytes()
    other = b"CREATE TABME letter" if is_text else b"CREATE TABL\xc5 letter"
    (spool / "spool.db").write_bytes(content.replace(b"CREATE TABLE letter", other))
    result = CliRunner().invoke(cli, [*arguments, "--directory", str(spool)])
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{spool}/spool.db: the database is damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_spool_that_is_locked_is_told_with_exit_1(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_MS", 0)
    commit(spool)
    other = sqlite3.connect(spool / "spool.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    try:
        result = at("status", spool)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert result.exit_code == 1
    assert f"{spool}/spool.db: another process keeps it locked" in result.stderr


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_directory_of_another_user_is_told_with_its_owner(
    spool: Path, monkeypatch: pytest.MonkeyPatch, *, is_wrapped: bool
) -> None:
    denied = PermissionError(13, "Permission denied")
    told = SpoolError("directory", str(spool), "Permission denied")
    told.__cause__ = denied

    def refuse(_directory: str) -> None:
        raise told if is_wrapped else denied

    commit(spool)
    monkeypatch.setattr("kdaemon.spool.view.StoreView", refuse)
    monkeypatch.setattr(Path, "owner", lambda _self: "kdaemon")
    result = at("status", spool)
    assert result.exit_code == 78
    assert result.stderr == (
        f"{spool}: permission denied: run this as kdaemon (sudo -u kdaemon kdaemon ...)\n"
    )


# status


def test_status_counts_each_stream_with_letters_and_quarantine(spool: Path) -> None:
    two_streams(spool)
    damage(spool, "UPDATE frame SET payload = x'00' WHERE id = 2")
    store = open_store(spool)
    store.read("b", 0, MIB)  # puts the damaged frame into quarantine
    store.close()
    result = at("status", spool, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["is_held"], found["daemon_pid"], found["set_aside"]) == (False, None, [])
    assert found["size_bytes"] >= (spool / "spool.db").stat().st_size
    a, b, c = found["streams"]
    assert (a["stream"], a["frames"], a["records"], a["dead_letters"]) == ("a", 2, 4, 2)
    assert a["bytes"] > 0
    assert a["oldest"] == time_text(NOW_MS - HOUR_MS)
    assert a["oldest_age_ms"] == HOUR_MS
    assert (b["stream"], b["frames"], b["quarantined_frames"], b["oldest"]) == ("b", 0, 1, None)
    assert (c["stream"], c["records"], c["dead_letters"]) == ("c", 0, 1)
    lines = at("status", spool).stdout.splitlines()
    assert lines[0].startswith(f"{spool}: ")
    assert lines[0].endswith(" on disk, no daemon runs on it")
    assert lines[1].split() == [
        *("STREAM", "FRAMES", "RECORDS", "SIZE", "OLDEST", "DEAD", "LETTERS", "QUARANTINE")
    ]
    assert lines[2].split()[:3] == ["a", "2", "4"]
    assert lines[2].split()[-2:] == ["2", "0"]
    assert " 1 h " in lines[2]  # and the minutes that this run has taken, if any


def test_status_counts_no_record_of_which_is_known_that_it_is_delivered(spool: Path) -> None:
    """Of a frame of which a part waits for a slower shard."""
    two_streams(spool)
    commit(spool, progress=[(1, encode_settled([0], 2)), (3, encode_settled([1], 2))])
    streams = json.loads(at("status", spool, "--json").stdout)["streams"]
    assert [(each["stream"], each["frames"], each["records"]) for each in streams[:2]] == [
        ("a", 2, 2),
        ("b", 1, 1),
    ]


def test_status_of_an_empty_spool_says_so(spool: Path) -> None:
    commit(spool)
    result = at("status", spool)
    assert result.stdout.splitlines()[-1] == "nothing is stored"


def test_status_says_which_process_holds_the_spool(spool: Path) -> None:
    two_streams(spool)
    store = open_store(spool)
    try:
        text, found = at("status", spool), at("status", spool, "--json")
    finally:
        store.close()
    assert f"a daemon runs on it (pid {os.getpid()})" in text.stdout
    assert json.loads(found.stdout)["daemon_pid"] == os.getpid()


def test_status_names_a_database_that_was_put_aside(spool: Path) -> None:
    commit(spool)
    (spool / "spool.db").write_bytes(b"noise" * 10_000)
    open_store(spool).close()
    (aside,) = [path for path in spool.glob("spool.db.corrupt-*") if path.suffix[-4:] != "-wal"]
    assert f"a damaged database stands aside: {aside}" in at("status", spool).stdout


def test_a_stream_name_cannot_drive_the_terminal(spool: Path) -> None:
    commit(spool, dead=[letter("a\x1b[2J\x07")])
    shown = at("status", spool).stdout
    assert "\x1b" not in shown
    assert r"a\x1b[2J\x07" in shown


# verify


def test_verify_of_a_sound_spool_counts_and_exits_0(spool: Path) -> None:
    two_streams(spool)
    result = at("verify", spool)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{spool}: 3 frames with 5 sound records, 3 dead letters, 0 in quarantine, "
        "no daemon runs on it: all sound\n"
    )


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE frame SET payload = x'00' WHERE id = 2", "frame 2: not what was written"),
        ("UPDATE letter SET data = x'00' WHERE id = 1", "1 dead letter: not what was written"),
        ("UPDATE stream SET frame_count = 9 WHERE name = 'a'", "stream a: the total says 9 frames"),
    ],
)
def test_verify_says_what_is_damaged_and_exits_1(spool: Path, statement: str, told: str) -> None:
    two_streams(spool)
    damage(spool, statement)
    result = at("verify", spool)
    assert result.exit_code == 1
    assert f"{spool}: {told}" in result.stderr
    assert result.stdout.endswith(": DAMAGED\n")


def test_verify_leaves_all_as_it_is(spool: Path) -> None:
    two_streams(spool)
    damage(spool, "UPDATE frame SET payload = x'00' WHERE id = 2")
    before = (spool / "spool.db").read_bytes()
    assert at("verify", spool).exit_code == 1
    assert (spool / "spool.db").read_bytes() == before


def test_ctrl_c_ends_a_verification_and_the_look_stays_usable(spool: Path) -> None:
    two_streams(spool)
    main = threading.main_thread().ident
    assert main is not None
    view = StoreView(str(spool))
    try:
        with pytest.raises(KeyboardInterrupt):
            verify_watched(
                view, lambda count: signal.pthread_kill(main, signal.SIGINT) if count == 1 else None
            )
        assert [totals.stream for totals in view.stored_totals()] == ["a", "b"]
        assert view.verify().is_sound
    finally:
        view.close()


def test_on_a_terminal_verify_shows_a_bar_with_rows(spool: Path) -> None:
    commit(spool, appended=[frame(i, "a", Record(b"x", "k")) for i in range(1, 41)])
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kdaemon", "spool", "verify", "--directory", str(spool)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=PATIENCE_S,
        )
        shown = re.sub(r"\x1b\[[\d;?]*\w", "", os.read(ours, 100_000).decode())
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert "40/40 rows" in shown


# export


def exported(result: Result) -> list[dict[str, str]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_export_writes_each_record_as_a_line_by_stream_in_order(spool: Path) -> None:
    two_streams(spool)
    result = at("export", spool)
    assert (result.exit_code, result.stderr) == (0, "exported 5 records\n")
    assert exported(result) == [
        {"stream": "a", "partition_key": "k1", "data": "one"},
        {"stream": "a", "partition_key": "k2", "explicit_hash_key": "7", "data_base64": "/wA="},
        {"stream": "a", "data": "drei \u00e4"},
        {"stream": "a", "partition_key": "k4", "data": "four"},
        {"stream": "b", "partition_key": "k", "data": "other"},
    ]
    assert len(exported(at("export", spool, "--stream", "b"))) == 1
    assert exported(at("export", spool, "--stream", "nobody's")) == []


def test_what_is_exported_is_what_put_sends_and_the_daemon_takes(spool: Path) -> None:
    two_streams(spool)
    lines: list[bytes | None] = [*at("export", spool).stdout_bytes.splitlines()]
    sent = b"".join(line for _, line in LineFormer(Form()).form(lines) if isinstance(line, bytes))
    parsed = parse_lines(sent)
    assert parsed.rejected == []
    assert parsed.by_stream["a"].records == [
        Record(b"one", "k1"),
        Record(b"\xff\x00", "k2", "7"),
        Record("drei \u00e4".encode(), ""),
        Record(b"four", "k4"),
    ]


def test_export_leaves_out_what_is_known_to_be_settled(spool: Path) -> None:
    two_streams(spool)
    commit(spool, progress=[(1, encode_settled([0], 2))], settled=[2])
    result = at("export", spool)
    assert [line["data"] for line in exported(result) if "data" in line] == ["drei \u00e4", "four"]
    assert result.stderr == "exported 3 records, left out 1 known to be settled\n"


def test_export_of_more_than_one_read_holds_every_record_once(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaemon.cli.reading.READ_BYTES_MAX", 100)
    frames = [frame(i, "ab"[i % 2], Record(b"%d" % i, "k")) for i in range(1, 61)]
    commit(spool, appended=frames)
    told = [(line["stream"], line["data"]) for line in exported(at("export", spool))]
    assert told == sorted((("ab"[i % 2], f"{i}") for i in range(1, 61)), key=lambda each: each[0])


def test_export_tells_damaged_frames_and_writes_the_rest(spool: Path) -> None:
    two_streams(spool)
    damage(spool, "UPDATE frame SET payload = x'00' WHERE id = 1")
    result = at("export", spool)
    assert result.exit_code == 1
    assert [line["stream"] for line in exported(result)] == ["a", "a", "b"]
    assert "left out 1 damaged frame: `kdaemon spool verify` names them" in result.stderr


def test_export_refuses_while_a_daemon_runs_unless_it_is_asked_for(spool: Path) -> None:
    two_streams(spool)
    store = open_store(spool)
    try:
        refused, allowed = at("export", spool), at("export", spool, "--while-running")
    finally:
        store.close()
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"{spool}: a daemon runs on it (pid {os.getpid()})" in refused.stderr
    assert "--while-running" in refused.stderr
    assert allowed.exit_code == 0
    assert len(exported(allowed)) == 5
    assert "may have been delivered" in allowed.stderr


def test_export_to_a_file_is_for_its_owner_only_and_overwrites_nothing(
    spool: Path, tmp_path: Path
) -> None:
    two_streams(spool)
    out = tmp_path / "out"
    result = at("export", spool, "--output", str(out))
    assert (result.stdout, result.stderr) == ("", f"exported 5 records: {out}\n")
    assert len(out.read_bytes().splitlines()) == 5
    assert out.stat().st_mode & 0o777 == 0o600
    again = at("export", spool, "--output", str(out), "--stream", "b")
    assert again.exit_code == 1
    assert again.stderr.startswith(f"{out}: exists, and is not overwritten")
    assert len(out.read_bytes().splitlines()) == 5
    nowhere = at("export", spool, "--output", str(tmp_path / "no" / "out"))
    assert nowhere.exit_code == 1
    assert nowhere.stderr.startswith(f"cannot write {tmp_path}/no/out: No such file")


def run_export(spool: Path, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kdaemon", "spool", "export", "--directory", str(spool)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, **more)


def big(spool: Path) -> None:
    frames = [frame(i, "a", *[Record(b"x" * 1000, "k")] * 1000) for i in range(1, 5)]
    commit(spool, appended=frames)


def test_an_export_that_the_disk_cannot_hold_says_so_and_leaves_no_half_file(
    spool: Path, tmp_path: Path
) -> None:
    big(spool)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

    out = tmp_path / "out"
    with run_export(spool, "--output", str(out), preexec_fn=limit) as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.decode().startswith(f"cannot write {out}: ")
    assert not out.exists()


def test_an_export_whose_reader_goes_away_ends_quietly(spool: Path) -> None:
    big(spool)
    with run_export(spool) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"stream":"a"')
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(PATIENCE_S)
    assert err == b""
    assert process.returncode == 1


# Texts


def test_sizes_and_ages_are_short() -> None:
    assert [byte_text(n) for n in (0, 1023, 1536, 5 * MIB)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
    ]
    ages = {-5: "0 s", 999: "0 s", 61_000: "1 min 1 s", HOUR_MS: "1 h", 90_000_000: "1 d 1 h"}
    assert {age: age_text(age) for age in ages} == ages


def test_times_are_read_as_they_are_shown_and_as_durations() -> None:
    now_ms = 1_795_000_000_123
    assert read_time(time_text(now_ms), 0) == now_ms
    assert read_time("1970-01-01", 0) == 0
    assert read_time("1970-01-01T01:00+01:00", 0) == 0
    assert read_time("1970-01-01T00:00:01.5", 0) == 1500
    durations = {"90s": 90, "5m": 300, "5min": 300, "2h": 7200, "1d12h": 129_600, "1w": 604_800}
    assert {text: (now_ms - read_time(text, now_ms)) // 1000 for text in durations} == durations
    assert time_text(2**62) == str(2**62)


@pytest.mark.parametrize(
    "text", ["", "2", "h", "yesterday", "2026-13-01", "-2h", "99999999999999999w"]
)
def test_what_is_no_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; expected one like"):
        read_time(text, 0)


def test_only_what_is_invisible_is_escaped() -> None:
    assert printable("gr\u00fcn \u4e2d") == "gr\u00fcn \u4e2d"
    escape: Callable[[str], str] = printable
    assert escape("\x1b]0;x\x07\u202e\n") == r"\x1b]0;x\x07\u202e\n"


# drop


def streams_of(directory: Path) -> dict[str, int]:
    view = StoreView(str(directory))
    try:
        return {totals.stream: totals.record_count for totals in view.stored_totals()}
    finally:
        view.close()


def test_drop_deletes_what_is_stored_of_one_stream_and_says_how_much(spool: Path) -> None:
    two_streams(spool)
    dry = at("drop", spool, "--stream", "a", "--dry-run")
    assert (dry.exit_code, streams_of(spool)) == (0, {"a": 4, "b": 1})
    told = re.sub(r"\(\d+ B\)", "(N B)", dry.stdout)
    assert told == "would delete 4 records in 2 frames (N B) of a\n"
    result = at("drop", spool, "--stream", "a", "--yes")
    assert (result.exit_code, streams_of(spool)) == (0, {"b": 1})
    told = re.sub(r"\(\d+ B\)", "(N B)", result.stdout)
    assert told == "deleted 4 records in 2 frames (N B) of a\n"
    view = StoreView(str(spool))
    assert view.letters.count(LetterFilter()).letter_count == 3, "dead letters stay"
    assert view.verify().is_sound
    view.close()
    assert at("drop", spool, "--stream", "a").stdout == "nothing is stored of a\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [("n\n", "nothing is deleted\n"), ("", "nobody answers, and nothing is deleted")],
)
def test_drop_asks_first(spool: Path, answer: str, told: str) -> None:
    two_streams(spool)
    arguments = ["spool", "drop", "--directory", str(spool), "--stream", "a"]
    result = CliRunner().invoke(cli, arguments, input=answer)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "delete 4 records in 2 frames" in result.stderr
    assert told in result.stderr
    assert streams_of(spool) == {"a": 4, "b": 1}
    assert CliRunner().invoke(cli, arguments, input="y\n").exit_code == 0
    assert streams_of(spool) == {"b": 1}


def test_drop_refuses_while_a_daemon_runs(spool: Path) -> None:
    two_streams(spool)
    store = open_store(spool)
    try:
        assert at("drop", spool, "--stream", "a", "--dry-run").exit_code == 0
        result = at("drop", spool, "--stream", "a", "--yes")
    finally:
        store.close()
    assert result.exit_code == 1
    assert f"a daemon runs on it (pid {os.getpid()}): stop it" in result.stderr
    assert streams_of(spool) == {"a": 4, "b": 1}


def test_drop_deletes_damaged_frames_too_and_gives_the_space_back(spool: Path) -> None:
    big = [frame(number, "a", Record(bytes(900_000), "k")) for number in range(1, 60)]
    commit(spool, appended=[*big, frame(60, "b", Record(b"x", "k"))])
    damage(spool, "UPDATE frame SET checksum = 0 WHERE id = 1")
    store = open_store(spool)
    store.read("a", 0, 1)
    store.close()
    before = (spool / "spool.db").stat().st_size
    result = at("drop", spool, "--stream", "a", "--yes")
    assert "deleted 58 records in 58 frames (49.8 MiB) and 1 damaged frame of a" in result.stdout
    assert (spool / "spool.db").stat().st_size < before // 10
    assert streams_of(spool) == {"b": 1}


def test_drop_makes_no_spool(tmp_path: Path) -> None:
    result = at("drop", tmp_path / "none", "--stream", "a", "--yes")
    assert result.exit_code == 78
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("spool", "status"),
        ("spool", "verify"),
        ("spool", "drop", "--stream", "s"),
        ("spool", "export", "-o", "{place}/out"),
        ("dead-letters", "list"),
        ("dead-letters", "show", "1"),
        ("dead-letters", "purge"),
        ("dead-letters", "export", "-o", "{place}/out"),
        ("check",),
    ],
)
def test_a_place_of_any_name_is_printed_without_what_moves_a_terminal(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    place = tmp_path / "a\x1b[31m\u202e\x9b\x07"
    place.mkdir()
    open_store(place / "spool").close()
    config = place / "k.toml"
    config.write_text("")
    words = [word.format(place=place) for word in command]
    options = ["--config", str(config)]
    if len(words) > 1:
        options += ["--directory", str(place / "spool")]
    for _ in range(2):  # the second time its output exists
        done = CliRunner().invoke(cli, [*words, *options], input="n\n")
        assert done.output
        assert not set(done.output) & set("\x1b\u202e\x9b\x07"), done.output


@pytest.mark.parametrize("value", ["x'ff00'", "'\x1b[31m'", "1.5", "-1", "''"])
@pytest.mark.parametrize(
    "column",
    ["total.next_frame_id", "stream.frame_count", "stream.record_count", "stream.byte_count",
     "frame.accepted_ms", "frame.record_count", "letter.stream", "letter.byte_count"],
)  # fmt: skip
def test_a_damaged_value_of_any_type_is_no_traceback(spool: Path, column: str, value: str) -> None:
    """One bit of a row's head makes a text or a blob of a number."""
    store = open_store(spool)
    letter = DeadLetter("s", "k", None, b"a", "poison", "X", "No.", 1, NOW_MS, NOW_MS)
    store.commit(Changes(appended=[frame(1, "s", Record(b"a", "k"))], dead=[letter]))
    store.close()
    table, name = column.split(".")
    with contextlib.closing(sqlite3.connect(spool / "spool.db")) as connection, connection:
        connection.execute(f"UPDATE {table} SET {name} = {value}")
    for words in (
        ("spool", "status"),
        ("spool", "status", "--json"),
        ("spool", "verify"),
        ("spool", "export", "-o", "-"),
        ("spool", "drop", "--stream", "s", "--dry-run"),
        ("dead-letters", "list"),
        ("dead-letters", "show", "1"),
        ("dead-letters", "export", "-o", "-"),
    ):
        done = CliRunner().invoke(cli, [*words, "--directory", str(spool)])
        assert done.exception is None or isinstance(done.exception, SystemExit), (
            words,
            done.output,
        )
