"""A run of the simulated fleet as a picture: what each daemon got over time, and all of them.

Pure. Rates are of the records that the service took, as moving means over 3 seconds.
"""

from pathlib import Path

from bench.fleet_sim import MEAN_S, Plan, Run
from bench.svg import Chart, Line, Panel, moving_mean, steps
from kdaemon.base.limits import SHARD_RECORDS_PER_SECOND
from kdaemon.sandbox.settings import LimiterKind

PATH = Path(__file__).with_name("fleet.svg")
PLAN = Plan(8, LimiterKind.BUCKET, 1, seconds=180, joins_at_s=60, leaves_at_s=120)
"""Seven daemons share a shard; an eighth joins after one minute; the first is gone after two."""


def picture(run: Run) -> str:
    """SVG. Of a run in which the last daemon joins and the first leaves."""
    plan = run.plan
    assert plan.joins_at_s is not None
    assert plan.leaves_at_s is not None
    quota = SHARD_RECORDS_PER_SECOND
    last = plan.daemons - 1
    daemons = []
    for index, taken in enumerate(run.taken):
        role = {0: ", which leaves", last: ", which joins"}.get(index, "")
        since_s = plan.joins_at_s if index == last else 0
        until_s = plan.leaves_at_s + MEAN_S if index == 0 else plan.seconds
        daemons.append(
            Line(
                _rates(taken.records)[since_s:until_s],
                name=f"daemon {index + 1}{role}",
                colour=index,
                is_thick=bool(role),
            )
        )
    fair = [(0, quota / last), (plan.joins_at_s, quota / plan.daemons)]
    fair.append((plan.leaves_at_s, quota / last))
    total = [sum(counts) for counts in zip(*(each.records for each in run.taken), strict=True)]
    return Chart(
        title=f"{plan.daemons} daemons share one shard, without a word between them",
        subtitle=(
            f"Simulated, {plan.limiter.value} limiter, twice the shard's quota on offer: "
            f"{run.used:.1%} of it used, {run.throttled_share:.1%} of the records sent throttled. "
            f"Means over {MEAN_S} s."
        ),
        x_title="seconds",
        panels=[
            Panel(
                "All together, records/s",
                [
                    Line(_rates(total), name="all daemons", is_thick=True),
                    Line([(0, quota), (plan.seconds, quota)], name="quota", is_dashed=True),
                ],
                height=130,
            ),
            Panel(
                "Each daemon, records/s",
                [*daemons, Line(steps(fair, plan.seconds), name="fair part", is_dashed=True)],
                height=260,
            ),
        ],
        marks=[(plan.joins_at_s, "one joins"), (plan.leaves_at_s, "one leaves")],
    ).svg()


def _rates(by_second: list[int]) -> list[tuple[float, float]]:
    """(end of the second, mean)."""
    return [(at + 1, rate) for at, rate in enumerate(moving_mean(by_second, MEAN_S))]
