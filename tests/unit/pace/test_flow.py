"""The circuit around whole calls: every transition, legal and not."""

import itertools

import pytest

from kdaemon.pace.backoff import Backoff
from kdaemon.pace.flow import Flow, FlowMove, FlowState
from tests.kit.frames import LoadedDice

OPEN, WAITING, PROBING = FlowState.OPEN, FlowState.WAITING, FlowState.PROBING
SENT, SUCCEEDED, FAILED = FlowMove.SENT, FlowMove.SUCCEEDED, FlowMove.FAILED

LEGAL = {
    (OPEN, SENT): OPEN,
    (OPEN, SUCCEEDED): OPEN,
    (OPEN, FAILED): WAITING,
    (WAITING, SENT): PROBING,
    (WAITING, SUCCEEDED): WAITING,
    (WAITING, FAILED): WAITING,
    (PROBING, SUCCEEDED): OPEN,
    (PROBING, FAILED): WAITING,
}
ILLEGAL = [pair for pair in itertools.product(FlowState, FlowMove) if pair not in LEGAL]
BACKOFF = Backoff(100, 800)
DICE = LoadedDice(0.0)  # waits of 50, 100, 200, 400


def flow_in(state: FlowState) -> Flow:
    flow = Flow()
    flow.state = state
    flow.failure_count = 3
    flow.resume_at_ns = 77
    return flow


def make(move: FlowMove, flow: Flow) -> None:
    """Of the call that is the probe, if one is out."""
    is_probe = flow.state is PROBING
    if move is SENT:
        flow.sent()
    elif move is SUCCEEDED:
        flow.succeeded(is_probe=is_probe)
    else:
        flow.failed(BACKOFF, 0, DICE, is_probe=is_probe)


@pytest.mark.parametrize(("state", "move"), LEGAL)
def test_legal_moves_lead_where_the_table_says(state: FlowState, move: FlowMove) -> None:
    flow = flow_in(state)
    make(move, flow)
    assert flow.state is LEGAL[state, move]


@pytest.mark.parametrize(("state", "move"), ILLEGAL)
def test_illegal_moves_raise_and_change_nothing(state: FlowState, move: FlowMove) -> None:
    flow = flow_in(state)
    with pytest.raises(KeyError):
        make(move, flow)
    assert (flow.state, flow.failure_count, flow.resume_at_ns) == (state, 3, 77)


def test_only_a_second_call_beside_the_probe_is_illegal() -> None:
    assert ILLEGAL == [(PROBING, SENT)]
    flow = flow_in(PROBING)
    with pytest.raises(KeyError):
        flow.sent()
    assert flow.state is PROBING


def test_an_open_stream_sends_at_any_time_and_no_call_is_a_probe() -> None:
    flow = Flow()
    assert flow.may_send(0)
    assert flow.next_send_ns() == 0
    assert not flow.sent()


def test_a_failure_stops_the_stream_until_its_backoff_is_over_and_then_one_call_probes() -> None:
    flow = Flow()
    flow.failed(BACKOFF, 1000, DICE, is_probe=False)
    assert flow.next_send_ns() == 1050
    assert not flow.may_send(1049)
    assert flow.may_send(1050)
    assert flow.sent()
    assert not flow.may_send(10**18), "only the probe's outcome can tell"
    assert flow.next_send_ns() is None


def test_the_probes_success_opens_the_stream_and_forgets_the_failures() -> None:
    flow = flow_in(PROBING)
    flow.succeeded(is_probe=True)
    assert flow.state is OPEN
    assert flow.failure_count == 0


def test_failed_probes_wait_longer_and_longer_up_to_the_last() -> None:
    flow = Flow()
    flow.failed(BACKOFF, 0, DICE, is_probe=False)
    waits = [flow.resume_at_ns]
    for _ in range(5):
        now_ns = flow.resume_at_ns
        assert flow.sent()
        flow.failed(BACKOFF, now_ns, DICE, is_probe=True)
        waits.append(flow.resume_at_ns - now_ns)
    assert waits == [50, 100, 200, 400, 400, 400]


def test_many_calls_that_fail_together_are_one_failure() -> None:
    flow = Flow()
    for now_ns in range(1000, 1016):
        flow.failed(BACKOFF, now_ns, DICE, is_probe=False)
    assert flow.failure_count == 1
    assert flow.resume_at_ns == 1050


@pytest.mark.parametrize("state", [WAITING, PROBING])
def test_older_calls_say_nothing_of_a_stopped_stream(state: FlowState) -> None:
    for outcome in ("succeeded", "failed"):
        flow = flow_in(state)
        if outcome == "succeeded":
            flow.succeeded(is_probe=False)
        else:
            flow.failed(BACKOFF, 10_000, DICE, is_probe=False)
        assert (flow.state, flow.failure_count, flow.resume_at_ns) == (state, 3, 77)


def test_a_success_between_failures_makes_the_next_one_the_first() -> None:
    flow = flow_in(OPEN)
    flow.succeeded(is_probe=False)
    flow.failed(BACKOFF, 1000, DICE, is_probe=False)
    assert flow.failure_count == 1
