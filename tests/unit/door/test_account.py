"""Whose stream an ARN means, on every way in: no success for what went to another account's stream.

The service in memory has streams of every account: a call by name reaches that of the credentials'
account, a call by ARN that of the ARN's. It answers PutRecords, and describes nothing.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from kdaemon.base.description import Caller
from kdaemon.base.errors import ServiceError
from kdaemon.base.names import parse_arn
from kdaemon.streams import Stream, owner
from kdaemon.streams.inquiry import MISSING_NS
from tests.kit.accounts import (
    OTHERS,
    OURS,
    THIRD,
    WAYS,
    Place,
    arn,
    bytes_of,
    http_bytes,
    is_success,
)
from tests.kit.clock import jump
from tests.kit.patience import PATIENCE_S
from tests.kit.streams import DENIED, FakeService, make_streams, turn

FAST = "[default]\nlinger_ms = 0\n"
ORDERED = "[default]\nlinger_ms = 0\nordering = 'partition_key'\n"
ACKNOWLEDGES = ["delivered", "accepted"]

Make = Callable[..., Place]


@pytest.fixture
async def place() -> AsyncIterator[Make]:
    made: list[Place] = []

    def make(
        text: str = FAST, service: FakeService | None = None, account: str | None = None
    ) -> Place:
        service = service or FakeService()
        service.account_id = account
        service.describe_error = DENIED
        made.append(Place(text, service))
        return made[-1]

    yield make
    for each in made:
        for client in each.clients:
            client.protocol.connection_lost(None)
        await each.streams.give_up()
        await each.streams.aclose()


# The gap: PutRecords permission only, and credentials that do not tell their account


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ACKNOWLEDGES)
@pytest.mark.parametrize("account", [OURS, None], ids=["STS tells", "nobody tells"])
@pytest.mark.parametrize("text", [FAST, FAST + "[streams.s]"], ids=["unlisted", "listed"])
@pytest.mark.parametrize(
    "spellings",
    [("s", arn(OTHERS)), (arn(OTHERS), "s"), (arn(OTHERS), arn(OURS), "s", arn(THIRD))],
    ids=["name first", "ARN first", "three accounts"],
)
async def test_a_success_by_arn_is_in_the_arns_account_and_one_by_name_in_ours(
    place: Make, way: str, asked: str, account: str | None, text: str, spellings: tuple[str, ...]
) -> None:
    one = place(text, account=account)
    expected: dict[str, list[bytes]] = {}
    for again in range(2):
        for spelling in spellings:
            data = f"{spelling}-{again}".encode()
            client = one.put(way, spelling, data, asked=asked)
            await turn(60)
            assert is_success(client), client.written
            parsed = parse_arn(spelling)
            expected.setdefault(OURS if parsed is None else parsed.account, []).append(data)
    assert one.written() == expected
    if account is not None:
        others = {arn(OTHERS), arn(THIRD)}.intersection(spellings)
        assert one.engines() == sorted({"s"} | others), "one engine a stream"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spelling", [arn(OURS), arn(OTHERS)])
async def test_a_request_by_arn_waits_for_sts_and_no_request_by_name_does(
    place: Make, way: str, spelling: str
) -> None:
    one = place(FAST + "[streams.s]", account=OURS)
    one.service.sts.clear()
    by_arn = one.put(way, spelling, b"by-arn")
    by_name = one.put(way, "s", b"by-name")
    await turn(60)
    assert (is_success(by_arn), is_success(by_name)) == (False, True)
    assert one.written() == {OURS: [b"by-name"]}
    one.service.sts.set()
    await turn(60)
    assert is_success(by_arn)
    assert one.service.calls[-1][1] == [b"by-arn"]
    assert one.service.calls[-1][0].arn == (None if spelling == arn(OURS) else spelling)


async def test_sts_is_asked_by_the_first_arn_that_may_be_ours_and_once(place: Make) -> None:
    one = place(FAST + f"[streams.'{arn(OTHERS, 'listed')}']", account=OURS)
    for spelling in ("s", arn(OTHERS, "listed"), arn(OURS).replace("eu-central-1", "us-east-1")):
        one.put("PutRecord", spelling, b"a")
        await turn(60)
    assert one.service.asked_count == 0
    for spelling in (arn(OTHERS), arn(OURS), arn(THIRD, "t")):
        one.put("PutRecord", spelling, b"a")
        await turn(60)
    assert one.service.asked_count == 1


async def test_the_setting_ends_the_question(place: Make) -> None:
    one = place(f"account_id = '{OURS}'\n" + FAST)
    for spelling in (arn(OURS), "s", arn(OTHERS)):
        one.put("PutRecord", spelling, spelling.encode())
    await turn(60)
    assert one.service.asked_count == 0
    assert one.engines() == [arn(OTHERS), "s"]


async def test_where_sts_fails_or_is_silent_the_wait_ends_and_the_doubt_is_told_once(
    place: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = place(FAST + "[streams.s]")
    one.service.sts_error = ServiceError("ConnectTimeout", "no way to sts", status=0)
    with caplog.at_level(logging.WARNING, "kdaemon.streams"):
        clients = [one.put("PutRecord", arn(each), each.encode()) for each in (OURS, OTHERS)]
        await turn(60)
    assert all(map(is_success, clients))
    assert one.written() == {each: [each.encode()] for each in (OURS, OTHERS)}
    (told,) = [each for each in caplog.records if "own account" in each.message]
    assert "no way to sts" in told.__dict__["fields"]["error"]
    assert "account_id" in told.message


async def test_a_silent_sts_holds_nobody_for_ever(
    place: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = place(FAST + "[streams.s]", account=OURS)
    one.service.sts.clear()
    client = one.put("PutRecord", arn(OTHERS), b"a")
    await turn(60)
    assert not client.written
    jump(owner.ASK_WAIT_S)
    await turn(60)
    assert is_success(client)
    assert one.written() == {OTHERS: [b"a"]}
    (line,) = (each for each in caplog.records if "its own account" in each.getMessage())
    assert line.__dict__["fields"] == {"error": "nobody told it in time"}


async def test_while_nobody_can_be_asked_yet_the_time_for_the_account_has_not_begun(
    place: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Just after a start: an ARN would be sent apart from the stream that it means."""
    monkeypatch.setattr(owner, "ASK_WAIT_S", 0)
    one = place(FAST + "[streams.s]", account=OURS)
    one.service.is_ready = False
    one.service.sts.clear()
    one.service.word.clear()
    client = one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    assert not is_success(client)
    monkeypatch.setattr(owner, "ASK_WAIT_S", PATIENCE_S)
    await turn()  # the last short one is over
    one.service.is_ready = True
    one.service.sts.set()
    one.service.word.set()
    await turn(60)
    assert is_success(client)
    assert one.written() == {OURS: [b"a"]}
    assert "own account" not in caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", [ORDERED, ORDERED + "[streams.s]"], ids=["unlisted", "listed"])
@pytest.mark.parametrize("spellings", [("s", arn(OURS)), (arn(OURS), "s")], ids=["name", "ARN"])
async def test_beside_a_stand_in_that_tells_nothing_a_stream_is_one_by_name_and_by_arn(
    place: Make, way: str, text: str, spellings: tuple[str, str]
) -> None:
    one = place(text)
    one.service.is_stand_in = True
    expected = []
    for number in range(6):
        one.put(way, spellings[number % 2], b"%d" % number)
        expected.append(b"%d" % number)
        await turn(60)
    one.put(way, arn(OTHERS), b"others")
    await turn(60)
    assert one.written() == {OURS: expected, OTHERS: [b"others"]}
    assert one.engines() == sorted(["s", arn(OTHERS)])


async def test_beside_a_stand_in_no_arn_adds_to_the_listed_streams(place: Make) -> None:
    one = place("accept_unlisted = false\n" + FAST + "[streams.s]")
    one.service.is_stand_in = True
    client = one.put("PutRecord", arn(OTHERS), b"a")
    await turn(60)
    assert b"account_id" in client.written
    assert one.written() == {}
    assert one.engines() == ["s"]


async def test_a_failing_sts_is_asked_again_until_it_answers(
    place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "ASK_AGAIN_FIRST_S", 0)
    one = place(FAST, account=OURS)
    one.service.sts_error = ServiceError("ConnectTimeout", "no way to sts", status=0)
    one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    assert one.engines() == [arn(OURS), "s"]
    one.service.sts_error = None
    await turn(60)
    asked = one.service.asked_count
    one.put("PutRecord", arn(OURS), b"b")
    await turn(60)
    assert [(target.arn, data) for target, data in one.service.calls] == [
        (arn(OURS), [b"a"]),
        (None, [b"b"]),
    ]
    assert one.engines() == ["s"], "what was opened for the ARN is closed when it is idle"
    assert one.service.asked_count == asked


# One stream by name and by ARN: order and pace


@pytest.mark.parametrize("way", ["PutRecord", "session"])
@pytest.mark.parametrize("text", [ORDERED, ORDERED + "[streams.s]"], ids=["unlisted", "listed"])
@pytest.mark.parametrize("told_at", [0, 7, 20])
async def test_by_whatever_spelling_a_connections_records_keep_their_order(
    place: Make, way: str, text: str, told_at: int
) -> None:
    one = place(text, account=OURS)
    one.service.sts.clear()
    names = ["s", arn(OURS), arn(OURS), "s", "s"]
    data = [b"%04d" % each for each in range(20)]
    client = one.put(way, names[0], data[0], asked="accepted")
    for number, each in enumerate(data[1:], 1):
        if number == told_at:
            one.service.sts.set()
        spelling = names[number % len(names)]
        client.protocol.data_received(bytes_of(way, spelling, [each], "accepted"))
        if number % 3 == 0:
            await turn(2)
    one.service.sts.set()
    await turn(500)
    assert one.written() == {OURS: data}
    assert one.engines() == ["s"]


@pytest.mark.parametrize("account", [OURS, OTHERS])
async def test_of_many_that_wait_none_is_overtaken_while_they_go_on(
    place: Make, account: str
) -> None:
    one = place(ORDERED, account=OURS)
    one.service.sts.clear()
    data = [b"%04d" % each for each in range(300)]
    for each in data[:200]:
        one.put("PutRecord", arn(account), each, asked="accepted")
    one.service.sts.set()
    for each in data[200:]:
        await asyncio.sleep(0)
        one.put("PutRecord", arn(account), each, asked="accepted")
    await one.settle()
    assert one.written() == {account: data}


async def test_an_arn_waits_for_its_account_behind_many_that_go_on_already(place: Make) -> None:
    one = place(ORDERED, account=OURS)
    one.service.sts.clear()
    one.service.word.clear()
    data = [b"%04d" % each for each in range(201)]
    for each in data[:200]:
        one.put("PutRecord", "s", each, asked="accepted")
    one.service.word.set()
    while one.stream("s").counters.accepted == 0:
        await asyncio.sleep(0)
    assert not one.stream("s").inquiry.is_empty
    one.put("PutRecord", arn(OURS), data[200], asked="accepted")
    await turn(60)
    one.service.sts.set()
    await one.settle()
    assert one.written() == {OURS: data}
    assert one.engines() == ["s"]


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_opened_for_an_arn_keeps_its_order_when_the_account_is_learnt_late(
    place: Make, way: str
) -> None:
    one = place(ORDERED)
    for _ in range(2):
        one.put(way, arn(OURS), b"1", asked="delivered")
        await turn(60)
    one.service.calls.clear()
    one.service.answer.clear()  # the service keeps its calls
    for each in (b"1", b"2"):
        one.put(way, arn(OURS), each, asked="accepted")
    await turn(60)
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller(OURS, "eu-central-1"))
    one.put(way, "s", b"n", asked="accepted")
    one.put(way, arn(OURS), b"3", asked="accepted")
    await turn(60)
    one.service.answer.set()
    await turn(60)
    by_arn = [data for target, each in one.service.calls if target.arn for data in each]
    assert by_arn == [b"1", b"2", b"3"]
    one.put(way, arn(OURS), b"4", asked="accepted")
    await turn(60)
    assert one.service.calls[-1] == (one.service.calls[-1][0], [b"4"])
    assert one.service.calls[-1][0].arn is None
    assert one.engines() == ["s"]


# Another account's keys


async def test_when_the_keys_become_another_accounts_its_arn_is_the_name_and_the_old_ones_not(
    place: Make,
) -> None:
    one = place(FAST, account=OURS)
    one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    one.ours = one.service.account_id = OTHERS
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    await turn(60)
    assert one.service.asked_count == 2
    one.service.calls.clear()
    for spelling in (arn(OURS), arn(OTHERS), "s"):
        one.put("PutRecord", spelling, spelling.encode())
        await turn(60)
    assert one.written() == {OURS: [arn(OURS).encode()], OTHERS: [arn(OTHERS).encode(), b"s"]}
    assert one.engines() == [arn(OURS), "s"]


async def test_an_old_answer_does_not_end_the_question_for_new_keys(place: Make) -> None:
    one = place(FAST + "[streams.s]", account=OURS)
    one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    one.service.sts.clear()
    one.ours = one.service.account_id = OTHERS
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    await turn(60)
    one.streams.upstreams["default"].learn(
        Caller(OURS, "eu-central-1")
    )  # by a look-up with the old ones
    one.service.sts.set()
    await turn(60)
    one.service.calls.clear()
    one.put("PutRecord", arn(OURS), b"b")
    await turn(60)
    assert one.written() == {OURS: [b"b"]}


async def test_what_nobody_used_is_forgotten_with_its_keys_and_asked_for_when_it_is(
    place: Make,
) -> None:
    one = place(FAST)
    one.service.describe_error = None
    one.service.arn_of = lambda target: target.arn or arn(OURS, target.name)
    one.put("PutRecord", "s", b"a")
    await turn(60)
    one.ours = one.service.account_id = OTHERS
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    await turn(60)
    assert one.service.asked_count == 0, "nobody needs to know"
    one.service.describe_error = DENIED
    one.service.calls.clear()
    for spelling in (arn(OURS), arn(OTHERS)):
        one.put("PutRecord", spelling, spelling.encode())
        await turn(60)
    assert one.written() == {each: [arn(each).encode()] for each in (OURS, OTHERS)}
    assert one.service.asked_count == 1


@pytest.mark.parametrize("way", [each for each in WAYS if each != "session"])
async def test_no_old_look_up_lets_a_record_in_whose_arn_turns_out_to_be_another_streams(
    place: Make, way: str
) -> None:
    one = place(FAST)
    one.service.describe_error = None
    one.service.arn_of = lambda target: target.arn or arn(OURS, target.name)
    one.put("PutRecord", "s", b"a")
    await turn(60)
    one.service.missing = {"s"}
    one.put("PutRecord", arn(OTHERS), b"b")
    await turn(60)
    one.clock.ns += MISSING_NS
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    one.service.account_id = THIRD
    one.service.sts.clear()
    client = one.put(way, arn(OTHERS), b"c", asked="accepted")
    await turn(60)
    assert not one.stream("s").inquiry.is_empty
    one.service.sts.set()
    await turn(60)
    assert b"ResourceNotFoundException" in client.written


async def test_a_setting_outlives_the_keys(place: Make) -> None:
    one = place(f"account_id = '{OURS}'\n" + FAST)
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    assert one.engines() == ["s"]
    assert one.service.asked_count == 0


async def test_new_keys_whose_account_nobody_tells_leave_what_is_known(place: Make) -> None:
    one = place(FAST, account=OURS)
    one.put("PutRecord", arn(OURS), b"a")
    await turn(60)
    one.service.sts_error = ServiceError("ConnectTimeout", "no way to sts", status=0)
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller("", "eu-central-1"))
    await turn(60)
    one.put("PutRecord", arn(OURS), b"b")
    await turn(60)
    assert one.engines() == ["s"]


async def test_a_setting_that_the_credentials_contradict_is_told_and_not_believed(
    place: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = place(f"account_id = '{OTHERS}'\n" + FAST)
    assert one.service.on_new_keys is not None
    one.service.on_new_keys(Caller(OURS, "eu-central-1"))
    for spelling in (arn(OURS), arn(OTHERS)):
        one.put("PutRecord", spelling, spelling.encode())
    await turn(60)
    assert one.written() == {each: [arn(each).encode()] for each in (OURS, OTHERS)}
    assert "account_id is wrong" in caplog.text


# What is listed


@pytest.mark.parametrize("way", WAYS)
async def test_in_doubt_an_arn_of_a_listed_name_keeps_that_streams_promises(
    place: Make, way: str
) -> None:
    listed = (
        "[streams.s]\nacknowledge = 'accepted'\nordering = 'partition_key'\nonly_writer = true\n"
    )
    one = place(FAST + listed + "aggregation = 'kpl'\n")
    one.put(way, arn(OTHERS), b"a")
    await turn(60)
    stream = one.stream(arn(OTHERS))
    config = stream.config
    assert (config.acknowledge, config.ordering, config.only_writer) == (
        "accepted",
        "partition_key",
        True,
    )
    assert config.aggregation == "none", "another account's readers may not take it apart"
    assert not stream.is_listed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("account", [OURS, None], ids=["STS tells", "nobody tells"])
async def test_where_only_listed_streams_are_taken_an_arn_in_doubt_is_refused(
    place: Make, way: str, account: str | None
) -> None:
    one = place("accept_unlisted = false\n" + FAST + "[streams.s]", account=account)
    clients = {each: one.put(way, arn(each), each.encode()) for each in (OURS, OTHERS)}
    await turn(60)
    assert is_success(clients[OURS]) is (account is not None)
    assert not is_success(clients[OTHERS])
    heard = clients[OTHERS].written
    assert b"ResourceNotFoundException" in heard
    assert (b"account_id" in heard) is (account is None)
    assert one.written() == ({OURS: [OURS.encode()]} if account else {})


# A dry run


@pytest.mark.parametrize("spelling", ["s", arn(OURS), arn(OTHERS)])
async def test_a_dry_run_is_asked_under_the_spelling_of_the_client(
    place: Make, spelling: str
) -> None:
    one = place(FAST + "[streams.s]", account=OURS)
    one.service.sts.clear()
    named = {"StreamName" if spelling == "s" else "StreamARN": spelling}
    body = {**named, "Data": "", "PartitionKey": "k", "DryRun": True}
    head = (
        "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202.PutRecord\r\n"
    )
    client = one.put("PutRecord", "s", b"a")
    client.protocol.data_received(http_bytes("/", head, "delivered", json.dumps(body).encode()))
    await turn(60)
    assert [each.arn for each in one.service.dry_runs] == [None if spelling == "s" else spelling]


# Yandex: the path names the database, and there is nothing to learn


async def test_at_yandex_a_foreign_database_in_the_path_is_another_stream() -> None:
    text = "service = 'yandex'\nendpoint_url = 'http://127.0.0.1/ru-central1/b1g/ours'\n" + FAST
    service = FakeService()
    streams = make_streams(service, text)
    for spelling in ("s", "/ru-central1/b1g/ours/s", "/ru-central1/b1g/theirs/s"):
        assert isinstance(streams.find(spelling), Stream)
    assert sorted(name for name, _ in streams.engines()) == [
        "/ru-central1/b1g/ours/s",
        "/ru-central1/b1g/theirs/s",
    ]
    assert service.asked_count == 0
