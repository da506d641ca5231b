"""Which upstream a spelling is of; one engine for each stream of each; one that is down."""

from collections.abc import Callable
from typing import Any

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.description import Caller
from kdaemon.base.errors import RefusedError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.names import Qualified
from kdaemon.base.record import Record
from kdaemon.base.refused import Refused
from kdaemon.streams import Stream, Streams
from tests.kit.streams import FakeService, found, make_streams, turn

OURS, EU, YA = "000000000001", "111111111111", "ya"
CONFIG = f"""
region = "us-east-1"
account_id = "{OURS}"
[default]
linger_ms = 0
[upstreams.eu]
region = "eu-central-1"
account_id = "{EU}"
[upstreams.ya]
service = "yandex"
endpoint_url = "https://yds.example/ru/b1g/etn"
[upstreams.root]
service = "yandex"
[streams.orders-eu]
upstream = "eu"
upstream_name = "orders"
[streams.clicks]
upstream = "ya"
[streams.orders]
"""

Open = Callable[..., Streams]


def arn(name: str, account: str = EU, region: str = "eu-central-1") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


@pytest.fixture
async def opened() -> Open:
    return lambda text=CONFIG, **services: make_streams(
        services.pop("default", None) or FakeService(),
        text,
        **{name: services.get(name, FakeService()) for name in ("eu", "ya", "root")},
    )


def put(stream: Stream, *data: bytes) -> Frame:
    records = [Record(each, "k", None) for each in data]
    sizes = [len(record.data) + 1 for record in records]
    frame = make_frame(records, sizes, Acknowledge.DELIVERED, lambda _: None, None, 1)
    assert stream.submit(frame)
    return frame


@pytest.mark.parametrize(
    ("spelling", "upstream", "name"),
    [
        ("orders", "default", "orders"),
        ("new", "default", "new"),
        ("orders-eu", "eu", "orders"),
        ("@eu/orders", "eu", "orders"),
        ("@default/orders-eu", "default", "orders-eu"),
        (arn("orders"), "eu", arn("orders")),
        ("@eu/" + arn("x", "999999999999"), "eu", arn("x", "999999999999")),
        (arn("orders", OURS, "us-east-1"), "default", arn("orders", OURS, "us-east-1")),
        (arn("orders", region="us-east-1"), "default", arn("orders", region="us-east-1")),
        (arn("x", "999999999999"), "default", arn("x", "999999999999")),
        ("clicks", "ya", "clicks"),
        ("/ru/b1g/etn/new", "ya", "/ru/b1g/etn/new"),
        ("/ru/b1g/other/new", "root", "/ru/b1g/other/new"),
        ("/ru/b1g/etnx/new", "root", "/ru/b1g/etnx/new"),
        ("@root//ru/b1g/etnx/new", "root", "/ru/b1g/etnx/new"),
        # A whole name tells its upstream, whichever one stands before it: one stream, one engine.
        ("@eu/" + arn("x", OURS, "us-east-1"), "default", arn("x", OURS, "us-east-1")),
        ("@default/" + arn("orders"), "eu", arn("orders")),
        ("@root//ru/b1g/etn/new", "ya", "/ru/b1g/etn/new"),
        ("@ya//ru/b1g/other/new", "ya", "/ru/b1g/other/new"),
    ],
)
async def test_a_spelling_is_of_one_upstream(
    opened: Open, spelling: str, upstream: str, name: str
) -> None:
    assert opened().spellings.place(spelling) == Qualified(upstream, name)


@pytest.mark.parametrize(
    "spelling", ["@no/x", "@eu/", "@eu", "@/x", "@@eu/x", "@EU/x", "@eu/@eu/x"]
)
async def test_what_names_no_upstream_is_refused_and_opens_nothing(
    opened: Open, spelling: str
) -> None:
    streams = opened()
    count = len(list(streams.engines()))
    refused = streams.find(spelling)
    assert isinstance(refused, Refused)
    assert refused.is_permanent
    assert streams.spellings.names(spelling, is_certain=False) == ()
    assert isinstance(streams.spellings.refusal_to_look(spelling), Refused)
    assert len(list(streams.engines())) == count


async def test_all_spellings_of_a_stream_are_one_engine_and_one_name_at_two_upstreams_two(
    opened: Open,
) -> None:
    default, eu, ya = FakeService(), FakeService(), FakeService()
    streams = opened(default=default, eu=eu, ya=ya)
    of_eu = found(streams, "orders-eu")
    assert found(streams, "@eu/orders") is found(streams, arn("orders")) is of_eu
    of_default = found(streams, "orders")
    assert found(streams, arn("orders", OURS, "us-east-1")) is of_default is not of_eu
    of_ya = found(streams, "@ya/orders")
    assert found(streams, "/ru/b1g/etn/orders") is of_ya
    for stream in (of_eu, of_default, of_ya):
        put(stream, b"a")
    await turn()
    assert [target.qualified.text for target, _ in eu.calls] == ["@eu/orders"]
    assert [target.qualified.text for target, _ in default.calls] == ["orders"]
    assert [target.name for target, _ in ya.calls] == ["/ru/b1g/etn/orders"]
    assert {of_eu.name, of_default.name} == {"@eu/orders", "orders"}
    assert of_eu.service.name == "aws"
    assert of_ya.service.name == "yandex"
    assert of_ya.limits.request_bytes_max == 5 * 1024 * 1024


async def test_a_yandex_daemon_finds_no_upstream_for_an_arn_that_none_has() -> None:
    text = f"service = 'yandex'\n[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '{EU}'"
    streams = make_streams(FakeService(), text, eu=FakeService())
    assert found(streams, arn("s")).target.upstream == "eu"
    refused = streams.find(arn("s", OURS))
    assert isinstance(refused, Refused)
    assert refused.code == "ResourceNotFoundException"
    assert f"account {OURS} and the region eu-central-1" in refused.message


async def test_a_named_upstream_knows_its_account_and_asks_nobody(opened: Open) -> None:
    eu = FakeService()
    streams = opened(eu=eu)
    put(found(streams, arn("orders")), b"a")
    await turn()
    assert eu.asked_count == 0
    assert len(eu.calls) == 1


async def test_keys_of_another_account_are_told(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    eu = FakeService()
    opened(eu=eu)
    assert eu.on_new_keys is not None
    eu.on_new_keys(Caller("999999999999", "eu-central-1"))
    (line,) = caplog.records
    assert line.getMessage() == "account_id is wrong: kdaemon calls as another account"
    fields = line.__dict__["fields"]
    assert (fields["upstream"], fields["account"]) == ("eu", "999999999999")


# What the spool has


async def test_what_the_spool_has_leads_back_to_its_upstream(opened: Open) -> None:
    streams = opened()
    for spelling in ("orders-eu", "orders", "clicks", "@ya/new", arn("pay"), arn("x", OURS)):
        stream = found(streams, spelling)
        assert streams.find_stored(stream.name) is stream
    with pytest.raises(RefusedError, match="@gone/orders, an upstream that is not configured"):
        streams.find_stored("@gone/orders")


async def test_what_was_stored_for_the_default_upstream_goes_there_whatever_has_the_name_now() -> (
    None
):
    eu = f"[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '{EU}'\n"
    streams = make_streams(FakeService(), eu + "[streams.s]\nupstream = 'eu'", eu=FakeService())
    assert found(streams, "s").target.upstream == "eu"
    assert streams.find_stored("s").target.upstream == "default"
    assert streams.find_stored("@eu/s") is found(streams, "s")


# Rights


@pytest.mark.parametrize(
    ("spelling", "names"),
    [
        ("orders-eu", {"orders-eu", "@eu/orders", arn("orders")}),
        ("@eu/new", {"@eu/new", arn("new")}),
        (arn("new"), {"@eu/new", arn("new")}),
        ("orders", {"orders", arn("orders", OURS, "us-east-1")}),
        ("@default/clicks", {"@default/clicks", arn("clicks", OURS, "us-east-1")}),
        ("clicks", {"clicks", "@ya/clicks", "@ya//ru/b1g/etn/clicks", "/ru/b1g/etn/clicks"}),
    ],
)
async def test_a_right_is_written_with_a_name_that_means_this_stream_alone(
    opened: Open, spelling: str, names: set[str]
) -> None:
    streams = opened()
    found_names = set(streams.spellings.names(spelling, is_certain=True))
    assert found_names == names
    plain = {name for name in found_names if name[0] != "@"}
    assert all(streams.spellings.is_same(name, spelling) for name in plain), (
        "no other stream's name"
    )


# One that is down


async def test_an_upstream_that_is_down_stops_no_other(opened: Open) -> None:
    eu, default = FakeService(), FakeService()
    eu.is_stalled = eu.is_silent = True
    streams = opened("memory_bytes_max = 33554432\n" + CONFIG, eu=eu, default=default)
    lost = [found(streams, f"@eu/s{number}") for number in range(20)] + [
        found(streams, "orders-eu")
    ]
    for _ in range(100):
        for stream in lost:
            for _ in range(10):
                records = [Record(b"." * 50_000, "k", None)]
                frame = make_frame(records, [50_001], Acknowledge.ACCEPTED, lambda _: None, None, 1)
                stream.submit(frame)
    assert streams.memory.bytes_taken > streams.memory.bytes_max // 2, "it holds what it may"
    assert streams.memory.free_bytes() >= streams.memory.bytes_max // 8
    for number in range(20):
        put(found(streams, f"n{number}"), b"a")
        put(found(streams, "orders"), b"b")
        await turn()
    assert sum(len(data) for _, data in default.calls) == 40


async def test_unlisted_streams_of_one_that_is_down_leave_slots_to_the_others(
    opened: Open,
) -> None:
    eu, default = FakeService(), FakeService()
    eu.is_stalled = True
    streams = opened("streams_max = 43\n" + CONFIG, eu=eu, default=default)
    taken = 0
    for number in range(100):
        stream = streams.find(f"@eu/s{number}")
        if isinstance(stream, Stream):
            put(stream, b"a")
            taken += 1
        else:
            assert stream.code == "LimitExceededException"
    assert taken == 30, "of 40 slots that listed streams do not have"
    for number in range(100):
        put(found(streams, f"n{number}"), b"a")
        await turn()
    assert len(default.calls) == 100
    assert not isinstance(streams.find("orders-eu"), Refused)


async def test_one_that_is_down_closes_no_stream_of_others_in_vain(opened: Open) -> None:
    eu = FakeService()
    eu.is_stalled = True
    streams = opened("streams_max = 43\n" + CONFIG, eu=eu)
    for number in range(30):  # all that it may have of the 40 that listed streams do not have
        put(found(streams, f"@eu/s{number}"), b"a")
    idle = [found(streams, f"n{number}") for number in range(5)]
    for number in range(30, 50):
        refused = streams.find(f"@eu/s{number}")
        assert isinstance(refused, Refused)
        assert "list it" in refused.message
    assert [found(streams, stream.name) for stream in idle] == idle, "they are as they were"


async def test_an_upstream_closes_its_own_idle_streams_first(opened: Open) -> None:
    streams = opened("streams_max = 43\n" + CONFIG)
    others = [found(streams, f"n{number}") for number in range(5)]
    own = [found(streams, f"@eu/s{number}") for number in range(20)]
    for number in range(20, 60):
        found(streams, f"@eu/s{number}")
    assert [found(streams, stream.name) for stream in others] == others
    assert found(streams, "@eu/s0") is not own[0]


@pytest.mark.parametrize(
    ("spelling", "upstream"),
    [
        ("/local/a", "one"),
        ("@two//local/a", "two"),
        ("@one//local/a", "one"),
        ("/local/deep/a", "deep"),
        ("@one//local/deep/a", "one"),
        (arn("a"), "eu"),
        ("@again/" + arn("a"), "again"),
        ("@eu/" + arn("a"), "eu"),
        ("@again/" + arn("listed"), "eu"),
    ],
)
async def test_of_two_upstreams_that_have_it_the_one_that_is_named_is_meant(
    spelling: str, upstream: str
) -> None:
    ya = "[upstreams.{}]\nservice = 'yandex'\nendpoint_url = 'https://{}.example/{}'\n"
    eu = "[upstreams.{}]\nregion = 'eu-central-1'\n" + f"account_id = '{EU}'\n"
    text = ya.format("one", "one", "local") + ya.format("two", "two", "local")
    text += ya.format("deep", "deep", "local/deep") + eu.format("eu") + eu.format("again")
    text += f"[streams.x]\narn = '{arn('listed')}'\nupstream = 'eu'\n"
    names = ("one", "two", "deep", "eu", "again")
    services: dict[str, Any] = {name: FakeService() for name in names}
    streams = make_streams(FakeService(), text, **services)
    place = streams.spellings.place(spelling)
    assert isinstance(place, Qualified)
    assert place.upstream == upstream


@pytest.mark.parametrize("table", ["", "[streams.twin]\narn = '{}'\n"])
async def test_an_arn_of_two_upstreams_means_the_first_listed_or_not(
    opened: Open, table: str
) -> None:
    text = CONFIG.replace('"us-east-1"', '"eu-central-1"').replace(OURS, EU)
    streams = opened(text + table.format(arn("twin")))
    assert found(streams, arn("twin")).target.upstream == "default"
    assert found(streams, "@eu/" + arn("other")).target.upstream == "eu"
    named = opened(text + f"[streams.twin]\narn = '{arn('twin')}'\nupstream = 'eu'\n")
    assert found(named, arn("twin")).target.upstream == "eu"
    for each in (streams, named):
        await each.aclose()
