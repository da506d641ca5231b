"""A daemon that may call PutRecords and nothing else, with keys that do not tell their account."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.daemon import Process, started, write_config
from tests.kit.endpoints import Answer, Endpoint, entry
from tests.kit.patience import wait_for
from tests.kit.web import Handler, serving

OURS, OTHERS = "111111111111", "222222222222"
STS_ANSWER = b"<GetCallerIdentityResult><Account>%b</Account></GetCallerIdentityResult>"


def arn(account: str) -> str:
    return f"arn:aws:kinesis:eu-west-1:{account}:stream/demo"


class Service:
    """Kinesis and STS of one address. `named`: what each PutRecords called its stream by, in order.
    `sts`: whether STS answers, fails, or keeps the question.
    """

    def __init__(self, sts: str) -> None:
        self.sts = sts
        self.named: list[str] = []
        self.asked_count = 0
        self.is_down = False
        self.is_over = threading.Event()
        self.url = ""

    def answer(self, operation: str | None, body: bytes) -> tuple[int, bytes]:
        if operation is None:
            self.asked_count += 1
            if self.sts == "keeps":
                self.is_over.wait(30)
            return (
                (200, STS_ANSWER % OURS.encode()) if self.sts == "answers" else (403, b"<Error/>")
            )
        if not operation.endswith(".PutRecords"):
            return 400, json.dumps({"__type": "AccessDeniedException", "message": "no"}).encode()
        if self.is_down:
            return 503, b"{}"
        members = json.loads(body)
        self.named.append(members.get("StreamName") or members["StreamARN"])
        result = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
        return 200, json.dumps({"Records": [result] * len(members["Records"])}).encode()


@contextmanager
def service(sts: str) -> Iterator[Service]:
    one = Service(sts)

    class Answering(Handler):
        def do_POST(self) -> None:
            body = self.read_body()
            self.answer(*one.answer(self.headers["X-Amz-Target"], body))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    with serving(server) as one.url:
        try:
            yield one
        finally:
            one.is_over.set()


@contextmanager
def daemon(
    directory: Path, url: str, settings: dict[str, Any] | None = None, **variables: str
) -> Iterator[Process]:
    given = {"endpoint_url": url, "region": "eu-west-1", "default.linger_ms": 0, **(settings or {})}
    config = write_config(directory, given)
    with started(["run", "--config", str(config)], **variables) as process:
        process.wait_log("ready")
        yield process


def put(process: Process, spelling: str) -> Answer:
    url = process.address("http")
    member = "StreamARN" if spelling.startswith("arn:") else "StreamName"
    named = {member: spelling}
    return Endpoint("daemon", url, url).put("PutRecords", **named, Records=[entry(b"x", "k")])


SPELLINGS = ["demo", arn(OTHERS), arn(OURS), "demo", arn(OTHERS)]


@pytest.mark.parametrize("sts", ["answers", "fails", "keeps"])
def test_a_success_by_arn_was_sent_by_arn_or_the_arn_is_ours(tmp_path: Path, sts: str) -> None:
    with (
        service(sts) as one,
        daemon(tmp_path, one.url, AWS_ENDPOINT_URL_STS=one.url) as process,
    ):
        assert one.asked_count == 0, "nobody called a stream by an ARN"
        for spelling in SPELLINGS:
            assert put(process, spelling).status == 200
        if sts == "answers":
            assert one.named == ["demo" if each == arn(OURS) else each for each in SPELLINGS]
        else:
            assert one.named == SPELLINGS
            told = wait_for(lambda: find(process, "own account"), "the doubt")
            assert "account_id" in told
        assert one.asked_count >= 1
        assert process.stop() == 0


def test_beside_a_stand_in_a_stream_is_one_by_name_and_by_arn(tmp_path: Path) -> None:
    with service("fails") as one, daemon(tmp_path, one.url) as process:
        for spelling in ["demo", arn(OURS), arn(OTHERS), "demo"]:
            assert put(process, spelling).status == 200
        assert one.named == ["demo", "demo", arn(OTHERS), "demo"]
        assert one.asked_count == 0
        assert "account_id" in wait_for(lambda: find(process, "stand-in"), "the assumption")
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("settings", "variables"),
    [({"account_id": OURS}, {}), ({}, {"AWS_ACCOUNT_ID": OURS})],
    ids=["setting", "variable"],
)
def test_what_tells_the_account_leaves_sts_unasked(
    tmp_path: Path, settings: dict[str, Any], variables: dict[str, str]
) -> None:
    with service("fails") as one:
        variables = {**variables, "AWS_ENDPOINT_URL_STS": one.url}
        with daemon(tmp_path, one.url, settings, **variables) as process:
            for spelling in SPELLINGS[1:]:
                assert put(process, spelling).status == 200
            assert one.named == [arn(OTHERS), "demo", "demo", arn(OTHERS)]
            assert one.asked_count == 0
            assert process.stop() == 0


def test_what_was_stored_by_an_arn_is_delivered_by_it_when_the_account_is_known(
    tmp_path: Path,
) -> None:
    stored: dict[str, Any] = {
        "spool.directory": str(tmp_path / "spool"),
        "default.acknowledge": "stored",
        "default.ordering": "partition_key",
        "drain.deadline_ms": 100,
        "drain.lame_duck_ms": 0,
    }
    with service("fails") as one:  # of its own: a call may still be on its way when the daemon ends
        one.is_down = True
        with daemon(tmp_path, one.url, stored, AWS_ENDPOINT_URL_STS=one.url) as process:
            for spelling in (arn(OURS), "demo"):
                assert put(process, spelling).status == 200
            assert process.stop() == 0
    stored["account_id"] = OURS
    with (
        service("fails") as one,
        daemon(tmp_path, one.url, stored, AWS_ENDPOINT_URL_STS=one.url) as process,
    ):
        wait_for(lambda: len(one.named) == 2 or None, "what was stored")
        assert sorted(one.named) == [arn(OURS), "demo"]
        assert process.stop() == 0


def find(process: Process, text: str) -> str | None:
    return next((line for line in process.lines if text in line), None)
