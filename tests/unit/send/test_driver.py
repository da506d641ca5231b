"""The driver between a real engine and a real client: what wrong settings do to a stream."""

import asyncio
import gc
import socket
from dataclasses import replace

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.counters import DeadReason
from kdaemon.base.description import StreamDescription, StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.send.client import ClientSettings
from kdaemon.send.driver import StreamDriver
from kdaemon.send.posts import Body
from kdaemon.system import SystemClock, SystemDice
from tests.kit.engine_rig import SETTINGS
from tests.unit.send.scripted import (
    DELIVERED,
    ORDERS,
    RECORDS,
    Answer,
    ScriptedService,
    answering,
    answering_json,
    opened,
    refusal,
    reset,
)

pytestmark = pytest.mark.usefixtures("aws_environment")


class Nothing:
    """Describes nothing: the shards stay unknown."""

    async def describe(self, target: StreamTarget) -> StreamDescription:
        return StreamDescription(None, None, is_auto=False, stream_arn=target.arn)


async def put(settings: ClientSettings) -> tuple[Frame, StreamDriver]:
    """A waiting client's two records: their frame, when it has settled, and who drove it."""
    clock = SystemClock()
    engine = Engine(SETTINGS, ByteBudget(2**30), SystemDice(7), clock.now_ns())
    async with opened(settings) as client:
        driver = StreamDriver(ORDERS, engine, client, Nothing(), clock, Histogram(LAG_BOUNDS_NS))
        told = asyncio.get_running_loop().create_future()
        deadline_ns = clock.now_ns() + 60_000_000_000
        frame = make_frame(
            [Record(each.data, each.partition_key) for each in RECORDS],
            [9, 2],
            Acknowledge.DELIVERED,
            told.set_result,
            deadline_ns,
        )
        assert driver.submit(frame)
        await told
        await driver.aclose()
    return frame, driver


@pytest.mark.parametrize(
    ("name", "value", "endpoint_url"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIDTEST\n", ""),
        ("AWS_SECRET_ACCESS_KEY", "secret ", ""),
        ("AWS_SESSION_TOKEN", "é", ""),
        ("AWS_DEFAULT_REGION", "eu-west-1\n", ""),
        ("AWS_REGION", "eu-west-1\n", ""),
        ("AWS_CA_BUNDLE", "/nowhere/at/all.pem", ""),
        ("endpoint", "", "http://localhost:99999"),
    ],
)
async def test_a_wrong_setting_is_a_hold_that_names_it_and_nothing_is_ambiguous(
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    endpoint_url: str,
) -> None:
    if value:
        monkeypatch.setenv(name, value)
    frame, driver = await put(ClientSettings(endpoint_url=endpoint_url or service.url))
    assert service.received == []
    assert driver.engine.hold is not None
    assert name in driver.engine.hold.message
    assert driver.engine.counters.possible_duplicates == 0
    assert frame.refusal is not None
    assert frame.refusal[0] == "ServiceUnavailable"
    assert name in frame.refusal[1]


async def test_what_the_service_refuses_is_heard_with_its_type(service: ScriptedService) -> None:
    service.script.append(refusal("KMSDisabledException", "the key is disabled"))
    frame, _ = await put(ClientSettings(endpoint_url=service.url))
    assert frame.refusal == ("KMSDisabledException", "the key is disabled")


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (refusal("KMSDisabledException", "the key is disabled"), 1),
        (refusal("ValidationException", "no good"), 3),  # the call, and each of its halves
        (refusal("LimitExceededException", "slow"), 1),
        (answering_json({"Records": []}), 1),
        (answering_json({}), 1),
        (reset, 1),
    ],
    ids=["hold", "poison", "throttle", "count", "unreadable", "reset"],
)
async def test_what_failed_leaves_no_batch_in_a_cycle(
    service: ScriptedService, answer: Answer, times: int
) -> None:
    """A cycle that holds a batch holds its data until the collector runs."""
    service.script.extend([answer] * times)
    await put(ClientSettings(endpoint_url=service.url))  # what is made once is made
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        service.script.extend([answer] * times)
        await put(ClientSettings(endpoint_url=service.url))
        gc.collect()
        held = [each for each in gc.garbage if isinstance(each, (Batch, ServiceError, Body))]
        assert held == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_how_the_stream_keeps_its_records_is_the_services_last_word(
    service: ScriptedService,
) -> None:
    service.script.append(answering_json(DELIVERED | {"EncryptionType": "KMS"}))
    frame, driver = await put(ClientSettings(endpoint_url=service.url))
    assert driver.encryption_type == "KMS"
    assert all(result is not None and result.is_delivered for result in frame.results)


async def test_an_encryption_that_the_service_did_not_set_is_told_to_no_client(
    service: ScriptedService,
) -> None:
    """Yandex says so where no shard answered, and SDKs do not know the word."""
    undefined = answering_json(DELIVERED | {"EncryptionType": "ENCRYPTION_UNDEFINED"})
    service.script.append(undefined)
    _, driver = await put(ClientSettings(endpoint_url=service.url))
    assert driver.encryption_type == "NONE"


async def test_a_failed_call_is_logged_with_the_services_number_of_it(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    """By which the service's support finds it."""
    body = b'{"__type": "KMSDisabledException", "message": "the key is disabled"}'
    service.script.append(answering(400, body, **{"x-amzn-RequestId": "4b1c-77-ours"}))
    await put(ClientSettings(endpoint_url=service.url))
    (line,) = [each for each in caplog.records if each.message == "PutRecords failed"]
    assert line.__dict__["fields"]["request_id"] == "4b1c-77-ours"


async def test_a_failed_call_without_a_number_is_logged_without_one(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    service.script.append(refusal("KMSDisabledException", "the key is disabled"))
    await put(ClientSettings(endpoint_url=service.url))
    (line,) = [each for each in caplog.records if each.message == "PutRecords failed"]
    assert "request_id" not in line.__dict__["fields"]


async def test_a_call_that_finds_no_connection_is_recalled_with_its_clients(
    service: ScriptedService,
) -> None:
    """Who listens and does not speak TLS lets calls hang before they are written."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    clock = SystemClock()
    engine = Engine(SETTINGS, ByteBudget(2**30), SystemDice(7), clock.now_ns())
    async with opened(ClientSettings(endpoint_url=url)) as client:
        driver = StreamDriver(ORDERS, engine, client, Nothing(), clock, Histogram(LAG_BOUNDS_NS))
        told = asyncio.get_running_loop().create_future()
        frame = make_frame(
            [Record(each.data, each.partition_key) for each in RECORDS],
            [9, 2],
            Acknowledge.DELIVERED,
            told.set_result,
            clock.now_ns() + 200_000_000,
        )
        assert driver.submit(frame)
        await told
        assert engine.counters.in_flight == 2
        assert engine.counters.possible_duplicates == 0
        assert frame.refusal is not None
        assert "withdrawn" in frame.refusal[1]
        await driver.aclose()
    listener.close()
    assert service.received == []


async def test_what_grew_too_old_is_logged_with_its_reason_though_no_call_ends(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    """And not as refused by the service for itself."""
    service.script.append(refusal("AccessDeniedException", "no"))
    clock = SystemClock()
    settings = replace(SETTINGS, max_age_ns=1_000_000)
    engine = Engine(settings, ByteBudget(2**30), SystemDice(7), clock.now_ns())
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        driver = StreamDriver(ORDERS, engine, client, Nothing(), clock, Histogram(LAG_BOUNDS_NS))
        told = asyncio.get_running_loop().create_future()
        frame = make_frame([Record(b"a", "k")], [2], Acknowledge.ACCEPTED, told.set_result, None)
        assert driver.submit(frame)
        await told
        await asyncio.sleep(0)
        await driver.aclose()
    assert engine.counters.dead[DeadReason.EXPIRED] == 1
    (line,) = [one for one in caplog.messages if one.startswith("records are dead")]
    assert line == "records are dead: they are older than the stream's max_age_ms"


async def test_who_waits_for_room_is_told_though_another_one_breaks(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks() -> None:
        raise RuntimeError("mine")

    clock = SystemClock()
    engine = Engine(SETTINGS, ByteBudget(2**30), SystemDice(7), clock.now_ns())
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        driver = StreamDriver(ORDERS, engine, client, Nothing(), clock, Histogram(LAG_BOUNDS_NS))
        told = asyncio.get_running_loop().create_future()
        driver.when_room(breaks)
        driver.when_room(lambda: told.set_result(None))
        for _ in driver.take_settings(SETTINGS):
            pass
        assert told.done()
        await driver.aclose()
    assert any("broke: a defect of kdaemon" in each for each in caplog.messages)
