"""Whatever is known of the daemon's account, and whenever: no record reaches another stream than
its client called, and none overtakes another that was called the same.

Two connections put records by names and ARNs while the account is told, not told or told late, and
the service answers or keeps its calls. Each record has data of its own, and all have one key.
"""

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.description import Caller
from kdaemon.base.errors import ServiceError
from kdaemon.base.names import parse_arn
from kdaemon.streams import owner
from tests.kit.accounts import OTHERS, OURS, WAYS, Place, arn, bytes_of
from tests.kit.clock import jump
from tests.kit.depth import examples
from tests.kit.doors import FakeTransport
from tests.kit.streams import DENIED, FakeService, turn

NO_STS = ServiceError("ConnectTimeout", "no way to sts", status=0)
SPELLINGS = ["s", arn(OURS), arn(OTHERS), "t", arn(OURS, "t"), arn(OTHERS, "t")]
ORDERED = "[default]\nordering = 'partition_key'\nlinger_ms = 0\nacknowledge = 'accepted'\n"
TEXTS = [ORDERED, ORDERED + "[streams.s]\n", ORDERED + f"[streams.'{arn(OTHERS)}']\n"]

EVENTS = st.sampled_from(
    [
        *("the credentials tell", "STS tells", "STS fails", "nobody tells in time"),
        *("the service describes", "the service keeps its calls", "it answers them", "turn"),
    ]
)
DOUBTS = {"STS fails", "nobody tells in time"}
PUTS = st.tuples(st.sampled_from(WAYS), st.sampled_from(SPELLINGS))


@dataclass(frozen=True)
class Called:
    client: FakeTransport
    spelling: str
    data: bytes


@settings(max_examples=examples(150), deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    is_described=st.booleans(),
    steps=st.lists(st.one_of(PUTS, PUTS, EVENTS), min_size=1, max_size=25),
)
def test_every_record_is_where_its_client_called_it_and_in_its_order(
    text: str, is_described: bool, steps: list[tuple[str, str] | str]
) -> None:
    asyncio.run(_play(text, steps, is_described=is_described))


async def _play(text: str, steps: list[tuple[str, str] | str], *, is_described: bool) -> None:
    service = FakeService()
    service.account_id = OURS
    service.sts.clear()
    service.word.clear()
    service.arn_of = lambda target: target.arn or arn(OURS, target.name)
    service.describe_error = None if is_described else DENIED
    place = Place(text, service)
    lines, http = place.connect("session"), place.connect("http")
    lines.protocol.data_received(b'{"acknowledge":"accepted"}\n')
    called: list[Called] = []
    try:
        for step in steps:
            if isinstance(step, str):
                await _happen(step, place)
                continue
            way, spelling = step
            client = lines if way == "session" else http
            called.append(Called(client, spelling, b"%04d" % len(called)))
            client.protocol.data_received(bytes_of(way, spelling, [called[-1].data], "accepted"))
        for event in ("STS tells", "the service describes", "it answers them"):
            await _happen(event, place)
        await place.settle(30)
        _check(place, called, text, was_in_doubt=bool(DOUBTS.intersection(steps)))
    finally:
        for client in (lines, http):
            client.protocol.connection_lost(None)
        await place.streams.aclose()


async def _happen(event: str, place: Place) -> None:
    service = place.service
    match event:
        case "the credentials tell":
            assert service.on_new_keys is not None
            service.on_new_keys(Caller(OURS, "eu-central-1"))
        case "STS tells" | "STS fails":
            service.sts_error = NO_STS if event == "STS fails" else None
            service.sts.set()
        case "nobody tells in time":
            jump(owner.ASK_WAIT_S)
        case "the service describes":
            service.word.set()
        case "the service keeps its calls":
            service.answer.clear()
        case "it answers them":
            service.answer.set()
        case _:
            pass
    await turn(3)


def _stream_of(spelling: str, text: str) -> tuple[str, str]:
    """Account and name: a name that is listed by an ARN means that ARN."""
    parsed = parse_arn(spelling)
    if parsed is not None:
        return parsed.account, parsed.name
    return (OTHERS if spelling == "s" and arn(OTHERS) in text else OURS), spelling


def _check(place: Place, called: list[Called], text: str, *, was_in_doubt: bool) -> None:
    written: dict[tuple[str, str], list[bytes]] = {}
    for target, batch in place.service.calls:
        parsed = parse_arn(target.arn or "")
        account = OURS if parsed is None else parsed.account
        written.setdefault((account, target.name), []).extend(batch)
    expected: dict[tuple[str, str], list[bytes]] = {}
    for each in called:
        expected.setdefault(_stream_of(each.spelling, text), []).append(each.data)
    assert {k: sorted(v) for k, v in written.items()} == expected, "in another account's stream"
    kinds = {(each.client, each.spelling if was_in_doubt else None) for each in called}
    for client, spelling in kinds:
        sent = {each.data for each in called if each.client is client}
        if spelling is not None:
            sent &= {each.data for each in called if each.spelling == spelling}
        for data in written.values():
            got = [each for each in data if each in sent]
            assert got == sorted(got), f"a record by {spelling or 'any spelling'} was overtaken"
