"""`kdaemon put --endpoint` against a daemon that answers by a script."""

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kdaemon.put import http as put_http_module
from kdaemon.put.http import HttpPut
from kdaemon.put.lines import Form, LineFormer
from kdaemon.put.source import Source
from kdaemon.put.unix import PutError, form_blocks
from kdaemon.put.waiting import Person, Totals
from tests.kit.patience import PATIENCE_S

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_daemon(answer: Answer) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer(request)

    app = web.Application()
    app.router.add_post("/v1/streams/{stream}/records", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Scripted:
    """Answers each request by the next of its answers, the last one again and again."""

    answers: list[dict[str, Any]]
    asked: list[list[str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers)
        self.asked.append([json.loads(line)["data"] for line in (await request.read()).split()])
        answer = dict(self.answers[min(len(self.asked), len(self.answers)) - 1])
        if "json" in answer:
            answer["text"] = json.dumps(answer.pop("json"))
        return web.Response(**answer)


class Put:
    """One `put` of some lines; its totals, and what it told while it waited."""

    def __init__(
        self,
        tmp_path: Path,
        content: str = "a\nb\nc\n",
        acknowledge: str = "accepted",
        stream: str | None = "a/b",
    ):
        self._path = tmp_path / "x"
        self._path.write_text(content)
        self.totals = Totals()
        self.told: list[str] = []
        self.waits: list[str | None] = []
        person = Person(self._progress, self.told.append)
        self._http = HttpPut(stream, acknowledge, self.totals, person)
        self._form = Form(names_streams=stream is None)

    def _progress(self) -> None:
        self.waits.append(self.totals.waits_for)

    async def to(self, endpoint: str) -> None:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            source = Source(descriptor, "x", is_gzip=False)
            async with asyncio.timeout(PATIENCE_S):
                blocks = form_blocks(source, LineFormer(self._form), self.totals)
                await self._http.send(endpoint, blocks)
        finally:
            os.close(descriptor)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        totals = self.totals
        return totals.sent, totals.acknowledged, totals.rejected, totals.open


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_http_module, "RETRY_AFTER_MIN_S", 0.0)


def bad(line: int, message: str | None = "no", code: str = "Bad") -> dict[str, Any]:
    return {"line": line, "code": code} | ({} if message is None else {"message": message})


async def test_a_stream_is_asked_for_what_was_asked_and_rejected_lines_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_http_module, "REQUEST_BYTES_MAX", 60)
    put = Put(tmp_path, "a\n\nbad\nc\nd\n")
    taken: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.match_info["stream"] == "a/b"
        assert request.headers["X-Kdaemon-Acknowledge"] == "accepted"
        data = [json.loads(line)["data"] for line in (await request.read()).splitlines()]
        found = [bad(number) for number, text in enumerate(data, 1) if text == "bad"]
        taken.extend(data)
        return web.json_response({"acknowledged": len(data) - len(found), "rejected": found})

    async with http_daemon(answer) as endpoint:
        await put.to(endpoint)
    assert taken == ["a", "bad", "c", "d"]
    assert put.counts == (4, 3, 1, 0)
    assert put.totals.reasons == ["line 3: Bad: no"]


async def test_lines_that_name_their_streams_go_to_each_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_http_module, "REQUEST_BYTES_MAX", 70)
    lines = [f'{{"data":"{n}","stream":"{stream}"}}' for n, stream in enumerate("xyxyxx")]
    lines[2:2] = ['{"data":"of no stream"}']
    lines.append('{"data":"n","stream":""}')
    put = Put(tmp_path, "\n".join(lines), stream=None)
    taken: dict[str, list[str]] = {}

    async def answer(request: web.Request) -> web.Response:
        data = [json.loads(line)["data"] for line in (await request.read()).splitlines()]
        taken.setdefault(request.match_info["stream"], []).extend(data)
        return web.json_response({"acknowledged": len(data), "rejected": []})

    async with http_daemon(answer) as endpoint:
        with pytest.raises(PutError, match="HTTP 404"):  # of the empty name: no such path here
            await put.to(endpoint)
    assert taken == {"x": ["0", "2", "4", "5"], "y": ["1", "3"]}
    assert put.totals.reasons[0].startswith("line 3: names no stream")
    assert put.counts == (7, 6, 1, 1)


# Ask again


@pytest.mark.parametrize("status", [503, 429])
async def test_a_daemon_without_room_is_asked_again_and_says_why_it_waits(
    tmp_path: Path, status: int
) -> None:
    body = {"__type": "ServiceUnavailable", "message": "memory is full", "acknowledged": 0}
    full = {"status": status, "headers": {"Retry-After": "0"}, "json": body}
    daemon = Scripted([full, full, {"json": {"acknowledged": 3, "rejected": []}}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        await put.to(endpoint)
    assert daemon.asked == [["a", "b", "c"]] * 3
    assert put.counts == (3, 3, 0, 0)
    why = f"HTTP {status} ServiceUnavailable: memory is full"
    assert put.told == [], "nobody waited for long"
    assert put.waits == [why, why, None]


async def test_a_daemon_that_never_has_room_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_http_module, "RETRY_AFTER_MIN_S", 0.001)
    monkeypatch.setattr(put_http_module, "WAIT_MAX_S", 0.01)
    daemon = Scripted([{"status": 503, "headers": {"Retry-After": "0"}, "text": "no spool"}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        with pytest.raises(
            PutError, match=r"took nothing for .* says so each time: HTTP 503 no sp"
        ):
            await put.to(endpoint)
    assert 2 <= len(daemon.asked) <= 12


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 1.0), ("7", 7.0), ("0", 0.1), ("1e9", 1.0), ("99999", 30.0), ("²", 1.0), ("-1", 1.0)],
)
def test_a_daemon_is_asked_again_after_what_it_says_within_bounds(
    monkeypatch: pytest.MonkeyPatch, header: str, seconds: float
) -> None:
    monkeypatch.setattr(put_http_module, "RETRY_AFTER_MIN_S", 0.1)
    assert put_http_module.retry_after_s(header) == seconds


# Permanent refusals


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 421, 505])
async def test_a_permanent_refusal_ends_it_with_its_reason(tmp_path: Path, status: int) -> None:
    body = {"__type": "ValidationException", "message": "there is no spool to store in"}
    daemon = Scripted([{"status": status, "json": body | {"acknowledged": 0, "rejected": []}}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        with pytest.raises(
            PutError, match=f"refuses: HTTP {status} ValidationException: there is no spool"
        ):
            await put.to(endpoint)
    assert len(daemon.asked) == 1
    assert put.totals.acknowledged == 0


async def test_a_request_that_is_refused_whole_settles_its_lines_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaemon.put.unix.BLOCK_RECORDS_MAX", 3)
    refused = {
        "__type": "ValidationException",
        "message": "no line can be taken",
        "acknowledged": 0,
        "rejected": [bad(1), bad(2), bad(3, None)],
        "rejected_count": 3,
    }
    daemon = Scripted([{"status": 400, "json": refused}, {"json": {"acknowledged": 2}}])
    put = Put(tmp_path, "a\nb\nc\nd\ne\n")
    async with http_daemon(daemon) as endpoint:
        await put.to(endpoint)
    assert daemon.asked == [["a", "b", "c"], ["d", "e"]]
    assert put.counts == (5, 2, 3, 0)
    assert put.totals.reasons == ["line 1: Bad: no", "line 2: Bad: no", "line 3: Bad"]


async def test_what_is_refused_for_all_lines_alike_is_not_asked_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a daemon without a spool refuses `stored`."""
    monkeypatch.setattr("kdaemon.put.unix.BLOCK_RECORDS_MAX", 2)
    code, text = "InvalidArgumentException", "There is no spool to store in"
    refused = {
        "__type": code,
        "message": text,
        "acknowledged": 0,
        "rejected": [bad(1, text, code), bad(2, None, code)],
        "rejected_count": 2,
    }
    daemon = Scripted([{"status": 400, "json": refused}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        with pytest.raises(PutError, match=f"refuses: HTTP 400 {code}: There is no spool"):
            await put.to(endpoint)
    assert daemon.asked == [["a", "b"]]
    assert put.counts == (2, 0, 2, 0)


async def test_lines_that_were_refused_for_others_go_without_them(tmp_path: Path) -> None:
    refused = {"__type": "V", "message": "m", "acknowledged": 0, "rejected": [bad(2)]}
    daemon = Scripted([{"status": 400, "json": refused}, {"json": {"acknowledged": 2}}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        await put.to(endpoint)
    assert daemon.asked == [["a", "b", "c"], ["a", "c"]]
    assert put.counts == (3, 2, 1, 0)
    assert put.totals.reasons == ["line 2: Bad: no"]


async def test_more_lines_may_be_rejected_than_are_named(tmp_path: Path) -> None:
    answer = {"acknowledged": 1, "rejected": [bad(2)], "rejected_count": 2}
    put = Put(tmp_path)
    async with http_daemon(Scripted([{"status": 207, "json": answer}])) as endpoint:
        await put.to(endpoint)
    assert put.counts == (3, 1, 2, 0)
    assert put.totals.reasons == ["line 2: Bad: no", "line ?: not named by the daemon"]


async def test_what_failed_with_an_unknown_outcome_is_told_and_not_sent_again(
    tmp_path: Path,
) -> None:
    failed = {
        "__type": "InternalFailure",
        "message": "the call's answer was lost",
        "acknowledged": 1,
        "rejected": [bad(2), bad(3, "?", "InternalFailure")],
    }
    daemon = Scripted([{"status": 500, "json": failed}])
    put = Put(tmp_path)
    async with http_daemon(daemon) as endpoint:
        with pytest.raises(PutError, match=r"InternalFailure: the call's .* of 1 records nobody"):
            await put.to(endpoint)
    assert len(daemon.asked) == 1
    assert put.counts == (3, 1, 1, 1)


# What answers is no daemon, or says what cannot be


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ({"status": 404, "text": "no stream s"}, "refuses: HTTP 404 no stream s"),
        ({"status": 404, "text": "x" * 10_000}, "refuses: HTTP 404 x{300}$"),
        ({"text": "<html>"}, "no kdaemon"),
        ({"text": "[" * 100_000}, "no kdaemon"),
        ({"text": '{"acknowledged": 7}'}, "answered for 7 records of 3"),
        ({"json": {"acknowledged": 4, "rejected_count": -1}}, "answered for 3 records of 3"),
        (
            {"status": 400, "json": {"acknowledged": 0, "rejected": [bad(1), bad(9)]}},
            "lines that were not sent",
        ),
        (
            {"status": 400, "json": {"acknowledged": 2, "rejected": [bad(1)]}},
            "refuses: HTTP 400",
        ),
        (
            {"json": {"acknowledged": 3}, "headers": {"X-Kdaemon-Acknowledge": "accepted"}},
            "promises `accepted` for 3 records, where `stored` was asked for",
        ),
        (
            {"body": gzip.compress(b"x"), "headers": {"Content-Encoding": "gzip"}},
            r"encodes its answer \(gzip\)",
        ),
    ],
)
async def test_what_cannot_be_is_told(tmp_path: Path, response: dict[str, Any], told: str) -> None:
    put = Put(tmp_path, acknowledge="stored")
    async with http_daemon(Scripted([response])) as endpoint:
        with pytest.raises(PutError, match=told):
            await put.to(endpoint)
    assert put.totals.acknowledged == 0


@pytest.mark.parametrize("promise", ["stored", "delivered"])
async def test_a_promise_that_is_as_good_as_asked_is_taken(tmp_path: Path, promise: str) -> None:
    put = Put(tmp_path, acknowledge="stored")
    answer = {"json": {"acknowledged": 3}, "headers": {"X-Kdaemon-Acknowledge": promise}}
    daemon = Scripted([answer])
    async with http_daemon(daemon) as endpoint:
        await put.to(endpoint)
    assert put.counts == (3, 3, 0, 0)
    assert daemon.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_error_and_nothing_goes_there(tmp_path: Path, status: int) -> None:
    there = Scripted([{"json": {"acknowledged": 3}}])
    async with http_daemon(there) as elsewhere:
        where = f"http://user:secret@{elsewhere}/v1/streams/x/records"
        here = Scripted([{"status": status, "headers": {"Location": where}}])
        async with http_daemon(here) as endpoint:
            with pytest.raises(PutError, match=f"redirects .HTTP {status} to http://") as error:
                await Put(tmp_path).to(endpoint)
    assert there.asked == []
    assert "secret" not in str(error.value)


async def test_an_answer_without_end_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_http_module, "ANSWER_BYTES_MAX", 100_000)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 10_000)
        except ConnectionError:
            return response

    async with http_daemon(answer) as endpoint:
        with pytest.raises(PutError, match="longer than 100000 bytes"):
            await Put(tmp_path).to(endpoint)


async def test_no_proxy_of_the_environment_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, proxy = Scripted([{"json": {"acknowledged": 3}}]), Scripted([{"status": 500}])
    async with http_daemon(daemon) as endpoint, http_daemon(proxy) as proxy_endpoint:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy_endpoint}")
        put = Put(tmp_path)
        await put.to(endpoint)
    assert (put.counts, proxy.asked) == ((3, 3, 0, 0), [])


async def test_without_a_daemon_the_error_says_what_to_do_and_no_password(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    endpoint = f"http://me:secret@127.0.0.1:{unused_tcp_port}"
    put = Put(tmp_path)
    with pytest.raises(PutError, match="start it with `kdaemon run`") as error:
        await put.to(endpoint)
    assert put.counts == (0, 0, 0, 0), "nothing was sent"
    assert "***@127.0.0.1" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "endpoint",
    ["", "ftp://h:1", "http://", "h:port", "h:99999", "http://me:secret/x@h:1", "me:secret@:1"],
)
async def test_what_is_no_address_is_told_without_a_password(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(PutError, match="is no address: expected HOST:PORT") as error:
        await Put(tmp_path).to(endpoint)
    assert "secret" not in str(error.value)


def test_a_file_of_authorities_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path, told in ((empty, "no certificate in the form PEM"), (tmp_path / "x", "No such file")):
        with pytest.raises(PutError, match=told):
            HttpPut("s", "delivered", Totals(), Person(), ca_file=str(path))
