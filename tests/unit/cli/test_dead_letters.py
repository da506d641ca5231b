import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdaemon.cli import cli
from kdaemon.cli.values_text import time_text
from kdaemon.spool.letters import DeadLetter, LetterFilter
from kdaemon.spool.values import Changes
from kdaemon.spool.view import StoreView
from tests.kit.daemon import environment, get, running
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.stores import NOW_MS, commit, damage, open_store
from tests.kit.web import Handler, serving

MIB = 1024 * 1024
HOUR_MS = 3_600_000


def letter(
    data: bytes = b"secret",
    stream: str = "a",
    *,
    key: str = "k",
    hash_key: str | None = None,
    reason: str = "poison",
    age_h: float = 0.5,
    message: str = "no",
) -> DeadLetter:
    last_ms = NOW_MS - int(age_h * HOUR_MS)
    return DeadLetter(
        *(stream, key, hash_key, data, reason, "Bad", message, 3), NOW_MS - 9 * HOUR_MS, last_ms
    )


def bury(directory: Path, *letters: DeadLetter) -> None:
    commit(directory, dead=list(letters))


def left(directory: Path) -> list[int]:
    """Ids of the letters that are there."""
    view = StoreView(str(directory))
    try:
        return [each.id for each in view.letters.select(LetterFilter())]
    finally:
        view.close()


def at(command: str, directory: Path, *arguments: str, answer: str | None = None) -> Result:
    command_line = ["dead-letters", command, "--directory", str(directory), *arguments]
    return CliRunner().invoke(cli, command_line, input=answer)


def ids(result: Result) -> list[int]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def four(directory: Path) -> None:
    bury(
        directory,
        letter(b"one", "a", reason="poison", age_h=5),
        letter(b"two", "b", reason="expired", age_h=3),
        letter(b"three", "a", reason="expired", age_h=1),
        letter(b"four", "b", reason="poison", age_h=0.5),
    )


# list, show, export


@pytest.mark.parametrize("command", ["list", "export", "purge", "replay", "show"])
def test_without_a_spool_every_command_says_what_to_set_and_exits_78(
    command: str, tmp_path: Path
) -> None:
    more = ["1"] if command == "show" else []
    unset = CliRunner().invoke(cli, ["dead-letters", command, *more])
    assert (unset.exit_code, unset.stdout) == (78, "")
    assert "spool.directory is not set" in unset.stderr
    missing = at(command, tmp_path / "none", *more)
    assert missing.exit_code == 78
    assert missing.stderr.startswith(f"{tmp_path}/none: ")


def test_list_shows_the_newest_first_and_no_data(spool: Path) -> None:
    four(spool)
    result = at("list", spool)
    heading, *rows = [line.split() for line in result.stdout.splitlines()]
    assert heading == ["ID", "DIED", "STREAM", "REASON", "CODE", "ATTEMPTS", "SIZE", "KEY"]
    assert [row[0] for row in rows] == ["4", "3", "2", "1"]
    died = time_text(NOW_MS - HOUR_MS // 2, "seconds")
    assert rows[0] == ["4", died, "b", "poison", "Bad", "3", "4", "B", "k"]
    for word in ("one", "two", "three", "four"):
        assert word not in result.stdout


def test_on_a_narrow_terminal_the_list_cuts_names_and_no_number(spool: Path) -> None:
    bury(spool, letter(b"x" * 2000, "a-stream-with-a-long-name", key="customer-" * 9))
    ours, theirs = os.openpty()
    command = ["dead-letters", "list", "--directory", str(spool)]
    try:
        subprocess.run(
            [sys.executable, "-m", "kdaemon", *command],
            stdout=theirs,
            env=environment(COLUMNS="80", TERM="dumb"),
            timeout=PATIENCE_S,
        )
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    heading, row = shown.splitlines()
    assert all(len(line) <= 80 for line in (heading, row))
    identifier, died, stream, reason, _code, attempts, size, _, key = row.split()
    assert (identifier, reason, attempts, size) == ("1", "poison", "3", "2.0")
    assert died == time_text(NOW_MS - HOUR_MS // 2, "seconds")
    assert "\u2026" in stream
    assert "\u2026" in key


def test_list_as_json_has_everything_but_the_data(spool: Path) -> None:
    bury(spool, letter(key="", hash_key="7"))
    (line,) = at("list", spool, "--json").stdout.splitlines()
    assert json.loads(line) == {
        "id": 1,
        "stream": "a",
        "upstream": "default",
        "partition_key": "",
        "explicit_hash_key": "7",
        "reason": "poison",
        "code": "Bad",
        "message": "no",
        "attempts": 3,
        "first": time_text(NOW_MS - 9 * HOUR_MS),
        "last": time_text(NOW_MS - HOUR_MS // 2),
        "data_bytes": 6,
    }


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], [4, 3, 2, 1]),
        (["--stream", "a"], [3, 1]),
        (["--reason", "expired"], [3, 2]),
        (["--stream", "b", "--reason", "poison"], [4]),
        (["--since", "2h"], [4, 3]),
        (["--until", "2h"], [2, 1]),
        (["--since", "4h", "--until", "45min"], [3, 2]),
        (["--since", time_text(NOW_MS - 3 * HOUR_MS)], [4, 3, 2]),
        (["--until", time_text(NOW_MS - 3 * HOUR_MS)], [1]),
        (["--id", "2", "--id", "4", "--id", "99"], [4, 2]),
        (["--limit", "3"], [4, 3, 2]),
        (["--stream", "nobody's"], []),
    ],
)
def test_filters_hold_together(spool: Path, arguments: list[str], found: list[int]) -> None:
    four(spool)
    assert ids(at("list", spool, "--json", *arguments)) == found


@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "yesterday"],
        ["--until", "2026-99-99"],
        ["--since", "1h", "--until", "2h"],
        ["--reason", "boredom"],
        ["--id", "x"],
        ["--limit", "0"],
    ],
)
def test_a_filter_that_cannot_be_meant_is_wrong_usage(spool: Path, arguments: list[str]) -> None:
    four(spool)
    assert at("list", spool, *arguments).exit_code == 2


def test_a_table_that_is_cut_says_how_many_there_are(spool: Path) -> None:
    four(spool)
    result = at("list", spool, "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "1 of 4: --limit shows more, --json all\n"


def test_no_letters_are_no_error(spool: Path) -> None:
    bury(spool)
    for command in ("list", "purge", "replay"):
        result = at(command, spool)
        assert (result.exit_code, result.stdout) == (0, "no dead letters\n")
    assert at("list", spool, "--json").stdout == ""


def test_nothing_that_a_client_or_the_service_wrote_drives_the_terminal(spool: Path) -> None:
    bury(spool, letter(b"\x1b[2J", "s\x1b", key="k\x1b\n", message="m\x1b]0;x\x07"))
    for result in (at("list", spool), at("show", spool, "1")):
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert r"s\x1b" in result.stdout
        assert r"k\x1b\n" in result.stdout


def test_show_has_every_field_and_the_data_as_text_or_base64(spool: Path) -> None:
    bury(spool, letter("gr\u00fcn".encode()), letter(b"\xff\x00"), letter(b"a\x00b"))
    shown = at("show", spool, "1").stdout
    for name in ("stream", "partition_key", "reason", "code", "message", "attempts", "first"):
        assert name in shown
    assert "data (text)        gr\u00fcn\n" in shown
    assert "data (base64)      /wA=\n" in at("show", spool, "2").stdout
    assert "data (base64)      YQBi\n" in at("show", spool, "3").stdout
    assert json.loads(at("show", spool, "2", "--json").stdout)["data_base64"] == "/wA="


def test_show_of_a_letter_that_is_not_there_exits_1(spool: Path) -> None:
    four(spool)
    result = at("show", spool, "5")
    assert (result.exit_code, result.stderr) == (1, f"{spool}: no dead letter 5\n")


def test_export_writes_the_data_oldest_first_and_keeps_the_letters(
    spool: Path, tmp_path: Path
) -> None:
    bury(spool, letter(b"one"), letter(b"\xff", "b"), letter(b"three"))
    result = at("export", spool)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["id"], line.get("data"), line.get("data_base64")) for line in lines] == [
        (1, "one", None),
        (2, None, "/w=="),
        (3, "three", None),
    ]
    assert lines[0].keys() >= {"partition_key", "reason", "code", "attempts", "first", "last"}
    assert result.stderr == "exported 3 dead letters\n"
    assert left(spool) == [1, 2, 3]
    out = tmp_path / "out"
    assert at("export", spool, "--stream", "b", "--output", str(out)).exit_code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [2]
    assert at("export", spool, "--output", str(out)).exit_code == 1


def test_a_damaged_letter_is_exported_as_such_with_exit_1(spool: Path) -> None:
    four(spool)
    damage(spool, "UPDATE letter SET data = x'00' WHERE id = 2")
    result = at("export", spool)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("is_intact", True) for line in lines] == [True, False, True, True]
    assert "expired (damaged)" in at("list", spool).stdout


# purge


def test_purge_deletes_what_the_filter_means_after_asking(spool: Path) -> None:
    four(spool)
    no = at("purge", spool, "--stream", "a", answer="n\n")
    assert (no.exit_code, left(spool)) == (1, [1, 2, 3, 4])
    assert "delete 2 dead letters (" in no.stderr
    assert no.stderr.endswith("nothing is deleted\n")
    yes = at("purge", spool, "--stream", "a", answer="y\n")
    assert (yes.exit_code, left(spool)) == (0, [2, 4])
    assert yes.stdout.startswith("deleted 2 dead letters (")


def test_purge_with_nobody_to_answer_deletes_nothing(spool: Path) -> None:
    four(spool)
    result = at("purge", spool, answer="")
    assert (result.exit_code, left(spool)) == (1, [1, 2, 3, 4])
    assert "--yes" in result.stderr


def test_purge_dry_run_deletes_nothing_and_yes_asks_nothing(spool: Path) -> None:
    four(spool)
    dry = at("purge", spool, "--dry-run", "--yes")
    assert (dry.exit_code, left(spool)) == (0, [1, 2, 3, 4])
    assert dry.stdout.startswith("would delete 4 dead letters (")
    assert at("purge", spool, "--yes", "--id", "1", "--id", "3").exit_code == 0
    assert left(spool) == [2, 4]
    assert at("purge", spool, "--yes").exit_code == 0
    assert left(spool) == []


def test_what_dies_while_the_question_stands_is_not_purged(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four(spool)

    def confirm(*_question: object, **_more: object) -> bool:
        bury(spool, letter(b"new", age_h=-1))  # an hour on: long after this run
        return True

    monkeypatch.setattr("click.confirm", confirm)
    assert at("purge", spool).exit_code == 0
    assert left(spool) == [5]


def test_letters_are_listed_and_purged_while_a_daemon_holds_the_spool(spool: Path) -> None:
    four(spool)
    store = open_store(spool)
    try:
        assert ids(at("list", spool, "--json")) == [4, 3, 2, 1]
        assert at("purge", spool, "--yes", "--reason", "expired").exit_code == 0
        store.commit(Changes(dead=[letter(b"five")]))
        assert [each.id for each in store.letters.select(LetterFilter())] == [1, 4, 5]
        assert store.verify().is_sound
    finally:
        store.close()


# replay: against a stand-in for the daemon


class FakeDaemon:
    """NDJSON on a Unix socket, one connection at a time, in a thread of its own.

    `answer(setup, line number, line)`: the answer lines to one record line; None ends the
    connection.
    """

    def __init__(
        self, path: Path, answer: Callable[["FakeDaemon", int, dict[str, Any]], bytes | None]
    ) -> None:
        self.setups: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.acknowledged = 0  # on this connection
        self.error: BaseException | None = None
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()
        if self.error is not None:
            raise self.error

    def _serve(self) -> None:
        try:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                with (
                    connection,
                    suppress(BrokenPipeError, ConnectionResetError),
                    connection.makefile("rwb") as file,
                ):
                    self._talk(file)
        except BaseException as error:  # noqa: BLE001 - told by close
            self.error = error

    def _talk(self, file: Any) -> None:
        self.setups.append(json.loads(file.readline()))
        self.acknowledged = 0
        for number, line in enumerate(file, 2):
            if not line.endswith(b"\n"):
                return  # the client went away in the middle of it
            self.lines.append(json.loads(line))
            answer = self._answer(self, number, self.lines[-1])
            if answer is None:
                return
            file.write(answer)
            file.flush()

    def take(self) -> bytes:
        self.acknowledged += 1
        return b'{"acknowledged":%d}\n' % self.acknowledged


@contextmanager
def fake(
    path: Path, answer: Callable[[FakeDaemon, int, dict[str, Any]], bytes | None]
) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(path, answer)
    try:
        yield daemon
    finally:
        daemon.close()


def taking(daemon: FakeDaemon, _number: int, _line: dict[str, Any]) -> bytes:
    return daemon.take()


def refusing_bad(daemon: FakeDaemon, number: int, line: dict[str, Any]) -> bytes:
    if "bad" in line.get("data", ""):
        return b'{"rejected":%d,"code":"Bad","message":"still"}\n' % number
    return daemon.take()


def replay(spool: Path, *arguments: str) -> Result:
    return at("replay", spool, "--socket", str(spool.parent / "s"), *arguments)


def test_replay_sends_each_letter_to_its_stream_and_deletes_it(spool: Path) -> None:
    bury(
        spool,
        letter(b"one", "b", key="k1", hash_key="7"),
        letter(b"\xff", "a", key=""),
        letter(b"three", "b"),
    )
    with fake(spool.parent / "s", taking) as daemon:
        result = replay(spool)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "sent 3 of 3 dead letters: 3 delivered and deleted, 0 rejected and kept\n"
    )
    assert daemon.setups == [
        {"stream": "@default/a", "acknowledge": "delivered", "lines": "envelope"},
        {"stream": "@default/b", "acknowledge": "delivered", "lines": "envelope"},
    ]
    assert daemon.lines == [
        {"data_base64": "/w=="},
        {"partition_key": "k1", "explicit_hash_key": "7", "data": "one"},
        {"partition_key": "k", "data": "three"},
    ]
    assert left(spool) == []


def test_replay_keeps_what_is_rejected_again_and_says_why(spool: Path) -> None:
    letters = [letter(b"bad" if number % 3 == 0 else b"good") for number in range(1, 31)]
    bury(spool, *letters)
    with fake(spool.parent / "s", refusing_bad):
        result = replay(spool, "--acknowledge", "stored")
    assert result.exit_code == 1
    assert left(spool) == list(range(3, 31, 3))
    assert result.stderr.splitlines() == [
        *(f"rejected: letter {number}: Bad: still" for number in (3, 6, 9, 12, 15)),
        "rejected: and 5 more",
    ]
    assert "20 stored and deleted, 10 rejected and kept" in result.stdout


def test_replay_says_how_to_go_on_where_the_refusal_may_pass(spool: Path) -> None:
    """Just after a hold: kdaemon has not tried again yet."""

    def holding(_daemon: FakeDaemon, number: int, _line: dict[str, Any]) -> bytes:
        return b'{"rejected":%d,"code":"AccessDeniedException","message":"no"}\n' % number

    bury(spool, letter(b"one"))
    with fake(spool.parent / "s", holding):
        result = replay(spool)
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert said[0] == "rejected: letter 1: AccessDeniedException: no"
    assert said[1].startswith("this may pass: ")
    assert "--acknowledge stored" in said[1]
    assert left(spool) == [1]


def test_a_letter_is_there_until_its_record_is_acknowledged(spool: Path) -> None:
    bury(spool, *[letter(b"%d" % number) for number in range(1, 6)])
    seen: list[list[int]] = []

    def look(daemon: FakeDaemon, _number: int, _line: dict[str, Any]) -> bytes:
        seen.append(left(spool))
        return daemon.take()

    with fake(spool.parent / "s", look):
        assert replay(spool).exit_code == 0
    for number, there in enumerate(seen, 1):
        assert set(there) >= set(range(number, 6))


def test_a_connection_that_ends_early_keeps_what_was_not_acknowledged(spool: Path) -> None:
    bury(spool, *[letter(b"%d" % number) for number in range(1, 6)])

    def end_at_third(daemon: FakeDaemon, number: int, _line: dict[str, Any]) -> bytes | None:
        return daemon.take() if number < 4 else None

    with fake(spool.parent / "s", end_at_third):
        result = replay(spool)
    assert (result.exit_code, left(spool)) == (1, [3, 4, 5])
    assert "the daemon closed the connection" in result.stderr
    assert "without an answer: 3 records; each may have been taken or not" in result.stderr


def test_acknowledgements_of_what_was_not_sent_delete_nothing_that_was_not(spool: Path) -> None:
    bury(spool, *[letter(b"x" * 1000) for _ in range(600)])

    def lie(_daemon: FakeDaemon, number: int, _line: dict[str, Any]) -> bytes:
        return b'{"acknowledged":100000}\n' if number == 2 else b""

    with fake(spool.parent / "s", lie):
        result = replay(spool)
    assert result.exit_code == 1
    assert len(left(spool)) == 600
    assert "acknowledges more records than were sent" in result.stderr


def test_a_stream_that_the_daemon_refuses_does_not_keep_the_others(spool: Path) -> None:
    bury(spool, letter(b"one", "a"), letter(b"two", "b"), letter(b"three", "c"))

    def refuse_b(daemon: FakeDaemon, _number: int, _line: dict[str, Any]) -> bytes | None:
        if daemon.setups[-1]["stream"] == "@default/b":
            return b'{"rejected":1,"code":"Unlisted","message":"no such stream"}\n'
        return daemon.take()

    with fake(spool.parent / "s", refuse_b):
        result = replay(spool)
    assert (result.exit_code, left(spool)) == (1, [2])
    assert "the daemon refuses: Unlisted: no such stream" in result.stderr


def test_a_letter_that_dies_again_meanwhile_is_not_sent_again(spool: Path) -> None:
    bury(spool, *[letter(b"poison") for _ in range(3)])

    def die_again(daemon: FakeDaemon, _number: int, _line: dict[str, Any]) -> bytes:
        bury(spool, letter(b"poison"))
        return daemon.take()

    with fake(spool.parent / "s", die_again) as daemon:
        assert replay(spool, "--acknowledge", "stored").exit_code == 0
    assert len(daemon.lines) == 3
    assert left(spool) == [4, 5, 6]


def test_a_damaged_letter_is_never_sent_and_is_kept(spool: Path) -> None:
    four(spool)
    damage(spool, "UPDATE letter SET data = x'00' WHERE id = 2")
    with fake(spool.parent / "s", taking) as daemon:
        result = replay(spool)
    assert (result.exit_code, left(spool)) == (1, [2])
    assert len(daemon.lines) == 3
    assert "not sent: 1 dead letter not as written (damaged)" in result.stderr


def test_replay_holds_to_the_filters(spool: Path) -> None:
    four(spool)
    with fake(spool.parent / "s", taking) as daemon:
        assert replay(spool, "--reason", "expired", "--since", "2h").exit_code == 0
        assert replay(spool, "--stream", "b", "--id", "4", "--id", "1").exit_code == 0
    assert [line["data"] for line in daemon.lines] == ["three", "four"]
    assert left(spool) == [1, 2]


def test_dry_run_says_how_many_of_which_stream_and_needs_no_daemon(spool: Path) -> None:
    four(spool)
    result = at("replay", spool, "--dry-run", "--since", "2h")
    assert (result.exit_code, result.stdout) == (
        0,
        "would send 1 dead letter to a\nwould send 1 dead letter to b\n",
    )
    assert left(spool) == [1, 2, 3, 4]


def test_without_a_daemon_replay_says_once_what_to_do(spool: Path) -> None:
    four(spool)
    result = replay(spool)
    assert (result.exit_code, left(spool)) == (1, [1, 2, 3, 4])
    assert result.stderr.count("no daemon answers at") == 1
    assert result.stdout.startswith("sent 0 of 4 dead letters: ")


def test_an_acknowledged_letter_that_cannot_be_deleted_is_named(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaemon.spool.schema.BUSY_MS", 0)
    bury(spool, letter(b"one"))
    other = sqlite3.connect(spool / "spool.db", isolation_level=None, check_same_thread=False)

    def lock(daemon: FakeDaemon, _number: int, _line: dict[str, Any]) -> bytes:
        other.execute("BEGIN IMMEDIATE")
        return daemon.take()

    try:
        with fake(spool.parent / "s", lock):
            result = replay(spool)
    finally:
        other.close()
    assert (result.exit_code, left(spool)) == (1, [1])
    assert "another process keeps it locked" in result.stderr
    assert "`kdaemon dead-letters purge --id 1`" in result.stderr


def test_the_socket_and_the_spool_of_the_configuration_are_used(
    spool: Path, tmp_path: Path
) -> None:
    bury(spool, letter(b"one"))
    config = tmp_path / "k.toml"
    config.write_text(f'[spool]\ndirectory = "{spool}"\n[listen]\nunix = "{tmp_path}/s"\n')
    with fake(tmp_path / "s", taking) as daemon:
        command = ["dead-letters", "replay", "--config", str(config)]
        assert CliRunner().invoke(cli, command).exit_code == 0
    assert len(daemon.lines) == 1
    assert left(spool) == []


@pytest.mark.parametrize(
    "arguments", [["--endpoint", "h:1", "--socket", "/s"], ["--acknowledge", "accepted"]]
)
def test_replay_refuses_options_that_do_not_fit(spool: Path, arguments: list[str]) -> None:
    four(spool)
    assert at("replay", spool, *arguments).exit_code == 2
    assert left(spool) == [1, 2, 3, 4]


def test_ctrl_c_ends_a_replay_with_what_is_known_so_far_and_130(spool: Path) -> None:
    bury(spool, letter(b"one"), letter(b"two"))

    has_ended = threading.Event()

    def only_first(daemon: FakeDaemon, number: int, _line: dict[str, Any]) -> bytes | None:
        if number == 2:
            return daemon.take()
        has_ended.wait(PATIENCE_S)
        return None

    command = ["dead-letters", "replay", "--directory", str(spool)]
    with fake(spool.parent / "s", only_first):
        process = subprocess.Popen(
            [sys.executable, "-m", "kdaemon", *command, "--socket", str(spool.parent / "s")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        with process:
            wait_for(lambda: True if left(spool) == [2] else None, "the first letter to go")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        has_ended.set()
    assert process.returncode == 130
    assert left(spool) == [2]
    assert err.startswith("interrupted\nwithout an answer: 1 record;")
    assert out == "sent 2 of 2 dead letters: 1 delivered and deleted, 0 rejected and kept\n"


class Http(Handler):
    def do_POST(self) -> None:
        server: Any = self.server
        lines = self.read_body().splitlines()
        server.requests.append((self.path, self.headers["X-Kdaemon-Acknowledge"], len(lines)))
        bad = [number for number, line in enumerate(lines, 1) if b"bad" in line]
        rejected = [{"line": number, "code": "Bad", "message": "no"} for number in bad]
        answer = {"acknowledged": len(lines) - len(bad), "rejected": rejected}
        body = json.dumps(answer).encode()
        self.answer(207 if bad else 200, body)


def test_replay_over_http_keeps_exactly_what_was_rejected(spool: Path) -> None:
    letters = [letter(b"bad" if number in {1, 501, 700} else b"good") for number in range(1, 701)]
    bury(spool, *letters)
    server: Any = HTTPServer(("127.0.0.1", 0), Http)
    server.requests = []
    with serving(server) as url:
        result = at("replay", spool, "--endpoint", url.removeprefix("http://"))
    assert result.exit_code == 1
    assert left(spool) == [1, 501, 700]
    path = "/v1/streams/%40default%2Fa/records"
    assert server.requests == [(path, "delivered", 500), (path, "delivered", 200)]
    assert "rejected: letter 501: Bad: no" in result.stderr


# replay: the real daemon


def test_replay_through_the_real_daemon_delivers_the_letters_and_empties_the_list(
    spool: Path, tmp_path: Path
) -> None:
    bury(
        spool,
        *[letter(b"%d" % number, "demo", key=f"k{number}") for number in range(1, 21)],
        letter(b"x" * (MIB + 1), "demo"),  # over the limit of a record: rejected at the door
    )
    settings = {"spool.directory": str(spool), "listen.unix": str(tmp_path / "s")}
    with running(tmp_path, settings) as daemon:
        result = replay(spool)
        assert result.exit_code == 1
        assert "20 delivered and deleted, 1 rejected and kept" in result.stdout
        assert "rejected: letter 21: ValidationException" in result.stderr
        assert left(spool) == [21]
        assert daemon.counted("kdaemon_records_delivered_total", stream="demo") == 20
        again = at("replay", spool, "--endpoint", daemon.url, "--acknowledge", "stored")
        assert (again.exit_code, left(spool)) == (1, [21])
        assert get(daemon.address("admin") + "/readyz")[0] == 200
        assert daemon.stop() == 0
