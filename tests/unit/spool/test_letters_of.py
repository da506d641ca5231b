"""Why a record is dead is a value, whatever the service's code says."""

from dataclasses import replace
from hashlib import md5

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.base.record import Record
from kdaemon.spool.held import letters_of
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import SECOND, delivered, failed, make_frame


@pytest.mark.parametrize("code", ["Expired", "OutsideRange", "InvalidArgumentException"])
def test_a_record_that_the_service_refuses_is_poison_and_one_that_is_too_old_has_expired(
    code: str,
) -> None:
    rig = Rig(replace(SETTINGS, max_age_ns=1000 * SECOND))
    frame = rig.put(3)
    while True:
        batch = rig.call()
        refused = [failed(code) for _ in batch.records]
        if len(batch.records) == 3:
            rig.answer(batch, [delivered(), failed(code), failed("ThrottlingException")])
        else:
            rig.answer(batch, [*refused[:1], *[failed("ThrottlingException")] * (len(refused) - 1)])
        if rig.counters.dead[DeadReason.POISON]:
            break
        rig.wait()
    rig.now_ns = T + 1001 * SECOND
    rig.poll()
    assert rig.settled() == [frame]
    letters = letters_of("orders", frame, 1, 2)
    assert [(letter.reason, letter.code) for letter in letters] == [
        ("poison", code),
        ("expired", "Expired"),
    ]


def half_of(key: str) -> int:
    """Which of two shards it hashes to."""
    return md5(key.encode(), usedforsecurity=False).digest()[0] >> 7


def test_a_record_that_was_refused_at_the_door_is_not_dead() -> None:
    """Its shard's queue was full, and its client was told so: a letter would bring it back."""
    rig = Rig(replace(SETTINGS, buffer_bytes_max=200_000), shard_count=2)
    other = next(key for key in map(str, range(100)) if half_of(key) != half_of("k"))
    while True:
        frame = make_frame([Record(bytes(9_000), "k"), Record(b"small", other)])
        assert rig.engine.handle_frame(frame, rig.now_ns)
        if frame.results[0] is not None:
            break
    while not rig.engine.is_idle:
        batch = rig.poll()
        if batch is None:
            rig.wait()
        else:
            rig.answer(batch)
    refused, taken = frame.results
    assert refused is not None
    assert refused.error_code == "ProvisionedThroughputExceededException"
    assert taken is not None
    assert taken.is_delivered
    assert letters_of("orders", frame, 1, 2) == []
