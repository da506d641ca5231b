"""The table of differences: the sandbox may not stand alone without a reason."""

from tests.contract.differences import ALONE, DIFFERENCES

OTHERS = {"moto", "kinesalite", "kinesis_local"}


def test_where_all_others_differ_there_is_a_reason_and_only_there() -> None:
    assert {case for case, services in DIFFERENCES.items() if set(services) >= OTHERS} == set(ALONE)


def test_the_sandbox_has_no_difference_to_excuse() -> None:
    assert [case for case, services in DIFFERENCES.items() if "sandbox" in services] == []
