"""CloudWatch's Embedded Metric Format, as its specification has it (CloudWatch User Guide,
"Specification: Embedded metric format", 2026-11-28): what CloudWatch would take out of a line.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jsonschema

_PREFIXES = ("", "Kilo", "Mega", "Giga", "Tera")
UNITS = [
    *("Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"),
    *(
        (prefix + unit).capitalize() + per
        for prefix in _PREFIXES
        for unit in ("bytes", "bits")
        for per in ("", "/Second")
    ),
]

_METRIC = {
    "type": "object",
    "required": ["Name"],
    "additionalProperties": False,
    "properties": {
        "Name": {"type": "string", "minLength": 1, "maxLength": 1024},
        "Unit": {"enum": UNITS},
        "StorageResolution": {"enum": [1, 60]},
    },
}
_DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "additionalProperties": False,
    "properties": {
        "Namespace": {"type": "string", "minLength": 1, "maxLength": 255},
        "Dimensions": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "array",
                "maxItems": 30,
                "items": {"type": "string", "minLength": 1, "maxLength": 250},
            },
        },
        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": _METRIC},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": _DIRECTIVE},
            },
        }
    },
}
LINE_BYTES_MAX = 256 * 1024  # of an event of CloudWatch Logs, the older of its two limits


@dataclass(frozen=True)
class EmfLine:
    """`values`, `units`: by metric. `members`: the whole object."""

    labels: dict[str, str]
    values: dict[str, float]
    units: dict[str, str]
    members: dict[str, Any]

    @property
    def stream(self) -> str:
        return self.labels.get("stream", "")


def read_line(text: str | bytes) -> EmfLine:
    """Fails where CloudWatch would take no metrics from it."""
    assert len(text) <= LINE_BYTES_MAX
    line = json.loads(text)
    jsonschema.validate(line, SCHEMA)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    (dimensions,) = directive["Dimensions"]
    labels = {name: line[name] for name in dimensions}
    for value in labels.values():
        assert isinstance(value, str), line
        assert value.strip(), line
        assert value.isascii(), line
        assert len(value) <= 1024, line
    names = [metric["Name"] for metric in directive["Metrics"]]
    assert len(names) == len(set(names))
    values = {name: line[name] for name in names}
    for value in values.values():
        assert isinstance(value, int | float), line
        assert not isinstance(value, bool), line
    return EmfLine(
        labels, values, {each["Name"]: each["Unit"] for each in directive["Metrics"]}, line
    )


def summed(lines: Iterable[EmfLine], **labels: str) -> dict[str, float]:
    """Of the lines with these labels, by metric: what CloudWatch shows as `Sum`."""
    found: dict[str, float] = defaultdict(float)
    for line in lines:
        if labels.items() <= line.labels.items():
            for name, value in line.values.items():
                found[name] += value
    return found
