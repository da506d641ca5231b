"""The crash test notices what it is there to notice: faults put into a copy of kdaemon.

`make crash-oracle` tries every fault; here each is only put in, and the two are run that a test
without a loss of power and a slow fsync cannot see for certain.
"""

from pathlib import Path

import pytest

from tests.crash.faults import FAULTS, Change, Fault, FaultGoneError, changed, copy_with
from tests.crash.plan import Step
from tests.crash.trial import try_fault

QUICK = (Step("after_commit", is_loss=True), Step("random", is_loss=True))
RUN = ("no fsync of a commit (synchronous = NORMAL)",)


def test_every_fault_can_be_put_into_the_code_as_it_is() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20
    for fault in FAULTS:
        for file, text in changed(fault).items():
            compile(text, file, "exec")


def test_a_fault_whose_text_is_gone_says_its_name(tmp_path: Path) -> None:
    fault = Fault("of old", (Change("spool/store.py", "text that is not there", ""),), ("lost",))
    with pytest.raises(FaultGoneError, match=r"'of old'.*store.py has its text 0 times"):
        copy_with(fault, tmp_path)


@pytest.mark.compiler
@pytest.mark.timeout(900)  # seconds; some 10 on an idle machine with two cores
@pytest.mark.parametrize(
    "fault", [each for each in FAULTS if each.name in RUN], ids=lambda each: each.name
)
async def test_a_fault_is_noticed(tmp_path: Path, fault: Fault) -> None:
    noticed = await try_fault(fault, tmp_path, QUICK)
    print(noticed.line())
    assert noticed.problem is not None, noticed.line()
