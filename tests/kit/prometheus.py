"""Prometheus beside the daemon: its programs, if they are here, and what a query names.

`make alerts` puts the programs of Debian's package into `.venv/prometheus`; those on the path do as
well. Nothing here installs anything.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaemon.observe.table import (
    ACCOUNTS,
    AUTH,
    CONFIG,
    CREDENTIALS,
    DELIVERY,
    HOT,
    LISTENER,
    LOG,
    LOOP,
    MEMORY,
    PASSED_ON,
    READINESS,
    SHARD,
    SPOOL,
    STREAM,
    TLS,
    WORKERS,
    Kind,
    Metric,
)
from tests.kit.daemon import get
from tests.kit.patience import wait_for
from tests.kit.tools import find_prometheus

ROOT = Path(__file__).resolve().parents[2]

OF_STREAM = ("upstream", "stream")
SECTIONS: tuple[tuple[tuple[Metric[Any], ...], tuple[str, ...]], ...] = (
    (ACCOUNTS, OF_STREAM),
    (DELIVERY, OF_STREAM),
    (STREAM, OF_STREAM),
    (HOT, (*OF_STREAM, "shard_id")),
    (SHARD, (*OF_STREAM, "shard_id")),
    (LISTENER, ("listener",)),
    (PASSED_ON, ("upstream", "operation")),
    (CREDENTIALS, ("upstream",)),
    (TLS, ()),
    (WORKERS, ("worker",)),
    (CONFIG, ()),
    (READINESS, ()),
    (MEMORY, ()),
    (LOOP, ()),
    (SPOOL, ()),
    (LOG, ()),
    (AUTH, ()),
)
"""The table's sections, and the labels of each."""

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "kdaemon_build_info": ("version",),
    "kdaemon_upstream_info": ("upstream", "service", "region", "account"),
    "process_start_time_seconds": (),
    "process_open_fds": (),
    "process_max_fds": (),
    "process_cpu_seconds_total": (),
    "process_resident_memory_bytes": (),
    "up": (),
}
"""What is on the page and not in the table, and what Prometheus itself makes of a scrape."""

OF_SCRAPE = ("job", "instance")  # labels that Prometheus adds


def labels_of_series() -> dict[str, set[str]]:
    """Every name that a query can ask for, and the labels that its series have."""
    found = {name: {*labels, *OF_SCRAPE} for name, labels in ELSEWHERE.items()}
    for metrics, labels in SECTIONS:
        for metric in metrics:
            own = {*labels, *OF_SCRAPE} | ({metric.label} if metric.label else set())
            if metric.kind is Kind.HISTOGRAM:
                found[metric.name + "_bucket"] = own | {"le"}
                found[metric.name + "_sum"] = found[metric.name + "_count"] = own
            else:
                found[metric.name] = own
    return found


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SERIES = re.compile(r"\b((?:kdaemon|process)_\w+|up(?=\{))\b(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def asked_for(query: str) -> tuple[dict[str, set[str]], set[str]]:
    """What a query asks for: series and the labels of their selectors, and labels of groupings."""
    bare = _STRING.sub('""', query)
    series: dict[str, set[str]] = {}
    for name, selector in _SERIES.findall(_GROUPING.sub(" ", bare)):
        series.setdefault(name, set()).update(_LABEL.findall(selector))
    groupings = {label.strip() for labels in _GROUPING.findall(bare) for label in labels.split(",")}
    return series, groupings - {""}


def values_asked_for(query: str, label: str) -> list[str]:
    """Of this label, in the selectors of a query: `a` and `b` of `label=~"a|b"`."""
    found = re.findall(rf'\b{label}\s*(?:=~|!~|!=|=)\s*"([^"]*)"', query)
    return [each for values in found for each in values.split("|")]


def problems(query: str) -> list[str]:
    """Names of the query that kdaemon has not, or will not have for long."""
    old = {
        each.name: each.text
        for metrics, _ in SECTIONS
        for each in metrics
        if each.text.startswith("The old name of ")
    }
    known = labels_of_series()
    series, groupings = asked_for(query)
    found = [f"no metric {name}" for name in series if name not in known]
    found += [old[name] for name in series if name in old]
    found += [] if series else [f"names no metric: {query}"]
    for name in series.keys() & known.keys():
        found += [f"{name} has no label {each}" for each in series[name] - known[name]]
    have = set().union(*(known.get(name, set()) for name in series))
    return found + [f"nothing there has the label {each}" for each in groupings - have]


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API; fails with what it says."""
        query = urllib.parse.urlencode(parameters)
        _, text = get(f"{self.url}/api/v1/{path}?{query}")
        answer = json.loads(text)
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series that a query has now."""
        result: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return result


@contextlib.contextmanager
def scraping(targets: list[str], *rule_files: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these addresses twice a second, and evaluates these rules."""
    path = find_prometheus()
    assert path is not None, "its tests are marked"
    with tempfile.TemporaryDirectory() as directory:
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(each) for each in rule_files],
            "scrape_configs": [{"job_name": "kdaemon", "static_configs": [{"targets": targets}]}],
        }
        file, log = Path(directory, "prometheus.yml"), Path(directory, "log")
        file.write_text(json.dumps(config))  # JSON is YAML
        arguments = [path, f"--config.file={file}", f"--storage.tsdb.path={directory}/data"]
        arguments += ["--web.listen-address=127.0.0.1:0"]
        with (
            log.open("wb") as output,
            subprocess.Popen(arguments, stderr=output, stdout=output, env=dict(os.environ)) as own,
        ):
            try:
                yield Prometheus("http://" + wait_for(lambda: _address(log, own), "Prometheus"))
            finally:
                own.kill()


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str | None:
    text = log.read_text()
    assert process.poll() is None, text
    found = re.search(r'Listening on"? address=([0-9.:]+)', text)
    return found and found[1]
