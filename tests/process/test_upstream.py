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
from tests.kit.patience import PATIENCE_S
from tests.kit.web import Handler, serving

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


class Keeping:
    """Answers so many puts so, and keeps those that are tried after them without an answer."""

    def __init__(self, reply: Reply, answered: int) -> None:
        self.has_kept = threading.Event()
        self.is_over = threading.Event()
        self._reply = reply
        self._left = answered

    def __call__(self, headers: Any) -> tuple[int, dict[str, str], bytes]:
        if headers["X-Amz-Target"].endswith("PutRecords"):
            self._left -= 1  # one at a time: a stream on hold makes one call
            if self._left < 0:
                self.has_kept.set()
                self.is_over.wait()
        return self._reply(headers)


@contextmanager
def upstream(reply: Reply) -> Iterator[str]:
    """Answers every call so; its URL."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """The daemon ended while its call was kept."""

    class Answering(Handler):
        def do_POST(self) -> None:
            self.read_body()
            status, headers, body = reply(self.headers)
            self.answer(status, body, headers)

    with serving(Server(("127.0.0.1", 0), Answering)) as url:
        yield url


@contextmanager
def daemon(directory: Path, endpoint_url: str, **variables: str) -> Iterator[Process]:
    settings = {
        "endpoint_url": endpoint_url,
        "region": "eu-west-1",
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


def put(process: Process, acknowledge: str = "delivered") -> tuple[tuple[int, str], str]:
    """Status and type of the answer to a put of two records, and its text."""
    url = process.address("http")
    body = json.dumps({"StreamName": "demo", "Records": [entry(b"x", "a"), entry(b"y", "b")]})
    answer = Endpoint("daemon", url=url, put_url=url).put_raw(
        "PutRecords", body.encode(), x_kdaemon_acknowledge=acknowledge
    )
    return answer.refusal, answer.body.decode()


def stream_of(process: Process) -> dict[str, Any]:
    """What its page says of the one stream."""
    page = json.loads(get(process.address("admin") + "/statusz")[1])
    stream: dict[str, Any]
    (stream,) = page["streams"]
    return stream


def assert_nothing_signed(process: Process, text: str) -> None:
    """Neither an answer of this text, nor the page, nor the log tells a secret. Stops it."""
    page = get(process.address("admin") + "/statusz")[1]
    process.stop()
    for shown in (text, page, *process.lines):
        assert not any(secret in shown for secret in (KEY, SECRET, TOKEN))
        assert "Traceback" not in shown


def test_a_client_hears_what_was_said_and_nothing_that_was_signed(tmp_path: Path) -> None:
    with upstream(echo) as url, daemon(tmp_path, url) as process:
        refusal, text = put(process)
        assert refusal == (400, "AccessDeniedException")
        assert "denied: " in text
        assert_nothing_signed(process, text)


@pytest.mark.parametrize(
    ("reply", "answered", "refusal", "words"),
    [
        # Answered twice: the call looks for new credentials, and is made once more with them.
        (
            error("ExpiredTokenException", "it is old"),
            2,
            (400, "ExpiredTokenException"),
            "it is old",
        ),
        (PORTAL, 1, (503, "ServiceUnavailable"), "Sign in"),
    ],
    ids=["expired", "portal"],
)
def test_a_client_that_comes_during_a_hold_that_may_mend_itself_hears_what_was_said(
    tmp_path: Path, reply: Reply, answered: int, refusal: tuple[int, str], words: str
) -> None:
    """At once, while a call is out to try. What came before waits: what is told of it at its
    deadline depends on whether a call is out then (tests/unit/engine/test_trouble.py).
    """
    keeping = Keeping(reply, answered)
    with upstream(keeping) as url, daemon(tmp_path, url) as process:
        try:
            assert put(process, "accepted")[0][0] == 200
            assert keeping.has_kept.wait(PATIENCE_S)
            told, text = put(process)
            assert told == refusal
            assert words in text
            assert_nothing_signed(process, text)
        finally:
            keeping.is_over.set()


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
        stream = stream_of(process)
        assert name in text
        assert name in stream["hold"]["message"]
        assert stream["possible_duplicates"] == 0
        process.stop()
        assert not any(KEY in line or "Traceback" in line for line in process.lines)
