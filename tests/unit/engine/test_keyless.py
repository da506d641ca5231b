"""What a client sent without a key stays so: in its frame, in a dead letter, in its replay."""

import json
from dataclasses import replace

import pytest

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.cli.reading import record_line
from kdaemon.spool.held import letters_of
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import MS, delivered, describe, even_shards, failed, make_frame
from tests.kit.kcl import inner_records

PLAIN = SETTINGS
ORDERED = replace(SETTINGS, is_ordered=True)
AGGREGATING = replace(SETTINGS, aggregate_bytes_max=10_000)
ATOMIC = replace(ORDERED, is_shard_atomic=True)
ALL = [PLAIN, ORDERED, AGGREGATING, ATOMIC, replace(AGGREGATING, is_ordered=True)]


def records_sent(rig: Rig) -> list[Record]:
    """Of all calls that can be made now, aggregates taken apart; each is delivered."""
    sent: list[Record] = []
    for _ in range(20):
        rig.now_ns += 200 * MS
        batch = rig.poll()
        if batch is None:
            break
        for record in batch.records:
            sent += inner_records(record.data) or [record]
        rig.answer(batch)
    return sent


def rig_of(settings: EngineSettings, how: str) -> Rig:
    rig = Rig(settings)
    if how == "AUTO":
        at_once(rig.engine.take_description(describe(even_shards(2), is_auto=True), rig.now_ns))
    elif how == "no map":
        rig.engine.audit().queues.shards.forget(rig.now_ns)
    return rig


def put(rig: Rig, *records: Record) -> Frame:
    frame = make_frame(records)
    assert rig.engine.handle_frame(frame, rig.now_ns)
    return frame


@pytest.mark.parametrize(
    ("settings", "how"),
    [(settings, how) for settings in ALL for how in ("a map", "no map")] + [(PLAIN, "AUTO")],
)
def test_a_record_without_a_key_is_sent_with_one_and_stays_without(
    settings: EngineSettings, how: str
) -> None:
    rig = rig_of(settings, how)
    records = [Record(b"0", ""), Record(b"1", "", "7"), Record(b"2", "k"), Record(b"3", "k", "9")]
    before = repr(records)
    frame = put(rig, *records)
    sent = {record.data: record for record in records_sent(rig)}
    assert sorted(sent) == [b"0", b"1", b"2", b"3"]
    assert all(record.partition_key for record in sent.values())
    assert sent[b"0"].explicit_hash_key is not None
    assert sent[b"1"].explicit_hash_key == "7"
    assert (sent[b"2"].partition_key, sent[b"2"].explicit_hash_key) == ("k", None)
    assert (sent[b"3"].partition_key, sent[b"3"].explicit_hash_key) == ("k", "9")
    assert repr(frame.records) == before
    assert frame.unsettled == 0


@pytest.mark.parametrize("how", ["a map", "no map"])
@pytest.mark.parametrize("settings", [PLAIN, ORDERED, ATOMIC])
@pytest.mark.parametrize("is_whole_call", [True, False])
def test_a_dead_letter_shows_what_the_client_sent_and_a_replay_sends_that(
    settings: EngineSettings, how: str, *, is_whole_call: bool
) -> None:
    """Also of a record that went out more than once, under one key after another."""
    rig = rig_of(settings, how)
    frame = put(rig, Record(b"any", ""), Record(b"named", "", "7"), Record(b"keyed", "k"))
    rig.now_ns += 200 * MS
    first = rig.call()
    throttled = failed("ProvisionedThroughputExceededException")
    rig.answer(first, [throttled for _ in first.records])
    for _ in range(60):
        rig.now_ns += 500 * MS
        batch = rig.poll()
        if batch is None:
            continue
        if is_whole_call:
            rig.fail(batch, ServiceError("ValidationException", "no good", status=400))
        else:
            poison = failed("InvalidArgumentException")
            rig.answer(batch, [poison for _ in batch.records])
    assert frame.unsettled == 0
    letters = {letter.data: letter for letter in letters_of("s", frame, 0, 1)}
    assert {
        data: (letter.partition_key, letter.explicit_hash_key) for data, letter in letters.items()
    } == {b"any": ("", None), b"named": ("", "7"), b"keyed": ("k", None)}
    assert json.loads(record_line(letters[b"any"])) == {"data": "any"}
    assert json.loads(record_line(letters[b"named"])) == {"data": "named", "explicit_hash_key": "7"}


def test_an_aggregate_that_is_refused_buries_its_records_as_they_came() -> None:
    rig = rig_of(AGGREGATING, "a map")
    frame = put(rig, *[Record(b"%d" % number, "") for number in range(5)])
    rig.now_ns += 200 * MS
    batch = rig.call()
    assert (len(batch.records), batch.widths) == (1, [5])
    poison: list[RecordResult] = [failed("InvalidArgumentException")]
    rig.answer(batch, poison)
    assert [letter.partition_key for letter in letters_of("s", frame, 0, 1)] == [""] * 5
    assert rig.engine.is_idle


def test_a_record_without_a_key_that_waited_for_a_map_goes_to_any_shard() -> None:
    rig = rig_of(PLAIN, "no map")
    put(rig, Record(b"0", ""), Record(b"1", "k"))
    at_once(rig.engine.take_description(describe(even_shards(4)), rig.now_ns))
    assert rig.engine.audit().queues.packer.keyless_lane.queued_records == 1
    rig.now_ns += 200 * MS
    batch = rig.call()
    (run,) = [run for run in batch.runs if run.is_keyless]
    sent = next(record for record in batch.records if record.data == b"0")
    assert sent.explicit_hash_key == run.lane.hash_key
    rig.answer(batch, [delivered(each.lane.shard_id or "") for each in batch.runs])
