"""deploy/prometheus and deploy/grafana, held to the table of metrics and to the pages they name.

What rules and dashboard say at a real Prometheus: tests/process/test_prometheus.py.
"""

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdaemon.base.counters import DeadReason, DropReason, RefuseReason
from kdaemon.base.verdict import CALL_OUTCOMES
from kdaemon.engine.snapshot import StreamState
from kdaemon.observe.table import TABLE
from tests.kit.prometheus import (
    SECTIONS,
    asked_for,
    labels_of_series,
    problems,
    values_asked_for,
)
from tests.kit.tools import find_prometheus

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "kdaemon.rules.yml"
CASES = RULES.with_name("kdaemon.rules.test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "kdaemon.json"
INDEX = ROOT / "docs" / "troubleshooting.md"
TROUBLES = sorted((ROOT / "docs").glob("trouble-*.md"))
SIZES = ROOT / "docs" / "sizing.md"
VALUES = {
    "outcome": {each.value for each in CALL_OUTCOMES},
    "reason": {each.value for each in RefuseReason},  # of others none is asked for
}
PAGES = sorted((ROOT / "docs").glob("*.md"))


@functools.cache  # who collects the tests asks four times
def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]
    return found


def dashboard_queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    found = [each["expr"] for panel in board["panels"] for each in panel.get("targets", ())]
    return found + [each["expr"] for each in board["annotations"]["list"]]


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> list[str]:
    return [anchor(each) for each in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)]


def test_the_labels_of_every_section_are_known() -> None:
    assert {each.name for some, _ in SECTIONS for each in some} == {each.name for each in TABLE}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_rule_asks_for_what_kdaemon_has(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"critical", "warning"}
    said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert said <= set().union(*labels_of_series().values())


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *dashboard_queries()])
def test_the_values_of_labels_are_those_that_kdaemon_has(query: str) -> None:
    for label, known in VALUES.items():
        assert {*values_asked_for(query, label)} <= known


def test_an_upstream_is_ill_or_not_by_each_outcome_of_a_call() -> None:
    (rule,) = (each for each in rules() if each["alert"] == "KdaemonUpstreamIll")
    named = values_asked_for(rule["expr"], "outcome")
    assert sorted(named) == sorted(each.value for each in CALL_OUTCOMES)


def test_the_page_explains_every_reason() -> None:
    text = "".join(page.read_text() for page in TROUBLES)
    for each in [*RefuseReason, *DeadReason, *DropReason]:
        assert f"`{each.value}`" in text or each is RefuseReason.DRY_RUN, each


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_rule_leads_to_what_is_to_be_done(rule: dict[str, Any]) -> None:
    path, _, section = rule["annotations"]["runbook_url"].partition("#")
    assert section in anchors(ROOT / path)


def test_each_alert_fires_in_a_case_of_its_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    well, ill = cases()
    assert not any(each["exp_samples"] for each in well["promql_expr_test"])
    fires = [str(each["labels"]) for each in ill["promql_expr_test"][0]["exp_samples"]]
    assert fires == [f'{{alertname="{name}", instance="{name}"}}' for name in names]


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["name"]))
def test_the_series_of_the_cases_are_those_that_kdaemon_has(case: dict[str, Any]) -> None:
    known = labels_of_series()
    for each in case["input_series"]:
        name, _, labels = each["series"].partition("{")
        told = set(re.findall(r"(\w+)=", labels))
        assert told - {"worker"} == known[name] - {"worker"}, each  # any, if there are several


def test_a_daemon_that_is_well_has_every_series_that_a_rule_asks_for() -> None:
    there = {each["series"].partition("{")[0] for each in cases()[0]["input_series"]}
    asked = {name for rule in rules() for name in asked_for(rule["expr"])[0]}
    assert asked <= there


@pytest.mark.prometheus
def test_the_rules_do_what_their_cases_say() -> None:
    promtool = find_prometheus("promtool")
    assert promtool is not None
    done = subprocess.run([promtool, "test", "rules", str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("query", dashboard_queries())
def test_the_dashboard_asks_for_what_kdaemon_has(query: str) -> None:
    assert problems(query) == []


GAUGES = {
    StreamState.HOLD: "kdaemon_stream_on_hold",
    StreamState.OFF: "kdaemon_stream_unavailable",
    StreamState.MISSING: "kdaemon_stream_missing",
    StreamState.FAILING: "kdaemon_stream_failing",
    StreamState.UNSEEN: "kdaemon_stream_unseen",
}
FACTS = {"kdaemon_stream_is_on_demand"}  # of what is well either way
NEEDS_SOMEBODY = {StreamState.HOLD, StreamState.OFF, StreamState.UNSEEN}
"""The other states are the client's to mend (a misspelt name), or pass by themselves; an alert
tells of what stays: `KdaemonNothingDelivered`, `KdaemonOldestRecord`."""


def on_the_dashboard() -> set[str]:
    return {name for query in dashboard_queries() for name in asked_for(query)[0]}


@pytest.mark.parametrize("state", [each for each in StreamState if each is not StreamState.OK])
def test_each_state_of_a_stream_has_a_panel_and_where_somebody_must_act_an_alert(
    state: StreamState,
) -> None:
    gauge = GAUGES[state]
    assert gauge in on_the_dashboard()
    queries = [rule["expr"] for rule in rules()]
    assert (state in NEEDS_SOMEBODY) is any(f"({gauge}) == 1" in each[:90] for each in queries)


def test_whatever_is_so_or_not_has_a_panel() -> None:
    told = {each.name for each in TABLE if re.match(r"[01]: ", each.text)}
    assert told - FACTS <= on_the_dashboard()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_who_is_woken_sees_on_the_dashboard_what_the_alert_is_about(rule: dict[str, Any]) -> None:
    assert asked_for(rule["expr"])[0].keys() <= on_the_dashboard()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, f"{panel['title']} stands over another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
    names = {each["name"] for each in board["templating"]["list"]}
    for query in dashboard_queries():
        used = set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"}
        assert used <= names, query


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(kdaemon_no_such_total)", "no metric kdaemon_no_such_total"),
        ('kdaemon_stream_on_hold{shard="1"}', "kdaemon_stream_on_hold has no label shard"),
        ("max by (listener) (kdaemon_stream_on_hold)", "nothing there has the label listener"),
        ("kdaemon_memory_held_bytes", "The old name of kdaemon_memory_bytes: gone with 0.3.0."),
        ("sum by (le) (kdaemon_delivery_seconds)", "no metric kdaemon_delivery_seconds"),
        ("1 > 0", "names no metric: 1 > 0"),
    ],
)
def test_a_wrong_name_is_found(query: str, problem: str) -> None:
    assert problem in problems(query)


def test_each_alert_stands_in_the_section_that_it_leads_to() -> None:
    sections: dict[str, str] = {}
    for page in TROUBLES:
        for text in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
            title, _, body = text.partition("\n")
            sections[f"docs/{page.name}#{anchor(title)}"] = body
    leads_to = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules()}
    for name, section in leads_to.items():
        assert re.search(rf"\b{name}\b", sections[section]), (name, section)
    told = {each for text in sections.values() for each in re.findall(r"\bKdaemon\w+", text)}
    assert told == leads_to.keys(), "the pages name alerts that there are, and all of them"
    index = INDEX.read_text()
    rows = re.findall(r"^\| \[.+\]\(([\w.#-]+)\) \| (.+) \|$", index, re.MULTILINE)
    assert [f"docs/{place}" for place, _ in rows] == in_the_index(sections, index)
    for place, alerts in rows:
        of = {name for name, section in leads_to.items() if section == f"docs/{place}"}
        assert set(re.findall(r"Kdaemon\w+", alerts)) == of, place


def in_the_index(sections: dict[str, str], index: str) -> list[str]:
    """All sections, page after page, in the order of the index's pages."""
    return sorted(sections, key=lambda each: index.index(each.partition("#")[0][5:]))


def test_the_figures_of_the_page_about_sizes_are_those_of_the_bench() -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text()
    page = SIZES.read_text()
    for figure in ("161,271", "0.67", "1.61", "0.005"):
        assert figure in page, figure
        assert figure in results, figure


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_metrics_that_a_page_names_are_there(page: Path) -> None:
    known = labels_of_series()
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    for name in re.findall(r"\bkdaemon_[a-z_]+\w", page.read_text()):
        name = re.sub(r"_by_[a-z]+$", "", name)  # noqa: PLW2901 - of a line for CloudWatch
        assert name in plain | known.keys() or f"{name}_info" in known, name
