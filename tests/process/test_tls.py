"""TLS of a running daemon, with clients that others wrote, on their defaults."""

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest
from botocore.config import Config as BotoConfig

from tests.kit.certificates import Authority, Files
from tests.kit.daemon import Daemon, command, environment, running, started
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sdk import ANYBODY, kinesis
from tests.process.conftest import Run

PUT = b'{"StreamName":"demo","PartitionKey":"k","Data":"aGk="}'
HEADERS = {
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Target": "Kinesis_20131202.PutRecord",
}


@pytest.fixture(scope="module", params=["ecdsa", "rsa"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("certificate")
    return Authority(directory).issue(is_rsa=request.param == "rsa")


@pytest.fixture(scope="module")
def daemon(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {**files.settings, "sandbox.streams": ["demo"]}
    with running(tmp_path_factory.mktemp("tls"), settings) as daemon:
        assert daemon.url.startswith("https://")
        yield daemon


def put_once(port: int, context: ssl.SSLContext) -> int:
    client = http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE_S)
    with contextlib.closing(client):
        client.request("POST", "/", PUT, HEADERS)
        answer = client.getresponse()
        assert b"SequenceNumber" in answer.read()
        return answer.status


def test_boto3_that_knows_the_authority_puts_one_record_and_five_hundred(
    daemon: Daemon, files: Files
) -> None:
    url = f"https://localhost:{daemon.port}"
    client = kinesis(url, verify=str(files.authority))
    with contextlib.closing(client):
        one = client.put_record(StreamName="demo", Data=b"hi", PartitionKey="k")
        assert one["ShardId"]
        entries = [{"Data": b"x" * 1000, "PartitionKey": str(i)} for i in range(500)]
        many = client.put_records(StreamName="demo", Records=entries)
        assert many["FailedRecordCount"] == 0


async def test_aiobotocore_that_knows_the_authority_puts_many_at_once(
    daemon: Daemon, files: Files
) -> None:
    session = aiobotocore.session.get_session()
    url = f"https://127.0.0.1:{daemon.port}"
    making = session.create_client(
        "kinesis", endpoint_url=url, verify=str(files.authority), **ANYBODY
    )
    async with making as client:
        puts = (
            client.put_record(StreamName="demo", Data=b"hi", PartitionKey=str(i)) for i in range(20)
        )
        assert all(each["ShardId"] for each in await asyncio.gather(*puts))


def run_tool(*arguments: str, **environ: str) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(**environ)
    )
    return done.stdout + done.stderr


@pytest.mark.curl
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_is_taken_over_both_versions_and_told_what_is_wrong(
    daemon: Daemon, files: Files, version: str
) -> None:
    body = json.dumps({"data": "x" * 5_000}) + "\n"
    url = f"{daemon.url}/v1/streams/demo/records"
    ca = ("--cacert", str(files.authority))
    told = run_tool(
        "curl", "-sS", *ca, f"--tlsv{version}", "--tls-max", version, "-H",
        "Expect: 100-continue", "-d", body, url,
    )  # fmt: skip
    assert json.loads(told)["acknowledged"] == 1
    assert "certificate" in run_tool("curl", "-sS", url), "an authority that nobody knows"
    plain = url.replace("https://", "http://")
    assert "use https://" in run_tool("curl", "-sS", "-d", body, plain)


NODE = """
const https = require('https'), fs = require('fs')
const agent = new https.Agent({keepAlive: true, ca: fs.readFileSync(process.argv[2])})
let left = 3
function next() {
  const headers = JSON.parse(process.argv[4])
  const request = https.request(process.argv[1], {agent, method: 'POST', headers}, answer => {
    let text = ''
    answer.on('data', piece => { text += piece })
    answer.on('end', () => {
      console.log(answer.statusCode, 'SequenceNumber' in JSON.parse(text))
      if (--left) next(); else agent.destroy()
    })
  })
  request.end(process.argv[3])
}
next()
"""


@pytest.mark.node
def test_node_puts_over_one_connection_that_it_keeps(daemon: Daemon, files: Files) -> None:
    told = run_tool(
        "node", "-e", NODE, daemon.url, str(files.authority), PUT.decode(), json.dumps(HEADERS)
    )
    assert told == "200 true\n" * 3


def test_kdaemon_put_is_taken_and_told_which_flag_is_missing(
    daemon: Daemon, files: Files, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("a\nb\nc\n")

    def put(*more: str) -> str:
        done = command("put", str(lines), "--stream", "demo", *more)
        return done.stdout + done.stderr

    trusted = ("--ca-file", str(files.authority))
    assert "acknowledged 3" in put("--endpoint", daemon.url, *trusted)
    assert "name its authority with --ca-file" in put("--endpoint", daemon.url)
    assert "use https://" in put("--endpoint", f"127.0.0.1:{daemon.port}")
    admin = daemon.address("admin").replace("http://", "https://")
    assert "say http://" in put("--endpoint", admin, *trusted)


def test_lines_inside_tls_are_acknowledged(daemon: Daemon, files: Files) -> None:
    with (
        daemon.connect() as sock,
        files.client().wrap_socket(sock, server_hostname="localhost") as client,
    ):
        client.sendall(b'{"stream":"demo","data":"a"}\n{"stream":"demo","data":"b"}\n')
        answer = b""
        while b'"acknowledged":2' not in answer:
            answer += client.recv(4096)


def test_what_a_client_left_is_withdrawn(daemon: Daemon, files: Files) -> None:
    """As on a connection in clear: an SDK that ran out of patience tries again."""
    rejected = daemon.counted("kdaemon_records_rejected_total")
    throttled = daemon.counted("kdaemon_records_throttled_total")
    daemon.inject({"kind": "throttle", "calls": None})
    try:
        client = http.client.HTTPSConnection("localhost", daemon.port, context=files.client())
        client.request("POST", "/", PUT, HEADERS)
        wait_for(
            lambda: daemon.counted("kdaemon_records_throttled_total") > throttled or None,
            "the service to throttle",
        )
        client.close()
        wait_for(
            lambda: daemon.counted("kdaemon_records_rejected_total") > rejected or None,
            "the record to be withdrawn",
        )
    finally:
        daemon.clear_faults()


def test_status_and_metrics_tell_of_it(daemon: Daemon, files: Files) -> None:
    status = json.loads(daemon.page("/statusz")[1])["tls"]
    assert status["certificate"] == str(files.certificate)
    assert (status["faults"], status["trouble"]) == ([], None)
    assert daemon.counted("kdaemon_tls_certificate_expires_timestamp_seconds") > 1_800_000_000
    assert daemon.counted("kdaemon_client_tls_handshakes_total", listener="http") >= 0


def test_others_are_served_while_handshakes_stall_and_flood(daemon: Daemon, files: Files) -> None:
    """Hundreds that never end, and as many signatures as one client can ask for."""
    context = files.client()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            with daemon.connect() as sock:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                half = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
                with contextlib.suppress(ssl.SSLWantReadError):
                    half.do_handshake()
                sock.sendall(outgoing.read())
                with contextlib.suppress(ConnectionError):
                    sock.recv(1)

    url = f"https://localhost:{daemon.port}"
    config = BotoConfig(retries={"max_attempts": 0}, max_pool_connections=1)
    client = kinesis(url, verify=str(files.authority), config=config)
    threads = [threading.Thread(target=flood) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        for _ in range(300):
            sock = daemon.connect()
            stack.enter_context(contextlib.closing(sock))
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        for thread in threads:
            thread.start()
        try:
            for _ in range(50):
                client.put_record(StreamName="demo", Data=b"hi", PartitionKey="k")
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert daemon.is_alive


# --- daemons of their own


def test_the_certificate_is_changed_under_load_without_a_failed_request(
    run: Run, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    daemon = run(files.settings)
    port, context = daemon.port, files.client()
    over, failed, done = threading.Event(), list[Exception](), list[int]()

    def work(*, keeps: bool) -> None:
        client: Any = None
        while not over.is_set():
            try:
                if client is None:
                    client = http.client.HTTPSConnection(
                        "localhost", port, context=context, timeout=PATIENCE_S
                    )
                client.request("POST", "/", PUT, HEADERS)
                answer = client.getresponse()
                answer.read()
                done.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                failed.append(error)
                return
            if not keeps:
                client.close()
                client = None
        if client is not None:
            client.close()

    def served() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as client,
        ):
            return client.getpeercert(binary_form=True) or b""

    threads = [threading.Thread(target=work, kwargs={"keeps": i % 2 == 0}) for i in range(4)]
    for thread in threads:
        thread.start()
    seen: list[bytes] = []

    def change(*, is_rsa: bool, in_halves: bool = False) -> None:
        seen.append(served())
        certificate, key = authority.texts(is_rsa=is_rsa)
        files.certificate.write_bytes(certificate)
        if in_halves:  # for as long as it takes to be seen
            name = "kdaemon_tls_certificate_reload_failures_total"
            wait_for(lambda: daemon.counted(name) or None, "the half pair to be seen")
            assert served() == seen[-1]
            assert json.loads(daemon.page("/statusz")[1])["tls"]["trouble"]
        files.key.write_bytes(key)
        wait_for(lambda: served() not in seen or None, "the new certificate")

    try:
        change(is_rsa=False)
        change(is_rsa=True)
        change(is_rsa=False, in_halves=True)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert set(done) == {200}
    assert json.loads(daemon.page("/statusz")[1])["tls"]["trouble"] is None


def test_the_admin_pages_speak_tls_where_asked(run: Run, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    daemon = run({**files.settings, "listen.admin_tls": True, "sandbox.streams": ["demo"]})
    at = daemon.address("admin")
    assert at.startswith("https://")
    host, _, port = at.removeprefix("https://").rpartition(":")
    client = http.client.HTTPSConnection(host, int(port), context=files.client())
    with contextlib.closing(client):
        client.request("GET", "/metrics")
        assert b"kdaemon_tls_certificate_expires" in client.getresponse().read()
    assert daemon.stop() == 0


def test_the_sandbox_speaks_tls_alone(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    arguments = ["sandbox", "--listen", "127.0.0.1:0"]
    for key in ("tls_certificate", "tls_key"):
        path = files.certificate if key == "tls_certificate" else files.key
        arguments += ["--set", f"sandbox.{key}={path}"]
    with started(arguments) as process:
        url = process.wait_log("listening")["fields"]["at"]
        assert url.startswith("https://127.0.0.1:")
        client = kinesis(url, verify=str(files.authority))
        with contextlib.closing(client):
            client.put_record(StreamName="demo", Data=b"hi", PartitionKey="k")
        assert process.stop() == 0


def test_the_embedded_sandbox_speaks_tls_and_is_trusted(run: Run, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    settings = {key.replace("listen", "sandbox"): value for key, value in files.settings.items()}
    daemon = run({**settings, "sandbox.streams": ["demo"]})
    assert daemon.address("sandbox").startswith("https://")
    with daemon.connect() as client:
        client.sendall(b'{"stream":"demo","data":"a"}\n')
        assert client.recv(4096) == b'{"acknowledged":1}\n'
    assert daemon.stop() == 0


def test_a_start_without_a_usable_certificate_says_why(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    other = Authority(tmp_path).issue("other")
    arguments = ["run", "--sandbox", "--set", "sandbox.listen=127.0.0.1:0"]
    arguments += ["--set", f"listen.tls_certificate={files.certificate}"]
    arguments += ["--set", f"listen.tls_key={other.key}"]
    for key in ("http", "admin"):
        arguments += ["--set", f"listen.{key}=127.0.0.1:0"]
    with started(arguments) as process:
        assert process.wait() == 1
        assert any("does not belong to the certificate" in line for line in process.lines)
