"""The recount itself: it sees what it is there to see, and excuses what it has to."""

import math

from tests.crash.lag import Lag
from tests.crash.oracle import Call
from tests.crash.process import DAMAGE
from tests.crash.records import POISON_EVERY, Source, is_poison
from tests.crash.verdict import (
    AFTERMATH_S,
    LATE_S,
    PAUSE_REACH_S,
    SETTLE_WINDOW_S,
    Kill,
    Verdict,
    judge_promises,
    judge_repeats,
)
from tests.kit.template import ROOT

KILL_S = 1000.0
POISON = next(number for number in range(POISON_EVERY) if is_poison(number))


def call_of(written_s: float, answered_s: float, *, is_untold: bool = False) -> Call:
    call = Call(1, is_untold=is_untold)
    call.written_at, call.answered_at = written_s, answered_s
    return call


def repeat_of(earlier: Call, pause_s: float = 0.0, at_s: float = KILL_S) -> Verdict:
    """The verdict on record 7, taken by this call and by one long after the kill. `pause_s`: of the
    machine, over at `at_s`.
    """
    verdict, lag = Verdict(), Lag()
    lag.felt(at_s, pause_s)
    later = call_of(KILL_S + 5, KILL_S + 5.1)
    kills = [Kill("random", KILL_S)]
    judge_repeats(verdict, [(7, earlier, later)], [earlier, later], kills, lag)
    return verdict


def test_what_was_promised_and_is_nowhere_is_lost() -> None:
    verdict = Verdict()
    judge_promises(verdict, [1, 2, 3], taken=[1, 3, 4], letters=[])
    assert verdict.lost == [2]
    assert verdict.problems == ["acknowledged and lost: 1: 0.2"]


def test_a_poisoned_record_is_kept_as_a_dead_letter_and_no_other_is() -> None:
    verdict = Verdict()
    judge_promises(verdict, [1, POISON], taken=[1], letters=[POISON])
    assert verdict.problems == []
    judge_promises(verdict, [1, 2], taken=[1], letters=[2])
    assert verdict.problems == ["dead, and nothing is wrong with it: 1: 0.2"]


def test_a_record_is_buried_once_and_not_delivered_as_well() -> None:
    twice, both = Verdict(), Verdict()
    judge_promises(twice, [POISON], taken=[], letters=[POISON, POISON])
    assert twice.problems == ["a record is among the dead letters twice"]
    judge_promises(both, [POISON], taken=[POISON], letters=[POISON])
    assert both.problems == [f"dead and taken: 1: 0.{POISON}"]


def test_an_acknowledgement_counts_once() -> None:
    verdict = Verdict()
    judge_promises(verdict, [1, 1], taken=[1], letters=[])
    assert verdict.problems == ["a record was acknowledged twice"]


def test_an_answer_shortly_before_the_kill_excuses_a_repeat_and_an_older_one_does_not() -> None:
    at_s = KILL_S - SETTLE_WINDOW_S
    excused = repeat_of(call_of(at_s - 0.1, at_s + 0.01))
    assert (excused.problems, excused.long_repeat_count, excused.exposed_count) == ([], 1, 1)
    assert math.isclose(excused.oldest_repeat_s, SETTLE_WINDOW_S - 0.01)
    older = call_of(at_s - 0.1, at_s - 0.01)
    bare = repeat_of(older)
    assert bare.problems[0].startswith("duplicates without an excuse: 1: 0.7: taken again")
    assert repeat_of(older, pause_s=0.02).problems == [], "on a machine that is busy"
    much_older = call_of(at_s - 1.2, at_s - 1.1)
    assert len(repeat_of(much_older, pause_s=0.1).problems) == 1, "and no excuse for all"
    long_ago_s = KILL_S - SETTLE_WINDOW_S - PAUSE_REACH_S - 0.1
    assert len(repeat_of(older, 0.5, long_ago_s).problems) == 1, "nor for another time"


def test_no_answer_before_the_kill_excuses_a_repeat_however_old_the_call() -> None:
    in_flight = repeat_of(call_of(KILL_S - 60, math.inf))
    assert (in_flight.problems, in_flight.short_repeat_count) == ([], 1)


def test_a_call_written_after_the_kill_is_not_excused_by_it() -> None:
    written_s = KILL_S + AFTERMATH_S + 0.01
    assert len(repeat_of(call_of(written_s, written_s + 0.01)).problems) == 1


def test_what_the_service_did_not_say_excuses_a_repeat() -> None:
    untold = repeat_of(call_of(KILL_S - 60, KILL_S - 59, is_untold=True))
    assert (untold.problems, untold.untold_repeat_count) == ([], 1)
    late = repeat_of(call_of(KILL_S - 60, KILL_S - 59 + LATE_S))
    assert (late.problems, late.untold_repeat_count) == ([], 1)
    single = call_of(KILL_S - 60, KILL_S - 59.9)
    single.untold_ids.add(7)
    assert repeat_of(single).problems == []
    single.untold_ids = {8}
    assert len(repeat_of(single).problems) == 1


def test_an_orderly_end_excuses_only_what_was_in_flight() -> None:
    for answered_s, problem_count in ((KILL_S - 0.1, 1), (math.inf, 0)):
        verdict, earlier = Verdict(), call_of(KILL_S - 1, answered_s)
        later = call_of(KILL_S + 5, KILL_S + 5.1)
        kills = [Kill("stopped", KILL_S, window_s=0.0)]
        judge_repeats(verdict, [(7, earlier, later)], [earlier, later], kills)
        assert len(verdict.problems) == problem_count


def test_a_halt_does_not_hide_the_kill_that_follows() -> None:
    earlier = call_of(KILL_S - 1.3, KILL_S - 1.2)
    halt = Kill("halted", KILL_S - 0.5, is_end=False, window_s=0.1)
    later = call_of(KILL_S + 5, KILL_S + 5.1)
    for kills, problem_count in (([halt, Kill("random", KILL_S)], 0), ([halt], 1)):
        verdict = Verdict()
        judge_repeats(verdict, [(7, earlier, later)], [earlier, later], kills)
        assert len(verdict.problems) == problem_count


def test_the_words_of_damage_are_the_daemons() -> None:
    """Nobody would hear of a defect that is told in other words."""
    code = "".join(path.read_text() for path in (ROOT / "kdaemon" / "spool").glob("*.py"))
    assert [text for text in DAMAGE if f'"{text}"' not in code] == []


def test_a_record_is_the_same_whenever_it_is_made_and_differs_from_all_others() -> None:
    source = Source(5, 3, "orders", can_spread=True)
    numbers = source.take(500)
    assert source.sent_count == 500
    made = [source.make(number) for number in numbers]
    assert made == [Source(5, 3, "orders", can_spread=True).make(number) for number in numbers]
    assert len({sample.data for sample in made}) == 500
    assert any(sample.key == "" for sample in made)
    assert any(sample.explicit_hash_key is not None for sample in made)
    assert any(not sample.key.isascii() for sample in made)
    assert source.make(1) != Source(6, 3, "orders", can_spread=True).make(1)
