"""What an engine's calls are billed, and what aggregates would save."""

from dataclasses import replace

import pytest

from kdaemon.base.billing import Bill, BilledUnit, SentSizes, UnitSizes
from kdaemon.base.counting import StreamCounters
from kdaemon.base.description import Capacity
from kdaemon.base.limits import KIB
from kdaemon.base.record import RecordResult
from kdaemon.base.service import YANDEX
from kdaemon.base.steps import at_once
from kdaemon.settle.billing import aggregation_saves
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import delivered, failed

PROVISIONED, ON_DEMAND, YANDEX_PUT = BilledUnit
LARGE = replace(SETTINGS, record_bytes_max=1 << 20, batch_bytes_max=1 << 20)


def bill_of(rig: Rig) -> Bill:
    return at_once(rig.engine.snapshot(rig.now_ns)).bill


def sent(*sizes: int) -> SentSizes:
    seen = SentSizes()
    seen.see(sizes)
    seen.byte_count = sum(sizes)
    return seen


@pytest.mark.parametrize(
    ("size", "provisioned", "on_demand"),
    [
        (10, 1, 1),
        (KIB, 1, 1),
        (KIB + 1, 1, 2),
        (25 * KIB, 1, 25),
        (25 * KIB + 1, 2, 26),
        (45_000, 2, 44),
    ],
)
def test_each_record_is_rounded_up_by_itself(size: int, provisioned: int, on_demand: int) -> None:
    rig = Rig(LARGE)
    rig.put(1, size=size)
    rig.answer(rig.call())
    assert bill_of(rig).units == {PROVISIONED: provisioned, ON_DEMAND: on_demand * KIB}


def test_yandex_rounds_up_what_a_call_brings_to_a_shard() -> None:
    rig = Rig(replace(LARGE, service=YANDEX, is_shard_atomic=True))
    rig.put(4, size=10 * KIB + 1)
    rig.answer(rig.call())
    assert bill_of(rig) == Bill({YANDEX_PUT: 2}, {}, None)


def test_what_failed_is_billed_when_it_is_delivered() -> None:
    rig = Rig()
    rig.put(3)
    rig.answer(rig.call(), [delivered(), failed(), failed()])
    assert bill_of(rig).units[PROVISIONED] == 1
    rig.wait()
    rig.answer(rig.call())
    assert bill_of(rig).units[PROVISIONED] == 3


def test_what_was_delivered_after_its_client_was_told_is_billed() -> None:
    rig = Rig()
    rig.put(2, deadline_ns=rig.now_ns + 1)
    batch = rig.call()
    rig.now_ns += 2
    rig.engine.handle_timeout(rig.now_ns)
    rig.answer(batch)
    assert bill_of(rig).units[PROVISIONED] == 2


def test_an_aggregate_is_billed_as_it_was_sent_wherever_it_landed() -> None:
    rig = Rig(replace(SETTINGS, aggregate_bytes_max=51_200))
    rig.put(100, size=200)
    batch = rig.call()
    assert len(batch.records) == 1
    rig.answer(batch, [RecordResult("1", "shard-9")])  # nobody knows this shard: it is held
    units = bill_of(rig).units
    kib = -(-len(batch.records[0].data) // KIB)
    assert (units[PROVISIONED], units[ON_DEMAND]) == (1, kib * KIB)


def test_small_records_save_most_of_what_on_demand_bills() -> None:
    """200 B are billed as 1,024; in an aggregate as 212."""
    seen = sent(*[200] * 100_000)
    saved = aggregation_saves(seen, ON_DEMAND, 51_200)
    assert saved == pytest.approx(1 - 212 / 1024, abs=0.005)
    saved = aggregation_saves(seen, PROVISIONED, 51_200)
    assert saved == pytest.approx(1 - 212 / (25 * KIB), abs=0.005)


def test_records_that_are_too_large_for_company_save_nothing() -> None:
    seen = sent(*[100 * KIB] * 50)
    assert aggregation_saves(seen, ON_DEMAND, 51_200) == 0
    half = sent(*[100 * KIB] * 50, *[200] * 5_000)
    saved = aggregation_saves(half, ON_DEMAND, 51_200)
    assert saved == pytest.approx((5_000 - 5_000 * 212 / 1024) / 10_000, abs=0.01)


def test_nothing_is_saved_of_nothing_and_a_single_record_is_no_aggregate() -> None:
    assert aggregation_saves(SentSizes(), ON_DEMAND, 51_200) is None
    assert aggregation_saves(sent(200), YANDEX_PUT, 51_200) is None
    assert aggregation_saves(sent(200), ON_DEMAND, 51_200) == 0


@pytest.mark.parametrize("is_on_demand", [False, True])
def test_the_mode_of_the_stream_says_which_unit_counts(*, is_on_demand: bool) -> None:
    rig = Rig()
    rig.put(1)
    rig.answer(rig.call())
    assert set(bill_of(rig).units) == {PROVISIONED, ON_DEMAND}
    rig.engine.capacity = Capacity(is_on_demand=is_on_demand)
    bill = bill_of(rig)
    assert set(bill.units) == set(bill.saves) == {ON_DEMAND if is_on_demand else PROVISIONED}
    assert bill.record_bytes == 10


def test_who_aggregates_is_not_told_what_aggregates_would_save() -> None:
    rig = Rig(replace(SETTINGS, aggregate_bytes_max=51_200))
    rig.put(10)
    rig.answer(rig.call())
    assert bill_of(rig).saves == {}


SMALLER = UnitSizes(put_payload_kib=2, on_demand_kib=4, yandex_put_kib=3)


def test_units_have_the_sizes_that_are_set() -> None:
    seen, others = SentSizes(SMALLER), SentSizes()
    seen.see([200, 2 * KIB, 2 * KIB + 1, 5 * KIB])
    seen.see_call([3 * KIB, 3 * KIB + 1])
    billed = {PROVISIONED: 1 + 1 + 2 + 3, ON_DEMAND: (1 + 1 + 1 + 2) * 4 * KIB, YANDEX_PUT: 3}
    assert seen.snapshot() == billed
    others.add(seen)
    assert others.snapshot() == billed
    small = SentSizes(SMALLER)
    small.see([200] * 10_000)
    small.byte_count = 2_000_000
    saved = aggregation_saves(small, ON_DEMAND, 51_200)
    assert saved == pytest.approx(1 - 212 / (4 * KIB), abs=0.005)


def test_what_closed_streams_were_billed_is_kept() -> None:
    closed = StreamCounters()
    for sizes in ((200, 30_000), (200,)):
        counters = StreamCounters()
        counters.billed = sent(*sizes)
        counters.billed.see_call([1, 41 * KIB])
        closed.add(counters)
    assert closed.billed.snapshot() == {
        PROVISIONED: 4,
        ON_DEMAND: 32 * KIB,
        YANDEX_PUT: 6,
    }
    assert closed.billed.byte_count == 30_400
