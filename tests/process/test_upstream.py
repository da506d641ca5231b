"""A daemon in front of something that refuses: what its clients and its operator hear, and that
nothing which was signed comes out of it.
"""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.daemon import Process, get, started, write_config
from tests.kit.endpoints import Endpoint, entry

KEY = "AKIDEXAMPLE123456789"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjENT//////////wEaCXVzLWVhc3QtMSJ"

Reply = Callable[[Any], tuple[int, dict[str, str], bytes]]
"""The headers that arrived -> status, headers and body of the answer."""


def error(code: str, message: str, status: int = 400) -> Reply:
    body = json.dumps({"__type": code, "message": message}).encode()
    return lambda _: (status, {"Content-Type": "application/x-amz-json-1.1"}, body)


def echo(headers: Any) -> tuple[int, dict[str, str], bytes]:
    sent = " ".join(f"{name}: {value}" for name, value in headers.items())
    body = json.dumps({"__type": "AccessDeniedException", "message": f"denied: {sent}"})
    return 400, {}, body.encode()


PORTAL: Reply = lambda _: (
    200,
    {"Content-Type": "text/html"},
    b"<html><title>Sign in</title></html>",
)


@contextmanager
def upstream(reply: Reply) -> Iterator[str]:
    """Answers every call so; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = reply(self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def daemon(directory: Path, endpoint_url: str, **variables: str) -> Iterator[Process]:
    settings = {
        "endpoint_url": endpoint_url,
        "region": "eu-west-1",
        "default.deadline_ms": 1000,
        "drain.deadline_ms": 100,
    }
    given = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "NO_PROXY": "",
        "no_proxy": "",
        **variables,
    }
    config = write_config(directory, settings)
    with started(["run", "--config", str(config)], **given) as process:
        process.wait_log("ready")
        yield process


def put(process: Process) -> tuple[tuple[int, str], str]:
    """Status and type of the answer to a put of two records, and its text."""
    url = process.address("http")
    answer = Endpoint("daemon", url=url, put_url=url).put(
        "PutRecords", StreamName="demo", Records=[entry(b"x", "a"), entry(b"y", "b")]
    )
    return answer.refusal, answer.body.decode()


@pytest.mark.parametrize(
    ("reply", "refusal", "words"),
    [
        (echo, (400, "AccessDeniedException"), "denied: "),
        (error("ExpiredTokenException", "it is old"), (400, "ExpiredTokenException"), "it is old"),
        (PORTAL, (503, "ServiceUnavailable"), "Sign in"),
    ],
    ids=["echo", "expired", "portal"],
)
def test_a_client_hears_what_was_said_and_nothing_that_was_signed(
    tmp_path: Path, reply: Reply, refusal: tuple[int, str], words: str
) -> None:
    with upstream(reply) as url, daemon(tmp_path, url) as process:
        (status, code), text = put(process)
        assert status == refusal[0]
        assert code.startswith(refusal[1])
        assert words in text
        page = get(process.address("admin") + "/statusz")[1]
        process.stop()
        for shown in (text, page, *process.lines):
            assert not any(secret in shown for secret in (KEY, SECRET, TOKEN))
            assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"AWS_ACCESS_KEY_ID": f"{KEY}\n"}, "AWS_ACCESS_KEY_ID"),
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY"),
        ({"AWS_CA_BUNDLE": "/"}, "AWS_CA_BUNDLE"),
    ],
)
def test_a_wrong_variable_is_a_hold_that_names_it(
    tmp_path: Path, variables: dict[str, str], name: str
) -> None:
    with daemon(tmp_path, "http://127.0.0.1:1", **variables) as process:
        refusal, text = put(process)
        assert refusal == (503, "ServiceUnavailable")
        page = json.loads(get(process.address("admin") + "/statusz")[1])
        (stream,) = page["streams"]
        assert name in text
        assert name in stream["hold"]["message"]
        assert stream["possible_duplicates"] == 0
        process.stop()
        assert not any(KEY in line or "Traceback" in line for line in process.lines)
