"""The file of principals: what it may say, what is told of a wrong one, how it is read again."""

import asyncio
import errno
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdaemon.base.errors import ConfigError
from kdaemon.base.redact import SECRETS, Redactor
from kdaemon.config.principals import Listed, parse_principals
from kdaemon.door import principals as module
from kdaemon.door.principals import Principals, odd_rights
from tests.kit.patience import PATIENCE_S

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SHOP = f"""
[shop]
streams = ["orders", "app-*"]
keys = [{{ id = "AKIASHOP", secret = "{SECRET}" }}]
users = ["alice", 7]
groups = ["staff"]
"""


def parse(text: str) -> Listed:
    return parse_principals(text, "p.toml", {"alice": 1001}.get, {"staff": 50}.get)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(each) for each in caught.value.problems]


def test_a_principal_is_known_by_each_way_that_is_listed() -> None:
    listed = parse(SHOP)
    shop = listed.keys["AKIASHOP"].principal
    assert shop.name == "shop"
    assert listed.keys["AKIASHOP"].secret == SECRET
    assert listed.users == {1001: shop, 7: shop}
    assert listed.groups == {50: shop}
    assert SECRET not in repr(listed)


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("orders", "orders", True),
        ("orders", "orders2", False),
        ("orders", "Orders", False),
        ("app-*", "app-", True),
        ("app-*", "app-1", True),
        ("app-*", "app", False),
        ("app-*", "my-app-1", False),
        ("*", "anything", True),
        ("arn:aws:kinesis:us-east-1:123456789012:stream/*", "orders", False),
        ("arn:aws:kinesis:us-east-1:123456789012:stream/*",
         "arn:aws:kinesis:us-east-1:123456789012:stream/x", True),
        ("/ru-central1/a/b/*", "/ru-central1/a/b/x", True),
    ],
)  # fmt: skip
def test_a_stream_is_meant_by_its_name_or_by_how_it_begins(
    pattern: str, name: str, may: bool
) -> None:
    rights = parse(f'[a]\nstreams = ["{pattern}"]\nusers = [1]').users[1].rights
    assert rights.cover((name,)) is may
    assert not rights.cover(())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.toml: [NAME]: is missing: expected a table for each principal"),
        ("[a\n", "p.toml: line 1: is not TOML"),
        ("a = 1", "p.toml: a: is no principal: expected a table, as [a]"),
        ('["a b"]\nstreams=["x"]\nusers=[1]', "p.toml: [a b]: is no name of a principal"),
        ("[a]\nusers = [1]", "p.toml: a.streams: is missing or no list"),
        ("[a]\nstreams = []\nusers = [1]", "p.toml: a.streams: is missing or no list"),
        ('[a]\nstreams = ["x*y"]\nusers = [1]', "p.toml: a.streams: has what is no name"),
        ('[a]\nstreams = [""]\nusers = [1]', "p.toml: a.streams: has what is no name"),
        ("[a]\nstreams = [1]\nusers = [1]", "p.toml: a.streams: has what is no name"),
        ('[a]\nstreams = ["x"]', "p.toml: a: has neither keys nor users nor groups"),
        ('[a]\nstreams = ["x"]\nuser = [1]', "p.toml: a.user: is no key; known here: streams"),
        ('[a]\nstreams = ["x"]\nusers = ["bob"]', "p.toml: a.users: has a name that is no user"),
        ('[a]\nstreams = ["x"]\ngroups = [-1]', "p.toml: a.groups: has a number that no group"),
        ('[a]\nstreams = ["x"]\nusers = [4294967295]', "a.users: has a number that no user has"),
        ('[a]\nstreams = ["x"]\nusers = [true]', "p.toml: a.users: has what is no user"),
        ('[a]\nstreams = ["x"]\nusers = "a"', "p.toml: a.users: is no list"),
        ('[a]\nstreams = ["x"]\nusers = [1]\n[b]\nstreams = ["x"]\nusers = [1]',
         "p.toml: b.users: has user 1, and so has a"),
        ('[a]\nstreams = ["x"]\nkeys = ["k"]', "p.toml: a.keys: has no id and secret at place 1"),
        ('[a]\nstreams = ["x"]\nkeys = [{id = "k/y", secret = "0123456789abcdef"}]',
         "p.toml: a.keys: has a wrong id at place 1"),
        ('[a]\nstreams = ["x"]\nkeys = [{id = "key", secret = "short"}]',
         "p.toml: a.keys: has a wrong secret (not shown) at place 1: expected 16 printable"),
        (SHOP + f'[b]\nstreams = ["x"]\nkeys = [{{id = "AKIASHOP", secret = "{SECRET}"}}]',
         "p.toml: b.keys: has the id AKIASHOP again, which shop has"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_by_place(text: str, said: str) -> None:
    assert any(said in each for each in problems(text))


def test_every_problem_is_told_at_once_and_no_secret() -> None:
    broken = SHOP.replace("orders", "or*ers").replace("alice", "bob").replace("AKIA", "A K")
    told = problems(broken + "[b]\n")
    assert len(told) == 5
    assert not any(SECRET in each for each in told)
    for cut in range(0, len(SHOP), 7):
        with pytest.raises(ConfigError) as caught:
            parse(SHOP[:cut] + "\0")
        assert SECRET not in str(caught.value)


def test_a_file_that_is_nested_for_ever_is_refused() -> None:
    told = problems("a = " + "[" * 100_000)
    assert told in (["p.toml: file: is nested too deeply"], ["p.toml: line 1: is not TOML"])


# --- the file itself


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "principals.toml"
    write(path, SHOP.replace('"alice", ', "").replace('"staff"', "8"))
    return path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """As an operator should: whole."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def opened(path: Path, wall: Callable[[], float] = lambda: 0.0) -> Principals:
    return Principals(str(path), wall)


async def look(principals: Principals) -> None:
    """A second later."""
    principals.look()
    reading = principals.reading
    if reading is not None:
        await asyncio.wait([reading], timeout=PATIENCE_S)
        await asyncio.sleep(0)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(path)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666])
def test_a_file_that_others_can_read_or_change_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert f"other users may read or change it (mode {mode:04o}): chmod 0600" in refusal(file)


def test_a_file_that_its_group_may_read_is_used_and_said(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.geteuid()
    file.chmod(0o640)
    assert opened(file).keys
    if me == 0:
        os.chown(file, 12345, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "its group may read it" in str(odd_rights(str(file)))
    file.chmod(0o600)
    assert odd_rights(str(file)) is None


def test_a_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = file.stat().st_uid
    if owner == 0:
        os.chown(file, 12345, -1)
        owner = 12345
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to another user (uid {owner}" in refusal(file)


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "x")
    assert "is no file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no file" in refusal(tmp_path / "pipe")
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 100)
    write(tmp_path / "large", "#" * 101)
    assert "is larger than 100 bytes" in refusal(tmp_path / "large")
    (tmp_path / "large").write_bytes(b"\xff")
    assert "is not UTF-8 text (byte 0)" in refusal(tmp_path / "large")


async def test_a_new_file_is_for_all_at_once_also_for_connections_that_are_open(
    file: Path,
) -> None:
    principals = opened(file)
    seventh, eighth, ninth = (principals.peer(uid, 99) for uid in (7, 8, 9))
    assert [each.name for each in (seventh, eighth)] == ["shop", "uid 8, gid 99"]
    assert principals.peer(1, 8).name == "shop", "by its group"
    assert not ninth.is_known
    assert not ninth.rights.cover(("orders",))
    old_key = principals.keys["AKIASHOP"]
    write(
        file,
        '[bank]\nstreams = ["money"]\nusers = [8]\n'
        '[shop]\nstreams = ["app-*"]\nkeys = [{id = "NEW", secret = "0123456789abcdef"}]',
    )
    await look(principals)
    assert principals.reload_count == 1
    assert list(principals.keys) == ["NEW"]
    assert not seventh.is_known
    assert not seventh.rights.cover(("orders",))
    assert eighth.name == "bank"
    assert eighth.rights.cover(("money",))
    assert principals.peer(8, 1).name == "bank"
    assert old_key.principal.rights.cover(("orders",)), "a request under way keeps what it had"


async def test_a_broken_file_changes_nothing_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    principals = opened(file)
    good = file.read_text()
    for _ in range(3):
        write(file, good.replace("[shop]", "[shop"))
        await look(principals)
        await look(principals)
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1
    assert "is not used as it is now" in caplog.text
    assert SECRET not in caplog.text
    assert "is not TOML" in str(principals.problem)
    assert list(principals.keys) == ["AKIASHOP"]
    write(file, good.replace("AKIASHOP", "AKIASHOQ"), 0o644)
    await look(principals)
    assert "other users may read" in str(principals.problem)
    file.unlink()
    await look(principals)
    await look(principals)
    assert "No such file" in str(principals.problem)
    assert list(principals.keys) == ["AKIASHOP"]
    write(file, good)
    await look(principals)
    assert principals.problem is None
    assert principals.reload_count == 0, "it says what it said before"


async def test_a_file_that_changes_twice_within_a_tick_is_read_twice(file: Path) -> None:
    """What is written in the same tick of the clock has the same date."""
    made_s = file.stat().st_ctime_ns / 1e9
    now = [made_s + 0.5]
    principals = opened(file, lambda: now[0])
    stands = file.stat()
    file.write_text(file.read_text().replace("AKIASHOP", "AKIASHOQ"))
    os.utime(file, ns=(stands.st_atime_ns, stands.st_mtime_ns))
    await look(principals)
    assert list(principals.keys) == ["AKIASHOQ"]
    now[0] = file.stat().st_ctime_ns / 1e9 + 60
    await look(principals)
    principals.look()
    assert principals.reading is None, "nothing has changed for long"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
async def test_a_file_that_could_not_be_read_is_tried_again_though_it_does_not_change(
    file: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was struck off while no descriptor was left does not stay for ever."""
    principals = opened(file, lambda: file.stat().st_ctime_ns / 1e9 + 60)
    write(file, file.read_text().replace("AKIASHOP", "AKIASHOQ"))

    def failing(*_: object) -> int:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        for _ in range(3):
            await look(principals)
    assert list(principals.keys) == ["AKIASHOP"]
    assert "cannot be read" in str(principals.problem)
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1
    await look(principals)
    assert list(principals.keys) == ["AKIASHOQ"]
    assert principals.problem is None


async def test_a_name_that_nobody_knew_for_a_moment_is_looked_for_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is made after the file is written, or no descriptor was left to look him up."""
    users = {"root": 0}

    def found(name: str) -> SimpleNamespace:
        return SimpleNamespace(pw_uid=users[name])

    monkeypatch.setattr(pwd, "getpwnam", found)
    principals = opened(file, lambda: file.stat().st_ctime_ns / 1e9 + 60)
    write(file, file.read_text() + '[late]\nstreams = ["s"]\nusers = ["eve"]\n')
    await look(principals)
    assert "'eve'" in str(principals.problem)
    users["eve"] = 77
    await look(principals)
    assert principals.problem is None
    assert principals.peer(77, 99).name == "late"


async def test_one_file_is_read_at_a_time(file: Path) -> None:
    principals = opened(file)
    write(file, SHOP.replace('"alice", ', "").replace('"staff"', "9"))
    principals.look()
    reading = principals.reading
    principals.look()
    assert principals.reading is reading is not None
    await asyncio.wait([reading], timeout=PATIENCE_S)


def test_who_is_remembered_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 3)
    principals = opened(file)
    for uid in range(20):
        principals.peer(uid, uid)
    assert principals.remembered == 3
    assert principals.peer(7, 1).name == "shop"


def test_secrets_are_hidden_and_those_that_are_gone_are_forgotten(file: Path) -> None:
    opened(file)
    assert SECRET not in SECRETS.clean(f"a proxy echoes {SECRET} to us")
    redactor = Redactor()
    for secret in ("first-secret-of-16", "second-secret-of-16"):
        redactor.register_clients([secret])
        assert secret not in redactor.clean(f"it is {secret}")
    assert redactor.clean("first-secret-of-16") == "first-secret-of-16"
