"""The daemon beside its peers, in one run: `python -m bench.compare [--write] [--quick]`.

Every scenario carries records to the same local sink. The process under test has a core of its own;
sink, load generator and this harness have the others. Rounds are interleaved (all scenarios, then
all again), each with a fresh process; figures are medians over the rounds.
Invariant: a figure is printed only if the sink counted every record that the scenario says it
delivered. How to read them: README.md beside this file.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from bench import command
from bench.host import burning, choose_cores
from bench.pairs import Pairs
from bench.report import LoneClient, Outcome, Report
from bench.targets import (
    ORDINARY,
    SCENARIOS,
    THIS,
    UNPACED,
    WARM_SHARE,
    Scenario,
    Sink,
    Tree,
    check,
    daemon,
    measure_daemon,
    started_sink,
)
from bench.worker import Worker

_LONE_REQUESTS = 2_000  # requests of the lone synchronous client


def measure_peer(scenario: Scenario, records: int, sink: Sink) -> Outcome:
    """One round of a peer: its own process is the one under test."""
    arguments = ["bench.peers", scenario.arguments, sink.url]
    with Worker(arguments, sink.cores.under_test, ORDINARY) as peer:
        peer.run(records // WARM_SHARE)
        arrived, calls = sink.counts()
        measured = peer.run(records)
        arrived_after, calls_after = sink.counts()
        check(scenario.title, measured.result, arrived_after - arrived)
        return Outcome(
            records=measured.result["records"],
            seconds=measured.result["seconds"],
            cpu_s=measured.cpu_s,
            records_per_call=measured.result["records"] / (calls_after - calls),
            peak_rss_bytes=peer.peak_rss_bytes() - measured.result["held_bytes"],
            startup_cpu_s=peer.startup_cpu_s,
        )


def measure_lone_client(requests: int, sink: Sink, tree: Tree = THIS) -> LoneClient:
    """One synchronous PutRecord client: straight to the sink, and through the daemon."""

    def request_ms(tcp_port: int) -> tuple[float, float]:
        arguments = ["bench.load", "put_record", "--tcp", str(tcp_port), "--connections", "1"]
        with Worker(arguments, sink.cores.load, ORDINARY) as client:
            client.run(requests // WARM_SHARE)
            result = client.run(requests).result
        check("the lone client", result)
        return result["latency_ms_p50"], result["latency_ms_p99"]

    with daemon(sink.url, UNPACED, sink.cores.under_test, tree=tree) as running_one:
        return LoneClient(request_ms(sink.port), request_ms(running_one.port))


def run_all(chosen: list[Scenario], options: argparse.Namespace) -> Report:
    """All scenarios, interleaved; tells each figure as it comes."""
    load_before = os.getloadavg()[0]
    if load_before > 0.5:
        print(f"Others use this machine (load average {load_before:.1f}): trust ratios, no rates.")
    with started_sink("--map", options.map_mode) as sink:
        if not sink.cores.is_separated:
            print("This machine has one core: the process under test shares it with sink and load.")
            print("CPU seconds still mean something; records/s and latency do not.")

        def measure(scenario: Scenario) -> Outcome:
            how = partial(measure_daemon, is_idle_first=True)
            return (how if scenario.is_daemon else measure_peer)(
                scenario, scenario.records // options.share, sink
            )

        outcomes = command.interleaved(
            options.rounds,
            chosen,
            measure,
            lambda scenario, seen: f"{scenario.title}: {seen.us_per_record:,.2f} us/rec",
        )
        lone = None
        if any(scenario.is_daemon for scenario in chosen):
            lone = measure_lone_client(_LONE_REQUESTS // options.share, sink)
    return Report(
        {scenario.name: scenario.title for scenario in chosen},
        {scenario.name: seen for scenario, seen in outcomes.items()},
        lone,
        sink.cores,
        options.rounds,
        options.map_mode,
        load_before,
    )


def run_pairs(chosen: list[Scenario], options: argparse.Namespace) -> Pairs:
    """Each scenario by the version in `options.pair` and by this one, in turn; tells each pair's
    ratio as it comes.
    """
    trees = (Tree("old", options.pair.absolute()), Tree("new"))
    pairs = Pairs({each.name: each.title for each in chosen}, os.getloadavg()[0])
    with started_sink() as sink:
        for _ in range(options.rounds):
            for each in chosen:
                before, now = (
                    measure_daemon(each, each.records // options.share, sink, tree=tree)
                    for tree in trees
                )
                pairs.add(each.name, before.records_per_cpu_s, now.records_per_cpu_s)
                command.tell(pairs.last(each.name))
            before_ms, now_ms = (
                measure_lone_client(_LONE_REQUESTS // options.share, sink, tree).added_ms_p50
                for tree in trees
            )
            pairs.lone_ms.append((before_ms, now_ms))
    return pairs


def measure(options: argparse.Namespace) -> str:
    """The part of RESULTS.md that was asked for."""
    chosen = [one for one in SCENARIOS if not options.only or one.name in options.only]
    under_test = choose_cores(os.sched_getaffinity(0)).under_test
    with burning(int(options.half_core), under_test):
        if options.pair is None:
            return run_all(chosen, options).markdown()
        return run_pairs([one for one in chosen if one.is_daemon], options).markdown()


def main() -> int:
    parser = command.arguments(
        "compare", "The daemon beside its peers, in one run.", is_written=True
    )
    parser.add_argument("--map", choices=("static", "none"), default="static", dest="map_mode")
    parser.add_argument(
        "--only",
        action="append",
        choices=[scenario.name for scenario in SCENARIOS],
        help="this scenario alone; may be given again",
    )
    parser.add_argument(
        "--pair",
        type=Path,
        metavar="OLD",
        help="a checkout of another version (or the Python of an environment that has one): both in"
        " turn, old, new, old, new, and the median of the pairs' ratios",
    )
    parser.add_argument(
        "--half-core",
        action="store_true",
        help="the process under test has half a core: else a daemon that is cheaper than the load"
        " waits for requests, puts fewer into a call, and seems to cost what the load does",
    )
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
