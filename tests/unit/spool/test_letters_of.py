"""Why a record is dead is a value, whatever the service's code says."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.spool.held import letters_of
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import SECOND, delivered, failed


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
