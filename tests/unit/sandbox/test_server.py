"""The sandbox over HTTP: what clients see, and the faults that are below the meaning of HTTP."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import cbor2
import pytest

from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.server import UNPARSABLE, SandboxServer, WallClock
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.system import SystemClock, SystemDice
from tests.kit import cbor
from tests.kit.clock import HandClock, jump
from tests.kit.patience import until

JSON = "application/x-amz-json-1.1"
CBOR = "application/x-amz-cbor-1.1"
DATA = base64.b64encode(b"hello").decode()
PUT: dict[str, Any] = {"StreamName": "orders", "Records": [{"Data": DATA, "PartitionKey": "k"}] * 3}
NAMED = {"StreamName": "orders"}


class Sandbox:
    """A running server and a client session on it."""

    def __init__(self, server: SandboxServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.service = server.service
        self.session = session
        self.url = f"http://127.0.0.1:{server.port}"

    async def call(
        self, operation: str, members: object, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {"Content-Type": JSON, "X-Amz-Target": f"Kinesis_20131202.{operation}", **headers}
        data = io.BytesIO(json.dumps(members).encode())  # plain bytes of this size draw a warning
        async with self.session.post(self.url, data=data, headers=sent) as response:
            return response.status, dict(response.headers), await response.read()

    async def answer(self, operation: str, members: object) -> Any:
        status, _, body = await self.call(operation, members)
        assert status == 200, body
        return json.loads(body)

    async def script(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url + path, data=data) as response:
            return response.status, await response.json(content_type="application/json")


@asynccontextmanager
async def running(
    settings: SandboxSettings | None = None, clock: WallClock | None = None
) -> AsyncIterator[Sandbox]:
    server = SandboxServer(Service(settings, SystemDice(7)), clock or SystemClock())
    await server.start(port=0)
    timeout = aiohttp.ClientTimeout()  # none: a test may let hours pass
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Sandbox(server, session)
    finally:
        await server.aclose()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with running() as sandbox:
        sandbox.service.create_stream("orders", 2)
        yield sandbox


async def test_records_go_in_and_come_out_over_http(sandbox: Sandbox) -> None:
    status, headers, body = await sandbox.call("PutRecords", PUT)
    assert status == 200
    assert headers["Content-Type"] == JSON
    assert len(headers["x-amzn-RequestId"]) == 36
    assert headers["x-amz-id-2"]
    answer = json.loads(body)
    assert answer["FailedRecordCount"] == 0
    assert [sorted(result) for result in answer["Records"]] == [["SequenceNumber", "ShardId"]] * 3
    shard_id = answer["Records"][0]["ShardId"]
    token = await sandbox.answer(
        "GetShardIterator",
        {"StreamName": "orders", "ShardId": shard_id, "ShardIteratorType": "TRIM_HORIZON"},
    )
    read = await sandbox.answer("GetRecords", token)
    assert [record["Data"] for record in read["Records"]] == [DATA] * 3
    written = [result["SequenceNumber"] for result in answer["Records"]]
    assert [record["SequenceNumber"] for record in read["Records"]] == written
    assert read["Records"][0]["ApproximateArrivalTimestamp"] > 1_600_000_000


async def test_request_ids_differ(sandbox: Sandbox) -> None:
    ids = {(await sandbox.call("ListStreams", {}))[1]["x-amzn-RequestId"] for _ in range(3)}
    assert len(ids) == 3


async def test_a_throttled_record_fails_alone_inside_a_200(sandbox: Sandbox) -> None:
    sandbox.service.set_quota(Quota(1, 10**6), SystemClock.now_ns())
    answer = await sandbox.answer("PutRecords", PUT)
    assert answer["FailedRecordCount"] == 2
    first, second, _ = answer["Records"]
    assert "ErrorCode" not in first
    assert sorted(second) == ["ErrorCode", "ErrorMessage"]
    assert second["ErrorCode"] == "ProvisionedThroughputExceededException"


async def test_put_record_by_arn(sandbox: Sandbox) -> None:
    arn = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    answer = await sandbox.answer(
        "PutRecord", {"StreamARN": arn, "Data": DATA, "PartitionKey": "k"}
    )
    assert sorted(answer) == ["EncryptionType", "SequenceNumber", "ShardId"]
    assert [stored.record for stored in sandbox.service.stored("orders")] == [Record(b"hello", "k")]


async def test_a_record_over_its_streams_limit_is_named_as_each_call_names_it(
    sandbox: Sandbox,
) -> None:
    entry = {"Data": base64.b64encode(b"x" * 2**20).decode(), "PartitionKey": "k"}
    _, _, several = await sandbox.call("PutRecords", {"StreamName": "orders", "Records": [entry]})
    _, _, single = await sandbox.call("PutRecord", {"StreamName": "orders", **entry})
    assert b"'records.1.member.data'" in several
    assert b"'data'" in single
    for body in (several, single):
        assert json.loads(body)["__type"] == "ValidationException"


@pytest.mark.parametrize("operation", ["PutRecords", "PutRecord"])
async def test_a_dry_run_writes_nothing_and_says_so(sandbox: Sandbox, operation: str) -> None:
    members = PUT if operation == "PutRecords" else {**PUT["Records"][0], "StreamName": "orders"}
    status, _, body = await sandbox.call(operation, {**members, "DryRun": True})
    assert (status, json.loads(body)["__type"]) == (400, "DryRunOperationException")
    status, _, body = await sandbox.call(operation, {**members, "DryRun": True, "StreamName": "no"})
    assert json.loads(body)["__type"] == "ResourceNotFoundException"
    assert sandbox.service.stored("orders") == []


async def test_a_dry_run_of_a_read_gives_nothing(sandbox: Sandbox) -> None:
    members = {
        "StreamName": "orders",
        "ShardId": "shardId-000000000000",
        "ShardIteratorType": "LATEST",
    }
    _, _, body = await sandbox.call("GetShardIterator", members)
    iterator = json.loads(body)["ShardIterator"]
    for operation, good, bad in (
        ("GetShardIterator", members, {**members, "StreamName": "no"}),
        ("GetRecords", {"ShardIterator": iterator}, {"ShardIterator": "made up"}),
    ):
        status, _, body = await sandbox.call(operation, {**good, "DryRun": True})
        assert (status, json.loads(body)["__type"]) == (400, "DryRunOperationException")
        _, _, body = await sandbox.call(operation, {**bad, "DryRun": True})
        assert json.loads(body)["__type"] != "DryRunOperationException"
        assert (await sandbox.call(operation, {**good, "DryRun": False}))[0] == 200


async def test_an_unknown_operation_and_a_bad_payload_are_refused(sandbox: Sandbox) -> None:
    status, _, body = await sandbox.call("EnableEnhancedMonitoring", {})
    assert (status, json.loads(body)) == (400, {"__type": "UnknownOperationException"})
    payloads: tuple[object, ...] = ([], None, 7)
    for payload in payloads:
        status, _, body = await sandbox.call("DescribeStream", payload)
        assert (status, json.loads(body)["__type"]) == (400, "SerializationException")
        assert "message" not in json.loads(body)  # its text is under `Message`
    status, _, _ = await sandbox.call("DescribeStream", {}, **{"Content-Type": "text/plain"})
    assert status == 404


@pytest.mark.parametrize("kind", ["reset", "unparsable_body", "empty_body", "status"])
@pytest.mark.parametrize("is_written", [False, True])
async def test_a_fault_writes_before_it_shows_only_if_it_says_so(
    sandbox: Sandbox, kind: str, is_written: bool
) -> None:
    fault = {"kind": kind, "is_written": is_written, "status": 503}
    status, answer = await sandbox.script("POST", "/sandbox/faults", fault)
    assert status == 200
    assert [each["kind"] for each in answer["faults"]] == [kind]
    if kind == "reset":
        with pytest.raises(aiohttp.ClientConnectionError):
            await sandbox.call("PutRecords", PUT)
    else:
        status, _, body = await sandbox.call("PutRecords", PUT)
        expected = {
            "unparsable_body": (200, UNPARSABLE),
            "empty_body": (200, b""),
            "status": (
                503,
                b'{"__type":"ServiceUnavailableException","message":"Service Unavailable"}',
            ),
        }
        assert (status, body) == expected[kind]
    assert len(sandbox.service.stored("orders")) == (3 if is_written else 0)
    await sandbox.answer("PutRecords", PUT)  # the fault is used up


async def test_faults_show_in_the_encoding_of_their_request(sandbox: Sandbox) -> None:
    sent = cbor.java(cbor.of_json(PUT))
    head = {"Content-Type": CBOR, "X-Amz-Target": "Kinesis_20131202.PutRecords"}
    for kind, status in (("throttle", 400), ("unparsable_body", 200), ("empty_body", 200)):
        sandbox.service.add_faults(Fault(kind=FaultKind(kind)))
        data = io.BytesIO(sent)
        async with sandbox.session.post(sandbox.url, data=data, headers=head) as response:
            body = await response.read()
        assert (response.status, response.headers["Content-Type"]) == (status, CBOR)
        if kind == "throttle":
            code = "ProvisionedThroughputExceededException"
            assert cbor.members_of(body)["__type"] == code
        else:
            with pytest.raises(cbor2.CBORDecodeError):
                cbor2.loads(body)


async def test_latency_delays_the_answer_and_not_the_write(sandbox: Sandbox) -> None:
    sandbox.service.add_faults(Fault(kind=FaultKind.LATENCY, latency_ms=3_600_000))
    slow = asyncio.create_task(sandbox.answer("PutRecords", PUT))
    await until(lambda: sandbox.service.stored("orders"))
    quick = await sandbox.answer("ListStreams", {})
    assert quick["StreamNames"] == ["orders"]
    jump(1800)
    await sandbox.answer("ListStreams", {})
    assert not slow.done()
    jump(1800)
    assert (await slow)["FailedRecordCount"] == 0


async def test_a_hang_never_answers_and_closing_ends_it(sandbox: Sandbox) -> None:
    sandbox.service.add_faults(Fault(kind=FaultKind.HANG, is_written=True))
    hung = asyncio.create_task(sandbox.call("PutRecords", PUT))
    await until(lambda: sandbox.service.stored("orders"))
    await sandbox.answer("ListStreams", {})
    assert not hung.done()
    await sandbox.server.aclose()
    with pytest.raises(aiohttp.ClientConnectionError):
        await hung


async def test_closing_drops_delayed_answers(sandbox: Sandbox) -> None:
    sandbox.service.add_faults(Fault(kind=FaultKind.LATENCY, latency_ms=3_600_000))
    slow = asyncio.create_task(sandbox.call("PutRecords", PUT))
    await until(lambda: sandbox.service.stored("orders"))
    await sandbox.server.aclose()
    await sandbox.server.aclose()
    with pytest.raises(aiohttp.ClientConnectionError):
        await slow


async def test_a_wrong_count_and_failed_records_over_http(sandbox: Sandbox) -> None:
    sandbox.service.add_faults(
        Fault(kind=FaultKind.WRONG_COUNT),
        Fault(kind=FaultKind.RECORD_FAILURE, indices=(1,)),
    )
    assert len((await sandbox.answer("PutRecords", PUT))["Records"]) == 2
    answer = await sandbox.answer("PutRecords", PUT)
    assert answer["FailedRecordCount"] == 1
    assert answer["Records"][1] == {
        "ErrorCode": "InternalFailure",
        "ErrorMessage": "Internal Service Failure",
    }


async def test_control_calls_can_be_made_to_fail(sandbox: Sandbox) -> None:
    fault = {"kind": "access_denied", "operation": "ListShards", "calls": None}
    await sandbox.script("POST", "/sandbox/faults", [fault])
    for _ in range(2):
        status, _, body = await sandbox.call("ListShards", {"StreamName": "orders"})
        assert (status, json.loads(body)["__type"]) == (400, "AccessDeniedException")
    assert (await sandbox.script("DELETE", "/sandbox/faults")) == (200, {"faults": []})
    assert len((await sandbox.answer("ListShards", {"StreamName": "orders"}))["Shards"]) == 2


async def test_the_state_counts_and_shows_no_data(sandbox: Sandbox) -> None:
    await sandbox.answer("PutRecords", PUT)
    status, state = await sandbox.script("GET", "/sandbox/state")
    assert status == 200
    assert state["calls"] == {"PutRecords": 1}
    assert state["faults"] == []
    shards = state["streams"]["orders"]["shards"]
    assert sum(shard["written"] for shard in shards) == 3
    assert sum(shard["retained"] for shard in shards) == 3
    assert DATA not in json.dumps(state)


async def test_quotas_are_set_by_call(sandbox: Sandbox) -> None:
    quota = {"records_per_second": 2, "bytes_per_second": 1000, "stream": "orders"}
    status, state = await sandbox.script("POST", "/sandbox/quotas", quota)
    assert status == 200
    assert state["streams"]["orders"]["records_per_second"] == 2
    assert (await sandbox.answer("PutRecords", PUT))["FailedRecordCount"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/sandbox/faults", [{"kind": "trottle"}], 400, "latency, reset, hang, status"),
        ("POST", "/sandbox/faults", {}, 400, "latency, reset, hang, status"),
        ("POST", "/sandbox/faults", {"kind": "reset", "cals": 1}, 400, "kind, calls, operation"),
        (
            "POST",
            "/sandbox/faults",
            {"kind": "reset", "operation": "PutRecord s"},
            400,
            "no operation 'PutRecord s'",
        ),
        ("POST", "/sandbox/quotas", {"records_per_second": 1}, 400, "bytes_per_second"),
        ("POST", "/sandbox/quotas", {"records": 1}, 400, "records_per_second, bytes_per_second"),
        ("POST", "/sandbox/splits", {"shard": "x"}, 400, "stream, shard_id"),
        ("POST", "/sandbox/tokens", {"accept": None}, 400, "accepted, is_required"),
        (
            "POST",
            "/sandbox/quotas",
            {"records_per_second": 0, "bytes_per_second": 1},
            400,
            "at least 1 record",
        ),
        (
            "POST",
            "/sandbox/quotas",
            {"records_per_second": 1, "bytes_per_second": 1, "stream": "none"},
            400,
            "not found",
        ),
        ("PUT", "/sandbox/faults", None, 405, "GET, POST or DELETE"),
        ("GET", "/sandbox/weather", None, 404, "/sandbox/state"),
    ],
)
async def test_a_bad_control_call_says_what_is_wrong_and_changes_nothing(
    sandbox: Sandbox, method: str, path: str, body: object, status: int, text: str
) -> None:
    found, answer = await sandbox.script(method, path, body)
    assert found == status
    assert text in answer["message"]
    assert sandbox.service.pending_faults() == []
    assert sandbox.service.stream("orders").quota == Quota()


async def test_the_port_is_known_only_while_it_listens() -> None:
    server = SandboxServer(Service(), SystemClock())
    with pytest.raises(RuntimeError, match="not started"):
        assert server.port
    await server.start(port=0)
    assert server.port > 0
    await server.aclose()
    with pytest.raises(RuntimeError, match="not started"):
        assert server.port


async def test_yandex_is_spoken_over_http() -> None:
    settings = SandboxSettings(service=YANDEX, quota=Quota(2, 10**6))
    async with running(settings) as sandbox:
        sandbox.service.create_stream("/region/cloud/base/orders", 1)
        url = f"{sandbox.url}/region/cloud/base"
        headers = {
            "Content-Type": "application/json",
            "X-Amz-Target": "anything.PutRecords",
            "X-Request-Id": "mine",
        }

        async def put(members: object) -> tuple[int, Any, str]:
            body = json.dumps(members)
            async with sandbox.session.post(url, data=body, headers=headers) as response:
                return (
                    response.status,
                    json.loads(await response.read()),
                    response.headers["x-amzn-RequestId"],
                )

        two = {**PUT, "Records": PUT["Records"][:2]}
        status, answer, request_id = await put(two)
        assert status == 200
        assert request_id.endswith("-mine")
        assert [result["SequenceNumber"] for result in answer["Records"]] == ["0", "1"]
        status, answer, _ = await put(two)
        assert answer["FailedRecordCount"] == 2
        assert answer["Records"][0] == {
            "SequenceNumber": "",
            "ShardId": "",
            "ErrorCode": "ProvisionedThroughputExceededException",
            "ErrorMessage": "quota exceeded",
        }
        status, answer, _ = await put({**two, "StreamARN": "x"})
        assert (status, answer["message"]) == (400, "Unexpected json key: StreamARN")
        headers["X-Amz-Target"] = "Kinesis_20131202.ListShards"
        status, answer, _ = await put({"StreamName": "orders"})
        assert (status, answer["__type"]) == (400, "InvalidAction")
        headers["X-Amz-Target"] = "Kinesis_20131202.DescribeStream"
        status, answer, _ = await put({"StreamName": "orders"})
        assert answer["StreamDescription"]["StreamName"] == "/region/cloud/base/orders"
        headers["X-Amz-Target"] = "Kinesis_20131202.PutRecord"
        status, answer, _ = await put({"StreamName": "none", "Data": DATA, "PartitionKey": "k"})
        assert (status, answer["__type"]) == (400, "ResourceNotFoundException")
        del headers["X-Amz-Target"]
        status, answer, _ = await put({})
        assert (status, answer["__type"]) == (400, "MissingAction")


THROTTLED = "<main>: Error: quota exceeded, code: 500002\n"


async def test_a_stalled_answer_comes_when_the_shard_has_quota() -> None:
    settings = SandboxSettings(service=YANDEX, quota=Quota(10, 10**6), quota_wait_ms=250)
    async with running(settings, HandClock()) as sandbox:
        sandbox.service.create_stream("orders", 1)
        five = {**PUT, "Records": [*PUT["Records"], *PUT["Records"][:2]]}
        for _ in range(3):  # the third leaves a debt of 5: half a second
            assert (await sandbox.answer("PutRecords", five))["FailedRecordCount"] == 0
        loop = asyncio.get_running_loop()
        start = loop.time()
        stalled = asyncio.create_task(sandbox.answer("PutRecords", five))
        await sandbox.answer("ListStreams", {})
        assert (await stalled)["FailedRecordCount"] == 0
        assert loop.time() - start >= 0.5
        start = loop.time()
        answer = await sandbox.answer("PutRecords", five)
        assert loop.time() - start >= 0.25
        assert answer["FailedRecordCount"] == 5
        assert answer["Records"][0]["ErrorMessage"] == "quota exceeded"
        start = loop.time()
        status, _, body = await sandbox.call("PutRecord", {**PUT["Records"][0], **NAMED})
        assert loop.time() - start >= 0.25
        assert (status, json.loads(body)["message"]) == (400, THROTTLED)
        sandbox.service.add_faults(Fault(kind=FaultKind.LATENCY, latency_ms=100))
        start = loop.time()
        await sandbox.answer("PutRecords", five)
        assert loop.time() - start >= 0.35


async def test_closing_drops_stalled_answers() -> None:
    settings = SandboxSettings(service=YANDEX, quota=Quota(1, 10**6), quota_wait_ms=9000)
    async with running(settings, HandClock()) as sandbox:
        sandbox.service.create_stream("orders", 1)
        await sandbox.answer("PutRecords", PUT)  # leaves a debt of 2: two seconds
        stalled = asyncio.create_task(sandbox.call("PutRecords", PUT))
        await until(lambda: sandbox.service.call_counts["PutRecords"] >= 2)
        await sandbox.server.aclose()
        with pytest.raises(aiohttp.ClientConnectionError):
            await stalled


async def test_a_shard_is_split_by_the_service_on_request(sandbox: Sandbox) -> None:
    split = {"stream": "orders", "shard_id": "shardId-000000000001"}
    status, state = await sandbox.script("POST", "/sandbox/splits", split)
    assert status == 200
    shards = state["streams"]["orders"]["shards"]
    assert [shard["is_open"] for shard in shards] == [True, False, True, True]
    status, answer = await sandbox.script("POST", "/sandbox/splits", split)
    assert (status, answer["__type"]) == (400, "ResourceInUseException")
    status, answer = await sandbox.script("POST", "/sandbox/splits", {"stream": "orders"})
    assert (status, answer["__type"]) == (400, "InvalidArgumentException")


async def test_a_dry_run_is_denied_as_the_call_would_be(sandbox: Sandbox) -> None:
    sandbox.service.add_faults(Fault(kind=FaultKind.ACCESS_DENIED))
    _, _, body = await sandbox.call("PutRecords", {**PUT, "DryRun": True})
    assert json.loads(body)["__type"] == "AccessDeniedException"
