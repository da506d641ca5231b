"""What the simulations gave, as tables: every seed counts, and a miss is said."""

from dataclasses import replace

from bench import fleet, fleet_report
from bench.fleet_picture import PLAN, picture
from bench.fleet_report import Figure
from bench.fleet_sim import Plan, Run, Taken
from kdaemon.sandbox.settings import LimiterKind

WINDOW = LimiterKind.WINDOW


def run_of(plan: Plan, *, per_second: int, throttled: int = 0) -> Run:
    """Every daemon gets the same, all the time; each record is 100 bytes."""
    taken = [
        Taken([per_second] * plan.seconds, [100 * per_second] * plan.seconds, is_large=False)
        for _ in range(plan.daemons)
    ]
    sent = plan.daemons * per_second * plan.seconds + throttled
    return Run(plan, taken, sent, throttled, held_ms=0.0)


def test_one_bad_seed_is_a_miss_whatever_the_median() -> None:
    good = [run_of(Plan(2, WINDOW, seed, 10), per_second=500) for seed in (1, 2)]
    bad = run_of(Plan(2, WINDOW, 3, 10), per_second=400)
    _, reached = fleet_report.fleet_table(good)
    assert reached[-1] == "reached"
    table = fleet_report.fleet_table([*good, bad])
    assert table[1][-1] == "missed: used"
    assert table[1][3] == "80.0% / 100.0% / 100.0% (>= 97.0%)"
    assert fleet_report.misses(table)


def test_runs_that_differ_by_more_than_their_seed_are_rows_of_their_own() -> None:
    plans = [Plan(2, WINDOW, 1, 10), Plan(2, LimiterKind.BUCKET, 1, 10), Plan(8, WINDOW, 1, 10)]
    assert len(fleet_report.fleet_table([run_of(plan, per_second=1) for plan in plans])) == 4


def test_what_was_throttled_is_a_share_of_what_was_sent() -> None:
    run = run_of(Plan(2, WINDOW, 1, 10), per_second=500, throttled=10_000)
    assert run.throttled_share == 0.5
    assert run.used == 1.0


def test_a_figure_without_a_bound_is_never_missed() -> None:
    assert Figure("free", (0.0, 1.0), ".1%").is_met
    assert fleet_report.verdict([Figure("free", (0.0,), ".1%")]) == ""
    assert str(Figure("share", (0.5, 0.25, 0.75), ".0%")) == "25% / 50% / 75%"


def test_all_that_write_runs_has_a_row_of_its_own_and_every_seed() -> None:
    seeds = range(1, 4)
    plans = [plan for _, plans in fleet.whole(seeds) for plan in plans]
    assert len(plans) == len(set(plans))
    assert len(plans) == len({replace(plan, seed=0) for plan in plans}) * len(seeds)
    table = {plan for plan in plans if plan == Plan(plan.daemons, plan.limiter, plan.seed)}
    assert {plan.daemons for plan in table} == {1, 2, 8, 32}


def test_the_picture_is_small_and_tells_every_daemon_and_the_figures() -> None:
    text = picture(run_of(PLAN, per_second=125))
    assert len(text) < 150_000
    assert text.count("<polyline") == 8 + 3, "eight daemons, all together, quota, fair part"
    assert "one joins" in text
    assert "100.0% of it used" in text
