"""Certificates and keys: what is wrong with them, in words; and how a running listener takes new
ones.
"""

import asyncio
import contextlib
import errno
import logging
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kdaemon.base.errors import TlsError
from kdaemon.http import renewal
from kdaemon.http.certificate import FILE_BYTES_MAX, TlsFiles, load_pair
from kdaemon.http.renewal import Certificates, look_over
from tests.kit.certificates import Authority, Files, pem, write
from tests.kit.loops import CountingLoop
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.watching import before

DAY_S = 86_400


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def of(files: Files, client_ca: str = "") -> TlsFiles:
    return TlsFiles(str(files.certificate), str(files.key), client_ca)


def problem(files: TlsFiles) -> str:
    with pytest.raises(TlsError) as told:
        load_pair(files)
    return str(told.value)


@pytest.mark.parametrize("is_rsa", [False, True])
def test_a_good_pair_has_nothing_wrong(authority: Authority, is_rsa: bool) -> None:
    pair = load_pair(of(authority.issue(is_rsa=is_rsa)))
    now_s = time.time()
    assert pair.names[:2] == ("localhost", "127.0.0.1")
    assert not list(pair.faults(now_s))
    assert pair.expires_soon(now_s) is None
    assert pair.concern is None
    assert pair.context.minimum_version is ssl.TLSVersion.TLSv1_2
    ciphers = {each["name"] for each in pair.context.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-")) for name in ciphers), "forward secrecy"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"begins": -9, "ends": -3.5}, "has expired, 3 days ago: renew it"),
        ({"begins": 2.5}, "is not valid yet, for 2 days: look at the clock"),
        ({"names": ()}, "names no host (subjectAltName)"),
    ],
)
def test_what_clients_would_refuse_is_told_and_can_be_served(
    authority: Authority, how: dict[str, Any], told: str
) -> None:
    files = of(authority.issue(**how))
    (fault,) = load_pair(files).faults(time.time())
    assert told in fault
    problems, warnings = look_over(Settings(files), "listen", time.time())
    assert problems == [f"listen.tls_certificate: {files.certificate} {fault}"]
    assert not warnings


class Settings:
    """A table of the configuration."""

    def __init__(self, files: TlsFiles) -> None:
        self.tls_certificate = files.certificate
        self.tls_key = files.key
        self.tls_client_ca = files.client_ca


@pytest.mark.parametrize(
    ("days", "told"), [(13.5, "expires in 13 days"), (0.2, "expires in 4 hours"), (15, None)]
)
def test_an_end_that_is_near_is_told(authority: Authority, days: float, told: str | None) -> None:
    files = of(authority.issue(ends=days))
    problems, warnings = look_over(Settings(files), "sandbox", time.time())
    assert not problems
    if told is None:
        assert not warnings
    else:
        (said,) = warnings
        assert said.startswith(f"sandbox.tls_certificate: {files.certificate} {told}")


def test_each_file_that_cannot_be_used_is_told_by_its_setting(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    certificate, key = str(one.certificate), str(one.key)
    missing = str(one.key) + "x"
    assert problem(TlsFiles(missing, key)).startswith(
        f"listen.tls_certificate: {missing} cannot be read (No such file"
    )
    assert problem(TlsFiles(certificate, missing)).startswith(f"listen.tls_key: {missing} cannot")
    assert "holds no certificate" in problem(TlsFiles(key, key))
    assert "holds no private key" in problem(TlsFiles(certificate, certificate))
    told = problem(TlsFiles(certificate, str(other.key)))
    assert told.startswith(f"listen.tls_key: {other.key} does not belong to the certificate")
    assert certificate in told
    told = problem(TlsFiles(certificate, key, missing))
    assert told.startswith(f"listen.tls_client_ca: {missing} cannot be read")
    assert "tls_client_ca" in problem(TlsFiles(certificate, key, key))
    directory = str(one.certificate.parent)
    assert "Is a directory" in problem(TlsFiles(directory, key))
    told = problem(TlsFiles(certificate, missing, table="sandbox"))
    assert told.startswith("sandbox.tls_key: ")


def test_files_of_another_kind_are_told(authority: Authority) -> None:
    files = authority.issue()
    good = files.certificate.read_bytes()
    files.certificate.write_bytes(good[:200] + b"\n-----END CERTIFICATE-----\n")
    assert "cannot be used with its key" in problem(of(files))
    files.certificate.write_bytes(good + b"\n" * FILE_BYTES_MAX)
    assert f"more than {FILE_BYTES_MAX} bytes" in problem(of(files))
    files = authority.issue(is_for_clients=True)
    assert "unsuitable certificate purpose" in problem(of(files))


def test_an_encrypted_key_is_told_and_its_text_is_not(authority: Authority) -> None:
    files = authority.issue()
    files.key.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    told = problem(of(files))
    assert "is encrypted" in told
    assert "openssl pkey" in told
    assert "secret" not in told


def test_a_weak_key_is_told(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    monkeypatch.setattr("tests.kit.certificates.rsa_key", lambda: weak)
    assert "is too weak for clients of today" in problem(of(authority.issue(is_rsa=True)))


@pytest.mark.parametrize(
    ("mode", "refused", "said"),
    [
        (0o600, "", ""),
        (0o440, "", ""),
        (0o644, "", "may be read by everybody (mode 0644)"),
        (0o660, "", "may be written by its group (mode 0660)"),
        (0o666, "may be written by everybody (mode 0666)", ""),
    ],
)
def test_who_may_read_and_write_the_key_is_looked_at(
    authority: Authority, mode: int, refused: str, said: str
) -> None:
    files = authority.issue()
    files.key.chmod(mode)
    if refused:
        assert refused in problem(of(files))
        return
    concern = load_pair(of(files)).concern or ""
    assert said in concern
    assert bool(said) is bool(concern)


def test_a_key_of_another_user_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.issue()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    if files.key.stat().st_uid:
        assert "belongs to" in problem(of(files))
    else:  # root's keys may be used by whoever may read them, as Kubernetes has it
        assert load_pair(of(files)).concern is None
        os.chown(files.key, 4243, 0)
        assert "belongs to uid 4243, and this is uid 4242" in problem(of(files))


# --- renewal


class Rig:
    """What a listener would serve with, and its files."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.certificates = Certificates(of(files), time.time)

    def look(self) -> None:
        """Two ticks of the timer, and the thread between them."""
        for _ in range(2):
            self.certificates.look()
            wait_for(lambda: not self.certificates.is_looking or None, "the look")


@pytest.fixture
def rig(authority: Authority) -> Iterator[Rig]:
    made = Rig(authority.issue())
    yield made
    made.certificates.stop()
    made.certificates.stop()


def test_files_that_do_not_change_change_nothing(rig: Rig) -> None:
    context = rig.certificates.context()
    for _ in range(3):
        rig.look()
    assert rig.certificates.context() is context
    assert (rig.certificates.reloads, rig.certificates.failures) == (0, 0)


def test_a_new_pair_is_taken(rig: Rig, authority: Authority) -> None:
    before, expires_s = rig.certificates.context(), rig.certificates.expires_s
    authority.issue(ends=700)
    rig.look()
    assert rig.certificates.context() is not before
    assert rig.certificates.expires_s > expires_s + 300 * DAY_S
    assert rig.certificates.reloads == 1
    assert rig.certificates.trouble is None


def test_half_a_pair_is_not_taken_and_is_told_once(
    rig: Rig, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    before = rig.certificates.context()
    certificate, key = authority.texts(ends=700)
    rig.files.certificate.write_bytes(certificate)
    for _ in range(3):
        rig.look()
    assert rig.certificates.context() is before
    assert rig.certificates.failures == 1
    assert "does not belong" in str(rig.certificates.trouble)
    assert caplog.text.count("the old one is kept") == 1
    rig.files.key.write_bytes(key)
    rig.look()
    assert rig.certificates.context() is not before
    assert rig.certificates.reloads == 1
    assert rig.certificates.trouble is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_pair_that_could_not_be_read_is_tried_again_though_it_does_not_change(
    rig: Rig,
    authority: Authority,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that was changed while no descriptor was left would be served until it ends."""
    before = rig.certificates.context()
    authority.issue(ends=700)

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        for _ in range(3):
            rig.look()
    assert rig.certificates.context() is before
    assert "cannot be read" in str(rig.certificates.trouble)
    assert rig.certificates.failures == 1
    assert caplog.text.count("the old one is kept") == 1
    rig.look()
    assert rig.certificates.context() is not before
    assert rig.certificates.trouble is None


@pytest.mark.parametrize("how", ["gone", "empty", "noise", "no right", "expired"])
def test_files_that_cannot_be_used_keep_the_old_pair(
    rig: Rig, authority: Authority, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, key = rig.certificates.context(), rig.files.key
    old = key.read_bytes()
    if how == "gone":
        key.unlink()
    elif how == "no right":
        key.chmod(0o666)
    elif how == "expired":
        authority.issue(begins=-9, ends=-1)
    else:
        key.write_bytes(b"" if how == "empty" else b"noise")
    rig.look()
    assert rig.certificates.context() is before
    assert rig.certificates.failures == 1
    assert str(rig.certificates.trouble) in caplog.text
    if how == "expired":
        authority.issue()
    else:
        key.write_bytes(old)
        key.chmod(0o600)
    rig.look()
    assert rig.certificates.trouble is None
    assert rig.certificates.reloads == 1


def test_one_with_a_fault_takes_the_place_of_one_with_a_fault(authority: Authority) -> None:
    rig = Rig(authority.issue(begins=-9, ends=-3))
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(rig.certificates.stop)
        assert rig.certificates.faults
        authority.issue(begins=-9, ends=-1)
        rig.look()
        assert rig.certificates.reloads == 1
        authority.issue()
        rig.look()
        assert rig.certificates.reloads == 2
        assert not rig.certificates.faults


def test_links_that_change_above_the_files_are_seen(tmp_path: Path) -> None:
    """As Kubernetes does it: tls.crt -> ..data/tls.crt, and ..data is a link that is replaced."""
    authority = Authority(tmp_path / "ca")
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        write(tmp_path / version, "tls", *authority.texts(), authority.path)
    data = tmp_path / "..data"
    data.symlink_to("1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    rig = Rig(Files(tmp_path / "tls.crt", tmp_path / "tls.key", authority.path))
    try:
        rig.look()
        assert rig.certificates.reloads == 0
        (tmp_path / "..tmp").symlink_to("2")
        (tmp_path / "..tmp").rename(data)
        rig.look()
        assert (rig.certificates.reloads, rig.certificates.failures) == (1, 0)
    finally:
        rig.certificates.stop()


def test_what_is_served_is_told_at_start(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue(begins=-9, ends=-1)
    files.key.chmod(0o644)
    Rig(files).certificates.stop()
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.ERROR, logging.WARNING}
    assert "has expired" in caplog.text
    assert "may be read by everybody" in caplog.text


def test_an_end_that_comes_near_is_told_once_a_day(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    start_s = (time.time() // DAY_S + 1) * DAY_S
    now_s = start_s
    files = authority.issue(ends=20)
    certificates = Certificates(of(files), lambda: now_s)
    try:
        for day in (0, 0.1, 3.1, 3.2, 4):
            now_s = start_s + day * DAY_S
            certificates.look()
        assert "expires" not in caplog.text
        for day in (10, 10.2, 10.9, 11.1, 12.1, 12.2):
            now_s = start_s + day * DAY_S
            certificates.look()
        assert caplog.text.count("expires in") == 3
    finally:
        certificates.stop()


def test_a_disk_that_hangs_holds_up_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    before(monkeypatch, renewal, "of_file", lambda *_: released.wait(PATIENCE_S))
    for _ in range(5):
        rig.certificates.look()
    assert rig.certificates.is_looking
    released.set()
    wait_for(lambda: not rig.certificates.is_looking or None, "the look")


def test_an_idle_loop_is_woken_once_a_second(authority: Authority) -> None:
    files = authority.issue()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        rig = Rig(files)
        loop.begin()
        rig.certificates.start()
        await asyncio.sleep(20.25)
        loop.end()
        rig.certificates.stop()
        assert len(set(loop.counting.wakings)) <= 22

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())
