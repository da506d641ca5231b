"""Who may write to a real daemon: clients with keys, users of this system, a file that changes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.kit.daemon import Daemon, command, running, send, started, write_config
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sdk import kinesis
from tests.kit.sockets import connected, read_all

KEY_ID, SECRET = "AKIASHOP000000000001", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NEW_ID, NEW_SECRET = "AKIASHOP000000000002", "another/secret+of/the/same/shop/EXAMPLE2"
FILE = f"""
[shop]
streams = ["demo", "app-*"]
keys = [{{ id = "{KEY_ID}", secret = "{SECRET}" }}]
users = [{os.geteuid()}]
"""
STRANGER = 54_321  # a number of a user and a group that nobody has


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    settings = {
        "auth.http": "sigv4",
        "auth.unix": "peer",
        "auth.principals_file": str(write(tmp_path / "principals.toml", FILE)),
        "listen.unix": str(tmp_path / "s.sock"),
        "listen.unix_mode": "0666",
        "sandbox.streams": ["demo", "app-log", "other"],
        "streams.app-log.lines": "raw",
        "streams.app-log.socket": str(tmp_path / "app.sock"),
        "streams.other.lines": "raw",
        "streams.other.socket": str(tmp_path / "other.sock"),
    }
    with running(tmp_path, settings) as daemon:
        yield daemon
        metrics = daemon.wait_settled()
        assert not any(map(metrics.left_over, metrics.streams))
        assert SECRET not in "\n".join(daemon.lines)


def client(daemon: Daemon, key_id: str = KEY_ID, secret: str = SECRET) -> Any:
    once = Config(retries={"max_attempts": 0})
    keys = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
    return kinesis(daemon.url, region_name="eu-central-1", config=once, **keys)


def code(kinesis: Any, stream: str = "demo") -> str:
    """What it hears; "": the record was taken."""
    try:
        kinesis.put_record(StreamName=stream, Data=b"x", PartitionKey="k")
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def test_boto3_with_a_key_writes_where_it_may(daemon: Daemon) -> None:
    kinesis = client(daemon)
    assert code(kinesis) == ""
    large = [{"Data": b"x" * 20_000, "PartitionKey": str(number)} for number in range(150)]
    for _ in range(2):
        assert kinesis.put_records(StreamName="demo", Records=large)["FailedRecordCount"] == 0
    assert code(kinesis, "other") == "AccessDeniedException"
    assert code(kinesis, "no-such-stream") == "AccessDeniedException"
    assert code(client(daemon, key_id="AKIANOBODY0000000000")) == "UnrecognizedClientException"
    assert code(client(daemon, secret=NEW_SECRET)) == "InvalidSignatureException"
    names = ("unauthenticated", "forbidden")
    counted = [daemon.counted("kdaemon_records_rejected_total", reason=each) for each in names]
    assert counted == [2, 2]
    assert set(daemon.metrics().streams) == {"", "demo", "app-log", "other"}, "listed, or allowed"
    status, said = send("POST", daemon.url, json.dumps({"StreamName": "demo"}))
    assert (status, json.loads(said)["__type"]) == (400, "MissingAuthenticationTokenException")


@pytest.mark.curl
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("path", ["/v1/streams/{}/records", "/"])
def test_curl_signs_as_it_is_told(daemon: Daemon, path: str, version: str) -> None:
    for stream, said in (("demo", "200"), ("app-1", "40"), ("other", "400")):
        data = '{"data":"x"}\n' if "v1" in path else ""
        data = data or json.dumps({"StreamName": stream, "Data": "eA==", "PartitionKey": "k"})
        command = [
            "curl",
            version,
            "-s",
            "-o",
            os.devnull,
            "-w",
            "%{http_code}",
            "--data-binary",
            data,
        ]
        command += ["--aws-sigv4", "aws:amz:eu-central-1:kinesis", "-u", f"{KEY_ID}:{SECRET}"]
        command += ["-H", "Content-Type: application/x-amz-json-1.1"]
        command += ["-H", "X-Amz-Target: Kinesis_20131202.PutRecord"]
        done = subprocess.run(
            [*command, daemon.url + path.format(stream)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.stdout.startswith(said), (stream, done)


def test_put_signs_with_the_keys_of_its_environment(daemon: Daemon, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("line\n" * 2_500)

    def put(*more: str, **environ: str) -> subprocess.CompletedProcess[str]:
        where = ("--endpoint", daemon.url, "--stream", "demo")
        return command("put", *where, *more, str(lines), **environ)

    done = put(AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    assert "acknowledged 2,500" in done.stdout
    done = put()
    assert done.returncode == 1
    assert "UnrecognizedClientException: The security token included" in done.stderr
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    done = put(**no_keys)
    assert "MissingAuthenticationTokenException" in done.stderr
    shared = tmp_path / "credentials"
    shared.write_text(f"[shop]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\n")
    file = {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}
    assert put("--profile", "shop", **file).returncode == 0
    assert put(AWS_PROFILE="shop", **file, **no_keys).returncode == 0
    done = put("--profile", "other", **file)
    assert (done.returncode, done.stdout.count("acknowledged 0")) == (1, 1)
    assert "cannot find the profile other (--profile)" in done.stderr


def test_keys_are_rotated_while_it_runs(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "principals.toml"
    old, new = client(daemon), client(daemon, NEW_ID, NEW_SECRET)
    assert (code(old), code(new)) == ("", "UnrecognizedClientException")
    both = FILE.replace("keys = [", f'keys = [{{ id = "{NEW_ID}", secret = "{NEW_SECRET}" }}, ')
    write(path, both)
    wait_for(lambda: code(new) == "" or None, "the new key")
    assert code(old) == ""
    write(path, both.replace("[shop]", "[shop"))
    wait_for(lambda: daemon.counted("kdaemon_principals_is_stale") or None, "the broken file")
    assert (code(old), code(new)) == ("", "")
    assert daemon.page("/readyz")[0] == 200
    principals = json.loads(daemon.page("/statusz")[1])["principals"]
    assert "is not TOML" in principals["problem"]
    write(path, both.replace(KEY_ID, "AKIAREMOVED"))
    wait_for(lambda: code(old) != "" or None, "the old key to be gone")
    assert code(old) == "UnrecognizedClientException"
    assert code(new) == ""
    assert daemon.counted("kdaemon_principals_is_stale") == 0
    assert daemon.counted("kdaemon_principals_reloads_total") == 2


def test_lines_over_tcp_cannot_be_signed(daemon: Daemon) -> None:
    said = lines_of(daemon.url)
    assert [each["code"] for each in said] == ["AccessDeniedException"]
    assert "Lines cannot be signed" in said[0]["message"]


def lines_of(address: str) -> list[dict[str, Any]]:
    with connected(address) as sock:
        sock.sendall(b'{"stream":"demo"}\n{"data":"x"}\n')
        sock.shutdown(socket.SHUT_WR)
        heard = read_all(sock)
    return [json.loads(line) for line in heard.splitlines()]


def test_the_user_at_the_other_end_is_asked_of_the_kernel(daemon: Daemon, tmp_path: Path) -> None:
    assert lines_of(str(tmp_path / "s.sock")) == [{"acknowledged": 1}]
    write(tmp_path / "principals.toml", FILE.replace(f"[{os.geteuid()}]", "[]"))

    def refusal() -> dict[str, Any] | None:
        said = lines_of(str(tmp_path / "s.sock"))[0]
        return said if "code" in said else None

    said = wait_for(refusal, "the user to be struck off")
    assert said["code"] == "AccessDeniedException"
    assert f"uid {os.geteuid()}, gid {os.getegid()} may not write here" in said["message"]
    group = FILE.replace(f"users = [{os.geteuid()}]", f"groups = [{os.getegid()}]")
    write(tmp_path / "principals.toml", group)
    wait_for(lambda: refusal() is None or None, "his group")


def test_what_is_asked_of_the_service_is_of_streams_that_one_may_write_to(daemon: Daemon) -> None:
    kinesis = client(daemon)
    assert len(kinesis.list_shards(StreamName="demo")["Shards"]) == 4
    for ask in (
        lambda: kinesis.list_shards(StreamName="other"),
        lambda: kinesis.describe_stream_summary(
            StreamARN="arn:aws:kinesis:us-east-1:000000000000:stream/other"
        ),
        kinesis.list_streams,
        kinesis.describe_limits,
    ):
        with pytest.raises(ClientError, match=r"AccessDeniedException.*not authorized") as raised:
            ask()
        assert f"kinesis:{raised.value.operation_name} " in str(raised.value)


def test_on_a_streams_own_socket_the_user_is_asked_too(daemon: Daemon, tmp_path: Path) -> None:
    def write_lines(name: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / name))
            sock.sendall(b"a line\n")
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(PATIENCE_S)
            assert sock.recv(100) == b"", "nothing is answered there"

    def rejected(reason: str) -> int:
        return daemon.counted("kdaemon_records_rejected_total", reason=reason)

    write_lines("app.sock")
    wait_for(lambda: daemon.counted("kdaemon_records_received_total", stream="app-log") or None,
             "the line")  # fmt: skip
    assert rejected("unauthenticated") == rejected("forbidden") == 0
    write_lines("other.sock")
    wait_for(lambda: rejected("forbidden") or None, "the line of another stream")
    write(tmp_path / "principals.toml", FILE.replace(f"[{os.geteuid()}]", "[]"))

    def refused() -> int | None:
        write_lines("app.sock")
        return rejected("unauthenticated") or None

    wait_for(refused, "the user to be struck off")


@pytest.mark.root
def test_another_user_is_refused_by_each_way(daemon: Daemon, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:3]):
        if directory.stat().st_uid == 0 and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    program = f"""
import os, socket
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
body = b'{{"data":"x"}}\\n'
head = b"POST %b HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nContent-Length: 13\\r\\n\\r\\n"
for sent in (body, head % b"/v1/streams/demo/records" + body, head % b"/" + body):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect({str(tmp_path / "s.sock")!r})
    sock.sendall(sent)
    sock.shutdown(socket.SHUT_WR)
    heard = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b"AccessDeniedException" in heard and b"uid {STRANGER}, gid {STRANGER}" in heard, heard
    assert heard.startswith((b"HTTP/1.1 403", b'{{"rejected"')), heard
print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")
    assert daemon.counted("kdaemon_records_rejected_total", reason="unauthenticated") == 3
    name = "kdaemon_client_connections_refused_total"
    assert daemon.counted(name, listener="unix", reason="unauthenticated") == 1


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_file_that_cannot_be_used_is_a_wrong_configuration(tmp_path: Path, command: str) -> None:
    path = write(tmp_path / "principals.toml", FILE.replace("streams", "stream"), 0o644)
    settings = {"auth.http": "sigv4", "auth.principals_file": str(path)}
    config = write_config(tmp_path, settings)
    with started([command, "--config", str(config)]) as process:
        assert process.wait() == 78
        said = "\n".join(process.lines)
    assert f"{path}: file: other users may read or change it (mode 0644)" in said
    path.chmod(0o600)
    with started([command, "--config", str(config)]) as process:
        assert process.wait() == 78
        said = "\n".join(process.lines)
    assert f"{path}: shop.stream: is no key" in said
    assert f"{path}: shop.streams: is missing" in said
    assert SECRET not in said
