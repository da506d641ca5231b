"""A look at records that pass through: what is kept of them, and what is shown."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from kdaemon.base.record import Record
from kdaemon.observe import tap
from kdaemon.observe.keys import HASH_DIGITS
from kdaemon.observe.tap import DATA_BYTES_MAX, RECORDS_MAX, TAPS_MAX, Taps
from kdaemon.system import SystemDice
from tests.kit.patience import PATIENCE_S


class Request:
    """What a look needs of an HttpRequest."""

    def __init__(self, query: str = "stream=orders") -> None:
        self.query = query
        self.on_gone: Any = None
        self.answer: tuple[int, bytes] | None = None
        self.told = asyncio.Event()

    def respond(self, status: int, body: bytes, **_: Any) -> None:
        assert self.answer is None
        self.answer = status, body
        self.told.set()

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.answer is not None
        assert self.answer[0] == 200, self.answer
        return [json.loads(line) for line in self.answer[1].splitlines()]


class Rig:
    def __init__(self, *, is_on: bool = True) -> None:
        self.taps = Taps(SystemDice(1), is_on=is_on)
        self.door: Any = SimpleNamespace(on_taken=None)

    def ask(self, query: str = "stream=orders") -> Request:
        request: Any = Request(query)
        self.taps.ask(request)
        found: Request = request
        return found

    def take(self, *records: Record, name: str = "orders", listed: str = "") -> None:
        """Of a stream that is listed by this name, or of an unlisted one, whose settings have its
        bare name.
        """
        settings = SimpleNamespace(name=listed or name.rpartition("/")[2])
        stream = SimpleNamespace(name=name, config=settings, is_listed=bool(listed))
        if self.door.on_taken is not None:
            self.door.on_taken(stream, list(records))


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(tap, "WINDOW_S", 0.01)
    rig = Rig()
    rig.taps.watch(rig.door)
    return rig


async def answered(request: Request) -> None:
    await asyncio.wait_for(request.told.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    "name", ["@eu/orders", "arn:aws:kinesis:eu-west-1:222222222222:stream/orders"]
)
async def test_a_stream_of_the_same_name_elsewhere_is_another_one(rig: Rig, name: str) -> None:
    request = rig.ask()
    rig.take(Record(b"theirs", "k"), name=name)
    rig.take(Record(b"ours", "k"))
    await answered(request)
    assert request.lines[0] == {"seen": 1, "shown": 1}
    request = rig.ask(f"stream={name}")
    rig.take(Record(b"theirs", "k"), name=name)
    await answered(request)
    assert request.lines[0] == {"seen": 1, "shown": 1}


async def test_while_nobody_looks_the_door_has_nobody_to_tell(rig: Rig) -> None:
    told = [rig.door.on_taken is not None]
    request = rig.ask()
    told.append(rig.door.on_taken is not None)
    await answered(request)
    assert [*told, rig.door.on_taken is not None] == [False, True, False]
    assert request.lines == [{"seen": 0, "shown": 0}]


async def test_what_is_not_allowed_any_more_ends_and_what_is_begins(rig: Rig) -> None:
    looking = rig.ask()
    rig.taps.allow(is_on=False)
    assert looking.answer is not None
    assert looking.answer[0] == 503
    refused = rig.ask()
    assert refused.answer is not None
    assert refused.answer[0] == 403
    rig.taps.allow(is_on=True)
    again = rig.ask()
    await answered(again)
    assert again.lines[0]["seen"] == 0


async def test_without_data_there_is_the_size_and_a_digest_of_the_key(rig: Rig) -> None:
    request = rig.ask()
    rig.take(Record(b"hello", "user-1"), Record(b"", ""))
    await answered(request)
    head, first, second = request.lines
    assert head == {"seen": 2, "shown": 2}
    assert first["bytes"] == 5
    assert len(first["key_sha256"]) == HASH_DIGITS
    assert second == {"key_sha256": None, "bytes": 0}
    assert request.answer is not None
    assert b"user-1" not in request.answer[1]
    assert b"hello" not in request.answer[1]


async def test_with_data_a_line_is_what_put_takes_and_much_data_is_cut(rig: Rig) -> None:
    request = rig.ask("stream=orders&data=1")
    rig.take(Record(b"hello", "k", "7"), Record(b"\xff", "k"), Record(b"x" * 10**6, ""))
    await answered(request)
    _, text, binary, large = request.lines
    assert text == {"partition_key": "k", "explicit_hash_key": "7", "data": "hello"}
    assert binary == {"partition_key": "k", "data_base64": "/w=="}
    assert large == {"data": "x" * DATA_BYTES_MAX, "is_cut": True}


async def test_other_streams_are_not_shown_and_both_names_of_one_are(rig: Rig) -> None:
    mine, listed = rig.ask(), rig.ask("stream=by-table")
    rig.take(Record(b"a", "k"))
    rig.take(Record(b"b", "k"), name="@eu/orders", listed="by-table")
    await answered(listed)
    await answered(mine)
    assert mine.lines[0]["seen"] == listed.lines[0]["seen"] == 1


async def test_a_sample_is_bounded_and_tells_how_many_there_were(rig: Rig) -> None:
    request = rig.ask("stream=orders&data=1")
    for number in range(1000):
        rig.take(*(Record(f"{number}".encode(), "k") for _ in range(7)))
    await answered(request)
    assert request.lines[0] == {"seen": 7000, "shown": RECORDS_MAX}
    shown = [int(line["data"]) for line in request.lines[1:]]
    late = sum(number >= 500 for number in shown)
    assert 20 < late < 80, "of the second half as of the first"


async def test_so_many_looks_go_on_and_no_more(rig: Rig) -> None:
    requests = [rig.ask() for _ in range(TAPS_MAX)]
    refused = rig.ask()
    assert refused.answer is not None
    assert refused.answer[0] == 503
    requests[0].on_gone()
    assert rig.ask().answer is None
    rig.taps.close()
    assert [each.answer and each.answer[0] for each in requests] == [None, 503, 503, 503]
    assert rig.door.on_taken is None


async def test_what_is_wrong_with_a_look_is_told() -> None:
    off = Rig(is_on=False)
    off.taps.watch(off.door)
    request = off.ask()
    assert request.answer is not None
    assert request.answer[0] == 403
    assert b"listen.admin_tap" in request.answer[1]
    on = Rig()
    for query, status in (("stream=orders", 503), ("", 400), ("stream=a&stream=b", 400)):
        answer = on.ask(query).answer
        assert answer is not None
        assert answer[0] == status


async def test_a_look_that_breaks_disturbs_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = rig.ask()
    monkeypatch.setattr(tap, "_cut", lambda _: 1 / 0)
    rig.take(Record(b"a", "k"))
    assert request.answer is not None
    assert request.answer[0] == 503
    assert "a look at records broke" in caplog.text
